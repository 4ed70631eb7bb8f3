"""A strategy's search, live: whoever drives it asks for proposals and tells what became of them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory, Strategy, load, save

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Search"]


class Search:
    """Ask, score, tell, again. Changes in place; what it has learned stays in memory.

    Attributes:
        strategy: proposes.
        allowed: hard constraints, checked before anything is proposed.
        state: everything asked and told so far, as a value: an older one stays as it was.

    Example:
        >>> from archipelago import Choice, Random, Space
        >>> search = Search(Random(), Space({"width": Choice((8, 16, 32))}), Seed(0))
        >>> for proposal in search.ask(2):
        ...     score = -float(proposal.arch["width"])
        ...     search.tell(Outcome(number=proposal.number, arch=proposal.arch, score=score))
        >>> [outcome.number for outcome in search.state.told]
        [0, 1]
    """

    def __init__(
        self, strategy: Strategy, space: Space, seed: Seed | int, *, allowed: Allowed | None = None
    ) -> None:
        self.strategy, self.allowed = strategy, allowed
        root = seed if isinstance(seed, Seed) else Seed(seed)
        self.state = Memory(space=space, seed=root)

    def ask(self, n: int = 1) -> tuple[Proposal, ...]:
        """Return up to `n` new proposals; fewer or none when nothing new can be found.

        Raises:
            ConfigError: the strategy does not fit the space, or cannot read an outcome.
        """
        at_least("n", n, 0)
        self.state, proposals = self.strategy.ask(self.state, n, self.allowed)
        return proposals

    def tell(self, outcomes: Outcome | Iterable[Outcome]) -> None:
        """Take outcomes: late, in any order, some or all; each has its proposal's number.

        Raises:
            ConfigError: no outcome, or one of a proposal never made, told twice, of another
                architecture or fidelity than was proposed, or with a score that is no number. None
                of them is taken then, and the search can go on.
        """
        told = (outcomes,) if isinstance(outcomes, Outcome) else tuple(outcomes)
        for outcome in told:
            if not isinstance(outcome, Outcome):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(
                    "not an outcome",
                    got=type(outcome).__name__,
                    fix="tell Outcome(number=proposal.number, arch=proposal.arch, score=...)",
                )
        self.state = self.state.hear(told)

    def save(self) -> dict[str, Any]:
        """Return the search as plain JSON data; `tensors` holds the rest."""
        return save(self.state)

    def tensors(self) -> "dict[str, Tensor]":
        """Return the tensors of the strategy's own state, by name; none for most strategies."""
        own = self.state.learned
        return dict(own.tensors) if own else {}

    @classmethod
    def load(
        cls,
        strategy: Strategy,
        space: Space,
        data: Mapping[str, Any],
        tensors: "Mapping[str, Tensor] | None" = None,
        *,
        allowed: Allowed | None = None,
    ) -> "Search":
        """Return a search that goes on from what `save` and `tensors` gave.

        Raises:
            JournalError: written by another version, or for another space.
        """
        state = load(space, data, tensors)
        search = cls(strategy, space, state.seed, allowed=allowed)
        search.state = state
        return search
