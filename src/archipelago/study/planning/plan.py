"""What a study will take, told before it starts: an estimate, and labelled so.

Costs of architectures are exact. Their mix is a sample of the space; who is dropped when follows
the estimator's own rule; minutes come from timing one client's round here and now.
"""

import os
import time
from dataclasses import dataclass, replace
from math import ceil
from random import Random
from statistics import mean, median
from typing import Any

import torch

from archipelago.client.training import Assignment
from archipelago.config.run import Run
from archipelago.core.atomic import scratch
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome
from archipelago.data.fleet import Population
from archipelago.data.releases import withheld_lines
from archipelago.nn.model import Model
from archipelago.space.graph import Graph
from archipelago.space.space import Space
from archipelago.study.planning.scorable import scorable
from archipelago.study.running.rows import prepared_for, refuse_silence

__all__ = ["Plan", "plan"]

_SAMPLE = 64
"""Architectures from which the mix of costs is estimated."""
_DRAWS = 5_000
"""Draws after which a constraint counts as one that no architecture meets."""
_REFERENCES = 4.0
"""Each of the three reference lines costs as much as search and final training."""
_VISIT = 3e-3
"""Seconds of a visit that are no arithmetic: framing, moving, checking, committing (2 cores)."""
_AROUND = 6.0
"""Seconds for starting workers, exporting, drawing the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An estimate of a study.

    Attributes:
        size: architectures in the space.
        allowed: share of them within the constraints, estimated.
        clients: that train.
        rows: train rows of all clients.
        candidates: that will be scored.
        generations: in which they come.
        rounds: federated rounds, of the search and of final training.
        params: parameters of a candidate: least, median, most.
        macs: multiply-accumulates of one forward pass on one example: least, median, most.
        visits: client-rounds of training.
        bytes_per_client: mean of up and down over the study, models and validation included.
        macs_in_all: spent on clients by search and final training.
        minutes: on this machine, reference lines included.
        references: whether the reference lines are run.
        risk: bound on the probability that a generation of the race drops its best candidate, the
            largest of all generations; None where its rule has no bound, or nothing races.
        scores: what to know of the scores: classes that they do not cover, silos without one.
        withheld: what silos will not tell, or not be asked, for want of rows; a sentence each.
    """

    size: int
    allowed: float
    clients: int
    rows: int
    candidates: int
    generations: int
    rounds: tuple[int, int]
    params: tuple[int, int, int]
    macs: tuple[int, int, int]
    visits: int
    bytes_per_client: float
    macs_in_all: float
    minutes: float
    references: bool
    risk: float | None
    scores: tuple[str, ...]
    withheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """Fits, evaluations and rounds."""

    fits: int = 0
    evaluations: int = 0
    rounds: int = 0

    def __add__(self, other: "_Work") -> "_Work":
        return _Work(
            self.fits + other.fits,
            self.evaluations + other.evaluations,
            self.rounds + other.rounds,
        )


def plan(run: Run) -> Plan:
    """Prepare the data, look at the space, time one client's round; train nothing else.

    Raises:
        DataError: the data cannot be used, or the metric has no value on their rows.
        ConfigError: the parts do not fit together, or no architecture meets the constraints.
    """
    seed = Seed(run.seed)
    with scratch() as directory:
        prepared = prepared_for(run, directory)
        shards = prepared.shards
        withheld = withheld_lines(prepared.withheld, shards.home.floor)
        run.check_clients(len(shards.training))
        refuse_silence(shards)
        scores = scorable(shards.signature.task, prepared.presence)
        signature = shards.signature
        for augment in run.augments:
            augment.check(signature)
        space = run.family.space(signature.shape, signature.outputs)
        graphs, allowed = _sampled(run, space, signature, seed.child("plan").rng())
        clients = len(shards.training)
        waves = _shrunk(run, space, signature, clients) if _shrinks(run) else []
        # Candidates that shrink are known before any data, and lie far from the space's average.
        graphs = [graph for wave in waves for graph in wave] or graphs
        typical = sorted(graphs, key=lambda graph: graph.macs)[len(graphs) // 2]
        fronts = [wave[0] for wave in waves] or [typical]
        waves = waves or [[typical] * n for n in _generations(run, clients, run.budget.trials)]
        generations = [(index, len(wave)) for index, wave in enumerate(waves)]
        if run.tune.afterwards:
            later = _generations(run, clients, run.tune.trials)
            waves += [[typical] * width for width in later]
            generations += list(enumerate(later))
        search = [_searched(run, shards, *item) for item in generations]
        final = _finished(run, clients, len(shards.scoring))
        rate = _rate(run, shards, typical, seed)
    work = [*zip(search, waves, strict=True), *((final, [network]) for network in fronts)]
    visits = sum(one.fits for one, _ in work)
    judged = sum(one.evaluations for one, _ in work)
    macs, moved = _spent(run, shards, work)
    share = _REFERENCES if run.final.references else 1.0
    seconds = macs / typical.macs / (3 * rate) / _workers(run) + _VISIT * (visits + judged)
    return Plan(
        size=space.size,
        allowed=allowed,
        clients=clients,
        rows=int(shards.train_rows.sum()),
        candidates=sum(map(len, waves)),
        generations=len(generations),
        rounds=(sum(work.rounds for work in search), final.rounds),
        params=_spread([graph.params for graph in graphs]),
        macs=_spread([graph.macs for graph in graphs]),
        visits=visits,
        bytes_per_client=moved / clients,
        macs_in_all=round(macs),
        minutes=(share * seconds + _AROUND) / 60,
        references=run.final.references,
        risk=_risk(run, generations, len(shards.scoring)),
        scores=scores,
        withheld=tuple(withheld),
    )


def _sampled(run: Run, space: Space, signature: Any, rng: Random) -> tuple[list[Graph], float]:
    graphs: list[Graph] = []
    draws = 0
    while len(graphs) < _SAMPLE and draws < _DRAWS:
        draws += 1
        arch: Arch = space.sample(rng)
        graph = run.family.graph(arch, signature.shape, signature.outputs)
        costs = {
            "params": graph.params,
            "macs": graph.macs,
            "bytes_per_round": graph.bytes_per_round,
        }
        if all(limit.holds(costs) for limit in run.limits):
            graphs.append(graph)
    if not graphs:
        raise ConfigError(
            "no architecture of the space meets the constraints",
            got=list(run.constraints),
            where="constraints",
            fix=f"raise the limits; {_DRAWS} draws were tried",
        )
    return graphs, len(graphs) / draws


def _generations(run: Run, clients: int, trials: int) -> list[int]:
    """Return how many candidates each generation has."""
    width = run.estimator.width(clients)
    return [min(width, trials - before) for before in range(0, trials, width)]


def _shrinks(run: Run) -> bool:
    return run.strategy.kind == "progressive-shrinking"


def _shrunk(run: Run, space: Space, signature: Any, clients: int) -> list[list[Graph]]:
    """Return each iteration's candidates, as if the first had always won."""
    width, left = run.estimator.width(clients), run.budget.trials
    state = run.strategy.init(space, Seed(run.seed))
    waves: list[list[Graph]] = []
    while left:
        state, asked = run.strategy.ask(state, min(width, left))
        if not asked:
            break
        waves.append(
            [run.family.graph(one.arch, signature.shape, signature.outputs) for one in asked]
        )
        left -= len(asked)
        told = [Outcome(number=one.number, arch=one.arch, score=0.0) for one in asked]
        state = run.strategy.tell(state, told)
    return waves


def _spent(
    run: Run, shards: Population, work: list[tuple[_Work, list[Graph]]]
) -> tuple[float, float]:
    """Return multiply-accumulates and bytes of all clients, each work at its networks' mean."""
    rows = float(shards.train_rows.sum()) / shards.clients
    checked = float(shards.validation_rows.sum()) / len(shards.scoring)
    macs = moved = 0.0
    for one, networks in work:
        # Training is a forward and a backward pass; the backward one costs two forward ones.
        passes = 3 * rows * run.client.epochs * one.fits + checked * one.evaluations
        macs += passes * mean(network.macs for network in networks)
        # A fit moves the model down and up; an evaluation only down.
        size = mean(network.bytes_per_round for network in networks)
        moved += size * (one.fits + 0.5 * one.evaluations)
    return macs, moved


def _warm(run: Run, generation: int) -> bool:
    """Whether a generation is the first network's training on all clients, which nobody races."""
    plan = run.estimator
    first = _shrinks(run) and not generation
    return first and plan.kind == "race" and plan.inherit and plan.warm > 0


def _searched(run: Run, shards: Population, generation: int, width: int) -> _Work:
    """Follow one generation's branches as the estimator would, without training them."""
    estimator, clients = run.estimator, len(shards.training)
    scorers = min(estimator.validators or clients, len(shards.scoring))
    if estimator.kind == "zero-cost":
        judged = width * scorers if estimator.where == "clients" else 0
        return _Work(evaluations=judged, rounds=1)
    if _warm(run, generation):
        fits = estimator.warm * run.topology.replies(run.cohort, clients)
        return _Work(fits=fits, evaluations=scorers, rounds=estimator.warm)
    race = estimator.kind == "race"
    budget = _budget(run, generation) if race else estimator.rounds
    group = (estimator.group or clients // max(1, width)) if race else clients
    work, live = _Work(), width
    if race and width > 1 and (estimator.screen or not estimator.checkpoint):
        work += _Work(evaluations=width * scorers)
        live = min(width, estimator.screen) if estimator.screen else _kept(estimator, width)
        if live == 1:
            return replace(work, rounds=1)
    for turn in range(1, budget + 1):
        work += _Work(fits=live * run.topology.replies(run.cohort, group), rounds=1)
        last = turn == budget
        if not race:
            due = last or (estimator.every and turn % estimator.every == 0)
            work += _Work(evaluations=live * scorers if due else 0)
            continue
        if last or (estimator.checkpoint and turn % estimator.checkpoint == 0):
            work += _Work(evaluations=live * scorers)
            before, live = live, _kept(estimator, live)
            if live == 1 and before > 1:
                break
    return work


def _budget(run: Run, generation: int) -> int:
    """Return a generation's rounds: after a warm start they grow from the next one on."""
    return run.estimator.budget(max(0, generation - _warm(run, 0)))


def _risk(run: Run, generations: list[tuple[int, int]], scoring: int) -> float | None:
    race = run.estimator
    if race.kind != "race":
        return None
    judges = min(race.validators or scoring, scoring)
    after = int(_warm(run, 0))
    found = [
        race.risk(width - 1, judges, generation=max(0, index - after))
        for index, width in generations
        if not _warm(run, index)
    ]
    stated = [risk for risk in found if risk is not None]
    return max(stated, default=0.0) if len(stated) == len(found) else None


def _kept(race: Any, live: int) -> int:
    # A margin drops by what the data say: none is counted, so that the estimate is an upper bound.
    share = {"half": 0.5, "fraction": race.fraction}.get(race.drop, 0.0)
    return live if live < 2 or not share else max(1, int((1 - share) * live))


def _finished(run: Run, clients: int, scorers: int) -> _Work:
    checks = ceil(run.final.rounds / run.final.every)
    return _Work(
        fits=run.final.rounds * run.topology.replies(run.cohort, clients),
        evaluations=checks * scorers,
        rounds=run.final.rounds,
    )


def _rate(run: Run, shards: Population, graph: Graph, seed: Seed) -> float:
    """Return rows a second of training `graph`, on one thread of this machine."""
    client = shards.training[int(shards.train_rows[list(shards.training)].argmax())]
    model = Model.of_graph(graph, seed.child("plan"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first round pays for what torch sets up once: the faster one counts.
        return max(_timed(run, shards, model, client, seed.child("plan", turn)) for turn in (0, 1))
    finally:
        torch.set_num_threads(threads)


def _timed(run: Run, shards: Population, model: Model, client: int, seed: Seed) -> float:
    x, y = shards.train(client)
    asked = Assignment(x=x, y=y, seed=seed, progress=0.0, epochs=run.client.epochs)
    start = time.perf_counter()
    fitted = run.client.fit(model, shards.signature.task, asked)
    return fitted.examples / max(time.perf_counter() - start, 1e-6)


def _workers(run: Run) -> int:
    if run.engine.kind == "serial":
        return 1
    return getattr(run.engine, "workers", 0) or len(os.sched_getaffinity(0))


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), round(median(values)), max(values)
