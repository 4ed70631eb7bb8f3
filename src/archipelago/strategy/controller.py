"""Policy gradient with a recurrent controller. Loads torch when it first draws, not before."""

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from archipelago.core.checks import at_least, between
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.reinforce import Advantage

__all__ = ["Controller"]

TRIES = 50
"""Draws from the policy that may be known before a uniform one is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """An LSTM writes an architecture choice by choice; each outcome takes one Adam step.

    What it wrote last is its next input, so that later choices depend on earlier ones. Weights
    start uniform in [-0.08, 0.08]. The policy is a function of the outcomes in their order of
    arrival: a search learns from each once, and after a restart from all of them once more, which
    takes milliseconds each.

    Attributes:
        units: hidden size of the cell.
        rate: of Adam.
        decay: of the moving average that rewards are compared with.
        entropy: weight of the entropy of what was written; keeps the policy from collapsing.

    References:
        Zoph and Le 2017, arXiv:1611.01578, section 3; Pham et al. 2018, arXiv:1802.03268
        (entropy).
    """

    kind: Literal["controller"] = "controller"
    units: int = 35
    rate: float = 0.01
    decay: float = 0.9
    entropy: float = 0.01

    def __post_init__(self) -> None:
        at_least("strategy.units", self.units, 1)
        between("strategy.rate", self.rate, 0, 10, open_low=True)
        between("strategy.decay", self.decay, 0, 1, open_high=True)
        at_least("strategy.entropy", self.entropy, 0)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` new points that the controller writes."""
        before = state.asks
        for _ in range(n):
            rng = state.rng("controller")
            writer = self._writer(state)
            arch: Arch | None = None
            for _ in range(TRIES):
                draft = writer.write(rng)
                if not state.seen(draft) and (allowed is None or allowed(draft)):
                    arch = draft
                    break
            if arch is None:
                arch = state.fresh(state.space.sample, allowed)
            if arch is None:
                break
            state = state.add(arch)
        return state, state.asked[before:]

    def _writer(self, state: Memory) -> "_Writer":
        key = ("controller", self)
        writer = state.log.notes.get(key)
        if writer is None or writer.done > state.tells:
            writer = _Writer(self, state.space, state.seed)
            if key not in state.log.notes:
                state.log.notes[key] = writer
        writer.catch_up(state)
        return writer


class _Writer:
    """The controller after the first `done` outcomes. Changes in place."""

    def __init__(self, strategy: Controller, space: Space, seed: Seed) -> None:
        import torch

        self.torch = torch
        self.strategy, self.space, self.done, self.worst = strategy, space, 0, float("inf")
        self.advantage = Advantage(decay=strategy.decay, scaled=True)
        dice = torch.Generator().manual_seed(seed.child("controller").value() % 2**63)
        units = strategy.units
        # Row 0 of the inputs is the start; then one for every option of every choice.
        starts, total = [], 1
        for slot in space.slots:
            starts.append(total)
            total += len(slot.options)
        self.starts = starts
        shapes = [(total, units), (4 * units, 2 * units), (4 * units,), (total, units), (total,)]
        self.weights: list[Any] = [
            (torch.rand(shape, generator=dice) * 0.16 - 0.08).requires_grad_() for shape in shapes
        ]
        self.adam = torch.optim.Adam(self.weights, lr=strategy.rate)

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
                self._learn(state.log.places[outcome.number], self.advantage.of(reward))

    def write(self, rng: Random) -> Arch:
        """Draw one architecture."""
        torch, arch = self.torch, dict[str, Any]()
        with torch.no_grad():
            step = self._begin()
            for index, slot in enumerate(self.space.slots):
                if slot.conditions and not slot.present(arch):
                    continue
                step, scores = self._next(step, index)
                odds = torch.softmax(scores, 0).tolist()
                place = rng.choices(range(len(slot.options)), odds)[0]
                arch[slot.name] = slot.options[place]
                step = (*step[:2], self.starts[index] + place)
        return arch

    def _begin(self) -> tuple[Any, Any, int]:
        zeros = self.torch.zeros(self.strategy.units)
        return zeros, zeros, 0

    def _next(self, step: tuple[Any, Any, int], index: int) -> tuple[tuple[Any, Any, int], Any]:
        torch, (hidden, cell, token) = self.torch, step
        inputs, mix, bias, heads, offsets = self.weights
        gates = mix @ torch.cat((inputs[token], hidden)) + bias
        forget, enter, out, fresh = gates.chunk(4)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(fresh)
        hidden = torch.sigmoid(out) * torch.tanh(cell)
        first = self.starts[index]
        last = first + len(self.space.slots[index].options)
        return (hidden, cell, token), heads[first:last] @ hidden + offsets[first:last]

    def _learn(self, places: tuple[int, ...], advantage: float) -> None:
        torch, step = self.torch, self._begin()
        total: Any = 0.0
        for index, place in enumerate(places):
            if place < 0:
                continue
            step, scores = self._next(step, index)
            logs = torch.log_softmax(scores, 0)
            total = total - advantage * logs[place]
            total = total + self.strategy.entropy * (logs.exp() * logs).sum()
            step = (*step[:2], self.starts[index] + place)
        self.adam.zero_grad()
        total.backward()
        self.adam.step()
