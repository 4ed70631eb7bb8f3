"""Loop two: one step is one federated round of all live branches.

`step` trains, `evaluate` scores. Both issue one `Engine.map` over every client of every live
branch, fold the replies in the order in which they were issued, and give back frozen values and
meter rows; neither writes anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from archipelago.aggregate.mean import Folding
from archipelago.client.agreement import agreement_of
from archipelago.client.kernels import Kernel
from archipelago.client.tasks import Evaluate
from archipelago.core.errors import RunFailed, TaskFailed, UpdateRefused
from archipelago.core.meter import MeterRow, totals
from archipelago.data.bounds import check, finite, labels_of, wide
from archipelago.engine.base import one_thread
from archipelago.federation.branch import Branch
from archipelago.federation.check import failed, scored, unread, wild
from archipelago.federation.federation import Federation, Incident
from archipelago.federation.norm_bound import NormBound
from archipelago.federation.replies import Answer, absent, answers, fitted
from archipelago.federation.score_review import Said, ScoreReview
from archipelago.federation.visits import (
    ALL,
    BranchRound,
    Visit,
    branch_round_of,
    ending,
    grouped,
    kept_of,
    message,
    selected,
    task_of,
    training_of,
)

__all__ = ["Federation", "Incident", "Round", "Scores", "evaluate", "message", "selected", "step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one step gave.

    Attributes:
        branches: all of them, the live ones one round older.
        rows: one meter row a visit.
        losses: mean training loss of each branch that trained.
        incidents: refusals, failures, void rounds.
        paths: how each branch that began is trained, and why; see `client/kernels.py`.
    """

    branches: tuple[Branch, ...]
    rows: tuple[MeterRow, ...]
    losses: dict[int, float]
    incidents: tuple[Incident, ...]
    kernels: Mapping[int, Kernel] = field(default_factory=dict[int, Kernel])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Sufficient statistics of each branch on each client.

    Attributes:
        vectors: branch number -> client -> vector. A client that failed is absent, from every
            branch that was scored with it: all are compared on the same clients.
        rows: one meter row an evaluation.
        incidents: refusals and failures.
        reasons: why a branch has no vector.
    """

    vectors: dict[int, dict[int, np.ndarray]]
    rows: tuple[MeterRow, ...]
    incidents: tuple[Incident, ...]
    reasons: Mapping[int, str] = field(default_factory=dict[int, str])

    @classmethod
    def of(cls, ballot: ScoreReview, rows: Sequence[MeterRow]) -> "Scores":
        """Count a ballot: its refusals become incidents, in the order of `rows`, one an answer."""
        vectors, reasons = ballot.count()
        told: list[MeterRow] = []
        incidents: list[Incident] = []
        for row in rows:
            refusal = ballot.refused.get(row.branch, {}).get(row.client)
            if refusal is not None:
                text = str(refusal)
                incidents.append(
                    Incident(kind="refused", branch=row.branch, client=row.client, text=text)
                )
                row = replace(row, kind="refused", note=refusal.what)  # noqa: PLW2901
            told.append(row)
        return cls(vectors=vectors, rows=tuple(told), incidents=tuple(incidents), reasons=reasons)

    def total(self, branch: int) -> np.ndarray:
        """Return the sum over clients, in ascending order of client.

        Raises:
            RunFailed: no client's scores count.
        """
        if not self.vectors[branch]:
            raise RunFailed(
                "a network cannot be scored",
                got=self.reasons.get(branch, "no client could score it"),
                fix="`archipelago watch` tells which clients were refused, and why",
            )
        return sum(
            (vector for _, vector in sorted(self.vectors[branch].items())), start=np.float64(0)
        )  # pyright: ignore[reportReturnType]


@one_thread()  # beside busy workers a second thread makes the server's sums slower, not faster
def step(federation: Federation, branches: Sequence[Branch], *, phase: str) -> Round:
    """Train every live branch for one round on its cohort.

    Args:
        federation: what all rounds share.
        branches: alive or not; those that are not come back unchanged.
        phase: what the meter calls it; it also names the stream of chance.

    Returns:
        New branches. One fails when all of a round's replies were refused and at least half of
        them diverged or could not be made, for the reason of the last of these; a round with fewer
        replies than `cohort.minimum` does not count: the weights stay as they were.

    Raises:
        TaskFailed: nobody's rows could be read.
    """
    live = [branch for branch in branches if branch.alive]
    clock, aggregator = federation.clock, federation.aggregator
    with clock.of("frame"):
        branch_rounds = {branch.number: branch_round_of(federation, branch) for branch in live}
    visits: list[Visit] = []
    rows: list[MeterRow] = []
    incidents: list[Incident] = []
    with clock.of("select"):
        for branch_round in branch_rounds.values():
            for visit in ending(federation, branch_round, phase):
                if visit.fate.epochs:
                    visits.append(visit)
                else:
                    rows.append(absent(visit, phase))
        # Largest first keeps every worker busy to the end of a round, and is a pure function of it.
        visits.sort(key=lambda visit: (-visit.work, visit.client, visit.model))
        jobs = grouped(visits)
        tasks = [task_of(federation, job, phase) for job in jobs]
    gates = {
        number: _gate(federation, branch_round) for number, branch_round in branch_rounds.items()
    }
    faults: dict[int, list[UpdateRefused]] = {number: [] for number in branch_rounds}
    lost = 0

    def settle(answer: Answer, place: int, seconds: float) -> None:
        """Fold a reply, or record why not; `place` is that of its row."""
        nonlocal lost
        branch_round, refused = (
            branch_rounds[answer.visit.branch_round.branch.number],
            answer.refused,
        )
        number = branch_round.branch.number
        if refused:
            rows[place] = fitted(answer, seconds, phase)
            client, text = answer.visit.client, str(refused)
            incidents.append(Incident(kind="refused", branch=number, client=client, text=text))
            faults[number].append(refused)
            lost += unread(refused)
            return
        with clock.of("combine"):
            _fold(federation, answer)
        branch_round.losses.append((answer.examples, answer.loss))

    try:
        results = clock.waiting(federation.engine.map(tasks), "train")
        for job, result in zip(jobs, results, strict=True):
            for answer in answers(federation, job, result):
                seconds = result.seconds / len(job)
                rows.append(fitted(answer, seconds, phase))
                then = partial(settle, place=len(rows) - 1, seconds=seconds)
                gates[answer.visit.branch_round.branch.number].take(answer, then)
        for gate in gates.values():
            gate.close()
    finally:
        for branch_round in branch_rounds.values():
            for handle in (branch_round.handle, *branch_round.others):
                handle.release()
    if lost == len(visits) > 0:  # no candidate's fault: a resumed run trains the round again
        raise TaskFailed(
            "nobody's rows can be read",
            got=incidents[-1].text,
            fix="leave the run's files alone while it runs; `archipelago resume` makes them again",
        )
    spent: dict[int, list[MeterRow]] = {number: [] for number in branch_rounds}
    for row in rows:
        spent[row.branch].append(row)
    aged: list[Branch] = []
    for branch in branches:
        if not branch.alive:
            aged.append(branch)
            continue
        branch_round = branch_rounds[branch.number]
        folding, cost = branch_round.folding, totals(spent[branch.number])
        after = replace(
            branch_round.then,
            round=branch.round + 1,
            spent=_sum(branch.spent, cost),
            agreed=gates[branch.number].next,
        )
        if folding.count >= federation.cohort.minimum:
            layout = branch.graph.layout
            state = branch.server or federation.server.init(layout)
            with clock.of("combine"):
                mean = aggregator.finish(folding)
                state, flat = federation.server.step(state, layout, branch.flat, mean)
            after = replace(after, server=state, flat=flat, counted=branch.counted + 1)
            after = branch_round.gathered.joined(after)
        elif reason := _failing(faults[branch.number], folding.count):
            after = after.end("failed", f"round {branch.round}: {reason}")
        else:
            text = f"round {branch.round}: {folding.count} replies, too few to count"
            incidents.append(Incident(kind="void", branch=branch.number, client=-1, text=text))
        aged.append(after)
    return Round(
        branches=tuple(aged),
        rows=tuple(rows),
        losses={
            number: _mean(branch_round.losses)
            for number, branch_round in branch_rounds.items()
            if branch_round.losses
        },
        incidents=tuple(incidents),
        kernels={n: s.kernel for n, s in branch_rounds.items() if s.branch.round == 0},
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
    personal: bool = False,
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
    agreement = {
        b.number: agreement_of(training_of(federation, b), b.graph.layout) if personal else ALL
        for b in live
    }
    agreement = {number: found if found.personal else ALL for number, found in agreement.items()}
    handles = {b.number: federation.engine.share(message(b, agreement[b.number])) for b in live}
    # A client that keeps a whole model needs nothing from the server to score it.
    down = {
        number: 0 if agreed.personal and agreed.body is None else handles[number].size
        for number, agreed in agreement.items()
    }
    asked = clients if isinstance(clients, Mapping) else {b.number: clients for b in live}
    quiet = federation.quiet
    pairs = [(b, client) for b in live for client in asked[b.number] if client not in quiet]
    pairs.sort(key=lambda p: (-p[0].graph.macs * int(counts[p[1]]), p[1], p[0].number))
    tasks = [
        Evaluate(
            client=client,
            branch=branch.number,
            round=branch.round,
            weight=branch.graph.macs * int(counts[client]),
            handle=handles[branch.number],
            split=split,
            training=training_of(federation, branch),
            kept=kept_of(federation, branch, client) if agreement[branch.number].personal else None,
            most=most,
            view=branch.view,
        )
        for branch, client in pairs
    ]
    task = federation.task

    def read(vector: np.ndarray) -> Said:
        mean = float(abs(vector[1]) / max(vector[0], 1.0))
        return Said(finite=finite(task, vector), size=mean, labels=labels_of(task, vector))

    mine = {b.number: asked[b.number] for b in live}
    ballot = ScoreReview(asked=mine, read=read, wide=wide(task))
    rows: list[MeterRow] = []
    try:
        for (branch, client), result in zip(
            pairs, federation.clock.waiting(federation.engine.map(tasks), "evaluate"), strict=True
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
                    raise failed(result.error, result.kind)
                vector = scored(
                    result.data,
                    client=client,
                    branch=branch.number,
                    round=branch.round,
                    size=task.length,
                    rows=int(counts[client]),
                )
                check(task, vector, int(counts[client]))
                ballot.add(branch.number, client, vector)
            except UpdateRefused as refusal:
                ballot.refuse(branch.number, client, refusal)
            rows.append(row)
    finally:
        for handle in handles.values():
            handle.release()
    return Scores.of(ballot, rows)


def _gate(federation: Federation, branch_round: BranchRound) -> NormBound:
    branch, times = branch_round.branch, float(getattr(federation.aggregator, "bound", 0.0))
    return NormBound(times=times, agreed=branch.agreed, flat=branch.flat)


def _failing(refused: Sequence[UpdateRefused], counted: int) -> str:
    """Return why a candidate fails, if it does: most of those that should train it could not.

    A reply that breaks the rules is its client's fault, and no candidate's.
    """
    own = [refusal.what for refusal in refused if wild(refusal)]
    return own[-1] if own and not counted and 2 * len(own) >= len(refused) else ""


def _fold(federation: Federation, answer: Answer) -> None:
    branch_round, part, aggregator = answer.visit.branch_round, answer.part, federation.aggregator
    if isinstance(part, Folding):
        aggregator.join(branch_round.folding, part)
    elif part is not None:
        aggregator.fold(branch_round.folding, part if aggregator.streaming else part.copied())
        if answer.kept is not None:
            weight = aggregator.weight(part.examples) if branch_round.agreement.extras else 0.0
            branch_round.gathered.add(answer.visit.client, answer.kept, part.extras, weight)


def _mean(pairs: Sequence[tuple[int, float]]) -> float:
    return sum(n * value for n, value in pairs) / sum(n for n, _ in pairs)


def _sum(a: Any, b: Any) -> dict[str, float]:
    return {name: a.get(name, 0.0) + value for name, value in b.items() if name != "seconds"}
