"""What holds of every strategy, asked and told as loop one does it."""

from typing import Any

from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome, Proposal
from archipelago.driver.live import Search
from archipelago.space.dims import Choice, Range, Repeat
from archipelago.space.space import Space

__all__ = ["CONTRACTS"]

_SPACE = Space(
    {
        "layer": Repeat({"width": Choice((8, 16, 32)), "skip": Choice((False, True))}, Range(1, 3)),
        "act": Choice(("relu", "gelu", "tanh")),
    }
)


def _scored(proposal: Proposal) -> Outcome:
    score = sum(int(value) for name, value in proposal.arch.items() if name.endswith("width"))
    return Outcome(
        number=proposal.number,
        arch=proposal.arch,
        score=float(score),
        costs={"params": float(len(proposal.arch))},
        fidelity=proposal.fidelity,
    )


def _failed(proposal: Proposal) -> Outcome:
    return Outcome(
        number=proposal.number,
        arch=proposal.arch,
        score=float("-inf"),
        status="failed",
        reason="out of memory",
        fidelity=proposal.fidelity,
    )


def proposals_are_numbered_members(part: Any) -> None:
    """Numbers count up from 0 without a gap; each proposal is a point of the space."""
    live, seen = Search(part, _SPACE, Seed(2)), list[Proposal]()
    for _ in range(4):
        asked = live.ask(3)
        assert len(asked) <= 3
        seen += asked
        live.tell([_scored(proposal) for proposal in asked])
    assert seen
    assert [proposal.number for proposal in seen] == list(range(len(seen)))
    assert all(proposal.arch in _SPACE for proposal in seen)


def a_search_goes_on_from_what_was_saved(part: Any) -> None:
    """Saved and loaded after every generation it proposes the same, with failures among them."""

    def run(*, saved: bool) -> list[Proposal]:
        live, seen = Search(part, _SPACE, Seed(3)), list[Proposal]()
        for _ in range(6):
            asked = live.ask(4)
            seen += asked
            live.tell([_failed(p) if p.number % 5 == 0 else _scored(p) for p in asked])
            if saved:
                live = Search.load(part, _SPACE, live.save(), live.tensors())
        return seen

    assert run(saved=False) == run(saved=True)


def what_is_not_allowed_is_not_proposed(part: Any) -> None:
    """Hard constraints hold for every proposal."""
    live = Search(part, _SPACE, Seed(4), allowed=lambda arch: arch["act"] != "gelu")
    for _ in range(3):
        asked = live.ask(3)
        assert all(proposal.arch["act"] != "gelu" for proposal in asked)
        live.tell([_scored(proposal) for proposal in asked])


def a_search_in_which_everything_fails_goes_on(part: Any) -> None:
    """Failures end no search while there is something left to try."""
    live = Search(part, _SPACE, Seed(6))
    for _ in range(3):
        asked = live.ask(2)
        assert asked
        live.tell([_failed(proposal) for proposal in asked])


CONTRACTS = (
    proposals_are_numbered_members,
    a_search_goes_on_from_what_was_saved,
    what_is_not_allowed_is_not_proposed,
    a_search_in_which_everything_fails_goes_on,
)
