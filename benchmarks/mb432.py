"""MB432: train its 432 networks anew (two minutes of one core), and replay the schedulers on it.

python benchmarks/mb432.py                  # the bars of the fidelity schedulers, from the table
python benchmarks/mb432.py --build          # train everything, compare with the shipped table
python benchmarks/mb432.py --build --write  # ... and replace it
"""

import argparse
import time
from math import comb
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from bars import bar, show, write
from scipy.stats import spearmanr

from archipelago.core.seeds import Seed
from archipelago.driver.replay import replay
from archipelago.estimate.mb432 import FILE, LENGTHS, build, mb432
from archipelago.strategy.asha import Asha
from archipelago.strategy.bohb import Bohb
from archipelago.strategy.halving import SuccessiveHalving
from archipelago.strategy.hyperband import Hyperband

RUNGS = tuple(length / LENGTHS[-1] for length in LENGTHS)


def rebuilt(replace):
    """Train all networks; say how long it took and how far the shipped table is."""
    began = time.perf_counter()
    table = build()
    seconds = time.perf_counter() - began
    old = mb432() if FILE.exists() else table
    gaps = [np.abs(table.scores[r] - old.scores[r]).mean() for r in RUNGS]
    if replace:
        table.write(FILE)
    yield bar("mb432: seconds to train 432 networks", seconds, 180, most=True)
    yield bar("mb432: mean difference from the shipped scores", max(gaps), 0.005, most=True)


def described(table):
    """The table beside the reference: best, median, rank correlations, size."""
    full = table.scores[1.0].astype(float)
    yield bar("mb432: best", full.max(), 0.966, reference=0.976)
    yield bar("mb432: median", float(np.median(full)), 0.54, reference=0.57)
    for length, rung, known in zip(LENGTHS, RUNGS, (0.58, 0.72, 0.86), strict=False):
        rank = float(spearmanr(table.scores[rung], full)[0])
        yield bar(
            f"mb432: Spearman of {length} epochs with 12", rank, known - 0.02, reference=known
        )
    yield bar("mb432: kB in the package", FILE.stat().st_size / 1000, 100, most=True)


def by_chance(table, n):
    """Expected regret of the best of `n`, exactly."""
    full = np.sort(table.scores[1.0].astype(float))[::-1]
    return table.best - sum(f * comb(431 - i, n - 1) / comb(432, n) for i, f in enumerate(full))


def bracket(table, sizes, draws=20_000):
    """Mean regret of one bracket of halving over all rungs, by brute force."""
    rng, columns = np.random.default_rng(0), [table.scores[r].astype(float) for r in RUNGS]
    found = []
    for _ in range(draws):
        alive = rng.permutation(432)[: sizes[0]]
        for column, kept in zip(columns, sizes[1:], strict=False):
            alive = alive[np.argsort(-column[alive], kind="stable")[:kept]]
        found.append(columns[-1][alive].max())
    return table.best - fmean(found)


def schedulers(table, seeds):
    """Regret at 60 epochs (five full trainings), and at 240."""
    five = by_chance(table, 5)
    yield bar("mb432: regret of random search, 5 full trainings", five, 0.05, exact=True)
    # All that 60 epochs of Hyperband complete, and in the limit of ASHA: no bar, a reference.
    only = bracket(table, (27, 9, 3, 1))
    yield bar("mb432: regret of the bracket 27, 9, 3, 1 by brute force", only, 0.05, most=True)
    halving = SuccessiveHalving(rungs=RUNGS, sizes=(27, 9, 4, 2))
    others = [kind(rungs=RUNGS) for kind in (Hyperband, Asha, Bohb)]
    for strategy in (halving, *others):
        for budget in (5, 20):
            # A model costs milliseconds an ask: fewer of its long searches.
            count = seeds // 4 if budget > 5 and strategy.kind == "bohb" else seeds
            runs = [replay(strategy, table, budget=budget, seed=Seed(s)) for s in range(count)]
            regrets = [table.best - run.found(budget) for run in runs]
            yield bar(
                f"mb432: regret of {strategy.kind}, {12 * budget} epochs",
                fmean(regrets),
                0.02 if budget == 5 else by_chance(table, budget),
                most=True,
                error=round(stdev(regrets) / count**0.5, 5),
                seeds=count,
                random=round(by_chance(table, budget), 5),
            )


def main():
    """Print one JSON line a bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--build", action="store_true", help="train all 432 networks")
    parser.add_argument("--write", action="store_true", help="replace the shipped table")
    parser.add_argument("--seeds", type=int, default=200, help="searches of each strategy")
    parser.add_argument("--quick", action="store_true", help="20 seeds")
    parser.add_argument("--out", type=Path, default=None, help="JSON lines")
    options = parser.parse_args()
    lines = [show(line) for line in rebuilt(options.write)] if options.build else []
    table = mb432()
    lines += [show(line) for line in described(table)]
    lines += [show(line) for line in schedulers(table, 20 if options.quick else options.seeds)]
    write(options.out, lines)


if __name__ == "__main__":
    main()
