"""Content-addressed bytes: a blob's name is its hash, so equal tensors are stored once."""

import os
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path

from archipelago.core.atomic import atomic_file
from archipelago.core.errors import JournalError
from archipelago.core.failpoint import failpoint
from archipelago.journal.files import Buffer, flush_folder, guarded

__all__ = ["Blobs"]

_DIGEST_BYTES = 20


class Blobs:
    """The files `blobs/ab/<blake2b>` of one run directory.

    `put` flushes the file and renames it; `settle` flushes the folders. A row may name a blob
    only after both.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._root = directory / "blobs"
        self._unsettled: set[Path] = set()

    def path(self, digest: str) -> Path:
        """Return where the blob lies, or would."""
        return self._root / digest[:2] / digest

    def put(self, *buffers: Buffer) -> str:
        """Store the concatenation of `buffers`; return its digest.

        A file that is already there is read back: where it is damaged it is written again.
        """
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        name = blake2b(digest_size=_DIGEST_BYTES)
        for view in views:
            name.update(view)
        digest = name.hexdigest()
        path = self.path(digest)
        failpoint("before-blob")
        with guarded(self._directory, path):
            if not path.parent.is_dir():
                # Never the run's directory, should it be gone.
                self._root.mkdir(0o700, exist_ok=True)
                path.parent.mkdir(0o700, exist_ok=True)
                self._unsettled |= {self._root, self._directory}
            if not (path.is_file() and _digest(path.read_bytes()) == digest):
                with atomic_file(path, mode=0o600) as made:
                    for view in views:
                        made.file.write(view)
            self._unsettled.add(path.parent)
        return digest

    def get(self, digest: str) -> memoryview:
        """Return the bytes, writable and private to the caller.

        Raises:
            JournalError: the file is missing or does not match its name.
        """
        path = self.path(digest)
        try:
            data = bytearray(path.read_bytes())
        except FileNotFoundError as error:
            raise self._unusable("a tensor file is missing", path) from error
        except OSError as error:
            what = f"a tensor file cannot be read ({error.strerror})"
            raise self._unusable(what, path) from error
        if _digest(data) != digest:
            raise self._unusable("a tensor file is corrupt: its bytes do not match its name", path)
        return memoryview(data)

    def settle(self) -> None:
        """Make the names of all blobs put so far durable."""
        with guarded(self._directory, self._root):
            for folder in sorted(self._unsettled):
                flush_folder(folder)
        self._unsettled.clear()

    def sweep(self, keep: Collection[str]) -> int:
        """Delete every blob and unfinished file not in `keep`; return the bytes freed."""
        freed = 0
        with guarded(self._directory, self._root):
            for folder, _, names in os.walk(self._root):
                for name in names:
                    if name not in keep:
                        path = Path(folder, name)
                        freed += path.stat().st_size
                        path.unlink()
        return freed

    def tidy(self) -> None:
        """Delete unfinished files; for the holder of the run's lock."""
        with guarded(self._directory, self._root):
            for path in (*self._root.glob(".*.tmp"), *self._root.glob("*/.*.tmp")):
                path.unlink(missing_ok=True)

    def _unusable(self, what: str, path: Path) -> JournalError:
        return JournalError(
            what,
            where=str(path),
            fix="go back to the previous commit with "
            f"`archipelago resume {self._directory} --previous`",
        )


def _digest(data: Buffer) -> str:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
