"""Ours: loop two on the processes engine, with checks, meter rows and a commit a round."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from nets import BATCH, SHAPES, answer, clients

from archipelago.engine.warm import warm

__all__ = ["federation", "graph", "start"]


def graph(name: str) -> Any:
    """Return the same network as `nets.network`, as a graph."""
    from archipelago.space.graph import Graph, Node

    nodes: list[Node] = []

    def add(op: str, **attrs: Any) -> None:
        source = nodes[-1].name if nodes else "input"
        nodes.append(Node(f"n{len(nodes)}", op, (source,), tuple(attrs.items())))

    def conv(filters: int, kernel: int, padding: int) -> None:
        add("conv", filters=filters, kernel=kernel, padding=padding)
        add("act", fn="relu")

    match name:
        case "leaf":
            for filters in (32, 64):
                conv(filters, 5, 2)
                add("maxpool", kernel=2)
            widths = [512]
        case "pfl":
            for filters in (32, 64):
                conv(filters, 3, 0)
                conv(filters, 3, 0)
                add("maxpool", kernel=2)
            widths = [512]
        case _:
            widths = [200, 200] if name == "mlp" else []
    if len(SHAPES[name]) > 1:
        add("flatten")
    for width in widths:
        add("linear", features=width)
        add("act", fn="relu")
    add("linear", features=10)
    return Graph(SHAPES[name], tuple(nodes))


def federation(
    name: str, rows: list[Any], directory: Path, engine: Any, batch: int, *, device: str = "cpu"
) -> Any:
    """Return a federation over clients with `rows`, its engine open."""
    from archipelago.client.training import LocalTraining
    from archipelago.client.worker import WorkerContext
    from archipelago.core.seeds import Seed
    from archipelago.data.shards import Shards, Signature
    from archipelago.data.tasks import Classification
    from archipelago.federation.rounds import Federation

    task = Classification(classes=tuple("0123456789"))
    counts = [len(y) for _, y in rows]
    ends = np.cumsum(counts)
    none = np.arange(0)
    modality = "image" if len(SHAPES[name]) == 3 else "table"
    channels = SHAPES[name][0] if modality == "image" else 1
    shards = Shards.write(
        directory / "shards",
        signature=Signature(modality=modality, shape=SHAPES[name], task=task),
        names=[str(client) for client in range(len(rows))],
        held_out=(),
        x=np.concatenate([x for x, _ in rows]),
        y=np.concatenate([y for _, y in rows]),
        spans=[(np.arange(e - c, e), none, none) for e, c in zip(ends, counts, strict=True)],
        affine=([1.0] * channels, [0.0] * channels),
    )
    engine.open(WorkerContext(shards=shards, task=task, device=device))
    return Federation(
        engine=engine,
        task=task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=Seed(0),
        # Smaller than the peers': our first weights are He's, and the rows are noise. Same work.
        training=LocalTraining(batch=batch, learning_rate=0.01),
    )


def start(name: str, cohort: int) -> Any:
    """Return a branch that everybody trains."""
    from archipelago.core.seeds import Seed
    from archipelago.federation.branch import Branch
    from archipelago.nn.build import initialise

    net = graph(name)
    return Branch(
        number=0,
        graph=net,
        flat=initialise(net, Seed(0)),
        cohort=tuple(range(cohort)),
        rounds=10**6,
    )


def main() -> None:
    """Answer with the seconds of a round until told to end."""
    name, cohort = sys.argv[1], int(sys.argv[2])
    batch = int(sys.argv[3]) if len(sys.argv) > 3 else BATCH
    warm()
    from archipelago.driver.record import Recorder
    from archipelago.engine.processes import Processes
    from archipelago.estimate.context import settle
    from archipelago.federation.branch import Generation
    from archipelago.federation.rounds import step
    from archipelago.journal.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        engine = Processes().start()
        given = federation(name, clients(name, cohort), directory, engine, batch)
        branch = start(name, cohort)
        with Journal.create(directory / "run", meta={}) as journal:
            recorder = Recorder(journal)
            try:
                while True:
                    began = time.perf_counter()
                    done = step(given, (branch,), phase="search")
                    (branch,) = done.branches
                    heat = Generation(generation=0, proposals=(), branches=(branch,), validators=())
                    recorder.round(settle(heat, done), "search")
                    assert not done.incidents, done.incidents[0].text
                    answer(time.perf_counter() - began)
            finally:
                engine.close()


if __name__ == "__main__":
    main()
