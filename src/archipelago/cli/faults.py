"""A known error is one message and exit status 2, no traceback."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from archipelago.cli.printing import say
from archipelago.core.errors import ArchipelagoError

__all__ = ["spoken"]


@contextmanager
def spoken() -> Iterator[None]:
    """Print known errors and leave with status 2; a defect of ours keeps its trace.

    Warnings meant for users are one line, each time; others keep their place in the code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A character that the terminal's encoding lacks is shown as an escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        with _warned():
            yield
    except ArchipelagoError as error:
        _fail(str(error))
    except OSError as error:
        # A path of the user's that cannot be used; anything else is a defect and keeps its trace.
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        fix = "check that it exists and that you may use it, or name another"
        _fail(f"{os.fsdecode(error.filename)}: {error.strerror}\n  fix: {fix}")


@contextmanager
def _warned() -> Iterator[None]:
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if category is UserWarning:
                say(f"warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *place)

        warnings.showwarning = show
        # Twice in the same words is two losses, which Python would say once.
        warnings.filterwarnings("always", message="a worker was lost")
        yield


def _fail(message: str) -> None:
    say(f"error: {message}", file=sys.stderr)
    sys.exit(2)
