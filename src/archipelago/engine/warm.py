"""Start the fork server early: it imports torch while the coordinator does. Imports no torch."""

import atexit
import multiprocessing
import os
import tempfile
from multiprocessing import forkserver
from multiprocessing.process import current_process

from archipelago.core.atomic import Scratch

__all__ = ["warm"]

_LONGEST = 56
"""Characters of a folder under which a socket's whole path, of 107 at most, still fits."""
PLACE = "ARCHIPELAGO_PLACE"
"""Environment variable that `engine.nursery` reads: the folder of its socket, or empty."""
PRELOAD = (
    "archipelago.engine.nursery",
    "archipelago.engine.worker",
    "archipelago.client.tasks",
    "archipelago.client.worker",
    "archipelago.data.shards",
)
"""What it imports once, for all workers: names, so that nothing is imported here."""


def warm() -> None:
    """Start the process that workers are forked from, if it does not run yet; returns at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    before = os.environ.get(PLACE)
    os.environ[PLACE] = _place()
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ[PLACE]
        else:
            os.environ[PLACE] = before


def _place() -> str:
    """Return the folder of this process's sockets, under a name that says whose it is.

    Left to itself `multiprocessing` makes `pymp-*`, which stays where its process is killed, and
    which nobody can tell from that of a process which lives. Empty where somebody else made it.
    """
    known = current_process()._config  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    if known.get("tempdir") is None:
        long = len(tempfile.gettempdir()) > _LONGEST
        made = Scratch.made("/tmp" if long else None)  # noqa: S108 - a folder of our own in it
        known["tempdir"] = str(made.path)
        atexit.register(made.remove)
        return known["tempdir"]
    return ""
