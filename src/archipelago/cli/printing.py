"""Text for people: names from files may hold what a terminal obeys, and must not reach it."""

from typing import TextIO

from archipelago.core.display import printable

__all__ = ["say"]


def say(text: str, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print `text`; escape sequences, bells and turns of direction are shown, not sent."""
    print(printable(text), file=file, flush=flush)
