"""Strategies side by side on a measured table: what `archipelago bench` prints and draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from archipelago.config.catalog import kinds, part
from archipelago.core.checks import at_least, between, one_of
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.driver.replay import Trace, replay
from archipelago.estimate.nasbench201 import nasbench201
from archipelago.estimate.table import Numbers, Table
from archipelago.strategy.base import Strategy

__all__ = [
    "LINE_UP",
    "TABLES",
    "Entry",
    "Row",
    "bench",
    "compared",
    "entry",
    "lines",
    "parse",
    "table_of",
]

TABLES: dict[str, Callable[[], Table]] = {
    "nasbench201-cifar10": lambda: nasbench201("cifar10"),
    "nasbench201-cifar100": lambda: nasbench201("cifar100"),
    "nasbench201-imagenet16": lambda: nasbench201("imagenet16"),
    "nasbench201-cifar100-transfer": lambda: nasbench201("cifar100", selected_on="cifar10"),
    "nasbench201-imagenet16-transfer": lambda: nasbench201("imagenet16", selected_on="cifar10"),
}
"""Published tables by name; `transfer` searches CIFAR-10 validation and reports another test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a comparison.

    Attributes:
        name: what the table calls it.
        family: the lectures' word for how it searches.
        strategy: what is run.
    """

    name: str
    family: str
    strategy: Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What many runs of one strategy gave. Accuracies in the table's unit, higher is better.

    Attributes:
        name: of the strategy.
        family: how it searches.
        settings: its options.
        table: what was searched.
        runs: searches, each with its own seed.
        budgets: full trainings after which it is read, shape `[budgets]`.
        reported: reported score of the best found, one list of runs a budget.
        regret: best score of the table less the best found, mean over runs, shape `[budgets]`.
        curve: mean reported score after every full training, shape `[last budget]`.
        explored: mean share of choices in which a proposal differs from the nearest before it.
        exploited: share of proposals that differ from an earlier one in a single choice.
        thinking: milliseconds of the strategy for each evaluation.
        p: probability of a difference to random search as large by chance (Mann-Whitney, two
            sided, last budget, Holm's correction over the rows); None for random search itself.
    """

    name: str
    family: str
    settings: Mapping[str, Any]
    table: str
    runs: int
    budgets: tuple[int, ...]
    reported: tuple[tuple[float, ...], ...]
    regret: tuple[float, ...]
    curve: tuple[float, ...]
    explored: float
    exploited: float
    thinking: float
    p: float | None = None

    @property
    def means(self) -> tuple[float, ...]:
        """Mean reported score at every budget."""
        return tuple(float(np.nanmean(values)) for values in self.reported)

    @property
    def deviations(self) -> tuple[float, ...]:
        """Standard deviation over runs at every budget; a mean's error is this by root runs."""
        return tuple(float(np.nanstd(values, ddof=1)) for values in self.reported)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: statistics instead of every run."""
        return {
            "strategy": self.name,
            "family": self.family,
            "settings": dict(self.settings),
            "table": self.table,
            "runs": self.runs,
            "budgets": list(self.budgets),
            "mean": [round(v, 4) for v in self.means],
            "sd": [round(v, 4) for v in self.deviations],
            "regret": [round(v, 4) for v in self.regret],
            "explored": round(self.explored, 4),
            "exploited": round(self.exploited, 4),
            "thinking_ms": round(self.thinking, 3),
            "p_random": self.p,
            "curve": [round(v, 3) for v in self.curve],
        }


FAMILIES = {
    "random": "random",
    "grid": "grid",
    "regularized-evolution": "evolution",
    "nsga2": "evolution",
    "local-search": "local search",
    "reinforce": "reinforcement learning",
    "controller": "reinforcement learning",
}

LINE_UP = (
    "random",
    "random:again=true",
    "regularized-evolution",
    "regularized-evolution:again=true",
    "regularized-evolution:population=20,sample=5",
    "regularized-evolution:population=20,sample=5,retire=worst",
    "local-search",
    "local-search:step=best",
    "reinforce",
    "reinforce:optimizer=adam,rate=0.01",
    "controller",
    "tpe:model=choices,good=root,candidates=24",
    "tpe:model=choices",
    "tpe",
    "random-forest",
    "random-forest:choose=improvement,trees=20",
    "bananas",
    "gaussian-process:inputs=choices",
    "gaussian-process",
)
"""What is compared where nothing else is asked for."""


def parse(text: str) -> Entry:
    """Return the entry that `kind` or `kind:option=value,...` names.

    Raises:
        ConfigError: no such kind or option.
    """
    kind, _, rest = text.partition(":")
    one_of("strategy", kind, kinds("strategy"))
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        name, equals, value = pair.partition("=")
        known = part("strategy", kind)
        if not equals or name not in asdict(known) or name == "kind":
            names = ", ".join(sorted(set(asdict(known)) - {"kind"}))
            fix = f"write one of {names} as name=value"
            raise ConfigError("no such option", got=pair, where=kind, fix=fix)
        options[name] = _value(value, getattr(known, name), f"{kind}.{name}")
    return Entry(
        name=text,
        family=FAMILIES.get(kind, "model-based"),
        strategy=part("strategy", kind, **options),
    )


def _value(text: str, like: object, where: str) -> Any:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text]
        if isinstance(like, tuple):
            return tuple(text.split("+"))
        return type(like)(text) if isinstance(like, (int, float)) else text
    except (KeyError, ValueError):
        raise ConfigError(f"takes a {type(like).__name__}", got=text, where=where) from None


def table_of(name: str) -> Table:
    """Return a published table by name, or the one in a file.

    Raises:
        ConfigError: neither a name nor a file.
    """
    if name in TABLES:
        return TABLES[name]()
    if name.endswith(".npz"):
        return Table.read(Path(name))
    one_of("table", name, TABLES)
    raise AssertionError(name)


def bench(
    table: Table,
    entries: Sequence[Entry],
    *,
    runs: int = 100,
    budgets: Sequence[int] = (30, 60, 100),
    batch: int = 1,
    seed: Seed,
    done: Callable[[Row], None] | None = None,
) -> tuple[Row, ...]:
    """Replay every strategy `runs` times.

    Random search without repetition is measured too, for the significance test, and is the first
    row where it is among the entries.

    Args:
        table: what is searched.
        entries: who searches.
        runs: searches of each, with seeds of their own.
        budgets: full trainings after which they are read, ascending.
        batch: proposals asked for at a time.
        seed: root of all.
        done: called with each row as it is finished, its `p` not yet known.
    """
    between("runs", runs, 2, 100_000)
    at_least("budgets", min(budgets, default=0), 1)
    at_least("batch", batch, 1)
    between("budgets", budgets[-1], 1, 1_000_000)
    if list(budgets) != sorted(set(budgets)):
        raise ConfigError("budgets ascend", got=tuple(budgets), where="budgets")
    rows: list[Row] = []
    for item in entries:
        rows.append(entry(table, item, runs=runs, budgets=budgets, batch=batch, seed=seed))
        if done is not None:
            done(rows[-1])
    plain = next((row for row in rows if row.name == "random"), None)
    if plain is None:
        plain = entry(table, parse("random"), runs=runs, budgets=budgets, batch=batch, seed=seed)
    return compared(rows, plain)


def entry(
    table: Table, item: Entry, *, runs: int, budgets: Sequence[int], batch: int, seed: Seed
) -> Row:
    """Return one strategy's row."""
    traces = [
        replay(
            item.strategy,
            table,
            budget=budgets[-1],
            seed=seed.child("bench", run),
            batch=batch,
        )
        for run in range(runs)
    ]
    found = np.array([[trace.found(b) for b in budgets] for trace in traces])
    moves = np.concatenate([trace.explored[1:] for trace in traces])
    single = 1.5 / len(table.space.slots)
    settings = {k: v for k, v in asdict(item.strategy).items() if k != "kind"}  # pyright: ignore[reportArgumentType]
    return Row(
        name=item.name,
        family=item.family,
        settings=settings,
        table=table.name,
        runs=runs,
        budgets=tuple(budgets),
        reported=tuple(tuple(trace.at(b) for trace in traces) for b in budgets),
        regret=tuple(float(v) for v in (table.best - found).mean(axis=0)),
        curve=_curve(traces, budgets[-1]),
        explored=float(moves.mean()),
        exploited=float((moves < single).mean()),
        thinking=1e3 * sum(t.seconds for t in traces) / sum(len(t.scores) for t in traces),
    )


def _curve(traces: Sequence[Trace], last: int) -> tuple[float, ...]:
    values: Numbers = np.array([[t.at(b) for b in range(1, last + 1)] for t in traces])
    with np.errstate(invalid="ignore"):
        return tuple(float(v) for v in np.where(np.isnan(values), 0, values).mean(axis=0))


def compared(rows: Sequence[Row], plain: Row) -> tuple[Row, ...]:
    """Test every row against random search at the last budget, with Holm's correction."""
    raw = {
        row.name: float(mannwhitneyu(row.reported[-1], plain.reported[-1]).pvalue)
        for row in rows
        if row.name != "random"
    }
    corrected: dict[str, float] = {}
    most = 0.0
    for rank, name in enumerate(sorted(raw, key=lambda n: raw[n])):
        most = max(most, min(1.0, raw[name] * (len(raw) - rank)))
        corrected[name] = most
    return tuple(replace(row, p=corrected.get(row.name)) for row in rows)


def lines(rows: Sequence[Row], table: Table) -> Iterator[str]:
    """Yield the results, then the lectures' table: method, space, strategy, cost, error."""
    width = max(len(row.name) for row in rows)
    marks = "  ".join(f"{f'@{b}':>13}" for b in rows[0].budgets)
    yield f"{table.name}: best score {table.best:.3f}, ceiling of the report {table.ceiling:.3f}"
    yield f"{'strategy':{width}}  {marks}  {'regret':>7}  explore  exploit  {'ms':>7}  p(random)"
    for row in sorted(rows, key=lambda r: -r.means[-1]):
        pairs = zip(row.means, row.deviations, strict=True)
        values = "  ".join(f"{mean:7.3f} ±{sd:5.2f}" for mean, sd in pairs)
        chance = "-" if row.p is None else f"{row.p:.1e}"
        yield (
            f"{row.name:{width}}  {values}  {row.regret[-1]:7.3f}  {row.explored:7.3f}"
            f"  {row.exploited:7.3f}  {row.thinking:7.2f}  {chance:>9}"
        )
    yield f"± is the deviation over {rows[0].runs} runs; p: Mann-Whitney with Holm's correction"
    yield ""
    yield f"{'method':{width}}  {'space':22}  {'strategy':22}  {'cost':>10}  error"
    for row in sorted(rows, key=lambda r: -r.means[-1]):
        cost = f"{row.budgets[-1]} nets"
        error = 100 - row.means[-1] if table.ceiling > 1 else 100 * (1 - row.means[-1])
        yield f"{row.name:{width}}  {table.name:22}  {row.family:22}  {cost:>10}  {error:.2f} %"
