"""A million registered clients over the rows of a few homes: rows are drawn when asked for.

The rows of a real data set are dealt to *homes* as in any other partition: each has train,
validation and sealed test rows of its own. A registered client lives in one home and its rows are a
draw from that home's. Sizes and homes are two small mapped files; nothing else grows with the
number of clients.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from archipelago.core.atomic import private
from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.data.partition import LEAST, Dirichlet, Natural
from archipelago.data.shards import Sealed, Several, Shards, Signature, TestRows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Fleet", "FleetShards", "Population"]

_ABOUT = "fleet.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Many registered clients over few homes; natural sizes are heavy-tailed.

    A client's rows are drawn with replacement from its home's train rows: a simulation of a
    population, made from a real sample. A few clients, the panel, validate and test: their rows are
    drawn from their homes' validation and test rows, which nobody trains on.

    Attributes:
        clients: registered.
        homes: between which the rows of the data set are dealt; 0 keeps its natural owners.
        alpha: label skew between homes, as in `dirichlet`.
        rows: train rows of the median client.
        spread: standard deviation of the logarithm of the rows; 0 gives everybody the same.
        most: largest number of rows; the tail is cut there.
        panel: clients that validate and test.
        least: rows a home needs.

    References:
        Bonawitz et al. 2019, arXiv:1902.01046 (populations of devices); Hsu et al. 2019,
        arXiv:1909.06335, section 2 (label skew).
    """

    kind: Literal["fleet"] = "fleet"
    clients: int = 10_000
    homes: int = 50
    alpha: float = 1.0
    rows: int = 30
    spread: float = 1.0
    most: int = 1000
    panel: int = 100
    least: int = LEAST

    def __post_init__(self) -> None:
        between("partition.clients", self.clients, 1, 2**31 - 1)
        at_least("partition.homes", self.homes, 0, fix="0 keeps the natural owners")
        between("partition.alpha", self.alpha, 0, 1e9, open_low=True)
        at_least("partition.rows", self.rows, 1)
        between("partition.spread", self.spread, 0, 5)
        at_least("partition.most", self.most, self.rows, fix="the tail is cut above the median")
        at_least("partition.least", self.least, 3, fix="train, validation and test need a row each")
        if not 1 <= self.panel <= self.clients:
            raise ConfigError(
                "the panel is some of the clients",
                got=self.panel,
                where="partition.panel",
                fix=f"choose from 1 to {self.clients}",
            )

    @property
    def owners(self) -> Dirichlet | Natural:
        """Return how rows are dealt to homes."""
        if not self.homes:
            return Natural(least=self.least)
        return Dirichlet(clients=self.homes, alpha=self.alpha, least=self.least)

    def settle(self, homes: Shards, seed: Seed) -> "FleetShards":
        """Give every client a home and a size; write both beside the homes' rows."""
        directory = homes.directory
        rng = seed.child("fleet").numpy()
        drawn = rng.lognormal(np.log(self.rows), self.spread, self.clients)
        sizes = np.clip(np.rint(drawn), 1, self.most).astype(np.int32)
        # A home with more rows has more clients, as a city has more phones.
        share = homes.train_rows / homes.train_rows.sum()
        lives = rng.choice(len(share), self.clients, p=share).astype(np.int32)
        panel = np.sort(rng.choice(self.clients, self.panel, replace=False)).tolist()
        np.save(private(directory / "fleet_sizes.npy"), sizes, allow_pickle=False)
        np.save(private(directory / "fleet_homes.npy"), lives, allow_pickle=False)
        digest = blake2b(homes.fingerprint.encode(), digest_size=16)
        digest.update(sizes.data)
        digest.update(lives.data)
        about = {"seed": [seed.root, *seed.path], "panel": panel}
        digest.update(json.dumps(about).encode())
        about["fingerprint"] = digest.hexdigest()
        private(directory / _ABOUT).write_text(json.dumps(about))
        return FleetShards(directory)


class _Members:
    """Who lives where, with how many rows, and which rows those are."""

    def __init__(self, directory: Path) -> None:
        about = json.loads((directory / _ABOUT).read_text())
        self.sizes = np.load(directory / "fleet_sizes.npy", mmap_mode="r", allow_pickle=False)
        self.homes = np.load(directory / "fleet_homes.npy", mmap_mode="r", allow_pickle=False)
        self.panel: tuple[int, ...] = tuple(about["panel"])
        self.fingerprint: str = about["fingerprint"]
        self._seed = Seed(about["seed"][0], tuple(about["seed"][1:]))

    def draw(self, client: int, split: str, count: int, among: int) -> np.ndarray:
        """Return which of `among` rows of its home are the client's `count`, ascending."""
        rng = self._seed.child("rows", client, split).scratch()
        return np.sort(rng.integers(0, among, count))

    def checked(self, kept: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Return rows to check on, int64 `[clients]`: the panel's, in its homes' proportion."""
        out = np.zeros(len(self.sizes), np.int64)
        members = list(self.panel)
        home = self.homes[members]
        share = kept[home] / np.maximum(train[home], 1)
        out[members] = np.maximum(1, np.rint(self.sizes[members] * share))
        return out


class FleetShards:
    """Rows of every registered client, drawn when asked for; test rows stay sealed.

    Same face as `Shards`; picklable by its path.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def __reduce__(self) -> tuple[type["FleetShards"], tuple[str]]:
        return (FleetShards, (str(self.directory),))

    def __repr__(self) -> str:
        return f"FleetShards({str(self.directory)!r})"

    @cached_property
    def home(self) -> Shards:
        """The homes' rows."""
        return Shards(self.directory)

    @cached_property
    def _members(self) -> _Members:
        return _Members(self.directory)

    def view(self, name: str) -> "FleetShards":
        """Return these: a fleet's rows are prepared in one way only."""
        del name
        return self

    @property
    def signature(self) -> Signature:
        """Modality, shape of a row, and the task."""
        return self.home.signature

    @property
    def clients(self) -> int:
        """Number of registered clients."""
        return len(self._members.sizes)

    @property
    def held_out(self) -> tuple[int, ...]:
        """Nobody: the panel's test rows are sealed as everybody's are."""
        return ()

    @property
    def training(self) -> range:
        """Clients that train: all."""
        return range(self.clients)

    @property
    def scoring(self) -> tuple[int, ...]:
        """The panel, ascending, without those who have too few rows to tell a score of."""
        few = set(self.quiet("validation"))
        return tuple(client for client in self._members.panel if client not in few)

    def quiet(self, split: str) -> tuple[int, ...]:
        """Return who of the panel is not asked for a score on a split, as `Shards.quiet` does."""
        rows = self.validation_rows if split == "validation" else self._test_rows()
        return tuple(c for c in self._members.panel if 0 < rows[c] < self.home.floor)

    @property
    def testing(self) -> int:
        """Number of clients that are asked for a score on their test rows."""
        return len(self._members.panel) - len(self.quiet("test"))

    def _test_rows(self) -> np.ndarray:
        """Numbers of test rows are no secret; the rows are."""
        return FleetTest(self.directory).test_rows

    @property
    def fingerprint(self) -> str:
        """Digest of the homes' bytes and of who holds how many."""
        return self._members.fingerprint

    @property
    def train_rows(self) -> np.ndarray:
        """Rows to train on, int32 `[clients]`, mapped."""
        return self._members.sizes

    @cached_property
    def validation_rows(self) -> np.ndarray:
        """Rows to validate on, int64 `[clients]`: none outside the panel."""
        return self._members.checked(self.home.validation_rows, self.home.train_rows)

    @property
    def sealed(self) -> "FleetSealed":
        """The panel's test rows, shut."""
        return FleetSealed(self.directory)

    def name(self, client: int) -> str:
        """Return what a client is called."""
        width = len(str(self.clients - 1))
        return f"device-{client:0{width}d}"

    def train(self, client: int) -> "tuple[Tensor, Tensor]":
        """Return x and y to train on, as `Shards.train` does."""
        home, rows = self._drawn(client, "train", int(self.train_rows[client]))
        return self.home.some(home, "train", rows)

    def several(self, clients: Sequence[int]) -> Several:
        """Return the train rows of several clients, not yet read, as `Shards.several` does."""
        found = [self._drawn(client, "train", int(self.train_rows[client])) for client in clients]
        return self.home.several([home for home, _ in found], [rows for _, rows in found])

    def validation(self, client: int) -> "tuple[Tensor, Tensor]":
        """Return x and y of one of the panel, to validate on."""
        home, rows = self._drawn(client, "validation", int(self.validation_rows[client]))
        return self.home.some(home, "validation", rows)

    def rows_of(
        self, client: int, sealed: np.ndarray
    ) -> tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return one of the panel's home, and which of its rows it draws; reads none of them.

        Args:
            client: its number.
            sealed: test rows of each home, int64 `[homes]`.

        Returns:
            the home's number, and row numbers within its train, validation and test rows.
        """
        home, train = self._drawn(client, "train", int(self.train_rows[client]))
        validation = self._drawn(client, "validation", int(self.validation_rows[client]))[1]
        count = int(self._members.checked(sealed, self.home.train_rows)[client])
        test = self._members.draw(client, "test", count, int(sealed[home]))
        return home, (train, validation, test)

    def _drawn(self, client: int, split: str, count: int) -> tuple[int, np.ndarray]:
        """Return a client's home and which of its rows are the client's."""
        home = int(self._members.homes[client])
        kept = self.home.train_rows if split == "train" else self.home.validation_rows
        return home, self._members.draw(client, split, count, int(kept[home]))


class FleetTest:
    """The panel's opened test rows. Only `study/` ever holds one."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._members = _Members(self._directory)
        self._homes = TestRows(self._directory)

    def __reduce__(self) -> tuple[type["FleetTest"], tuple[str]]:
        return (FleetTest, (str(self._directory),))

    @cached_property
    def test_rows(self) -> np.ndarray:
        """Test rows, int64 `[clients]`: none outside the panel."""
        return self._members.checked(self._homes.test_rows, Shards(self._directory).train_rows)

    def view(self, name: str) -> "FleetTest":
        """Return these, as `FleetShards.view` does."""
        del name
        return self

    def test(self, client: int) -> "tuple[Tensor, Tensor]":
        """Return x and y of one of the panel's test rows."""
        home = int(self._members.homes[client])
        among = int(self._homes.test_rows[home])
        rows = self._members.draw(client, "test", int(self.test_rows[client]), among)
        return self._homes.test(home, rows)


@dataclass(frozen=True, slots=True)
class FleetSealed:
    """Test rows that cannot be read without the key."""

    directory: Path

    def open(self, key: Any) -> FleetTest:
        """Return the panel's test rows to the holder of a `TestKey`."""
        Sealed(self.directory).open(key)
        return FleetTest(self.directory)


Population = Shards | FleetShards
"""Everybody's rows, whether written one client after another or drawn when asked for."""
