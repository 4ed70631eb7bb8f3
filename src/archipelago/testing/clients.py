"""What holds of every way of training on a client."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from archipelago.client.agreement import agreement_of
from archipelago.client.training import Assignment, Fitted
from archipelago.core.seeds import Seed
from archipelago.data.tasks import Classification
from archipelago.nn.model import Model
from archipelago.space.sketch import Sketch

__all__ = ["CONTRACTS"]

_TASK = Classification(classes=("a", "b", "c"))


def _model() -> Model:
    sketch = Sketch((6,))
    for name, options in (("linear", {"features": 8}), ("act", {}), ("linear", {"features": 3})):
        sketch.add(name, **options)
    return Model.of_graph(sketch.graph(), Seed(1))


def _fitted(part: Any, seed: int = 4, rows: int = 24) -> tuple[Model, Tensor, Fitted]:
    """Train once; return the model, its weights before, and what was said."""
    model = _model()
    before = model.flat.detach().clone()
    layout = model.layout
    agreement = agreement_of(part, layout)
    keeps = hasattr(part, "initial")
    dice = torch.Generator().manual_seed(2)
    asked = Assignment(
        x=torch.randn(rows, 6, generator=dice),
        y=torch.arange(rows) % 3,
        seed=Seed(seed),
        progress=0.0,
        epochs=part.epochs,
        kept=part.initial(before, layout) if keeps else None,
        extras={name: torch.zeros(size) for name, size in agreement.extras.items()},
    )
    return model, before, part.fit(model, _TASK, asked)


def the_same_seed_trains_the_same_weights(part: Any) -> None:
    """Nothing but rows, weights and seed decides the result: every engine gives the same bits."""
    (one, _, said), (two, _, again) = _fitted(part), _fitted(part)
    assert torch.equal(one.flat, two.flat)
    assert (said.steps, said.examples, said.loss) == (again.steps, again.examples, again.loss)


def it_learns_from_its_rows(part: Any) -> None:
    """The weights move, stay finite, and what is said of the work is positive."""
    model, before, said = _fitted(part)
    assert model.flat.isfinite().all()
    moved = model.flat.detach() - before
    assert moved.any() or (said.kept is not None and said.kept.any())
    assert said.steps > 0
    assert said.examples > 0
    assert said.loss > 0


def what_travels_fits_the_model(part: Any) -> None:
    """What travels and comes back has the size that was agreed on."""
    model, before, said = _fitted(part)
    agreement = agreement_of(part, model.layout)
    travels = agreement.select(before)
    assert len(travels) == agreement.size(model.layout) <= model.layout.size
    assert len(agreement.spread(travels, torch.zeros_like(before))) == model.layout.size
    assert {name: len(extra) for name, extra in said.extras.items()} == dict(agreement.extras)


def a_client_keeps_as_much_as_it_had(part: Any) -> None:
    """What it keeps for its next visit is as long as before its first one; its own model fits."""
    if not hasattr(part, "initial"):
        return
    model, before, said = _fitted(part)
    start = part.initial(before, model.layout)
    assert said.kept is not None
    assert said.kept.shape == start.shape
    travels = agreement_of(part, model.layout).select(before)
    assert len(part.personal(travels, model.layout, said.kept)) == model.layout.size


def a_branch_may_set_its_options(part: Any) -> None:
    """Its learning rate, or that of the local training inside it, can be replaced."""
    inner = getattr(part, "local", part)
    changed = replace(inner, learning_rate=inner.learning_rate / 2)
    assert changed != inner


CONTRACTS = (
    the_same_seed_trains_the_same_weights,
    it_learns_from_its_rows,
    what_travels_fits_the_model,
    a_client_keeps_as_much_as_it_had,
    a_branch_may_set_its_options,
)
