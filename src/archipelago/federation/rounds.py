"""Loop two: one step is one federated round of all live branches.

`step` trains, `evaluate` scores. Both issue one `Engine.map` over every client of every live
branch, fold the replies in the order in which they were issued, and give back frozen values and
meter rows; neither writes anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerOptimizer, ServerSgd
from archipelago.client.keeping import Keeping, Terms, terms_of
from archipelago.client.tasks import Evaluate, Fit
from archipelago.client.training import LocalTraining, Training, tuned
from archipelago.core.errors import UpdateRefused
from archipelago.core.meter import MeterRow, totals
from archipelago.core.seeds import Seed
from archipelago.federation.branch import Branch
from archipelago.federation.check import parted, scored, updated
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
    kept: np.ndarray | None


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
    terms = {b.number: terms_of(_training(federation, b), b.graph.layout) for b in live}
    handles = {
        b.number: federation.engine.share(_shared(federation, b, terms[b.number])) for b in live
    }
    visits: list[_Visit] = []
    rows: list[MeterRow] = []
    for branch in live:
        traffic = 2 * handles[branch.number].size
        for visit in _visits(federation, branch, terms[branch.number], traffic, phase):
            if visit.fate.epochs:
                visits.append(visit)
            else:
                rows.append(_absent(visit, handles[branch.number].size, phase))
    # Largest first keeps every worker busy to the end of a round, and is a pure function of it.
    visits.sort(key=lambda visit: (-visit.work, visit.client, visit.branch.number))
    tasks = [_fit(federation, visit, handles[visit.branch.number], phase) for visit in visits]
    foldings = {b.number: federation.aggregator.start(b.graph.layout) for b in live}
    gathered = {branch.number: _Gathered() for branch in live}
    losses: dict[int, list[tuple[int, float]]] = {branch.number: [] for branch in live}
    diverged: dict[int, str] = {}
    incidents: list[Incident] = []
    try:
        for visit, result in zip(visits, federation.engine.map(tasks), strict=True):
            number, data, kept = visit.branch.number, result.data, None
            size, agreed = handles[number].size, terms[number]
            try:
                if data is None:
                    raise UpdateRefused("the client's work failed", got=result.error)
                if visit.kept is not None:
                    data, kept = parted(data, len(visit.kept))
                update, seen = updated(
                    data,
                    client=visit.client,
                    branch=number,
                    round=visit.branch.round,
                    size=agreed.size(visit.branch.graph.layout),
                    norm=federation.norm,
                    extras=agreed.extras,
                )
            except UpdateRefused as refusal:
                rows.append(_fitted(visit, result, size, phase, 0, refused=refusal.what))
                incidents.append(
                    Incident(kind="refused", branch=number, client=visit.client, text=str(refusal))
                )
                diverged[number] = refusal.what
                continue
            rows.append(_fitted(visit, result, size, phase, seen))
            if agreed.body is not None:
                still = torch.zeros_like(visit.branch.flat)
                update = replace(update, delta=agreed.spread(update.delta, still))
            federation.aggregator.fold(foldings[number], update)
            if kept is not None:
                weight = federation.aggregator.weight(update.examples) if agreed.extras else 0.0
                gathered[number].add(visit.client, kept, update.extras, weight)
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
            after = gathered[branch.number].joined(after)
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
    own: bool = False,
) -> Scores:
    """Score every live branch on the same clients.

    Args:
        federation: what all rounds share.
        branches: those that are not alive are left out.
        clients: who scores.
        phase: what the meter calls it.
        split: `validation`, or `test` where the workplace holds opened test rows.
        rows_of: rows per client of that split; validation rows unless given.
        own: score each client's own model instead of the server's. A client without one yet
            scores what it would start from.
    """
    counts = federation.validation_rows if rows_of is None else rows_of
    own = own and isinstance(federation.training, Keeping)
    live = [branch for branch in branches if branch.alive]
    terms = {
        b.number: terms_of(_training(federation, b), b.graph.layout) if own else Terms()
        for b in live
    }
    handles = {b.number: federation.engine.share(message(b, terms[b.number])) for b in live}
    # A client that keeps a whole model needs nothing from the server to score it.
    down = {
        b.number: handles[b.number].size if not own or terms[b.number].body is not None else 0
        for b in live
    }
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
            training=_training(federation, branch) if own else None,
            kept=_kept(federation, branch, client) if own else None,
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


def _visits(
    federation: Federation, branch: Branch, terms: Terms, traffic: int, phase: str
) -> list[_Visit]:
    seed = federation.seed.child(phase, branch.number, "round", branch.round)
    chosen = federation.cohort.select(branch.cohort, seed.child("select"))
    work = [
        round(3 * terms.passes * branch.graph.macs * int(federation.train_rows[client]))
        for client in chosen
    ]
    fates = federation.cohort.fates(
        chosen,
        work,
        traffic,
        _training(federation, branch).epochs,
        speeds=federation.seed.child("speed"),
        seed=seed.child("fate"),
    )
    return [
        _Visit(branch, client, fate, macs * max(fate.epochs, 1), _kept(federation, branch, client))
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
        training=_training(federation, branch),
        seed=federation.seed.child(
            phase, branch.number, "round", branch.round, "client", visit.client
        ),
        progress=branch.round / branch.rounds,
        epochs=visit.fate.epochs,
        kept=visit.kept,
    )


def _fitted(
    visit: _Visit, result: Any, down: int, phase: str, seen: int, *, refused: str = ""
) -> MeterRow:
    stays = 0 if visit.kept is None else visit.kept.nbytes
    return MeterRow(
        phase=phase,
        round=visit.branch.round,
        branch=visit.branch.number,
        client=visit.client,
        kind="refused" if refused else "fit",
        examples=seen,
        bytes_down=down,
        bytes_up=max(0, result.data.nbytes - stays) if result.data is not None else 0,
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
