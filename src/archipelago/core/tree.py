"""Named tensors in named groups, laid end to end in one flat vector.

A model, an update and a gradient are all one vector of float32; the layout says what lies where.
One vector means one copy, one `axpy`, one hash and one buffer on the wire.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from math import prod
from typing import Any

from archipelago.core.errors import ArchipelagoError

__all__ = ["GROUPS", "Layout", "Leaf"]

GROUPS = ("weights", "stats")
"""Tensor groups, in the order in which they lie: trained weights, then running statistics."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One named tensor.

    Attributes:
        name: dotted, as in the module that it belongs to.
        shape: empty for a scalar.
        group: one of `GROUPS`; each group has its own policy on the server.
    """

    name: str
    shape: tuple[int, ...]
    group: str = "weights"

    @property
    def size(self) -> int:
        """Number of scalars."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Which tensor lies where in a flat vector. Hashable, picklable, free of torch.

    Leaves are ordered by group, then as given: each group is one contiguous span.

    Example:
        >>> layout = Layout.of([Leaf("running_mean", (3,), "stats"), Leaf("weight", (2, 3))])
        >>> layout.size, layout.span("stats")
        (9, slice(6, 9, None))
    """

    leaves: tuple[Leaf, ...]

    @classmethod
    def of(cls, leaves: Iterable[Leaf]) -> "Layout":
        """Order `leaves` by group and check that their names differ."""
        ordered = sorted(leaves, key=lambda leaf: GROUPS.index(leaf.group))
        names = [leaf.name for leaf in ordered]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ArchipelagoError("two tensors of one model share a name", got=twice)
        return cls(tuple(ordered))

    @cached_property
    def size(self) -> int:
        """Scalars in all groups."""
        return sum(leaf.size for leaf in self.leaves)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Start of each leaf."""
        return tuple(accumulate((leaf.size for leaf in self.leaves), initial=0))[:-1]

    @cached_property
    def digest(self) -> str:
        """Name of the layout: equal layouts, equal digests, on every machine."""
        text = repr([(leaf.name, leaf.shape, leaf.group) for leaf in self.leaves])
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def span(self, group: str) -> slice:
        """Return where `group` lies; an empty slice when the model has none."""
        sizes = [sum(leaf.size for leaf in self.leaves if leaf.group == g) for g in GROUPS]
        starts = [0, *accumulate(sizes)]
        index = GROUPS.index(group)
        return slice(starts[index], starts[index + 1])

    def views(self, flat: Any) -> Mapping[str, Any]:
        """Return each leaf as a view of `flat` (a tensor or array, shape `[size]`)."""
        return {
            leaf.name: flat[start : start + leaf.size].reshape(leaf.shape)
            for leaf, start in zip(self.leaves, self.offsets, strict=True)
        }
