"""How long recordings become rows of one length: the same in training and in `predict`. NumPy."""

from dataclasses import dataclass

import numpy as np

from archipelago.core.checks import at_least, one_of
from archipelago.core.errors import DataError

__all__ = ["REMAINDERS", "Windows", "windows_of"]

REMAINDERS = ("last", "drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Windows of `length` steps, one every `stride` steps, from a recording's first step on.

    Attributes:
        length: steps of a window: what the network takes.
        stride: steps from the start of one window to the next one's.
        remainder: what becomes of steps after the last whole window: `last` cuts one window more,
            which ends where the recording ends; `drop` leaves them out.
    """

    length: int
    stride: int
    remainder: str = "last"

    def __post_init__(self) -> None:
        at_least("preprocess.window", self.length, 1)
        at_least("preprocess.stride", self.stride, 1)
        one_of("preprocess.remainder", self.remainder, REMAINDERS)

    def starts(self, steps: int) -> np.ndarray:
        """Return where the windows of a recording of `steps` steps begin, int64 `[windows]`."""
        even = np.arange(0, steps - self.length + 1, self.stride, dtype=np.int64)
        end = steps - self.length
        if self.remainder == "last" and len(even) and even[-1] < end:
            return np.append(even, end)
        return even

    def cut(
        self, x: np.ndarray, lengths: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return all windows `[windows, channels, length]`, row by row, and how many each row gave.

        Args:
            x: recordings `[rows, channels, steps]`.
            lengths: steps of each that were recorded, `[rows]`; the rest is padding. None: all.
        """
        steps = np.full(len(x), x.shape[2]) if lengths is None else lengths
        starts = {int(many): self.starts(int(many)) for many in np.unique(steps)}
        counts = np.array([len(starts[many]) for many in steps.tolist()], np.int64)
        out = np.empty((counts.sum(), x.shape[1], self.length), x.dtype)
        first = np.cumsum(counts) - counts
        for many, begin in starts.items():
            rows = np.flatnonzero(steps == many)
            for turn, start in enumerate(begin.tolist()):
                out[first[rows] + turn] = x[rows, :, start : start + self.length]
        return out, counts

    def check(
        self, x: np.ndarray, lengths: np.ndarray | None, *, where: str, whose: str, fix: str
    ) -> None:
        """Refuse recordings that are shorter than a window.

        Args:
            x: see `cut`, as for `lengths`.
            where: the file or data set.
            whose: whose window it is, for the message: "the model's".
            fix: what to do, with `{shortest}` for the steps of the shortest recording.
        """
        steps = np.full(len(x), x.shape[2]) if lengths is None else lengths
        short = steps < self.length
        if short.any():
            shortest = int(steps.min())
            raise DataError(
                f"a recording is shorter than {whose} window of {self.length} steps",
                got=f"{int(short.sum())} of {len(x)} recordings, the first is row "
                f"{int(short.argmax())}; the shortest has {shortest} steps",
                where=where,
                fix=fix.format(shortest=shortest),
            )


def windows_of(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the numbers of all windows of some recordings, recording by recording.

    Args:
        rows: numbers of recordings, in any order.
        counts: windows of each of all recordings, as `Windows.cut` returns them.
    """
    many = counts[rows]
    inside = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return np.repeat((np.cumsum(counts) - counts)[rows], many) + inside
