"""The demo over several seeds, against its reference lines at equal client cost.

    python benchmarks/demo.py [--quick] [--seeds N] [--write FILE]

Prints one JSON line a seed and one a bar. Differences are ours minus the reference, in points of
test accuracy; the bound is the lower end of a two-sided 95 % t interval over seeds.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

from bars import bar, interval, show, write

from archipelago.config.load import loads, preset
from archipelago.study.running.search import search


def measured(seed: int) -> dict[str, float]:
    """Run the demo once; accuracies in [0, 1], differences in points."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = search(loads(preset("digits"), [f"seed={seed}"]), Path(folder) / "run").result
    return {
        "seed": seed,
        "accuracy": result.metrics["accuracy"],
        "seconds": round(time.perf_counter() - began, 1),
        **{name: 100 * gap for name, (gap, _, _) in result.differences.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    seeds = range(2 if options.quick else options.seeds)
    rows = [show(measured(seed)) for seed in seeds]
    hand = [row["hand-made"] for row in rows]
    drawn = [row["random-final"] for row in rows]
    pooled = [row["pooled"] for row in rows]
    bars = [
        bar("test accuracy, worst seed", min(row["accuracy"] for row in rows), 0.95),
        bar("against the hand-made network, lower bound, points", interval(hand)[0], -1.0),
        bar("against random search, mean, points", mean(drawn), 0.0),
        bar("slowest run, seconds", max(row["seconds"] for row in rows), 180, most=True),
    ]
    for line in bars:
        show(line)
    summary = {
        "mean_accuracy": mean(row["accuracy"] for row in rows),
        "sd_accuracy": stdev(row["accuracy"] for row in rows),
        "mean_hand_made": mean(hand),
        "mean_random": mean(drawn),
        "lower_random": interval(drawn)[0],
        "mean_pooled": mean(pooled),
    }
    write(options.write, [*rows, *bars, summary])


if __name__ == "__main__":
    main()
