"""Bayesian optimisation with an ensemble of small neural networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import Numbers, inputs, propose, rank_normal, told

__all__ = ["Bananas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bananas:
    """Train an ensemble of perceptrons on path counts; draw each candidate's score from it.

    Every candidate's score is drawn independently from a normal distribution with the ensemble's
    mean and deviation; the highest draw is proposed. The ensemble is trained anew after every
    `every` outcomes.

    Attributes:
        networks: in the ensemble.
        units: of each of two hidden layers.
        steps: of Adam, on all trials at once.
        rate: of Adam.
        decay: weight decay.
        every: outcomes between trainings.
        startup: random proposals before the first ensemble.
        inputs: `views` of the space where it has any, or the `choices` themselves.
        candidates: drawn for each proposal where the space is too large to be scored whole.

    References:
        White, Neiswanger and Savani 2021, arXiv:1910.11858, algorithm 1 (independent Thompson
        sampling, path encoding, ensemble of five).
    """

    kind: Literal["bananas"] = "bananas"
    networks: int = 5
    units: int = 32
    steps: int = 100
    rate: float = 0.01
    decay: float = 1e-3
    every: int = 10
    startup: int = 10
    inputs: Literal["views", "choices"] = "views"
    candidates: int = 500

    def __post_init__(self) -> None:
        at_least("strategy.networks", self.networks, 2)
        at_least("strategy.units", self.units, 1)
        at_least("strategy.steps", self.steps, 1)
        between("strategy.rate", self.rate, 0, 1, open_low=True)
        at_least("strategy.decay", self.decay, 0)
        at_least("strategy.every", self.every, 1)
        at_least("strategy.startup", self.startup, 2)
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
        scores = told(state)[1]
        learned = len(scores) - (len(scores) - self.startup) % self.every
        learned = len(scores) if learned < 2 else learned
        guesses = self._predict(state, x[:learned], scores[:learned], candidates)
        dice = np.random.default_rng(rng.getrandbits(63))
        drawn = guesses.mean(axis=0) + guesses.std(axis=0) * dice.standard_normal(len(archs))
        return archs, np.where(free, drawn, float("-inf"))

    def _predict(self, state: Memory, x: Numbers, scores: Numbers, candidates: Numbers) -> Numbers:
        """Return each network's prediction of the candidates, shape `[networks, candidates]`."""
        key = ("bananas", self)
        found = state.log.notes.get(key)
        if found is None or found[0] != len(scores):
            dice = state.seed.child("bananas", len(scores)).numpy()
            spread = x.std(axis=0)
            centre, scale = x.mean(axis=0), np.where(spread > 0, spread, np.float32(1))
            shape = (self.networks, x.shape[1], self.units)
            layers = _train(
                (x - centre) / scale, rank_normal(scores).astype(np.float32), shape, self, dice
            )
            found = (len(scores), layers, centre, scale, {})
            state.log.notes[key] = found
        _, layers, centre, scale, kept = found
        if id(candidates) not in kept:
            kept.clear()
            guesses = _forward(((candidates - centre) / scale)[None], layers)[-1][..., 0]
            kept[id(candidates)] = (candidates, guesses)
        return kept[id(candidates)][1]


def _train(
    x: Numbers, y: Numbers, shape: tuple[int, int, int], strategy: Bananas, dice: Any
) -> list[Numbers]:
    """Fit all networks at once by Adam on squared error; they differ in their first weights."""
    networks, width, units = shape
    sizes = ((width, units), (units, units), (units, 1))
    layers: list[Numbers] = []
    for inner, outer in sizes:
        drawn = dice.standard_normal((networks, inner, outer), np.float32)
        layers.append(drawn * np.float32(np.sqrt(2 / inner)))
        layers.append(np.zeros((networks, 1, outer), np.float32))
    first, second = [np.zeros_like(w) for w in layers], [np.zeros_like(w) for w in layers]
    for step in range(1, strategy.steps + 1):
        for i, slope in enumerate(_slopes(x[None], y, layers)):
            first[i] += 0.1 * (slope - first[i])
            second[i] += 0.001 * (slope * slope - second[i])
            move = first[i] / (1 - 0.9**step)
            move /= np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
            layers[i] -= strategy.rate * (move + strategy.decay * layers[i])
    return layers


def _forward(x: Numbers, layers: Sequence[Numbers]) -> list[Numbers]:
    """Return the inputs of every layer and the output, shapes `[networks, rows, units]`."""
    kept = [x]
    for i in range(0, len(layers), 2):
        x = x @ layers[i] + layers[i + 1]
        if i + 2 < len(layers):
            x = np.maximum(x, 0)
        kept.append(x)
    return kept


def _slopes(x: Numbers, y: Numbers, layers: Sequence[Numbers]) -> list[Numbers]:
    kept = _forward(x, layers)
    flow = 2 * (kept[-1] - y[None, :, None]) / len(y)
    slopes: list[Numbers] = []
    for i in range(len(layers) - 2, -1, -2):
        below = kept[i // 2]
        slopes += [flow.sum(axis=1, keepdims=True), below.swapaxes(1, 2) @ flow]
        if i:
            flow = (flow @ layers[i].swapaxes(1, 2)) * (below > 0)
    return slopes[::-1]
