"""What holds of every way of giving rows to clients."""

from typing import Any

import numpy as np

from archipelago.core.seeds import Seed
from archipelago.data.fleet import Fleet
from archipelago.data.partition import assign
from archipelago.data.raw import Raw

__all__ = ["CONTRACTS"]


def _dealt(part: Any, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    rows = 1200
    dice = np.random.default_rng(3)
    labels = dice.integers(0, 5, rows)
    raw = Raw(
        name="contract",
        modality="table",
        x={"a": dice.normal(size=rows)},
        y=labels,
        natural=np.arange(rows) % 6,
        names=tuple(f"owner {i}" for i in range(6)),
    )
    return assign(part.owners if isinstance(part, Fleet) else part, raw, labels, Seed(seed))


def every_row_has_one_owner(part: Any) -> None:
    """A partition: each row belongs to one client, and no client is empty."""
    owner, names = _dealt(part, 0)
    assert len(owner) == 1200
    assert set(owner.tolist()) == set(range(len(names)))


def the_same_seed_deals_the_same(part: Any) -> None:
    """Nothing but the seed decides who owns what."""
    assert np.array_equal(_dealt(part, 7)[0], _dealt(part, 7)[0])


CONTRACTS = (every_row_has_one_owner, the_same_seed_deals_the_same)
