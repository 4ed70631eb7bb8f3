"""FedNAS's way: disjoint groups of clients, losers dropped early, more rounds later."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.core.trial import Proposal
from archipelago.estimate.arena import Arena, Step, begin, judge, outcomes, settle, share
from archipelago.federation.branch import Branch, Heat
from archipelago.federation.rounds import Scores, step

__all__ = ["Race", "groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Train candidates in parallel, each on its own group of clients, and drop losers early.

    Groups are drawn anew for every generation, stratified by rows. All survivors are scored on
    the same validation clients, so that a candidate is not confounded with its group's data.

    Attributes:
        candidates: proposals in a generation, one group each.
        group: clients in a group; 0 shares all clients out.
        first: round budget of the first generation.
        last: round budget that the growth reaches.
        growth: how the budget grows with the generation.
        generations: over how many generations it grows from `first` to `last`.
        checkpoint: rounds between two droppings.
        drop: `half`, `fraction`, `margin` (paired difference beyond `z` standard errors), `none`.
        fraction: share of the survivors dropped by `fraction`.
        z: standard errors of `margin`.
        by: what ranks: validation `loss`, or the search's own `score`.
        freed: what a dropped candidate's clients do: `idle` saves cost, `join` the survivors
            saves time.
        validators: clients that score; 0 takes all.

    References:
        Xu et al. 2020, arXiv:2002.06352; Jamieson and Talwalkar 2016, arXiv:1502.07943 (halving).
    """

    kind: Literal["race"] = "race"
    candidates: int = 5
    group: int = 0
    first: int = 2
    last: int = 6
    growth: Literal["constant", "linear", "geometric"] = "linear"
    generations: int = 6
    checkpoint: int = 1
    drop: Literal["half", "fraction", "margin", "none"] = "half"
    fraction: float = 0.25
    z: float = 2.0
    by: Literal["loss", "score"] = "loss"
    freed: Literal["idle", "join"] = "idle"
    validators: int = 0

    def __post_init__(self) -> None:
        at_least("estimator.candidates", self.candidates, 1)
        at_least("estimator.group", self.group, 0, fix="0 shares all clients out")
        at_least("estimator.first", self.first, 1)
        at_least("estimator.generations", self.generations, 1)
        at_least("estimator.checkpoint", self.checkpoint, 1)
        between("estimator.fraction", self.fraction, 0, 1, open_low=True, open_high=True)
        at_least("estimator.z", self.z, 0)
        at_least("estimator.validators", self.validators, 0, fix="0 takes all clients")
        at_least("estimator.last", self.last, self.first, fix="the budget grows from first to last")

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        if self.candidates > clients:
            raise IncompatibleParts(
                "more candidates than clients: a group would be empty",
                got=(self.candidates, clients),
                where="estimator.candidates",
                fix=f"lower candidates to {clients} or split the data over more clients",
            )
        if self.group * self.candidates > clients:
            raise IncompatibleParts(
                "the groups need more clients than there are",
                got=(self.candidates, self.group, clients),
                where="estimator.group",
                fix=f"lower group to {clients // self.candidates}, or 0 to share all clients out",
            )
        return self.candidates

    def budget(self, generation: int) -> int:
        """Return the rounds of a generation."""
        share = min(1.0, generation / max(1, self.generations - 1))
        match self.growth:
            case "constant":
                return self.last
            case "linear":
                return self.first + ceil(share * (self.last - self.first))
            case "geometric":
                return ceil(self.first * (self.last / self.first) ** share - 1e-9)

    def start(self, proposals: Sequence[Proposal], generation: int, arena: Arena) -> Heat:
        """Draw the groups and start every branch from scratch."""
        seed = arena.federation.seed.child(arena.phase, "groups", generation)
        cohorts = groups(
            arena.clients, arena.federation.train_rows, len(proposals), self.group, seed
        )
        return begin(
            proposals,
            generation,
            arena,
            cohorts=cohorts,
            rounds=[share(self.budget(generation), p.fidelity) for p in proposals],
            validators=self.validators,
        )

    def run(self, heat: Heat, arena: Arena) -> Iterator[Step]:
        """Yield after every round until the race is over."""
        while not heat.outcomes:
            done = step(arena.federation, heat.branches, phase=arena.phase)
            heat, scores = replace(heat, branches=done.branches), None
            live = [branch for branch in heat.branches if branch.alive]
            if any(b.round % self.checkpoint == 0 or b.round >= b.rounds for b in live):
                heat, scores = judge(heat, arena)
                heat = self._raced(heat, scores)
            if not any(branch.alive for branch in heat.branches):
                heat = replace(heat, outcomes=outcomes(heat))
            yield settle(heat, done, scores)

    def _raced(self, heat: Heat, scores: Scores) -> Heat:
        ended = tuple(
            b.end("done") if b.alive and b.round >= b.rounds else b for b in heat.branches
        )
        live = [branch for branch in ended if branch.alive]
        losers = self._losers(live, scores)
        kept = [branch for branch in live if branch.number not in losers]
        freed = tuple(c for b in live if b.number in losers for c in b.cohort)
        out: list[Branch] = []
        for branch in ended:
            after = branch
            if branch.number in losers:
                after = branch.end("dropped", f"dropped at round {branch.round}: {self.drop}")
            elif branch.alive and len(kept) == 1 and len(live) > 1:
                # The ranking is settled: one survivor needs no further round to win.
                after = branch.end("done", f"won at round {branch.round}")
            elif branch.alive and self.freed == "join" and freed:
                share = freed[kept.index(branch) :: len(kept)]
                after = replace(branch, cohort=tuple(sorted((*branch.cohort, *share))))
            out.append(after)
        return replace(heat, branches=tuple(out))

    def _losers(self, live: Sequence[Branch], scores: Scores) -> frozenset[int]:
        if len(live) < 2 or self.drop == "none":
            return frozenset()
        ranked = sorted(live, key=lambda b: (self._badness(b), b.number))
        if self.drop == "margin":
            best = scores.vectors[ranked[0].number]
            return frozenset(
                b.number for b in ranked[1:] if _behind(best, scores.vectors[b.number]) > self.z
            )
        share = 0.5 if self.drop == "half" else self.fraction
        keep = max(1, int((1 - share) * len(ranked)))
        return frozenset(branch.number for branch in ranked[keep:])

    def _badness(self, branch: Branch) -> float:
        _, loss, score = branch.history[-1]
        return loss if self.by == "loss" else -score


def groups(
    clients: Sequence[int], rows: np.ndarray, count: int, size: int, seed: Seed
) -> list[tuple[int, ...]]:
    """Return `count` disjoint groups of clients with about the same number of rows.

    Clients are sorted by rows and dealt out in strata of `count`, each stratum in an order of its
    own, so that every group has large and small clients.

    Args:
        clients: who may be dealt out.
        rows: train rows per client id.
        count: how many groups.
        size: clients in each; 0 deals all out.
        seed: stream of this generation.
    """
    rng = seed.numpy()
    ranked = sorted(clients, key=lambda client: (-int(rows[client]), client))
    if size:
        keep = np.sort(rng.permutation(len(ranked))[: size * count])
        ranked = [ranked[index] for index in keep]
    out: list[list[int]] = [[] for _ in range(count)]
    for start in range(0, len(ranked), count):
        stratum = ranked[start : start + count]
        for group, client in zip(rng.permutation(count), stratum, strict=False):
            out[group].append(client)
    return [tuple(sorted(group)) for group in out]


def _behind(best: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> float:
    """Return by how many standard errors `other` has the higher loss, paired by client.

    The first two statistics of every task are rows and summed loss.
    """
    shared = sorted(best.keys() & other.keys())
    if len(shared) < 2:
        return 0.0
    n = np.array([best[client][0] for client in shared])
    gaps = np.array([(other[c][1] - best[c][1]) / best[c][0] for c in shared])
    weight = n / n.sum()
    mean = float(weight @ gaps)
    variance = float(weight**2 @ (gaps - mean) ** 2) * len(shared) / (len(shared) - 1)
    return mean / sqrt(variance) if variance > 0 else (float("inf") if mean > 0 else 0.0)
