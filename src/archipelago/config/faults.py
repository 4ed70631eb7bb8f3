"""Faults of a run file, each as one line: place, what is wrong, what was found, the way out."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import ValidationError

from archipelago.core.display import clipped, shown
from archipelago.core.errors import ArchipelagoError, ConfigFaults, did_you_mean

__all__ = ["of_error", "of_validation", "sentence"]

_MOST = 100
"""Faults of one section that are put into words: a list may hold ten thousand of the same."""
_WANTED: Mapping[str, str] = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": 'must be text, in "quotes"',
    "bool_type": "must be true or false",
    "path_type": "must be a path, as text",
    "tuple_type": "must be a list, in [brackets]",
    "list_type": "must be a list, in [brackets]",
    "dict_type": "must be a table",
    "dataclass_type": "must be a table",
    "missing": "is needed and has no default",
}


def sentence(
    what: str, *, got: object = None, where: str | None = None, fix: str | None = None
) -> str:
    """Return one line.

    Example:
        >>> sentence("must lie in (0, 1]", got=7, where="wire.ratio", fix="0.01 keeps one in 100")
        'wire.ratio: must lie in (0, 1], got 7. 0.01 keeps one in 100.'
    """
    line = f"{clipped(where)}: {what}" if where else what
    if got is not None:
        line += f", got {shown(got)}"
    if fix is None:
        return f"{line}."
    # A command keeps its spelling; any other advice starts a sentence.
    advice = fix if fix.startswith(("pip ", "archipelago ")) else fix[0].upper() + fix[1:]
    return f"{line}. {advice}" + ("" if advice[-1] in "?!." else ".")


def of_error(error: ArchipelagoError, where: str) -> list[str]:
    """Return the lines of one of our own errors; `where` serves if it names no place."""
    if isinstance(error, ConfigFaults):
        return list(error.faults)
    return [sentence(error.what, got=error.got, where=error.where or where, fix=error.fix)]


def of_validation(
    error: ValidationError, where: str, kind: str, known: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield option (empty: none in particular) and line for everything pydantic found.

    Args:
        error: raised for the table of one section.
        where: the section.
        kind: the part whose options these are.
        known: names of its options.
    """
    for fault in islice(error.errors(include_url=False), _MOST):
        path = [str(step) for step in fault["loc"]]
        option = path[0] if path else ""
        place = ".".join([where, *path])
        context: Mapping[str, Any] = fault.get("ctx", {})
        inner = context.get("error")
        if isinstance(inner, ArchipelagoError):
            option = (inner.where or "").removeprefix(f"{where}.").partition(".")[0]
            for line in of_error(inner, place):
                yield option if option in known else "", line
        elif fault["type"] == "unexpected_keyword_argument" and len(path) == 1:
            advice = did_you_mean(option, known) if known else "it has none"
            yield (
                option,
                sentence(f"{kind!r} has no option {shown(option)}", where=where, fix=advice),
            )
        elif fault["type"] == "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            got = fault["input"]
            yield (
                option,
                sentence(
                    "no such choice",
                    got=got,
                    where=place,
                    fix=did_you_mean(str(got)[:200], choices),
                ),
            )
        else:
            what = _WANTED.get(fault["type"])
            if what is None:
                what = fault["msg"][0].lower() + fault["msg"][1:]
            got = None if fault["type"] == "missing" else fault["input"]
            yield option, sentence(what, got=got, where=place)
