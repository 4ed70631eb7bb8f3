"""Values from files, as a message or a terminal may show them: short, and never obeyed."""

import re
from collections.abc import Iterable

__all__ = ["clipped", "listed", "printable", "shown", "words"]

LONGEST = 400
"""Characters of one value in a message."""
_DIGITS = 13_000
"""Bits of 4,000 digits: of longer ones Python refuses to make text."""


def clipped(text: str, longest: int = LONGEST) -> str:
    """Return `text`, its middle left out where it is longer.

    Example:
        >>> clipped("abcdefghij" * 9, 30)
        'abcdefghij ... (70 more) ... abcdefghij'
    """
    if len(text) <= longest + 30:
        return text
    head, tail = (longest + 1) // 2 - 5, longest // 2 - 5
    return f"{text[:head]} ... ({len(text) - head - tail} more) ... {text[-tail:]}"


def listed(names: Iterable[str], most: int = 30) -> str:
    """Return names with commas between, the first ones of very many.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(clipped(name, 60) for name in every[:most]) + more


def printable(text: str) -> str:
    """Return `text` without what a terminal obeys: escape sequences, turns of direction, bells.

    Example:
        >>> printable("silo\\x1b[31m")
        'silo\\\\x1b[31m'
    """
    if text.isascii() and text.replace("\n", " ").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """Return `repr(value)`, clipped; of what has no `repr`, its type."""
    if isinstance(value, str) and len(value) > 2 * LONGEST:
        # The text is clipped first: its repr may be ten times as long.
        return f"{value[: LONGEST // 2]!r} ... ({len(value)} characters)"
    if isinstance(value, int) and value.bit_length() > _DIGITS:
        return f"a number of about {value.bit_length() * 3 // 10:,} digits"
    try:
        return clipped(repr(value))
    except (ValueError, RecursionError):
        # An integer of too many digits somewhere inside, or a nesting too deep.
        return f"a {type(value).__name__} too large to show"


def words(text: str) -> str:
    """Return `text` on one line, printable: for a comment in a file.

    Example:
        >>> words("a\\n[engine]")
        'a [engine]'
    """
    return printable(re.sub(r"\s+", " ", text))
