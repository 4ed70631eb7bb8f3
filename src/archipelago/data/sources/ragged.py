"""Series that differ in length, in one array without objects: padded, with their lengths beside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from archipelago.core.errors import DataError

__all__ = ["LENGTHS", "check_lengths", "filled_up", "trimmed"]

LENGTHS = "lengths"
"""Name of the array in an NPZ."""


def check_lengths(lengths: np.ndarray, rows: int, steps: int, where: str) -> None:
    """Refuse lengths that are not a whole number from 1 to `steps` for each of `rows` series."""
    shaped = lengths.shape == (rows,) and lengths.dtype.kind in "iu"
    if not shaped or not ((lengths >= 1) & (lengths <= steps)).all():
        between = f", from {lengths.min()} to {lengths.max()}" if shaped else ""
        raise DataError(
            "lengths do not fit the series",
            got=f"{lengths.dtype} {lengths.shape}{between}",
            where=f"{where}, array {LENGTHS!r}",
            fix=f"give {rows} whole numbers from 1 to {steps}: steps that were recorded",
        )


def filled_up(
    loaded: Sequence[dict[str, np.ndarray]], axis: int, silos: Sequence[str]
) -> np.ndarray | None:
    """Pad each silo's array `x` to the longest silo's steps, in place.

    Args:
        loaded: the arrays of each silo.
        axis: of the steps in `x`.
        silos: names, for messages.

    Returns:
        int64 `[rows of all silos]`, steps that were recorded; None where all silos have one
        length and none has an array of lengths.
    """
    steps = [arrays["x"].shape[axis] for arrays in loaded]
    if len(set(steps)) == 1 and not any(LENGTHS in arrays for arrays in loaded):
        return None
    out: list[np.ndarray] = []
    for arrays, own, silo in zip(loaded, steps, silos, strict=True):
        x = arrays["x"]
        lengths = arrays.get(LENGTHS, np.full(len(x), own))
        check_lengths(lengths, len(x), own, f"silo {silo!r}")
        width = [(0, 0)] * x.ndim
        width[axis] = (0, max(steps) - own)
        arrays["x"] = np.pad(x, width)
        out.append(lengths.astype(np.int64))
    return np.concatenate(out)


def trimmed(x: Any, lengths: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut padding that every series has; return the rest, and lengths where they still differ.

    Args:
        x: `[rows, channels, steps]`; anything else is refused.
        lengths: recorded steps of each row, `[rows]`.
        where: for messages.
    """
    if not isinstance(x, np.ndarray) or x.ndim != 3:
        raise DataError(
            "only series have lengths",
            where=f"{where}, array {LENGTHS!r}",
            fix="leave it out, or set data.modality = 'series'",
        )
    check_lengths(lengths, len(x), x.shape[2], where)
    longest = int(lengths.max())
    whole = bool((lengths == longest).all())
    return x[:, :, :longest], None if whole else lengths.astype(np.int64)
