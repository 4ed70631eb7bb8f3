"""How long an update may be that comes by itself: a multiple of what clients agreed on before.

The agreed length is the lower median of the accepted updates' norms in the branch's last round, so
that fewer than half of the clients cannot move it. In a first round it is the median of that round
itself: its first replies wait until there is one. Sums that our own workers make are not measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np
from torch import Tensor

from archipelago.aggregate.mean import Folding
from archipelago.core.errors import UpdateRefused
from archipelago.core.update import Update
from archipelago.federation.replies import Answer
from archipelago.federation.round_norms import Measured, RoundNorms

__all__ = ["NormBound"]

WAITING, BYTES = 64, 64 << 20
"""Replies of a first round that wait for its median, and bytes of them; five always may wait."""
_FEW = 5
_QUORUM = 3
"""Replies of which one cannot have its way alone."""


@dataclass(slots=True, kw_only=True)
class NormBound:
    """One branch's updates in one round, in the order of issue. Changes in place.

    A client that takes more steps than the median may go so many times as far. What is short beside
    the model itself passes whatever others sent: clients that have learned their rows hardly move,
    and the one that has not is no liar. Where fewer than three replied there is no majority to go
    by, and only what would overwrite the model is refused.

    Attributes:
        times: the multiple; 0 measures nothing.
        agreed: of the branch's last round.
        flat: the model.
    """

    times: float
    agreed: RoundNorms | None
    flat: Tensor
    _held: list[tuple[Answer, Callable[[Answer], None]]] = field(default_factory=list)
    _waiting: int = 0
    _taken: list[Measured] = field(default_factory=list)
    _long: int = 0
    _open: bool = False
    _alone: bool = False

    def take(self, answer: Answer, then: Callable[[Answer], None]) -> None:
        """Hand an accepted reply on to `then`, now or once the round's own median is known.

        What is too long is handed on as refused.
        """
        part = answer.part
        if not self.times or answer.refused:
            then(answer)
        elif self.agreed is None and not self._open and (self._held or isinstance(part, Update)):
            # A reply lies where the next one arrives.
            answer.part = _own(part)
            self._held.append((answer, then))
            self._waiting += isinstance(part, Update)
            if self._waiting >= min(WAITING, max(_FEW, BYTES // (4 * len(self.flat)))):
                self._decide()
        else:
            self._pass(answer, then)

    def close(self) -> None:
        """Hand on what still waits."""
        self._decide()

    @property
    def next(self) -> RoundNorms | None:
        """What the branch's next round goes by.

        None, where most updates were longer than the last round's say: the clients have changed
        their mind, and the next round finds its own median.
        """
        if not self.times or self._long > len(self._taken):
            return None
        return RoundNorms.of(self._taken, self.agreed) or self.agreed

    def _decide(self) -> None:
        self._open = True
        held, self._held = self._held, []
        found = [_measured(answer.part) for answer, _ in held if isinstance(answer.part, Update)]
        if self.agreed is None:
            self.agreed, self._alone = RoundNorms.of(found), len(found) == 1
        for answer, then in held:
            self._pass(answer, then)

    def _pass(self, answer: Answer, then: Callable[[Answer], None]) -> None:
        if isinstance(answer.part, Update):
            found = _measured(answer.part)
            answer.refused = self._refusal(found)
            if answer.refused is None:
                self._taken.append(found)
            else:
                self._long += 1
                answer.part = answer.kept = None
        then(answer)

    def _refusal(self, found: Measured) -> UpdateRefused | None:
        if self.agreed is None:
            return None
        more = max(1.0, found.steps / self.agreed.steps)
        # Nobody agrees with himself alone.
        times = 0.0 if self._alone else self.times * more
        pairs = {"the update": (found.length, self.agreed.length)}
        for name, length in found.extras.items():
            pairs[f"the update's {name}"] = (length, self.agreed.extras.get(name, 0.0))
        for what, (length, usual) in pairs.items():
            if not usual or length <= times * usual:
                continue
            bound = max(times * usual, self._least(self.agreed.replies))
            if length > bound:
                return UpdateRefused(
                    f"{what} is far longer than others' of the branch",
                    got=f"{length:.4g}, where {usual:.4g} is usual and {bound:.4g} the most",
                    fix="raise aggregator.bound if this client is to be trusted, or look into it",
                )
        return None

    def _least(self, replies: int) -> float:
        model = _norm(self.flat)
        if replies >= _QUORUM:
            return 0.1 * model
        whole = max(model, sqrt(len(self.flat)))  # weights are of order 1 at most
        return whole if replies == _QUORUM - 1 else 10 * whole


def _measured(update: Update) -> Measured:
    extras = {name: _norm(tensor) for name, tensor in update.extras.items()}
    return Measured(length=update.length, steps=update.steps, extras=extras)


def _norm(tensor: Tensor) -> float:
    array = tensor.numpy()
    return sqrt(float(np.vdot(array, array)))


def _own(part: Update | Folding | None) -> Update | Folding | None:
    if isinstance(part, Folding):
        return replace(part, total=part.total.clone())
    return part if part is None else part.copied()
