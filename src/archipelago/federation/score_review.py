"""Which scores count: every candidate is compared on the same clients, and no client rules alone.

A vector that cannot be is refused, and its client left out for every candidate that was scored with
it: a candidate that a client is missing from would be compared on other rows. What most clients
say of one candidate is the candidate's: its network diverged, or cannot be scored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from archipelago.core.errors import UpdateRefused
from archipelago.federation.round_norms import lower_median

__all__ = ["ScoreReview", "Said"]

_TIMES = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is read off a vector.

    Attributes:
        finite: whether it is a score, and not how a network is told that diverged.
        size: a mean loss, or whatever else should be of one order at all clients.
        labels: what no network changes; the same in every vector of a client.
    """

    finite: bool
    size: float = 0.0
    labels: bytes | None = None


@dataclass(slots=True, kw_only=True)
class ScoreReview:
    """Vectors as they come, and what counts of them in the end. Changes in place.

    Attributes:
        asked: who was to score each branch.
        read: what is read off a vector.
        wide: a size below which nobody is refused for being larger than others.
        refused: by branch and client.
    """

    asked: Mapping[int, Sequence[int]]
    read: Callable[[np.ndarray], Said]
    wide: float
    refused: dict[int, dict[int, UpdateRefused]] = field(default_factory=dict)
    _vectors: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)

    def add(self, branch: int, client: int, vector: np.ndarray) -> None:
        """Take a vector that is right as far as it goes."""
        self._vectors.setdefault(branch, {})[client] = vector

    def refuse(self, branch: int, client: int, why: UpdateRefused) -> None:
        """Leave a client out."""
        self._vectors.setdefault(branch, {}).pop(client, None)
        self.refused.setdefault(branch, {})[client] = why

    def count(self) -> tuple[dict[int, dict[int, np.ndarray]], dict[int, str]]:
        """Return the vectors that count, by branch and client, and why a branch has none."""
        self._unlike_itself()
        for branch in self.asked:
            self._unlike_others(branch)
        reasons: dict[int, str] = {}
        out: set[int] = set()
        for branch, clients in self.asked.items():
            refused = self.refused.get(branch, {})
            if 2 * len(refused) > len(clients):
                who = "no client" if len(refused) == len(clients) else "hardly a client"
                reasons[branch] = f"{who} could score it: {list(refused.values())[-1].what}"
            else:
                out |= refused.keys()
        return {
            branch: {}
            if branch in reasons
            else {
                client: vector
                for client, vector in self._vectors.get(branch, {}).items()
                if client not in out
            }
            for branch in self.asked
        }, reasons

    def _unlike_itself(self) -> None:
        """Refuse clients whose labels depend on what is scored."""
        labels: dict[int, set[bytes | None]] = {}
        for vectors in self._vectors.values():
            for client, vector in vectors.items():
                labels.setdefault(client, set()).add(self.read(vector).labels)
        for client, found in labels.items():
            if len(found) > 1:
                why = UpdateRefused(
                    "labels that depend on the network that is scored",
                    got=f"{len(found)} different sums by one client",
                    fix="this client's scores are left out: look into it",
                )
                for branch, vectors in self._vectors.items():
                    if client in vectors:
                        self.refuse(branch, client, why)

    def _unlike_others(self, branch: int) -> None:
        """Refuse what only few clients say: that it diverged, or that it is worse by far."""
        vectors = self._vectors.get(branch, {})
        said = {client: self.read(vector) for client, vector in vectors.items()}
        diverged = [client for client, one in said.items() if not one.finite]
        if 2 * len(diverged) > len(said):
            return
        for client in diverged:
            why = "scores that are not finite, where most clients' are"
            self.refuse(branch, client, UpdateRefused(why, fix="look into this client"))
        sizes = {client: one.size for client, one in said.items() if one.finite}
        usual = lower_median(list(sizes.values())) if sizes else 0.0
        for client, size in sizes.items():
            if usual and size > max(self.wide, _TIMES * usual):
                why = "scores that are worse than others' by far"
                got = f"a mean loss of {size:.4g}, where {usual:.4g} is usual"
                self.refuse(
                    branch, client, UpdateRefused(why, got=got, fix="look into this client")
                )
