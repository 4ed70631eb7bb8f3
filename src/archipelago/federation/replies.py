"""What comes back from a round's clients: nothing of it counts before it has been checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from archipelago.aggregate.mean import Folding
from archipelago.core.errors import UpdateRefused
from archipelago.core.failure import read_reason
from archipelago.core.meter import MeterRow
from archipelago.core.update import Update
from archipelago.engine.base import Result
from archipelago.federation.check import failed, parted, summed, updated
from archipelago.federation.counts import Counts, counts_of
from archipelago.federation.federation import Federation
from archipelago.federation.visits import Visit, summing
from archipelago.wire.frame import unbundle

__all__ = ["Answer", "absent", "answers", "fitted"]


@dataclass(slots=True, kw_only=True)
class Answer:
    """One client's reply, checked.

    Attributes:
        visit: what was asked.
        nbytes: of the reply, as it travels.
        seen: rows over all epochs.
        examples: rows behind the update.
        loss: mean training loss.
        part: what is folded for it: its update. Where the engine summed a block of updates, the sum
            comes with the first of its clients, and nothing with the others.
        kept: what the client keeps.
        refused: why it does not count.
    """

    visit: Visit
    nbytes: int = 0
    seen: int = 0
    examples: int = 0
    loss: float = nan
    part: Update | Folding | None = None
    kept: Tensor | None = None
    refused: UpdateRefused | None = None


def answers(federation: Federation, job: Sequence[Visit], result: Result) -> Iterator[Answer]:
    """Yield each visit's answer. What it holds may be a view of `result`."""
    check = federation.clock.of("check")
    try:
        with check:
            replies = _replies(job, result)
            together = _sum(federation, job, replies[0]) if len(replies) < len(job) else None
    except UpdateRefused as refusal:
        yield from (Answer(visit=visit, refused=refusal) for visit in job)
        return
    if together is not None:
        yield from together
        return
    for visit, reply in zip(job, replies, strict=True):
        with check:
            answer = _read(federation, visit, reply)
        yield answer


def _replies(job: Sequence[Visit], result: Result) -> Sequence[memoryview | UpdateRefused]:
    """Return each visit's frame, or why there is none; one for all of them where they are summed.

    Raises:
        UpdateRefused: a block's reply is not a bundle of frames.
        MachineFailed: a worker or a machine failed.
    """
    if result.data is None:
        refusal = failed(result.error, result.kind)
        return [refusal] * len(job)
    if len(job) == 1:
        return [result.data]
    replies = [
        reply if isinstance(reply, memoryview) else _said(reply) for reply in unbundle(result.data)
    ]
    if len(replies) not in (1, len(job)):
        raise UpdateRefused("a bundle of replies to other tasks", got=f"{len(replies)} replies")
    return replies


def _said(text: str) -> UpdateRefused:
    kind, words = read_reason(text)
    return failed(words, kind)


def _sum(
    federation: Federation, job: Sequence[Visit], reply: memoryview | UpdateRefused
) -> list[Answer]:
    if isinstance(reply, UpdateRefused):
        raise reply
    branch, aggregator = job[0].branch_round.branch, summing(federation, job)
    if aggregator is None:
        raise UpdateRefused("a sum of updates, where each one was asked for")
    total, said = summed(
        reply,
        clients=[visit.client for visit in job],
        branch=branch.number,
        round=branch.round,
        size=branch.graph.layout.size,
        counts=_several(federation, job),
    )
    weight = sum(aggregator.weight(one.examples) for one in said)
    found = [
        Answer(
            visit=visit,
            nbytes=one.nbytes,
            seen=one.seen,
            examples=one.examples,
            loss=one.loss,
        )
        for visit, one in zip(job, said, strict=True)
    ]
    found[0].part = Folding(total, weight, len(job))
    return found


def _read(federation: Federation, visit: Visit, reply: memoryview | UpdateRefused) -> Answer:
    branch, agreement, kept = visit.branch_round.branch, visit.branch_round.agreement, None
    if isinstance(reply, UpdateRefused):
        return Answer(visit=visit, refused=reply)
    stays = 0 if visit.kept is None else visit.kept.nbytes
    answer = Answer(visit=visit, nbytes=max(0, reply.nbytes - stays))
    try:
        if visit.kept is not None:
            reply, kept = parted(reply, len(visit.kept))
        update, seen = updated(
            reply,
            client=visit.client,
            branch=branch.number,
            round=branch.round,
            size=agreement.size(branch.graph.layout),
            norm=federation.norm,
            extras=agreement.extras,
            counts=_counts(federation, visit),
        )
    except UpdateRefused as refusal:
        answer.refused = refusal
        return answer
    if agreement.body is not None:
        still = torch.zeros_like(branch.flat)
        update = replace(update, delta=agreement.spread(update.delta, still))
    if visit.scale != 1.0:
        update = replace(update, delta=update.delta * visit.scale)
    answer.part, answer.kept, answer.seen = update, kept, seen
    answer.examples, answer.loss = update.examples, update.metrics.get("loss", nan)
    return answer


def _several(federation: Federation, job: Sequence[Visit]) -> list[Counts]:
    """Return what each client of a block may say: of one branch, one way of training."""
    known: dict[tuple[int, int], Counts] = {}
    rows = federation.train_rows[[visit.client for visit in job]].tolist()
    out: list[Counts] = []
    for visit, own in zip(job, rows, strict=True):
        alike = own, visit.fate.epochs
        if alike not in known:
            known[alike] = _counts(federation, visit)
        out.append(known[alike])
    return out


def _counts(federation: Federation, visit: Visit) -> Counts:
    branch_round, branch = visit.branch_round, visit.branch_round.branch
    return counts_of(
        federation.task,
        branch_round.training,
        branch_round.agreement,
        rows=int(federation.train_rows[visit.client]),
        epochs=visit.fate.epochs,
        progress=branch.round / branch.rounds,
    )


def fitted(answer: Answer, seconds: float, phase: str) -> MeterRow:
    """Return the row of a client that was asked to train.

    Args:
        answer: what it said.
        seconds: wall-clock of the work.
        phase: what the meter calls it.
    """
    visit, refused = answer.visit, answer.refused
    branch = visit.branch_round.branch
    return MeterRow(
        phase=phase,
        round=branch.round,
        branch=branch.number,
        client=visit.client,
        kind="refused" if refused else "fit",
        examples=answer.seen,
        bytes_down=visit.branch_round.handle.size,
        bytes_up=answer.nbytes,
        macs=visit.work if refused else 3 * branch.graph.macs * answer.seen,
        virtual_seconds=visit.fate.seconds,
        seconds=seconds,
        note=refused.what if refused else visit.fate.note,
    )


def absent(visit: Visit, phase: str) -> MeterRow:
    """Return the row of a client that downloaded and did nothing more."""
    return MeterRow(
        phase=phase,
        round=visit.branch_round.branch.round,
        branch=visit.branch_round.branch.number,
        client=visit.client,
        kind="refused",
        bytes_down=visit.branch_round.handle.size,
        virtual_seconds=visit.fate.seconds,
        note=visit.fate.note,
    )
