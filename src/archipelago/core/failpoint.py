"""Named instants at which a test may have the process killed, as a power cut would."""

import os
import signal
from collections import Counter
from typing import Final

__all__ = ["VARIABLE", "failpoint"]

VARIABLE: Final = "ARCHIPELAGO_FAILPOINT"

# How often each armed name was passed. Filled only while a test has set the variable.
_hits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL where `ARCHIPELAGO_FAILPOINT` is `name:count` and this is
    the `count`-th time (from 1) that `name` is passed; otherwise do nothing, in a microsecond.
    `name:count:group` kills its whole process group, workers included.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    target, count, *group = wanted.split(":")
    if target != name:
        return
    _hits[name] += 1
    if _hits[name] == int(count):
        if group == ["group"]:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
