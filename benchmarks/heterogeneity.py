"""Where FedAvg drifts, and what FedProx and SCAFFOLD make of it.

    python benchmarks/heterogeneity.py [--quick] [--seeds N] [--write FILE] [--figure FILE]

Two parts. Two quadratics (curvatures 1 and 4, optima 0 and 1, ten local steps) have their common
optimum at 0.8, so that the error of each method is known exactly. Fashion-MNIST (needs
ARCHIPELAGO_DATA) on 20 clients of two classes each: rounds until the model is right on 80 % of
everybody's validation rows. Each method's learning rate is chosen beforehand, on other seeds than
those that are reported; all clients take part in every round. The figure shows both, the second at
each method's learning rate, FedProx at FedAvg's. FedNova is FedAvg here: every client takes the
same number of steps.
"""

import argparse
import tempfile
from collections.abc import Iterator
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
from archipelago.client.workplace import Workplace
from archipelago.core.seeds import Seed
from archipelago.data.partition import Classes
from archipelago.data.prepare import prepare
from archipelago.data.sources.named import Named
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.federation.branch import Branch
from archipelago.federation.rounds import Federation, evaluate, step
from archipelago.nn.build import initialise
from archipelago.space.graph import Graph, Node

TARGET = 0.8
SEEDS = range(5)
TUNING = 100
"""Seed on which learning rates are chosen; none that is reported."""
RATES = (0.02, 0.05, 0.1)
SHOWN, SHOWN_SEEDS = 15, (0, 1)
"""Rounds that the figure shows, and the seeds whose mean it is."""

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
    engine.open(Workplace(shards=Wells(), task=Squares()))
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
            branch = step(federation, (branch,), phase="x").branches[0]
            away = abs(branch.flat.item() - 0.8)
            points.append({"method": name, "round": turn + 1, "away": max(away, 1e-7)})
    return points


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
        branch = step(federation, (branch,), phase="x").branches[0]
        if not branch.alive:
            return
        total = evaluate(federation, (branch,), shards.training, phase="x").total(0)
        yield shards.signature.task.metrics(total)["accuracy"]


def needed(curve: Iterator[float], rounds: int) -> int:
    """Return the round that first reaches the target; one more than `rounds` where none does."""
    return next((turn for turn, score in enumerate(curve, 1) if score >= TARGET), rounds + 1)


class Lab:
    """Shards of one seed at a time, on one engine."""

    def __init__(self, rows: int, folder: Path) -> None:
        self.rows, self.folder = rows, folder
        self.engine = Serial().start()

    def open(self, number: int) -> tuple[Any, Seed]:
        """Deal the rows anew."""
        seed = Seed(number)
        shards = prepare(
            Named(name="fashion_mnist", rows=self.rows),
            Classes(clients=20, per_client=2),
            Split(),
            Classification(),
            seed=seed.child("data"),
            directory=self.folder / str(number),
        ).shards
        self.engine.open(Workplace(shards=shards, task=shards.signature.task))
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


def compared(local: LocalTraining, best: dict[str, float]) -> dict[str, Method]:
    """Return the methods at their learning rates; FedProx takes FedAvg's."""
    return {
        name: methods(replace(local, learning_rate=best.get(name, best["FedAvg"])), "examples")[
            name
        ]
        for name in ("FedAvg", "FedProx", "SCAFFOLD")
    }


def curve_of(scores: Iterator[float], least: int) -> list[float]:
    """Return accuracies up to the target, and at least `least` of them."""
    found: list[float] = []
    for score in scores:
        found.append(score)
        if len(found) >= least and max(found) >= TARGET:
            break
    return found


def drawn(points: list[dict[str, Any]], curves: list[dict[str, Any]], path: Path) -> None:
    """Draw both parts side by side into one SVG."""
    order = ["FedAvg", "FedProx", "SCAFFOLD"]
    colour = alt.Color("method:N", sort=order, title=None)
    dash = alt.StrokeDash("method:N", sort=order, title=None)
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
            title="Fashion-MNIST, 20 clients of two classes: validation accuracy",
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


def _rate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds, two seeds")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument(
        "--rates", type=_rate, nargs="*", help="FedAvg=0.05 SCAFFOLD=0.05: choose none anew"
    )
    parser.add_argument("--write", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    seeds = range(2 if options.quick else options.seeds)
    rounds, rows = (3, 1500) if options.quick else (40, options.rows)
    lines: list[dict[str, Any]] = []
    points = quadratics(20 if options.quick else 60)
    ends = {point["method"]: point["away"] for point in points}
    for name, most in (("SCAFFOLD", 1e-4), ("FedProx", ends["FedAvg"])):
        lines.append(show(bar(f"{name} on two quadratics, distance", ends[name], most, most=True)))
    lines.append(show(bar("FedAvg on two quadratics, distance", ends["FedAvg"], 0.11)))
    local = LocalTraining(batch=32, epochs=5)
    curves: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(rows, Path(folder))
        best = dict(options.rates or tuned(lab, local, rounds))
        turns: dict[str, list[int]] = {name: [] for name in best}
        for number in seeds:
            shards, seed = lab.open(number)
            seen = SHOWN if number in SHOWN_SEEDS else 0
            for name, method in compared(local, best).items():
                if name not in turns and not seen:
                    continue
                scores = accuracies(shards, lab.engine, method, seed, rounds)
                found = curve_of(scores, seen)
                if name in turns:
                    turns[name].append(needed(iter(found), rounds))
                curves += [
                    {"method": name, "seed": number, "round": turn, "accuracy": score}
                    for turn, score in enumerate(found[:seen], 1)
                ]
            lines.append(
                show({"seed": number, **{name: found[-1] for name, found in turns.items()}})
            )
    saved = [a - b for a, b in zip(turns["FedAvg"], turns["SCAFFOLD"], strict=True)]
    low, high = interval(saved)
    lines.append(
        show(
            bar(
                "rounds to 80 % that SCAFFOLD saves over FedAvg, mean",
                mean(saved),
                0.1,
                low=round(low, 2),
                high=round(high, 2),
                seeds=len(saved),
                rounds={name: median(found) for name, found in turns.items()},
                rates=best,
                cap=rounds,
                traffic="SCAFFOLD sends twice as much a round",
            )
        )
    )
    names = ("FedAvg", "FedProx", "SCAFFOLD")
    late = {
        name: round(
            mean(p["accuracy"] for p in curves if p["method"] == name and p["round"] > SHOWN - 5), 4
        )
        for name in (() if options.quick else names)
    }
    lines.append(show({"accuracy, mean of rounds": f"{SHOWN - 4} to {SHOWN}", **late}))
    write(options.write, lines)
    if options.figure is not None:
        drawn(points, curves, options.figure)


if __name__ == "__main__":
    main()
