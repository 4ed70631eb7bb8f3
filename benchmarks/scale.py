"""A million registered clients, and a day of a phone fleet.

    python benchmarks/scale.py [--quick] [--write FILE]

Prints one JSON line a bar. Handwritten digits, which come with scikit-learn; logistic regression.
Memory is the sum of the proportional set sizes of this process and its workers. Rounds with few and
with many registered take turns, and the bound is the upper end of a 95 % interval of their paired
ratio. A day is virtual: the same devices, first asked in rounds that close with the first 40
replies of 52, then 52 at any time and a step of the server with every tenth reply.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from bars import bar, interval, show, write

from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.core.seeds import Seed
from archipelago.core.trial import Proposal
from archipelago.data.fleet import Fleet
from archipelago.data.prepare import Prepared, prepare
from archipelago.data.sources.bundled import Digits
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.driver.budget import Budget
from archipelago.driver.loop import Position, Stage, explore
from archipelago.driver.record import Recorder
from archipelago.engine.processes import Processes
from archipelago.estimate.context import EvaluationContext
from archipelago.estimate.rounds import Rounds
from archipelago.federation.buffer import Buffered, Synchronous
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation
from archipelago.journal.journal import Journal
from archipelago.journal.registry import Client
from archipelago.space.graph import Graph, Node
from archipelago.space.image_chain import ImageChain
from archipelago.study.running.fixed import Given

FEW, MANY = 10_000, 1_000_000
COHORT = 100
DAY = 24.0


@dataclass(frozen=True)
class Place:
    """Everything that a plan needs, in a directory of its own."""

    prepared: Prepared
    federation: Federation
    journal: Journal

    @property
    def context(self) -> EvaluationContext:
        """Return an context of logistic regression."""
        shards = self.prepared.shards
        size = 1
        for side in shards.signature.shape:
            size *= side
        nodes = (
            Node("rows", "flatten", ("input",)),
            Node("out", "linear", ("rows",), (("features", shards.signature.outputs),)),
        )
        graph = Graph(shards.signature.shape, nodes)
        return EvaluationContext(
            federation=self.federation,
            graph=lambda _: graph,
            clients=shards.training,
            scorers=shards.scoring,
            phase="final",
        )


@contextmanager
def place(clients: int, *, spread: float = 1.0, **options: Any) -> Iterator[Place]:
    """Prepare the rows, register the clients, start the workers."""
    seed = Seed(0)
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(
            Digits(),
            Fleet(clients=clients, homes=40, rows=30, spread=spread, panel=50),
            Split(),
            Classification(),
            seed=seed.child("data"),
            directory=Path(folder) / "cache",
        )
        shards = prepared.shards
        engine = Processes(workers=2).start()
        engine.open(WorkerContext(shards=shards, task=shards.signature.task))
        with Journal.create(Path(folder) / "run", meta={}) as journal, closing(engine):
            rows = shards.train_rows
            journal.register(Client(c, shards.name(c), int(rows[c])) for c in range(clients))
            federation = Federation(
                engine=engine,
                task=shards.signature.task,
                train_rows=rows,
                validation_rows=shards.validation_rows,
                seed=seed,
                training=LocalTraining(learning_rate=0.01, batch=10),
                **options,
            )
            yield Place(prepared, federation, journal)


def rounds(at: Place, count: int) -> Iterator[float]:
    """Run `count` committed rounds; yield the seconds of each."""
    context = at.context
    stage = Stage(
        name="final",
        space=ImageChain().space((1, 8, 8), 10),
        strategy=Given(({},)),
        estimator=Rounds(rounds=count, candidates=1),
        context=context,
        budget=Budget(trials=1),
        seed=Seed(0),
    )
    began = time.perf_counter()
    for _ in explore(stage, Recorder(at.journal), Position(), lambda p: p.to_json()):
        yield time.perf_counter() - began
        began = time.perf_counter()


def memory() -> float:
    """Return the proportional set size of this process and its children, in GB."""
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().pss for process in tree) / 1e9


def registered(count: int) -> list[dict[str, Any]]:
    """Measure memory with many registered, then rounds with few and with many in turn."""
    peak, began = 0.0, time.perf_counter()
    with place(MANY, cohort=Cohort(clients=COHORT)) as at:
        ready = time.perf_counter() - began
        peak = memory()
        for index, _ in enumerate(rounds(at, count)):
            if index % 5 == 0:
                peak = max(peak, memory())
        peak = max(peak, memory())
    options = {"spread": 0.0, "cohort": Cohort(clients=COHORT)}
    with place(FEW, **options) as few, place(MANY, **options) as many:
        pairs = list(zip(rounds(few, count), rounds(many, count), strict=True))[2:]
    low, high = interval([log(b / a) for a, b in pairs])
    return [
        bar(
            f"memory, {MANY} registered, cohort {COHORT}, {count} rounds, GB of PSS",
            peak,
            1.0,
            most=True,
            seconds_to_register=round(ready, 2),
        ),
        bar(
            f"time per round, {MANY} registered against {FEW}, upper bound of the ratio",
            exp(high),
            1.10,
            most=True,
            ratio=round(exp((low + high) / 2), 4),
            median_seconds=[round(median(side), 4) for side in zip(*pairs, strict=True)],
        ),
    ]


def day(hours: float) -> list[dict[str, Any]]:
    """Simulate the same devices for some hours, in rounds and with a buffer."""
    # So slow a device makes a visit of this tiny model last minutes, as a real one does.
    devices = Cohort(
        clients=40, over=1.3, availability="diurnal", speed=200.0, spread=1.0, deadline=3600.0
    )
    plans = {
        "synchronous": (devices, Synchronous()),
        "buffered": (replace(devices, clients=52, over=1.0), Buffered(buffer=10)),
    }
    lines: dict[str, dict[str, Any]] = {}
    paths: dict[str, list[tuple[float, float]]] = {}
    for name, (cohort, topology) in plans.items():
        with place(MANY, cohort=cohort, topology=topology) as at:
            began = time.perf_counter()
            context, plan = at.context, Rounds(rounds=100_000, every=5, candidates=1, hours=hours)
            generation = plan.start([Proposal(number=0, arch={})], 0, context)
            path: list[tuple[float, float]] = []
            visits = 0
            for step in plan.run(generation, context):
                [branch] = step.generation.branches
                visits += sum(row.kind == "fit" for row in step.rows)
                if branch.history and branch.history[-1][0] == branch.round:
                    path.append((branch.clock / 3600, branch.history[-1][1]))
            paths[name] = path
            lines[name] = {
                "plan": name,
                "virtual_hours": round(branch.clock / 3600, 2),
                "steps": branch.round,
                "replies": visits,
                "loss": round(branch.history[-1][1], 4),
                "accuracy": round(branch.metrics["accuracy"], 4),
                "wall_seconds": round(time.perf_counter() - began, 1),
            }
            show(lines[name])
    target = lines["synchronous"]["loss"]
    reached = {
        name: next((hour for hour, loss in path if loss <= target), float("inf"))
        for name, path in paths.items()
    }
    return [
        *lines.values(),
        bar(
            f"{hours:g} virtual hours of {MANY} phones with FedBuff, wall-clock seconds",
            lines["buffered"]["wall_seconds"],
            300.0,
            most=True,
        ),
        bar(
            "virtual hours to the loss that rounds end the day with, rounds against FedBuff",
            reached["synchronous"] / reached["buffered"],
            1.0,
            target_loss=target,
            hours={name: round(hour, 2) for name, hour in reached.items()},
        ),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="20 rounds, 4 hours")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines = registered(20 if options.quick else 50)
    for line in lines:
        show(line)
    simulated = day(4.0 if options.quick else DAY)
    for line in simulated:
        if "bar" in line:
            show(line)
    write(options.write, [*lines, *simulated])


if __name__ == "__main__":
    main()
