"""FedNAS against the straightforward federated search: client cost, and the accuracy beside it.

    python benchmarks/fednas.py [--quick] [--seeds 5] [--arms naive,ours4,...] [--write FILE]

Fashion-MNIST, averaged to 14 x 14, on 160 training clients (labels Dirichlet 0.5, 64 rows each) and
40 separate validation clients; a network of four convolutions and a hidden layer, shrunk in six
steps to half its MACs. Every arm of a seed begins with the same trained network and meets the same
budgets; the network found for the last one is then trained alike on all clients and tested on the
10,000 published test rows. With `--data har` the clients are 17 people, 4 others validate, and 9
more are tested on; arms `ours3`, `naive` and `random` suit so few.

`--write` keeps each arm's row as soon as it is there, and skips those it finds: a run may be
interrupted. `--summary` prints the bars from such a file.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from bars import bar, interval, show
from naive import naive
from scipy import stats
from torch import Tensor

from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.estimate.context import EvaluationContext
from archipelago.estimate.margin import bound, drift_of
from archipelago.estimate.race import Race
from archipelago.estimate.rounds import Rounds
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation, Scores, evaluate, step
from archipelago.nn.build import initialise
from archipelago.nn.inherit import inherited
from archipelago.nn.model import Model
from archipelago.space.graph import Graph
from archipelago.space.sketch import Sketch
from archipelago.space.widths import Narrower
from archipelago.strategy.base import Memory
from archipelago.strategy.shrinking import ProgressiveShrinking

CLIENTS, VALIDATORS = 160, 40
WATCHERS = 4
"""Of the 21 people whose motions train, those who only validate."""
ROWS, OWN, CHECKED = 64, 32, 64
"""Train rows and validation rows of a training client; validation rows of a validating one."""
STRATEGY = ProgressiveShrinking(step=1 / 12, until=0.5)
ITERATIONS = 6
T_MAX, LONG = 2, 5
"""Rounds of the naive search, as `--arms t_max` measured them, looking as far as `LONG`."""
LOCAL = LocalTraining(learning_rate=0.1, momentum=0.9, batch=32)
MOTION = replace(LOCAL, learning_rate=0.03, clip=1.0)
"""With `LOCAL` the first network of seed 0 diverged on motions."""
WARM, TUNE, SAMPLED = 200, 120, 20
"""Rounds of the first network and of final training, and clients in each of these rounds."""


class Rows:
    """Every client's rows, in memory: first those that train, then those that only validate.

    Args:
        x: everybody's inputs.
        y: their classes.
        owned: each client's row numbers; those to train on come first.
        train: how many of them each trains on; 0 for a validating client.
    """

    def __init__(self, x: Tensor, y: Tensor, owned: Sequence[Tensor], train: Sequence[int]) -> None:
        self.train_rows = np.array(train)
        self.validation_rows = np.array([len(rows) for rows in owned]) - self.train_rows
        self.training = tuple(np.flatnonzero(self.train_rows).tolist())
        self.validators = tuple(np.flatnonzero(self.train_rows == 0).tolist())
        self._x, self._y, self._rows = x, y, owned

    def train(self, client: int) -> tuple[Tensor, Tensor]:
        """Return a client's train rows."""
        rows = self._rows[client][: self.train_rows[client]]
        return self._x[rows], self._y[rows]

    def validation(self, client: int) -> tuple[Tensor, Tensor]:
        """Return a client's validation rows."""
        rows = self._rows[client][self.train_rows[client] :]
        return self._x[rows], self._y[rows]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One seed's world: data, federation, network, and its trained weights."""

    seed: int
    rows: Any
    task: Classification
    federation: Federation
    narrower: Narrower
    flat: Tensor
    test: tuple[Tensor, Tensor]
    tune: int

    @property
    def root(self) -> Seed:
        """The root of all streams."""
        return Seed(self.seed)

    def context(self, phase: str = "search", **more: Any) -> EvaluationContext:
        """Return where an arm's candidates are compared."""
        return EvaluationContext(
            federation=self.federation,
            graph=self.narrower.graph,
            clients=self.rows.training,
            scorers=self.rows.validators,
            phase=phase,
            **more,
        )

    def state(self, strategy: ProgressiveShrinking) -> Any:
        """Return a strategy's state after the whole network has come back."""
        state = Memory(space=self.narrower.space(), seed=self.root.child("strategy"))
        state, (whole,) = strategy.ask(state, 1)
        return state.hear([Outcome(number=0, arch=whole.arch, score=0.0)])


def fashion() -> dict[str, Tensor]:
    """Return the published train and test rows, averaged to 14 x 14 and scaled."""
    z = np.load(Path(os.environ["ARCHIPELAGO_DATA"], "fashion_mnist", "data.npz"))

    def small(x: np.ndarray) -> Tensor:
        halves = x.astype(np.float32).reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)) / 255
        return torch.from_numpy((halves - 0.286) / 0.32)

    return {
        "x": small(z["x_train"]),
        "y": torch.from_numpy(z["y_train"].astype(np.int64)),
        "test_x": small(z["x_test"]),
        "test_y": torch.from_numpy(z["y_test"].astype(np.int64)),
    }


def dealt(seed: Seed, clients: int, validators: int, data: dict[str, Tensor]) -> Rows:
    """Deal rows with label skew: Dirichlet 0.5 a client."""
    rng = seed.numpy()
    pools = [list(rng.permutation(np.flatnonzero(data["y"].numpy() == k))) for k in range(10)]
    owned: list[Tensor] = []
    for count in [ROWS + OWN] * clients + [CHECKED] * validators:
        share = rng.dirichlet(np.full(10, 0.5))
        # A class that has run out gives its part to the others.
        share = np.where([len(pool) > count for pool in pools], share + 1e-9, 0)
        drawn = rng.multinomial(count, share / share.sum())
        rows = [pools[k].pop() for k in range(10) for _ in range(drawn[k])]
        owned.append(torch.from_numpy(rng.permutation(np.array(rows))))
    return Rows(data["x"], data["y"], owned, [ROWS] * clients + [0] * validators)


def motions() -> dict[str, Tensor]:
    """Return six activities of 21 people, and of 9 others to test on; channels scaled."""
    z = np.load(Path(os.environ["ARCHIPELAGO_DATA"], "har_subjects", "data.npz"))
    basic, test = z["y"] < 6, z["is_test"]
    x = (z["x"] * z["scale"]).astype(np.float32).transpose(0, 2, 1)
    known = x[basic & ~test]
    x = (x - known.mean((0, 2), keepdims=True)) / known.std((0, 2), keepdims=True)
    found: dict[str, Tensor] = {"subject": torch.from_numpy(z["subject"][basic & ~test])}
    for name, some in (("", basic & ~test), ("test_", basic & test)):
        found[name + "x"] = torch.from_numpy(x[some])
        found[name + "y"] = torch.from_numpy(z["y"][some].astype(np.int64))
    return found


def people(seed: Seed, data: dict[str, Tensor]) -> Rows:
    """Give everybody their own windows; `WATCHERS` of the 21, drawn, only validate."""
    order = seed.numpy().permutation(np.unique(data["subject"].numpy()))
    owned = [torch.from_numpy(np.flatnonzero(data["subject"].numpy() == one)) for one in order]
    train = [len(rows) * 4 // 5 for rows in owned[:-WATCHERS]] + [0] * WATCHERS
    return Rows(data["x"], data["y"], owned, train)


def network(shape: tuple[int, ...], classes: int) -> Graph:
    """Return four convolutions, the first with stride 2, and a hidden layer."""
    sketch = Sketch(shape)
    for filters, kernel, stride in ((16, 5, 2), (24, 3, 2), (32, 3, 1), (40, 3, 2)):
        sketch.conv(filters, kernel=kernel, stride=stride)
        sketch.add("act")
    sketch.flatten()
    sketch.dense(64)
    sketch.add("linear", features=classes)
    return sketch.graph()


def setting(seed: int, data: dict[str, Tensor], *, quick: bool) -> Setting:
    """Make a seed's world and train its first network by ordinary federated averaging."""
    root = Seed(seed)
    if "subject" in data:
        rows = people(root.child("rows"), data)
    else:
        counts = (40, 10) if quick else (CLIENTS, VALIDATORS)
        rows = dealt(root.child("rows"), *counts, data)
    classes = int(data["y"].max()) + 1
    task = Classification(classes=tuple("0123456789")[:classes])
    engine = Serial().start()
    engine.open(WorkerContext(shards=rows, task=task))
    federation = Federation(
        engine=engine,
        task=task,
        train_rows=rows.train_rows,
        validation_rows=rows.validation_rows,
        seed=root,
        training=MOTION if "subject" in data else LOCAL,
    )
    graph = network(tuple(data["x"].shape[1:]), classes)
    first = Branch(
        number=0,
        graph=graph,
        flat=initialise(graph, root.child("first")),
        cohort=rows.training,
        rounds=WARM,
    )
    sampled = replace(federation, cohort=Cohort(clients=min(SAMPLED, len(rows.training))))
    for _ in range(20 if quick else WARM):
        (first,) = step(sampled, (first,), phase="warm").branches
    return Setting(
        seed=seed,
        rows=rows,
        task=task,
        federation=federation,
        narrower=Narrower(network=graph, least=0.1),
        flat=first.flat,
        test=(data["test_x"], data["test_y"]),
        tune=8 if quick else TUNE,
    )


def race_of(name: str, t_max: int, *, strategy: ProgressiveShrinking = STRATEGY) -> Any:
    """Return an arm's plan, and its strategy."""
    common = {"candidates": 5, "inherit": True, "generations": ITERATIONS}
    few = {"validators": 4, "rows": CHECKED}
    dynamic = {"first": 1, "last": t_max, "growth": "linear"}
    constant = {"first": 1, "last": t_max, "growth": "constant"}
    match name:
        case "ours3" | "ours4":
            return Race(**common, **few, **dynamic, group=int(name[-1]), drop="half"), strategy
        case "ours2":
            more = {**few, "validators": 8}
            return Race(**common, **more, **dynamic, group=2, drop="half"), strategy
        case "screened4" | "screened2":
            # Scored before training by 2 validators; only the better two candidates train.
            more = {"validators": 2, "rows": CHECKED, "screen": 2, "group": int(name[-1])}
            return Race(**common, **more, **dynamic, drop="half"), strategy
        case "trainers4":
            race = Race(**common, **dynamic, group=4, drop="half", scorers="trainers")
            return race, strategy
        case "trainers3" | "trainers2":
            more = {"rows": CHECKED, "scorers": "trainers", "group": int(name[-1])}
            return Race(**common, **more, **dynamic, drop="half"), strategy
        case "ours2v2":
            more = {"rows": CHECKED, "validators": 2, "group": 2}
            return Race(**common, **more, **dynamic, drop="half"), strategy
        case "before3" | "stated4":
            # Once, before training; all 4 validators where there are no 8. A drift states a risk.
            more = {"rows": CHECKED, "validators": 8, "group": int(name[-1]), "checkpoint": 0}
            more |= {"drift": 0.06} if name == "stated4" else {}
            return Race(**common, **more, **dynamic, drop="margin"), strategy
        case "partial":
            race = Race(**common, **few, **constant, group=4, drop="none", checkpoint=t_max)
            return race, strategy
        case "dynamic":
            race = Race(**common, **few, **dynamic, group=4, drop="none", checkpoint=t_max)
            return race, strategy
        case "training-free" | "training-free16":
            few = {**few, "validators": 16} if name.endswith("16") else few
            return Race(**common, **few, **dynamic, group=1, screen=1), strategy
        case "random":
            # What ours gives its winner, without asking which candidate is better.
            race = Race(
                candidates=1, group=4, inherit=True, first=1, last=2, growth="linear",
                generations=2, drop="none", validators=1, rows=1, checkpoint=2,
            )  # fmt: skip
            return race, replace(strategy, pick="random")
    raise ValueError(name)


def searched(world: Setting, race: Race, strategy: ProgressiveShrinking) -> dict[str, Any]:
    """Run a plan over the library's loop two; return its front and its meter's sums."""
    kept: dict[int, tuple[Graph, Tensor]] = {0: (world.narrower.network, world.flat)}
    state = world.state(strategy)
    cost = {"train_macs": 0, "macs": 0, "train_bytes": 0, "bytes": 0, "fits": 0, "evaluations": 0}
    index = 0
    while True:
        context = world.context(parent=kept.get)
        state, proposals = strategy.ask(state, race.width(len(context.clients)))
        if not proposals:
            break
        generation = race.start(proposals, index, context)
        for moment in race.run(generation, context):
            generation = moment.generation
            for row in moment.rows:
                moved, fit = row.bytes_up + row.bytes_down, row.kind == "fit"
                cost["macs"] += row.macs
                cost["bytes"] += moved
                cost["train_macs"] += row.macs * fit
                cost["train_bytes"] += moved * fit
                cost["fits"] += fit
                cost["evaluations"] += row.kind == "evaluate"
        kept |= {b.number: (b.graph, b.flat) for b in generation.branches}
        state = state.hear(generation.outcomes)
        index += 1
    return {"cost": cost, "front": [kept[number] for number in strategy.recorded(state)]}


def search_naive(world: Setting, t_max: int, *, probe: bool) -> dict[str, Any]:
    """Run the naive search; beside it, score the same candidates in the short and cheap ways."""
    kept: dict[int, tuple[Graph, Tensor]] = {0: (world.narrower.network, world.flat)}
    space = world.narrower.space()
    state, told, probes = world.state(STRATEGY), [], []

    def seen(proposals: Sequence[Any], found: Sequence[Any]) -> None:
        told.append((proposals, found))
        if probe:
            probes.append(
                probed(world, proposals, found, kept=kept, t_max=t_max, generation=len(probes))
            )

    costs: dict[str, int] = {}
    for cost in naive(
        shards=world.rows, task=world.task, training=world.federation.training, seed=world.root,
        strategy=STRATEGY, state=state, narrower=world.narrower, kept=kept, rounds=t_max,
        validators=world.rows.validators, seen=seen,
    ):  # fmt: skip
        costs = {name: costs.get(name, 0) + value for name, value in cost.items()}
    final = state
    for proposals, found in told:
        final, again = STRATEGY.ask(final, 10_000)
        assert [p.number for p in again] == [p.number for p in proposals]
        final = final.hear(found)
    assert final.space == space
    front = [kept[number] for number in STRATEGY.recorded(final)]
    return {"cost": costs, "front": front, "probes": probes}


def probed(
    world: Setting, proposals: Any, found: Any, *, kept: Any, t_max: int, generation: int
) -> dict[str, Any]:
    """Score the naive search's own candidates by short training on 4 clients each."""
    race = replace(race_of("partial", t_max)[0], validators=0, checkpoint=1)
    context = world.context(phase="probe", parent=kept.get)
    generation = race.start(proposals, generation, context)
    everyone = world.rows.validators
    curves: list[dict[str, Any]] = []

    def look(branches: Any, turn: int) -> None:
        # A branch that has ended is scored too.
        alive = [replace(b, status="alive") for b in branches]
        vectors = evaluate(world.federation, alive, everyone, phase="probe").vectors
        curves.append(
            {
                "round": turn,
                "loss": [
                    [round(float(vectors[b.number][c][1]), 4) for c in everyone] for b in alive
                ],
                "own": [round(own_loss(world, b), 4) for b in alive],
            }
        )

    look(generation.branches, 0)
    for turn, moment in enumerate(race.run(generation, context), 1):
        look(moment.generation.branches, turn)
    return {
        "full_loss": [o.metrics["loss"] for o in found],
        "full_accuracy": [o.metrics["accuracy"] for o in found],
        "curves": curves,
    }


def own_loss(world: Setting, branch: Branch) -> float:
    """Return a branch's loss on the clients that train it: what these would report."""
    model = Model.of_graph(branch.graph)
    model.load(branch.flat)
    model.eval()
    with torch.no_grad():
        rows = [world.rows.validation(client) for client in branch.cohort]
        losses = [world.task.loss(model(x), y).item() for x, y in rows]
    return mean(losses)


def tested(world: Setting, front: Sequence[tuple[Graph, Tensor]]) -> dict[str, Any]:
    """Train the network of the last budget on all clients; test it once."""
    out: list[dict[str, float]] = []
    for graph, flat in front[-1:]:
        branch = Branch(
            number=len(out), graph=graph, flat=flat, cohort=world.rows.training, rounds=world.tune
        )
        training = replace(world.federation.training, schedule="linear")
        cohort = Cohort(clients=min(SAMPLED, len(world.rows.training)))
        sampled = replace(world.federation, cohort=cohort, training=training)
        macs = moved = 0
        for _ in range(world.tune):
            done = step(sampled, (branch,), phase="final")
            (branch,) = done.branches
            macs += sum(row.macs for row in done.rows)
            moved += sum(row.bytes_up + row.bytes_down for row in done.rows)
        model = Model.of_graph(graph)
        model.load(branch.flat)
        model.eval()
        x, y = world.test
        with torch.no_grad():
            right = sum(
                int((model(x[at : at + 1000]).argmax(1) == y[at : at + 1000]).sum())
                for at in range(0, len(y), 1000)
            )
        out.append(
            {"accuracy": right / len(y), "macs": graph.macs, "params": graph.params,
             "final_macs": macs, "final_bytes": moved}
        )  # fmt: skip
    return {"tested": out, "accuracy": mean(row["accuracy"] for row in out)}


def longest(world: Setting, most: int) -> dict[str, Any]:
    """Return Kendall's tau between naive's ranking after T and after 2 T rounds.

    Along the naive search's own path: the mean over its iterations, and each of them. `t_max` is
    that of `least`.
    """
    kept: dict[int, tuple[Graph, Tensor]] = {0: (world.narrower.network, world.flat)}
    state, taus, plan = world.state(STRATEGY), [], None
    while len(taus) < ITERATIONS:
        state, proposals = STRATEGY.ask(state, 100)
        if not proposals:
            break
        context = world.context(phase="longest", parent=kept.get)
        plan = Rounds(rounds=2 * most, candidates=len(proposals), every=1, inherit=True)
        *_, last = plan.run(plan.start(proposals, len(taus), context), context)
        kept |= {b.number: (b.graph, b.flat) for b in last.generation.branches}
        state = state.hear(last.generation.outcomes)
        losses = np.array([[loss for _, loss, _ in b.history] for b in last.generation.branches])
        taus.append(
            [
                float(stats.kendalltau(losses[:, t - 1], losses[:, 2 * t - 1])[0])
                for t in range(1, most + 1)
            ]
        )
    found, means = least(taus)
    return {"tau": means, "taus": taus, "t_max": found}


def centralised(world: Setting) -> dict[str, Any]:
    """Search on the pooled rows: one owner of all, an epoch a candidate."""
    pooled = Pool(world.rows)
    engine = Serial().start()
    engine.open(WorkerContext(shards=pooled, task=world.task))
    federation = replace(
        world.federation, engine=engine, train_rows=pooled.train_rows,
        training=replace(LOCAL, batch=160),
    )  # fmt: skip
    there = replace(world, federation=federation, rows=pooled)
    race = Race(
        candidates=5, inherit=True, first=1, last=1, groups=1, drop="none", generations=ITERATIONS
    )
    found = searched(there, race, STRATEGY)
    # Its architecture, not the epochs that it had: the weights are those of the first network.
    first = world.narrower.network
    found["front"] = [(graph, inherited(first, world.flat, graph)) for graph, _ in found["front"]]
    return found


class Pool:
    """All train rows with client 0."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.training, self.validators = rows, (0,), rows.validators
        self.train_rows = np.where(
            np.arange(len(rows.train_rows)) == 0, rows.train_rows.sum(), rows.train_rows
        )
        self.validation, self.validation_rows = rows.validation, rows.validation_rows

    def train(self, _: int) -> tuple[Tensor, Tensor]:
        """Return everybody's rows."""
        parts = [self.rows.train(client) for client in self.rows.training]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


ARMS = (
    "screened4", "screened2", "ours4", "ours2", "training-free", "random", "naive", "t_max",
    "partial", "dynamic", "trainers4", "centralised", "training-free16",
)  # fmt: skip
"""Most important first."""


def arm(name: str, world: Setting, t_max: int) -> dict[str, Any]:
    """Measure one arm of one seed."""
    began, cpu = time.perf_counter(), time.process_time()
    if name == "t_max":
        found = longest(world, LONG)
    else:
        if name in ("naive", "probes"):
            many = len(world.rows.training) >= 20  # enough for the probe's groups
            found = search_naive(world, t_max, probe=many)
        elif name == "centralised":
            found = centralised(world)
        else:
            found = searched(world, *race_of(name, t_max))
        front = found.pop("front")
        if name != "probes":
            found |= tested(world, front) | {"front": [graph.macs for graph, _ in front]}
    return {
        "arm": name,
        "seed": world.seed,
        "clients": len(world.rows.training),
        "candidates": 5,
        "iterations": ITERATIONS,
        "rounds": t_max,
        "tune": world.tune,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        **found,
    }


def kept_rows(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows that an earlier run left."""
    if path is None or not path.is_file():
        return []
    return [row for line in path.read_text().splitlines() if "arm" in (row := json.loads(line))]


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is missing, most important first."""
    rows = kept_rows(options.write)
    t_max = options.rounds
    data = motions() if options.data == "har" else fashion()
    for seed in range(options.start, 1 if options.quick else options.seeds):
        world: Setting | None = None
        for name in options.arms.split(","):
            if any(row["arm"] == name and row["seed"] == seed for row in rows):
                continue
            world = world or setting(seed, data, quick=options.quick)
            world = replace(world, tune=8 if options.quick else options.tune)
            row = arm(name, world, t_max)
            rows.append(row)
            show({k: v for k, v in row.items() if k not in ("probes", "losses")})
            if options.write is not None:
                with options.write.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
    return rows


def of(rows: Sequence[dict[str, Any]], name: str) -> dict[int, dict[str, Any]]:
    """Return an arm's rows by seed."""
    return {row["seed"]: row for row in rows if row["arm"] == name}


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Return how many times more the naive search costs: three ratios, in MACs and in bytes."""
    a, b = ours["cost"], theirs["cost"]
    final = {n: sum(net[f"final_{n}"] for net in ours["tested"]) for n in ("macs", "bytes")}
    also = {n: sum(net[f"final_{n}"] for net in theirs["tested"]) for n in ("macs", "bytes")}
    out: dict[str, float] = {}
    for unit in ("macs", "bytes"):
        out[f"training_{unit}"] = b[f"train_{unit}"] / max(1, a[f"train_{unit}"])
        out[f"everything_{unit}"] = b[unit] / a[unit]
        out[f"with_final_{unit}"] = (b[unit] + also[unit]) / (a[unit] + final[unit])
    return {name: round(value, 1) for name, value in out.items()}


def saved(mine: dict[int, Any], theirs: dict[int, Any]) -> tuple[list[int], dict[str, list[float]]]:
    """Return the seeds that both arms have, and each of their `ratios` over these seeds."""
    seeds = sorted(mine.keys() & theirs.keys())
    found = [ratios(mine[seed], theirs[seed]) for seed in seeds]
    return seeds, {key: [one[key] for one in found] for key in (found[0] if found else ())}


ARMED = {"ours4": 120, "ours2": 240, "screened4": 120, "screened2": 240, "training-free": 0}
"""The bar of training alone, by 4 and by 2 clients a candidate; 0: it trains none."""


def bars_of(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every bar for which the rows are there."""
    theirs = of(rows, "naive")
    about = {"N": CLIENTS, "groups_of_layers": 5, "I": ITERATIONS}
    if "ours3" in {row["arm"] for row in rows}:
        yield from on_people(rows)
        yield from baselines(rows)
        return
    for name, alone in ARMED.items():
        mine = of(rows, name)
        seeds, found = saved(mine, theirs)
        if not seeds:
            continue
        worst = {key: min(values) for key, values in found.items()}
        rounds, fits = theirs[seeds[0]]["rounds"], theirs[seeds[0]]["cost"]["fits"]
        about |= {"T_max": rounds, "candidates": fits // CLIENTS // rounds, "seeds": seeds}
        for unit, least in (("macs", 100), ("bytes", 90)):
            if alone:
                yield bar(f"client cost, training alone, {name}, {unit}",
                          worst[f"training_{unit}"], alone, three=worst, **about)  # fmt: skip
            yield bar(f"client cost, everything counted, {name}, {unit}",
                      worst[f"everything_{unit}"], least, **about)  # fmt: skip
        yield from gap(f"accuracy against naive, {name}", mine, theirs, -0.5)
    yield from gap("accuracy of stated4 against naive", of(rows, "stated4"), theirs, -0.5)
    for name in (*ARMED, "stated4", "naive"):
        yield from gap(
            f"{name} against the random candidate", of(rows, name), of(rows, "random"), 0
        )
    yield from gap(
        "accuracy against naive, training-free16", of(rows, "training-free16"), theirs, -0.5
    )
    for name in ARMED:
        pooled = of(rows, "centralised")
        yield from gap(f"{name} against centralised search", of(rows, name), pooled, -1)
    for few in ("4", "2"):
        screened, plain = of(rows, f"screened{few}"), of(rows, f"ours{few}")
        yield from difference(f"bias of two validators, {few} clients", screened, plain)
    for name in ("partial", "dynamic", *ARMED, "training-free16", "stated4", "trainers4", "random"):
        yield from ablation(name, of(rows, name), theirs)
    yield from baselines(rows)
    probes = {seed: row["probes"] for seed, row in theirs.items() if row.get("probes")}
    fresh = {seed: row["probes"] for seed, row in of(rows, "probes").items()}
    for word, some in (("", probes), ("fresh seeds", fresh)):
        if some:
            about = {"of": word} if word else {}
            yield about | show_ranks([race for races in some.values() for race in races])
    if probes:
        yield from risks(probes, fresh)


PEOPLE = ("ours3", "trainers3", "ours2v2", "trainers2", "before3", "training-free")
"""Arms that suit few clients; common validators: 4, none, 2, none, 4 and 4."""


def on_people(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the bars of natural clients: people, of whom there are few; for each arm there is."""
    theirs = of(rows, "naive")
    for name in PEOPLE:
        mine = of(rows, name)
        seeds, found = saved(mine, theirs)
        if not seeds:
            continue
        about = {"N": mine[seeds[0]]["clients"], "seeds": seeds}
        for unit in ("macs", "bytes"):
            each = found[f"everything_{unit}"]
            yield bar(f"client cost on people, everything counted, {name}, {unit}",
                      min(each), 10, mean=round(mean(each), 1), **about)  # fmt: skip
        yield from gap(f"accuracy on people, {name} against naive", mine, theirs, -0.5)
    for name in PEOPLE[1:]:
        yield from difference(f"bias of {name}'s scores", of(rows, name), of(rows, "ours3"))
    for name in (*PEOPLE, "naive"):
        yield from difference(f"{name} against random", of(rows, name), of(rows, "random"))
    for name in (*PEOPLE, "naive", "random"):
        values = [100 * row["accuracy"] for row in of(rows, name).values()]
        if len(values) >= 2:
            low, high = interval(values)
            yield {"accuracy on people": name, "mean": round(mean(values), 2),
                   "low": round(low, 2), "high": round(high, 2), "seeds": len(values)}  # fmt: skip


def difference(name: str, a: dict[int, Any], b: dict[int, Any]) -> Iterator[dict[str, Any]]:
    """Yield a paired difference in points of test accuracy, with its 95 % interval; no bar."""
    for line in gap(name, a, b, 0):
        yield {
            "difference": name,
            "low": line["value"],
            **{key: line[key] for key in ("mean", "high", "p", "seeds")},
        }


def ablation(name: str, mine: dict[int, Any], theirs: dict[int, Any]) -> Iterator[dict[str, Any]]:
    """Yield an arm's cost and accuracy, means over the seeds that naive has too."""
    seeds, found = saved(mine, theirs)
    if seeds:
        means = {key: round(mean(values), 1) for key, values in found.items()}
        if not mine[seeds[0]]["cost"]["fits"]:
            means = {key: value for key, value in means.items() if "training" not in key}
        yield {
            "ablation": name,
            "ratios": means,
            "accuracy": round(mean(mine[seed]["accuracy"] for seed in seeds), 4),
            "naive": round(mean(theirs[seed]["accuracy"] for seed in seeds), 4),
            "seeds": seeds,
        }


def baselines(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the least rounds at which naive's ranking agrees with that of twice as many.

    Over all races measured, and for each iteration of the search by itself.
    """
    found = of(rows, "t_max")
    each = [row["taus"] for row in found.values()]
    if not each:
        return
    t_max, means = least([taus for races in each for taus in races])
    races = sum(map(len, each))
    yield {"t_max": t_max, "tau": means, "seeds": sorted(found), "races": races}
    for turn, some in enumerate(zip(*each, strict=True)):
        t_max, means = least(some)
        yield {"iteration": turn, "t_max": t_max, "tau": means}


def least(races: Sequence[Sequence[float]]) -> tuple[int | None, dict[int, float]]:
    """Return the least T whose mean tau over the races is at least 0.9, and the means by T."""
    means = {t: mean(taus) for t, taus in enumerate(zip(*races, strict=True), 1)}
    found = next((t for t, value in means.items() if value >= 0.9), None)
    return found, {t: round(value, 3) for t, value in means.items()}


def gap(name: str, a: dict[int, Any], b: dict[int, Any], least: float) -> Iterator[dict[str, Any]]:
    """Yield the bar of a paired difference in points of test accuracy: its lower 95 % bound."""
    seeds = sorted(a.keys() & b.keys())
    points = [100 * (a[seed]["accuracy"] - b[seed]["accuracy"]) for seed in seeds]
    if len(points) >= 2:
        low, high = interval(points)
        yield bar(f"{name}: lower 95 % bound, points", low, least, mean=round(mean(points), 3),
                  high=round(high, 3), p=round(float(stats.ttest_1samp(points, 0).pvalue), 4),
                  seeds=seeds)  # fmt: skip


def show_ranks(probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return Spearman's rho of cheap scores with the naive search's full ones, mean over races."""
    rng = np.random.default_rng(0)
    some = rng.choice(VALIDATORS, 4, replace=False)
    out: dict[str, list[float]] = {}
    for probe in probes:
        full = np.array(probe["full_loss"])
        for curve in probe["curves"]:
            losses = np.array(curve["loss"])
            turn = curve["round"]
            out.setdefault(f"all_validators_round_{turn}", []).append(rho(losses.sum(1), full))
            some = rng.choice(losses.shape[1], 4, replace=False)
            out.setdefault(f"4_validators_round_{turn}", []).append(
                rho(losses[:, some].sum(1), full)
            )
            out.setdefault(f"trainers_round_{turn}", []).append(rho(np.array(curve["own"]), full))
    return {"ranks": {k: round(float(np.nanmean(v)), 3) for k, v in out.items()},
            "races": len(probes)}  # fmt: skip


def rho(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation."""
    return float(stats.spearmanr(a, b)[0])


JUDGES = 8
Races = dict[int, Sequence[dict[str, Any]]]
"""Recorded races by seed."""


def risks(probes: Races, fresh: Races) -> Iterator[dict[str, Any]]:
    """Yield how often replays of recorded curves drop a clear winner, against what a rule states.

    A drift is measured on some seeds and checked on others.
    """
    rounds = len(next(iter(probes.values()))[0]["curves"]) - 1
    at_each = Race(candidates=4, inherit=True, first=rounds, last=rounds, drop="margin")
    before = replace(at_each, checkpoint=0)
    # As the library stated it before it knew of drift: four rivals, each with at most 1 - Phi(2).
    noise = float(stats.norm.sf(2.0))
    yield risk_bar("margin at each checkpoint, no drift", at_each, probes, 4 * noise)
    yield {"risk": "half", **replays_of(replace(at_each, drop="half"), probes)}
    yield {"risk": "half, before training", **replays_of(replace(before, drop="half"), probes)}
    screened = replace(at_each, drop="half", screen=2)
    yield {"risk": "the better two before training, then half", **replays_of(screened, probes)}
    yield {"risk": "none", **replays_of(replace(at_each, drop="none"), probes)}
    for word, some in (("all but fresh", probes), ("fresh", fresh)):
        for z in (2.0, 3.0) if some else ():
            yield risk_bar(f"margin before training, z = {z}, no drift, {word} seeds",
                           replace(before, z=z), some, bound(z, 3, 1, JUDGES))  # fmt: skip
    seeds = sorted(probes)
    early, late = ({seed: probes[seed] for seed in part} for part in (seeds[:3], seeds[3:]))
    for told, asked in ((early, late), (late, early), (probes, fresh)):
        if not told or not asked:
            continue
        for rule, zs in ((before, (1.5, 2.0, 3.0)), (at_each, (2.0, 3.0))):
            drift = round(recorded_drift(told, rule), 3)
            when = "at each checkpoint" if rule.checkpoint else "before training"
            for z in zs:
                yield risk_bar(
                    f"margin {when}, z = {z}, drift {drift} of seeds {sorted(told)}",
                    replace(rule, z=z, drift=drift), asked,
                )  # fmt: skip


def recorded_drift(probes: Races, rule: Race) -> float:
    """Return the drift of recorded races at the rounds at which a rule drops."""
    races: list[tuple[Any, Any]] = []
    for some in probes.values():
        for probe in some:
            # A better candidate is one whose full accuracy is higher, as the bar has it.
            full = [-accuracy for accuracy in probe["full_accuracy"]]
            for curve in probe["curves"]:
                turn = curve["round"]
                last = turn == len(probe["curves"]) - 1
                if not last and bool(turn) == bool(rule.checkpoint):
                    races.append((np.array(curve["loss"]).mean(1) / CHECKED, full))
    return drift_of(races)


def risk_bar(name: str, rule: Race, probes: Races, stated: float | None = None) -> dict[str, Any]:
    """Return the bar of a rule: the upper bound of its measured risk, against the stated one."""
    if stated is None:
        rivals = len(next(iter(probes.values()))[0]["full_loss"]) - 1
        stated = rule.risk(rivals, JUDGES, generation=ITERATIONS - 1)
    assert stated is not None, "a rule that states no risk has no bar"
    found = replays_of(rule, probes)
    upper, most = found.pop("upper"), round(stated + 0.03, 4)
    more = {**found, "stated": round(stated, 4)}
    return bar(f"risk of dropping a winner, {name}: upper bound", upper, most, most=True, **more)


def replays_of(rule: Race, probes: dict[int, Any], replays: int = 400) -> dict[str, Any]:
    """Replay recorded curves with other validators: how often is a clear winner dropped?

    A replay draws a race and 8 of its validators. It errs when a dropped candidate's full accuracy
    exceeds the selected one's by more than 0.5 points. Replays of one race are no independent
    draws: `by_seed` shows how much the races differ.
    """
    rng = np.random.default_rng(1)
    seeds, errors = sorted(probes), dict.fromkeys(probes, 0)
    drawn, dropped, cost, lost = dict.fromkeys(probes, 0), 0, 0.0, 0.0
    for _ in range(replays):
        seed = seeds[rng.integers(len(seeds))]
        probe = probes[seed][rng.integers(len(probes[seed]))]
        some = rng.choice(len(probe["curves"][0]["loss"][0]), JUDGES, replace=False)
        accuracy = np.array(probe["full_accuracy"])
        gone, selected, share = replayed(rule, probe, some)
        errors[seed] += any(accuracy[one] > accuracy[selected] + 0.005 for one in gone)
        drawn[seed] += 1
        dropped += len(gone)
        cost += share
        lost += accuracy.max() - accuracy[selected]
    wrong = sum(errors.values())
    upper = float(stats.beta.ppf(0.975, wrong + 1, replays - wrong)) if wrong < replays else 1.0
    return {
        "upper": round(upper, 4),
        "errors": wrong,
        "replays": replays,
        "by_seed": {seed: round(errors[seed] / max(1, drawn[seed]), 3) for seed in seeds},
        "dropped_a_race": round(dropped / replays, 2),
        "share_of_training": round(cost / replays, 2),
        "points_lost": round(100 * lost / replays, 2),
    }


def replayed(rule: Race, probe: dict[str, Any], some: np.ndarray) -> tuple[list[int], int, float]:
    """Return whom the library's own rule drops, whom it selects, and its share of the training."""
    count, curves = len(probe["full_loss"]), probe["curves"]
    tiny = Sketch((1,))
    tiny.add("linear", features=1)
    graph, flat = tiny.graph(), torch.zeros(2)
    branches = tuple(
        Branch(number=one, graph=graph, flat=flat, cohort=(), rounds=len(curves) - 1)
        for one in range(count)
    )
    generation = Generation(
        index=0, proposals=(), branches=branches, validators=tuple(some.tolist())
    )
    trained = 0
    for curve in curves:
        turn = curve["round"]
        live = [branch.number for branch in generation.branches if branch.alive]
        trained += len(live) * (turn > 0)
        if turn:
            due = bool(rule.checkpoint) and turn % rule.checkpoint == 0
        else:
            due = bool(rule.screen) or not rule.checkpoint
        if not due and turn < len(curves) - 1:
            continue
        losses = np.array(curve["loss"])[:, some]
        vectors = {
            one: {int(c): np.array([CHECKED, losses[one, k]]) for k, c in enumerate(some)}
            for one in live
        }
        aged = tuple(
            replace(b, round=turn, history=(*b.history, (turn, losses[b.number].sum(), 0.0)))
            if b.alive
            else b
            for b in generation.branches
        )
        scores = Scores(vectors=vectors, rows=(), incidents=())
        generation = rule.raced(replace(generation, branches=aged), scores)
        if not any(branch.alive for branch in generation.branches):
            break
    selected = min(
        (b for b in generation.branches if b.status == "done"),
        key=lambda b: (b.history[-1][1], b.number),
    )
    gone = [b.number for b in generation.branches if b.status == "dropped"]
    return gone, selected.number, trained / (count * (len(curves) - 1))


def main() -> None:
    """Measure what is missing; print each row and every bar."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="40 clients, one seed: two minutes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=int, default=0, help="first seed, to share the work")
    parser.add_argument("--data", choices=("fashion", "har"), default="fashion")
    parser.add_argument("--rounds", type=int, default=T_MAX, help="T_max of the naive search")
    parser.add_argument("--tune", type=int, default=TUNE, help="rounds of final training")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--write", type=Path)
    parser.add_argument(
        "--summary", type=Path, nargs="+", help="print the bars from these files' rows"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = [row for path in options.summary or () for row in kept_rows(path)]
    rows = kept or measured(options)
    for line in bars_of(rows):
        show(line)


if __name__ == "__main__":
    main()
