"""Silos against pooled rows, and against training alone: the same network, three tables.

    python benchmarks/silos.py [--quick] [--only NAME] [--seeds N] [--write FILE]

heart_disease by hospital and adult by occupation in 8 silos (both need ARCHIPELAGO_DATA), and
scikit-learn's diabetes over 4 silos. The network is the hand-made one of `table-mlp`; federated
training, pooled training and each silo alone choose learning rate, weight decay and round on
validation rows, separately, and see the test rows once. A seed deals the rows that are not fixed
(validation, and diabetes' silos) and the first weights anew. "Alone, mean" is what the silos' own
models score on everybody's test rows, on average; "alone, own rows" what they score together, each
on its own.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from bars import bar, interval, show, write
from sklearn.metrics import roc_auc_score
from torch import Tensor

from archipelago.client.fedper import FedPer
from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.core.seeds import Seed
from archipelago.data.key import TestKey
from archipelago.data.partition import Iid, Natural
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Diabetes
from archipelago.data.sources.named import Named
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, Regression
from archipelago.engine.serial import Serial
from archipelago.federation.branch import Branch
from archipelago.federation.rounds import Federation, evaluate, step
from archipelago.nn.build import initialise
from archipelago.nn.model import Model
from archipelago.space.graph import Graph
from archipelago.space.table_mlp import TableMlp
from archipelago.study.running.pooled import Pooled

ALL = 99
"""More layers than any network here has: with so many of its own, a silo trains alone."""


@dataclass(frozen=True)
class Setting:
    """One table.

    Attributes:
        data: where rows come from.
        partition: which silo has which.
        split: train, validation and test.
        task: what is predicted.
        rounds: at most.
        batch: rows a step.
        rates: learning rates tried on validation rows.
        decays: weight decays tried on validation rows.
    """

    data: Any
    partition: Any
    split: Split
    task: Any
    rounds: int
    batch: int
    rates: tuple[float, ...]
    decays: tuple[float, ...]


SETTINGS = {
    "heart_disease": Setting(
        data=Named(name="heart_disease"),
        partition=Natural(),
        split=Split(official=True),
        task=Classification(metric="auroc"),
        rounds=40,
        batch=16,
        rates=(0.02, 0.05),
        decays=(0.0, 0.01),
    ),
    "adult": Setting(
        data=Named(name="adult_vertical", client="occupation"),
        partition=Natural(clients=8),
        split=Split(official=True),
        task=Classification(metric="auroc"),
        rounds=15,
        batch=64,
        rates=(0.05, 0.1),
        decays=(0.0,),
    ),
    "diabetes": Setting(
        data=Diabetes(),
        partition=Iid(clients=4),
        split=Split(),
        task=Regression(),
        rounds=60,
        batch=16,
        rates=(0.005, 0.02),
        decays=(0.0, 0.05),
    ),
}


@dataclass(frozen=True)
class Trained:
    """What training on some rows came to, at its best round by validation loss."""

    branch: Branch
    loss: float
    options: tuple[float, float, int]


class Lab:
    """One table, dealt by one seed, on one engine."""

    def __init__(self, setting: Setting, number: int, folder: Path) -> None:
        self.setting, self.seed = setting, Seed(number)
        self.shards = prepare(
            setting.data,
            setting.partition,
            setting.split,
            setting.task,
            seed=self.seed.child("data"),
            directory=folder,
        ).shards
        signature = self.shards.signature
        self.task = signature.task
        self.graph: Graph = TableMlp().baseline(signature.shape, signature.outputs)
        self.engine = Serial().start()

    def best(self, kind: str, rounds: int) -> Trained:
        """Train in one way under all options; return the best by validation loss."""
        found: list[Trained] = []
        for rate, decay in product(self.setting.rates, self.setting.decays):
            local = LocalTraining(learning_rate=rate, weight_decay=decay, batch=self.setting.batch)
            found.append(self._trained(kind, local, rounds))
        return min(found, key=lambda t: t.loss)

    def tested(self, branches: Sequence[Branch], *, own: bool = False) -> list[dict[str, float]]:
        """Return the metrics of everybody's test rows, for each branch."""
        opened = self.shards.sealed.open(TestKey(purpose="a benchmark"))
        self.engine.open(WorkerContext(shards=opened, task=self.task))
        federation = self._federation(FedPer(layers=ALL), np.asarray(opened.test_rows))
        fresh = [replace(b, number=n, status="alive") for n, b in enumerate(branches)]
        clients = range(self.shards.clients)
        scores = evaluate(federation, fresh, clients, phase="test", split="test", own=own)
        return [self.task.metrics(scores.total(branch.number)) for branch in fresh]

    def exact(self, flat: Tensor) -> float:
        """Return scikit-learn's AUROC of everybody's test rows in one place."""
        opened = self.shards.sealed.open(TestKey(purpose="a benchmark"))
        parts = [opened.test(client) for client in range(self.shards.clients)]
        model = Model.of_graph(self.graph)
        model.load(flat)
        model.eval()
        with torch.no_grad():
            logits = model(torch.cat([x for x, _ in parts])).double().numpy()
        truth = torch.cat([y for _, y in parts]).numpy()
        return float(roc_auc_score(truth, logits[:, 1] - logits[:, 0]))

    def alone(self, branch: Branch) -> list[Branch]:
        """Return one branch a silo, each with the silo's own model as its only one."""
        return [replace(branch, flat=branch.kept[c], kept={}) for c in sorted(branch.kept)]

    def _federation(self, training: Any, rows: np.ndarray, pooled: bool = False) -> Federation:
        train = self.shards.train_rows.copy()
        if pooled:
            train[0] = train.sum()
        return Federation(
            engine=self.engine,
            task=self.task,
            train_rows=train,
            validation_rows=rows,
            seed=self.seed,
            training=training,
        )

    def _trained(self, kind: str, local: LocalTraining, rounds: int) -> Trained:
        pooled = kind == "pooled"
        rows = Pooled(self.shards) if pooled else self.shards
        self.engine.open(WorkerContext(shards=rows, task=self.task))
        training = FedPer(layers=ALL, local=local) if kind == "alone" else local
        federation = self._federation(training, self.shards.validation_rows, pooled)
        branch = Branch(
            number=0,
            graph=self.graph,
            flat=initialise(self.graph, self.seed.child("weights")),
            cohort=(0,) if pooled else self.shards.training,
            rounds=rounds,
        )
        best = Trained(branch, float("inf"), (local.learning_rate, local.weight_decay, 0))
        for turn in range(rounds):
            branch = step(federation, (branch,), phase=kind).branches[0]
            if not branch.alive:
                break
            total = evaluate(
                federation, (branch,), self.shards.training, phase=kind, personal=True
            ).total(0)
            loss = float(total[1] / total[0])
            if loss < best.loss:
                best = Trained(branch, loss, (local.learning_rate, local.weight_decay, turn + 1))
        return best


def measured(name: str, number: int, quick: bool) -> dict[str, Any]:
    """Return one seed's scores: the task's metric, federated, pooled and alone."""
    setting = SETTINGS[name]
    rounds = 2 if quick else setting.rounds
    if quick:
        setting = replace(setting, rates=setting.rates[-1:], decays=setting.decays[:1])
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(setting, number, Path(folder) / "shards")
        ways = {kind: lab.best(kind, rounds) for kind in ("federated", "pooled", "alone")}
        metric = lab.task.metric
        both = lab.tested([ways["federated"].branch, ways["pooled"].branch])
        silos = lab.tested(lab.alone(ways["alone"].branch))
        own = lab.tested([ways["alone"].branch], personal=True)[0]
        line: dict[str, Any] = {
            "data": name,
            "seed": number,
            "metric": metric,
            "federated": both[0][metric],
            "pooled": both[1][metric],
            "alone_mean": mean(scores[metric] for scores in silos),
            "alone_own_rows": own[metric],
            "options": {kind: way.options for kind, way in ways.items()},
        }
        if "accuracy" in both[0]:
            line["accuracy"] = [scores["accuracy"] for scores in both]
        if metric == "auroc":
            line["exact"] = lab.exact(ways["federated"].branch.flat)
    return show({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()})


def bars(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars of one table from its seeds."""
    alone = mean(row["alone_mean"] for row in rows)
    ours, theirs = mean(row["federated"] for row in rows), mean(row["pooled"] for row in rows)
    more: dict[str, Any] = {"seeds": len(rows)}
    if name == "diabetes":
        if len(rows) > 1:
            ratios = [100 * (row["federated"] / row["pooled"] - 1) for row in rows]
            more["interval"] = [round(v, 3) for v in interval(ratios)]
        over = 100 * (ours / theirs - 1)
        return [
            bar("diabetes, RMSE over pooled training, per cent", over, 3, most=True, **more),
            bar("diabetes, RMSE below the mean silo alone", alone - ours, 0.0, **more),
        ]
    if len(rows) > 1:
        gaps = [100 * (row["federated"] - row["pooled"]) for row in rows]
        more["interval"] = [round(v, 3) for v in interval(gaps)]
    away = max(abs(row["federated"] - row["exact"]) for row in rows)
    accuracy = [mean(row["accuracy"][i] for row in rows) for i in (0, 1)]
    return [
        bar(f"{name}, AUROC against pooled training, points", 100 * (ours - theirs), -1, **more),
        bar(f"{name}, AUROC over the mean silo alone, points", 100 * (ours - alone), 0.0),
        bar(
            f"{name}, accuracy against pooled training, points",
            100 * (accuracy[0] - accuracy[1]),
            -1,
        ),
        bar(f"{name}, AUROC from histograms against exact, worst seed", away, 1e-3, most=True),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two seeds, two rounds")
    parser.add_argument("--only", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    seeds = range(2 if options.quick else options.seeds)
    lines: list[dict[str, Any]] = []
    for name in [options.only] if options.only else SETTINGS:
        rows = [measured(name, number, options.quick) for number in seeds]
        lines += [*rows, *(show(line) for line in bars(name, rows))]
    write(options.write, lines)


if __name__ == "__main__":
    main()
