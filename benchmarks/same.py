"""Ten recorded runs: whether a change of the code left weights, scores and choices as they were.

    python benchmarks/same.py [--quick] [--only NAME ...] [--write FILE] [--against FILE]

Each run prints the digest of its weights (champions, fronts, what clients keep), of its choices
(who was proposed, in which order, with which status), of its scores (of the search, of every
checkpoint, of the test), of its costs (what the meter counted), and of the same run stopped after
its third round and resumed. `--against` compares with what an earlier version wrote on the same
machine: the last bits of a sum differ from one type of processor to another.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bars import bar, show, write

from archipelago.config.load import loads, preset
from archipelago.journal.journal import Journal
from archipelago.study.running.search import resume, search

SMALL = ("budget.trials=6", "final.rounds=4")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("digits", ()),
    "heart_disease": ("heart_disease", SMALL),
    "har_subjects": ("har_subjects", SMALL),
    "fashion_mnist": ("fashion_mnist", (*SMALL, "data.rows=4000")),
    "fednas": (
        "digits",
        (
            *SMALL,
            "space.kind=widths",
            "strategy.kind=progressive-shrinking",
            "estimator.screen=2",
            "estimator.inherit=true",
        ),
    ),
    "scaffold": ("quick", ("client.kind=scaffold",)),
    "ditto": ("wine", (*SMALL, "partition.clients=6", "client.kind=ditto")),
    "buffered": (
        "wine",
        (
            *SMALL,
            "partition.clients=6",
            "topology.kind=buffered",
            "topology.buffer=2",
            "cohort.clients=3",
        ),
    ),
    "hyperband": ("quick", ("strategy.kind=hyperband", "budget.trials=12")),
    "cluster": ("quick", ("engine.kind=cluster",)),
}
KEPT = ("weights", "choices", "scores", "costs", "resumed")


def measured(name: str) -> dict[str, str]:
    """Run once without a stop and once with one; return the digests."""
    about, settings = RUNS[name]
    run = loads(preset(about), settings)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        assert search(run, whole).result
        study = search(run, parts)
        rounds = 0
        for event in study.events():
            rounds += event.kind == "round"
            if rounds == 3:
                study.stop()
        assert resume(parts).result
        found, again = digests(whole), digests(parts)
    return {"run": name, **found, "resumed": "same" if found == again else json.dumps(again)}


def digests(directory: Path) -> dict[str, str]:
    """Return a digest for each kind of record of a finished run."""
    with Journal.open(directory, write=False) as journal:
        last = journal.last(full=True)
        assert last is not None
        assert last.state is not None
        outcomes = list(journal.outcomes())
        pins = {
            n: d for n, d in journal.pins().items() if n.startswith(("champion", "front", "kept"))
        }
        return {
            "weights": _digest(sorted(pins.items())),
            "choices": _digest((o.number, dict(o.arch), o.status, o.fidelity) for o in outcomes),
            "scores": _digest(
                [
                    [(o.number, o.score, sorted(o.metrics.items())) for o in outcomes],
                    sorted(map(tuple, journal.curves()), key=repr),
                    sorted((n, t["metrics"]) for n, t in last.state["tested"].items()),
                ]
            ),
            "costs": _digest(replace(row, seconds=0.0) for row in journal.meter()),
        }


def _digest(values: Iterable[Any]) -> str:
    name = blake2b(digest_size=10)
    for value in values:
        name.update(repr(value).encode())
    return name.hexdigest()


def main() -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="without what takes minutes")
    parser.add_argument("--only", nargs="+", choices=RUNS)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    quick = [n for n in RUNS if n not in ("demo", "fashion_mnist", "cluster")]
    names = options.only or (quick if options.quick else list(RUNS))
    rows = [show(measured(name)) for name in names]
    bars = [
        bar("resumed to the same digests", sum(r["resumed"] == "same" for r in rows), len(rows))
    ]
    if options.against:
        before = {r["run"]: r for r in map(json.loads, options.against.read_text().splitlines())}
        rows = [row for row in rows if row["run"] in before]
        for kind in KEPT[:-1]:
            other = [r["run"] for r in rows if r[kind] != before[r["run"]].get(kind)]
            bars.append(
                bar(f"runs with the same {kind}", len(rows) - len(other), len(rows), other=other)
            )
    for line in bars:
        show(line)
    write(options.write, [*rows, *bars])


if __name__ == "__main__":
    main()
