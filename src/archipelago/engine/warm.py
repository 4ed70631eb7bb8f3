"""Start the fork server early: it imports torch while the coordinator does. Imports no torch."""

import multiprocessing
from multiprocessing import forkserver

__all__ = ["warm"]

PRELOAD = (
    "archipelago.engine.worker",
    "archipelago.client.tasks",
    "archipelago.client.workplace",
    "archipelago.data.shards",
)
"""What it imports once, for all workers: names, so that nothing is imported here."""


def warm() -> None:
    """Start the process that workers are forked from, if it does not run yet; returns at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    forkserver.ensure_running()
