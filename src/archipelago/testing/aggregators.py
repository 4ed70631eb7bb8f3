"""What holds of every aggregator."""

from typing import Any

import torch
from torch import Tensor

from archipelago.core.tree import Layout, Leaf
from archipelago.core.update import Update

__all__ = ["CONTRACTS"]

_LAYOUT = Layout.of([Leaf("weight", (3, 2)), Leaf("bias", (2,))])


def update(client: int, delta: Tensor, examples: int = 10) -> Update:
    """Return a client's change, made in one step."""
    return Update(client=client, delta=delta, examples=examples, steps=1, effort=1.0, metrics={})


def _finished(part: Any, updates: list[Update]) -> Tensor:
    folding = part.start(_LAYOUT)
    for one in updates:
        part.fold(folding, one if part.streaming else one.copied())
    return part.finish(folding)


def _deltas(count: int) -> list[Tensor]:
    dice = torch.Generator().manual_seed(4)
    return [torch.randn(_LAYOUT.size, generator=dice) for _ in range(count)]


def equal_updates_are_their_own_average(part: Any) -> None:
    """Clients that agree are not overruled, whatever their rows."""
    (delta,) = _deltas(1)
    mean = _finished(part, [update(client, delta.clone(), 5 + client) for client in range(4)])
    assert torch.allclose(mean, delta, atol=1e-5)


def the_order_of_arrival_changes_rounding_only(part: Any) -> None:
    """Folded forwards and backwards it is the same up to rounding."""
    some = [update(client, delta, 3 + client) for client, delta in enumerate(_deltas(5))]
    there, back = (_finished(part, each) for each in (some, some[::-1]))
    assert torch.allclose(there, back, atol=1e-5)


def nothing_folded_changes_nothing(part: Any) -> None:
    """A round without a reply leaves the model where it was."""
    assert not _finished(part, []).any()


def what_says_it_is_linear_is(part: Any) -> None:
    """Twice the changes are twice the average, where it declares `linear`."""
    if not part.linear:
        return
    some = _deltas(3)
    once, twice = (
        _finished(part, [update(client, scale * delta) for client, delta in enumerate(some)])
        for scale in (1.0, 2.0)
    )
    assert torch.allclose(2 * once, twice, atol=1e-5)


CONTRACTS = (
    equal_updates_are_their_own_average,
    the_order_of_arrival_changes_rounding_only,
    nothing_folded_changes_nothing,
    what_says_it_is_linear_is,
)
