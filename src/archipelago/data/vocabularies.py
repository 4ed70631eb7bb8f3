"""Silos that call the same classes differently: refused, with the map that would mend it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import combinations
from json import dumps
from typing import Any

from archipelago.core.errors import DataError
from archipelago.data.classes import is_number
from archipelago.data.spelling import truth_of

__all__ = ["refuse_two_vocabularies"]

_FEW = 3
"""Label sets up to which they are more likely so many vocabularies than silos that lack classes."""

_Sets = Sequence[tuple[str, frozenset[str]]]


def refuse_two_vocabularies(
    answers: Sequence[tuple[str, Mapping[str, Any]]],
    names: Sequence[str],
    declared: Sequence[str] = (),
    *,
    schema: bool = False,
    where: str = "label",
) -> None:
    """Refuse label sets that share at most half, where no silo has what only each one has.

    A silo may lack classes: then its set is part of another's. Of the sets that are part of none
    other, two or three that have at most half of the smaller one in common are as many ways to
    write the same classes; more are silos that saw different ones (label skew), unless some are
    numbers and others words, or all are pairs. Numbers from 0 or 1 on without a gap, in three sets
    or more, are one numbering; so is a single class at each silo.

    Args:
        answers: each silo's name, and under `labels` its classes under the agreed names.
        names: of all classes, in order.
        declared: by the owner. All classes declared are what the owner means.
        schema: whether classes are folders, which an owner made: only numbers against words.
        where: the label, for messages.

    Raises:
        DataError: naming the silos, with a label map and with the declaration.
    """
    if set(names) <= set(declared):
        return
    sets = [(silo, frozenset(said["labels"])) for silo, said in answers if said["labels"]]
    widest = _widest([held for _, held in sets])
    found = _crossed(widest, mixed=True)
    if found is None and not schema and not _is_skew(widest, names):
        found = _crossed(widest, mixed=False)
    if found is None:
        return
    a, b = found
    of_a, of_b = _holders(sets, a, b), _holders(sets, b, a)
    if len(of_a) < len(of_b):
        a, b, of_a, of_b = b, a, of_b, of_a
    raise DataError(
        "silos call the classes differently: their label sets share at most half",
        got=f"{_listed(a, names)} at {_some(of_a)}; {_listed(b, names)} at {_some(of_b)}",
        where=f"silo {of_b[0]!r}, {where}",
        fix=f"say which is which, for example (a guess: check it)\n"
        f"    [data]\n    label_map = {{ {_map(a, b, of_b, names)} }}\n"
        f"  or, if these are different classes, say that they are\n"
        f"    [task]\n    classes = [{', '.join(map(_quoted, names))}]\n"
        "  (`archipelago new` takes both: --label-map OLD=NEW, --classes A,B)",
    )


def _widest(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Return the different sets that are part of no other, in the order of the silos."""
    different = list(dict.fromkeys(sets))
    return [held for held in different if not any(held < other for other in different)]


def _crossed(
    widest: Sequence[frozenset[str]], *, mixed: bool
) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return two sets that share at most half, where no silo tells apart what only one of them has.

    Args:
        mixed: only a set of numbers and one of words.
    """
    kinds = {held: frozenset(map(is_number, held)) for held in widest}
    for a, b in combinations(widest, 2):
        if mixed and (len(kinds[a] | kinds[b]) == 1 or len(kinds[a]) + len(kinds[b]) > 2):
            continue
        told_apart = any(held & (a - b) and held & (b - a) for held in widest)
        if 2 * len(a & b) <= min(len(a), len(b)) and not told_apart:
            return a, b
    return None


def _is_skew(widest: Sequence[frozenset[str]], names: Sequence[str]) -> bool:
    """Whether silos that share few classes rather saw different ones of a single vocabulary."""
    if all(len(held) == 1 for held in widest):
        return True
    if len(widest) >= _FEW and _numbered(names):
        return True
    pairs = all(len(held) == 2 for held in widest) and not any(
        a & b for a, b in combinations(widest, 2)
    )
    return len(widest) > _FEW and not pairs


def _numbered(names: Sequence[str]) -> bool:
    """Whether the classes are 0, 1, 2 … or 1, 2, 3 …, as one list would number them."""
    if not all(name.isascii() and name.isdigit() for name in names):
        return False
    values = sorted(map(int, names))
    return values[0] in (0, 1) and values == list(range(values[0], values[0] + len(values)))


def _holders(sets: _Sets, own: frozenset[str], others: frozenset[str]) -> list[str]:
    return [silo for silo, held in sets if held <= own and held - others]


def _map(
    usual: frozenset[str], odd: frozenset[str], silos: Sequence[str], names: Sequence[str]
) -> str:
    """Return the inside of a label map that makes `odd` what `usual` is."""
    ranked = [[name for name in names if name in held] for held in (odd, usual)]
    shifted = odd & usual and len(odd) == len(usual) and all(map(is_number, odd | usual))
    if not shifted:
        return _pairs(_proposed(odd, usual, names))
    # 0, 1 here and 1, 2 there: the same number means different things, so each silo has its own.
    own = _pairs(zip(*ranked, strict=True))
    return ", ".join(f"{_quoted(silo)} = {{ {own} }}" for silo in silos[:5])


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{_quoted(old)} = {_quoted(new)}" for old, new in pairs)


def _proposed(
    odd: frozenset[str], usual: frozenset[str], names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield which class of `usual` each other one of `odd` may be: by truth, by name, by order."""
    left = [name for name in names if name in usual - odd] or [n for n in names if n in usual]
    for name in (name for name in names if name in odd - usual):
        truth = truth_of(name)
        same = [new for new in left if truth is not None and truth_of(new) == truth]
        close = same or get_close_matches(name, left, n=1) or left[:1]
        chosen = close[0] if close else max(usual, key=names.index)
        if chosen in left and len(left) > 1:
            left.remove(chosen)
        yield name, chosen


def _listed(held: frozenset[str], names: Sequence[str]) -> str:
    listed = [repr(name) for name in names if name in held]
    return ", ".join(listed[:8]) + (" ..." if len(listed) > 8 else "")


def _some(silos: Sequence[str]) -> str:
    return ", ".join(silos[:5]) + (" ..." if len(silos) > 5 else "")


def _quoted(text: str) -> str:
    return dumps(text, ensure_ascii=False)
