"""When a device may take part: a daily window, a pure function of client and seed.

Half of the devices charge by night, the others at any hour. About four times as many are then free
in the night as by day, as was reported of real phones.

References:
    Bonawitz et al. 2019, arXiv:1902.01046, section 9 (the diurnal swing).
"""

from typing import Final

import numpy as np

from archipelago.core.seeds import Seed

__all__ = ["DAY", "TRACES", "left", "trace_of", "windows"]

DAY: Final = 86_400.0
"""Seconds."""
TRACES: Final = 256
"""Different windows; each client follows one."""
_HOUR = 3600.0


def trace_of(clients: np.ndarray | int, seed: Seed) -> np.ndarray:
    """Return each client's trace, uint8, in [0, TRACES).

    A million at a time: Steele et al. 2014, doi:10.1145/2660193.2660195 (splitmix64), mixes the
    client's number and the seed.
    """
    with np.errstate(over="ignore"):
        z = np.asarray(clients, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(seed.child("traces").value())
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(TRACES)).astype(np.uint8)


def windows(seed: Seed) -> np.ndarray:
    """Return start and length in seconds of each trace's window, `[TRACES, 2]`."""
    rng = seed.child("windows").numpy()
    night = rng.normal(22.5, 1.5, TRACES)
    start = np.where(np.arange(TRACES) % 2, night, rng.uniform(0, 24, TRACES))
    length = np.clip(rng.normal(8, 1.5, TRACES), 2, 16)
    return np.stack([start * _HOUR % DAY, length * _HOUR], axis=1)


def left(clients: np.ndarray, now: float, seed: Seed) -> np.ndarray:
    """Return the seconds for which each client stays free, 0 where it is not, `[clients]`.

    Args:
        clients: ids.
        now: seconds since the first midnight.
        seed: of the devices, the same all run long.
    """
    start, length = windows(seed)[trace_of(clients, seed)].T
    return np.maximum(0.0, length - (now - start) % DAY)
