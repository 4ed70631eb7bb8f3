"""Measured scores behind one look-up: a benchmark table. No torch: replays start at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archipelago.core.errors import ConfigError, DataError
from archipelago.core.small_files import parsed_json
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.data.sources.readers import read_npz
from archipelago.space.dims import Choice, Part, Range
from archipelago.space.space import Space

__all__ = ["Table"]

Numbers = NDArray[Any]
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Scores of members of a space, measured once.

    Attributes:
        name: what reports call it.
        space: whose members were measured.
        rows: `space.places` of a member -> its row.
        scores: fidelity in (0, 1] -> score of each row after that share of the full training;
            higher is better, NaN where it was not measured. A search sees these only.
        report: score of each row that is reported of the chosen one, never searched on.
        costs: name -> number of each row, lower is better, e.g. `params`, `energy`.

    Raises:
        ConfigError: no full fidelity, or columns of unequal length.
    """

    name: str
    space: Space
    rows: Mapping[tuple[int, ...], int]
    scores: Mapping[float, Numbers]
    report: Numbers
    costs: Mapping[str, Numbers] = field(default_factory=dict[str, Numbers])

    def __post_init__(self) -> None:
        if 1.0 not in self.scores:
            raise ConfigError(
                "a table needs scores at full fidelity",
                got=sorted(self.scores),
                where=self.name,
                fix="give the scores of the longest training under 1.0",
            )
        lengths = {len(c) for c in (*self.scores.values(), self.report, *self.costs.values())}
        if len(lengths) != 1:
            raise ConfigError("a table's columns differ in length", got=lengths, where=self.name)

    @property
    def best(self) -> float:
        """The highest score at full fidelity."""
        return float(np.nanmax(self.scores[1.0]))

    @property
    def ceiling(self) -> float:
        """The highest reported score, which no search on the other scores need reach."""
        return float(np.nanmax(self.report))

    def row(self, arch: Arch) -> int | None:
        """Return the row of `arch`; None where it was not measured."""
        return self.rows.get(self.space.places(arch))

    def reported(self, arch: Arch) -> float:
        """Return the reported score of `arch`; NaN where it was not measured."""
        row = self.row(arch)
        return float("nan") if row is None else float(self.report[row])

    def outcome(self, proposal: Proposal) -> Outcome:
        """Return what a training of `proposal` would have given.

        A member without a row, or with NaN in it, comes back as failed.

        Raises:
            ConfigError: a fidelity at which nothing was measured.
        """
        at = self.scores.get(proposal.fidelity)
        if at is None:
            raise ConfigError(
                "the table holds no scores at this fidelity",
                got=proposal.fidelity,
                where=self.name,
                fix=f"use one of {sorted(self.scores)}",
            )
        row = self.row(proposal.arch)
        score = float("nan") if row is None else float(at[row])
        if row is None or isnan(score):
            return Outcome(
                number=proposal.number,
                arch=proposal.arch,
                score=float("-inf"),
                status="failed",
                reason=f"{self.name} has no measurement of it",
                fidelity=proposal.fidelity,
            )
        return Outcome(
            number=proposal.number,
            arch=proposal.arch,
            score=score,
            costs={name: float(column[row]) for name, column in self.costs.items()},
            fidelity=proposal.fidelity,
        )

    def write(self, path: Path) -> None:
        """Write a table of a space without conditions as plain arrays (`.npz`, no pickle)."""
        names = [slot.name for slot in self.space.slots]
        if any(slot.conditions for slot in self.space.slots):
            raise ConfigError("only tables of spaces without conditions are written", got=names)
        dims = [[s.name, list(s.options), s.ordered] for s in self.space.slots]
        places = np.array(sorted(self.rows, key=lambda p: self.rows[p]), np.int16)
        head = {"format": FORMAT, "name": self.name, "dims": dims, "fidelities": [*self.scores]}
        arrays: dict[str, Any] = {
            "head": np.array(json.dumps(head)),
            "places": places,
            "index": np.array(sorted(self.rows.values())),
            "report": self.report,
            **{f"score{i}": column for i, column in enumerate(self.scores.values())},
            **{f"cost.{name}": column for name, column in self.costs.items()},
        }
        np.savez_compressed(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Table":
        """Read what `write` wrote.

        Raises:
            DataError: no such file, or not a table of this version.
        """
        if not path.exists():
            raise DataError("no such table", where=str(path), fix="check the path")
        try:
            data = read_npz(path)
            head = parsed_json(str(data["head"]))
            if head["format"] != FORMAT:
                raise ValueError(head["format"])
            scores = {f: data[f"score{i}"] for i, f in enumerate(head["fidelities"])}
            index = zip(data["places"].tolist(), data["index"].tolist(), strict=True)
            rows = {tuple(places): row for places, row in index}
            report, costs = data["report"], _costs(data)
            _refuse_misfit(rows, [report, *scores.values(), *costs.values()])
            return cls(
                name=str(head["name"]),
                space=Space({name: _part(options, o) for name, options, o in head["dims"]}),
                rows=rows,
                scores=scores,
                report=report,
                costs=costs,
            )
        except DataError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise DataError(
                "not a table that this version reads", got=str(error), where=str(path)
            ) from error


def _costs(data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix("cost."): c for n, c in data.items() if n.startswith("cost.")}


def _refuse_misfit(rows: Mapping[Any, int], columns: Sequence[np.ndarray]) -> None:
    last = max(rows.values())
    for column in columns:
        if column.ndim != 1 or column.dtype.kind not in "fiu" or not 0 <= last < len(column):
            raise ValueError("a column of measurements does not fit its rows")
        # NaN says that a network was not measured.
        if np.isinf(column).any():
            raise ValueError("a measurement is infinite")


def _part(options: Sequence[Any], ordered: bool) -> Part:
    if not ordered:
        return Choice(tuple(options))
    step = options[1] - options[0] if len(options) > 1 else 1
    return Range(options[0], options[-1], step)
