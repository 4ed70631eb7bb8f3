"""The papers behind a run: which entries of `citations.bib` its parts call for."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from archipelago.config.catalog import place_of
from archipelago.config.run import SETTINGS, Run

__all__ = ["cite", "entries"]

_FILE = Path(__file__).parent / "citations.bib"


def entries() -> Iterator[tuple[frozenset[str], str]]:
    """Yield each BibTeX entry with the parts that call for it.

    A part is `section/kind`, or `section/kind.option` where only the option's use does.
    """
    for entry in re.split(r"\n(?=@)", _FILE.read_text(encoding="utf-8").strip()):
        match = re.search(r"^  usedby = \{([^}]*)\},\n", entry, re.MULTILINE)
        callers = match.group(1).split() if match else []
        text = entry.replace(match.group(0), "") if match else entry
        yield frozenset(callers), text.strip()


def cite(run: Run) -> str:
    """Return BibTeX of the methods and data that `run` uses."""
    used = set(_used(run))
    return "\n\n".join(text for callers, text in entries() if callers & used) + "\n"


def _used(run: Run) -> Iterator[str]:
    for name in (field.name for field in fields(Run) if field.name not in SETTINGS):
        part = getattr(run, name)
        place = place_of(part)
        if place is None:
            continue
        yield "/".join(place)
        for option in fields(part):
            value = getattr(part, option.name)
            if value:
                yield f"{'/'.join(place)}.{option.name}"
                # A named data set is an option's value.
                yield f"{'/'.join(place)}.{option.name}={value}"
