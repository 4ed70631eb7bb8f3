"""What holds of every server optimiser."""

from typing import Any

import torch

from archipelago.core.tree import Layout, Leaf

__all__ = ["CONTRACTS"]

_LAYOUT = Layout.of([Leaf("weight", (4,)), Leaf("mean", (2,), "stats")])


def its_state_is_flat_tensors(part: Any) -> None:
    """Named tensors, at most as long as the model: that is what a journal keeps."""
    state = part.init(_LAYOUT)
    for name, tensor in state.items():
        assert isinstance(name, str)
        assert tensor.dtype == torch.float32
        assert tensor.numel() <= _LAYOUT.size


def a_step_follows_the_average(part: Any) -> None:
    """From zero, the first step moves every weight the way that the clients moved it."""
    delta = torch.tensor([0.5, -0.5, 0.25, -0.25, 0.0, 0.0])
    _, flat = part.step(part.init(_LAYOUT), _LAYOUT, torch.zeros(6), delta)
    assert (flat[:4].sign() == delta[:4].sign()).all()


def statistics_are_averaged_and_not_optimised(part: Any) -> None:
    """What is no weight becomes the clients' average, whatever is done with the weights."""
    delta = torch.tensor([0.5, -0.5, 0.25, -0.25, 3.0, -2.0])
    _, flat = part.step(part.init(_LAYOUT), _LAYOUT, torch.ones(6), delta)
    assert torch.equal(flat[4:], torch.tensor([4.0, -1.0]))


def a_step_changes_neither_argument(part: Any) -> None:
    """The state and the model before the step are still what they were: a round may be repeated."""
    state, flat = part.init(_LAYOUT), torch.ones(6)
    before = {name: tensor.clone() for name, tensor in state.items()}
    delta = torch.full((6,), 0.5)
    first = part.step(state, _LAYOUT, flat, delta.clone())
    second = part.step(state, _LAYOUT, flat, delta.clone())
    assert torch.equal(first[1], second[1])
    assert torch.equal(flat, torch.ones(6))
    assert all(torch.equal(state[name], before[name]) for name in before)


CONTRACTS = (
    its_state_is_flat_tensors,
    a_step_follows_the_average,
    statistics_are_averaged_and_not_optimised,
    a_step_changes_neither_argument,
)
