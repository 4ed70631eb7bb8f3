"""The asynchronous buffer: who is under way, who arrives next, in virtual time.

A schedule of integers and seconds, without models: durations follow from rows and devices, so it is
known before anything is trained. Loop two then trains those that arrive, each from the model that
it once downloaded.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from archipelago.core.checks import at_least, between
from archipelago.federation.cohort import WAIT, Cohort, Fate

__all__ = ["Arrivals", "Buffered", "Flight", "Synchronous", "advance"]

_FRUITLESS = 1000
"""Starts for each reply wanted, after which a round is closed short: devices never reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A client under way.

    Attributes:
        due: virtual seconds, since the plan began, at which it replies or is given up.
        order: counts starts up over the branch's life; ends ties of `due`.
        client: its id.
        version: the server step from which it began.
        epochs: passes it manages; 0 when no reply will come.
        seconds: that it takes.
        note: why it is partial or lost.
    """

    due: float
    order: int
    client: int
    version: int
    epochs: int
    seconds: float
    note: str = ""

    def lost(self, now: float) -> "Flight":
        """Return the flight as given up while it is under way."""
        seconds = self.seconds - (self.due - now)
        return replace(self, epochs=0, seconds=seconds, note="under way at the end")

    def to_json(self) -> list[object]:
        """Return plain JSON data; `from_json` is its inverse."""
        return [
            self.due,
            self.order,
            self.client,
            self.version,
            self.epochs,
            self.seconds,
            self.note,
        ]

    @classmethod
    def from_json(cls, data: Sequence[object]) -> "Flight":
        """Rebuild what `to_json` wrote."""
        names = ("due", "order", "client", "version", "epochs", "seconds", "note")
        return cls(**dict(zip(names, data, strict=True)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronous:
    """A star: every round waits for its cohort.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    kind: Literal["synchronous"] = "synchronous"

    def replies(self, cohort: Cohort, clients: int) -> int:
        """Return how many replies a round counts, of `clients` that may be asked."""
        return cohort.count(clients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered:
    """FedBuff: the server steps as soon as a buffer of replies is full, and waits for nobody.

    `cohort.clients` train at any time: whenever one replies or vanishes, another begins, from the
    model of that moment. With a buffer as large as the cohort and devices of equal speed this is
    FedAvg, to the bit. A round of a plan is one step of the server.

    Attributes:
        buffer: replies in a step of the server (`K`).
        exponent: a reply that is `s` steps old is scaled by `(1 + s) ** -exponent`; 0.5 is the
            paper's, 0 counts all alike.
        oldest: steps after which a reply is refused; 0 refuses none.

    References:
        Nguyen et al. 2022, arXiv:2106.06639, algorithm 1 and section 5 (the scaling).
    """

    kind: Literal["buffered"] = "buffered"
    buffer: int = 10
    exponent: float = 0.5
    oldest: int = 0

    def __post_init__(self) -> None:
        at_least("topology.buffer", self.buffer, 1)
        between("topology.exponent", self.exponent, 0, 10)
        at_least("topology.oldest", self.oldest, 0, fix="0 refuses none")

    def replies(self, cohort: Cohort, clients: int) -> int:
        """Return how many replies a step of the server counts."""
        del cohort, clients
        return self.buffer

    def scale(self, staleness: int) -> float:
        """Return what the change of a reply, so many steps old, is multiplied by.

        Example:
            >>> [round(Buffered().scale(s), 4) for s in range(4)]
            [1.0, 0.7071, 0.5774, 0.5]
        """
        return (1.0 + staleness) ** -self.exponent

    def fate(self, flight: Flight, staleness: int) -> Fate:
        """Return what becomes of a flight that has ended."""
        old = f"{staleness} {'step' if staleness == 1 else 'steps'} old"
        if not flight.epochs or not staleness:
            return Fate(epochs=flight.epochs, seconds=flight.seconds, note=flight.note)
        if self.oldest and staleness > self.oldest:
            return Fate(epochs=0, seconds=flight.seconds, note=f"{old}, reply dropped")
        note = ", ".join(part for part in (flight.note, old) if part)
        return Fate(epochs=flight.epochs, seconds=flight.seconds, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """What happens until the server's next step.

    Attributes:
        ended: flights that ended, in order of arrival, lost ones included.
        flights: those that are still under way, by `due`.
        now: virtual seconds of the step.
    """

    ended: tuple[Flight, ...]
    flights: tuple[Flight, ...]
    now: float


Begin = Callable[[int, float, frozenset[int], int], Sequence[Flight]]
"""`(how many, now, who may not, order of the first) -> flights`; fewer where fewer are free."""


def advance(
    flights: Sequence[Flight], now: float, *, buffer: int, concurrency: int, begin: Begin
) -> Arrivals:
    """Let virtual time pass until `buffer` replies have come.

    Clients begin only when nothing else arrives at the same moment: replies that come together
    count together, and the next clients begin from the model that they made.

    Args:
        flights: under way.
        now: virtual seconds.
        buffer: replies wanted.
        concurrency: clients to keep under way.
        begin: starts clients from the server's present model.
    """
    queue = [(flight.due, flight.order, flight) for flight in flights]
    heapq.heapify(queue)
    order = 1 + max((flight.order for flight in flights), default=-1)
    ended: list[Flight] = []
    begun: set[int] = set()
    replies = tries = 0
    while replies < buffer:
        while len(queue) < concurrency and (not queue or queue[0][0] > now):
            # One visit a client and version: a second would be the same work again.
            busy = frozenset(begun | {flight.client for _, _, flight in queue})
            fresh = begin(concurrency - len(queue), now, busy, order)
            for flight in fresh:
                heapq.heappush(queue, (flight.due, flight.order, flight))
            begun |= {flight.client for flight in fresh}
            order += len(fresh)
            tries += max(1, len(fresh))
            if queue or tries > _FRUITLESS * buffer:
                break
            now += WAIT  # nobody is free at this hour
        if not queue or tries > _FRUITLESS * buffer:
            break
        _, _, flight = heapq.heappop(queue)
        now = max(now, flight.due)
        ended.append(flight)
        replies += flight.epochs > 0
    return Arrivals(
        ended=tuple(ended), flights=tuple(flight for *_, flight in sorted(queue)), now=now
    )
