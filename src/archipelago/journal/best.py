"""`best/` always holds one whole winner: the old one or the new one."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from archipelago.core.failpoint import failpoint
from archipelago.journal.files import Buffer, flush_folder, guarded, write_aside

__all__ = ["replace_best", "swept_best"]


_ASIDE = ".best.tmp"


def swept_best(directory: Path) -> None:
    """Remove what an interrupted `replace_best` left; for the holder of the run's lock."""
    link = directory / "best"
    current = os.readlink(link) if link.is_symlink() else ""
    for folder in directory.glob("best-*"):
        if folder.name != current and folder.name.removeprefix("best-").isdigit():
            shutil.rmtree(folder)
    (directory / _ASIDE).unlink(missing_ok=True)


def replace_best(directory: Path, files: Mapping[str, Buffer]) -> Path:
    """Write `files` to a new folder `best-<n>`, then let the link `best` point to it.

    Returns:
        The link. What an interrupted call left behind is removed by the next one.
    """
    link = directory / "best"
    with guarded(directory, link):
        current = os.readlink(link) if link.is_symlink() else ""
        swept_best(directory)
        fresh = directory / f"best-{int(current.rpartition('-')[2] or 0) + 1}"
        fresh.mkdir()
        for name, data in files.items():
            write_aside(fresh / name, [data])
        flush_folder(fresh)
        atomic_file = directory / _ASIDE
        atomic_file.symlink_to(fresh.name)
        failpoint("best-before")
        atomic_file.replace(link)
        flush_folder(directory)
        failpoint("best-after")
        if current:
            shutil.rmtree(directory / current, ignore_errors=True)
    return link
