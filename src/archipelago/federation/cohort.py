"""Who takes part in a round, and what becomes of them, in virtual time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.federation.traces import left, trace_of

__all__ = ["Cohort", "Fate"]

WAIT = 600.0
"""Virtual seconds after which the server looks again where nobody was free."""
_LISTED = 10_000
"""Clients up to which all are looked through; of more, some are drawn until enough are free."""
_PATIENCE = 200
"""Draws for each client wanted: where fewer than one in 200 is free, a round goes short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens to one client in one round.

    Attributes:
        epochs: passes it manages; 0 when it never replies.
        seconds: virtual duration on the client.
        note: why it is absent or partial; empty when all went well.
    """

    epochs: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Samples clients and models their devices.

    A device's speed is drawn once per client, log-normally around `speed`. A client whose round
    would outlast `deadline` is late: its reply is dropped (FedAvg), or it sends what it has
    (FedProx).

    Attributes:
        clients: that a round and branch needs; 0 takes all.
        fraction: share that it needs, used when `clients` is 0.
        over: times as many are asked; the round closes with the first that it needs, and what the
            others do is lost.
        availability: `always`, or `diurnal`: a device takes part while it charges, once a day.
        minimum: replies that a round needs; with fewer it does not count.
        dropout: probability that a client vanishes in a round.
        stragglers: share of a cohort that manages only some of its epochs.
        deadline: virtual seconds; 0 waits for everybody.
        late: what becomes of late clients and stragglers.
        speed: multiply-accumulates a second of the median device.
        spread: standard deviation of the logarithm of the speed.
        bandwidth: bytes a second, each way.

    References:
        Li et al. 2020, arXiv:1812.06127, section 5.2 (systems heterogeneity); Bonawitz et al.
        2019, arXiv:1902.01046, section 9 (over-selection by 1.3, diurnal availability).
    """

    kind: Literal["sampled"] = "sampled"
    clients: int = 0
    fraction: float = 1.0
    over: float = 1.0
    availability: Literal["always", "diurnal"] = "always"
    minimum: int = 1
    dropout: float = 0.0
    stragglers: float = 0.0
    deadline: float = 0.0
    late: Literal["drop", "partial"] = "drop"
    speed: float = 1e9
    spread: float = 0.0
    bandwidth: float = 1e6

    def __post_init__(self) -> None:
        at_least("cohort.clients", self.clients, 0, fix="0 takes all clients")
        between("cohort.fraction", self.fraction, 0, 1, open_low=True)
        between("cohort.over", self.over, 1, 100)
        at_least("cohort.minimum", self.minimum, 1)
        between("cohort.dropout", self.dropout, 0, 1)
        between("cohort.stragglers", self.stragglers, 0, 1)
        at_least("cohort.deadline", self.deadline, 0, fix="0 waits for everybody")
        at_least("cohort.spread", self.spread, 0)
        between("cohort.speed", self.speed, 0, 1e18, open_low=True)
        between("cohort.bandwidth", self.bandwidth, 0, 1e18, open_low=True)
        if self.clients and self.minimum > self.clients:
            raise IncompatibleParts(
                "a round cannot need more replies than it has clients",
                got=(self.minimum, self.clients),
                where="cohort.minimum",
                fix=f"lower minimum to {self.clients}",
            )

    def count(self, available: int) -> int:
        """Return how many replies of `available` clients a round needs."""
        wanted = self.clients or max(1, round(self.fraction * available))
        return min(wanted, available)

    def select(
        self,
        clients: Sequence[int],
        seed: Seed,
        *,
        devices: Seed | None = None,
        now: float = 0.0,
    ) -> tuple[int, ...]:
        """Return the clients that a round asks, ascending, drawn without replacement.

        Args:
            clients: who may be asked; a `range` of a million costs no more than a few.
            seed: stream of this round.
            devices: stream of the devices, the same all run long; traces are drawn from it.
            now: virtual seconds since the first midnight.
        """
        count = min(len(clients), ceil(self.over * self.count(len(clients)) - 1e-9))
        return self.draw(clients, count, seed, devices=devices, now=now)

    def draw(
        self,
        clients: Sequence[int],
        count: int,
        seed: Seed,
        *,
        devices: Seed | None = None,
        now: float = 0.0,
        busy: frozenset[int] = frozenset(),
    ) -> tuple[int, ...]:
        """Return `count` clients that are free and not `busy`, ascending; fewer if there are not.

        See `select`.
        """
        awake = devices if self.availability == "diurnal" else None
        if awake is None and not busy:
            if count >= len(clients):
                return tuple(sorted(clients))
            drawn = seed.numpy().choice(len(clients), count, replace=False)
            return tuple(sorted(clients[index] for index in drawn))
        found: dict[int, None] = {}
        for ids in _shuffled(clients, count + len(busy), seed):
            free = ids if awake is None else ids[left(ids, now, awake) > 0]
            for client in free.tolist():
                if len(found) < count and client not in busy:
                    found[client] = None
            if len(found) >= count:
                break
        return tuple(sorted(found))

    def traces(self, clients: np.ndarray, devices: Seed) -> np.ndarray:
        """Return the availability trace of each client, -1 where it is always free."""
        if self.availability == "always":
            return np.full(len(clients), -1)
        return trace_of(clients, devices).astype(np.int64)

    def lasts(self, fates: Sequence[Fate]) -> float:
        """Return the virtual seconds until a round is closed."""
        replies = [fate.seconds for fate in fates if fate.epochs]
        if not fates:
            return WAIT
        if len(replies) >= self._needed(len(fates)):
            return max(replies)
        return self.deadline or max(fate.seconds for fate in fates)

    def pace(self, client: int, speeds: Seed) -> float:
        """Return a client's multiply-accumulates a second: drawn once, the same all run long."""
        if not self.spread:
            return self.speed
        return self.speed * speeds.child(client).rng().lognormvariate(0, self.spread)

    def fates(
        self,
        chosen: Sequence[int],
        work: Sequence[float],
        traffic: int,
        epochs: int,
        *,
        speeds: Seed,
        seed: Seed,
        now: float = 0.0,
    ) -> tuple[Fate, ...]:
        """Return what becomes of each chosen client.

        Args:
            chosen: client ids.
            work: multiply-accumulates of one epoch, per chosen client.
            traffic: bytes down plus bytes up.
            epochs: passes asked for.
            speeds: stream of the devices, the same all run long.
            seed: stream of this round.
            now: virtual seconds at which it begins.
        """
        slow = round(self.stragglers * len(chosen))
        straggling: set[int] = set()
        if slow:
            drawn = seed.child("stragglers").numpy().choice(len(chosen), slow, replace=False)
            straggling = {chosen[index] for index in drawn}
        if self.availability == "always" and not (slow or self.dropout or self.spread):
            # Nothing is drawn: work says it all.
            alike = {
                macs: self._timed(macs, self.speed, traffic, epochs, managed=epochs)
                for macs in set(work)
            }
            return self._closed(tuple(alike[macs] for _, macs in zip(chosen, work, strict=True)))
        stays = (
            left(np.array(chosen, np.int64), now, speeds)
            if self.availability == "diurnal"
            else np.full(len(chosen), np.inf)
        )
        fates = tuple(
            _gone(
                self._fate(
                    client,
                    macs,
                    traffic,
                    epochs,
                    straggles=client in straggling,
                    speeds=speeds,
                    own=seed.child("client", client),
                ),
                float(until),
            )
            for client, macs, until in zip(chosen, work, stays, strict=True)
        )
        return self._closed(fates)

    def _needed(self, asked: int) -> int:
        return int(asked / self.over + 1e-9)

    def _closed(self, fates: tuple[Fate, ...]) -> tuple[Fate, ...]:
        """Let go of those that come after the round has all that it needs."""
        order = sorted(
            (index for index, fate in enumerate(fates) if fate.epochs),
            key=lambda index: (fates[index].seconds, index),
        )
        kept = order[: self._needed(len(fates))]
        if self.over == 1 or len(kept) == len(order):
            return fates
        closing = fates[kept[-1]].seconds
        out = list(fates)
        for index in order[len(kept) :]:
            out[index] = Fate(epochs=0, seconds=closing, note="not needed, reply dropped")
        return tuple(out)

    def _fate(
        self,
        client: int,
        work: float,
        traffic: int,
        epochs: int,
        *,
        straggles: bool,
        speeds: Seed,
        own: Seed,
    ) -> Fate:
        if self.dropout and own.child("dropout").rng().random() < self.dropout:
            return Fate(epochs=0, seconds=0.0, note="dropped out")
        managed, note = epochs, ""
        if straggles:
            managed = own.child("epochs").rng().randint(1, epochs - 1) if epochs > 1 else 0
            note = "straggler"
        speed = self.pace(client, speeds)
        return self._timed(work, speed, traffic, epochs, managed=managed, note=note)

    def _timed(
        self,
        work: float,
        speed: float,
        traffic: int,
        epochs: int,
        *,
        managed: int,
        note: str = "",
    ) -> Fate:
        """Return the fate of a device that is there and manages some of the epochs."""
        travel, epoch = traffic / self.bandwidth, work / speed
        if self.deadline and travel + managed * epoch > self.deadline:
            managed = int(max(0.0, self.deadline - travel) / epoch)
            note = "late"
        if managed == epochs:
            return Fate(epochs=epochs, seconds=travel + epochs * epoch)
        if self.late == "drop" or managed == 0:
            return Fate(epochs=0, seconds=travel + managed * epoch, note=f"{note}, reply dropped")
        return Fate(epochs=managed, seconds=travel + managed * epoch, note=f"{note}, partial")


def _gone(fate: Fate, until: float) -> Fate:
    """Cut a visit short where the device leaves before its end."""
    if fate.seconds <= until:
        return fate
    return replace(fate, epochs=0, seconds=until, note="went away, reply dropped")


def _shuffled(clients: Sequence[int], few: int, seed: Seed) -> Iterator[np.ndarray]:
    """Yield ids in random order, each once; of very many, only some."""
    rng = seed.numpy()
    if len(clients) <= _LISTED:
        yield np.array(clients, np.int64)[rng.permutation(len(clients))]
        return
    whole = clients if isinstance(clients, range) else np.array(clients, np.int64)
    seen: set[int] = set()
    for _ in range(_PATIENCE // 4):
        drawn = rng.integers(0, len(clients), 4 * few)
        fresh = [i for i in dict.fromkeys(drawn.tolist()) if i not in seen]
        seen.update(fresh)
        yield np.array([whole[i] for i in fresh], np.int64)
