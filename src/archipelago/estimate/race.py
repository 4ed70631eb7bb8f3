"""FedNAS's way: disjoint groups of clients, losers dropped early, more rounds later."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.core.trial import Proposal
from archipelago.estimate.context import (
    EvaluationContext,
    Step,
    begin,
    joined,
    judge,
    outcomes,
    settle,
    share,
)
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.estimate.margin import behind, bound
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.rounds import (
    Federation,
    Round,
    Scores,
    evaluate,
    selected,
    step,
)
from archipelago.space.graph import Graph

__all__ = ["Race", "groups", "speed_groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Train candidates in parallel, each on its own group of clients, and drop losers early.

    Groups are drawn anew for every generation, stratified by rows. All survivors are scored on
    the same validation clients, so that a candidate is not confounded with its group's data.
    Each of FedNAS's three savings can be switched off alone: partial clients by `groups = 1` and
    `group = 0`, early dropping by `drop = "none"`, dynamic rounds by `growth = "constant"`.

    Attributes:
        candidates: proposals in a generation, one group each.
        groups: groups that train at a time; with fewer than candidates these take turns, in waves
            between two checkpoints. 0 is one for each candidate.
        group: clients in a group; 0 shares all clients out.
        sample: clients of a group that train in a round; 0 follows the run's cohort.
        rotate: whether candidates change groups every round, so that none keeps its group's data.
        match: what groups have in common: about the same `rows`, or clients of one `speed` each:
            the fastest get the largest candidate, which shortens a round.
        first: round budget of the first generation.
        last: round budget that the growth reaches.
        growth: how the budget grows with the generation.
        generations: over how many generations it grows from `first` to `last`.
        checkpoint: rounds between two droppings; 0 drops once, before any training, where no group
            has pulled its candidate towards its own data yet. Needs `inherit`.
        drop: `half`, `fraction`, `margin` (paired difference beyond `z` standard errors), `none`.
        fraction: share of the survivors dropped by `fraction`.
        z: standard errors of `margin`.
        drift: how far short scores lead astray, in units of the loss: `margin` widens its standard
            errors by it. 0 counts the validators' noise alone, and states no risk.
        settled: end a generation once the order of its leading half has been the same at so many
            checkpoints in a row; 0 never does.
        screen: score candidates before any training, and train the best so many; 1 is scoring
            without training, 0 trains all. Needs `inherit`.
        by: what ranks: validation `loss`, or the search's own `score`.
        freed: what a dropped candidate's clients do: `idle` saves cost, `join` the survivors
            saves time.
        scorers: `common` clients score every survivor; `trainers` score what they download for the
            next round anyway, which saves the download and confounds a candidate with its group.
        validators: common clients that score; 0 takes all. More do where the drawn ones hold too
            few classes for the metric.
        rows: validation rows on which each scores at most; 0 takes all.
        inherit: start candidates from their parent's weights, sliced, where the proposal has one.
        warm: rounds, on all clients, of a first network that has nothing to inherit; 0 races it.

    References:
        Xu et al. 2020, arXiv:2002.06352; Jamieson and Talwalkar 2016, arXiv:1502.07943 (halving).
    """

    kind: Literal["race"] = "race"
    candidates: int = 5
    groups: int = 0
    group: int = 0
    sample: int = 0
    rotate: bool = False
    match: Literal["rows", "speed"] = "rows"
    first: int = 2
    last: int = 6
    growth: Literal["constant", "linear", "geometric"] = "linear"
    generations: int = 6
    checkpoint: int = 1
    drop: Literal["half", "fraction", "margin", "none"] = "half"
    fraction: float = 0.25
    z: float = 2.0
    drift: float = 0.0
    settled: int = 0
    screen: int = 0
    by: Literal["loss", "score"] = "loss"
    freed: Literal["idle", "join"] = "idle"
    scorers: Literal["common", "trainers"] = "common"
    validators: int = 0
    rows: int = 0
    inherit: bool = False
    warm: int = 0

    def __post_init__(self) -> None:
        at_least("estimator.candidates", self.candidates, 1, high=100_000)
        at_least("estimator.groups", self.groups, 0, fix="0 is one for each candidate")
        at_least("estimator.group", self.group, 0, fix="0 shares all clients out")
        at_least("estimator.sample", self.sample, 0, fix="0 follows the run's cohort")
        at_least("estimator.first", self.first, 1)
        at_least("estimator.generations", self.generations, 1, high=100_000)
        at_least("estimator.checkpoint", self.checkpoint, 0, fix="0 drops once, before training")
        between("estimator.fraction", self.fraction, 0, 1, open_low=True, open_high=True)
        at_least("estimator.z", self.z, 0)
        at_least("estimator.drift", self.drift, 0, fix="0 counts the validators' noise alone")
        at_least("estimator.settled", self.settled, 0, fix="0 never ends early")
        at_least("estimator.screen", self.screen, 0, fix="0 trains every candidate")
        at_least("estimator.validators", self.validators, 0, fix="0 takes all clients")
        at_least("estimator.rows", self.rows, 0, fix="0 takes all rows")
        at_least(
            "estimator.warm",
            self.warm,
            0,
            high=1_000_000,
            fix="0 races the first network like any other",
        )
        at_least(
            "estimator.last",
            self.last,
            self.first,
            high=1_000_000,
            fix="the budget grows from first to last",
        )
        moves = self.rotate or self.groups
        if moves and (self.freed == "join" or self.match == "speed"):
            raise IncompatibleParts(
                "candidates that change groups cannot keep clients of their own",
                got="freed = 'join'" if self.freed == "join" else "match = 'speed'",
                where="estimator.rotate" if self.rotate else "estimator.groups",
                fix="leave freed = 'idle' and match = 'rows', or let candidates stay",
            )
        if self.scorers == "trainers" and (moves or self.freed == "join"):
            raise IncompatibleParts(
                "trainers score what they train next, so they must stay with their candidate",
                got="trainers",
                where="estimator.scorers",
                fix='set scorers = "common", or rotate = false, groups = 0 and freed = "idle"',
            )
        if self.scorers == "trainers" and self.drop == "margin":
            raise IncompatibleParts(
                "a paired difference needs clients that score both",
                got="trainers",
                where="estimator.scorers",
                fix='set scorers = "common", or drop = "half"',
            )
        if (self.screen or not self.checkpoint) and not self.inherit:
            raise IncompatibleParts(
                "scoring before training needs weights to inherit",
                got=self.screen or self.checkpoint,
                where="estimator.screen" if self.screen else "estimator.checkpoint",
                fix="set inherit = true, with a strategy that names parents",
            )
        if self.screen and not self.checkpoint:
            raise IncompatibleParts(
                "two rules for the one dropping before training",
                got=self.screen,
                where="estimator.screen",
                fix="leave screen = 0 and let drop decide how many go on, or raise checkpoint",
            )

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        at_once = min(self.groups or self.candidates, self.candidates)
        if at_once > clients:
            raise IncompatibleParts(
                "more candidates than clients: a group would be empty",
                got=(at_once, clients),
                where="estimator.candidates",
                fix=f"lower candidates to {clients}, split the data over more clients, "
                f"or set groups = {clients} to let candidates take turns",
            )
        if self.group * at_once > clients:
            raise IncompatibleParts(
                "the groups need more clients than there are",
                got=(at_once, self.group, clients),
                where="estimator.group",
                fix=f"lower group to {clients // at_once}, or 0 to share all clients out",
            )
        return self.candidates

    def smallest(self, clients: int) -> int:
        """Return how many clients the smallest group of a generation has."""
        return self.group or clients // min(self.groups or self.candidates, self.candidates)

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

    def risk(self, rivals: int, validators: int, *, generation: int = 0) -> float | None:
        """Return a bound on the probability that a generation drops its best candidate.

        None where there is none: for a rule that drops whatever the difference, and for a `margin`
        without `drift`, which knows the validators' noise but not what a short score is worth.

        Args:
            rivals: candidates beside the best.
            validators: clients that score.
            generation: whose round budget counts.

        Example:
            >>> sure = Race(drop="margin", drift=0.06, checkpoint=0, inherit=True)
            >>> round(sure.risk(3, validators=8), 3)
            0.128
            >>> Race(drop="half").risk(3, validators=8) is None
            True
        """
        if self.screen or self.settled:
            return None
        # Who ends a generation is not dropped: the last round's scores only rank.
        droppings = (self.budget(generation) - 1) // self.checkpoint if self.checkpoint else 1
        if self.drop == "none" or not droppings or rivals < 1:
            return 0.0
        if self.drop != "margin" or not self.drift:
            return None
        return bound(self.z, rivals, droppings, validators)

    def start(
        self, proposals: Sequence[Proposal], index: int, context: EvaluationContext
    ) -> Generation:
        """Draw the groups; start every branch from scratch, or from its parent's weights."""
        warm = self._warm(proposals)
        drawn = self._groups(proposals, index, context)
        rounds = self.warm if warm else self.budget(self._later(index))
        return begin(
            proposals,
            index,
            context,
            cohorts=[
                context.clients if warm else drawn[index % len(drawn)]
                for index in range(len(proposals))
            ],
            rounds=[share(rounds, p.fidelity) for p in proposals],
            validators=self.validators,
            inherit=self.inherit,
        )

    def forecast(
        self,
        proposals: Sequence[Proposal],
        networks: Sequence[Graph],
        index: int,
        outlook: Outlook,
    ) -> Forecast:
        """Return the generation's rounds as long as nobody is behind beyond doubt: at most.

        How many a `margin` drops, and when an order is settled, the data say: none is counted.
        Groups count as equal, each of the smallest's size.
        """
        judges, width = outlook.judges(self.validators), len(proposals)
        if self._warm(proposals):
            fits = self.warm * outlook.replies(outlook.clients, 0)
            return outlook.work(networks, rounds=self.warm, fits=fits, evaluations=judges, risk=0.0)
        turn = self._later(index)
        budget = max(share(self.budget(turn), proposal.fidelity) for proposal in proposals)
        at_once = min(self.groups or width, width)
        visits = outlook.replies(self.group or outlook.clients // at_once, self.sample)
        risk = self.risk(width - 1, judges, generation=turn)
        live, rounds, fits, checks = width, 0, 0, 0
        if width > 1 and (self.screen or not self.checkpoint):
            checks += width * judges
            live = min(width, self.screen) if self.screen else self._kept(width)
            if live == 1:
                return outlook.work(networks, rounds=1, evaluations=checks, risk=risk)
        for done in range(1, budget + 1):
            rounds += ceil(live / at_once)
            fits += live * visits
            if done == budget or (self.checkpoint and done % self.checkpoint == 0):
                checks += live * judges
                before, live = live, self._kept(live)
                if live == 1 < before:
                    break
        return outlook.work(networks, rounds=rounds, fits=fits, evaluations=checks, risk=risk)

    def run(self, generation: Generation, context: EvaluationContext) -> Iterator[Step]:
        """Yield after every round until the race is over."""
        warm = self._warm(generation.proposals)
        federation = context.federation
        if self.sample and not warm:
            within = replace(federation.cohort, clients=self.sample, fraction=1.0, minimum=1)
            federation = replace(federation, cohort=within)
        drawn = self._groups(generation.proposals, generation.index, context)
        moves = (self.rotate or 0 < self.groups < len(generation.proposals)) and not warm
        before = self.screen or (not self.checkpoint and len(generation.branches) > 1)
        if before and not warm and not any(branch.history for branch in generation.branches):
            generation, scores = self._judged(generation, context, federation)
            if not any(branch.alive for branch in generation.branches):
                generation = replace(generation, outcomes=outcomes(generation))
            yield settle(generation, Round(branches=(), rows=(), losses={}, incidents=()), scores)
        while not generation.outcomes:
            live = [branch for branch in generation.branches if branch.alive]
            # Between two checkpoints, waves take turns: those behind go first.
            behind = min(branch.round for branch in live)
            wave = [branch for branch in live if branch.round == behind]
            if moves:
                wave = _placed(wave[: len(drawn)], drawn, behind if self.rotate else 0)
            done = step(federation, wave, phase=context.phase)
            aged = {branch.number: branch for branch in done.branches}
            generation = replace(
                generation, branches=tuple(aged.get(b.number, b) for b in generation.branches)
            )
            generation, scores = self._checked(generation, context, federation, warm=warm)
            if not any(branch.alive for branch in generation.branches):
                generation = replace(generation, outcomes=outcomes(generation))
            yield settle(generation, done, scores)

    def _later(self, index: int) -> int:
        """Return which generation's budget counts: they grow from the one after a warm start on."""
        return max(0, index - bool(self.warm and self.inherit))

    def _kept(self, live: int) -> int:
        """Return how many of `live` candidates the rule keeps at a checkpoint, at most."""
        part = {"half": 0.5, "fraction": self.fraction}.get(self.drop)
        return live if part is None else max(1, int((1 - part) * live))

    def _warm(self, proposals: Sequence[Proposal]) -> bool:
        alone = len(proposals) == 1 and proposals[0].parent is None
        return bool(self.warm) and self.inherit and alone

    def _groups(
        self, proposals: Sequence[Proposal], index: int, context: EvaluationContext
    ) -> list[tuple[int, ...]]:
        """Return the generation's groups: a pure function of its number and proposals."""
        seed = context.federation.seed.child(context.phase, "groups", index)
        count = min(self.groups or len(proposals), len(proposals))
        if self.match == "rows":
            return groups(context.clients, context.federation.train_rows, count, self.group, seed)
        speeds = context.federation.seed.child("speed")
        pace = {c: context.federation.cohort.pace(c, speeds) for c in context.clients}
        fastest = speed_groups(pace, count, self.group, seed)
        macs = [context.graph(proposal.arch).macs for proposal in proposals]
        order = sorted(range(count), key=lambda index: (-macs[index], index))
        return [group for _, group in sorted(zip(order, fastest, strict=True))]

    def _checked(
        self,
        generation: Generation,
        context: EvaluationContext,
        federation: Federation,
        *,
        warm: bool,
    ) -> tuple[Generation, Scores | None]:
        live = [branch for branch in generation.branches if branch.alive]
        if len({branch.round for branch in live}) != 1:
            return generation, None
        due = not warm and self.checkpoint and live[0].round % self.checkpoint == 0
        if not due and not any(branch.round >= branch.rounds for branch in live):
            return generation, None
        return self._judged(generation, context, federation)

    def _judged(
        self, generation: Generation, context: EvaluationContext, federation: Federation
    ) -> tuple[Generation, Scores]:
        if self.scorers == "common":
            generation, scores = judge(generation, context, most=self.rows)
            return self.raced(generation, scores), scores
        live = [branch for branch in generation.branches if branch.alive]
        asked = {b.number: selected(federation, b, context.phase) for b in live}
        scores = evaluate(federation, live, asked, phase=context.phase, most=self.rows)
        # Trainers are drawn for training: where all of a branch's have one class, others score it.
        task, found = federation.task, scores.vectors
        covers = {n: task.cover(task.truth(scores.total(n))) for n in found if found[n]}
        lost = [b for b in live if b.number in covers and not covers[b.number].defined]
        more = (
            evaluate(federation, lost, generation.validators, phase=context.phase) if lost else None
        )
        whole = scores if more is None else joined(scores, more)
        generation, _ = judge(generation, context, scores=whole)
        generation = self.raced(generation, whole)
        generation, told = _not_twice(generation, scores, federation.cohort.bandwidth)
        return generation, told if more is None else joined(told, more)

    def raced(self, generation: Generation, scores: Scores) -> Generation:
        """Return a generation just scored, after the rule: who ends, drops or goes on."""
        ended = tuple(
            b.end("done") if b.alive and b.round >= b.rounds else b for b in generation.branches
        )
        live = [branch for branch in ended if branch.alive]
        losers = self._losers(live, scores)
        kept = [branch for branch in live if branch.number not in losers]
        freed = tuple(c for b in live if b.number in losers for c in b.cohort)
        out: list[Branch] = []
        for branch in ended:
            after = branch
            if branch.number in losers:
                reason = f"dropped at round {branch.round}: {self._rule(live)}"
                after = branch.end("dropped", reason)
            elif branch.alive and len(kept) == 1 and len(live) > 1:
                # The ranking is settled: one survivor needs no further round to win.
                after = branch.end("done", f"won at round {branch.round}")
            elif branch.alive and self.freed == "join" and freed:
                share = freed[kept.index(branch) :: len(kept)]
                after = replace(branch, cohort=tuple(sorted((*branch.cohort, *share))))
            out.append(after)
        return replace(generation, branches=tuple(out))

    def _rule(self, live: Sequence[Branch]) -> str:
        if live[0].round == 0 and self.screen:
            return "screened"
        return "settled" if self._settled(live) else self.drop

    def _losers(self, live: Sequence[Branch], scores: Scores) -> frozenset[int]:
        if len(live) < 2:
            return frozenset()
        ranked = sorted(live, key=lambda b: (self._badness(b), b.number))
        if live[0].round == 0 and self.screen:
            return frozenset(branch.number for branch in ranked[self.screen :])
        if live[0].round and not self.checkpoint:
            return frozenset()
        if self._settled(live):
            return frozenset(branch.number for branch in ranked[1:])
        if self.drop == "none":
            return frozenset()
        if self.drop == "margin":
            best = scores.vectors[ranked[0].number]
            return frozenset(
                b.number
                for b in ranked[1:]
                if behind(best, scores.vectors[b.number], self.drift) > self.z
            )
        return frozenset(branch.number for branch in ranked[self._kept(len(ranked)) :])

    def _settled(self, live: Sequence[Branch]) -> bool:
        """Whether the leading half has kept its order over the last `settled` checkpoints."""
        if not self.settled or any(len(branch.history) < self.settled for branch in live):
            return False
        lead = max(2, ceil(len(live) / 2))
        orders = {
            tuple(b.number for b in sorted(live, key=lambda b: (self._badness(b, back), b.number)))[
                :lead
            ]
            for back in range(1, self.settled + 1)
        }
        return len(orders) == 1

    def _badness(self, branch: Branch, back: int = 1) -> float:
        _, loss, score = branch.history[-back]
        return loss if self.by == "loss" else -score


def _placed(wave: Sequence[Branch], drawn: Sequence[tuple[int, ...]], turn: int) -> list[Branch]:
    """Return the branches of a wave, each on a group of its own: a Latin square over the turns."""
    return [
        replace(branch, cohort=drawn[(index + turn) % len(drawn)])
        for index, branch in enumerate(wave)
    ]


def _not_twice(
    generation: Generation, scores: Scores, bandwidth: float
) -> tuple[Generation, Scores]:
    """Take back the downloads of those that go on: the next round's fit counts the same bytes."""
    alive = {branch.number for branch in generation.branches if branch.alive}
    saved = dict.fromkeys(alive, 0)
    rows: list[MeterRow] = []
    for row in scores.rows:
        if row.branch not in alive:
            rows.append(row)
            continue
        saved[row.branch] += row.bytes_down
        seconds = row.virtual_seconds - row.bytes_down / bandwidth
        rows.append(replace(row, bytes_down=0, virtual_seconds=seconds, note="before training"))
    branches: list[Branch] = []
    for branch in generation.branches:
        less = saved.get(branch.number, 0)
        spent = {
            **branch.spent,
            "bytes_down": branch.spent.get("bytes_down", 0.0) - less,
            "virtual_seconds": branch.spent.get("virtual_seconds", 0.0) - less / bandwidth,
        }
        branches.append(replace(branch, spent=spent) if less else branch)
    return replace(generation, branches=tuple(branches)), replace(scores, rows=tuple(rows))


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


def speed_groups(
    pace: Mapping[int, float], count: int, size: int, seed: Seed
) -> list[tuple[int, ...]]:
    """Return `count` disjoint groups of clients of like speed, the fastest group first.

    Args:
        pace: speed of each client that may be dealt out.
        count: how many groups.
        size: clients in each; 0 deals all out.
        seed: stream of this generation.
    """
    ranked = sorted(pace, key=lambda client: (-pace[client], client))
    if size:
        keep = np.sort(seed.numpy().permutation(len(ranked))[: size * count])
        ranked = [ranked[index] for index in keep]
    return [tuple(sorted(int(client) for client in part)) for part in np.array_split(ranked, count)]
