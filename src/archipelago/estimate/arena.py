"""What every plan needs, and what it yields after each round."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from archipelago.client.paths import Path
from archipelago.core.meter import MeterRow, totals
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.federation.branch import Branch, Heat
from archipelago.federation.rounds import Federation, Incident, Round, Scores, evaluate
from archipelago.nn.build import initialise
from archipelago.nn.inherit import inherited
from archipelago.space.graph import Graph
from archipelago.space.joint import settings

__all__ = [
    "Arena",
    "Estimator",
    "SILENT",
    "Step",
    "begin",
    "judge",
    "outcomes",
    "settle",
    "share",
    "untrained",
]

SILENT = "no round had enough replies"
"""Why a candidate failed whose clients never answered in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Where candidates are compared.

    Attributes:
        federation: what all rounds share.
        graph: turns a point of the space into a network.
        clients: who may train.
        scorers: who may validate.
        phase: what the meter calls it.
        parent: from a proposal's number to its network and trained weights, where they were kept.
    """

    federation: Federation
    graph: Callable[[Arch], Graph]
    clients: Sequence[int]
    scorers: tuple[int, ...]
    phase: str = "search"
    parent: Callable[[int], tuple[Graph, Tensor] | None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a plan yields after a round: everything that must survive, and what it cost."""

    heat: Heat
    rows: tuple[MeterRow, ...]
    losses: dict[int, float]
    incidents: tuple[Incident, ...]
    paths: Mapping[int, Path] = field(default_factory=dict[int, Path])


@runtime_checkable
class Estimator(Protocol):
    """A plan: who trains, who is scored, who is dropped.

    `run` is a pure function of the heat it is given: handing it a committed heat continues from
    there to the same bits.
    """

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        ...

    def start(self, proposals: Sequence[Proposal], generation: int, arena: Arena) -> Heat:
        """Return a generation that has seen no round."""
        ...

    def run(self, heat: Heat, arena: Arena) -> Iterator[Step]:
        """Yield after every round; the last heat has its outcomes."""
        ...


def begin(
    proposals: Sequence[Proposal],
    generation: int,
    arena: Arena,
    *,
    cohorts: Sequence[Sequence[int]],
    rounds: Sequence[int],
    validators: int,
    inherit: bool = False,
) -> Heat:
    """Return a heat whose branches start from scratch, each with its cohort and its rounds.

    With `inherit`, one whose parent's weights were kept starts from a slice of them.
    """
    seed = arena.federation.seed.child(arena.phase)
    drawn = arena.scorers
    if validators and validators < len(drawn):
        chosen = (
            seed.child("validators", generation)
            .numpy()
            .choice(len(drawn), validators, replace=False)
        )
        drawn = tuple(sorted(drawn[index] for index in chosen))
    branches: list[Branch] = []
    for proposal, cohort, budget in zip(proposals, cohorts, rounds, strict=True):
        graph = arena.graph(proposal.arch)
        parent = arena.parent(proposal.parent) if inherit and proposal.parent is not None else None
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
    return Heat(
        generation=generation,
        proposals=tuple(proposals),
        branches=tuple(branches),
        validators=drawn,
    )


def untrained(
    proposals: Sequence[Proposal], generation: int, arena: Arena, *, validators: int = 0
) -> Heat:
    """Return a generation that nobody will train: it is scored, or looked up, in one step."""
    nobody: list[tuple[int, ...]] = [()] * len(proposals)
    rounds = [1] * len(proposals)
    return begin(proposals, generation, arena, cohorts=nobody, rounds=rounds, validators=validators)


def share(rounds: int, fidelity: float) -> int:
    """Return the rounds that a fidelity buys; at least one."""
    return max(1, round(rounds * fidelity))


def judge(
    heat: Heat, arena: Arena, *, most: int = 0, scores: Scores | None = None
) -> tuple[Heat, Scores]:
    """Score every live branch and add a checkpoint to its history.

    Where training is personal, each client scores the model of its own: that is what it will use.

    Args:
        heat: the generation under way.
        arena: where its candidates are compared.
        most: rows on which a client scores at most; 0 takes all.
        scores: given where others than the heat's validators have scored.
    """
    if scores is None:
        scores = evaluate(
            arena.federation,
            heat.branches,
            heat.validators,
            phase=arena.phase,
            most=most,
            own=True,
        )
    branches: list[Branch] = []
    for branch in heat.branches:
        if not branch.alive:
            branches.append(branch)
        elif not scores.vectors[branch.number]:
            reason = scores.reasons.get(branch.number, "no client could score it")
            branches.append(branch.end("failed", reason))
        else:
            total = scores.total(branch.number)
            metrics = arena.federation.task.metrics(total)
            loss = float(total[1] / max(total[0], 1.0))
            point = (branch.round, loss, arena.federation.task.score(metrics))
            metrics = {**metrics, "loss": loss}
            cost = totals(row for row in scores.rows if row.branch == branch.number)
            spent = {
                name: branch.spent.get(name, 0.0) + value
                for name, value in cost.items()
                if name != "seconds"
            }
            after = replace(branch, history=(*branch.history, point), metrics=metrics, spent=spent)
            if not np.isfinite(point[1:]).all():
                after = after.end("failed", f"round {branch.round}: the validation loss diverged")
            branches.append(after)
    return replace(heat, branches=tuple(branches)), scores


def settle(heat: Heat, done: Round, scores: Scores | None = None) -> Step:
    """Return the step that a round and, perhaps, a checkpoint make."""
    return Step(
        heat=heat,
        rows=done.rows + (scores.rows if scores else ()),
        losses=done.losses,
        incidents=done.incidents + (scores.incidents if scores else ()),
        paths=done.paths,
    )


def outcomes(heat: Heat) -> tuple[Outcome, ...]:
    """Return one outcome a proposal, in proposal order."""
    return tuple(
        _outcome(proposal, branch)
        for proposal, branch in zip(heat.proposals, heat.branches, strict=True)
    )


def _outcome(proposal: Proposal, branch: Branch) -> Outcome:
    # A plan of no rounds scores what was inherited.
    failed = (
        branch.status == "failed" or not branch.history or not (branch.counted or not branch.round)
    )
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
        status="failed" if failed else ("dropped" if branch.status == "dropped" else "done"),
        metrics={} if failed else branch.metrics,
        costs=costs,
        reason=SILENT if failed and branch.status != "failed" else branch.reason or None,
        fidelity=proposal.fidelity,
    )
