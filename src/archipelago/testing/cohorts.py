"""What holds of every way of choosing a round's clients."""

from typing import Any

from archipelago.core.seeds import Seed

__all__ = ["CONTRACTS"]


def a_round_asks_each_client_once(part: Any) -> None:
    """Those asked are among those that may be, ascending, none twice, and enough of them."""
    clients = range(3, 43)
    chosen = part.select(clients, Seed(5), devices=Seed(1))
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(clients)
    assert len(chosen) >= part.count(len(clients)) >= 1


def the_same_seed_chooses_the_same(part: Any) -> None:
    """Chance is counter-based: nothing but the seed decides."""
    first, again = (part.select(range(40), Seed(5), devices=Seed(1)) for _ in range(2))
    assert first == again


def a_fate_for_everybody_asked(part: Any) -> None:
    """One fate a client, in seconds that have passed, with no more epochs than were asked for."""
    fates = part.fates(
        (3, 8, 11), (10**6, 10**7, 10**5), 4096, 2, speeds=Seed(1), seed=Seed(2), now=0.0
    )
    assert len(fates) == 3
    assert all(0 <= fate.epochs <= 2 and fate.seconds >= 0 for fate in fates)
    assert part.lasts(fates) >= 0


CONTRACTS = (
    a_round_asks_each_client_once,
    the_same_seed_chooses_the_same,
    a_fate_for_everybody_asked,
)
