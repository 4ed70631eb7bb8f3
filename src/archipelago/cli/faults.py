"""A known error is one message and exit status 2, no traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from archipelago.core.errors import ArchipelagoError

__all__ = ["spoken"]


@contextmanager
def spoken() -> Iterator[None]:
    """Print known errors and leave with status 2; a defect of ours keeps its trace."""
    try:
        yield
    except ArchipelagoError as error:
        _fail(str(error))
    except OSError as error:
        # A path of the user's that cannot be used; anything else is a defect and keeps its trace.
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        _fail(f"{os.fsdecode(error.filename)}: {error.strerror}")


def _fail(message: str) -> None:
    # Names from files may hold escape sequences: a terminal must not obey them.
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    print(f"error: {shown}", file=sys.stderr)
    sys.exit(2)
