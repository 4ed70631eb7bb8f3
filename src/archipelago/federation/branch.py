"""One model in training, and one generation of them. Frozen: a round returns new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from archipelago.core.part_state import PartState
from archipelago.core.trial import Outcome, Proposal, Value
from archipelago.data.preprocess import SCALING
from archipelago.federation.buffer import Flight
from archipelago.federation.round_norms import RoundNorms
from archipelago.space.graph import Graph

__all__ = ["Branch", "Generation"]

Status = Literal["alive", "done", "dropped", "failed", "undefined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A model that is trained by a cohort.

    Attributes:
        number: its proposal's number, or -1 where no search is under way.
        graph: the architecture.
        flat: weights and statistics, shape `[layout.size]`.
        cohort: clients that may train it; a `range` where they are very many.
        rounds: how many rounds its plan gives it.
        round: rounds done.
        server: the server optimiser's state.
        extras: further vectors that clients download, as weighted sums over the cohort: SCAFFOLD's
            control variate, for one.
        kept: what each client keeps between its visits, by client. It never travels: a simulation
            keeps it for the client.
        counted: rounds in which enough clients replied.
        history: (round, loss, score) at each checkpoint.
        metrics: of the last checkpoint.
        spent: meter totals of the branch so far: `macs`, `bytes_up`, `bytes_down`,
            `virtual_seconds`, `examples`.
        clock: virtual seconds since the plan began.
        flights: clients under way, where the server does not wait for them.
        older: models from which those began, by round.
        status: `alive` while it trains.
        reason: why it failed or was dropped.
        settings: fields of the client's training part that are this branch's own.
        agreed: how long updates were in its last round; None where none came by itself.
    """

    number: int
    graph: Graph
    flat: Tensor
    cohort: Sequence[int]
    rounds: int
    round: int = 0
    server: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    kept: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    counted: int = 0
    history: tuple[tuple[int, float, float], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    spent: Mapping[str, float] = field(default_factory=dict[str, float])
    clock: float = 0.0
    flights: tuple[Flight, ...] = ()
    older: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    status: Status = "alive"
    reason: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict[str, Value])
    agreed: RoundNorms | None = None

    @property
    def alive(self) -> bool:
        """Whether it still trains."""
        return self.status == "alive"

    @property
    def view(self) -> str:
        """Under which preparation its clients see their rows; empty is the run's own."""
        return str(self.settings.get(SCALING, ""))

    def end(self, status: Status, reason: str | None = None) -> "Branch":
        """Return the branch as ended."""
        return replace(self, status=status, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensors."""
        cohort = self.cohort
        return {
            "number": self.number,
            "graph": self.graph.to_json(),
            "cohort": len(cohort) if cohort == range(len(cohort)) else list(cohort),
            "rounds": self.rounds,
            "round": self.round,
            "server": sorted(self.server),
            "extras": sorted(self.extras),
            "kept": sorted(self.kept),
            "counted": self.counted,
            "history": [list(point) for point in self.history],
            "metrics": dict(self.metrics),
            "spent": dict(self.spent),
            "clock": self.clock,
            "flights": [flight.to_json() for flight in self.flights],
            "older": sorted(self.older),
            "status": self.status,
            "reason": self.reason,
            "settings": dict(self.settings),
            "agreed": None if self.agreed is None else self.agreed.to_json(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name: the model, the server's, what clients keep."""
        return {
            "flat": self.flat,
            **{f"server.{name}": tensor for name, tensor in self.server.items()},
            **{f"extras.{name}": tensor for name, tensor in self.extras.items()},
            **{f"kept.{client}": tensor for client, tensor in self.kept.items()},
            **{f"older.{version}": tensor for version, tensor in self.older.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Branch":
        """Rebuild what `to_json` and `tensors` gave."""
        return cls(
            **{
                **data,
                "graph": Graph.from_json(data["graph"]),
                "flat": tensors["flat"],
                "cohort": _clients(data["cohort"]),
                "server": {name: tensors[f"server.{name}"] for name in data["server"]},
                "extras": {name: tensors[f"extras.{name}"] for name in data["extras"]},
                "kept": {client: tensors[f"kept.{client}"] for client in data["kept"]},
                "flights": tuple(Flight.from_json(flight) for flight in data["flights"]),
                "older": {version: tensors[f"older.{version}"] for version in data["older"]},
                "history": tuple((r, loss, score) for r, loss, score in data["history"]),
                "agreed": RoundNorms.from_json(data.get("agreed")),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generation under way.

    Attributes:
        index: counts up from 0.
        proposals: what the strategy asked for.
        branches: one a proposal, in the same order.
        validators: clients that score every survivor.
        outcomes: in proposal order; empty until the generation has ended.
        state: what the estimator keeps of its own beyond this generation; None for most.
    """

    index: int
    proposals: tuple[Proposal, ...]
    branches: tuple[Branch, ...]
    validators: tuple[int, ...]
    outcomes: tuple[Outcome, ...] = ()
    state: PartState | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensors."""
        record: dict[str, Any] = {
            "generation": self.index,
            "proposals": [
                {
                    "number": p.number,
                    "arch": dict(p.arch),
                    "parent": p.parent,
                    "fidelity": p.fidelity,
                }
                for p in self.proposals
            ],
            "branches": [branch.to_json() for branch in self.branches],
            "validators": list(self.validators),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
        }
        return {**record, "state": self.state.to_json()} if self.state else record

    def tensors(self) -> dict[str, Tensor]:
        """Return the branches' tensors, named `index/name`, and the estimator's, `state/name`."""
        own = self.state.tensors if self.state else {}
        return {
            f"{index}/{name}": tensor
            for index, branch in enumerate(self.branches)
            for name, tensor in branch.tensors().items()
        } | {f"state/{name}": tensor for name, tensor in own.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Generation":
        """Rebuild what `to_json` and `tensors` gave."""
        state = data.get("state")
        return cls(
            index=data["generation"],
            proposals=tuple(Proposal(**p) for p in data["proposals"]),
            branches=tuple(
                Branch.from_json(branch, _of(index, tensors))
                for index, branch in enumerate(data["branches"])
            ),
            validators=tuple(data["validators"]),
            outcomes=tuple(Outcome.from_json(o) for o in data["outcomes"]),
            state=PartState.from_json(state, _of("state", tensors)) if state else None,
        )


def _clients(data: int | Sequence[int]) -> Sequence[int]:
    """Read a cohort: its length, where it is everybody."""
    return range(data) if isinstance(data, int) else tuple(data)


def _of(index: int | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{index}/"
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def numbers(branches: Sequence[Branch]) -> tuple[int, ...]:
    """Return the numbers of the branches that are alive."""
    return tuple(branch.number for branch in branches if branch.alive)
