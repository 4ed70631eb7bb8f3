"""The silos' data before there is a run: what they hold, and the verdict on each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.data.labels import targets_of, untold_targets
from archipelago.data.partition import Classes, Dirichlet, Iid, Natural, Quantity
from archipelago.data.preparation import Column
from archipelago.data.prepare import Source, agreed_classes, floor_of, owned_by_clients, unnamed
from archipelago.data.preprocess import Preprocess
from archipelago.data.quality import Finding, judge
from archipelago.data.releases import Withheld, withheld_lines
from archipelago.data.split import Split
from archipelago.data.statistics import Answers, Clients, agree_columns, merged
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.data.windows import Windows

__all__ = ["Inspection", "inspect"]

_FEW = 10
_TAIL = 2.2
"""Standard deviations a half interquartile range; normal 1.5, exponential 1.8, lognormal 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What the silos hold, from aggregates.

    Attributes:
        rows_by_silo: train rows by name.
        labels: rows by label over all silos; empty for a regression.
        findings: suspicions, in the order of silos and columns.
        reading: what was made of labels that silos write differently; empty where they do not.
        notes: columns that will not be used, and why.
        columns: of a table, as silos agreed on them.
        tails: numeric columns of which a few values lie far out.
        shape: of a network's input, without the batch.
        outputs: classes, labels, or 1.
        meter: what asking cost.
        withheld: what silos did not tell, for want of rows.
        floor: fewest rows behind what they told; 0 where the set is published.
    """

    rows_by_silo: Mapping[str, int]
    labels: Mapping[str, int]
    findings: tuple[Finding, ...]
    reading: str
    notes: tuple[str, ...]
    columns: tuple[Column, ...]
    tails: tuple[str, ...]
    shape: tuple[int, ...]
    outputs: int
    meter: tuple[MeterRow, ...]
    withheld: tuple[Withheld, ...] = ()
    floor: int = 0

    @property
    def said(self) -> tuple[str, ...]:
        """Return `withheld` in sentences."""
        return tuple(withheld_lines(self.withheld, self.floor))


def inspect(
    source: Source,
    partition: Iid | Dirichlet | Classes | Quantity | Natural,
    split: Split,
    task: Classification | MultiLabel | Regression,
    *,
    seed: Seed,
    windows: Windows | None = None,
    preprocess: Preprocess | None = None,
) -> Inspection:
    """Ask every client for aggregates over its train rows, and judge them.

    With `windows`, rows are windows of recordings; `preprocess` has the floor.

    Raises:
        DataError: silos disagree on a column or on the classes, or a column cannot be read.
    """
    how = preprocess or Preprocess()
    floor = floor_of(source, how)
    exact = how.label_counts
    owned = owned_by_clients(
        source.load(), partition, split, task, seed, windows=windows, floor=floor, exact=exact
    )
    clients = Clients(owned.local, [c for c in range(len(owned.names)) if c not in owned.held])
    schemas = clients.ask({"ask": "schema"})
    lexicon = agreed_classes(task, schemas, owned, source=source, partition=partition)
    lost: tuple[Withheld, ...] = ()
    if lexicon is not None and (floor > 1 or not owned.separator):
        lost = tuple(unnamed(owned, lexicon))
    if lexicon is not None:
        schemas = lexicon.named(schemas)
    elif isinstance(task, Regression):
        targets_of(task, schemas, owned.raw.target)
        clients.withheld += untold_targets(schemas, owned.raw.label or "the target")
    table = isinstance(owned.raw.x, Mapping)
    agreed = agree_columns(clients, schemas, replace(how, scaling="robust")) if table else None
    findings = judge(clients, schemas, agreed)
    columns = agreed.columns if agreed else ()
    numeric = [column for column in columns if not column.dropped and column.kind != "category"]
    width = sum(len(column.features) for column in columns)
    return Inspection(
        rows_by_silo={name: said["rows"] for name, said in schemas},
        labels=dict(zip(lexicon.names, lexicon.counts, strict=True)) if lexicon else {},
        reading=lexicon.reading if lexicon else "",
        findings=findings,
        notes=agreed.notes if agreed else (),
        columns=columns,
        tails=tuple(_tails(numeric, agreed.answers, schemas)) if agreed else (),
        shape=(width,) if columns else owned.raw.shape,
        outputs=len(lexicon.names) if lexicon else 1,
        meter=tuple(clients.meter),
        withheld=(*owned.withheld, *lost, *clients.withheld),
        floor=floor,
    )


def _tails(columns: Sequence[Column], answers: Answers, schemas: Answers) -> Iterator[str]:
    for column in columns:
        if max(said["columns"][column.name]["distinct"] for _, said in schemas) <= _FEW:
            continue  # a code or a count of few values has no tail
        _, _, deviation = merged([said[column.name] for _, said in answers])
        if column.kind == "number" and deviation > _TAIL * column.scale:
            yield column.name
