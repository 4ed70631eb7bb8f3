"""Rows on disk in the order of their owners: memory-mapped, fetched by client, tiny to pickle."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archipelago.core.atomic import private, private_folder
from archipelago.core.errors import ArchipelagoError, DataError
from archipelago.data.key import TestKey
from archipelago.data.raw import Modality
from archipelago.data.tasks import (
    Classification,
    MultiLabel,
    Regression,
    task_from_json,
    task_to_json,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sealed", "Several", "Shards", "Signature", "TestRows"]

TAKEN = 2 << 20
"""Bytes of rows that are best read at a time: a core's own cache still holds them when they are
trained on, so that they are not fetched from memory twice."""

_CHUNK = 1 << 26
"""Bytes copied at a time when rows are written and hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What every network over these shards must take and give.

    Attributes:
        modality: image, series or table.
        shape: of one row: `(channels, height, width)`, `(channels, steps)` or `(features,)`.
        task: filled in: classes agreed, target scaled.
    """

    modality: Modality
    shape: tuple[int, ...]
    task: Classification | MultiLabel | Regression

    @property
    def outputs(self) -> int:
        """Logits a row."""
        return self.task.outputs


class _Rows:
    """One pair of files, `x` and `y`, cut into spans by offsets. Read-only."""

    def __init__(self, directory: Path, stem: str, affine: tuple[list[float], list[float]]) -> None:
        # Plain views: slicing the class `memmap` costs more than copying a small client's rows.
        self.x = np.asarray(np.load(directory / f"{stem}_x.npy", mmap_mode="r"))
        self.y = np.asarray(np.load(directory / f"{stem}_y.npy", mmap_mode="r"))
        self.offsets = np.load(directory / f"{stem}_offsets.npy", allow_pickle=False)
        self.affine = affine

    def fetch(self, span: int, some: np.ndarray | None = None) -> "tuple[Tensor, Tensor]":
        import torch

        low, high = int(self.offsets[span]), int(self.offsets[span + 1])
        rows = slice(low, high) if some is None else low + some
        return self._inputs(np.array(self.x[rows])), torch.from_numpy(np.array(self.y[rows]))

    def take(self, rows: np.ndarray) -> "tuple[Tensor, Tensor]":
        """Return x and y of rows of the files, of the shape of `rows` and one's own behind it."""
        import torch

        x = self._inputs(self.x.take(rows.reshape(-1), 0))
        return x.view(*rows.shape, *x.shape[1:]), torch.from_numpy(self.y.take(rows, 0))

    def _inputs(self, stored: np.ndarray) -> "Tensor":
        import torch

        x = torch.from_numpy(stored)
        if x.dtype == torch.float32:
            return x
        x = x.to(torch.float32)
        multiply, add = (torch.tensor(values) for values in self.affine)
        channels = (-1, *(1 for _ in x.shape[2:]))
        return x.mul_(multiply.reshape(channels)).add_(add.reshape(channels))


class Several:
    """Train rows of several clients, read from the files when they are taken.

    Attributes:
        counts: rows of each client.
        size: bytes of a row as it is trained on, float32.
        most: bytes that are best taken at a time.
    """

    __slots__ = ("_files", "_numbers", "_starts", "counts", "most", "size")

    def __init__(
        self,
        files: _Rows,
        starts: np.ndarray,
        counts: list[int],
        numbers: np.ndarray | None = None,
    ) -> None:
        """Make a view of `files`.

        Args:
            files: everybody's rows.
            starts: where each client's begin, in the files or in `numbers`.
            counts: rows of each.
            numbers: row numbers in the files, one client's behind another's; None where each
                client's rows lie side by side.
        """
        self._files, self._starts, self._numbers = files, starts, numbers
        self.counts = counts
        self.size, self.most = 4 * prod(files.x.shape[1:]), TAKEN

    def take(self, which: np.ndarray, rows: np.ndarray) -> "tuple[Tensor, Tensor]":
        """Return x and y of some rows, `[k, ..., *shape of one]`.

        Args:
            which: places of k clients.
            rows: row numbers of each, `[k, ...]`, each less than its count, from 0.
        """
        at = rows + self._starts[which].reshape(-1, *(1 for _ in rows.shape[1:]))
        return self._files.take(at if self._numbers is None else self._numbers[at])


class Shards:
    """Train and validation rows of every client; test rows stay sealed.

    Picklable by its path: a worker that receives it maps the same files. Nothing is read before it
    is asked for, and 10,000 clients cost their offsets only.
    """

    __slots__ = ("_about", "_rows", "directory")

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._about: dict[str, Any] | None = None
        self._rows: _Rows | None = None

    def __reduce__(self) -> tuple[type["Shards"], tuple[str]]:
        return (Shards, (str(self.directory),))

    def __repr__(self) -> str:
        return f"Shards({str(self.directory)!r})"

    @property
    def signature(self) -> Signature:
        """Modality, shape of a row, and the task."""
        about = self._described()
        return Signature(
            modality=about["modality"],
            shape=tuple(about["shape"]),
            task=task_from_json(about["task"]),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The clients' names."""
        return tuple(self._described()["names"])

    @property
    def clients(self) -> int:
        """Number of clients, held-out ones included."""
        return len(self._described()["names"])

    @property
    def held_out(self) -> tuple[int, ...]:
        """Clients that never train: they have test rows only."""
        return tuple(self._described()["held_out"])

    @property
    def training(self) -> tuple[int, ...]:
        """Clients that train: all but the held-out ones."""
        held = set(self.held_out)
        return tuple(client for client in range(self.clients) if client not in held)

    @property
    def home(self) -> "Shards":
        """The rows behind every client's: these."""
        return self

    def view(self, name: str) -> "Shards":
        """Return the same rows as they were prepared under `name`; these, where they were not."""
        other = self.directory / name
        return Shards(other) if name and other.is_dir() else self

    @property
    def scoring(self) -> tuple[int, ...]:
        """Clients that validate: those that train and have enough rows to tell a score of."""
        few = set(self.quiet("validation"))
        return tuple(client for client in self.training if client not in few)

    @property
    def testing(self) -> int:
        """Number of clients that are asked for a score on their test rows."""
        offsets = np.load(self.directory / "sealed_offsets.npy", allow_pickle=False)
        return int((np.diff(offsets) > 0).sum()) - len(self.quiet("test"))

    @property
    def floor(self) -> int:
        """Fewest rows behind a score that leaves a client; 0 where the set is published."""
        return self._described().get("floor", 0)

    def quiet(self, split: str) -> tuple[int, ...]:
        """Return the clients that are not asked for a score on a split: their rows are too few."""
        return tuple(self._described().get("quiet", {}).get(split, ()))

    @property
    def fingerprint(self) -> str:
        """Digest of every stored byte and of who owns it: equal data, equal fingerprint."""
        return self._described()["fingerprint"]

    @property
    def train_rows(self) -> np.ndarray:
        """Rows to train on, int64 `[clients]`."""
        return np.diff(self._open().offsets)[0::2]

    @property
    def validation_rows(self) -> np.ndarray:
        """Rows to validate on, int64 `[clients]`."""
        return np.diff(self._open().offsets)[1::2]

    @property
    def sealed(self) -> "Sealed":
        """The test rows, shut."""
        return Sealed(self.directory)

    def train(self, client: int) -> "tuple[Tensor, Tensor]":
        """Return x float32 `[rows, *shape]` and y (int64 `[rows]`, or float32) to train on."""
        return self._open().fetch(2 * client)

    def validation(self, client: int) -> "tuple[Tensor, Tensor]":
        """Return x and y, as `train` does, to validate on."""
        return self._open().fetch(2 * client + 1)

    def several(self, clients: Sequence[int], drawn: Sequence[np.ndarray] | None = None) -> Several:
        """Return the train rows of several clients, not yet read.

        Args:
            clients: whose.
            drawn: which of each one's rows, which may repeat; None takes all.
        """
        files = self._open()
        spans = 2 * np.array(clients)
        starts = files.offsets[spans]
        if drawn is None:
            return Several(files, starts, (files.offsets[spans + 1] - starts).tolist())
        counts = [len(rows) for rows in drawn]
        numbers = np.concatenate([low + rows for low, rows in zip(starts, drawn, strict=True)])
        return Several(files, np.cumsum([0, *counts[:-1]]), counts, numbers)

    def some(self, client: int, split: str, rows: np.ndarray) -> "tuple[Tensor, Tensor]":
        """Return x and y of chosen rows, which may repeat, of `train` or `validation`."""
        return self._open().fetch(2 * client + (split == "validation"), rows)

    def name(self, client: int) -> str:
        """Return what a client is called."""
        return self.names[client]

    def _described(self) -> dict[str, Any]:
        if self._about is None:
            self._about = _about(self.directory)
        return self._about

    def _open(self) -> _Rows:
        if self._rows is None:
            self._rows = _Rows(self.directory, "seen", self._described()["affine"])
        return self._rows

    @classmethod
    def write(
        cls,
        directory: str | Path,
        *,
        signature: Signature,
        names: Sequence[str],
        held_out: Sequence[int],
        x: np.ndarray,
        y: np.ndarray,
        spans: Sequence[Sequence[np.ndarray]],
        affine: tuple[Sequence[float], Sequence[float]],
        floor: int = 0,
        quiet: Mapping[str, Sequence[int]] | None = None,
    ) -> "Shards":
        """Write the files of a new `directory` and open it.

        Args:
            x: all rows, `[rows, *shape]`, float32 or integers as stored.
            y: all targets.
            spans: for each client the row numbers of train, validation and test.
            affine: `multiply` and `add`, one a channel: what turns stored integers into inputs.
            floor: fewest rows behind a score; 0 where the set is published.
            quiet: clients that have fewer rows of a split, by its name.
        """
        home = Path(directory)
        if not home.is_dir():
            home.parent.mkdir(parents=True, exist_ok=True)
            private_folder(home)
        digest = blake2b(digest_size=16)
        seen = [rows for train, validation, _ in spans for rows in (train, validation)]
        for stem, parts in (("seen", seen), ("sealed", [test for _, _, test in spans])):
            offsets = np.cumsum([0, *(len(rows) for rows in parts)], dtype=np.int64)
            rows = np.concatenate(parts).astype(np.int64)
            np.save(private(home / f"{stem}_offsets.npy"), offsets, allow_pickle=False)
            digest.update(offsets.tobytes())
            _write(home / f"{stem}_x.npy", x, rows, digest)
            _write(home / f"{stem}_y.npy", y, rows, digest)
        about = {
            "modality": signature.modality,
            "shape": list(signature.shape),
            "task": task_to_json(signature.task),
            "names": list(names),
            "held_out": list(held_out),
            "affine": [[float(v) for v in values] for values in affine],
        }
        digest.update(json.dumps(about, sort_keys=True).encode())
        about["fingerprint"] = digest.hexdigest()
        # Behind the fingerprint: they follow from the rows and a setting, and change neither.
        about |= {"floor": floor, "quiet": {name: list(few) for name, few in (quiet or {}).items()}}
        private(home / "shards.json").write_text(json.dumps(about))
        return cls(home)


class TestRows:
    """Opened test rows. Only `study/` ever holds one."""

    __slots__ = ("_directory", "_rows")
    __test__ = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rows = _Rows(directory, "sealed", _about(directory)["affine"])

    def view(self, name: str) -> "TestRows":
        """Return the same test rows under another preparation, as `Shards.view` does."""
        other = self._directory / name
        return TestRows(other) if name and other.is_dir() else self

    @property
    def test_rows(self) -> np.ndarray:
        """Test rows, int64 `[clients]`."""
        return np.diff(self._rows.offsets)

    def test(self, client: int, some: np.ndarray | None = None) -> "tuple[Tensor, Tensor]":
        """Return x and y of one client's test rows, or of some of them, which may repeat."""
        return self._rows.fetch(client, some)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Test rows that cannot be read without the key."""

    directory: Path

    def open(self, key: TestKey) -> TestRows:
        """Return the test rows to the holder of a `TestKey`."""
        if not isinstance(key, TestKey):
            raise ArchipelagoError(
                "test rows are sealed",
                got=key,
                fix="only a study opens them, once, after the search and the final training",
            )
        return TestRows(self.directory)


def _about(directory: Path) -> dict[str, Any]:
    try:
        about = json.loads((directory / "shards.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            "prepared rows cannot be read",
            got=str(error),
            where=str(directory),
            fix="prepare the data again",
        ) from None
    if not isinstance(about, Mapping):
        raise DataError("prepared rows cannot be read", where=str(directory))
    return dict(about)


def _write(path: Path, values: np.ndarray, rows: np.ndarray, digest: Any) -> None:
    """Copy `values[rows]` to a new file in chunks, and into `digest`."""
    shape = (len(rows), *values.shape[1:])
    out = np.lib.format.open_memmap(private(path), mode="w+", dtype=values.dtype, shape=shape)
    with path.open("r+b") as file:  # a full disk says so here; a page that is written would kill
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    step = max(1, _CHUNK // max(1, values[:1].nbytes))
    for low in range(0, len(rows), step):
        chunk = np.ascontiguousarray(values[rows[low : low + step]])
        out[low : low + step] = chunk
        digest.update(chunk.data if chunk.size else b"")
    out.flush()
