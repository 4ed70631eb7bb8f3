"""From scratch, a few rounds on many clients: the plain estimator, and final training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Literal

from archipelago.core.checks import at_least
from archipelago.core.trial import Proposal
from archipelago.estimate.context import (
    EvaluationContext,
    Step,
    begin,
    judge,
    outcomes,
    settle,
    share,
)
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.rounds import step
from archipelago.space.graph import Graph

__all__ = ["Rounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Train every candidate on all clients for some rounds, then score it.

    With one proposal this is FedAvg; with a long plan and patience it is final training.

    Attributes:
        rounds: federated rounds a candidate gets.
        candidates: proposals trained side by side.
        every: rounds between checkpoints; 0 scores at the end only.
        patience: checkpoints without a lower validation loss before a branch has converged;
            0 uses every round.
        validators: clients that score; 0 takes all. More do where the drawn ones hold too few
            classes for the metric.
        spend: what a proposal's fidelity buys: `rounds`, `clients` that train it, or the root of
            it in `both`. Fewer clients are always among the more, so that nothing else differs.
        inherit: start from the parent's weights, sliced, where a proposal has a parent.
        hours: virtual hours after which a candidate's training ends; 0 sets no limit.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    kind: Literal["rounds"] = "rounds"
    rounds: int = 10
    candidates: int = 4
    every: int = 0
    patience: int = 0
    validators: int = 0
    spend: Literal["rounds", "clients", "both"] = "rounds"
    inherit: bool = False
    hours: float = 0.0

    def __post_init__(self) -> None:
        at_least("estimator.rounds", self.rounds, 1, high=1_000_000)
        at_least("estimator.candidates", self.candidates, 1, high=100_000)
        at_least("estimator.every", self.every, 0, fix="0 scores at the end only")
        at_least("estimator.patience", self.patience, 0, fix="0 uses every round")
        at_least("estimator.validators", self.validators, 0, fix="0 takes all clients")
        at_least("estimator.hours", self.hours, 0, fix="0 sets no limit")

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        del clients
        return self.candidates

    def start(
        self, proposals: Sequence[Proposal], index: int, context: EvaluationContext
    ) -> Generation:
        """Give every branch all clients, or the share of clients and rounds of its fidelity."""
        longer = [self._split(proposal.fidelity) for proposal in proposals]
        return begin(
            proposals,
            index,
            context,
            cohorts=[_first(context, clients) for _, clients in longer],
            rounds=[share(self.rounds, rounds) for rounds, _ in longer],
            validators=self.validators,
            inherit=self.inherit,
        )

    def forecast(
        self,
        proposals: Sequence[Proposal],
        networks: Sequence[Graph],
        index: int,
        outlook: Outlook,
    ) -> Forecast:
        """Return every round of every candidate, as if none converged or ran out of time."""
        del index
        judges, fits, checks, last = outlook.judges(self.validators), 0, 0, 0
        for proposal in proposals:
            rounds, clients = self._split(proposal.fidelity)
            turns = share(self.rounds, rounds)
            fits += turns * outlook.replies(_count(outlook.clients, clients), 0)
            checks += judges * (ceil(turns / self.every) if self.every else 1)
            last = max(last, turns)
        return outlook.work(networks, rounds=last, fits=fits, evaluations=checks)

    def run(self, generation: Generation, context: EvaluationContext) -> Iterator[Step]:
        """Yield after every round until no branch is alive."""
        while not generation.outcomes:
            done = step(context.federation, generation.branches, phase=context.phase)
            generation, scores = replace(generation, branches=done.branches), None
            if any(self._due(branch) for branch in generation.branches):
                generation, scores = judge(generation, context)
            generation = replace(
                generation, branches=tuple(self._ended(b) for b in generation.branches)
            )
            if not any(branch.alive for branch in generation.branches):
                generation = replace(generation, outcomes=outcomes(generation))
            yield settle(generation, done, scores)

    def _split(self, fidelity: float) -> tuple[float, float]:
        """Return the shares of rounds and of clients whose product is `fidelity`."""
        match self.spend:
            case "rounds":
                return fidelity, 1.0
            case "clients":
                return 1.0, fidelity
            case "both":
                return sqrt(fidelity), sqrt(fidelity)

    def _due(self, branch: Branch) -> bool:
        checkpoint = bool(self.every) and branch.round % self.every == 0
        return branch.alive and (checkpoint or self._over(branch))

    def _over(self, branch: Branch) -> bool:
        late = bool(self.hours) and branch.clock >= 3600 * self.hours
        return branch.round >= branch.rounds or late

    def _ended(self, branch: Branch) -> Branch:
        if not branch.alive:
            return branch
        if self._over(branch):
            return branch.end("done")
        losses = [loss for _, loss, _ in branch.history]
        if self.patience and len(losses) > self.patience:
            best = losses.index(min(losses))
            if len(losses) - 1 - best >= self.patience:
                return branch.end("done", f"converged after {branch.round} rounds")
        return branch


def _first(context: EvaluationContext, part: float) -> Sequence[int]:
    """Return this share of the clients, rounded up: the first in an order drawn once a stage."""
    clients = context.clients
    count = _count(len(clients), part)
    if count >= len(clients):
        return clients
    order = context.federation.seed.child(context.phase, "order").numpy().permutation(len(clients))
    return tuple(sorted(clients[index] for index in order[:count]))


def _count(clients: int, part: float) -> int:
    return ceil(part * clients - 1e-9)
