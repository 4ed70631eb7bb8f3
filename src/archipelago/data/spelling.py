"""Which spellings are one value: the same for labels, categories and owners, in training and later.

A value is its text as written, without outer blanks, in Unicode's composed form. Two spellings are
one value only where nothing is lost: they differ in case or inner blanks, or one is a whole number
as a float is written (`1` and `1.0`). `01` and `1`, `1e3` and `1000`, `1.50` and `1.5` are not:
they are codes. What one silo keeps apart nobody folds.
"""

import re
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any
from unicodedata import normalize

import numpy as np

__all__ = [
    "FALSE",
    "SLIP",
    "TRUE",
    "apart",
    "fold",
    "kept",
    "missing",
    "spelled",
    "spellings",
    "truth_of",
    "without_slips",
]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "nat", "#n/a"})
TRUE, FALSE = ("yes", "y", "true", "t", "1"), ("no", "n", "false", "f", "0")
"""Truth values, folded; those at one place are written by the same people."""
SLIP = 5
"""Rows below which another spelling at one silo is a slip of the pen, not a value of its own."""
_SHORT = frozenset({"y", "n", "t", "f", "no", "m", "w"})
"""Words of one or two letters, where all values beside them are words too."""
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\.0")
_LETTERS = 3
"""Fewest letters of a word; shorter ones are codes, as `us` (a pronoun) and `US` are."""


def spelled(value: Any) -> str:
    """Return a value as text; `1` for the float 1.0, "" for NaN and what is infinite.

    Example:
        >>> spelled(" 007 "), spelled(1.0), spelled(True)
        ('007', '1', 'True')
    """
    if isinstance(value, (float, np.floating)):
        if not isfinite(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(value)
    return normalize("NFC", str(value).strip())


def spellings(values: np.ndarray) -> np.ndarray:
    """Return `spelled` of each of `[rows]`, as text."""
    distinct, where = np.unique(values, return_inverse=True)
    # Scalars of NumPy know their type: 0.1 of float32 is written 0.1, not 0.10000000149011612.
    return np.array([spelled(value) for value in distinct], dtype=np.str_)[where]


def missing(text: str) -> bool:
    """Whether a spelling says that there is no value."""
    return " ".join(text.split()).casefold() in MISSING


def fold(text: str) -> str:
    """Return what spellings of one value share.

    Example:
        >>> fold("New  York") == fold("new york"), fold("1.0"), fold("01")
        (True, '1', '01')
    """
    # lower and not casefold: that would make Maße and Masse one word.
    key = normalize("NFC", " ".join(normalize("NFC", text).split()).lower())
    return key[:-2] if _WHOLE.fullmatch(key) else key


def truth_of(text: str) -> int | None:
    """Return 1 for yes, 0 for no, None for what is no truth value."""
    key = fold(text)
    return 1 if key in TRUE else 0 if key in FALSE else None


def kept(counts: Mapping[str, int], least: int = SLIP) -> dict[str, str]:
    """Return under which spelling one silo counts each of its own.

    Words that differ in case are one word, under the spelling that most rows have. Codes that do
    (letters with digits, one or two letters, capitals inside) are slips where one of them has
    fewer than `least` rows; otherwise the silo means different things, and all stay as they are.

    Example:
        >>> kept({"yes": 9, "YES": 7, "a1": 9, "A1": 7})
        {'yes': 'yes', 'YES': 'yes', 'a1': 'a1', 'A1': 'A1'}
    """
    groups: dict[str, list[str]] = {}
    for text in counts:
        groups.setdefault(fold(text), []).append(text)
    words = all(key in _SHORT or key.isdigit() or _is_word(key) for key in groups)
    out: dict[str, str] = {}
    for key, group in groups.items():
        often = {" ".join(text.split()) for text in group if counts[text] >= least}
        plain = (words and key in _SHORT) or (_is_word(key) and all(map(_is_cased, often)))
        first = min(group, key=lambda text: (-counts[text], text))
        out |= {text: first if plain or len(often) < 2 else text for text in group}
    return out


def apart(counts: Mapping[str, int], least: int = SLIP) -> frozenset[str]:
    """Return what spellings share that one silo keeps apart; see `kept`."""
    times = Counter(map(fold, set(kept(counts, least).values())))
    return frozenset(key for key, many in times.items() if many > 1)


def without_slips(counts: Mapping[str, int], least: int = SLIP) -> dict[str, int]:
    """Return the counts with rare spellings of a value under its most frequent one."""
    under, out = kept(counts, least), Counter[str]()
    for text, count in counts.items():
        out[text if count >= least else under[text]] += count
    return dict(out)


def _is_word(key: str) -> bool:
    """Whether it is a word, maybe with numbers or letters beside it: `stage 2`, not `a1`."""
    parts = re.findall(r"\w+", key)
    mixed = any(any(map(str.isdigit, part)) and not part.isdigit() for part in parts)
    return not mixed and any(len(part) >= _LETTERS and part.isalpha() for part in parts)


def _is_cased(text: str) -> bool:
    """Whether a word is written as people write words: lower, UPPER, Capitalised, Title Case."""
    return text in (text.lower(), text.upper(), text.capitalize(), text.title())
