"""From what each silo calls its classes to one list of names, and to the class of any spelling."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archipelago.core.errors import DataError
from archipelago.data.spelling import FALSE, TRUE, apart, fold, truth_of

__all__ = ["Lexicon", "agree", "is_number", "numeric_first"]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")
_PAIRS = {**dict.fromkeys(("yes", "y", "no", "n"), "yes"), "1": "1", "0": "1"}
"""Truth values that the same people write; the others are true, t, false, f."""

_Answers = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """The agreed classes.

    Attributes:
        names: as most rows write them, in the order of a network's outputs.
        counts: rows of each over all silos.
        exact: place of each spelling that somebody used.
        folded: place of what these share; of spellings kept apart, the most frequent one's.
        truths: places of false and true, where the two classes are these; else empty.
        mixed: whether silos write these truth values in different words.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    exact: Mapping[str, int]
    folded: Mapping[str, int]
    truths: tuple[int, ...] = ()
    mixed: bool = False

    def place(self, word: str) -> int:
        """Return the class of a spelling, -1 of an unknown one."""
        found = self.exact.get(word, self.folded.get(fold(word), -1))
        truth = truth_of(word) if found < 0 and self.truths else None
        return found if truth is None else self.truths[truth]

    def named(self, answers: _Answers) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the silos' answers with their labels under the agreed names."""
        out: list[tuple[str, Mapping[str, Any]]] = []
        for silo, said in answers:
            tally: Counter[str] = Counter()
            for label, count in said["labels"].items():
                tally[self.names[self.place(label)]] += count
            out.append((silo, {**said, "labels": dict(tally)}))
        return out

    @property
    def reading(self) -> str:
        """What was made of truth values in different words, in a sentence; empty without any."""
        if not self.mixed:
            return ""
        no, yes = (self.names[place] for place in self.truths)
        words = sorted({text for text in self.exact if self.names[self.exact[text]] != text})
        return (
            f"the labels are truth values, however they are written ({', '.join(words)}): "
            f"{yes!r} is the positive class, {no!r} the other"
        )


def agree(
    answers: _Answers,
    declared: Sequence[str] = (),
    known: Sequence[str] = (),
    *,
    truths: bool = False,
    least: int = 2,
    where: str = "label",
) -> Lexicon:
    """Agree on classes.

    Spellings that `fold` alike are one class, unless one silo, or who declared the names, keeps
    them apart. Truth values are one pair of classes however each silo writes them.

    Args:
        answers: each silo's name, and under `labels` the rows of each of its spellings.
        declared: by the owner, in the order of the outputs; others follow.
        known: an order of names, where none is declared; others follow, sorted.
        truths: whether labels may be truth values: of several labels a row none is.
        least: fewest classes that make a task.
        where: the label, for messages.

    Raises:
        DataError: there are fewer classes than `least`.
    """
    said: list[Mapping[str, int]] = [part["labels"] for _, part in answers]
    style = _style(said, declared) if truths else None
    groups = _groups(said, declared, style)
    names = {key: _name(key, group, declared, style) for key, group in groups.items()}
    if len(groups) < least:
        raise DataError(
            "the label has one class only: there is nothing to learn",
            got=list(names.values()),
            where=where,
            fix="check the label column and data.label_map, or use the regression task for a "
            "numeric target",
        )
    first = {name: place for place, name in enumerate(declared)}
    order = {} if declared else {fold(name): place for place, name in enumerate(known)}

    def place(key: str) -> tuple[int, tuple[int, float, str], str]:
        rank = first.get(names[key], order.get(fold(key), len(first) + len(order)))
        return rank, numeric_first(fold(key)), key

    keys = sorted(groups, key=place)
    rows = {key: sum(groups[key].values()) for key in keys}
    exact = {text: at for at, key in enumerate(keys) for text in (*groups[key], names[key])}
    folded: dict[str, int] = {}
    for text in sorted(exact, key=lambda text: -rows[keys[exact[text]]]):
        folded.setdefault(fold(text), exact[text])
    read = [truth_of(names[key]) for key in keys]
    pair = truths and len(read) == 2 and set(read) == {0, 1}
    return Lexicon(
        names=tuple(names[key] for key in keys),
        counts=tuple(rows.values()),
        exact=exact,
        folded=folded,
        truths=(read.index(0), read.index(1)) if pair else (),
        mixed=style is not None and len(folded) > 2,
    )


def is_number(name: str) -> bool:
    """Whether a class is called by a number."""
    return _NUMBER.fullmatch(fold(name)) is not None


def numeric_first(key: str) -> tuple[int, float, str]:
    """Order classes: numbers by value, then words."""
    return (0, float(key), key) if _NUMBER.fullmatch(key) else (1, 0.0, key)


def _groups(
    said: Sequence[Mapping[str, int]], declared: Sequence[str], style: tuple[str, str] | None
) -> dict[str, Counter[str]]:
    """Return the rows of each spelling by class: a folded key, or the spelling kept apart."""
    own = Counter(fold(name) for name in dict.fromkeys(declared))
    separate = {key for key, times in own.items() if times > 1}.union(*map(apart, said))
    groups: dict[str, Counter[str]] = {}
    for labels in said:
        for text, count in labels.items():
            key = fold(text)
            if style is not None:
                key = style[truth_of(text) or 0]
            elif key in separate:
                key = text
            groups.setdefault(key, Counter())[text] += count
    return groups


def _name(
    key: str, group: Counter[str], declared: Sequence[str], style: tuple[str, str] | None
) -> str:
    """Return the declared name of a class, or the spelling that most rows have."""
    if style is not None:
        named = [name for name in declared if truth_of(name) == truth_of(key)]
        group = Counter({text: n for text, n in group.items() if fold(text) == key} or {key: 0})
    else:
        # A key that is in its own group alone was kept apart: only that very name is its own.
        alike = [name for name in declared if fold(name) == fold(key)]
        named = [name for name in alike if name in group] or (alike if len(alike) == 1 else [])
    return named[0] if named else min(group, key=lambda text: (-group[text], text))


def _style(said: Sequence[Mapping[str, int]], declared: Sequence[str]) -> tuple[str, str] | None:
    """Return the words for false and true that most rows have, where all labels are truth values.

    None where they are not, or where several names of one truth were declared. A silo that mixes
    words of several pairs must have both of each: `t`, `y` and `n` at one silo are three classes.
    """
    rows: Counter[str] = Counter()
    for labels in said:
        pairs: dict[str, set[int]] = {}
        for text, count in labels.items():
            truth = truth_of(text)
            if truth is None:
                return None
            rows[fold(text)] += count
            pairs.setdefault(_PAIRS.get(fold(text), "true"), set()).add(truth)
        if len(pairs) > 1 and any(len(both) < 2 for both in pairs.values()):
            return None
    named = Counter(truth_of(name) for name in declared)
    if len({truth_of(key) for key in rows}) < 2 or max(named[0], named[1]) > 1:
        return None
    pairs_of_words = list(zip(FALSE, TRUE, strict=True))
    whole = [(no, yes) for no, yes in pairs_of_words if rows[no] and rows[yes]]
    return max(whole or pairs_of_words, key=lambda pair: rows[pair[0]] + rows[pair[1]])
