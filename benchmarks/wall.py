"""A whole FedNAS run on this machine: minutes, and how busy its workers are.

    python benchmarks/wall.py [--iterations 8] [--repeats 1] [--write FILE]

The library's own `search`: Fashion-MNIST on 160 clients (Dirichlet 0.5), the network of
benchmarks/fednas.py on 28 x 28 pixels shrunk in eight iterations to half its MACs by a race that
drops half at each checkpoint, then final training of every network of the front, the test, the
export and the report, on two worker processes. Busy is what the run's own profile says: time
inside tasks over the time from reading the data to the last test, of both workers. Other work on
the machine changes both numbers: its load is printed beside them.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bars import bar, show, write

CLIENTS, WORKERS = 160, 2
RUN = """
name = "wall"
[data]
kind = "named"
name = "fashion_mnist"
rows = 16000
[partition]
kind = "dirichlet"
clients = 160
alpha = 0.5
[split]
official = true
[strategy]
kind = "progressive-shrinking"
until = 0.5
[estimator]
kind = "race"
inherit = true
candidates = 6
group = 4
first = 1
last = 5
warm = 60
validators = 8
[client]
kind = "local"
learning_rate = 0.05
momentum = 0.9
batch = 16
clip = 1
[cohort]
clients = 20
[budget]
trials = 100
[final]
rounds = 30
every = 30
references = false
[engine]
kind = "processes"
workers = 2
"""


def measured(directory: Path, iterations: int) -> list[dict[str, Any]]:
    """Run it once; return the bars."""
    # Every worker imports this module again: what only the coordinator needs is imported here.
    from fednas import network

    from archipelago.config.load import loads
    from archipelago.space.widths import Narrower
    from archipelago.study.running.search import search

    settings = [
        f"strategy.step={0.5 / iterations}",
        f"estimator.generations={iterations}",
    ]
    before, began = os.getloadavg(), time.monotonic()
    run = replace(loads(RUN, settings), space=Narrower(network=network((1, 28, 28), 10), least=0.1))
    study = search(run, directory, profile=True)
    metrics = study.result.metrics
    minutes = (time.monotonic() - began) / 60
    profile = json.loads((directory / "profile.json").read_text())
    workers = profile["workers"].values()
    idle = sum(one["idle"] for one in workers)
    busy = 1 - idle / (WORKERS * profile["whole"])
    front = json.loads((directory / "budgets" / "budgets.json").read_text())
    about = {
        "clients": CLIENTS,
        "iterations": len(front) - 1,
        "accuracy": round(metrics["accuracy"], 4),
        "load_before": [round(load, 2) for load in before],
        "load_after": [round(load, 2) for load in os.getloadavg()],
    }
    spent = {name: round(seconds, 1) for name, seconds in profile["coordinator"].items()}
    return [
        bar("a whole FedNAS run on 2 workers: minutes", minutes, 10, most=True, **about),
        bar("a whole FedNAS run on 2 workers: busy share", busy, 0.85,
            whole=round(profile["whole"], 1), coordinator=spent, **about),
    ]  # fmt: skip


def main() -> None:
    """Measure; print both bars of every run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(prefix="wall-") as spare:
            lines += [show(line) for line in measured(Path(spare, "run"), options.iterations)]
    write(options.write, lines)


if __name__ == "__main__":
    main()
