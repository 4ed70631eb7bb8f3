"""BOHB: Hyperband whose new points come from a model of the good and of the bad ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Generator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.space.dims import Slot
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.halving import check_rungs, climb, standing, uniform
from archipelago.strategy.hyperband import brackets

__all__ = ["Bohb", "Kernels"]

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bohb:
    """Hyperband's brackets; new points maximise the ratio of two kernel densities.

    The densities, of the good and of the other points, are fitted to the highest fidelity that has
    enough outcomes for both to have more points than there are choices. Every third point stays
    random.

    Attributes:
        rungs: ascending fidelities, as shares of the estimator's full budget.
        reduction: of the candidates from rung to rung (eta in the paper).
        good: share of the points that count as good.
        samples: drawn from the good density for each new point.
        random: share of new points that ignore the model.
        widen: factor on the kernels' widths when drawing.
        narrowest: least width of a kernel.

    References:
        Falkner et al. 2018, arXiv:1807.01774, algorithm 2; its released code's settings.
    """

    kind: Literal["bohb"] = "bohb"
    rungs: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)
    reduction: float = 3.0
    good: float = 0.15
    samples: int = 64
    random: float = 1 / 3
    widen: float = 3.0
    narrowest: float = 1e-3

    def __post_init__(self) -> None:
        check_rungs(self.rungs)
        between("strategy.reduction", self.reduction, 1, 1000, open_low=True)
        between("strategy.good", self.good, 0, 1, open_low=True, open_high=True)
        at_least("strategy.samples", self.samples, 1)
        between("strategy.random", self.random, 0, 1)
        at_least("strategy.widen", self.widen, 0)
        between("strategy.narrowest", self.narrowest, 0, 0.5, open_low=True)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` promotions and new points."""
        cycle = brackets(len(self.rungs), self.reduction)
        model = self._model(state)

        def draw(now: Memory, allowed: Allowed | None) -> Arch | None:
            if model is None or now.rng("model").random() < self.random:
                return uniform(now, allowed)
            return self._best(model, now, allowed) or uniform(now, allowed)

        return climb(
            state,
            n,
            allowed,
            rungs=self.rungs,
            bracket=lambda index: cycle[index % len(cycle)],
            draw=draw,
        )

    def _model(self, state: Memory) -> tuple["Kernels", "Kernels"] | None:
        """Fit both densities, or return None while no fidelity has enough outcomes."""
        free = [index for index, slot in enumerate(state.space.slots) if len(slot.options) > 1]
        fewest = len(free) + 1
        for rung in reversed(self.rungs):
            told = [o for o in state.told if o.fidelity == rung and o.scored]
            # As in the released code, both sets hold more points than there are choices.
            if len(told) < 2 * fewest:
                continue
            ranked = sorted(told, key=standing, reverse=True)
            points = np.array([state.log.places[o.number] for o in ranked])
            good, slots = max(fewest, int(self.good * len(points))), state.space.slots
            return (
                Kernels.fit(slots, points[:good], self.narrowest),
                Kernels.fit(slots, points[good:], self.narrowest),
            )
        return None

    def _best(
        self, model: tuple["Kernels", "Kernels"], state: Memory, allowed: Allowed | None
    ) -> Arch | None:
        good, other = model
        rng = state.rng("samples")
        # Constraints and repetition may refuse many: up to ten times as many are looked at.
        archs: dict[tuple[int, ...], Arch] = {}
        for _ in range(10 * self.samples):
            arch = good.draw(state.space, rng, self.widen)
            if not state.seen(arch) and (allowed is None or allowed(arch)):
                archs.setdefault(state.space.places(arch), arch)
            if len(archs) >= self.samples:
                break
        if not archs:
            return None
        points = np.array(list(archs))
        ratio = good.log_density(points) - other.log_density(points)
        return archs[tuple(points[int(ratio.argmax())].tolist())]


@dataclass(frozen=True, slots=True)
class Kernels:
    """A product-kernel density over points of a space, shape `[points, choices]`.

    A choice has Aitchison and Aitken's kernel: its own option with `1 - width`, each other one with
    an equal share of the width. A range has a normal kernel over its places, scaled to [0, 1].

    Attributes:
        slots: of the space.
        points: places of the options; -1 where a choice is absent.
        widths: of each choice's kernel.
    """

    slots: Sequence[Slot]
    points: Numbers
    widths: Numbers

    @classmethod
    def fit(cls, slots: Sequence[Slot], points: Numbers, narrowest: float) -> "Kernels":
        """Choose widths by the normal reference rule: 1.06 sd n^(-1 / (4 + d)).

        References:
            Silverman 1986, section 4.3.2; as in the released code of BOHB.
        """
        sizes = np.array([len(slot.options) for slot in slots])
        scale = np.where([slot.ordered for slot in slots], np.maximum(sizes - 1, 1), 1)
        spread = points.std(axis=0) / scale
        widths = 1.06 * spread * len(points) ** (-1 / (4 + len(slots)))
        most = np.where([slot.ordered for slot in slots], 1.0, (sizes - 1) / sizes)
        return cls(slots, points, np.maximum(np.minimum(widths, most), narrowest))

    def log_density(self, points: Numbers) -> Numbers:
        """Return the logarithm of the density of `points`, shape `[queries, choices]`."""
        total = np.zeros((len(points), len(self.points)))
        for index, (slot, width) in enumerate(zip(self.slots, self.widths, strict=True)):
            ours, theirs = points[:, index, None], self.points[None, :, index]
            if slot.ordered:
                gap = (ours - theirs) / max(len(slot.options) - 1, 1) / width
                total += -0.5 * gap**2 - np.log(width)
            else:
                others = max(len(slot.options) - 1, 1)
                total += np.where(ours == theirs, np.log1p(-width), np.log(width / others))
        top = total.max(axis=1, keepdims=True)
        return top[:, 0] + np.log(np.exp(total - top).mean(axis=1))

    def draw(self, space: Space, rng: Generator, widen: float) -> Arch:
        """Draw a point: one of `points`, each choice moved with its kernel's width."""
        centre = self.points[rng.randrange(len(self.points))]
        vector: dict[str, Any] = {}
        for slot, place, width in zip(self.slots, centre.tolist(), self.widths, strict=True):
            wide, last = float(width) * widen, len(slot.options) - 1
            if place < 0:
                moved = rng.randint(0, last)
            elif slot.ordered:
                moved = min(max(round(rng.gauss(place, wide * max(last, 1))), 0), last)
            else:
                moved = rng.randint(0, last) if rng.random() < wide else place
            vector[slot.name] = slot.options[moved]
        return space.complete(vector, rng)
