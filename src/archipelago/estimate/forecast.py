"""What a generation will take, told by its estimator before anything is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from archipelago.space.graph import Graph

__all__ = ["Forecast", "Outlook"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The work of a generation, or of several: they add up.

    Attributes:
        rounds: federated rounds; one for a sweep that only scores.
        fits: visits to clients that train.
        evaluations: visits to clients that score.
        macs: multiply-accumulates on clients.
        bytes: moved, up and down.
        risk: bound on the probability that a generation drops its best candidate, the largest of
            all; 0 where nobody is dropped, None where the rule has no bound, or nothing races.
    """

    rounds: int = 0
    fits: int = 0
    evaluations: int = 0
    macs: float = 0.0
    bytes: float = 0.0
    risk: float | None = 0.0

    def __add__(self, other: "Forecast") -> "Forecast":
        known = self.risk is not None and other.risk is not None
        return Forecast(
            rounds=self.rounds + other.rounds,
            fits=self.fits + other.fits,
            evaluations=self.evaluations + other.evaluations,
            macs=self.macs + other.macs,
            bytes=self.bytes + other.bytes,
            risk=max(self.risk or 0.0, other.risk or 0.0) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What an estimator knows of a federation that has not begun.

    Attributes:
        clients: that may train.
        scorers: that may validate.
        replies: from how many clients may train a candidate, and how many of them are asked in a
            round (0: as the run says), to how many replies the round counts.
        examples: a client's train rows times its epochs, the mean over clients.
        validated: a scorer's validation rows, the mean over scorers.
    """

    clients: int
    scorers: int
    replies: Callable[[int, int], int]
    examples: float
    validated: float

    def judges(self, validators: int) -> int:
        """Return how many clients score, where `validators` are asked for; 0 takes all."""
        return min(validators or self.scorers, self.scorers)

    def work(
        self,
        networks: Sequence[Graph],
        *,
        rounds: int,
        fits: int = 0,
        evaluations: int = 0,
        risk: float | None = None,
    ) -> Forecast:
        """Return a forecast whose visits all cost what the mean of `networks` costs."""
        # Training is a forward and a backward pass; the backward one costs two forward ones.
        passes = 3 * self.examples * fits + self.validated * evaluations
        # A fit moves the model down and up; an evaluation only down.
        moves = fits + 0.5 * evaluations
        return Forecast(
            rounds=rounds,
            fits=fits,
            evaluations=evaluations,
            macs=passes * mean(network.macs for network in networks),
            bytes=moves * mean(network.bytes_per_round for network in networks),
            risk=risk,
        )
