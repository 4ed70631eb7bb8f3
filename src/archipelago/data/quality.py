"""A verdict on each silo's table from aggregates alone: what to mend before a search.

Missing and constant columns, doubled rows, rows that contradict each other, columns that differ
from the other silos', columns that alone give the label. Each is a suspicion with its number; a
person decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.data.partition import Classes, Dirichlet, Iid, Natural, Quantity
from archipelago.data.prepare import Source, own
from archipelago.data.preprocess import Preprocess
from archipelago.data.split import Split
from archipelago.data.statistics import Clients, agree_columns, merged
from archipelago.data.tasks import Classification, MultiLabel, Regression

__all__ = ["Finding", "Inspection", "inspect"]

_MISSING, _DRIFT, _LEAK, _DOUBLE, _CONFLICT = 0.3, 1.0, 0.995, 0.05, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One suspicion.

    Attributes:
        silo: whose rows; "all silos" where it concerns every one.
        column: empty where it concerns rows.
        what: `missing`, `constant`, `duplicates`, `label noise`, `drift`, `leak`, `lone class`.
        amount: a share of rows, or standard units for drift.
        advice: what to look at.
    """

    silo: str
    column: str
    what: str
    amount: float
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What the silos hold, from aggregates.

    Attributes:
        rows_by_silo: train rows by name.
        labels: rows by label over all silos; empty for a regression.
        findings: suspicions, in the order of silos and columns.
        notes: columns that will not be used, and why.
        meter: what asking cost.
    """

    rows_by_silo: Mapping[str, int]
    labels: Mapping[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    meter: tuple[MeterRow, ...]


def inspect(
    source: Source,
    partition: Iid | Dirichlet | Classes | Quantity | Natural,
    split: Split,
    task: Classification | MultiLabel | Regression,
    *,
    seed: Seed,
) -> Inspection:
    """Ask every client for aggregates over its train rows, and judge them.

    Raises:
        DataError: silos disagree on a column, or a column cannot be read.
    """
    owned = own(source.load(), partition, split, task, seed)
    clients = Clients(owned.local, [c for c in range(len(owned.names)) if c not in owned.held])
    schemas = clients.ask({"ask": "schema"})
    findings: list[Finding] = []
    notes: tuple[str, ...] = ()
    if isinstance(owned.raw.x, Mapping):
        columns, notes = agree_columns(clients, schemas, Preprocess())
        numeric = {
            c.name: {"kind": c.kind, "order": c.order}
            for c in columns
            if not c.dropped and c.kind != "category"
        }
        moments = clients.ask({"ask": "columns", "columns": numeric, "floor": 1})
        findings += _of_columns(schemas)
        findings += _drift(moments, tuple(numeric))
        findings += _of_rows(clients.ask({"ask": "quality"}), schemas)
    findings += _lone_classes(schemas)
    labels: dict[str, int] = {}
    for _, said in schemas:
        for label, count in said.get("labels", {}).items():
            labels[label] = labels.get(label, 0) + count
    return Inspection(
        rows_by_silo={name: said["rows"] for name, said in schemas},
        labels=labels,
        findings=tuple(findings),
        notes=notes,
        meter=tuple(clients.meter),
    )


_Answers = Sequence[tuple[str, Mapping[str, Any]]]


def _of_columns(schemas: _Answers) -> list[Finding]:
    out: list[Finding] = []
    for silo, said in schemas:
        for column, seen in said["columns"].items():
            share = 1 - seen["present"] / seen["rows"]
            if share > _MISSING:
                out.append(_finding(silo, column, "missing", share, "ask how it is recorded there"))
            if seen["distinct"] == 1:
                share = seen["present"] / seen["rows"]
                out.append(
                    _finding(silo, column, "constant", share, "it says nothing at this silo")
                )
    return out


def _drift(moments: _Answers, columns: Sequence[str]) -> list[Finding]:
    out: list[Finding] = []
    for column in columns:
        _, mean, deviation = merged([said[column] for _, said in moments])
        for silo, said in moments:
            count, here, _ = said[column]
            if count and deviation and abs(here - mean) > _DRIFT * deviation:
                amount = (here - mean) / deviation
                advice = "another unit, device or population? the mean is this many deviations off"
                out.append(_finding(silo, column, "drift", amount, advice))
    return out


def _of_rows(quality: _Answers, schemas: _Answers) -> list[Finding]:
    out: list[Finding] = []
    for (silo, said), (_, schema) in zip(quality, schemas, strict=True):
        rows = max(1, schema["rows"])
        if (share := said["duplicates"] / rows) > _DOUBLE:
            out.append(_finding(silo, "", "duplicates", share, "the same person twice?"))
        if (share := said["conflicts"] / rows) > _CONFLICT:
            advice = "equal rows have different labels: label noise, or too few columns"
            out.append(_finding(silo, "", "label noise", share, advice))
    for column in schemas[0][1]["columns"]:
        told = [
            (said["purity"][column], said["base"])
            for _, said in quality
            if column in said["purity"]
        ]
        if told and min(p for p, _ in told) > _LEAK and min(b for _, b in told) < 0.98:
            amount = min(p for p, _ in told)
            advice = "it alone gives the label: was it written down after the outcome?"
            out.append(_finding("all silos", column, "leak", amount, advice))
    return out


def _lone_classes(schemas: _Answers) -> list[Finding]:
    if len(schemas) < 2:
        return []
    holders: dict[str, list[str]] = {}
    for silo, said in schemas:
        for label in said.get("labels", {}):
            holders.setdefault(label, []).append(silo)
    return [
        _finding(
            silos[0], "", "lone class", 1.0, f"only this silo has {label!r}: others cannot check it"
        )
        for label, silos in sorted(holders.items())
        if len(silos) == 1
    ]


def _finding(silo: str, column: str, what: str, amount: float, advice: str) -> Finding:
    return Finding(silo=silo, column=column, what=what, amount=float(amount), advice=advice)
