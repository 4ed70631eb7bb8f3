"""Scores without training: a benchmark table in the place of clients."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from archipelago.core.checks import at_least
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome, Proposal
from archipelago.estimate.context import EvaluationContext, Step, untrained
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.estimate.table import Table
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.federation import Federation
from archipelago.space.graph import INPUT, Graph, Node

__all__ = ["Tabular"]

TABLE = -1
"""The meter's client of a look-up: none."""


@dataclass(frozen=True, slots=True)
class Tabular:
    """Look every candidate up in a table: loop one runs as in a real search, and nobody trains.

    Fidelities, failures and costs are the table's. Outcomes are those of `driver/replay.py` for the
    same strategy, stream and batch; here a journal keeps them, and a search can be stopped.

    Attributes:
        table: answers; its space is the one to search.
        candidates: proposals looked up in one generation.
        macs: multiply-accumulates that the meter counts for a full training, and their share for
            a lower fidelity; a promoted candidate pays anew. 0 counts nothing.

    Example:
        >>> from archipelago.estimate.mb432 import mb432
        >>> Tabular(mb432()).width(clients=0)
        1
    """

    table: Table
    _: KW_ONLY
    candidates: int = 1
    macs: int = 0

    def __post_init__(self) -> None:
        at_least("estimator.candidates", self.candidates, 1)
        at_least("estimator.macs", self.macs, 0, fix="0 counts nothing")

    def context(self, seed: Seed, phase: str = "search") -> EvaluationContext:
        """Return a place without clients, where one empty network stands for every candidate.

        An context of real networks does as well: the best one can then be trained.
        """
        nobody = np.zeros(0, np.int64)
        return EvaluationContext(
            federation=Federation(
                engine=None, task=None, train_rows=nobody, validation_rows=nobody, seed=seed
            ),
            graph=_stand_in,
            clients=(),
            scorers=(),
            phase=phase,
        )

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        del clients
        return self.candidates

    def start(
        self, proposals: Sequence[Proposal], index: int, context: EvaluationContext
    ) -> Generation:
        """Give every proposal a branch that nobody will train."""
        return untrained(proposals, index, context)

    def forecast(
        self,
        proposals: Sequence[Proposal],
        networks: Sequence[Graph],
        index: int,
        outlook: Outlook,
    ) -> Forecast:
        """Return what the meter will count; nobody trains or scores."""
        del networks, index, outlook
        macs = sum(round(self.macs * proposal.fidelity) for proposal in proposals)
        return Forecast(rounds=1, macs=macs, risk=None)

    def run(self, generation: Generation, context: EvaluationContext) -> Iterator[Step]:
        """Yield once: everything is looked up.

        Raises:
            ConfigError: a fidelity at which the table measured nothing, or another space.
        """
        if generation.outcomes:
            return
        told = tuple(self.table.outcome(proposal) for proposal in generation.proposals)
        branches = tuple(map(_looked_up, generation.branches, told))
        yield Step(
            generation=replace(generation, branches=branches, outcomes=told),
            rows=tuple(self._row(outcome, context.phase) for outcome in told) if self.macs else (),
            losses={},
            incidents=(),
        )

    def _row(self, outcome: Outcome, phase: str) -> MeterRow:
        return MeterRow(
            phase=phase,
            round=0,
            branch=outcome.number,
            client=TABLE,
            kind="fit",
            macs=round(self.macs * outcome.fidelity),
        )


def _looked_up(branch: Branch, outcome: Outcome) -> Branch:
    if outcome.status == "failed":
        return branch.end("failed", outcome.reason)
    point = (1, -outcome.score, outcome.score)
    return replace(branch, round=1, counted=1, history=(point,)).end("done")


def _stand_in(_: object) -> Graph:
    return Graph((1,), (Node("none", "identity", (INPUT,)),))
