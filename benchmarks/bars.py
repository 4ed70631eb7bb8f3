"""What every benchmark prints: one JSON line a bar, and the intervals behind it."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

__all__ = ["bar", "interval", "show", "write"]


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t interval of the mean of `values` (at least two)."""
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def bar(
    name: str, value: float, target: float, *, most: bool = False, **more: Any
) -> dict[str, Any]:
    """Return one bar: `value` must reach `target`, or with `most` not exceed it.

    Args:
        name: what was measured, on what.
        value: what came out.
        target: from the issue that set it.
        most: the target is an upper limit.
        more: what a reader needs beside it, e.g. `seeds`, `source`.
    """
    holds = value <= target if most else value >= target
    return {"bar": name, "value": round(value, 6), "target": target, "holds": bool(holds), **more}


def show(line: dict[str, Any]) -> dict[str, Any]:
    """Print a line at once, as JSON, and return it."""
    print(json.dumps(line), flush=True)
    return line


def write(path: Path | None, lines: Sequence[dict[str, Any]]) -> None:
    """Keep the lines in a file, one a row."""
    if path is not None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
