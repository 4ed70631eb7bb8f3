"""Loop two: one step is one federated round of all live branches.

`step` trains, `evaluate` scores. Both issue one `Engine.map` over every client of every live
branch, fold the replies in the order in which they were issued, and give back frozen values and
meter rows; neither writes anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerOptimizer, ServerSgd
from archipelago.client.tasks import Evaluate, Fit
from archipelago.client.training import LocalTraining, Training, tuned
from archipelago.core.errors import UpdateRefused
from archipelago.core.meter import MeterRow, totals
from archipelago.core.seeds import Seed
from archipelago.federation.branch import Branch
from archipelago.federation.check import scored, updated
from archipelago.federation.cohort import Cohort, Fate
from archipelago.wire.frame import pack

__all__ = ["Federation", "Incident", "Round", "Scores", "evaluate", "message", "step"]


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
        aggregator: how updates are averaged.
        server: what is done with the average.
        norm: largest L2 norm of an update; 0 accepts any finite one.
    """

    engine: Any
    task: Any
    train_rows: np.ndarray
    validation_rows: np.ndarray
    seed: Seed
    training: Training = field(default_factory=LocalTraining)
    cohort: Cohort = field(default_factory=Cohort)
    aggregator: WeightedMean = field(default_factory=WeightedMean)
    server: ServerOptimizer = field(default_factory=ServerSgd)
    norm: float = 0.0


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
    """

    branches: tuple[Branch, ...]
    rows: tuple[MeterRow, ...]
    losses: dict[int, float]
    incidents: tuple[Incident, ...]


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


@dataclass(frozen=True, slots=True)
class _Visit:
    branch: Branch
    client: int
    fate: Fate
    work: int


def message(branch: Branch) -> list[bytes | memoryview]:
    """Return the framed model that the branch's clients download."""
    fields = {"key": branch.graph.key, "graph": branch.graph.to_json()}
    return pack("model", fields, [branch.flat.numpy()])


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
    handles = {branch.number: federation.engine.share(message(branch)) for branch in live}
    visits: list[_Visit] = []
    rows: list[MeterRow] = []
    for branch in live:
        for visit in _visits(federation, branch, 2 * handles[branch.number].size, phase):
            if visit.fate.epochs:
                visits.append(visit)
            else:
                rows.append(_absent(visit, handles[branch.number].size, phase))
    # Largest first keeps every worker busy to the end of a round, and is a pure function of it.
    visits.sort(key=lambda visit: (-visit.work, visit.client, visit.branch.number))
    tasks = [_fit(federation, visit, handles[visit.branch.number], phase) for visit in visits]
    foldings = {b.number: federation.aggregator.start(b.graph.layout.size) for b in live}
    losses: dict[int, list[tuple[int, float]]] = {branch.number: [] for branch in live}
    diverged: dict[int, str] = {}
    incidents: list[Incident] = []
    try:
        for visit, result in zip(visits, federation.engine.map(tasks), strict=True):
            number = visit.branch.number
            size = handles[number].size
            try:
                if result.data is None:
                    raise UpdateRefused("the client's work failed", got=result.error)
                update, seen = updated(
                    result.data,
                    client=visit.client,
                    branch=number,
                    round=visit.branch.round,
                    size=visit.branch.graph.layout.size,
                    norm=federation.norm,
                )
            except UpdateRefused as refusal:
                rows.append(_fitted(visit, result, size, phase, 0, refused=refusal.what))
                incidents.append(
                    Incident(kind="refused", branch=number, client=visit.client, text=str(refusal))
                )
                diverged[number] = refusal.what
                continue
            rows.append(_fitted(visit, result, size, phase, seen))
            federation.aggregator.fold(foldings[number], update.delta, update.examples)
            losses[number].append((update.examples, update.metrics.get("loss", float("nan"))))
    finally:
        for handle in handles.values():
            handle.release()
    spent = {branch.number: totals(r for r in rows if r.branch == branch.number) for branch in live}
    aged: list[Branch] = []
    for branch in branches:
        if not branch.alive:
            aged.append(branch)
            continue
        folding = foldings[branch.number]
        after = replace(
            branch, round=branch.round + 1, spent=_sum(branch.spent, spent[branch.number])
        )
        if folding.count >= federation.cohort.minimum:
            layout = branch.graph.layout
            state = branch.server or federation.server.init(layout)
            mean = federation.aggregator.finish(folding)
            state, flat = federation.server.step(state, layout, branch.flat, mean)
            after = replace(after, server=state, flat=flat, counted=branch.counted + 1)
        elif branch.number in diverged and folding.count == 0:
            after = after.end("failed", f"round {branch.round}: {diverged[branch.number]}")
        else:
            text = f"round {branch.round}: {folding.count} replies, too few to count"
            incidents.append(Incident(kind="void", branch=branch.number, client=-1, text=text))
        aged.append(after)
    return Round(
        branches=tuple(aged),
        rows=tuple(rows),
        losses={number: _mean(pairs) for number, pairs in losses.items() if pairs},
        incidents=tuple(incidents),
    )


def evaluate(
    federation: Federation,
    branches: Sequence[Branch],
    clients: Sequence[int],
    *,
    phase: str,
    split: str = "validation",
    rows_of: np.ndarray | None = None,
) -> Scores:
    """Score every live branch on the same clients.

    Args:
        federation: what all rounds share.
        branches: those that are not alive are left out.
        clients: who scores.
        phase: what the meter calls it.
        split: `validation`, or `test` where the workplace holds opened test rows.
        rows_of: rows per client of that split; validation rows unless given.
    """
    counts = federation.validation_rows if rows_of is None else rows_of
    live = [branch for branch in branches if branch.alive]
    handles = {branch.number: federation.engine.share(message(branch)) for branch in live}
    pairs = [(branch, client) for branch in live for client in clients]
    pairs.sort(key=lambda p: (-p[0].graph.macs * int(counts[p[1]]), p[1], p[0].number))
    tasks = [
        Evaluate(
            client=client,
            branch=branch.number,
            round=branch.round,
            weight=branch.graph.macs * int(counts[client]),
            handle=handles[branch.number],
            split=split,
        )
        for branch, client in pairs
    ]
    vectors: dict[int, dict[int, np.ndarray]] = {branch.number: {} for branch in live}
    rows: list[MeterRow] = []
    incidents: list[Incident] = []
    try:
        for (branch, client), result in zip(pairs, federation.engine.map(tasks), strict=True):
            macs = branch.graph.macs * int(counts[client])
            row = MeterRow(
                phase=phase,
                round=branch.round,
                branch=branch.number,
                client=client,
                kind="evaluate",
                examples=int(counts[client]),
                bytes_down=handles[branch.number].size,
                bytes_up=result.data.nbytes if result.data is not None else 0,
                macs=macs,
                virtual_seconds=macs / federation.cohort.speed
                + handles[branch.number].size / federation.cohort.bandwidth,
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


def _visits(federation: Federation, branch: Branch, traffic: int, phase: str) -> list[_Visit]:
    seed = federation.seed.child(phase, branch.number, "round", branch.round)
    chosen = federation.cohort.select(branch.cohort, seed.child("select"))
    work = [3 * branch.graph.macs * int(federation.train_rows[client]) for client in chosen]
    fates = federation.cohort.fates(
        chosen,
        work,
        traffic,
        tuned(federation.training, branch.settings).epochs,
        speeds=federation.seed.child("speed"),
        seed=seed.child("fate"),
    )
    return [
        _Visit(branch, client, fate, macs * max(fate.epochs, 1))
        for client, macs, fate in zip(chosen, work, fates, strict=True)
    ]


def _fit(federation: Federation, visit: _Visit, handle: Any, phase: str) -> Fit:
    branch = visit.branch
    return Fit(
        client=visit.client,
        branch=branch.number,
        round=branch.round,
        weight=visit.work,
        handle=handle,
        training=tuned(federation.training, branch.settings),
        seed=federation.seed.child(
            phase, branch.number, "round", branch.round, "client", visit.client
        ),
        progress=branch.round / branch.rounds,
        epochs=visit.fate.epochs,
    )


def _fitted(
    visit: _Visit, result: Any, down: int, phase: str, seen: int, *, refused: str = ""
) -> MeterRow:
    return MeterRow(
        phase=phase,
        round=visit.branch.round,
        branch=visit.branch.number,
        client=visit.client,
        kind="refused" if refused else "fit",
        examples=seen,
        bytes_down=down,
        bytes_up=result.data.nbytes if result.data is not None else 0,
        macs=3 * visit.branch.graph.macs * seen if not refused else visit.work,
        virtual_seconds=visit.fate.seconds,
        seconds=result.seconds,
        note=refused or visit.fate.note,
    )


def _absent(visit: _Visit, down: int, phase: str) -> MeterRow:
    return MeterRow(
        phase=phase,
        round=visit.branch.round,
        branch=visit.branch.number,
        client=visit.client,
        kind="refused",
        bytes_down=down,
        virtual_seconds=visit.fate.seconds,
        note=visit.fate.note,
    )


def _mean(pairs: Sequence[tuple[int, float]]) -> float:
    return sum(n * value for n, value in pairs) / sum(n for n, _ in pairs)


def _sum(a: Any, b: Any) -> dict[str, float]:
    return {name: a.get(name, 0.0) + value for name, value in b.items() if name != "seconds"}
