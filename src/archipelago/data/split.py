"""Each client's rows part into train, validation and test by the client's own seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError, DataError
from archipelago.core.seeds import Seed

__all__ = ["TEST", "TRAIN", "VALIDATION", "Split"]

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Shares of each client's rows; train keeps what validation and test leave.

    Stratified: rows are ordered by label (ties at random) and every n-th goes to test, so that
    each part has each class as nearly as a client's rows allow.

    Attributes:
        validation: share that scores candidates.
        test: share that is sealed until the report.
        held_out: this many clients, drawn by seed, never train: all their rows are test rows.
        official: take the published test rows as test instead of drawing them.
    """

    kind: Literal["random"] = "random"
    validation: float = 0.15
    test: float = 0.15
    held_out: int = 0
    official: bool = False

    def __post_init__(self) -> None:
        between("split.validation", self.validation, 0, 1, open_low=True, open_high=True)
        between("split.test", self.test, 0, 1, open_low=True, open_high=True)
        at_least("split.held_out", self.held_out, 0)
        if self.validation + self.test >= 1:
            raise ConfigError(
                "validation and test leave nothing to train on",
                got=self.validation + self.test,
                where="split",
                fix="keep split.validation + split.test below 1",
            )

    def held(self, clients: int, seed: Seed) -> tuple[int, ...]:
        """Draw the clients that never train."""
        if self.held_out >= clients:
            raise ConfigError(
                f"cannot hold out {self.held_out} of {clients} clients: nobody would train",
                got=self.held_out,
                where="split.held_out",
                fix=f"hold out at most {clients - 1}",
            )
        drawn = seed.child("held-out").numpy().choice(clients, self.held_out, replace=False)
        return tuple(sorted(int(client) for client in drawn))

    def parts(
        self,
        labels: np.ndarray,
        *,
        client: str,
        seed: Seed,
        groups: np.ndarray | None = None,
        official: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return 0 (train), 1 (validation) or 2 (test) for each of one client's rows.

        Args:
            labels: `[rows]` int64 class numbers of this client's rows.
            client: its name, for messages.
            seed: the client's own.
            groups: `[rows]`; rows of one group stay together.
            official: `[rows]` bool; used when `self.official`.

        Raises:
            DataError: the client has too few rows for three parts.
        """
        if groups is not None:
            first, unit = np.unique(groups, return_index=True, return_inverse=True)[1:]
        else:
            first = unit = np.arange(len(labels))
        rng = seed.numpy()
        order = np.lexsort((rng.random(len(first)), labels[first]))
        part = np.full(len(first), TRAIN)
        if self.official and official is not None:
            published = np.zeros(len(first), bool)
            np.logical_or.at(published, unit, official)
            part[published] = TEST
            order = order[~published[order]]
            least = 2
            if not published.any():
                raise DataError(
                    f"client {client!r} has no row of the published test split",
                    where="split.official",
                    fix="set split.official = false, or ask for fewer clients",
                )
        else:
            least = 3
        if len(order) < least:
            raise DataError(
                f"client {client!r} has fewer rows than splits",
                got=len(order),
                where="split",
                fix=f"give it at least {least} rows, raise partition.least, or leave it out",
            )
        if least == 3:
            drawn = _every(order, max(1, min(round(len(order) * self.test), len(order) - 2)), rng)
            part[drawn] = TEST
            order = order[part[order] == TRAIN]
        share = self.validation / (1 - self.test)
        drawn = _every(order, max(1, min(round(len(order) * share), len(order) - 1)), rng)
        part[drawn] = VALIDATION
        return part[unit]


def _every(order: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of `order` at even steps from a random start (systematic sampling)."""
    return order[((np.arange(count) + rng.random()) * len(order) / count).astype(np.int64)]
