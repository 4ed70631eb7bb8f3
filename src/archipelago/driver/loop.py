"""Loop one: ask, step, commit, tell.

A stage is one search: strategy, estimator and context. Its position is a frozen value that is
committed after every round, and handing it back in continues from there to the same bits. The
search itself, final training and every reference line are stages.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from archipelago.client.agreement import agreement_of
from archipelago.client.training import tuned
from archipelago.core.part_state import PartState, check_plain, check_vector
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome
from archipelago.driver.budget import Budget
from archipelago.driver.front import Kept, pareto
from archipelago.driver.live import Search
from archipelago.driver.record import Recorder
from archipelago.estimate.context import Estimator, EvaluationContext, Step
from archipelago.federation.branch import Generation
from archipelago.space.graph import Graph
from archipelago.space.space import Space
from archipelago.strategy.base import Memory, Strategy

__all__ = ["Champion", "Position", "Stage", "explore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The best outcome of a stage so far, with its trained weights.

    Attributes:
        outcome: what the estimator said.
        graph: its network.
        digest: where its weights lie in the journal.
        kept: where each client's own model (or part of one) lies, where training is personal.
    """

    outcome: Outcome
    graph: Graph
    digest: str
    kept: Mapping[int, str] = field(default_factory=dict[int, str])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {
            "outcome": self.outcome.to_json(),
            "graph": self.graph.to_json(),
            "digest": self.digest,
            "kept": {str(client): digest for client, digest in self.kept.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Champion":
        """Rebuild what `to_json` wrote."""
        return cls(
            outcome=Outcome.from_json(data["outcome"]),
            graph=Graph.from_json(data["graph"]),
            digest=data["digest"],
            kept={int(client): digest for client, digest in data["kept"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a stage stands.

    Attributes:
        strategy: the strategy's saved state; None before the first `ask`.
        learned: the tensors of its own state, where it keeps one.
        estimator: what the estimator keeps of its own; a generation under way has it instead.
        generation: the generation under way; None between two.
        index: of that generation, or of the next one; counts up from 0.
        trials: proposals scored.
        champion: the best so far.
        front: candidates that nobody beats in score and costs, where the stage keeps them.
    """

    strategy: Any = None
    generation: Generation | None = None
    index: int = 0
    trials: int = 0
    champion: Champion | None = None
    front: tuple[Kept, ...] = ()
    kept: tuple[Champion, ...] = ()
    learned: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    estimator: PartState | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensors."""
        record: dict[str, Any] = {
            "strategy": self.strategy,
            "heat": self.generation.to_json() if self.generation else None,
            "generation": self.index,
            "trials": self.trials,
            "champion": self.champion.to_json() if self.champion else None,
            "front": [kept.to_json() for kept in self.front],
            "kept": [champion.to_json() for champion in self.kept],
        }
        return {**record, "estimator": self.estimator.to_json()} if self.estimator else record

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the generation under way, and those that parts keep."""
        own = self.estimator.tensors if self.estimator else {}
        return {
            **(self.generation.tensors() if self.generation else {}),
            **{f"strategy/{name}": tensor for name, tensor in self.learned.items()},
            **{f"estimator/{name}": tensor for name, tensor in own.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Position":
        """Rebuild what `to_json` and `tensors` gave."""
        generation, champion, own = data["heat"], data["champion"], data.get("estimator")
        return cls(
            strategy=data["strategy"],
            generation=Generation.from_json(generation, tensors) if generation else None,
            index=data["generation"],
            trials=data["trials"],
            champion=Champion.from_json(champion) if champion else None,
            front=tuple(Kept.from_json(kept) for kept in data["front"]),
            kept=tuple(Champion.from_json(one) for one in data.get("kept", ())),
            learned=_under("strategy/", tensors),
            estimator=PartState.from_json(own, _under("estimator/", tensors)) if own else None,
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One search: who proposes, who scores, where.

    Attributes:
        name: also the phase under which the meter counts it.
        space: what is searched.
        strategy: proposes.
        estimator: scores.
        context: where candidates are compared.
        budget: when it ends.
        seed: the strategy's stream.
        allowed: hard constraints, checked before anything is trained.
        choice: whether the weights of the whole Pareto front are kept, not the best ones only.
        inherit: whether weights are kept for proposals that will name a parent.
    """

    name: str
    space: Space
    strategy: Strategy
    estimator: Estimator
    context: EvaluationContext
    budget: Budget
    seed: Seed
    allowed: Callable[[Arch], bool] | None = None
    choice: bool = False
    inherit: bool = False


def explore(
    stage: Stage,
    recorder: Recorder,
    position: Position,
    whole: Callable[[Position], Mapping[str, Any]],
) -> Iterator[tuple[Position, Step]]:
    """Run a stage from `position` to its end, yielding after every round, its commit handed over.

    Args:
        stage: what to run.
        recorder: writes the journal; nobody below does.
        position: where it stands; `Position()` starts afresh.
        whole: wraps a position in the run's whole state, as it is to be committed.

    Yields:
        The position after a round, and the step that led there. After the last round of a
        generation the position has none under way.
    """
    live = _search(stage, position)
    while True:
        if position.generation is None:
            cost = recorder.journal.cost(stage.name)
            room = stage.budget.left(position.trials, cost)
            asked = min(room, stage.estimator.width(len(stage.context.clients)))
            if not asked:
                return
            with recorder.clock.of("strategy"):
                proposals = live.ask(asked)
            if not proposals:
                return
            context = _with_parents(stage, position, recorder)
            generation = stage.estimator.start(proposals, position.index, context)
            position = replace(_saved(position, live), generation=generation, estimator=None)
        generation = position.generation
        assert generation is not None  # noqa: S101
        for step in stage.estimator.run(generation, stage.context):
            position = replace(position, generation=step.generation)
            if step.generation.outcomes:
                before = position
                ended, leaves = _stored(stage, recorder, step.generation)
                step = replace(step, generation=ended)  # noqa: PLW2901
                with recorder.clock.of("strategy"):
                    live.tell(ended.outcomes)
                position = _told(stage, recorder, _saved(position, live), live.state, ended)
                pins = _pins(stage, before, position) | leaves
                recorder.full(
                    "generation",
                    whole(position),
                    step=step,
                    phase=stage.name,
                    outcomes=ended.outcomes,
                    pins=pins,
                    tensors=position.tensors(),
                )
            else:
                recorder.round(step, stage.name, partial(_standing, whole, position))
            yield position, step


def _standing(
    whole: Callable[[Position], Mapping[str, Any]], position: Position
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    return whole(position), position.tensors()


def _search(stage: Stage, position: Position) -> Search:
    """Return the strategy's live search: it lasts as long as the stage runs in this process."""
    if position.strategy is None:
        return Search(stage.strategy, stage.space, stage.seed, allowed=stage.allowed)
    return Search.load(
        stage.strategy, stage.space, position.strategy, position.learned, allowed=stage.allowed
    )


def _saved(position: Position, live: Search) -> Position:
    return replace(position, strategy=live.save(), learned=live.tensors())


def _stored(
    stage: Stage, recorder: Recorder, generation: Generation
) -> tuple[Generation, dict[str, str | None]]:
    """Put the tensors among the outcomes' leaves into the journal; return the pins they need."""
    pins: dict[str, str | None] = {}

    def stored(number: int, name: str, leaf: Any) -> Any:
        where = f"leaf {name!r} of outcome {number}"
        if not isinstance(leaf, Tensor):
            check_plain(where, leaf)
            return leaf
        check_vector(where, leaf)
        digest = recorder.put(leaf)
        pins[f"leaf/{stage.name}/{number}/{name}"] = digest
        return {"digest": digest}

    outcomes = tuple(
        replace(o, leaves={name: stored(o.number, name, leaf) for name, leaf in o.leaves.items()})
        for o in generation.outcomes
    )
    return replace(generation, outcomes=outcomes), pins


def _told(
    stage: Stage, recorder: Recorder, position: Position, state: Memory, generation: Generation
) -> Position:
    champion, best = position.champion, None
    for outcome, branch in zip(generation.outcomes, generation.branches, strict=True):
        if _better(outcome, champion):
            champion, best = Champion(outcome=outcome, graph=branch.graph, digest=""), branch
    if champion is not None and best is not None:
        training = tuned(stage.context.federation.training, best.settings)
        own = best.kept if agreement_of(training, best.graph.layout).personal else {}
        champion = replace(
            champion,
            digest=recorder.put(best.flat),
            kept={client: recorder.put(tensor) for client, tensor in own.items()},
        )
    return replace(
        position,
        generation=None,
        estimator=generation.state,
        index=generation.index + 1,
        trials=position.trials + len(generation.outcomes),
        champion=champion,
        front=_front(recorder, position.front, generation) if stage.choice else (),
        kept=_kept(state, recorder, position, generation) if stage.inherit else (),
    )


def _front(
    recorder: Recorder, before: tuple[Kept, ...], generation: Generation
) -> tuple[Kept, ...]:
    known = {kept.outcome.number: kept for kept in before}
    flats = {branch.number: branch.flat for branch in generation.branches}
    rivals = (*(kept.outcome for kept in before), *generation.outcomes)
    return tuple(
        known.get(outcome.number)
        or Kept(outcome=outcome, digest=recorder.put(flats[outcome.number]))
        for outcome in pareto(rivals)
    )


def _pins(stage: Stage, before: Position, after: Position) -> dict[str, str | None]:
    """Return what is to be kept for good from now on, and what no longer."""
    pins: dict[str, str | None] = {f"front/{kept.outcome.number}": None for kept in before.front}
    pins |= {f"front/{kept.outcome.number}": kept.digest for kept in after.front}
    if after.champion:
        place = f"champion/{stage.name}"
        pins[place] = after.champion.digest
        pins |= {f"{place}/{c}": digest for c, digest in after.champion.kept.items()}
    pins |= dict.fromkeys(_pin(stage, one) for one in before.kept)
    return pins | {_pin(stage, one): one.digest for one in after.kept}


def _kept(
    state: Memory, recorder: Recorder, position: Position, generation: Generation
) -> tuple[Champion, ...]:
    """Return what the next proposals may inherit from: the rest is let go."""
    parents = {proposal.parent for proposal in state.asked}
    old = [one for one in position.kept if one.outcome.number in parents]
    new = [
        Champion(outcome=outcome, graph=branch.graph, digest=recorder.put(branch.flat))
        for outcome, branch in zip(generation.outcomes, generation.branches, strict=True)
        if outcome.status == "done"
    ]
    return tuple(sorted((*old, *new), key=lambda one: one.outcome.number))


def _with_parents(stage: Stage, position: Position, recorder: Recorder) -> EvaluationContext:
    context = replace(stage.context, state=position.estimator)
    if not position.kept:
        return context
    kept = {one.outcome.number: one for one in position.kept}

    def parent(number: int) -> tuple[Graph, Tensor] | None:
        one = kept.get(number)
        return (one.graph, recorder.get(one.digest)) if one else None

    return replace(context, parent=parent)


def _pin(stage: Stage, one: Champion) -> str:
    return f"kept/{stage.name}/{one.outcome.number}"


def _better(outcome: Outcome, champion: Champion | None) -> bool:
    # A dropped candidate lost to one that was not: its score is of an earlier round.
    if outcome.status != "done" or outcome.score == float("-inf"):
        return False
    if champion is None:
        return True
    # Scores of different fidelities do not compare: what was trained for longer goes first.
    best = champion.outcome
    return (outcome.fidelity, outcome.score) > (best.fidelity, best.score)
