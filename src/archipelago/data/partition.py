"""Who owns which row, in a simulation. Every client gets at least `least` rows, or it is refused.

References:
    Hsu et al. 2019, arXiv:1909.06335, section 2 (Dirichlet); McMahan et al. 2017,
    arXiv:1602.05629, section 3 (shards of few classes a client).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError, DataError
from archipelago.core.seeds import Seed
from archipelago.data.raw import Raw

__all__ = ["Classes", "Dirichlet", "Iid", "Natural", "Partition", "Quantity", "assign"]

LEAST = 10
"""Default least rows a client: enough for a train, a validation and a test part."""


@runtime_checkable
class Partition(Protocol):
    """Deals units (rows, or groups of rows that belong together) to clients."""

    def deal(self, labels: np.ndarray, seed: Seed) -> np.ndarray:
        """Return the owner of each unit, `[units]` int64; `labels` `[units]` are class numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Iid:
    """Shuffle, then deal in turn: clients differ by chance only."""

    kind: Literal["iid"] = "iid"
    clients: int = 20
    least: int = LEAST

    def __post_init__(self) -> None:
        _check(self.clients, self.least)

    def deal(self, labels: np.ndarray, seed: Seed) -> np.ndarray:
        """Return the owner of each unit."""
        owner = np.empty(len(labels), np.int64)
        owner[seed.numpy().permutation(len(labels))] = np.arange(len(labels)) % self.clients
        return owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirichlet:
    """Label skew: each class is dealt in proportions drawn from Dirichlet(alpha).

    Attributes:
        alpha: small is skewed; 0.3 leaves most clients two or three main classes, 100 is IID.

    References:
        Hsu et al. 2019, arXiv:1909.06335, section 2; by class, as in Li et al. 2021,
        arXiv:2102.02079, section 4.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = 0.5
    clients: int = 20
    least: int = LEAST

    def __post_init__(self) -> None:
        between("partition.alpha", self.alpha, 0, 1e6, open_low=True, fix="0.5 is common")
        _check(self.clients, self.least)

    def deal(self, labels: np.ndarray, seed: Seed) -> np.ndarray:
        """Return the owner of each unit."""
        owner = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            rng = seed.child("class", int(label)).numpy()
            rows = rng.permutation(np.flatnonzero(labels == label))
            # a Dirichlet by its gammas; with a tiny alpha all of them may underflow to zero
            share = rng.gamma(self.alpha, size=self.clients)
            total = share.sum()
            if not total > 0:
                share[rng.integers(self.clients)], total = 1.0, 1.0
            cuts = np.round(np.cumsum(share / total)[:-1] * len(rows)).astype(np.int64)
            for client, part in enumerate(np.split(rows, cuts)):
                owner[part] = client
        return owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Few classes a client: rows sorted by class, cut in shards, `per_client` dealt to each.

    Attributes:
        per_client: shards that each client gets; it then has about so many classes.

    References:
        McMahan et al. 2017, arXiv:1602.05629, section 3.
    """

    kind: Literal["classes"] = "classes"
    per_client: int = 2
    clients: int = 20
    least: int = LEAST

    def __post_init__(self) -> None:
        at_least("partition.per_client", self.per_client, 1)
        _check(self.clients, self.least)

    def deal(self, labels: np.ndarray, seed: Seed) -> np.ndarray:
        """Return the owner of each unit."""
        rng = seed.numpy()
        shuffled = rng.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        shards = rng.permutation(self.clients * self.per_client) // self.per_client
        owner = np.empty(len(labels), np.int64)
        for client, rows in zip(shards, np.array_split(by_class, len(shards)), strict=True):
            owner[rows] = client
        return owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """Size skew: shares of the rows follow a power law, classes are even.

    Attributes:
        skew: client k gets a share proportional to k ** -skew; 0 is even, 1 is Zipf's law.
    """

    kind: Literal["quantity"] = "quantity"
    skew: float = 1.0
    clients: int = 20
    least: int = LEAST

    def __post_init__(self) -> None:
        between("partition.skew", self.skew, 0, 10)
        _check(self.clients, self.least)

    def deal(self, labels: np.ndarray, seed: Seed) -> np.ndarray:
        """Return the owner of each unit."""
        share = np.arange(1, self.clients + 1, dtype=np.float64) ** -self.skew
        cuts = np.round(np.cumsum(share / share.sum())[:-1] * len(labels)).astype(np.int64)
        owner = np.empty(len(labels), np.int64)
        order = seed.numpy().permutation(len(labels))
        for client, rows in enumerate(np.split(order, cuts)):
            owner[rows] = client
        return owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Natural:
    """Rows stay with who has them: one client for each silo, person or hospital.

    Attributes:
        clients: 0 keeps every owner; otherwise owners are merged, largest first, into this many
            silos of similar size.
        least: an owner with fewer rows is refused by name.
    """

    kind: Literal["natural"] = "natural"
    clients: int = 0
    least: int = 3

    def __post_init__(self) -> None:
        at_least("partition.clients", self.clients, 0)
        at_least("partition.least", self.least, 1)


def assign(
    partition: Iid | Dirichlet | Classes | Quantity | Natural,
    raw: Raw,
    labels: np.ndarray,
    seed: Seed,
    *,
    official: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give every row an owner.

    Args:
        partition: how.
        raw: the rows.
        labels: class number of each row, `[rows]` int64; zeros where rows have no class.
        seed: of the draw.
        official: `[rows]` bool, published test rows of which every simulated client needs one.

    Returns:
        owners `[rows]` int64 and the clients' names.

    Raises:
        ConfigError: there are too few rows for so many clients.
        DataError: natural owners are wanted and unknown, or one has too few rows.
    """
    if isinstance(partition, Natural):
        return _natural(partition, raw)
    needed = partition.clients * partition.least
    if needed > raw.rows:
        raise ConfigError(
            f"{raw.rows} rows are too few for {partition.clients} clients of {partition.least}",
            got=partition.clients,
            where="partition.clients",
            fix=f"ask for at most {raw.rows // partition.least} clients, or lower partition.least",
        )
    unit_of = np.arange(raw.rows) if raw.groups is None else _dense(raw.groups)
    first = np.unique(unit_of, return_index=True)[1]
    dealt = partition.deal(labels[first], seed.child("deal"))
    sizes = np.bincount(unit_of)
    owner = _filled(dealt, sizes, partition, seed)
    if official is not None:
        published = np.bincount(unit_of, weights=official) > 0
        owner = _tested(owner, published, labels[first], partition.clients, seed)
    return owner[unit_of], _numbered(partition.clients)


def _natural(partition: Natural, raw: Raw) -> tuple[np.ndarray, tuple[str, ...]]:
    if raw.natural is None:
        raise DataError(
            "this data has no natural owners",
            where=f"partition (data {raw.name!r})",
            fix="use kind = 'iid' or 'dirichlet', or name the column that says whose row it is",
        )
    sizes = np.bincount(raw.natural, minlength=len(raw.names))
    present = np.flatnonzero(sizes)
    if partition.clients > len(present):
        raise ConfigError(
            f"there are only {len(present)} natural clients",
            got=partition.clients,
            where="partition.clients",
            fix=f"ask for at most {len(present)}, or 0 for all",
        )
    home = np.full(len(raw.names), -1)
    if not partition.clients or partition.clients == len(present):
        home[present] = np.arange(len(present))
        names = tuple(raw.names[i] for i in present)
    else:
        loads = np.zeros(partition.clients, np.int64)
        members: list[list[str]] = [[] for _ in loads]
        for owner in sorted(present, key=lambda i: (-sizes[i], i)):
            home[owner] = int(loads.argmin())
            loads[home[owner]] += sizes[owner]
            members[home[owner]].append(raw.names[owner])
        names = tuple(" + ".join(group) for group in members)
    owner = home[raw.natural]
    rows = np.bincount(owner, minlength=len(names))
    if (short := int(rows.argmin())) is not None and rows[short] < partition.least:
        raise DataError(
            f"client {names[short]!r} has fewer rows than a train, validation and test split needs",
            got=int(rows[short]),
            where="partition.least",
            fix=f"leave this client out, merge it with another, or give it {partition.least} rows",
        )
    return owner, names


def _filled(
    owner: np.ndarray,
    sizes: np.ndarray,
    partition: Iid | Dirichlet | Classes | Quantity,
    seed: Seed,
) -> np.ndarray:
    """Move random units from the largest client to any that has fewer than `least` rows."""
    rng = seed.child("repair").numpy()
    rows = np.bincount(owner, weights=sizes, minlength=partition.clients).astype(np.int64)
    while (poorest := int(rows.argmin())) is not None and rows[poorest] < partition.least:
        richest = int(rows.argmax())
        held = np.flatnonzero(owner == richest)
        fitting = held[rows[richest] - sizes[held] >= partition.least]
        if len(fitting) == 0:
            raise ConfigError(
                f"cannot give each of {partition.clients} clients {partition.least} rows: "
                "rows that belong together may not part",
                got=partition.clients,
                where="partition.clients",
                fix="ask for fewer clients, or use kind = 'natural'",
            )
        lacking = max(1, int((partition.least - rows[poorest]) / max(sizes[fitting].mean(), 1)))
        for unit in rng.permutation(fitting)[:lacking]:
            if rows[richest] - sizes[unit] < partition.least:
                break
            owner[unit] = poorest
            rows[richest] -= sizes[unit]
            rows[poorest] += sizes[unit]
    return owner


def _tested(
    owner: np.ndarray, published: np.ndarray, labels: np.ndarray, clients: int, seed: Seed
) -> np.ndarray:
    """Swap units until each client has a published test unit and two others, where that can be.

    The unit comes from the client with most of its kind, and has a class that the receiver has,
    if there is one.
    """
    rng = seed.child("published").numpy()
    for kind, least in ((published, 1), (~published, 2)):
        for poor in range(clients):
            while np.count_nonzero(kind & (owner == poor)) < least:
                counts = np.bincount(owner[kind], minlength=clients)
                back = np.flatnonzero(~kind & (owner == poor))
                rich = int(counts.argmax())
                if counts[rich] <= least or not len(back):
                    return owner  # too few of them: the split says so, and names the client
                offered = np.flatnonzero(kind & (owner == rich))
                known = offered[np.isin(labels[offered], labels[owner == poor])]
                given = rng.choice(known if len(known) else offered)
                owner[rng.choice(back)] = rich
                owner[given] = poor
    return owner


def _check(clients: int, least: int) -> None:
    at_least("partition.clients", clients, 1, fix="ask for at least one client")
    at_least("partition.least", least, 3, fix="train, validation and test need a row each")


def _numbered(clients: int) -> tuple[str, ...]:
    width = len(str(clients - 1))
    return tuple(f"client-{i:0{width}d}" for i in range(clients))


def _dense(groups: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.unique(groups, return_inverse=True)[1]
