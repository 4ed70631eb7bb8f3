"""Policy gradient with one independent softmax a choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Literal

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.space.dims import Slot
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory

__all__ = ["Advantage", "Reinforce"]

TRIES = 200
"""Draws from the policy that may be known before a uniform one is taken."""

Logits = list[list[float]]


@dataclass(slots=True, kw_only=True)
class Advantage:
    """What a reward is worth: its distance from a moving average, in moving deviations.

    Changes in place. The average does not hold the reward that it is compared with.

    Attributes:
        decay: weight of the past.
        scaled: divide by the moving deviation, so that a step does not depend on the score's unit.
    """

    decay: float
    scaled: bool
    mean: float | None = None
    square: float = 0.0

    def of(self, reward: float) -> float:
        """Return the advantage of `reward`, then let it count."""
        if self.mean is None:
            self.mean = reward
            return 0.0
        away = reward - self.mean
        self.mean += (1 - self.decay) * away
        self.square = self.decay * self.square + (1 - self.decay) * away * away
        if not self.scaled:
            return away
        return away / sqrt(self.square) if self.square > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """Sample from a softmax for each choice; raise the logits of what scored above the average.

    Each outcome adds rate * advantage * grad log p to the logits, and rate * entropy * grad H: the
    entropy keeps the policy from collapsing. A failed candidate counts as the worst so far.

    Attributes:
        rate: step size. With a scaled advantage about 0.1; ten times that collapses.
        decay: of the moving average that rewards are compared with.
        scaled: measure advantages in moving deviations; else in the score's own unit.
        entropy: weight of the entropy of the policy.
        optimizer: `sgd`, or `adam` as in the published table scripts.

    References:
        Williams 1992, Machine Learning 8; Zoph and Le 2017, arXiv:1611.01578, equation 3.
    """

    kind: Literal["reinforce"] = "reinforce"
    rate: float = 0.1
    decay: float = 0.9
    scaled: bool = True
    entropy: float = 0.01
    optimizer: Literal["sgd", "adam"] = "sgd"

    def __post_init__(self) -> None:
        between("strategy.rate", self.rate, 0, 1000, open_low=True)
        between("strategy.decay", self.decay, 0, 1, open_high=True)
        at_least("strategy.entropy", self.entropy, 0)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` new points drawn from the policy."""
        before = state.asks
        for _ in range(n):
            arch = self._draw(state, allowed)
            if arch is None:
                arch = state.fresh(state.space.sample, allowed)
            if arch is None:
                break
            state = state.add(arch)
        return state, state.asked[before:]

    def policy(self, state: Memory) -> Logits:
        """Return the logits of every choice's options after what was told."""
        key = ("reinforce", self)
        learner = state.log.notes.get(key)
        if learner is None or learner.done > state.tells:
            learner = _Learner(self, state.space)
            if key not in state.log.notes:
                state.log.notes[key] = learner
        learner.catch_up(state)
        return learner.logits

    def _draw(self, state: Memory, allowed: Allowed | None) -> Arch | None:
        odds = {
            slot.name: probabilities(row)
            for slot, row in zip(state.space.slots, self.policy(state), strict=True)
        }
        rng = state.rng("policy")

        def fill(slot: Slot) -> str | int | float | bool:
            return rng.choices(slot.options, odds[slot.name])[0]

        for _ in range(TRIES):
            arch = state.space.fill({}, fill)
            if not state.seen(arch) and (allowed is None or allowed(arch)):
                return arch
        return None


class _Learner:
    """The policy after the first `done` outcomes. Changes in place."""

    def __init__(self, strategy: Reinforce, space: Space) -> None:
        self.strategy, self.done, self.worst = strategy, 0, float("inf")
        self.logits: Logits = [[0.0] * len(slot.options) for slot in space.slots]
        self.first: Logits = [[0.0] * len(slot.options) for slot in space.slots]
        self.second: Logits = [[0.0] * len(slot.options) for slot in space.slots]
        self.advantage = Advantage(decay=strategy.decay, scaled=strategy.scaled)

    def catch_up(self, state: Memory) -> None:
        """Take a step for every outcome since the last time."""
        while self.done < state.tells:
            outcome = state.log.told[self.done]
            self.done += 1
            if not outcome.scored or outcome.score == float("-inf"):
                reward = self.worst
            else:
                reward, self.worst = outcome.score, min(self.worst, outcome.score)
            if reward != float("inf"):
                self._step(state.log.places[outcome.number], self.advantage.of(reward))

    def _step(self, places: tuple[int, ...], advantage: float) -> None:
        for index, (row, place) in enumerate(zip(self.logits, places, strict=True)):
            if place >= 0:
                self._move(index, gradient(row, place, advantage, self.strategy.entropy))

    def _move(self, index: int, slopes: list[float]) -> None:
        row, rate = self.logits[index], self.strategy.rate
        if self.strategy.optimizer == "sgd":
            self.logits[index] = [a + rate * g for a, g in zip(row, slopes, strict=True)]
            return
        first, second, step = self.first[index], self.second[index], self.done
        for i, slope in enumerate(slopes):
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.999 * second[i] + 0.001 * slope * slope
            mean = first[i] / (1 - 0.9**step)
            row[i] += rate * mean / (sqrt(second[i] / (1 - 0.999**step)) + 1e-8)


def probabilities(row: Sequence[float]) -> list[float]:
    """Return the softmax of `row`."""
    top = max(row)
    weights = [exp(value - top) for value in row]
    total = sum(weights)
    return [weight / total for weight in weights]


def gradient(row: Sequence[float], place: int, advantage: float, entropy: float) -> list[float]:
    """Return the gradient of advantage * log p[place] + entropy * H(p) by the logits."""
    odds = probabilities(row)
    chaos = -sum(p * log(p) for p in odds if p > 0)
    return [
        advantage * ((i == place) - p) - entropy * p * (log(p) + chaos if p > 0 else 0.0)
        for i, p in enumerate(odds)
    ]
