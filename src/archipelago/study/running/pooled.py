"""All train rows in one place: the reference line that a real federation cannot have."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archipelago.data.fleet import Population

__all__ = ["Pooled"]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Shards seen as if client 0 held everybody's train rows. Simulation only.

    Attributes:
        shards: the real ones; validation rows stay with their clients.
    """

    shards: Population

    def view(self, name: str) -> "Pooled":
        """Return the same rows under another preparation, as `Shards.view` does."""
        return Pooled(self.shards.view(name))

    def train(self, client: int) -> tuple[Tensor, Tensor]:
        """Return all train rows, in ascending order of client."""
        del client
        home = self.shards.home
        parts: list[Any] = [home.train(owner) for owner in home.training]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def validation(self, client: int) -> tuple[Tensor, Tensor]:
        """Return one client's validation rows."""
        return self.shards.validation(client)
