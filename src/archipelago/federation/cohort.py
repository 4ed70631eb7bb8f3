"""Who takes part in a round, and what becomes of them, in virtual time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.seeds import Seed

__all__ = ["Cohort", "Fate"]


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
        clients: sampled a round and branch; 0 takes all.
        fraction: share sampled, used when `clients` is 0.
        minimum: replies that a round needs; with fewer it does not count.
        dropout: probability that a client vanishes in a round.
        stragglers: share of a cohort that manages only some of its epochs.
        deadline: virtual seconds; 0 waits for everybody.
        late: what becomes of late clients and stragglers.
        speed: multiply-accumulates a second of the median device.
        spread: standard deviation of the logarithm of the speed.
        bandwidth: bytes a second, each way.

    References:
        Li et al. 2020, arXiv:1812.06127, section 5.2 (systems heterogeneity).
    """

    kind: Literal["sampled"] = "sampled"
    clients: int = 0
    fraction: float = 1.0
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
        """Return how many of `available` clients a round samples."""
        wanted = self.clients or max(1, round(self.fraction * available))
        return min(wanted, available)

    def select(self, clients: Sequence[int], seed: Seed) -> tuple[int, ...]:
        """Return this round's clients, ascending, drawn without replacement."""
        count = self.count(len(clients))
        if count == len(clients):
            return tuple(sorted(clients))
        drawn = seed.numpy().choice(len(clients), count, replace=False)
        return tuple(sorted(clients[index] for index in drawn))

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
    ) -> tuple[Fate, ...]:
        """Return what becomes of each chosen client.

        Args:
            chosen: client ids.
            work: multiply-accumulates of one epoch, per chosen client.
            traffic: bytes down plus bytes up.
            epochs: passes asked for.
            speeds: stream of the devices' speeds, the same all run long.
            seed: stream of this round.
        """
        slow = round(self.stragglers * len(chosen))
        straggling: set[int] = set()
        if slow:
            drawn = seed.child("stragglers").numpy().choice(len(chosen), slow, replace=False)
            straggling = {chosen[index] for index in drawn}
        return tuple(
            self._fate(
                client,
                macs,
                traffic,
                epochs,
                straggles=client in straggling,
                speeds=speeds,
                own=seed.child("client", client),
            )
            for client, macs in zip(chosen, work, strict=True)
        )

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
        speed = self.pace(client, speeds)
        travel, epoch = traffic / self.bandwidth, work / speed
        managed, note = epochs, ""
        if straggles:
            managed = own.child("epochs").rng().randint(1, epochs - 1) if epochs > 1 else 0
            note = "straggler"
        if self.deadline and travel + managed * epoch > self.deadline:
            managed = int(max(0.0, self.deadline - travel) / epoch)
            note = "late"
        if managed == epochs:
            return Fate(epochs=epochs, seconds=travel + epochs * epoch)
        if self.late == "drop" or managed == 0:
            return Fate(epochs=0, seconds=travel + managed * epoch, note=f"{note}, reply dropped")
        return Fate(epochs=managed, seconds=travel + managed * epoch, note=f"{note}, partial")
