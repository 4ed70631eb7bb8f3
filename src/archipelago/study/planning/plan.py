"""What a study will take, told before it starts: an estimate, and labelled so.

Costs of architectures are exact. Their mix is a sample of the space; who is dropped when follows
the estimator's own rule; minutes come from timing one client's round here and now.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from random import Random
from statistics import median
from typing import Any

import torch

from archipelago.client.training import Assignment
from archipelago.config.run import Run
from archipelago.core.atomic import scratch
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.data.fleet import Population
from archipelago.data.releases import withheld_lines
from archipelago.driver.live import Search
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.estimate.rounds import Rounds
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
        generations = list(range(len(waves)))
        if run.tune.afterwards:
            later = _generations(run, clients, run.tune.trials)
            waves += [[typical] * width for width in later]
            generations += range(len(later))
        outlook = _outlook(run, shards)
        searched, final = _searched(run, outlook, generations, waves), _finished(run)
        finals = [final.forecast(_asked([one]), [one], 0, outlook) for one in fronts]
        rate = _rate(run, shards, typical, seed)
    search, whole = _sum(searched), _sum([*searched, *finals])
    share = _REFERENCES if run.final.references else 1.0
    visits = whole.fits + whole.evaluations
    seconds = whole.macs / typical.macs / (3 * rate) / _workers(run) + _VISIT * visits
    return Plan(
        size=space.size,
        allowed=allowed,
        clients=clients,
        rows=int(shards.train_rows.sum()),
        candidates=sum(map(len, waves)),
        generations=len(generations),
        rounds=(search.rounds, finals[0].rounds),
        params=_spread([graph.params for graph in graphs]),
        macs=_spread([graph.macs for graph in graphs]),
        visits=whole.fits,
        bytes_per_client=whole.bytes / clients,
        macs_in_all=round(whole.macs),
        minutes=(share * seconds + _AROUND) / 60,
        references=run.final.references,
        risk=search.risk,
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
    search = Search(run.strategy, space, Seed(run.seed))
    waves: list[list[Graph]] = []
    while left:
        asked = search.ask(min(width, left))
        if not asked:
            break
        waves.append(
            [run.family.graph(one.arch, signature.shape, signature.outputs) for one in asked]
        )
        left -= len(asked)
        search.tell(Outcome(number=one.number, arch=one.arch, score=0.0) for one in asked)
    return waves


def _outlook(run: Run, shards: Population) -> Outlook:
    def replies(group: int, asked: int) -> int:
        cohort = run.cohort
        if asked:
            cohort = replace(cohort, clients=asked, fraction=1.0, minimum=1)
        return run.topology.replies(cohort, group)

    return Outlook(
        clients=len(shards.training),
        scorers=len(shards.scoring),
        replies=replies,
        examples=float(shards.train_rows.sum()) / shards.clients * run.client.epochs,
        validated=float(shards.validation_rows.sum()) / len(shards.scoring),
    )


def _searched(
    run: Run, outlook: Outlook, indices: Sequence[int], waves: Sequence[Sequence[Graph]]
) -> list[Forecast]:
    """Return what each generation will take, as its own estimator says."""
    return [
        run.estimator.forecast(_asked(wave, 0 if index else None), wave, index, outlook)
        for index, wave in zip(indices, waves, strict=True)
    ]


def _finished(run: Run) -> Rounds:
    return Rounds(rounds=run.final.rounds, candidates=1, every=run.final.every)


def _asked(networks: Sequence[Graph], parent: int | None = None) -> list[Proposal]:
    """Return proposals of these networks: only what an estimator plans by is in them."""
    return [Proposal(number=index, arch={}, parent=parent) for index in range(len(networks))]


def _sum(forecasts: Sequence[Forecast]) -> Forecast:
    return reduce(add, forecasts)


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
