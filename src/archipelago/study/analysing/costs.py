"""What a run has cost its clients: sums over the meter's rows, and joules estimated from them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from archipelago.core.device import Device
from archipelago.journal.journal import Journal

__all__ = ["Bill", "bills"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The cost of one phase, or of all.

    Attributes:
        phase: as in the meter; `all` for the sum.
        fits: client-rounds of training.
        evaluations: models scored by a client.
        refused: visits that did not count, and were paid all the same.
        client: sums per client: `seconds` (of the run's own device model), `macs`, `bytes_up`,
            `bytes_down`, `joules` (estimated from a device's numbers).
        parallel_seconds: wall-clock if every client ran beside the others: of each round the
            slowest client's training, then the slowest one's scoring.
    """

    phase: str
    fits: int
    evaluations: int
    refused: int
    client: Mapping[int, Mapping[str, float]]
    parallel_seconds: float

    def total(self, name: str) -> float:
        """Return the sum over clients."""
        return sum(costs[name] for _, costs in sorted(self.client.items()))

    def mean(self, name: str) -> float:
        """Return the mean over the clients that worked."""
        return self.total(name) / max(1, len(self.client))

    def most(self, name: str) -> float:
        """Return what the most burdened client paid."""
        return max((costs[name] for costs in self.client.values()), default=0.0)


NAMES = ("seconds", "macs", "bytes_up", "bytes_down", "joules")


def bills(journal: Journal, device: Device) -> list[Bill]:
    """Return a bill for every phase in the order of the run, then one for all of them.

    Args:
        journal: of a run, finished or not.
        device: gives the joules; seconds are those of the run's own device model.
    """
    phases = list(dict.fromkeys(row.phase for row in journal.meter()))
    found = [_bill(journal, device, phase) for phase in phases]
    everyone: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(NAMES, 0.0))
    for bill in found:
        for client, costs in bill.client.items():
            for name, value in costs.items():
                everyone[client][name] += value
    whole = Bill(
        phase="all",
        fits=sum(bill.fits for bill in found),
        evaluations=sum(bill.evaluations for bill in found),
        refused=sum(bill.refused for bill in found),
        client=dict(sorted(everyone.items())),
        parallel_seconds=sum(bill.parallel_seconds for bill in found),
    )
    return [*found, whole]


def _bill(journal: Journal, device: Device, phase: str) -> Bill:
    client: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(NAMES, 0.0))
    kinds: dict[str, int] = defaultdict(int)
    for row in journal.meter(phase=phase):
        kinds[row.kind] += 1
        costs = client[row.client]
        costs["seconds"] += row.virtual_seconds
        costs["macs"] += row.macs
        costs["bytes_up"] += row.bytes_up
        costs["bytes_down"] += row.bytes_down
        costs["joules"] += device.joules(row.macs, row.bytes_up + row.bytes_down)
    return Bill(
        phase=phase,
        fits=kinds["fit"],
        evaluations=kinds["evaluate"],
        refused=kinds["refused"],
        client=dict(sorted(client.items())),
        parallel_seconds=journal.parallel_seconds(phase),
    )
