"""Ways of training whose clients keep something from one round to the next.

What a client keeps (a control variate, a head, a model of its own) never travels: a simulation
keeps it for the client, by client and branch, and commits it with the round that changed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from archipelago.client.training import Training
from archipelago.core.tree import Layout

__all__ = ["StatefulTraining", "Agreement", "plain", "agreement_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What travels, and what a visit costs, under a way of training.

    Attributes:
        body: parts of the flat vector that travel both ways, in order; None is all of it.
        extras: names and sizes of further vectors that travel both ways. The server keeps the
            weighted sum of what clients say and sends its mean over the branch's cohort.
        passes: work of an epoch, in passes over the client's rows.
        personal: each client ends with a model of its own, and is scored on that.
    """

    body: tuple[slice, ...] | None = None
    extras: Mapping[str, int] = field(default_factory=dict[str, int])
    passes: float = 1.0
    personal: bool = False

    def size(self, layout: Layout) -> int:
        """Return how many scalars of a model travel."""
        if self.body is None:
            return layout.size
        return sum(part.stop - part.start for part in self.body)

    def select(self, flat: Tensor) -> Tensor:
        """Return what travels of `flat`, shape `[layout.size]`."""
        if self.body is None:
            return flat
        return torch.cat([flat[:0], *(flat[part] for part in self.body)])

    def spread(self, some: Tensor, whole: Tensor) -> Tensor:
        """Return a copy of `whole` with what travelled in its place."""
        if self.body is None:
            return some
        out, start = whole.clone(), 0
        for part in self.body:
            size = part.stop - part.start
            out[part] = some[start : start + size]
            start += size
        return out


@runtime_checkable
class StatefulTraining(Protocol):
    """A way of training whose clients keep something.

    Its `fit` is that of `Training`; it is given `kept` and `extras`, and returns the next of both.
    """

    def agreement(self, layout: Layout) -> Agreement:
        """Return what travels and what it costs."""
        ...

    def initial(self, flat: Tensor, layout: Layout) -> Tensor:
        """Return what a client keeps before its first visit, given the server's model."""
        ...

    def personal(self, flat: Tensor, layout: Layout, kept: Tensor) -> Tensor:
        """Return the client's own model, given what travelled; shape `[layout.size]`."""
        ...


_PLAIN = Agreement()


def agreement_of(training: Any, layout: Layout) -> Agreement:
    """Return the agreement of any way of training: that of FedAvg where it keeps nothing."""
    # Asked once a visit: `isinstance` of a protocol takes longer than a small model's step.
    return training.agreement(layout) if hasattr(training, "agreement") else _PLAIN


def plain(training: Any) -> Training:
    """Return the local training inside a way of training that keeps something, or itself."""
    return getattr(training, "local", training)
