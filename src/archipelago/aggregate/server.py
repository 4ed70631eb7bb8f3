"""What the server does with an averaged change: the FedOpt family.

The averaged change is a pseudo-gradient (of opposite sign). Only the group `weights` is optimised;
running statistics are averaged and added, whatever the optimiser.

References:
    Reddi et al. 2021, arXiv:2003.00295, algorithm 2 (no bias correction, v starts at tau squared).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from archipelago.core.checks import between
from archipelago.core.tree import Layout

__all__ = ["ServerAdagrad", "ServerAdam", "ServerOptimizer", "ServerSgd", "ServerYogi", "State"]

State = Mapping[str, Tensor]
"""Named flat vectors over the group `weights`; journalled with the branch."""


@runtime_checkable
class ServerOptimizer(Protocol):
    """Turns an averaged change into new weights."""

    def init(self, layout: Layout) -> State:
        """Return the state of a model that has seen no round."""
        ...

    def step(
        self, state: State, layout: Layout, flat: Tensor, delta: Tensor
    ) -> tuple[State, Tensor]:
        """Return the next state and the next model, shape `[layout.size]`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSgd:
    """FedAvg (`learning_rate = 1`, `momentum = 0`) and FedAvgM.

    Attributes:
        learning_rate: of the server; 1 takes the averaged change as it is.
        momentum: share of the last step that is added to this one.

    References:
        McMahan et al. 2017, arXiv:1602.05629; Hsu et al. 2019, arXiv:1909.06335.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        between("server.learning_rate", self.learning_rate, 0, 100, open_low=True)
        between("server.momentum", self.momentum, 0, 1, open_high=True)

    def init(self, layout: Layout) -> State:
        """Return a zero momentum, or nothing where there is none."""
        return {"momentum": _zeros(layout)} if self.momentum else {}

    def step(
        self, state: State, layout: Layout, flat: Tensor, delta: Tensor
    ) -> tuple[State, Tensor]:
        """Add the (accumulated) change."""
        weights = layout.span("weights")
        change = delta[weights]
        if self.momentum:
            change = state["momentum"] * self.momentum + change
            state = {"momentum": change}
        return state, _moved(layout, flat, delta, change * self.learning_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAdam:
    """FedAdam.

    Attributes:
        learning_rate: of the server.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        tau: adaptivity; added to the root, and its square is where the second moment starts.

    References:
        Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
    """

    kind: Literal["adam"] = "adam"
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_adaptive(self.learning_rate, self.beta1, self.tau)
        between("server.beta2", self.beta2, 0, 1, open_high=True)

    def init(self, layout: Layout) -> State:
        """Return zero and tau squared."""
        return _moments(layout, self.tau)

    def step(
        self, state: State, layout: Layout, flat: Tensor, delta: Tensor
    ) -> tuple[State, Tensor]:
        """Scale the first moment by the decayed root of the second."""
        change = delta[layout.span("weights")]
        second = self.beta2 * state["second"] + (1 - self.beta2) * change.square()
        return _adapted(self, state, layout, flat, delta=delta, second=second)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerYogi:
    """FedYogi: the second moment moves by a signed amount, so it cannot jump down.

    Attributes:
        learning_rate: of the server.
        beta1: decay of the first moment.
        beta2: speed of the second moment.
        tau: adaptivity.

    References:
        Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
    """

    kind: Literal["yogi"] = "yogi"
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_adaptive(self.learning_rate, self.beta1, self.tau)
        between("server.beta2", self.beta2, 0, 1, open_high=True)

    def init(self, layout: Layout) -> State:
        """Return zero and tau squared."""
        return _moments(layout, self.tau)

    def step(
        self, state: State, layout: Layout, flat: Tensor, delta: Tensor
    ) -> tuple[State, Tensor]:
        """Scale the first moment by the root of the signed second."""
        square = delta[layout.span("weights")].square()
        second = state["second"]
        second = second - (1 - self.beta2) * square * torch.sign(second - square)
        return _adapted(self, state, layout, flat, delta=delta, second=second)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAdagrad:
    """FedAdagrad: the second moment only grows.

    Attributes:
        learning_rate: of the server.
        beta1: decay of the first moment.
        tau: adaptivity.

    References:
        Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
    """

    kind: Literal["adagrad"] = "adagrad"
    learning_rate: float = 0.1
    beta1: float = 0.0
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_adaptive(self.learning_rate, self.beta1, self.tau)

    def init(self, layout: Layout) -> State:
        """Return zero and tau squared."""
        return _moments(layout, self.tau)

    def step(
        self, state: State, layout: Layout, flat: Tensor, delta: Tensor
    ) -> tuple[State, Tensor]:
        """Scale the first moment by the root of the summed squares."""
        second = state["second"] + delta[layout.span("weights")].square()
        return _adapted(self, state, layout, flat, delta=delta, second=second)


def _check_adaptive(learning_rate: float, beta1: float, tau: float) -> None:
    between("server.learning_rate", learning_rate, 0, 100, open_low=True)
    between("server.beta1", beta1, 0, 1, open_high=True)
    between("server.tau", tau, 0, 1, open_low=True)


def _zeros(layout: Layout) -> Tensor:
    span = layout.span("weights")
    return torch.zeros(span.stop - span.start)


def _moments(layout: Layout, tau: float) -> State:
    zeros = _zeros(layout)
    return {"first": zeros, "second": torch.full_like(zeros, tau * tau)}


def _adapted(
    rule: ServerAdam | ServerYogi | ServerAdagrad,
    state: State,
    layout: Layout,
    flat: Tensor,
    *,
    delta: Tensor,
    second: Tensor,
) -> tuple[State, Tensor]:
    change = delta[layout.span("weights")]
    first = rule.beta1 * state["first"] + (1 - rule.beta1) * change
    step = rule.learning_rate * first / (second.sqrt() + rule.tau)
    return {"first": first, "second": second}, _moved(layout, flat, delta, step)


def _moved(layout: Layout, flat: Tensor, delta: Tensor, step: Tensor) -> Tensor:
    moved = flat + delta
    weights = layout.span("weights")
    torch.add(flat[weights], step, out=moved[weights])
    return moved
