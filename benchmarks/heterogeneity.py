"""Where FedAvg drifts, and what FedProx and SCAFFOLD make of it.

    python benchmarks/heterogeneity.py [--quick] [--only PART] [--seeds N] [--write FILE]
                                       [--figure FILE]

`quadratics`: curvatures 1 and 4, optima 0 and 1, ten local steps; their common optimum is 0.8, so
that the error of each method is known exactly. `digits`: 20 clients of two digits each, many local
steps; with the quadratics it makes the figure. `fashion`: Fashion-MNIST (needs ARCHIPELAGO_DATA) on
20 clients of two classes each, rounds until the model is right on 80 % of everybody's validation
rows; FedAvg's and SCAFFOLD's learning rates are chosen beforehand, on a seed that is not reported.
All clients take part in every round, and FedProx takes FedAvg's learning rate. FedNova is FedAvg
here: every client takes the same number of steps.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import altair as alt
import numpy as np
import torch
from bars import bar, interval, show, write

from archipelago.aggregate.mean import WeightedMean
from archipelago.client.scaffold import Scaffold
from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.core.seeds import Seed
from archipelago.data.partition import Classes
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Digits
from archipelago.data.sources.named import Named
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.federation.branch import Branch
from archipelago.federation.rounds import Federation, evaluate, step
from archipelago.nn.build import initialise
from archipelago.space.graph import Graph, Node

TARGET = 0.8
TUNING = 100
"""Seed on which learning rates are chosen; none that is reported."""
RATES = (0.02, 0.05, 0.1)

Method = tuple[Any, Any]
"""How a client trains, and how updates are averaged."""


def methods(local: LocalTraining, mean: str) -> dict[str, Method]:
    """Return the methods compared, by name, all on the same local steps."""
    average = WeightedMean(weighting="equal" if mean == "equal" else "examples")
    return {
        "FedAvg": (local, average),
        "FedProx": (replace(local, proximal=1.0 if mean == "examples" else 10.0), average),
        "SCAFFOLD": (Scaffold(local=local), average),
    }


@dataclass(frozen=True)
class Squares:
    """Mean of (w x - y)^2 / 2: one row has curvature x^2 and optimum y / x."""

    length: int = 2
    outputs: int = 1

    def loss(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean over rows."""
        return ((logits.reshape(-1) - y) ** 2).mean() / 2


@dataclass(frozen=True)
class Wells:
    """Two clients: curvature 1 around 0 and curvature 4 around 1, one row each."""

    def train(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and y."""
        x = torch.full((1, 1), (1.0, 2.0)[client])
        return x, x.reshape(-1) * client


def quadratics(rounds: int) -> list[dict[str, Any]]:
    """Return each method's distance from the common optimum after every round."""
    line = Graph((1,), (Node("w", "linear", ("input",), (("bias", False), ("features", 1))),))
    local = LocalTraining(learning_rate=0.05, batch=0, epochs=10, path="flat")
    engine = Serial().start()
    engine.open(WorkerContext(shards=Wells(), task=Squares()))
    rows = np.array([1, 1])
    points = []
    for name, (training, aggregator) in methods(local, "equal").items():
        federation = Federation(
            engine=engine,
            task=Squares(),
            train_rows=rows,
            validation_rows=rows,
            seed=Seed(0),
            training=training,
            aggregator=aggregator,
        )
        branch = Branch(
            number=0, graph=line, flat=torch.zeros(1), cohort=(0, 1), rounds=max(rounds, 1)
        )
        for turn in range(rounds):
            branch = moved(federation, branch)
            away = abs(branch.flat.item() - 0.8)
            points.append({"method": name, "round": turn + 1, "away": max(away, 1e-7)})
    return points


def moved(federation: Federation, branch: Branch) -> Branch:
    """Return the branch after a round in which every client was heard."""
    done = step(federation, (branch,), phase="x")
    if done.incidents:
        raise SystemExit(done.incidents[0].text)
    return done.branches[0]


def network(shards: Any) -> Graph:
    """Return one hidden layer of 64."""
    nodes = (
        Node("flat", "flatten", ("input",), ()),
        Node("hidden", "linear", ("flat",), (("features", 64),)),
        Node("act", "act", ("hidden",), (("fn", "relu"),)),
        Node("out", "linear", ("act",), (("features", shards.signature.outputs),)),
    )
    return Graph(shards.signature.shape, nodes)


def accuracies(
    shards: Any, engine: Any, method: Method, seed: Seed, rounds: int
) -> Iterator[float]:
    """Yield the accuracy on everybody's validation rows after every round."""
    training, aggregator = method
    federation = Federation(
        engine=engine,
        task=shards.signature.task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=seed,
        training=training,
        aggregator=aggregator,
    )
    graph = network(shards)
    branch = Branch(
        number=0,
        graph=graph,
        flat=initialise(graph, seed.child("weights")),
        cohort=shards.training,
        rounds=rounds,
    )
    for _ in range(rounds):
        branch = moved(federation, branch)
        total = evaluate(federation, (branch,), shards.training, phase="x").total(0)
        yield shards.signature.task.metrics(total)["accuracy"]


def needed(curve: Iterator[float], rounds: int) -> int:
    """Return the round that first reaches the target; one more than `rounds` where none does."""
    return next((turn for turn, score in enumerate(curve, 1) if score >= TARGET), rounds + 1)


class Lab:
    """Shards of one seed at a time, on one engine."""

    def __init__(self, source: Any, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.engine = Serial().start()

    def open(self, number: int) -> tuple[Any, Seed]:
        """Deal the rows anew."""
        seed = Seed(number)
        shards = prepare(
            self.source,
            Classes(clients=20, per_client=2),
            Split(),
            Classification(),
            seed=seed.child("data"),
            directory=self.folder / f"{self.source.kind}-{number}",
        ).shards
        self.engine.open(WorkerContext(shards=shards, task=shards.signature.task))
        return shards, seed


def tuned(lab: Lab, local: LocalTraining, rounds: int) -> dict[str, float]:
    """Return each method's best learning rate on the tuning seed, by rounds to the target."""
    shards, seed = lab.open(TUNING)
    best: dict[str, float] = {}
    for name in ("FedAvg", "SCAFFOLD"):
        found: dict[float, tuple[int, float]] = {}
        for rate in RATES:
            method = methods(replace(local, learning_rate=rate), "examples")[name]
            curve: list[float] = []
            for score in accuracies(shards, lab.engine, method, seed, rounds):
                curve.append(score)
                if score >= TARGET:
                    break
            turns = needed(iter(curve), rounds)
            found[rate] = (turns, -max(curve, default=0.0))
            show({"tuning": name, "rate": rate, "rounds": turns, "best": max(curve, default=0.0)})
        best[name] = min(found, key=lambda rate: found[rate])
    return best


def drawn(points: list[dict[str, Any]], curves: list[dict[str, Any]], path: Path) -> None:
    """Draw both parts side by side into one SVG."""
    order = ["FedAvg", "FedProx", "SCAFFOLD"]
    colour = alt.Color("method:N", sort=order, title=None)
    dash = alt.StrokeDash("method:N", sort=order, legend=None)
    left = (
        alt.Chart(alt.Data(values=points), title="Two quadratics: distance from the optimum")
        .mark_line()
        .encode(
            x=alt.X("round:Q"),
            y=alt.Y("away:Q", scale=alt.Scale(type="log"), title="distance"),
            color=colour,
            strokeDash=dash,
        )
        .properties(width=340, height=260)
    )
    right = (
        alt.Chart(
            alt.Data(values=curves),
            title="Digits, 20 clients of two classes: validation accuracy",
        )
        .mark_line()
        .encode(
            x=alt.X("round:Q"),
            y=alt.Y("mean(accuracy):Q", scale=alt.Scale(zero=False), title="accuracy, mean"),
            color=colour,
            strokeDash=dash,
        )
        .properties(width=400, height=260)
    )
    (left | right).configure_axis(grid=False).save(str(path))


def digits(lab: Lab, seeds: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return each method's accuracy after every round, all at one learning rate."""
    local = LocalTraining(learning_rate=0.1, batch=8, epochs=10)
    points: list[dict[str, Any]] = []
    for number in seeds:
        shards, seed = lab.open(number)
        for name, method in methods(local, "examples").items():
            points += [
                {"method": name, "seed": number, "round": turn, "accuracy": score}
                for turn, score in enumerate(
                    accuracies(shards, lab.engine, method, seed, rounds), 1
                )
            ]
    return points


def fashion(lab: Lab, seeds: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return a line a seed, and the bar."""
    local = LocalTraining(batch=32, epochs=5)
    best = tuned(lab, local, rounds)
    turns: dict[str, list[int]] = {name: [] for name in best}
    lines: list[dict[str, Any]] = []
    for number in seeds:
        shards, seed = lab.open(number)
        for name, rate in best.items():
            method = methods(replace(local, learning_rate=rate), "examples")[name]
            scores = accuracies(shards, lab.engine, method, seed, rounds)
            turns[name].append(needed(scores, rounds))
        lines.append(show({"seed": number, **{name: found[-1] for name, found in turns.items()}}))
    saved = [a - b for a, b in zip(turns["FedAvg"], turns["SCAFFOLD"], strict=True)]
    low, high = interval(saved)
    more = {
        "interval": [round(low, 2), round(high, 2)],
        "seeds": len(saved),
        "rounds": {name: median(found) for name, found in turns.items()},
        "rates": best,
        "cap": rounds,
        "traffic": "SCAFFOLD sends twice as much a round",
    }
    name = "rounds to 80 % that SCAFFOLD saves over FedAvg, mean"
    return [*lines, show(bar(name, mean(saved), 0.1, **more))]


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds, two seeds")
    parser.add_argument("--only", choices=("quadratics", "digits", "fashion"), action="append")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=12_000, help="of Fashion-MNIST")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    seeds = range(2 if options.quick else options.seeds)
    parts = options.only or ("quadratics", "digits", "fashion")
    lines: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    if "quadratics" in parts:
        points = quadratics(20 if options.quick else 60)
        ends = {point["method"]: point["away"] for point in points}
        for name, most in (("FedAvg", 0.1102), ("FedProx", 0.1), ("SCAFFOLD", 1e-4)):
            what = f"{name} on two quadratics, distance from the optimum"
            lines.append(show(bar(what, ends[name], most, most=True)))
    with tempfile.TemporaryDirectory() as folder:
        if "digits" in parts:
            rounds = 3 if options.quick else 30
            curves = digits(Lab(Digits(), Path(folder)), seeds, rounds)
            late = [point for point in curves if point["round"] > rounds - 5]
            scores = {
                name: round(mean(p["accuracy"] for p in late if p["method"] == name), 4)
                for name in dict.fromkeys(point["method"] for point in late)
            }
            lines.append(show({"digits, accuracy, last five rounds": scores, "seeds": len(seeds)}))
        if "fashion" in parts:
            rows, rounds = (1500, 3) if options.quick else (options.rows, 40)
            lab = Lab(Named(name="fashion_mnist", rows=rows), Path(folder))
            lines += fashion(lab, seeds, rounds)
    write(options.write, lines)
    if options.figure is not None:
        drawn(points, curves, options.figure)


if __name__ == "__main__":
    main()
