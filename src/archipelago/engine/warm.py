"""Start the fork server early: it imports torch while the coordinator does. Imports no torch."""

import multiprocessing
from multiprocessing import forkserver

__all__ = ["warm"]


def warm(*modules: str) -> None:
    """Start the process that workers are forked from, if it does not run yet.

    Args:
        modules: what it imports beside the worker, once, for all workers.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["archipelago.engine.worker", *modules])
    forkserver.ensure_running()
