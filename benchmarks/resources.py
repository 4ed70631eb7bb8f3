"""Speed, overhead, memory and disk of loop two.

    python benchmarks/resources.py [--quick] [--only speed|overhead|memory|disk] [--write FILE]

Speed and overhead are wall-clock: run them on a quiet machine with two cores or more. `memory` is
the sum of PSS over the coordinator and all its children, from `/proc/*/smaps`, without the mapped
data files; it needs Linux.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import psutil
import torch
from bars import bar, show, write

from archipelago.client.training import Assignment, Fitted, LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.config.run import Run
from archipelago.core.seeds import Seed
from archipelago.data.partition import Iid
from archipelago.data.prepare import prepare
from archipelago.data.shards import Shards
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.files import Files
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.driver.budget import Budget, Final
from archipelago.driver.loop import Position, Stage, explore
from archipelago.driver.record import Recorder
from archipelago.engine.processes import Processes
from archipelago.engine.serial import Serial
from archipelago.estimate.context import EvaluationContext, settle
from archipelago.estimate.rounds import Rounds
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation, step
from archipelago.journal.journal import Journal
from archipelago.nn.build import initialise
from archipelago.space.graph import Graph
from archipelago.space.sketch import Sketch
from archipelago.space.table_mlp import TableMlp
from archipelago.study.running.fixed import Given
from archipelago.study.running.search import search

SEED = Seed(0)
CLIENTS, ROWS = 20, 50


def convolutions() -> Graph:
    """McMahan et al.'s two convolutions (1.66 M parameters)."""
    sketch = Sketch((1, 28, 28))
    for filters in (32, 64):
        sketch.conv(filters, kernel=5)
        sketch.add("act")
        sketch.shrink("maxpool")
    sketch.add("flatten")
    sketch.dense(512)
    sketch.add("linear", features=10)
    return sketch.graph()


def perceptron(width: int = 200, inputs: int = 784) -> Graph:
    """Two hidden layers, McMahan et al.'s 2NN by default (199,210 parameters)."""
    sketch = Sketch((inputs,))
    sketch.dense(width)
    sketch.dense(width)
    sketch.add("linear", features=10)
    return sketch.graph()


def shards(folder: Path, shape: tuple[int, ...], clients: int, rows: int) -> Shards:
    """Prepare noise: `rows` train rows a client."""
    rng = np.random.default_rng(0)
    total = clients * round(rows / 0.7)
    total = max(total, 200)  # every class has train rows
    x = rng.normal(size=(total, *shape)).astype(np.float32)
    if len(shape) == 3:
        x = x.transpose(0, 2, 3, 1)
    source = Arrays(x=x, y=np.arange(total) % 10, modality="image" if len(shape) > 1 else "table")
    return prepare(
        source, Iid(clients=clients), Split(), Classification(), seed=SEED, directory=folder
    ).shards


@contextmanager
def federation(graph: Graph, engine: Any, **options: Any) -> Iterator[tuple[Federation, Branch]]:
    """Open an engine on noise of the network's shape; give a branch on all clients."""
    with tempfile.TemporaryDirectory() as folder:
        made = shards(Path(folder), graph.input_shape, CLIENTS, ROWS)
        task = made.signature.task
        running = engine.start()
        running.open(WorkerContext(shards=made, task=task))
        try:
            flat = initialise(graph, SEED)
            yield (
                Federation(
                    engine=running,
                    task=task,
                    train_rows=made.train_rows,
                    validation_rows=made.validation_rows,
                    seed=SEED,
                    **options,
                ),
                Branch(number=0, graph=graph, flat=flat, cohort=made.training, rounds=10**6),
            )
        finally:
            running.close()


def rate(graph: Graph, engine: Any, seconds: float) -> float:
    """Return client-rounds a second: the median round, after one to warm up."""
    with federation(graph, engine, training=LocalTraining(learning_rate=0.01, batch=10)) as at:
        (fed, branch), times = at, []
        (branch,) = step(fed, [branch], phase="warm").branches
        ends = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < ends:
            began = time.perf_counter()
            (branch,) = step(fed, [branch], phase="speed").branches
            times.append(time.perf_counter() - began)
    return CLIENTS / median(times)


def speed(quick: bool) -> Iterator[dict[str, Any]]:
    """Two workers against the serial engine."""
    for name, graph in (("two convolutions", convolutions()), ("MLP", perceptron())):
        serial = rate(graph, Serial(), 1 if quick else 8)
        two = rate(graph, Processes(workers=2), 1 if quick else 8)
        yield bar(
            f"processes on 2 cores over serial, {name}",
            two / serial,
            1.4,
            serial=round(serial, 1),
            processes=round(two, 1),
            unit="client-rounds/s",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A client that does not compute: what is left is what the system costs."""

    kind: Literal["still"] = "still"
    epochs: int = 1

    def fit(self, model: Any, task: Any, asked: Assignment) -> Fitted:
        """Touch one number, so that the update is one."""
        del task
        with torch.no_grad():
            model.flat[0] += 1e-3
        return Fitted(steps=1, examples=asked.examples, loss=1.0)


def overhead(quick: bool) -> Iterator[dict[str, Any]]:
    """Select, frame, move, check, fold, meter, commit, of a model under 100 kB."""
    graph = perceptron(width=96, inputs=128)
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal.create(Path(folder) / "run", meta={}) as journal,
        federation(graph, Serial(), training=Still()) as (fed, first),
    ):
        recorder, branches, times = Recorder(journal), (first,), []
        for _ in range(20 if quick else 200):
            began = time.perf_counter()
            done = step(fed, branches, phase="search")
            branches = done.branches
            generation = Generation(index=0, proposals=(), branches=branches, validators=())
            recorder.round(settle(generation, done), "search")
            times.append(time.perf_counter() - began)
            if done.incidents:
                raise SystemExit(done.incidents[0].text)
    yield bar(
        "select, frame, check, meter and journal, ms a client",
        1e3 * median(times) / CLIENTS,
        1.0,
        most=True,
        model_kilobytes=round(graph.params * 4 / 1e3, 1),
        fastest_round=round(1e3 * min(times) / CLIENTS, 4),
        clients=CLIENTS,
    )


def held(data: Path) -> float:
    """Return the PSS of this process and all below it, in 10^6 bytes, without files of `data`."""
    here, total = psutil.Process(), 0
    for process in (here, *here.children(recursive=True)):
        try:
            lines = Path(f"/proc/{process.pid}/smaps").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        counted = True
        for line in lines:
            words = line.split()
            if not words[0].endswith(":"):
                counted = str(data) not in line
            elif words[0] == "Pss:" and counted:
                total += int(words[1]) * 1024
    return total / 1e6


def watched(clients: int, at: list[int]) -> list[float]:
    """Run a study of `clients` clients with 50 rows each; return memory at rounds `at`."""
    with tempfile.TemporaryDirectory() as folder:
        rng, total = np.random.default_rng(0), clients * 50
        path, out = Path(folder) / "noise.npz", Path(folder) / "run"
        x = rng.normal(size=(total, 16)).astype(np.float32)
        np.savez(path, x=x, y=np.arange(total) % 10)
        del x
        run = Run(
            data=Files(paths=(str(path),), label="y"),
            partition=Iid(clients=clients),
            space=TableMlp(layers=1, widths=(64,)),
            estimator=Rounds(rounds=1, candidates=1, validators=CLIENTS),
            cohort=Cohort(clients=CLIENTS),
            engine=Processes(workers=2),
            budget=Budget(trials=1),
            final=Final(rounds=max(at) + 1, every=max(at) + 1, references=False),
        )
        found: list[float] = []
        study = search(run, out)
        for event in study.events():
            if event.kind == "round" and event.data["phase"] == "final":
                if event.data["round"] in at:
                    found.append(held(out / "cache"))
                if event.data["round"] == max(at):
                    study.stop()
    return found


def apart(call: Callable[..., list[float]], *given: Any) -> list[float]:
    """Call in a process of its own, so that one measurement does not see another's memory."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        values = call(*given)
        os.write(theirs, " ".join(map(str, values)).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return [float(word) for word in text.split()]


def memory(quick: bool) -> Iterator[dict[str, Any]]:
    """What a long run and a large federation hold."""
    late = 60 if quick else 200
    early, last = apart(watched, 100, [20, late])
    yield bar(f"memory, round {late} over round 20", last / early, 1.05, most=True, megabytes=last)
    many = 1000 if quick else 10_000
    (large,) = apart(watched, many, [20])
    yield bar(
        f"memory, {many} clients over 100",
        large / early,
        1.1,
        most=True,
        megabytes=large,
        cohort=CLIENTS,
    )


def disk(quick: bool) -> Iterator[dict[str, Any]]:
    """Sixteen branches of 6 MB, side by side; tensors are collected as they are superseded."""
    width = 300 if quick else 1190
    graphs = [perceptron(width=width + number, inputs=32) for number in range(16)]
    drawn, rounds = iter(graphs), 10 if quick else 100
    with tempfile.TemporaryDirectory() as folder:
        made = shards(Path(folder) / "data", (32,), 2, 8)
        task = made.signature.task
        engine = Processes(workers=2).start()
        home = Path(folder) / "run"
        with Journal.create(home, meta={}) as journal:
            engine.open(WorkerContext(shards=made, task=task))
            stage = Stage(
                name="search",
                space=TableMlp().space((32,), 10),
                strategy=Given(({},) * 16),
                estimator=Rounds(rounds=rounds, candidates=16),
                context=EvaluationContext(
                    federation=Federation(
                        engine=engine,
                        task=task,
                        train_rows=made.train_rows,
                        validation_rows=made.validation_rows,
                        seed=SEED,
                        training=LocalTraining(learning_rate=0.01, batch=0),
                        cohort=Cohort(clients=1),
                    ),
                    graph=lambda _: next(drawn),
                    clients=made.training,
                    scorers=made.training,
                    phase="search",
                ),
                budget=Budget(trials=16),
                seed=SEED,
            )
            most = 0.0
            for _ in explore(stage, Recorder(journal), Position(), Position.to_json):
                most = max(most, size(home))
            engine.close()
        end = size(home)
    yield bar(
        f"disk, 16 branches of {max(g.params for g in graphs) * 4 / 1e6:.1f} MB over {rounds} "
        "rounds, MB at the end",
        end,
        400.0,
        most=True,
        largest=round(most, 1),
    )


def size(folder: Path) -> float:
    """Return the bytes of a folder's files, in 10^6."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except FileNotFoundError:  # a journal's temporary file
            continue
    return total / 1e6


PARTS = {"memory": memory, "speed": speed, "overhead": overhead, "disk": disk}


def main() -> None:
    """Measure and print. Memory comes first: it forks before torch has threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="smaller, for trying it out")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name in [options.only] if options.only else PARTS:
        for line in PARTS[name](options.quick):
            lines.append(show(line))
            write(options.write, lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
