"""Which searches make up a study. Each is a plan over the same two loops."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from archipelago.client.agreement import plain
from archipelago.config.run import Run
from archipelago.core.clock import Clock
from archipelago.core.errors import IncompatibleParts, RunFailed
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch
from archipelago.data.fleet import Population
from archipelago.data.presence import Presence
from archipelago.driver.budget import Budget
from archipelago.driver.loop import Champion, Position, Stage
from archipelago.driver.record import Recorder
from archipelago.estimate.context import EvaluationContext
from archipelago.estimate.rounds import Rounds
from archipelago.federation.buffer import Synchronous
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation
from archipelago.journal.journal import Journal
from archipelago.nn.custom import CustomNetwork
from archipelago.space.graph import Graph
from archipelago.space.joint import network as network_of
from archipelago.strategy.base import load
from archipelago.strategy.random import Random
from archipelago.study.running.fixed import Fixed
from archipelago.study.running.pooled import Pooled

__all__ = ["FINALISTS", "Line"]

OURS = ("search", "tune", "final")
"""Stages of the run itself, which a hand-made network's training may cost together."""

FINALISTS: Mapping[str, str] = {
    "final": "this search",
    "hand-made": "hand-made network",
    "random-final": "random search",
    "pooled": "same network, pooled data",
    "shared": "the shared model instead of each client's own",
}
"""What is tested, and what the report calls it: the champions of these stages, and, where clients
have models of their own, the one that they share."""

FRONT = "search/"
"""Before the place of a champion of a search that meets several budgets."""
_LONGEST = 5
"""Times the rounds of final training: a tiny network would else train for thousands."""
_MANY = 10
"""Random search may try so many times more candidates, where its client work allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Builds the stages of one run.

    Attributes:
        run: what the user asked for.
        shards: everybody's rows.
        engine: open on the workplace that `place(name)` names.
        journal: what earlier stages cost.
        clock: where time goes.
        presence: which classes the silos' splits hold; see `EvaluationContext`.
    """

    run: Run
    shards: Population
    engine: Any
    journal: Journal
    clock: Clock = field(default_factory=Clock)
    presence: Presence | None = None

    def names(self) -> Iterator[str]:
        """Yield the stages in order."""
        yield "search"
        if self.run.tune.afterwards:
            yield "tune"
        yield "final"
        if self.run.final.references:
            yield from ("hand-made", "random", "random-final", "pooled")

    def rows(self, name: str) -> Any:
        """Return the shards that a stage's workers see."""
        return Pooled(self.shards) if name == "pooled" else self.shards

    def stage(self, name: str, champions: Mapping[str, Champion]) -> Stage:
        """Return the stage, given the champions of those before it."""
        run = self.run
        match name:
            case "search":
                stage = self._stage(name, run.strategy, run.estimator, run.budget, searched=True)
                return replace(stage, choice=True)
            case "tune":
                return self._settled(name, _of(champions, "search"))
            case "random":
                # The lectures' own control: the same estimator, no memory, as much client work.
                budget = Budget(
                    trials=_MANY * run.budget.trials, macs=self._spent("search", "tune")
                )
                return self._stage(name, Random(), run.estimator, budget, searched=True)
            case "final" if any(name.startswith(FRONT) for name in champions):
                return self._front(name, champions)
            case "final":
                return self._trained(name, _of(champions, _chosen(champions)))
            case "random-final":
                return self._equal(name, _of(champions, "random"), before="random")
            case "pooled":
                return self._equal(name, _of(champions, _chosen(champions)))
            case _:
                return self._equal(name, self.baseline())

    def baseline(self) -> Graph:
        """Return the hand-made network for this kind of data."""
        signature = self.shards.signature
        return self.run.family.baseline(signature.shape, signature.outputs)

    def graph(self, arch: Arch) -> Graph:
        """Return the network of a point of the space."""
        signature = self.shards.signature
        graph = self.run.family.graph(arch, signature.shape, signature.outputs)
        if isinstance(graph, CustomNetwork):
            raise IncompatibleParts(
                "a study journals, draws and exports graphs: a torch network of one's own has none",
                got=graph.network,
                where="space",
                fix="return a Graph from the space, or search by hand as docs/in-python.md shows",
            )
        return graph

    def allowed(self, arch: Arch) -> bool:
        """Return whether the network meets every hard constraint."""
        costs = self.graph(arch).costs
        return all(limit.holds(costs) for limit in self.run.limits)

    def _stage(
        self, name: str, strategy: Any, estimator: Any, budget: Budget, *, searched: bool
    ) -> Stage:
        signature = self.shards.signature
        return Stage(
            name=name,
            space=self.run.family.space(signature.shape, signature.outputs),
            strategy=strategy,
            estimator=estimator,
            context=self._arena(name, self.graph),
            budget=budget,
            seed=self._seed().child(name, "strategy"),
            allowed=self.allowed if searched and self.run.constraints else None,
            inherit=bool(getattr(estimator, "inherit", False)),
        )

    def budgets(self, name: str, position: Position) -> dict[str, Champion]:
        """Return what a stage found for each budget, where its strategy meets several.

        The tightest budget's network also becomes the stage's own champion.
        """
        recorded = getattr(self.run.strategy, "recorded", None)
        if recorded is None or name not in ("search", "final") or not position.kept:
            return {}
        kept = {one.outcome.number: one for one in position.kept}
        space = self.run.family.space(self.shards.signature.shape, self.shards.signature.outputs)
        numbers = sorted(kept)
        if name == "search":
            numbers = recorded(load(space, position.strategy, position.learned))
        found = [kept[number] for number in numbers if number in kept]
        return {f"{name}/{i}": one for i, one in enumerate(found)} | {name: found[-1]}

    def _front(self, name: str, champions: Mapping[str, Champion]) -> Stage:
        """Return final training of every network of the front, from the weights it has."""
        front = [champions[key] for key in sorted(champions, key=_place) if key.startswith(FRONT)]
        final, recorder = self.run.final, Recorder(self.journal)
        plan = Rounds(
            rounds=final.rounds,
            candidates=len(front),
            every=final.every,
            patience=final.patience,
            inherit=True,
        )
        given = Fixed(tuple(one.outcome.arch for one in front), tuple(range(len(front))))
        stage = self._stage(name, given, plan, Budget(trials=len(front)), searched=False)

        def parent(number: int) -> tuple[Graph, Tensor]:
            return front[number].graph, recorder.get(front[number].digest)

        return replace(stage, context=replace(stage.context, parent=parent))

    def _settled(self, name: str, network: Champion) -> Stage:
        run = self.run
        budget = replace(run.budget, trials=run.tune.trials)
        stage = self._stage(name, run.strategy, run.estimator, budget, searched=False)
        context = self._arena(name, lambda _: network.graph)
        return replace(stage, space=run.tune.space(), context=context)

    def _trained(self, name: str, network: Champion | Graph) -> Stage:
        graph = network if isinstance(network, Graph) else network.graph
        arch = {} if isinstance(network, Graph) else network.outcome.arch
        final = self.run.final
        plan = Rounds(rounds=final.rounds, candidates=1, every=final.every, patience=final.patience)
        stage = self._stage(name, Fixed((arch,)), plan, Budget(trials=1), searched=False)
        if arch and not network_of(arch):  # settings that were tuned afterwards
            stage = replace(stage, space=self.run.tune.space())
        return replace(stage, context=self._arena(name, lambda _: graph))

    def _arena(self, name: str, graph: Callable[[Arch], Graph]) -> EvaluationContext:
        run, shards = self.run, self.shards
        pooled = name == "pooled"
        rows = shards.train_rows
        if pooled:
            rows = shards.home.train_rows.copy()
            rows[0] = rows.sum()
        return EvaluationContext(
            federation=Federation(
                engine=self.engine,
                clock=self.clock,
                task=shards.signature.task,
                train_rows=rows,
                validation_rows=shards.validation_rows,
                seed=self._seed(),
                training=plain(run.client) if pooled else run.client,
                augment=run.augment,
                cohort=Cohort() if pooled else run.cohort,
                topology=Synchronous() if pooled else run.topology,
                aggregator=run.aggregator,
                server=run.server,
                quiet=frozenset(shards.quiet("validation")),
            ),
            graph=graph,
            clients=(0,) if pooled else shards.training,
            scorers=shards.scoring,
            phase=name,
            presence=self.presence,
        )

    def _equal(self, name: str, network: Champion | Graph, before: str | None = None) -> Stage:
        """Return training that, with what `before` spent, costs clients what our run cost them."""
        stage = self._trained(name, network)
        graph = network if isinstance(network, Graph) else network.graph
        left = self._spent(*OURS) - (self._spent(before) if before else 0.0)
        clients = len(self.shards.training)
        replies = self.run.topology.replies(self.run.cohort, clients)
        # One place that holds all rows trains on all of them every round.
        share = 1.0 if name == "pooled" else replies / clients
        rounds = self._rounds_of(graph, left, share)
        return replace(stage, estimator=Rounds(rounds=rounds, candidates=1, every=_every(rounds)))

    def _spent(self, *phases: str) -> float:
        return sum(self.journal.cost(phase)["macs"] for phase in phases)

    def _rounds_of(self, graph: Graph, macs: float, share: float) -> int:
        """Return how many rounds on `share` of the train rows cost `macs`, within reason."""
        passes = 3 * self.run.client.epochs * float(self.shards.train_rows.sum()) * share
        scored = float(self.shards.validation_rows.sum())
        most = _LONGEST * self.run.final.rounds
        rounds = max(1, min(most, int(macs / graph.macs / passes)))
        while rounds > 1 and rounds * passes + _checks(rounds) * scored > macs / graph.macs:
            rounds -= 1
        return rounds

    def _seed(self) -> Seed:
        return Seed(self.run.seed)


def _place(name: str) -> tuple[str, int]:
    stage, _, index = name.partition("/")
    return stage, int(index or -1)


def _chosen(champions: Mapping[str, Champion]) -> str:
    """Return the stage whose champion is trained to the end."""
    # Where every tried setting failed, the client's own stay.
    return "tune" if "tune" in champions else "search"


def _every(rounds: int) -> int:
    return max(1, rounds // 6)


def _checks(rounds: int) -> int:
    return -(-rounds // _every(rounds))


def _of(champions: Mapping[str, Champion], name: str) -> Champion:
    if name not in champions:
        raise RunFailed(
            "no candidate finished: there is nothing to train",
            where=name,
            fix="`archipelago report DIR` says why each one failed; lower client.learning_rate",
        )
    return champions[name]
