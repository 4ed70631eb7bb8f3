"""One root seed, and a named stream for every use of chance.

`seed.child("client", 7, "round", 3)` is the same number on every machine, in any order, whoever
asked before: adding a draw in one place cannot shift another.
"""

import threading
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

import numpy as np

__all__ = ["Seed"]


@dataclass(frozen=True, slots=True)
class Seed:
    """A place in the tree of random streams.

    Example:
        >>> Seed(0).child("client", 7) == Seed(0).child("client").child(7)
        True
        >>> Seed(0).child("client", 7).value() == Seed(0).child("client", 8).value()
        False
    """

    root: int
    path: tuple[str | int, ...] = ()

    def child(self, *names: str | int) -> "Seed":
        """Return the stream named by `names` under this one."""
        return Seed(self.root, (*self.path, *names))

    def value(self) -> int:
        """Return 63 bits: a pure function of `root` and `path`."""
        text = repr((self.root, self.path)).encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1

    def rng(self) -> Random:
        """Return a fresh standard-library generator."""
        return Random(self.value())

    def numpy(self) -> np.random.Generator:
        """Return a fresh counter-based NumPy generator (Philox)."""
        return np.random.Generator(np.random.Philox(key=self.value()))

    def scratch(self) -> np.random.Generator:
        """Return `numpy()` in a quarter of its time, good until this thread asks for another."""
        return _AGAIN.at(self.value())


class _Again(threading.local):
    """A generator a thread that begins anew each time: making one takes longer than its use."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._start = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, key: int) -> np.random.Generator:
        self._start["state"]["key"][0] = key
        self._bits.state = self._start
        return self._generator


_AGAIN = _Again()
