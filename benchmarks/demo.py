"""The demo over several seeds, against its reference lines at equal client cost.

    python benchmarks/demo.py [--quick] [--seeds N] [--write FILE]

Prints one JSON line a seed and one a bar. Differences are ours minus the reference, in points of
test accuracy; the bound is the lower end of a two-sided 95 % t interval over seeds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

from archipelago.config.load import loads, preset
from archipelago.study.search import search

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


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


def lower(values: list[float]) -> float:
    """Return the lower 95 % bound of the mean."""
    return mean(values) - T[len(values) - 1] * stdev(values) / len(values) ** 0.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    for seed in range(2 if options.quick else options.seeds):
        rows.append(measured(seed))
        print(json.dumps(rows[-1]), flush=True)
    hand = [row["hand-made"] for row in rows]
    drawn = [row["random-final"] for row in rows]
    pooled = [row["pooled"] for row in rows]
    bars = [
        bar("test accuracy, worst seed", min(row["accuracy"] for row in rows), 0.95),
        bar("against the hand-made network, lower bound, points", lower(hand), -1.0),
        bar("against random search, mean, points", mean(drawn), 0.0),
        bar("slowest run, seconds", max(row["seconds"] for row in rows), 180, most=True),
    ]
    for line in bars:
        print(json.dumps(line))
    if options.write:
        summary = {
            "mean_accuracy": mean(row["accuracy"] for row in rows),
            "sd_accuracy": stdev(row["accuracy"] for row in rows),
            "mean_hand_made": mean(hand),
            "mean_random": mean(drawn),
            "lower_random": lower(drawn),
            "mean_pooled": mean(pooled),
        }
        text = json.dumps({"runs": rows, "bars": bars, "summary": summary}, indent=1)
        options.write.write_text(text + "\n")


def bar(name: str, value: float, target: float, *, most: bool = False) -> dict[str, object]:
    """Return one line of the result."""
    holds = value <= target if most else value >= target
    return {"bar": name, "value": round(value, 4), "target": target, "holds": holds}


if __name__ == "__main__":
    main()
