"""What every plan needs, and what it yields after each round."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from archipelago.client.kernels import Kernel
from archipelago.core.meter import MeterRow, totals
from archipelago.core.part_state import PartState
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal, Status
from archipelago.data.presence import Presence
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.rounds import Federation, Incident, Round, Scores, evaluate
from archipelago.nn.build import initialise
from archipelago.nn.inherit import inherited
from archipelago.space.graph import Graph
from archipelago.space.joint import settings

__all__ = [
    "EvaluationContext",
    "Estimator",
    "SILENT",
    "Step",
    "begin",
    "joined",
    "judge",
    "outcomes",
    "settle",
    "share",
    "untrained",
]

SILENT = "no round had enough replies"
"""Why a candidate failed whose clients never answered in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationContext:
    """Where candidates are compared.

    Attributes:
        federation: what all rounds share.
        graph: turns a point of the space into a network.
        clients: who may train.
        scorers: who may validate.
        phase: what the meter calls it.
        parent: from a proposal's number to its network and trained weights, where they were kept.
        presence: which classes the scorers hold, so that the metric has a value wherever some of
            them score; None: anybody scores.
        state: what the estimator kept of its own from the generation before; None at first.
    """

    federation: Federation
    graph: Callable[[Arch], Graph]
    clients: Sequence[int]
    scorers: tuple[int, ...]
    phase: str = "search"
    parent: Callable[[int], tuple[Graph, Tensor] | None] = lambda _: None
    presence: Presence | None = None
    state: PartState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a plan yields after a round: everything that must survive, and what it cost."""

    generation: Generation
    rows: tuple[MeterRow, ...]
    losses: dict[int, float]
    incidents: tuple[Incident, ...]
    kernels: Mapping[int, Kernel] = field(default_factory=dict[int, Kernel])


@runtime_checkable
class Estimator(Protocol):
    """A plan: who trains, who is scored, who is dropped.

    `run` is a pure function of the generation it is given: handing it a committed generation
    continues from there to the same bits.

    What outlives a generation (a supernet's weights) is the estimator's own state: `start` finds
    it in `context.state` and puts it into the generation, `run` yields it changed within each
    generation, and loop one commits it and hands it on.
    """

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        ...

    def start(
        self, proposals: Sequence[Proposal], index: int, context: EvaluationContext
    ) -> Generation:
        """Return a generation that has seen no round."""
        ...

    def forecast(
        self,
        proposals: Sequence[Proposal],
        networks: Sequence[Graph],
        index: int,
        outlook: Outlook,
    ) -> Forecast:
        """Return the work of a generation, nothing computed: at most, where scores decide."""
        ...

    def run(self, generation: Generation, context: EvaluationContext) -> Iterator[Step]:
        """Yield after every round; the last generation has its outcomes."""
        ...


def begin(
    proposals: Sequence[Proposal],
    index: int,
    context: EvaluationContext,
    *,
    cohorts: Sequence[Sequence[int]],
    rounds: Sequence[int],
    validators: int,
    inherit: bool = False,
    scored: bool = True,
) -> Generation:
    """Return a generation whose branches start from scratch, each with its cohort and its rounds.

    With `inherit`, one whose parent's weights were kept starts from a slice of them. Where branches
    are `scored` by the task's metric, validators are drawn on whose rows it has a value.
    """
    seed = context.federation.seed.child(context.phase)
    drawn = _drawn(context, validators, seed.child("validators", index), scored=scored)
    branches: list[Branch] = []
    for proposal, cohort, budget in zip(proposals, cohorts, rounds, strict=True):
        graph = context.graph(proposal.arch)
        parent = (
            context.parent(proposal.parent) if inherit and proposal.parent is not None else None
        )
        flat = (
            inherited(*parent, graph)
            if parent is not None
            else initialise(graph, seed.child("weights", proposal.number))
        )
        branches.append(
            Branch(
                number=proposal.number,
                graph=graph,
                flat=flat,
                cohort=cohort,
                rounds=budget,
                settings=settings(proposal.arch),
            )
        )
    return Generation(
        index=index,
        proposals=tuple(proposals),
        branches=tuple(branches),
        validators=drawn,
        state=context.state,
    )


def _drawn(
    context: EvaluationContext, validators: int, seed: Seed, *, scored: bool
) -> tuple[int, ...]:
    """Draw the validators of a generation; 0 takes all."""
    among = context.scorers
    if not validators or validators >= len(among):
        return among
    chosen = seed.numpy().choice(len(among), validators, replace=False)
    drawn = [among[index] for index in chosen]
    if context.presence is None or not scored:
        return tuple(sorted(drawn))
    order = seed.child("others").numpy().permutation(len(among))
    others = [among[index] for index in order if among[index] not in drawn]
    return context.presence.completed(context.federation.task, drawn, others)


def untrained(
    proposals: Sequence[Proposal], index: int, context: EvaluationContext, *, validators: int = 0
) -> Generation:
    """Return a generation that nobody will train: it is scored, or looked up, in one step."""
    nobody: list[tuple[int, ...]] = [()] * len(proposals)
    rounds = [1] * len(proposals)
    return begin(
        proposals,
        index,
        context,
        cohorts=nobody,
        rounds=rounds,
        validators=validators,
        scored=False,
    )


def share(rounds: int, fidelity: float) -> int:
    """Return the rounds that a fidelity buys; at least one."""
    return max(1, round(rounds * fidelity))


def judge(
    generation: Generation,
    context: EvaluationContext,
    *,
    most: int = 0,
    scores: Scores | None = None,
) -> tuple[Generation, Scores]:
    """Score every live branch and add a checkpoint to its history.

    Where training is personal, each client scores the model of its own: that is what it will use.
    A branch whose loss is not finite has failed. One whose metric has no value on the rows that
    scored it is `undefined`; where these were some of the validators' rows, all are scored first.

    Args:
        generation: the generation under way.
        context: where its candidates are compared.
        most: rows on which a client scores at most; 0 takes all.
        scores: given where others than the generation's validators have scored.
    """
    task = context.federation.task
    if scores is None:
        scores = evaluate(
            context.federation,
            generation.branches,
            generation.validators,
            phase=context.phase,
            most=most,
            personal=True,
        )
        totals_of = (scores.total(number) for number, found in scores.vectors.items() if found)
        if most and not all(task.cover(task.truth(total)).defined for total in totals_of):
            scores = joined(
                scores,
                evaluate(
                    context.federation,
                    generation.branches,
                    generation.validators,
                    phase=context.phase,
                    personal=True,
                ),
            )
    branches: list[Branch] = []
    for branch in generation.branches:
        if not branch.alive:
            branches.append(branch)
        elif not scores.vectors[branch.number]:
            reason = scores.reasons.get(branch.number, "no client could score it")
            branches.append(branch.end("failed", reason))
        else:
            total = scores.total(branch.number)
            metrics, cover = task.metrics(total), task.cover(task.truth(total))
            loss = float(total[1] / max(total[0], 1.0))
            point = (branch.round, loss, task.score(metrics))
            metrics = {**metrics, "loss": loss}
            cost = totals(row for row in scores.rows if row.branch == branch.number)
            spent = {
                name: branch.spent.get(name, 0.0) + value
                for name, value in cost.items()
                if name != "seconds"
            }
            after = replace(branch, history=(*branch.history, point), metrics=metrics, spent=spent)
            if not cover.defined and np.isfinite(loss):
                why = cover.undefined("validation")
                after = after.end("undefined", f"round {branch.round}: {why}")
            elif not np.isfinite(point[1:]).all():
                after = after.end("failed", f"round {branch.round}: the validation loss diverged")
            branches.append(after)
    return replace(generation, branches=tuple(branches)), scores


def joined(first: Scores, then: Scores) -> Scores:
    """Return scores of which `then` replaces those of its branches; both have their cost."""
    return Scores(
        vectors={**first.vectors, **then.vectors},
        rows=first.rows + then.rows,
        incidents=first.incidents + then.incidents,
    )


def settle(generation: Generation, done: Round, scores: Scores | None = None) -> Step:
    """Return the step that a round and, perhaps, a checkpoint make."""
    return Step(
        generation=generation,
        rows=done.rows + (scores.rows if scores else ()),
        losses=done.losses,
        incidents=done.incidents + (scores.incidents if scores else ()),
        kernels=done.kernels,
    )


def outcomes(generation: Generation) -> tuple[Outcome, ...]:
    """Return one outcome a proposal, in proposal order."""
    return tuple(
        _outcome(proposal, branch)
        for proposal, branch in zip(generation.proposals, generation.branches, strict=True)
    )


def _outcome(proposal: Proposal, branch: Branch) -> Outcome:
    # A plan of no rounds scores what was inherited.
    lost = branch.status in ("failed", "undefined")
    failed = lost or not branch.history or not (branch.counted or not branch.round)
    costs: dict[str, Any] = {
        "params": branch.graph.params,
        "macs": branch.graph.macs,
        "bytes_per_round": branch.graph.bytes_per_round,
        "rounds": branch.round,
        **{f"spent_{name}": value for name, value in branch.spent.items()},
    }
    return Outcome(
        number=proposal.number,
        arch=proposal.arch,
        score=float("-inf") if failed else branch.history[-1][2],
        status=_status(branch, failed=failed),
        metrics={} if failed else branch.metrics,
        costs=costs,
        reason=SILENT if failed and not lost else branch.reason or None,
        fidelity=proposal.fidelity,
    )


def _status(branch: Branch, *, failed: bool) -> Status:
    if failed:
        return "undefined" if branch.status == "undefined" else "failed"
    return "dropped" if branch.status == "dropped" else "done"
