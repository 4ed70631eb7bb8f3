"""`section.option=value` from the command line, stronger than the file."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from archipelago.config.bounds import DEEPEST, parse_toml
from archipelago.config.faults import sentence
from archipelago.core.errors import ConfigError

__all__ = ["apply"]


def apply(tables: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the tables with `overrides` written over them, and what could not be read.

    A value is read as TOML; what is not TOML is text. A new `kind` empties its section first, as
    another part has other options.

    Example:
        >>> apply({"client": {"epochs": 1}}, ["client.epochs=2", "strategy.kind=random"])
        ({'client': {'epochs': 2}, 'strategy': {'kind': 'random'}}, [])
    """
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tables.items()}
    faults: list[str] = []
    # Kinds first: their order on the command line then plays no part.
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".kind")):
        place, sign, value = (piece.strip() for piece in text.partition("="))
        if not sign or not all(place.split(".")):
            advice = "write section.option=value, e.g. client.epochs=2"
            faults.append(sentence("cannot be read", got=text, where="--set", fix=advice))
            continue
        if place.count(".") > DEEPEST:
            faults.append(sentence("is nested too deep", got=place, where="--set"))
            continue
        try:
            read = _read(value)
        except ConfigError as error:
            faults.append(sentence(error.what, got=value, where=f"--set {place}"))
            continue
        _write(result, place.split("."), read, faults)
    return result, faults


def _write(tables: dict[str, Any], path: list[str], value: Any, faults: list[str]) -> None:
    *outer, last = path
    table = tables
    for step in outer:
        inner = table.setdefault(step, {})
        if not isinstance(inner, dict):
            faults.append(sentence("is a plain value, not a section", where=step))
            return
        table = inner
    if last == "kind" and table.get("kind", value) != value:
        table.clear()
    table[last] = value


def _read(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
