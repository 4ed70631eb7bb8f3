"""The client's half of the statistics round: what leaves a silo is computed here, and nowhere else.

Counts, means and squared deviations over the client's train rows; category names that at least
`floor` of its rows share. Never a row, never a minimum or maximum (they are single rows' values).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from archipelago.data.columns import evidence, numbers, texts

__all__ = ["HISTOGRAM", "LocalRows", "answer", "moments"]

HISTOGRAM = 512
"""Bins of a column's histogram; see `bins`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalRows:
    """One client's train rows.

    Attributes:
        client: its number.
        name: its name, for messages.
        x: columns by name, or stored values `[rows, *shape]`.
        labels: canonical class names `[rows]` (text), or None.
        target: numbers `[rows]` of a regression, or None.
        scale: what one unit of stored integers means, a value or one a channel.
        categorical: numeric columns to be read as categories.
        separator: between labels in one field; empty: one label a row.
    """

    client: int
    name: str
    x: np.ndarray | Mapping[str, np.ndarray]
    labels: np.ndarray | None
    target: np.ndarray | None
    scale: np.ndarray
    categorical: frozenset[str] = frozenset()
    separator: str = ""

    @property
    def rows(self) -> int:
        """Number of train rows."""
        kept = self.labels if self.labels is not None else self.target
        return 0 if kept is None else len(kept)


def answer(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what the server asks for: `schema`, `columns` or `histograms`."""
    return {"schema": _schema, "columns": _columns, "histograms": _histograms}[request["ask"]](
        rows, request
    )


def moments(values: np.ndarray) -> list[float]:
    """Return count, mean and sum of squared deviations of the values that are not NaN."""
    kept = values[~np.isnan(values)]
    if len(kept) == 0:
        return [0.0, 0.0, 0.0]
    mean = float(kept.mean())
    return [float(len(kept)), mean, float(((kept - mean) ** 2).sum())]


def bins(values: np.ndarray, shift: float, scale: float) -> np.ndarray:
    """Return each value's bin: even steps of 1/2 + z / 2(1 + |z|) of the scaled value z."""
    z = (values - shift) / scale
    unit = 0.5 + 0.5 * z / (1 + np.abs(z))
    return np.clip((unit * HISTOGRAM).astype(np.int64), 0, HISTOGRAM - 1)


def _schema(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    del request
    out: dict[str, Any] = {"rows": rows.rows}
    if rows.labels is not None:
        words, counts = np.unique(rows.labels, return_counts=True)
        tally: Counter[str] = Counter()
        for word, count in zip(words.tolist(), counts.tolist(), strict=True):
            for label in word.split(rows.separator) if rows.separator else (word,):
                if label:
                    tally[label] += count
        out["labels"] = dict(tally)
    if rows.target is not None:
        out["target"] = moments(rows.target)
    if isinstance(rows.x, Mapping):
        out["columns"] = {
            name: {**evidence(values), "rows": len(values), "named": name in rows.categorical}
            for name, values in rows.x.items()
        }
    else:
        axes = (0, *range(2, rows.x.ndim))
        count = rows.x.size // max(1, rows.x.shape[1])
        mean = rows.x.mean(axis=axes, dtype=np.float64)
        squares = rows.x.var(axis=axes, dtype=np.float64)
        out["channels"] = [
            [count, m * s, v * count * s * s]
            for m, v, s in zip(
                mean.tolist(),
                squares.tolist(),
                np.broadcast_to(rows.scale, mean.shape).tolist(),
                strict=True,
            )
        ]
    return out


def _columns(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    x = _table(rows)
    for name, spec in request["columns"].items():
        if spec["kind"] != "category":
            values = numbers(x[name], spec["kind"], column=name, order=spec["order"])
            out[name] = moments(values)
            continue
        words, counts = np.unique(texts(x[name]), return_counts=True)
        tally = dict(zip(words.tolist(), counts.tolist(), strict=True))
        missing = tally.pop("", 0)
        named = {word: n for word, n in tally.items() if n >= request["floor"]}
        out[name] = {
            "missing": missing,
            "named": named,
            "other": sum(tally.values()) - sum(named.values()),
        }
    return out


def _histograms(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    x = _table(rows)
    for name, spec in request["columns"].items():
        values = numbers(x[name], spec["kind"], column=name, order=spec["order"])
        kept = bins(values[~np.isnan(values)], spec["shift"], spec["scale"])
        out[name] = np.bincount(kept, minlength=HISTOGRAM).tolist()
    return out


def _table(rows: LocalRows) -> Mapping[str, np.ndarray]:
    if isinstance(rows.x, Mapping):
        return rows.x
    raise AssertionError("only tables have columns")
