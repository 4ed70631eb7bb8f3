"""Progressive shrinking: from a trained network down to a budget, one layer's filters at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from archipelago.core.checks import between, one_of
from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.core.trial import Arch, Outcome, Proposal, Value
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory

__all__ = ["ProgressiveShrinking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressiveShrinking:
    """One candidate a layer, each meeting the same budget; the best goes on to the next step.

    The first proposal is the whole network, to be trained from scratch. Then every iteration asks
    for one candidate a group of layers: the network of the last iteration with the most filters in
    that group whose cost meets the iteration's limit. Each names its parent, from which the
    estimator slices its weights. The limits fall from the whole network's cost by
    `step * decay^i` of it, down to `until`; they do not depend on who wins, so that the networks
    of two searches can be compared at equal budgets.

    Where no single group can meet a limit, the one candidate takes from all groups alike.

    Attributes:
        resource: the cost that is limited: `macs`, `params`, `bytes_per_round`, or `latency_ms`
            where the space has a device.
        step: share of the whole network's cost that the first iteration removes.
        decay: by which the step shrinks from iteration to iteration.
        until: the last limit, as a share of the whole network's cost.
        by: what decides who goes on: validation `loss`, which ranks short training better, or the
            search's own `score`.
        pick: `best` asks for all candidates; `random` for one of them, drawn: the control.

    References:
        Xu et al. 2020, arXiv:2002.06352 (FedNAS); Yang et al. 2018, arXiv:1804.03230, algorithm 1
        (NetAdapt).
    """

    kind: Literal["progressive-shrinking"] = "progressive-shrinking"
    resource: str = "macs"
    step: float = 0.1
    decay: float = 1.0
    until: float = 0.5
    by: Literal["loss", "score"] = "loss"
    pick: Literal["best", "random"] = "best"

    inherits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        between("strategy.step", self.step, 0, 1, open_low=True, open_high=True)
        between("strategy.decay", self.decay, 0, 1, open_low=True)
        between("strategy.until", self.until, 0, 1, open_low=True, open_high=True)
        if self.decay < 1 and self.step / (1 - self.decay) < 1 - self.until:
            raise ConfigError(
                "steps that shrink so fast never reach the budget",
                got=(self.step, self.decay, self.until),
                where="strategy.decay",
                fix=f"raise step to {(1 - self.until) * (1 - self.decay):.3g}, or decay",
            )

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return the whole network, then each iteration's candidates; none once the budget is met.

        With fewer than the candidates asked for, the groups take turns from iteration to iteration.

        Raises:
            IncompatibleParts: the space is not one of widths, or does not know this cost.
            ConfigError: the budget is below what the narrowest network costs.
        """
        before = len(state.asked)
        if not before:
            self._check(state.space)
            if n:
                state = state.add(_whole(state.space))
            return state, state.asked[before:]
        winner = self._winner(state)
        if winner is None or not n:
            return state, ()
        limit = self._limit(state.space, winner.arch)
        if limit is None:
            return state, ()
        found = list(self._candidates(state.space, winner.arch, limit))
        if allowed is not None:
            found = [arch for arch in found if allowed(arch)]
        if self.pick == "random" and found:
            found = [state.rng("pick").choice(found)]
        turn = (len(self.recorded(state)) - 1) * n if len(found) > n else 0
        for index in range(min(n, len(found))):
            state = state.add(found[(turn + index) % len(found)], winner.number)
        return state, state.asked[before:]

    def _check(self, space: Space) -> None:
        if space.costs is None or any(slot.conditions for slot in space.slots):
            raise IncompatibleParts(
                "progressive shrinking needs a space of widths, whose costs are known",
                where="strategy.kind",
                fix='set space.kind = "widths"',
            )
        whole = space.costs(_whole(space))
        if self.resource == "latency_ms" and self.resource not in whole:
            raise IncompatibleParts(
                "a latency budget needs a device",
                got=self.resource,
                where="strategy.resource",
                fix='set space.device = "phone", or a JSON file of your device\'s numbers',
            )
        one_of("strategy.resource", self.resource, whole)
        smallest = space.costs({slot.name: slot.options[0] for slot in space.slots})
        share = smallest[self.resource] / whole[self.resource]
        if share > self.until:
            raise ConfigError(
                "the budget is below the smallest network that can be reached",
                got=self.until,
                where="strategy.until",
                fix=f"raise until to {share:.3f} or more, or lower space.least",
            )

    def recorded(self, state: Memory) -> tuple[int, ...]:
        """Return the number of each iteration's winner so far, the whole network's first.

        They are the front: one network for each limit.
        """
        parents = sorted({p.parent for p in state.asked if p.parent is not None})
        last = self._winner(state)
        if last is not None and last.number not in parents:
            parents.append(last.number)
        return tuple(parents)

    def _winner(self, state: Memory) -> Outcome | None:
        """Return the best of the last iteration; None while one of its outcomes is missing."""
        told = {outcome.number: outcome for outcome in state.told}
        latest = [p.number for p in state.asked if p.parent == state.asked[-1].parent]
        if any(number not in told for number in latest):
            return None
        # A dropped candidate lost to one that was not.
        order = {"done": 0, "dropped": 1}
        rest = [told[number] for number in latest if told[number].status in order]
        return min(rest, key=lambda o: (order[o.status], self._badness(o), o.number), default=None)

    def _badness(self, outcome: Outcome) -> float:
        if self.by == "loss" and "loss" in outcome.metrics:
            return outcome.metrics["loss"]
        return -outcome.score

    def _limit(self, space: Space, arch: Arch) -> float | None:
        """Return the first of the falling limits that `arch` does not meet yet."""
        whole, now = self._cost(space, _whole(space)), self._cost(space, arch)
        last, taken = self.until * whole, self.step
        limit = whole
        if now <= last:
            return None
        while now <= limit:
            limit = max(last, limit - taken * whole)
            taken *= self.decay
        return limit

    def _candidates(self, space: Space, arch: Arch, limit: float) -> Iterator[Arch]:
        some = False
        for slot in space.slots:
            options = slot.options[: slot.options.index(arch[slot.name])]
            # The cost rises with the filters: halve the interval in which it passes the limit.
            low, high = 0, len(options)
            while low < high:
                middle = (low + high) // 2
                if self._cost(space, {**arch, slot.name: options[middle]}) <= limit:
                    low = middle + 1
                else:
                    high = middle
            if low:
                some = True
                yield {**arch, slot.name: options[low - 1]}
        if not some:
            yield self._alike(space, arch, limit)

    def _alike(self, space: Space, arch: Arch, limit: float) -> Arch:
        """Return `arch` with as little as is needed taken from every group alike."""
        for percent in range(99, -1, -1):
            less = {
                slot.name: _share(slot.options, arch[slot.name], percent) for slot in space.slots
            }
            if self._cost(space, less) <= limit:
                return less
        raise AssertionError("the first ask checked that the narrowest network meets every limit")

    def _cost(self, space: Space, arch: Mapping[str, Value]) -> float:
        assert space.costs is not None  # noqa: S101 - checked by the first ask
        return space.costs(arch)[self.resource]


def _whole(space: Space) -> dict[str, Value]:
    return {slot.name: slot.options[-1] for slot in space.slots}


def _share(options: tuple[Value, ...], now: Value, percent: int) -> Value:
    return options[options.index(now) * percent // 100]
