"""Bayesian optimisation with a random forest. Loads scikit-learn when it first learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import (
    Numbers,
    inputs,
    propose,
    rank_normal,
    told,
)
from archipelago.strategy.gaussian_process import expected_improvement

__all__ = ["RandomForest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomForest:
    """Grow trees on resampled trials; propose by one draw from the forest, or by improvement.

    `thompson` follows the mean of a few trees, grown anew for each proposal: a random belief that
    is consistent with what was seen. `improvement` grows many, and takes mean and deviation over
    them.

    Attributes:
        choose: `thompson` or `improvement`.
        trees: grown for each proposal.
        startup: random proposals before the first forest.
        inputs: `views` of the space where it has any, or the `choices` themselves.
        features: share of the inputs that each split looks at.
        candidates: drawn for each proposal where the space is too large to be scored whole.

    References:
        Hutter, Hoos and Leyton-Brown 2011, SMAC, LION 5; Thompson 1933, Biometrika 25.
    """

    kind: Literal["random-forest"] = "random-forest"
    choose: Literal["thompson", "improvement"] = "thompson"
    trees: int = 3
    startup: int = 10
    inputs: Literal["views", "choices"] = "views"
    features: float = 0.5
    candidates: int = 500

    def __post_init__(self) -> None:
        at_least("strategy.trees", self.trees, 2 if self.choose == "improvement" else 1)
        at_least("strategy.startup", self.startup, 2)
        between("strategy.features", self.features, 0, 1, open_low=True)
        at_least("strategy.candidates", self.candidates, 2)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` points."""
        return propose(state, n, allowed, startup=self.startup, choose=self._choose)

    def _choose(self, state: Memory, rng: Random) -> tuple[Sequence[Arch], Numbers]:
        x, archs, candidates, free = inputs(
            state, rng, self.candidates, choices=self.inputs == "choices"
        )
        if not archs:
            return (), np.zeros(0)
        y = rank_normal(told(state)[1])
        dice = np.random.default_rng(rng.getrandbits(63))
        guesses = np.stack([self._tree(x, y, candidates, dice) for _ in range(self.trees)])
        mean = guesses.mean(axis=0)
        if self.choose == "improvement":
            value = expected_improvement(mean, guesses.std(axis=0) + 1e-3, float(y.max()))
        else:
            value = mean
        # Candidates in one leaf are equal: chance decides, not the order of enumeration.
        value = value + 1e-6 * dice.random(len(value))
        return archs, np.where(free, value, float("-inf"))

    def _tree(self, x: Numbers, y: Numbers, candidates: Numbers, dice: Any) -> Numbers:
        from sklearn.tree import DecisionTreeRegressor

        rows = dice.integers(0, len(y), len(y))
        tree: Any = DecisionTreeRegressor(
            max_features=self.features, random_state=int(dice.integers(2**31))
        )
        tree.fit(x[rows], y[rows], check_input=False)
        return tree.tree_.predict(candidates)[:, 0]
