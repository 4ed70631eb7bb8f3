"""Loop two: one step is one federated round of all live branches.

`step` trains, `evaluate` scores. Both issue one `Engine.map` over every client of every live
branch, fold the replies in the order in which they were issued, and give back frozen values and
meter rows; neither writes anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerOptimizer, ServerSgd
from archipelago.client.keeping import Keeping, Terms, terms_of
from archipelago.client.paths import Path, block
from archipelago.client.tasks import Evaluate, Fit, FitBlock
from archipelago.client.training import LocalTraining, Training, tuned
from archipelago.core.clock import Clock
from archipelago.core.errors import UpdateRefused
from archipelago.core.meter import MeterRow, totals
from archipelago.core.seeds import Seed
from archipelago.core.update import Update
from archipelago.data.augment import Augment
from archipelago.engine.base import Result, one_thread
from archipelago.federation.branch import Branch
from archipelago.federation.buffer import Buffered, Flight, Synchronous, advance
from archipelago.federation.check import parted, scored, updated
from archipelago.federation.cohort import Cohort, Fate
from archipelago.wire.frame import pack, unbundle

__all__ = ["Federation", "Incident", "Round", "Scores", "evaluate", "message", "selected", "step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What all rounds of a run share.

    Attributes:
        engine: where tasks run; already open on a workplace with the same shards and task.
        task: gives metrics from summed sufficient statistics.
        train_rows: rows per client, shape `[clients]`.
        validation_rows: rows per client, shape `[clients]`.
        seed: root of every draw below.
        training: what a client does.
        cohort: who takes part, and their devices.
        topology: whether a round waits for its cohort.
        aggregator: how updates are averaged.
        server: what is done with the average.
        norm: largest L2 norm of an update; 0 accepts any finite one.
        clock: where time goes.
        augment: what a client does to its train rows first.
    """

    engine: Any
    task: Any
    train_rows: np.ndarray
    validation_rows: np.ndarray
    seed: Seed
    training: Training = field(default_factory=LocalTraining)
    cohort: Cohort = field(default_factory=Cohort)
    topology: Synchronous | Buffered = field(default_factory=Synchronous)
    aggregator: WeightedMean = field(default_factory=WeightedMean)
    server: ServerOptimizer = field(default_factory=ServerSgd)
    norm: float = 0.0
    clock: Clock = field(default_factory=Clock)
    augment: Augment = field(default_factory=Augment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that a person should be able to look up: a refusal, a death, a void round."""

    kind: str
    branch: int
    client: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one step gave.

    Attributes:
        branches: all of them, the live ones one round older.
        rows: one meter row a visit.
        losses: mean training loss of each branch that trained.
        incidents: refusals, failures, void rounds.
        paths: how each branch that began is trained, and why; see `client/paths.py`.
    """

    branches: tuple[Branch, ...]
    rows: tuple[MeterRow, ...]
    losses: dict[int, float]
    incidents: tuple[Incident, ...]
    paths: Mapping[int, Path] = field(default_factory=dict[int, Path])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Sufficient statistics of each branch on each client.

    Attributes:
        vectors: branch number -> client -> vector; a client that failed is absent.
        rows: one meter row an evaluation.
        incidents: refusals and failures.
    """

    vectors: dict[int, dict[int, np.ndarray]]
    rows: tuple[MeterRow, ...]
    incidents: tuple[Incident, ...]

    def total(self, branch: int) -> np.ndarray:
        """Return the sum over clients, in ascending order of client."""
        return sum(
            (vector for _, vector in sorted(self.vectors[branch].items())), start=np.float64(0)
        )  # pyright: ignore[reportReturnType]


_ALL = Terms()


def message(
    branch: Branch, terms: Terms = _ALL, extras: Sequence[Tensor] = ()
) -> list[bytes | memoryview]:
    """Return the framed model that the branch's clients download.

    Args:
        branch: whose model.
        terms: what of it travels.
        extras: further vectors, behind the model.
    """
    fields = {"key": branch.graph.key, "graph": branch.graph.to_json()}
    return pack("model", fields, [t.numpy() for t in (terms.select(branch.flat), *extras)])


@one_thread()  # beside busy workers a second thread makes the server's sums slower, not faster
def step(federation: Federation, branches: Sequence[Branch], *, phase: str) -> Round:
    """Train every live branch for one round on its cohort.

    Args:
        federation: what all rounds share.
        branches: alive or not; those that are not come back unchanged.
        phase: what the meter calls it; it also names the stream of chance.

    Returns:
        New branches. One fails when a round has no reply left because the replies were not
        finite; a round with fewer replies than `cohort.minimum` does not count: the weights
        stay as they were.
    """
    live = [branch for branch in branches if branch.alive]
    clock = federation.clock
    with clock.of("frame"):
        sides = {branch.number: _side(federation, branch) for branch in live}
    visits: list[_Visit] = []
    rows: list[MeterRow] = []
    incidents: list[Incident] = []
    with clock.of("select"):
        for side in sides.values():
            for visit in _ending(federation, side, phase):
                if visit.fate.epochs:
                    visits.append(visit)
                else:
                    rows.append(_absent(visit, phase))
        # Largest first keeps every worker busy to the end of a round, and is a pure function of it.
        visits.sort(key=lambda visit: (-visit.work, visit.client, visit.model))
        jobs = _jobs(visits)
        tasks = [_task(federation, job, phase) for job in jobs]
    diverged: dict[int, str] = {}
    try:
        for job, result in zip(jobs, clock.waiting(federation.engine.map(tasks)), strict=True):
            for visit, reply in zip(job, _replies(job, result), strict=True):
                side, seconds = visit.side, result.seconds / len(job)
                number = side.branch.number
                try:
                    with clock.of("check"):
                        update, seen, kept = _read(federation, visit, reply)
                except UpdateRefused as refusal:
                    rows.append(_fitted(visit, reply, seconds, phase, 0, refused=refusal.what))
                    incidents.append(
                        Incident(
                            kind="refused", branch=number, client=visit.client, text=str(refusal)
                        )
                    )
                    diverged[number] = refusal.what
                    continue
                rows.append(_fitted(visit, reply, seconds, phase, seen))
                with clock.of("combine"):
                    federation.aggregator.fold(side.folding, update)
                if kept is not None:
                    extras = side.terms.extras
                    weight = federation.aggregator.weight(update.examples) if extras else 0.0
                    side.gathered.add(visit.client, kept, update.extras, weight)
                side.losses.append((update.examples, update.metrics.get("loss", float("nan"))))
    finally:
        for side in sides.values():
            for handle in (side.handle, *side.others):
                handle.release()
    spent: dict[int, list[MeterRow]] = {number: [] for number in sides}
    for row in rows:
        spent[row.branch].append(row)
    aged: list[Branch] = []
    for branch in branches:
        if not branch.alive:
            aged.append(branch)
            continue
        side = sides[branch.number]
        folding, cost = side.folding, totals(spent[branch.number])
        after = replace(side.then, round=branch.round + 1, spent=_sum(branch.spent, cost))
        if folding.count >= federation.cohort.minimum:
            layout = branch.graph.layout
            state = branch.server or federation.server.init(layout)
            with clock.of("combine"):
                mean = federation.aggregator.finish(folding)
                state, flat = federation.server.step(state, layout, branch.flat, mean)
            after = replace(after, server=state, flat=flat, counted=branch.counted + 1)
            after = side.gathered.joined(after)
        elif branch.number in diverged and folding.count == 0:
            after = after.end("failed", f"round {branch.round}: {diverged[branch.number]}")
        else:
            text = f"round {branch.round}: {folding.count} replies, too few to count"
            incidents.append(Incident(kind="void", branch=branch.number, client=-1, text=text))
        aged.append(after)
    return Round(
        branches=tuple(aged),
        rows=tuple(rows),
        losses={number: _mean(side.losses) for number, side in sides.items() if side.losses},
        incidents=tuple(incidents),
        paths={n: s.path for n, s in sides.items() if s.path and s.branch.round == 0},
    )


@one_thread()
def evaluate(
    federation: Federation,
    branches: Sequence[Branch],
    clients: Sequence[int] | Mapping[int, Sequence[int]],
    *,
    phase: str,
    split: str = "validation",
    rows_of: np.ndarray | None = None,
    own: bool = False,
    most: int = 0,
) -> Scores:
    """Score every live branch on the same clients.

    Args:
        federation: what all rounds share.
        branches: those that are not alive are left out.
        clients: who scores; by branch number where not all score every branch.
        phase: what the meter calls it.
        split: `validation`, or `test` where the workplace holds opened test rows.
        rows_of: rows per client of that split; validation rows unless given.
        own: where the way of training is personal, score each client's own model instead of
            the server's. A client without one yet scores what it would start from.
        most: rows on which a client scores at most; 0 takes all.
    """
    counts = federation.validation_rows if rows_of is None else rows_of
    if most:
        counts = np.minimum(counts, most)
    live = [branch for branch in branches if branch.alive]
    terms = {
        b.number: terms_of(_training(federation, b), b.graph.layout) if own else _ALL for b in live
    }
    terms = {number: found if found.personal else _ALL for number, found in terms.items()}
    handles = {b.number: federation.engine.share(message(b, terms[b.number])) for b in live}
    # A client that keeps a whole model needs nothing from the server to score it.
    down = {
        number: 0 if agreed.personal and agreed.body is None else handles[number].size
        for number, agreed in terms.items()
    }
    asked = clients if isinstance(clients, Mapping) else {b.number: clients for b in live}
    pairs = [(branch, client) for branch in live for client in asked[branch.number]]
    pairs.sort(key=lambda p: (-p[0].graph.macs * int(counts[p[1]]), p[1], p[0].number))
    tasks = [
        Evaluate(
            client=client,
            branch=branch.number,
            round=branch.round,
            weight=branch.graph.macs * int(counts[client]),
            handle=handles[branch.number],
            split=split,
            training=_training(federation, branch),
            kept=_kept(federation, branch, client) if terms[branch.number].personal else None,
            most=most,
            view=branch.view,
        )
        for branch, client in pairs
    ]
    vectors: dict[int, dict[int, np.ndarray]] = {branch.number: {} for branch in live}
    rows: list[MeterRow] = []
    incidents: list[Incident] = []
    try:
        for (branch, client), result in zip(
            pairs, federation.clock.waiting(federation.engine.map(tasks)), strict=True
        ):
            macs = branch.graph.macs * int(counts[client])
            row = MeterRow(
                phase=phase,
                round=branch.round,
                branch=branch.number,
                client=client,
                kind="evaluate",
                examples=int(counts[client]),
                bytes_down=down[branch.number],
                bytes_up=result.data.nbytes if result.data is not None else 0,
                macs=macs,
                virtual_seconds=macs / federation.cohort.speed
                + down[branch.number] / federation.cohort.bandwidth,
                seconds=result.seconds,
            )
            try:
                if result.data is None:
                    raise UpdateRefused("the client's work failed", got=result.error)
                vectors[branch.number][client] = scored(
                    result.data,
                    client=client,
                    branch=branch.number,
                    round=branch.round,
                    size=federation.task.length,
                )
            except UpdateRefused as refusal:
                row = replace(row, kind="refused", note=refusal.what)
                incidents.append(
                    Incident(kind="refused", branch=branch.number, client=client, text=str(refusal))
                )
            rows.append(row)
    finally:
        for handle in handles.values():
            handle.release()
    return Scores(vectors=vectors, rows=tuple(rows), incidents=tuple(incidents))


@dataclass(slots=True)
class _Gathered:
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
class _Side:
    """One branch in one round. Its folding, what it gathered and its losses change in place.

    `branch` is as it was when its clients began, `then` where time has moved on; `others` are
    handles of models from which earlier ones began.
    """

    branch: Branch
    then: Branch
    training: Training
    terms: Terms
    path: Path | None
    handle: Any
    folding: Any
    augment: Augment
    gathered: _Gathered = field(default_factory=_Gathered)
    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    others: list[Any] = field(default_factory=list[Any])

    def block(self, cohort: int) -> int:
        """Return how many clients one task trains."""
        dense = self.path is not None and self.path.name == "dense"
        return block(self.branch.graph.layout.size, cohort) if dense else 1


@dataclass(frozen=True, slots=True)
class _Visit:
    side: _Side
    client: int
    fate: Fate
    work: int
    kept: np.ndarray | None = None
    scale: float = 1.0

    @property
    def model(self) -> tuple[int, int]:
        """Which model it began from."""
        return self.side.branch.number, self.side.branch.round


def _training(federation: Federation, branch: Branch) -> Training:
    return tuned(federation.training, branch.settings)


def _shared(federation: Federation, branch: Branch, terms: Terms) -> list[bytes | memoryview]:
    if not terms.extras:
        return message(branch, terms)
    rows = federation.train_rows
    whole = sum(federation.aggregator.weight(int(rows[client])) for client in branch.cohort)
    extras = [
        branch.extras[name] / whole if name in branch.extras else torch.zeros(size)
        for name, size in terms.extras.items()
    ]
    return message(branch, terms, extras)


def _kept(federation: Federation, branch: Branch, client: int) -> np.ndarray | None:
    training = _training(federation, branch)
    if not isinstance(training, Keeping):
        return None
    if client in branch.kept:
        return branch.kept[client].numpy()
    return training.initial(branch.flat, branch.graph.layout).numpy()


def _flat(training: Any) -> Any:
    """Return training off the dense path, which learns from class numbers, not from shares."""
    if isinstance(training, LocalTraining):
        return replace(training, path="flat") if training.path == "auto" else training
    inner = getattr(training, "local", None)
    return training if inner is None else replace(training, local=_flat(inner))


def selected(federation: Federation, branch: Branch, phase: str) -> tuple[int, ...]:
    """Return the clients of the branch's next round."""
    return federation.cohort.select(
        branch.cohort,
        _stream(federation, branch, phase).child("select"),
        devices=_devices(federation),
        now=branch.clock,
    )


def _side(federation: Federation, branch: Branch) -> _Side:
    training, layout = _training(federation, branch), branch.graph.layout
    augment = federation.augment.tuned(branch.settings)
    terms = terms_of(training, layout)
    if augment.mixup:
        training = _flat(training)
    return _Side(
        branch=branch,
        then=branch,
        training=training,
        terms=terms,
        path=training.chosen(branch.graph, federation.task)
        if isinstance(training, LocalTraining)
        else None,
        handle=federation.engine.share(_shared(federation, branch, terms)),
        folding=federation.aggregator.start(layout),
        augment=augment,
    )


def _ending(federation: Federation, side: _Side, phase: str) -> list[_Visit]:
    """Return the visits that end in this round; moves the side's time on, in place."""
    if isinstance(federation.topology, Buffered):
        return _arriving(federation, federation.topology, side, phase)
    branch, cohort = side.branch, federation.cohort
    seed = _stream(federation, branch, phase)
    chosen = selected(federation, branch, phase)
    work = [_work(federation, side, client) for client in chosen]
    fates = _fates(federation, side, chosen, seed.child("fate"), branch.clock)
    side.then = replace(branch, clock=branch.clock + cohort.lasts(fates))
    keeps = isinstance(side.training, Keeping)
    return [
        _Visit(
            side,
            client,
            fate,
            macs * max(fate.epochs, 1),
            _kept(federation, branch, client) if keeps else None,
        )
        for client, macs, fate in zip(chosen, work, fates, strict=True)
    ]


def _arriving(federation: Federation, topology: Buffered, side: _Side, phase: str) -> list[_Visit]:
    """`_ending` where nobody is waited for: each visit begins from the model of its own time."""
    branch, cohort = side.branch, federation.cohort
    stream, devices = _stream(federation, branch, phase), _devices(federation)

    def begin(count: int, now: float, busy: frozenset[int], order: int) -> list[Flight]:
        # The first of a round draw as a synchronous round does: then nobody is under way.
        select, fate = stream.child("select"), stream.child("fate")
        if busy:
            select, fate = select.child(order), fate.child(order)
        chosen = cohort.draw(branch.cohort, count, select, devices=devices, now=now, busy=busy)
        fates = _fates(federation, side, chosen, fate, now)
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
    sides = {branch.round: side}
    for version in sorted({flight.version for flight in ended} - {branch.round}):
        began = replace(branch, round=version, flat=models[version])
        handle = federation.engine.share(_shared(federation, began, side.terms))
        side.others.append(handle)
        sides[version] = replace(side, branch=began, handle=handle)
    still = {flight.version for flight in flights}
    side.then = replace(
        branch,
        clock=arrivals.now,
        flights=flights,
        older={version: flat for version, flat in models.items() if version in still},
    )
    return [
        _Visit(
            sides[flight.version],
            flight.client,
            topology.fate(flight, branch.round - flight.version),
            _work(federation, side, flight.client) * max(flight.epochs, 1),
            scale=topology.scale(branch.round - flight.version),
        )
        for flight in ended
    ]


def _fates(
    federation: Federation, side: _Side, chosen: Sequence[int], seed: Seed, now: float
) -> tuple[Fate, ...]:
    return federation.cohort.fates(
        chosen,
        [_work(federation, side, client) for client in chosen],
        2 * side.handle.size,
        side.training.epochs,
        speeds=_devices(federation),
        seed=seed,
        now=now,
    )


def _work(federation: Federation, side: _Side, client: int) -> int:
    passes = 3 * side.terms.passes * side.branch.graph.macs
    return round(passes * int(federation.train_rows[client]))


def _stream(federation: Federation, branch: Branch, phase: str) -> Seed:
    return federation.seed.child(phase, branch.number, "round", branch.round)


def _devices(federation: Federation) -> Seed:
    return federation.seed.child("speed")


def _jobs(visits: Sequence[_Visit]) -> list[list[_Visit]]:
    """Return visits in the order of issue, those that one task trains together side by side."""
    cohorts = Counter(visit.model for visit in visits)
    jobs: list[list[_Visit]] = []
    open_: dict[tuple[int, int], list[_Visit]] = {}
    for visit in visits:
        model = visit.model
        width = visit.side.block(cohorts[model])
        if model not in open_ or len(open_[model]) >= width:
            open_[model] = []
            jobs.append(open_[model])
        open_[model].append(visit)
    return jobs


def _task(federation: Federation, job: Sequence[_Visit], phase: str) -> Fit | FitBlock:
    side, first = job[0].side, job[0]
    branch, training = side.branch, side.training
    seed = _stream(federation, branch, phase).child("client")
    progress = branch.round / branch.rounds
    if len(job) > 1 and isinstance(training, LocalTraining):
        return FitBlock(
            clients=tuple(visit.client for visit in job),
            epochs=tuple(visit.fate.epochs for visit in job),
            branch=branch.number,
            round=branch.round,
            weight=sum(visit.work for visit in job),
            handle=side.handle,
            training=training,
            seed=seed,
            progress=progress,
            augment=side.augment,
            view=branch.view,
        )
    return Fit(
        client=first.client,
        branch=branch.number,
        round=branch.round,
        weight=first.work,
        handle=side.handle,
        training=training,
        seed=seed.child(first.client),
        progress=progress,
        epochs=first.fate.epochs,
        kept=first.kept,
        augment=side.augment,
        view=branch.view,
    )


def _replies(job: Sequence[_Visit], result: Result) -> Sequence[memoryview | str]:
    """Return each visit's frame, or why there is none."""
    if result.data is None:
        return [result.error or "no reply"] * len(job)
    if len(job) == 1:
        return [result.data]
    try:
        return unbundle(result.data, len(job))
    except UpdateRefused as refusal:
        return [str(refusal)] * len(job)


def _read(
    federation: Federation, visit: _Visit, reply: memoryview | str
) -> tuple[Update, int, Tensor | None]:
    """Return a checked update, the rows seen, and what the client keeps.

    Raises:
        UpdateRefused: no reply, or not what was asked for.
    """
    branch, terms, kept = visit.side.branch, visit.side.terms, None
    if isinstance(reply, str):
        raise UpdateRefused("the client's work failed", got=reply)
    if visit.kept is not None:
        reply, kept = parted(reply, len(visit.kept))
    update, seen = updated(
        reply,
        client=visit.client,
        branch=branch.number,
        round=branch.round,
        size=terms.size(branch.graph.layout),
        norm=federation.norm,
        extras=terms.extras,
    )
    if terms.body is not None:
        still = torch.zeros_like(branch.flat)
        update = replace(update, delta=terms.spread(update.delta, still))
    if visit.scale != 1.0:
        update = replace(update, delta=update.delta * visit.scale)
    return update, seen, kept


def _fitted(
    visit: _Visit,
    reply: memoryview | str,
    seconds: float,
    phase: str,
    seen: int,
    *,
    refused: str = "",
) -> MeterRow:
    branch = visit.side.branch
    stays = 0 if visit.kept is None else visit.kept.nbytes
    return MeterRow(
        phase=phase,
        round=branch.round,
        branch=branch.number,
        client=visit.client,
        kind="refused" if refused else "fit",
        examples=seen,
        bytes_down=visit.side.handle.size,
        bytes_up=0 if isinstance(reply, str) else max(0, reply.nbytes - stays),
        macs=3 * branch.graph.macs * seen if not refused else visit.work,
        virtual_seconds=visit.fate.seconds,
        seconds=seconds,
        note=refused or visit.fate.note,
    )


def _absent(visit: _Visit, phase: str) -> MeterRow:
    return MeterRow(
        phase=phase,
        round=visit.side.branch.round,
        branch=visit.side.branch.number,
        client=visit.client,
        kind="refused",
        bytes_down=visit.side.handle.size,
        virtual_seconds=visit.fate.seconds,
        note=visit.fate.note,
    )


def _mean(pairs: Sequence[tuple[int, float]]) -> float:
    return sum(n * value for n, value in pairs) / sum(n for n, _ in pairs)


def _sum(a: Any, b: Any) -> dict[str, float]:
    return {name: a.get(name, 0.0) + value for name, value in b.items() if name != "seconds"}
