"""A polite end of the process, where nobody follows a run: what it wrote for itself is removed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["ENDS", "politely"]

ENDS: Final = (signal.SIGTERM, signal.SIGHUP)
"""A batch system's end, and that of a terminal which is closed."""


@contextmanager
def politely() -> Iterator[None]:
    """Leave as after an error where the process is asked to end: folders of rows are then removed.

    What is ignored stays so: a run under `nohup` outlives its terminal.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = [number for number in ENDS if signal.getsignal(number) is signal.SIG_DFL]
    for number in usual:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)
