"""Every strategy on NAS-Bench-201: published bands, our best, several objectives, beliefs.

    python benchmarks/strategies.py --write benchmarks/results            # minutes of one core
    python benchmarks/strategies.py --quick

Needs the published tables in ARCHIPELAGO_BENCH. Searches see validation accuracy after 12 epochs;
reported is test accuracy after 200. `strategies.jsonl` holds one row a strategy and table,
`strategies_bars.jsonl` the bars.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bars import bar, show, write
from scipy.stats import mannwhitneyu, spearmanr

from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch
from archipelago.driver.replay import replay
from archipelago.estimate.nasbench201 import proxy
from archipelago.estimate.table import Table
from archipelago.report.bench_figure import draw
from archipelago.space.nasbench201 import cell_features
from archipelago.space.space import Space
from archipelago.strategy.nsga2 import Nsga2
from archipelago.strategy.pareto import hypervolume, losses, nondominated
from archipelago.strategy.pareto_gp import ParEgo
from archipelago.strategy.random import Random
from archipelago.study.analysing.bench import Row, compared, entry, lines, parse, table_of

BUDGETS = (30, 60, 100)
EVOLUTION = "regularized-evolution"
RUNS = {
    "random:again=true": 500,
    "random": 500,
    f"{EVOLUTION}:again=true": 500,
    EVOLUTION: 500,
    f"{EVOLUTION}:population=20,sample=5": 500,
    f"{EVOLUTION}:population=20,sample=5,retire=worst": 500,
    "local-search": 300,
    "local-search:step=best": 200,
    "reinforce": 200,
    "reinforce:optimizer=adam,rate=0.01": 200,
    "controller": 20,
    "tpe:model=choices,good=root,candidates=24": 100,
    "tpe:model=choices": 200,
    "tpe": 200,
    "random-forest": 50,
    "random-forest:choose=improvement,trees=20": 10,
    "bananas": 20,
    "gaussian-process:inputs=choices": 50,
    "gaussian-process": 200,
}
BANDS = {
    "random:again=true": (93.74, 0.36),
    f"{EVOLUTION}:again=true": (93.93, 0.42),
    "random": (93.79, 0.33),
    EVOLUTION: (94.04, 0.30),
    f"{EVOLUTION}:population=20,sample=5,retire=worst": (94.20, 0.24),
    "local-search": (94.17, 0.26),
}
LEAST = {
    "tpe:model=choices,good=root,candidates=24": 94.17 - 0.03,
    "tpe:model=choices": 94.17 - 0.03,
    "tpe": 94.24 - 0.03,
    "bananas": 94.19 - 0.03,
    "random-forest": 94.37 - 0.03,
    "gaussian-process": 94.371 - 0.03,
    "reinforce": 93.79,
    "reinforce:optimizer=adam,rate=0.01": 93.79,
}
OBJECTIVES = ("score", "energy", "params")


@dataclass(frozen=True, slots=True)
class WithRank:
    """The cell's views, and one more: the rank of a number known before training, in [0, 2]."""

    ranks: dict[tuple[int, ...], float]
    space: Space

    def __call__(self, arch: Arch) -> Sequence[Sequence[float]]:
        return (*cell_features(arch), [2 * self.ranks[self.space.places(arch)]])


def ranked(column: Any) -> Any:
    """Return each value's rank in [0, 1)."""
    return np.argsort(np.argsort(column, kind="stable"), kind="stable") / len(column)


def with_rank(table: Table, order: Any) -> Table:
    """Return the table with the ranks in `order` as another view of its space."""
    ranks = {places: float(order[row]) for places, row in table.rows.items()}
    plain = Space(table.space.dims, canonicaliser=table.space.canonicaliser)
    features = WithRank(ranks, plain)
    return replace(table, space=Space(plain.dims, plain.canonicaliser, features))


def measured(table: Table, runs: dict[str, int], budgets: tuple[int, ...] = BUDGETS) -> list[Row]:
    rows = []
    for name, count in runs.items():
        rows.append(entry(table, parse(name), runs=count, budgets=budgets, batch=1, seed=Seed(0)))
        print(f"{table.name} {name}: {rows[-1].means}", flush=True)
    plain = next((row for row in rows if row.name == "random"), rows[0])
    return list(compared(rows, plain))


def bands(rows: Sequence[Row], runs_of_prototypes: int = 200) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        mean, error = row.means[-1], row.deviations[-1] / row.runs**0.5
        beside = {"runs": row.runs, "se": round(error, 4), "sd": round(row.deviations[-1], 3)}
        if row.name in BANDS:
            centre, deviation = BANDS[row.name]
            width = 3 * (deviation**2 / runs_of_prototypes + error**2) ** 0.5
            away = abs(mean - centre)
            what = f"{row.name}: distance to {centre} at 100"
            found.append(bar(what, away, round(width, 4), most=True, mean=round(mean, 4), **beside))
        if row.name in LEAST:
            found.append(bar(f"{row.name} at 100", mean, round(LEAST[row.name], 4), **beside))
    return found


def ours(rows: dict[str, Sequence[Row]]) -> list[dict[str, Any]]:
    (best,) = [row for row in rows["nasbench201-cifar10"] if row.name == "gaussian-process"]
    found = [
        bar(f"gaussian-process at {budget}", mean, least, runs=best.runs, sd=round(sd, 3))
        for budget, mean, sd, least in zip(
            BUDGETS, best.means, best.deviations, (93.95, 94.34, 94.36), strict=True
        )
    ]
    for dataset, least in (("cifar100", 72.7), ("imagenet16", 46.2)):
        for name in (f"nasbench201-{dataset}-transfer", f"nasbench201-{dataset}"):
            row = next(r for r in rows[name] if r.name == "gaussian-process")
            perfect = perfect_search(table_of(name))
            what = f"gaussian-process at 100, {name}"
            found.append(
                bar(what, row.means[-1], least, runs=row.runs, perfect_search=round(perfect, 3))
            )
    return found


def perfect_search(table: Table) -> float:
    """Return what is reported of the very best score: no search can be expected to beat it."""
    return float(table.report[np.nanargmax(table.scores[1.0])])


def within_a_point(rows: Sequence[Row]) -> dict[str, Any]:
    means = {r.name: r.means[-1] for r in rows if r.name in ("random", "reinforce", EVOLUTION)}
    spread = max(means.values()) - min(means.values())
    return bar("random, reinforcement and evolution: spread in points", spread, 1.0, most=True)


def several_objectives(table: Table, runs: int) -> list[dict[str, Any]]:
    """Score, energy on a Raspberry Pi 5 and parameters: share of the best volume at 100."""
    everything = np.stack(
        [-table.scores[1.0], table.costs["energy"], table.costs["params"]], axis=1
    ).astype(float)
    front = everything[nondominated_in_parts(everything)]
    low, high = front.min(axis=0), front.max(axis=0)
    limit = [1.05] * 3
    whole = hypervolume((front - low) / (high - low), limit)
    shares: dict[str, list[float]] = {}
    strategies = (
        Random(),
        Nsga2(objectives=OBJECTIVES),
        ParEgo(objectives=OBJECTIVES),
    )
    for strategy in strategies:
        for run in range(runs):
            state = replay(strategy, table, budget=100, seed=Seed(0).child("pareto", run)).state
            points = (losses(state.told, OBJECTIVES) - low) / (high - low)
            shares.setdefault(strategy.kind, []).append(hypervolume(points, limit) / whole)
        print(strategy.kind, np.mean(shares[strategy.kind]), flush=True)
    left = {kind: np.log(1 - np.array(values)) for kind, values in shares.items()}
    return [
        bar(
            f"{kind}: p that log(1 - volume share) is no lower than random's",
            float(mannwhitneyu(left[kind], left["random"], alternative="less").pvalue),
            0.01,
            most=True,
            runs=runs,
            share=round(float(np.mean(shares[kind])), 4),
            share_random=round(float(np.mean(shares["random"])), 4),
        )
        for kind in ("nsga2", "parego")
    ]


def nondominated_in_parts(points: Any) -> Any:
    """Return the indices of the front: of chunks first, then of what they leave."""
    left = np.arange(len(points))
    for size in (500, 2000, 20_000):
        parts = np.array_split(left, max(1, len(left) // size))
        left = np.concatenate([part[nondominated(points[part])] for part in parts])
    return left


def beliefs(table: Table, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What METHODS found false, tested again: facts, not bars."""
    by_name = {row.name: row for row in rows}
    old = by_name[f"{EVOLUTION}:population=20,sample=5"]
    worst = by_name[f"{EVOLUTION}:population=20,sample=5,retire=worst"]
    found: list[dict[str, Any]] = [
        {
            "belief": "ageing beats dropping the worst",
            "ageing": round(old.means[-1], 4),
            "drop_the_worst": round(worst.means[-1], 4),
            "p": float(mannwhitneyu(old.reported[-1], worst.reported[-1]).pvalue),
            "runs": old.runs,
        }
    ]
    finite = np.isfinite(proxy("naswot"))
    found.append(
        {
            "belief": "zero-cost scores rank networks better than their size",
            **{
                name: round(float(spearmanr(column[finite], table.report[finite]).statistic), 4)
                for name, column in (
                    ("naswot", proxy("naswot")),
                    ("ntk", -proxy("ntk")),
                    ("params", table.costs["params"]),
                    ("macs", table.costs["macs"]),
                )
            },
        }
    )
    return found


def screened(table: Table, runs: int) -> list[dict[str, Any]]:
    """The Gaussian process after 30 evaluations, where a number known before training helps it.

    As one more view, or as a screen: only the tenth of the space that ranks highest is searched.
    The tenth was chosen by the searched score alone, on seeds of their own.
    """
    found: list[dict[str, Any]] = []
    reached: dict[str, float] = {}
    for name, column in (("naswot", proxy("naswot")), ("params", table.costs["params"])):
        order = ranked(np.where(np.isfinite(column), column, -1e9))
        high = {places for places, row in table.rows.items() if order[row] >= 0.9}
        plain = parse("gaussian-process").strategy
        early = parse("gaussian-process:startup=5").strategy
        for what, strategy, given, inside in (
            ("as a view, startup 5", early, with_rank(table, order), None),
            ("as a screen, its highest tenth", plain, table, high),
        ):
            ends = [
                replay(
                    strategy,
                    given,
                    budget=30,
                    seed=Seed(0).child("screened", run),
                    allowed=None
                    if inside is None
                    else lambda arch, inside=inside: table.space.places(arch) in inside,
                ).at(30)
                for run in range(runs)
            ]
            line = {"seen": f"gaussian-process with the rank of {name} {what}"}
            line |= {"at_30": round(float(np.mean(ends)), 4), "sd": round(float(np.std(ends)), 4)}
            found.append({**line, "runs": runs})
            reached[f"{name} {what}"] = float(np.mean(ends))
    name = "params as a screen, its highest tenth"
    found.append(bar(f"with zero-cost features at 30: {name}", reached[name], 94.15, runs=runs))
    return found


PARTS = {"objectives": several_objectives, "screened": screened}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--share", type=int, default=1, help="divide the runs by this")
    parser.add_argument("--only", choices=PARTS, help="print the bars of this part, and no more")
    options = parser.parse_args()
    share = 20 if options.quick else options.share
    runs = {name: max(4, count // share) for name, count in RUNS.items()}
    table = table_of("nasbench201-cifar10")
    if options.only:
        for fact in PARTS[options.only](table, max(8, 100 // share)):
            show(fact)
        return
    rows: dict[str, Sequence[Row]] = {table.name: measured(table, runs)}
    facts = [*bands(rows[table.name]), within_a_point(rows[table.name])]
    few = {
        name: max(4, count // share)
        for name, count in (
            ("random", 200),
            (EVOLUTION, 200),
            ("tpe", 50),
            ("gaussian-process", 50),
        )
    }
    for dataset in ("cifar100", "imagenet16"):
        for name in (f"nasbench201-{dataset}-transfer", f"nasbench201-{dataset}"):
            rows[name] = measured(table_of(name), few)
    facts += ours(rows)
    facts += several_objectives(table, max(8, 30 // share))
    facts += screened(table, max(4, 100 // share))
    facts += beliefs(table, rows[table.name])
    print("\n".join(lines(rows[table.name], table)))
    for fact in facts:
        show(fact)
    if options.write is not None:
        plain = [row.to_json() for some in rows.values() for row in some]
        write(options.write / "strategies.jsonl", plain)
        write(options.write / "strategies_bars.jsonl", facts)
        (options.write / "strategies.txt").write_text(
            "\n".join(lines(rows[table.name], table)) + "\n"
        )
        draw(json.loads(json.dumps(plain[: len(runs)])), options.write / "strategies.svg")


if __name__ == "__main__":
    main()
