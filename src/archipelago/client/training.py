"""Local training: the SGD family on one flat vector."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import cos, pi
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from archipelago.client.block import Held, Leaves, Rows, Schedule, descend
from archipelago.client.dense import dense
from archipelago.client.kernels import Kernel, choose
from archipelago.client.stacked import stacked
from archipelago.core.checks import at_least, between
from archipelago.core.seeds import Seed
from archipelago.core.trial import Value
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = [
    "Assignment",
    "Block",
    "FedSgd",
    "Fitted",
    "LocalTraining",
    "Training",
    "batches",
    "effort",
    "kernel_of",
    "tuned",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What local training did.

    Attributes:
        steps: gradient steps taken.
        examples: rows seen, each epoch counted.
        loss: mean training loss over those rows, before each step.
        effort: how far one unit gradient at every step would have carried the weights, in units
            of the learning rate: FedNova's norm of `a`. 0 stands for `steps`, as in plain SGD.
        kept: what the client keeps for its next visit, if anything.
        extras: changes of further vectors that travel, by name.
    """

    steps: int
    examples: int
    loss: float
    effort: float = 0.0
    kept: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a client is asked to do in one visit, and what it has for that.

    Attributes:
        x: rows, shape `[examples, ...]`.
        y: targets, shape `[examples, ...]`.
        seed: orders the batches; a pure function of round, branch and client.
        progress: share of the plan's rounds already done, in [0, 1).
        epochs: passes over the rows; fewer than the training's own where time ran out.
        validate: returns the local validation loss, for early stopping.
        kept: what the client kept so far, for ways of training that keep something.
        extras: further vectors that travelled, by name, for ways of training that have some.
    """

    x: Tensor
    y: Tensor
    seed: Seed
    progress: float
    epochs: int
    validate: Callable[[], float] | None = None
    kept: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def examples(self) -> int:
        """How many rows there are."""
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What several clients are asked to do in one round; see `Assignment`.

    Attributes:
        rows: each client's.
        seeds: one a client.
        epochs: one a client.
        progress: of all of them.
    """

    rows: Rows
    seeds: Sequence[Seed]
    epochs: Sequence[int]
    progress: float


@runtime_checkable
class Training(Protocol):
    """A client's way from the server's weights to its own."""

    @property
    def epochs(self) -> int:
        """Passes over the local rows in a round."""
        ...

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Train `model` in place.

        Args:
            model: holds the server's weights on entry, the client's on return.
            task: gives `loss(logits, y)`.
            asked: the rows, and how to use them.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    """FedAvg's client, and FedProx's where `proximal` is positive.

    Attributes:
        optimizer: `sgd` or `adam`; its moments live for one round.
        learning_rate: at the start of the plan.
        schedule: how the learning rate falls over the rounds of a plan.
        momentum: of `sgd`.
        weight_decay: L2 penalty added to the gradient.
        batch: rows in a step; 0 takes all rows at once.
        epochs: passes over the local rows in a round.
        proximal: FedProx's mu: pulls towards the server's weights.
        clip: largest L2 norm of a gradient; 0 never clips.
        patience: stop after so many epochs without a better local validation loss; 0 never stops.
        path: how it is computed, see `client/kernels.py`; paths differ in the last bits only.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1; Li et al. 2020, arXiv:1812.06127,
        equation 2.
    """

    kind: Literal["local"] = "local"
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.05
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 16
    epochs: int = 1
    proximal: float = 0.0
    clip: float = 0.0
    patience: int = 0
    path: Literal["auto", "flat", "dense", "channels-last", "stacked"] = "auto"

    def __post_init__(self) -> None:
        between("client.learning_rate", self.learning_rate, 0, 100, open_low=True)
        between("client.momentum", self.momentum, 0, 1, open_high=True)
        at_least("client.weight_decay", self.weight_decay, 0, high=1e6)
        at_least("client.batch", self.batch, 0, fix="0 takes all rows in one step")
        at_least("client.epochs", self.epochs, 1, high=10_000)
        at_least("client.proximal", self.proximal, 0, high=1e6, fix="0 is FedAvg")
        at_least("client.clip", self.clip, 0, high=1e12, fix="0 never clips")
        at_least("client.patience", self.patience, 0, fix="0 never stops early")

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Train `model` in place; see `Training.fit`."""
        if self.chosen(model.graph, task).name in ("dense", "stacked"):
            alone = Block(
                rows=Held([(asked.x, asked.y)]),
                seeds=[asked.seed],
                epochs=[asked.epochs],
                progress=asked.progress,
            )
            leaves = {name: leaf[None] for name, leaf in model.layout.views(model.flat).items()}
            (done,) = self.fit_block(model, task, leaves, alone)
            return done
        return self.pulled(model, task, asked)

    def pulled(
        self,
        model: Model,
        task: Any,
        asked: Assignment,
        *,
        anchor: Tensor | None = None,
        correction: Tensor | None = None,
    ) -> Fitted:
        """Train `model` in place, as `fit` does, with two more terms that other methods need.

        Args:
            model: as in `Training.fit`, like all that is not named here.
            anchor: where the proximal term pulls to, shape of the group `weights`; None takes
                the weights on entry.
            correction: added to every (clipped) gradient, same shape: SCAFFOLD's c minus c_i.
        """
        path = self.chosen(model.graph, task, alone=False)
        with model.stored("channels-last" if path.name == "channels-last" else "plain"):
            return self._loop(model, task, asked, anchor=anchor, correction=correction)

    def rate(self, progress: float) -> float:
        """Return the learning rate of a round, given the share of rounds already done."""
        return self.learning_rate * _fall(self.schedule, progress)

    def chosen(self, graph: Graph | None, task: Any, *, alone: bool = True) -> Kernel:
        """Return how a network is trained, and why; see `client/kernels.py`.

        Args:
            graph: the network; None where it was not built from one.
            task: what is learned.
            alone: whether steps follow the loss alone, without the terms of `pulled`.
        """
        return choose(self.path, graph, task, plain=alone and self._plain and not self.patience)

    def fit_block(self, model: Model, task: Any, leaves: Leaves, block: Block) -> list[Fitted]:
        """Train a block of clients in one go, on the dense or the stacked path.

        Args:
            model: gives the network, built from a graph.
            task: what is learned.
            leaves: every client's weights, changed in place.
            block: what they are asked to do.
        """
        graph, rate, counts = model.graph, self.rate(block.progress), block.rows.counts
        assert graph is not None  # noqa: S101 - `choose` lets no other network come here

        def permutation(place: int, epoch: int) -> np.ndarray:
            return block.seeds[place].child("epoch", epoch).scratch().permutation(counts[place])

        begin = (
            dense(graph, task, rate)
            if self.chosen(graph, task).name == "dense"
            else stacked(model, task, rate)
        )
        plan = Schedule.of(counts, block.epochs, self.batch, permutation)
        totals = descend(begin, leaves, block.rows, plan)
        return [
            Fitted(steps=steps, examples=count * epochs, loss=total / max(count * epochs, 1))
            for steps, count, epochs, total in zip(
                plan.steps, counts, block.epochs, totals, strict=True
            )
        ]

    @property
    def _plain(self) -> bool:
        more = (self.momentum, self.weight_decay, self.proximal, self.clip)
        return self.optimizer == "sgd" and not any(more)

    def _loop(
        self,
        model: Model,
        task: Any,
        asked: Assignment,
        *,
        anchor: Tensor | None,
        correction: Tensor | None,
    ) -> Fitted:
        x, y, validate = asked.x, asked.y, asked.validate
        rate = self.rate(asked.progress)
        parameters = [p for p in model.module.parameters() if p.requires_grad]
        weights = model.layout.span("weights")
        flat, grad = model.flat[weights], model.grad[weights]
        if not self.proximal:
            anchor = None
        elif anchor is None:
            anchor = flat.clone()
        plain = self._plain and correction is None
        move = _sgd(self, flat, grad) if self.optimizer == "sgd" else _adam(flat, grad)
        total = torch.zeros((), device=flat.device)
        steps, best, waited = 0, float("inf"), 0
        model.train()
        done = 0
        for epoch in range(asked.epochs):
            for rows in batches(len(y), self.batch, asked.seed.child("epoch", epoch)):
                inputs, targets = (x, y) if rows is None else (x[rows], y[rows])
                loss = task.loss(model(inputs), targets)
                if plain:
                    _descend(loss, parameters, rate)
                else:
                    grad.zero_()
                    loss.backward()
                    if self.weight_decay:
                        grad.add_(flat, alpha=self.weight_decay)
                    if anchor is not None:
                        grad.add_(flat - anchor, alpha=self.proximal)
                    if self.clip:
                        grad.mul_(torch.clamp(self.clip / (grad.norm() + 1e-12), max=1.0))
                    if correction is not None:
                        grad.add_(correction)
                    move(rate)
                total += loss.detach() * len(targets)
                steps += 1
                done += len(targets)
            if self.patience and validate is not None:
                now = validate()
                model.train()
                best, waited = (now, 0) if now < best else (best, waited + 1)
                if waited >= self.patience:
                    break
        return Fitted(
            steps=steps,
            examples=done,
            loss=total.item() / max(done, 1),
            effort=effort(steps, momentum=self.momentum, pull=rate * self.proximal),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSgd:
    """FedSGD: one gradient over all local rows; the server averages and steps.

    Equals `LocalTraining(batch=0, epochs=1)`, and, averaged by rows over all clients, one step of
    gradient descent on the pooled rows.

    Attributes:
        learning_rate: of the one step.

    References:
        McMahan et al. 2017, arXiv:1602.05629, section 2.
    """

    kind: Literal["fedsgd"] = "fedsgd"
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        between("client.learning_rate", self.learning_rate, 0, 100, open_low=True)

    @property
    def epochs(self) -> int:
        """One pass, always."""
        return 1

    def chosen(self, graph: Graph | None, task: Any) -> Kernel:
        """Return how a network is trained: one gradient, by the plain loop."""
        del graph, task
        return Kernel("flat", "one gradient over all rows")

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Take one step in place; of `asked`, only the rows play a part."""
        weights = model.layout.span("weights")
        model.train()
        model.grad[weights].zero_()
        loss = task.loss(model(asked.x), asked.y)
        loss.backward()
        model.flat[weights].add_(model.grad[weights], alpha=-self.learning_rate)
        return Fitted(steps=1, examples=asked.examples, loss=loss.item())


def kernel_of(training: Training, graph: Graph | None, task: Any) -> Kernel:
    """Return how a network is computed, and why: what `training.chosen` says, if it has that.

    Raises:
        IncompatibleParts: the path that was asked for cannot train it.
    """
    known: Any = training
    if hasattr(known, "chosen"):
        return known.chosen(graph, task)
    return Kernel("flat", "as its way of training has it")


def tuned(training: Training, settings: Mapping[str, Value]) -> Training:
    """Return `training` with some of its fields replaced: a branch's own settings.

    What it has no field for goes to the local training inside it. What neither has is left out:
    pooled training knows no pull towards a shared model. Settings of another part have its name
    and a dot in front; they are not for `training`.
    """
    settings = {name: value for name, value in settings.items() if "." not in name}
    inner = getattr(training, "local", None)
    if settings:
        known = {option.name for option in fields(training)}  # pyright: ignore[reportArgumentType]
        rest = {name: value for name, value in settings.items() if name not in known}
        settings = {name: value for name, value in settings.items() if name in known}
        if inner is not None:
            settings = {**settings, "local": tuned(inner, rest)}  # pyright: ignore[reportAssignmentType]
    return replace(training, **settings) if settings else training  # pyright: ignore[reportArgumentType, reportCallIssue, reportType]


def effort(steps: int, *, momentum: float = 0.0, pull: float = 0.0) -> float:
    """Return FedNova's norm of `a`: the way that unit gradients carry SGD, in learning rates.

    Args:
        steps: of the round.
        momentum: of the optimiser, which starts the round at rest.
        pull: learning rate times the proximal term.

    References:
        Wang et al. 2020, arXiv:2007.07481, section 4.1.
    """
    if not momentum and not pull:
        return float(steps)
    velocity = way = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1 - pull * way
        way += velocity
    return way


def _fall(schedule: str, progress: float) -> float:
    match schedule:
        case "cosine":
            return 0.5 * (1 + cos(pi * progress))
        case "linear":
            return 1 - progress
        case _:
            return 1.0


def batches(count: int, batch: int, seed: Seed) -> Iterator[Tensor | None]:
    """Yield the row numbers of each step of an epoch; None where a step takes all rows."""
    if batch == 0 or batch >= count:
        yield None
        return
    order = torch.from_numpy(seed.scratch().permutation(count))
    yield from order.split(batch)


def _descend(loss: Tensor, parameters: Sequence[Tensor], rate: float) -> None:
    # The gradients as autograd made them: neither cleared nor copied into one vector. Same bits.
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for weights, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                weights.add_(gradient, alpha=-rate)


def _sgd(options: LocalTraining, flat: Tensor, grad: Tensor) -> Callable[[float], None]:
    if not options.momentum:
        return lambda rate: _add(flat, grad, -rate)
    velocity = torch.zeros_like(flat)

    def move(rate: float) -> None:
        velocity.mul_(options.momentum).add_(grad)
        _add(flat, velocity, -rate)

    return move


def _adam(flat: Tensor, grad: Tensor) -> Callable[[float], None]:
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    steps = 0

    def move(rate: float) -> None:
        # Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, with its published constants.
        nonlocal steps
        steps += 1
        first.mul_(0.9).add_(grad, alpha=0.1)
        second.mul_(0.999).addcmul_(grad, grad, value=0.001)
        root = (second / (1 - 0.999**steps)).sqrt_().add_(1e-8)
        with torch.no_grad():
            flat.addcdiv_(first, root, value=-rate / (1 - 0.9**steps))

    return move


def _add(flat: Tensor, change: Tensor, alpha: float) -> None:
    with torch.no_grad():
        flat.add_(change, alpha=alpha)
