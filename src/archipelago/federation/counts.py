"""What a client may say of its own work: no more than it declared, and than it was asked for."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isclose
from typing import Any

from archipelago.client.agreement import Agreement
from archipelago.client.ditto import Ditto
from archipelago.client.fedper import FedPer
from archipelago.client.pfedme import PFedMe
from archipelago.client.scaffold import Scaffold
from archipelago.client.training import FedSgd, LocalTraining, effort
from archipelago.core.errors import UpdateRefused
from archipelago.data.tasks import Classification, MultiLabel, Regression

__all__ = ["Counts", "counts_of"]

_INNER = (Ditto, FedPer, Scaffold)
_OWN = 100
"""Times the passes it names that a way of training of one's own may take."""
_LARGEST = 3.5e38
"""Of a loss: it is worked out in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Bounds of one visit.

    Attributes:
        rows: train rows that the client declared.
        passes: over them, those for a model of its own included.
        epochs: passes in which it steps.
        batch: rows in a step, 0 for all; None where the way of training does not say.
        momentum: by which steps lengthen the effort.
        pull: by which they shorten it; learning rate times the proximal term.
        least: training loss; 0 for the tasks that are known here.
    """

    rows: int
    passes: float
    epochs: int
    batch: int | None = None
    momentum: float = 0.0
    pull: float = 0.0
    least: float = 0.0

    def work(self, examples: int, seen: int) -> None:
        """Check the rows behind an update, and those of all its passes.

        Raises:
            UpdateRefused: they are more than there are.
        """
        if not (_whole(examples) and examples <= self.rows):
            raise UpdateRefused(
                "examples must be a positive whole number, and no more than the client declared",
                got=_brief(examples),
                fix=f"this client declared {self.rows} train rows",
            )
        if not (_whole(seen) and seen <= ceil(examples * self.passes)):
            raise UpdateRefused(
                "seen must be a positive whole number, and no more than was asked for",
                got=_brief(seen),
                fix=f"{examples} rows were to be passed {self.passes:g} times",
            )

    def way(self, examples: int, seen: int, steps: int, effort: float) -> None:
        """Check the gradient steps behind an update, and how far they go.

        Raises:
            UpdateRefused: they are more than so many rows make, or the way is not that of so many.
        """
        most = seen
        if self.batch is not None:
            turns = -(-examples // self.batch) if 0 < self.batch < examples else 1
            most = min(most, turns * self.epochs)
        if not (_whole(steps) and steps <= most):
            raise UpdateRefused(
                "steps must be a positive whole number, and no more than the rows make",
                got=_brief(steps),
                fix=f"{most} at most",
            )
        if self.batch is None:  # a way of training of one's own: FedNova divides by this
            fits = 1e-3 <= effort <= 1.0 + float(steps) ** 2
        else:
            fits = isclose(effort, _effort(steps, self.momentum, self.pull), rel_tol=1e-6)
        if not fits:
            raise UpdateRefused("effort is not that of so many steps", got=_brief(effort))


def counts_of(
    task: Any, training: Any, agreement: Agreement, *, rows: int, epochs: int, progress: float
) -> Counts:
    """Return what a visit may say.

    Args:
        task: what is learned.
        training: the branch's way of training.
        agreement: what it costs.
        rows: train rows that the client declared.
        epochs: passes asked for, fewer than the training's own where time runs out.
        progress: share of the plan's rounds already done.
    """
    known = isinstance(task, Classification | MultiLabel | Regression)
    # Passes for a model of its own are not always cut short with the others.
    passes = epochs if agreement.passes == 1 else agreement.passes * max(epochs, training.epochs)
    local = training.local if isinstance(training, (*_INNER, PFedMe)) else training
    batch, momentum, pull = None, 0.0, 0.0
    if type(training) is FedSgd:
        batch = 0
    elif type(local) is LocalTraining:
        batch = local.batch
        if not isinstance(training, PFedMe):
            momentum, pull = local.momentum, local.rate(progress) * local.proximal
    else:
        passes *= _OWN
    return Counts(
        rows=rows,
        passes=passes,
        epochs=epochs,
        batch=batch,
        momentum=momentum,
        pull=pull,
        least=0.0 if known else -_LARGEST,
    )


@lru_cache(maxsize=4096)
def _effort(steps: int, momentum: float, pull: float) -> float:
    return effort(steps, momentum=momentum, pull=pull)


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _brief(value: object) -> str:
    return repr(value)[:80]
