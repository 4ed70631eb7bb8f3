"""Training a block of clients in one go: whose rows are used at each step, and the loop over steps.

What a step is depends on the network: written out for dense ones (`client/dense.py`), by `vmap` for
others (`client/stacked.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

__all__ = ["Begin", "Held", "Leaves", "Rows", "Schedule", "Step", "descend"]

Step = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""One step of SGD of every model of a block.

It takes inputs `[clients, batch, ...]`, targets `[clients, batch, ...]`, each row's weight in its
client's mean loss, and zeros to which it adds each row's loss, both `[clients, batch, 1]`.
"""

Leaves = Mapping[str, Tensor]
"""A block of clients' weights: each leaf of the layout by name, in order, `[clients, *shape]`.

Contiguous: torch adds a batch of products in one call then, and client by client where one's leaf
lies a whole model behind another's.
"""

Begin = Callable[[Leaves], Step]
"""Gives the step of some models, which it will change in place."""

LAID = 8 << 20
"""Bytes of rows in memory that are laid out at a time: each time takes calls for every client."""


@runtime_checkable
class Rows(Protocol):
    """Several clients' rows, each one's numbered from 0, in memory or in files."""

    @property
    def counts(self) -> Sequence[int]:
        """Rows of each client."""
        ...

    @property
    def size(self) -> int:
        """Bytes of a row as it is trained on."""
        ...

    @property
    def most(self) -> int:
        """Bytes that are best taken at a time."""
        ...

    def take(self, which: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return x and y of some rows.

        Args:
            which: places of k clients.
            rows: the row numbers wanted of each, `[k, steps, batch]`, which may repeat.

        Returns:
            x and y, `[k, steps, batch, *shape of one]`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """`Rows` in memory.

    Attributes:
        data: each client's x `[examples, ...]` and y, at least one client.
    """

    data: Sequence[tuple[Tensor, Tensor]]

    @property
    def counts(self) -> list[int]:
        """Rows of each client."""
        return [len(y) for _, y in self.data]

    @property
    def size(self) -> int:
        """Bytes of a row."""
        x = self.data[0][0]
        return x.element_size() * prod(x.shape[1:])

    @property
    def most(self) -> int:
        """Bytes that are best taken at a time."""
        return LAID

    def take(self, which: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """See `Rows.take`."""
        numbers = torch.from_numpy(rows).to(self.data[0][0].device)
        return self._laid(0, which, numbers), self._laid(1, which, numbers)

    def _laid(self, part: int, which: np.ndarray, rows: Tensor) -> Tensor:
        first = self.data[0][part]
        out = first.new_empty((*rows.shape, *first.shape[1:]))
        for place, own, target in zip(which.tolist(), rows.flatten(1), out, strict=True):
            torch.index_select(self.data[place][part], 0, own, out=target.flatten(0, 1))
        return out


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which rows each client uses at each step; clients with fewer steps come last.

    Attributes:
        order: the clients' places in the caller's order.
        rows: row numbers, int64 `[clients, steps, batch]`; 0 where there is none.
        counts: rows in each step, int64 `[clients, steps]`; 0 where there is none.
        steps: gradient steps of each client, in the caller's order as nothing else here.
    """

    order: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    steps: list[int]

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        epochs: Sequence[int],
        batch: int,
        permutation: Callable[[int, int], np.ndarray],
    ) -> "Schedule":
        """Lay out every client's passes over its rows.

        Args:
            counts: rows of each client.
            epochs: passes of each.
            batch: rows in a step; where that is 0, or not less than the client has, a step takes
                all of them in their own order.
            permutation: gives the order of a client's rows in one pass, by place and epoch.
        """
        own, passes = np.array(counts), np.array(epochs)
        cut = (own > batch) if batch else np.zeros(len(own), bool)
        widths = np.where(cut, batch, own)
        turns = np.where(cut, -(-own // max(batch, 1)), own > 0)  # steps of one pass
        steps = turns * passes
        order = np.argsort(-steps, kind="stable")
        wide = int(widths.max())
        turn = np.arange(steps.max())
        behind = own[:, None] - turn % np.maximum(turns, 1)[:, None] * widths[:, None]
        sizes = np.where(turn < steps[:, None], np.minimum(behind, widths[:, None]), 0)[order]
        rows = np.zeros((*sizes.shape, wide), np.int64)
        flats = rows.reshape(len(own), len(turn) * wide)
        for place, flat in zip(order.tolist(), flats, strict=True):
            count, length = counts[place], int(turns[place]) * wide
            for epoch in range(epochs[place]):
                start = epoch * length
                # Only a pass's last step may be short: before it there is no gap.
                flat[start : start + count] = (
                    permutation(place, epoch) if cut[place] else np.arange(count)
                )
        return cls(order, rows, sizes, steps.tolist())

    def spans(self, size: int, most: int) -> Iterator[tuple[int, slice]]:
        """Yield how many clients have rows, and steps for which that is so; not many at a time.

        Args:
            size: bytes of a row.
            most: bytes of all rows of some steps, unless it is one step.
        """
        begin = 0
        for active, same in groupby((self.counts > 0).sum(0).tolist()):
            end = begin + len(list(same))
            few = max(1, most // max(1, active * self.rows.shape[2] * size))
            for start in range(begin, end, few):
                yield active, slice(start, min(start + few, end))
            begin = end


def descend(begin: Begin, leaves: Leaves, rows: Rows, plan: Schedule) -> list[float]:
    """Train each client's weights, in place, on its own batches with plain SGD.

    Args:
        begin: gives the step of the clients that still have rows.
        leaves: each client's weights.
        rows: each client's.
        plan: which of them, step by step.

    Returns:
        Each client's training loss, summed over the rows seen.
    """
    device, models = next(iter(leaves.values())).device, len(plan.order)
    order = torch.from_numpy(plan.order).to(device)
    ordered = np.array_equal(plan.order, np.arange(models))
    weights = leaves if ordered else {name: leaf[order] for name, leaf in leaves.items()}
    real = np.arange(plan.rows.shape[2]) < plan.counts[..., None]
    share = (real / np.maximum(plan.counts, 1)[..., None]).astype(np.float32)
    shares = torch.from_numpy(share)[..., None].to(device)
    # Of rows that are not there the loss is worked out too, and counts nothing.
    losses = torch.zeros_like(shares)
    step = begin(weights)
    for active, steps in plan.spans(rows.size, rows.most):
        if active < models:
            step, models = begin({name: leaf[:active] for name, leaf in weights.items()}), active
        laid = rows.take(plan.order[:active], plan.rows[:active, steps])
        parts = (part.to(device).unbind(1) for part in laid)
        weighed = (part[:active, steps].unbind(1) for part in (shares, losses))
        for turn in zip(*parts, *weighed, strict=True):
            step(*turn)
    if not ordered:
        for name, leaf in leaves.items():
            leaf[order] = weights[name]
    summed = np.empty(len(order))
    summed[plan.order] = losses.mul_(shares > 0).sum((1, 2, 3)).cpu().numpy()
    return summed.tolist()
