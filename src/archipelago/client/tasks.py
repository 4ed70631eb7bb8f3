"""The two things that a server may ask of a client, as values that an engine can carry."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archipelago.aggregate.mean import WeightedMean
from archipelago.client.agreement import agreement_of
from archipelago.client.block import Held, Rows
from archipelago.client.training import Assignment, Block, Fitted, LocalTraining, Training
from archipelago.client.worker import Worker, vector
from archipelago.core.buffers import join
from archipelago.core.failure import kind_of, reason_of
from archipelago.core.seeds import Seed
from archipelago.core.tree import Layout
from archipelago.data.augment import Augment
from archipelago.wire.frame import bundle, pack, packed, unpack

__all__ = ["Evaluate", "Fit", "FitBlock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Train one branch's model on one client's train rows; reply with an `update` frame.

    Attributes:
        client: whose rows.
        branch: which model.
        round: which round; the server refuses any other.
        weight: work, for scheduling: rows times multiply-accumulates of a row.
        handle: the framed model, shared by all clients of the branch.
        training: how to train.
        seed: this visit's stream.
        progress: share of the plan's rounds already done.
        epochs: passes over the rows.
        kept: what the client kept so far, float32; None where `training` keeps nothing. What it
            keeps next comes behind the frame: it is not a part of what travels.
        augment: what it does to its rows first.
        view: under which preparation it sees them; see `Bench.rows`.
    """

    client: int
    branch: int
    round: int
    weight: int
    handle: Any
    training: Training
    seed: Seed
    progress: float
    epochs: int
    kept: np.ndarray | None = None
    augment: Augment = Augment()
    view: str = ""

    def __call__(self, worker: Worker, memory: Any) -> Sequence[Any]:
        """Train in the worker."""
        frame = unpack(memory.view(self.handle))
        own, more = None, {}
        if self.kept is not None:
            own = _Own(self.training, self.kept)
        model = worker.model(frame, own)
        agreement = agreement_of(self.training, model.layout)
        if own is not None:
            further = {name: vector(frame, index) for index, name in enumerate(agreement.extras, 1)}
            more = {"kept": own.tensor(), "extras": further}
        x, y = _rows(self, self.client, worker)
        # The server's model, as it lies in shared memory: no copy where all of it travelled.
        whole = own is None and model.flat.device.type == "cpu"
        before = frame.arrays[0] if whole else model.flat.clone()
        task = worker.context.task

        def validate() -> float:
            inputs, targets = worker.rows(self.client, "validation", self.view)
            model.eval()
            with torch.no_grad():
                return task.loss(model(inputs), targets).item()

        asked = Assignment(
            x=x,
            y=y,
            seed=self.seed,
            progress=self.progress,
            epochs=self.epochs,
            validate=validate,
            **more,
        )
        with _stream(self.seed.child("dropout"), model.flat.device):
            done = self.training.fit(model, task, asked)
        if isinstance(before, Tensor):
            delta = agreement.select((model.flat - before).detach()).cpu().numpy()
        else:
            # In place: the bench loads the model anew for its next task.
            delta = np.subtract(model.flat.numpy(), before, out=model.flat.numpy())
        arrays = [delta, *(done.extras[name].cpu().numpy() for name in agreement.extras)]
        reply = pack("update", _told(self, self.client, len(y), done), arrays)
        if done.kept is None or not len(done.kept):
            return reply
        return [*reply, done.kept.cpu().numpy().data.cast("B")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitBlock:
    """Train one branch's model for a block of clients in one go; reply with a frame for each.

    With an `aggregator` it replies with their `sum`: one update's bytes instead of one a client,
    and what each client would have said beside its update. Where the sum or a loss is not finite,
    or a client has no rows, it replies with a frame for each all the same: the one at fault is
    found.

    Attributes:
        clients: whose rows.
        epochs: passes over the rows, one a client.
        branch: which model.
        round: which round.
        weight: work of all of them.
        handle: the framed model.
        training: how to train; its path is `dense` or `stacked`.
        seed: its children by client are the visits' streams.
        progress: share of the plan's rounds already done.
        augment: as in `Fit`.
        view: as in `Fit`.
        aggregator: sums the updates where they are; None sends each one.
    """

    clients: tuple[int, ...]
    epochs: tuple[int, ...]
    branch: int
    round: int
    weight: int
    handle: Any
    training: LocalTraining
    seed: Seed
    progress: float
    augment: Augment = Augment()
    view: str = ""
    aggregator: WeightedMean | None = None

    def __call__(self, worker: Worker, memory: Any) -> Sequence[Any]:
        """Train in the worker."""
        try:
            return bundle(self._together(worker, memory))
        except Exception as error:  # one client's fault is not its neighbours': each alone
            if kind_of(error) == "machine":
                raise
            return bundle(
                [self._alone(place, worker, memory) for place in range(len(self.clients))]
            )

    def _together(self, worker: Worker, memory: Any) -> list[Sequence[Any]]:
        frame = unpack(memory.view(self.handle))
        model = worker.model(frame)
        seeds = [self.seed.child(client) for client in self.clients]
        if self.augment.parts:
            pairs = zip(self.clients, seeds, strict=True)
            rows: Rows = Held([_rows(self, client, worker, seed) for client, seed in pairs])
        else:
            rows = worker.several(self.clients, self.view)
        asked = Block(rows=rows, seeds=seeds, epochs=self.epochs, progress=self.progress)
        before = model.layout.views(model.flat)
        leaves = {
            name: leaf.expand(len(seeds), *leaf.shape).clone() for name, leaf in before.items()
        }
        done = self.training.fit_block(model, worker.context.task, leaves, asked)
        # Before they are summed: what a client does not change adds exactly nothing.
        deltas = [leaf.sub_(before[name]).flatten(1) for name, leaf in leaves.items()]
        sound = all(rows.counts) and all(isfinite(fitted.loss) for fitted in done)
        if self.aggregator is not None and sound:
            sums = [self.aggregator.gather(part, rows.counts).total for part in deltas]
            total = torch.cat(sums).cpu().numpy()
            if np.isfinite(np.vdot(total, total)):  # as the server measures it
                return [pack("sum", self._said(rows.counts, done, total), [total])]
        return [
            pack("update", _told(self, client, count, fitted), [delta])
            for client, count, fitted, delta in zip(
                self.clients, rows.counts, done, torch.cat(deltas, 1).cpu().numpy(), strict=True
            )
        ]

    def _said(
        self, counts: Sequence[int], done: Sequence[Fitted], total: np.ndarray
    ) -> dict[str, Any]:
        """Return the fields of a `sum` frame: what each client says, in columns."""
        loss = [fitted.loss for fitted in done]
        steps = [fitted.steps for fitted in done]
        columns = {
            "client": self.clients,
            "examples": counts,
            "seen": [fitted.examples for fitted in done],
        }
        one = _told(self, self.clients[0], counts[0], done[0])
        numbers = list(zip(*columns.values(), steps, loss, strict=True))
        return {
            "branch": self.branch,
            "round": self.round,
            **columns,
            "loss": loss,
            "bytes": packed("update", one, numbers, [total]),
        }

    def _alone(self, place: int, worker: Worker, memory: Any) -> Sequence[Any] | str:
        fit = Fit(
            client=self.clients[place],
            branch=self.branch,
            round=self.round,
            weight=self.weight,
            handle=self.handle,
            training=self.training,
            seed=self.seed.child(self.clients[place]),
            progress=self.progress,
            epochs=self.epochs[place],
            augment=self.augment,
            view=self.view,
        )
        try:
            return [join(fit(worker, memory))]  # the next one uses the same model's memory
        except Exception as error:  # a failed visit is a value with a reason
            if kind_of(error) == "machine":
                raise
            return reason_of(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score one branch's model on one client's rows; reply with sufficient statistics.

    Attributes:
        client: whose rows.
        branch: which model.
        round: after which round.
        weight: work, for scheduling.
        handle: the framed model.
        split: `validation`, or `test` where the workplace holds opened test rows.
        training: how the model was trained.
        kept: of that client; None scores the server's model.
        most: score on so many rows only, evenly taken; 0 takes all.
        view: as in `Fit`.
    """

    client: int
    branch: int
    round: int
    weight: int
    handle: Any
    split: str = "validation"
    training: Any = None
    kept: np.ndarray | None = None
    most: int = 0
    view: str = ""

    def __call__(self, worker: Worker, memory: Any) -> Sequence[Any]:
        """Score in the worker."""
        own = None if self.kept is None else _Own(self.training, self.kept, always=True)
        model = worker.model(unpack(memory.view(self.handle)), own)
        x, y = worker.rows(self.client, self.split, self.view)
        if 0 < self.most < len(y):
            some = torch.linspace(0, len(y) - 1, self.most).long()
            x, y = x[some], y[some]
        model.eval()
        with torch.no_grad():
            vector = worker.context.task.statistics(model(x), y)
        fields = {
            "client": self.client,
            "branch": self.branch,
            "round": self.round,
            "examples": len(y),
        }
        return pack("score", fields, [vector])


@contextmanager
def _stream(seed: Seed, device: torch.device) -> Iterator[None]:
    """Draw from `seed` inside the context, wherever the model lies; restore torch's own state."""
    if device.type != "cpu":
        with torch.random.fork_rng(devices=[device], device_type=device.type):
            torch.manual_seed(seed.value())
            yield
        return
    # `torch.manual_seed` also queues a seed, with a formatted stack, for devices that are absent.
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed.value())
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _rows(
    fit: Fit | FitBlock, client: int, worker: Worker, seed: Seed | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a visit learns from: its train rows, augmented by the visit's own stream."""
    x, y = worker.rows(client, "train", fit.view)
    if not fit.augment.parts:
        return x, y
    stream = (seed or fit.seed).child("augment")
    return fit.augment.apply(x, y, stream, worker.context.task.outputs)


def _told(asked: Fit | FitBlock, client: int, examples: int, done: Fitted) -> dict[str, Any]:
    """Return the fields of an `update` frame."""
    fields = {
        "client": client,
        "branch": asked.branch,
        "round": asked.round,
        "examples": examples,
        "seen": done.examples,
        "steps": done.steps,
        "metrics": {"loss": done.loss},
    }
    if done.effort:
        fields["effort"] = done.effort
    return fields


@dataclass(frozen=True, slots=True)
class _Own:
    """Completes what travelled with what the client kept; `always`, even where all of it did."""

    training: Any
    kept: np.ndarray
    always: bool = False

    def tensor(self) -> Tensor:
        # A copy: in one process it is the coordinator's own memory.
        return torch.from_numpy(self.kept.copy())

    def __call__(self, flat: Tensor, layout: Layout) -> Tensor:
        if len(flat) == layout.size and not self.always:
            return flat
        return self.training.personal(flat, layout, self.tensor())
