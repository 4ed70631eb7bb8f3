"""What one round asks of its clients. What comes back is in `replies.py`.

A *branch round* is one branch in one round; a *visit* is one client's part in it. All of it is a
pure function of the round, so the same visits come about whatever engine runs them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archipelago.aggregate.mean import WeightedMean
from archipelago.client.agreement import Agreement, StatefulTraining, agreement_of
from archipelago.client.kernels import Kernel
from archipelago.client.tasks import Fit, FitBlock
from archipelago.client.training import LocalTraining, Training, kernel_of, tuned
from archipelago.core.seeds import Seed
from archipelago.data.augment import Augment
from archipelago.federation.branch import Branch
from archipelago.federation.buffer import Buffered, Flight, advance
from archipelago.federation.cohort import Fate
from archipelago.federation.federation import Federation
from archipelago.wire.frame import pack

__all__ = [
    "ALL",
    "BranchRound",
    "Visit",
    "ending",
    "grouped",
    "kept_of",
    "message",
    "selected",
    "branch_round_of",
    "summing",
    "task_of",
    "training_of",
]

ALL = Agreement()
"""Everything travels."""


def message(
    branch: Branch, agreement: Agreement = ALL, extras: Sequence[Tensor] = ()
) -> list[bytes | memoryview]:
    """Return the framed model that the branch's clients download.

    Args:
        branch: whose model.
        agreement: what of it travels.
        extras: further vectors, behind the model.
    """
    fields = {"key": branch.graph.key, "graph": branch.graph.to_json()}
    return pack("model", fields, [t.numpy() for t in (agreement.select(branch.flat), *extras)])


@dataclass(slots=True)
class Gathered:
    """What a round brings beside the updates. Changed in place by `add`."""

    kept: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add(self, client: int, kept: Tensor, extras: Mapping[str, Tensor], weight: float) -> None:
        self.kept[client] = kept
        for name, change in extras.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(change)
            self.sums[name].add_(change, alpha=weight)

    def joined(self, branch: Branch) -> Branch:
        """Return the branch with all of it committed."""
        if not self.kept:
            return branch
        extras = {name: branch.extras.get(name, 0.0) + s for name, s in self.sums.items()}
        return replace(
            branch,
            kept={**branch.kept, **self.kept},
            extras={**branch.extras, **extras},
        )


@dataclass(slots=True, kw_only=True)
class BranchRound:
    """One branch in one round. Its folding, what it gathered and its losses change in place.

    `branch` is as it was when its clients began, `then` where time has moved on; `others` are
    handles of models from which earlier ones began.
    """

    branch: Branch
    then: Branch
    training: Training
    agreement: Agreement
    kernel: Kernel
    handle: Any
    folding: Any
    augment: Augment
    gathered: Gathered = field(default_factory=Gathered)
    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    others: list[Any] = field(default_factory=list[Any])

    def blocks(self, work: Sequence[int]) -> list[int]:
        """Return how many clients each of its tasks trains, given each one's work."""
        if not isinstance(self.training, LocalTraining):
            return [1] * len(work)
        return self.kernel.blocks(self.branch.graph.layout.size, len(work), sum(work))


@dataclass(frozen=True, slots=True)
class Visit:
    branch_round: BranchRound
    client: int
    fate: Fate
    work: int
    kept: np.ndarray | None = None
    scale: float = 1.0

    @property
    def model(self) -> tuple[int, int]:
        """Which model it began from."""
        return self.branch_round.branch.number, self.branch_round.branch.round


def training_of(federation: Federation, branch: Branch) -> Training:
    return tuned(federation.training, branch.settings)


def _shared(
    federation: Federation, branch: Branch, agreement: Agreement
) -> list[bytes | memoryview]:
    if not agreement.extras:
        return message(branch, agreement)
    rows = federation.train_rows
    whole = sum(federation.aggregator.weight(int(rows[client])) for client in branch.cohort)
    extras = [
        branch.extras[name] / whole if name in branch.extras else torch.zeros(size)
        for name, size in agreement.extras.items()
    ]
    return message(branch, agreement, extras)


def kept_of(federation: Federation, branch: Branch, client: int) -> np.ndarray | None:
    training = training_of(federation, branch)
    if not isinstance(training, StatefulTraining):
        return None
    if client in branch.kept:
        return branch.kept[client].numpy()
    return training.initial(branch.flat, branch.graph.layout).numpy()


def selected(federation: Federation, branch: Branch, phase: str) -> tuple[int, ...]:
    """Return the clients of the branch's next round."""
    return federation.cohort.select(
        branch.cohort,
        _stream(federation, branch, phase).child("select"),
        devices=_devices(federation),
        now=branch.clock,
    )


def branch_round_of(federation: Federation, branch: Branch) -> BranchRound:
    training, layout = training_of(federation, branch), branch.graph.layout
    augment = federation.augment.tuned(branch.settings)
    agreement = agreement_of(training, layout)
    return BranchRound(
        branch=branch,
        then=branch,
        training=training,
        agreement=agreement,
        kernel=kernel_of(training, branch.graph, federation.task),
        handle=federation.engine.share(_shared(federation, branch, agreement)),
        folding=federation.aggregator.start(layout),
        augment=augment,
    )


def ending(federation: Federation, branch_round: BranchRound, phase: str) -> list[Visit]:
    """Return the visits that end in this round; moves the side's time on, in place."""
    if isinstance(federation.topology, Buffered):
        return _arriving(federation, federation.topology, branch_round, phase)
    branch, cohort = branch_round.branch, federation.cohort
    seed = _stream(federation, branch, phase)
    chosen = selected(federation, branch, phase)
    work = _work(federation, branch_round, chosen)
    fates = _fates(federation, branch_round, work, seed.child("fate"), branch.clock)
    branch_round.then = replace(branch, clock=branch.clock + cohort.lasts(fates))
    keeps = isinstance(branch_round.training, StatefulTraining)
    return [
        Visit(
            branch_round,
            client,
            fate,
            macs * max(fate.epochs, 1),
            kept_of(federation, branch, client) if keeps else None,
        )
        for (client, macs), fate in zip(work.items(), fates, strict=True)
    ]


def _arriving(
    federation: Federation, topology: Buffered, branch_round: BranchRound, phase: str
) -> list[Visit]:
    """`ending` where nobody is waited for: each visit begins from the model of its own time."""
    branch, cohort = branch_round.branch, federation.cohort
    stream, devices = _stream(federation, branch, phase), _devices(federation)

    def begin(count: int, now: float, busy: frozenset[int], order: int) -> list[Flight]:
        # The first of a round draw as a synchronous round does: then nobody is under way.
        select, fate = stream.child("select"), stream.child("fate")
        if busy:
            select, fate = select.child(order), fate.child(order)
        chosen = cohort.draw(branch.cohort, count, select, devices=devices, now=now, busy=busy)
        fates = _fates(federation, branch_round, _work(federation, branch_round, chosen), fate, now)
        return [
            Flight(
                due=now + fate.seconds,
                order=order + index,
                client=client,
                version=branch.round,
                epochs=fate.epochs,
                seconds=fate.seconds,
                note=fate.note,
            )
            for index, (client, fate) in enumerate(zip(chosen, fates, strict=True))
        ]

    arrivals = advance(
        branch.flights,
        branch.clock,
        buffer=topology.buffer,
        concurrency=cohort.count(len(branch.cohort)),
        begin=begin,
    )
    ended, flights = arrivals.ended, arrivals.flights
    if branch.round + 1 >= branch.rounds:  # they downloaded a model for nothing: a row each
        ended, flights = (*ended, *(flight.lost(arrivals.now) for flight in flights)), ()
    models = {**branch.older, branch.round: branch.flat}
    branch_rounds = {branch.round: branch_round}
    for version in sorted({flight.version for flight in ended} - {branch.round}):
        began = replace(branch, round=version, flat=models[version])
        handle = federation.engine.share(_shared(federation, began, branch_round.agreement))
        branch_round.others.append(handle)
        branch_rounds[version] = replace(branch_round, branch=began, handle=handle)
    work = _work(federation, branch_round, [flight.client for flight in ended])
    still = {flight.version for flight in flights}
    branch_round.then = replace(
        branch,
        clock=arrivals.now,
        flights=flights,
        older={version: flat for version, flat in models.items() if version in still},
    )
    return [
        Visit(
            branch_rounds[flight.version],
            flight.client,
            topology.fate(flight, branch.round - flight.version),
            work[flight.client] * max(flight.epochs, 1),
            scale=topology.scale(branch.round - flight.version),
        )
        for flight in ended
    ]


def _fates(
    federation: Federation,
    branch_round: BranchRound,
    work: Mapping[int, int],
    seed: Seed,
    now: float,
) -> tuple[Fate, ...]:
    return federation.cohort.fates(
        tuple(work),
        tuple(work.values()),
        2 * branch_round.handle.size,
        branch_round.training.epochs,
        speeds=_devices(federation),
        seed=seed,
        now=now,
    )


def _work(
    federation: Federation, branch_round: BranchRound, clients: Sequence[int]
) -> dict[int, int]:
    """Return the multiply-accumulates of one epoch of each client."""
    passes = 3 * branch_round.agreement.passes * branch_round.branch.graph.macs
    rows = federation.train_rows[list(clients)].tolist()
    return {client: round(passes * own) for client, own in zip(clients, rows, strict=True)}


def _stream(federation: Federation, branch: Branch, phase: str) -> Seed:
    return federation.seed.child(phase, branch.number, "round", branch.round)


def _devices(federation: Federation) -> Seed:
    return federation.seed.child("speed")


def grouped(visits: Sequence[Visit]) -> list[list[Visit]]:
    """Return visits in the order of issue, those that one task trains together side by side."""
    work: dict[tuple[int, int], list[int]] = {}
    for visit in visits:
        work.setdefault(visit.model, []).append(visit.work)
    sizes: dict[tuple[int, int], Iterator[int]] = {}
    jobs: list[list[Visit]] = []
    open_: dict[tuple[int, int], tuple[list[Visit], int]] = {}
    for visit in visits:
        model = visit.model
        job, size = open_.get(model, ([], 0))
        if len(job) == size:
            sizes.setdefault(model, iter(visit.branch_round.blocks(work[model])))
            job, size = open_[model] = [], next(sizes[model])
            jobs.append(job)
        job.append(visit)
    return jobs


def task_of(federation: Federation, job: Sequence[Visit], phase: str) -> Fit | FitBlock:
    branch_round, first = job[0].branch_round, job[0]
    branch, training = branch_round.branch, branch_round.training
    seed = _stream(federation, branch, phase).child("client")
    progress = branch.round / branch.rounds
    if len(job) > 1 and isinstance(training, LocalTraining):
        return FitBlock(
            clients=tuple(visit.client for visit in job),
            epochs=tuple(visit.fate.epochs for visit in job),
            branch=branch.number,
            round=branch.round,
            weight=sum(visit.work for visit in job),
            handle=branch_round.handle,
            training=training,
            seed=seed,
            progress=progress,
            augment=branch_round.augment,
            view=branch.view,
            aggregator=summing(federation, job),
        )
    return Fit(
        client=first.client,
        branch=branch.number,
        round=branch.round,
        weight=first.work,
        handle=branch_round.handle,
        training=training,
        seed=seed.child(first.client),
        progress=progress,
        epochs=first.fate.epochs,
        kept=first.kept,
        augment=branch_round.augment,
        view=branch.view,
    )


def summing(federation: Federation, job: Sequence[Visit]) -> WeightedMean | None:
    """Return what sums a job's updates where they are computed; None where each one is wanted.

    Each one is, where a bound holds for each, where they count differently, and where an average of
    another kind, even one derived from the plain mean, may look at each.
    """
    aggregator = federation.aggregator
    plain = type(aggregator) is WeightedMean and not federation.norm
    return aggregator if plain and all(visit.scale == 1.0 for visit in job) else None
