"""A run begins in a directory of its own: what somebody else keeps there is never written over."""

from pathlib import Path

from archipelago.core.errors import JournalError
from archipelago.journal.schema import DATABASE

__all__ = ["refuse_occupied"]

_SHOWN = 3
"""Names that the error gives."""


def refuse_occupied(directory: Path) -> None:
    """Refuse a directory that holds anything but what a start that was cut short leaves there.

    Raises:
        JournalError: it names the first things found.
    """
    names = sorted(path.name for path in directory.iterdir() if not _ours(path))
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise JournalError(
            "a run needs a directory of its own: this one holds other files",
            got=", ".join(names[:_SHOWN]) + more,
            where=str(directory),
            fix="give --out a new or an empty directory",
        )


def _ours(path: Path) -> bool:
    """Return whether a start leaves this: its lock, an empty store, half a database."""
    if path.is_symlink():
        return False
    if path.name == "lock":  # empty, or the number of the process that held it
        if not path.is_file():
            return False
        text = path.read_bytes()[:32].strip()
        return not text or text.isdigit()
    if path.name == "blobs":
        return path.is_dir() and not any(path.iterdir())
    return path.name.startswith(f".{DATABASE}.new")
