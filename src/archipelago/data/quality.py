"""A verdict on each silo's table from aggregates alone: what to mend before a search.

Missing and constant columns, doubled rows, rows that contradict each other, columns that differ
from the other silos', columns that alone give the label. Each is a suspicion with its number; a
person decides.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from archipelago.data.answers import FEW
from archipelago.data.classes import is_number
from archipelago.data.statistics import WILD, Agreed, Answers, Clients, merged, wild

__all__ = ["ASKED", "Finding", "judge"]

ASKED = (
    "counts of doubled rows, and of each column how well it alone gives the label (a share of rows "
    "or a correlation)"
)
"""What leaves a silo for a verdict on its table, beyond what columns are agreed on with."""

_MISSING, _DRIFT, _LEAK, _DOUBLE, _CONFLICT = 0.3, 1.0, 0.995, 0.05, 0.02
_ONE_SIDED = 0.98
"""Share of the commonest label from which on any column seems to give it."""
_APART = 0.5
"""Total variation distance of a silo's categories from everybody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One suspicion.

    Attributes:
        silo: whose rows; "all silos" where it concerns every one.
        column: empty where it concerns rows.
        what: `missing`, `infinite`, `constant`, `duplicates`, `label noise`, `drift`, `leak`,
            `spread`, `one label`, `lone class`, `spellings`.
        amount: a share of rows; of a numeric column's drift, standard units; of its spread, what
            its deviation exceeds, in the middle silo's; of a leak, the share of rows whose label it
            gives, or its correlation with a numeric target.
        advice: what to look at.
    """

    silo: str
    column: str
    what: str
    amount: float
    advice: str

    @property
    def size(self) -> str:
        """`amount` as people read it: `+3.2 sd` or `41%`."""
        if self.what == "drift" and abs(self.amount) > 1:
            return f"{self.amount:+.1f} sd"
        if self.what == "spread":
            return f"over {self.amount:.0f} x"
        return f"{self.amount:.0%}"


def judge(clients: Clients, schemas: Answers, agreed: Agreed | None) -> tuple[Finding, ...]:
    """Judge what the clients have said; of tables, ask them once more, for counts of their rows.

    Args:
        clients: asked in place; the cost is in their meter.
        schemas: what each said of its columns and labels.
        agreed: the columns of tables; None of anything else.
    """
    findings: list[Finding] = []
    if agreed is not None:
        used = [column for column in agreed.columns if not column.dropped]
        numeric = [column for column in used if column.kind != "category"]
        findings += _of_columns(schemas)
        findings += _drift(agreed.answers, [column.name for column in numeric])
        findings += _spread(agreed.answers, [column.name for column in numeric])
        findings += _apart(agreed.answers, [c.name for c in used if c.kind == "category"])
        told = {column.name: {"kind": column.kind, "order": column.order} for column in numeric}
        findings += _of_rows(clients.ask({"ask": "quality", "columns": told}), schemas)
    return (*findings, *_lone_classes(schemas), *_spellings(schemas))


def _of_columns(schemas: Answers) -> list[Finding]:
    out: list[Finding] = []
    for silo, said in schemas:
        for column, seen in said["columns"].items():
            share = 1 - seen["present"] / seen["rows"]
            if share > _MISSING and not seen.get("withheld"):
                out.append(_finding(silo, column, "missing", share, "ask how it is recorded there"))
            if infinite := seen.get("infinite", 0):
                advice = "infinite values are treated as missing: a division by zero?"
                out.append(_finding(silo, column, "infinite", infinite / seen["rows"], advice))
            if seen["distinct"] == 1:
                share = seen["present"] / seen["rows"]
                out.append(
                    _finding(silo, column, "constant", share, "it says nothing at this silo")
                )
    return out


def _drift(moments: Answers, columns: Sequence[str]) -> list[Finding]:
    """Compare each silo's mean with the middle silo's, in deviations within silos."""
    advice = "another unit, device or population? the mean is this many deviations off"
    out: list[Finding] = []
    for column in columns:
        held = [(silo, said[column]) for silo, said in moments if said[column][0]]
        if len(held) < 2:
            continue
        # The pooled deviation holds the shift itself: with two silos nothing would exceed it.
        parts = [part for _, part in held]
        within = (sum(squares for *_, squares in parts) / sum(n for n, *_ in parts)) ** 0.5
        deviation = within or merged(parts)[2]
        means = [mean for _, mean, _ in parts]
        for silo, (_, here, _) in held:
            rest = means if len(held) > 2 else [mean for mean in means if mean != here]
            away = here - median(rest or means)
            if abs(away) > _DRIFT * deviation:
                out.append(_finding(silo, column, "drift", away / deviation, advice))
    return out


def _spread(moments: Answers, columns: Sequence[str]) -> list[Finding]:
    """Name silos that vary far more than the others: one value far out is enough, and hides drift.

    It moves the mean and the deviation that everybody is told.
    """
    advice = "values far out, or another unit? its deviation is so many times that elsewhere"
    return [
        _finding(moments[place][0], column, "spread", WILD, advice)
        for column in columns
        for place in sorted(wild([said[column] for _, said in moments]))
    ]


def _apart(answers: Answers, columns: Sequence[str]) -> list[Finding]:
    """Compare a silo's shares of categories with everybody's, as far as they may be named."""
    out: list[Finding] = []
    for column in columns:
        tallies = [
            (silo, Counter({**said[column]["named"], "": said[column]["other"]}))
            for silo, said in answers
        ]
        pooled = sum((tally for _, tally in tallies), Counter[str]())
        for silo, tally in tallies:
            # Where nothing may be named, all is "other", and would seem to be another population.
            if not tally.total() - tally[""] or tally.total() == pooled.total():
                continue
            apart = sum(
                abs(tally[word] / tally.total() - count / pooled.total())
                for word, count in pooled.items()
            )
            if apart / 2 > _APART:
                advice = "other categories than elsewhere: another population, or another spelling?"
                out.append(_finding(silo, column, "drift", apart / 2, advice))
    return out


def _of_rows(quality: Answers, schemas: Answers) -> list[Finding]:
    out: list[Finding] = []
    counts = {silo: said["rows"] for silo, said in schemas}
    for silo, said in quality:
        rows = max(1, counts[silo])
        if (share := said["duplicates"] / rows) > _DOUBLE:
            out.append(_finding(silo, "", "duplicates", share, "the same person twice?"))
        if (share := said["conflicts"] / rows) > _CONFLICT:
            advice = "equal rows have different labels: label noise, or too few columns"
            out.append(_finding(silo, "", "label noise", share, advice))
    return [*out, *_leaks(quality, schemas)]


def _leaks(quality: Answers, schemas: Answers) -> Iterator[Finding]:
    """Yield columns that alone give the label, at every silo or at some."""
    rows = {silo: said["rows"] for silo, said in schemas}
    for column in schemas[0][1]["columns"]:
        told: dict[str, float] = {}
        copied = {s: seen["correlation"].get(column, 0.0) for s, seen in quality}
        for silo, said in quality:
            given = [said[how][column] for how in ("purity", "apart") if column in said[how]]
            if given and said["base"] < _ONE_SIDED:
                told[silo] = max(given)
        for amounts, advice in (
            (told, "it alone gives the label: was it written down after the outcome?"),
            (copied, "it follows the target like a copy: was it computed from the outcome?"),
        ):
            high = {silo: amount for silo, amount in amounts.items() if amount > _LEAK}
            if high and len(high) == len(amounts) and 2 * len(high) > len(quality):
                yield _finding("all silos", column, "leak", min(high.values()), advice)
                continue
            rest = {silo: 1 - said["base"] for silo, said in quality}
            for silo, amount in high.items():
                # Of few rows, or few beside the commonest label, a column gives it by chance.
                if rows[silo] >= FEW and (amounts is copied or rest[silo] * rows[silo] >= FEW / 4):
                    yield _finding(silo, column, "leak", amount, advice)


def _lone_classes(schemas: Answers) -> list[Finding]:
    if len(schemas) < 2:
        return []
    holders: dict[str, list[str]] = {}
    for silo, said in schemas:
        for label in said.get("labels", {}):
            holders.setdefault(label, []).append(silo)
    advice = "all its rows have {!r}: no score that compares labels is defined there"
    constant = [
        _finding(silo, "", "one label", 1.0, advice.format(*said["labels"]))
        for silo, said in schemas
        if len(said.get("labels", ())) == 1 and not said.get("unnamed")
    ]
    constant += [
        _finding(silo, "", "one label", 1.0, "its target never varies")
        for silo, said in schemas
        if said.get("target", [0])[0] > 1 and said["target"][2] == 0
    ]
    return constant + [
        _finding(
            silos[0], "", "lone class", 1.0, f"only this silo has {label!r}: others cannot check it"
        )
        for label, silos in sorted(holders.items())
        if len(silos) == 1
    ]


def _spellings(schemas: Answers) -> Iterator[Finding]:
    """Yield classes that differ in case or in zeros only: codes, or one class written twice."""
    rows: Counter[str] = Counter()
    for _, said in schemas:
        rows.update(said.get("labels", {}))
    alike: dict[str | float, list[str]] = {}
    for label in sorted(rows):
        alike.setdefault(float(label) if is_number(label) else label.casefold(), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            few = sum(rows.values()) and min(rows[name] for name in names) / sum(rows.values())
            listed = " and ".join(map(repr, names))
            advice = f"{listed} are different classes here; if they are one, set data.label_map"
            yield _finding("all silos", "", "spellings", few, advice)


def _finding(silo: str, column: str, what: str, amount: float, advice: str) -> Finding:
    return Finding(silo=silo, column=column, what=what, amount=float(amount), advice=advice)
