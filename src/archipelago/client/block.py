"""Training a block of clients in one go: whose rows are used at each step, and the loop over steps.

What a step is depends on the network: written out for dense ones (`client/dense.py`), by `vmap` for
others (`client/stacked.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

__all__ = ["Begin", "Schedule", "Step", "descend"]

Step = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""One step of SGD of every model of a block.

It takes inputs `[clients, batch, ...]`, targets `[clients, batch, ...]`, each row's weight in its
client's mean loss, and zeros to which it adds each row's loss, both `[clients, batch, 1]`.
"""

Begin = Callable[[Tensor], Step]
"""Gives the step of some models, `[clients, layout.size]`, which it will change in place."""

LAID = 8 << 20
"""Bytes of rows that are laid out at a time."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which rows each client uses at each step; clients with fewer steps come last.

    Attributes:
        order: the clients' places in the caller's order.
        rows: row numbers, int64 `[clients, steps, batch]`; 0 where there is none.
        share: weight of each row in its step's mean, float32, same shape; 0 where there is none.
        counts: rows in each step, int64 `[clients, steps]`; 0 where there is none.
    """

    order: tuple[int, ...]
    rows: Tensor
    share: Tensor
    counts: np.ndarray

    @classmethod
    def of(cls, batches: Sequence[Sequence[np.ndarray]]) -> "Schedule":
        """Lay out every client's batches of row numbers."""
        order = sorted(range(len(batches)), key=lambda client: (-len(batches[client]), client))
        shape = (len(batches), max(map(len, batches)))
        wide = max(len(rows) for own in batches for rows in own)
        rows = np.zeros((*shape, wide), np.int64)
        counts = np.zeros(shape, np.int64)
        for place, client in enumerate(order):
            own = batches[client]
            counts[place, : len(own)] = sizes = [len(step) for step in own]
            if min(sizes) == wide:
                rows[place, : len(own)].ravel()[:] = np.concatenate(own)
                continue
            for step, numbers in enumerate(own):
                rows[place, step, : len(numbers)] = numbers
        real = np.arange(wide) < counts[..., None]
        share = (real / np.maximum(counts, 1)[..., None]).astype(np.float32)
        return cls(tuple(order), torch.from_numpy(rows), torch.from_numpy(share), counts)

    def lay(self, values: Sequence[Tensor], steps: slice) -> Sequence[Tensor]:
        """Return each step's rows, `[clients, batch, ...]`.

        Args:
            values: the first few clients' `[examples, ...]`, in the order of the schedule.
            steps: which of them.
        """
        picked = self.rows[: len(values), steps]
        out = values[0].new_empty((*picked.shape, *values[0].shape[1:]))
        for own, rows, target in zip(values, picked.to(out.device).flatten(1), out, strict=True):
            torch.index_select(own, 0, rows, out=target.flatten(0, 1))
        return out.unbind(1)

    def spans(self, size: int) -> Iterator[tuple[int, slice]]:
        """Yield how many clients have rows, and steps for which that is so; not many at a time.

        Args:
            size: bytes of a row.
        """
        begin = 0
        for active, same in groupby((self.counts > 0).sum(0).tolist()):
            end = begin + len(list(same))
            most = max(1, LAID // max(1, active * self.counts.max() * size))
            for start in range(begin, end, most):
                yield active, slice(start, min(start + most, end))
            begin = end


def descend(
    begin: Begin,
    flat: Tensor,
    data: Sequence[tuple[Tensor, Tensor]],
    batches: Sequence[Sequence[np.ndarray]],
) -> list[float]:
    """Train each row of `flat`, in place, on its own client's batches with plain SGD.

    Args:
        begin: gives the step of the clients that still have rows.
        flat: weights, `[clients, layout.size]`.
        data: each client's x `[examples, ...]` and y.
        batches: each client's row numbers, step by step.

    Returns:
        Each client's training loss, summed over the rows seen.
    """
    plan = Schedule.of(batches)
    x, y = zip(*(data[client] for client in plan.order), strict=True)
    ordered = plan.order == tuple(range(len(data)))
    weights = flat if ordered else flat[list(plan.order)]
    shares = plan.share[..., None].to(flat.device)
    # Of rows that are not there the loss is worked out too, and counts nothing.
    losses = torch.zeros_like(shares)
    step, models = begin(weights), len(data)
    for active, steps in plan.spans(x[0][:1].nbytes):
        if active < models:
            step, models = begin(weights[:active]), active
        inputs, targets = plan.lay(x[:active], steps), plan.lay(y[:active], steps)
        weighed = (part[:active, steps].unbind(1) for part in (shares, losses))
        for turn in zip(inputs, targets, *weighed, strict=True):
            step(*turn)
    if not ordered:
        flat[list(plan.order)] = weights
    summed = [0.0] * len(data)
    totals = losses.mul_(shares > 0).sum((1, 2, 3))
    for client, total in zip(plan.order, totals.tolist(), strict=True):
        summed[client] = total
    return summed
