"""Parts from plain tables and back: the tables of a run file, checked all at once.

There is no second schema: a table holds the keyword arguments of the class that its `kind` names,
and the class validates itself. pydantic checks types, on the same frozen dataclasses.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from os import PathLike, fspath
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from archipelago.config.catalog import CATALOG, Catalog, kinds, part_class, place_of
from archipelago.config.faults import of_error, of_validation, sentence
from archipelago.core.errors import ArchipelagoError, ConfigError

__all__ = ["from_table", "schema", "to_table"]


def from_table(
    section: str, table: object, catalog: Catalog = CATALOG
) -> tuple[Any | None, list[str]]:
    """Return the part that `table` describes, or None, and every fault found."""
    if not isinstance(table, Mapping):
        return None, [sentence("must be a table", got=table, where=section, fix=_heading(section))]
    options = dict(table)
    kind = options.pop("kind", kinds(section, catalog)[0])
    try:
        cls = part_class(section, str(kind), catalog)
    except ArchipelagoError as error:
        return None, of_error(error, section)
    adapter, known = _adapter(cls), _options(cls)
    faults: dict[str, None] = {}
    part, found = _try(adapter, section, options, str(kind), known)
    while found:
        fresh = [(option, line) for option, line in found if line not in faults]
        faults.update(dict.fromkeys(line for _, line in fresh))
        # A class stops at its first fault: set that option aside and ask again, to find them all.
        aside = {option for option, _ in fresh if option in options}
        if not aside:
            break
        options = {k: v for k, v in options.items() if k not in aside}
        _, found = _try(adapter, section, options, str(kind), known)
        found = [(option, line) for option, line in found if option in options]
    return (None if faults else part), list(faults)


def to_table(part: object, section: str, catalog: Catalog = CATALOG) -> dict[str, Any]:
    """Return the table of `part`; `from_table` is its inverse.

    Raises:
        ConfigError: the class is not in the catalog, so that no file can name it.
    """
    place = place_of(part, catalog)
    if place is None or place[0] != section:
        raise ConfigError(
            "this part has no name in a run file",
            got=type(part).__qualname__,
            where=section,
            fix=f"use one of {', '.join(kinds(section, catalog))}, or keep the run in Python",
        )
    return {"kind": place[1], **{k: v for k, v in _plain(part).items() if k != "kind"}}


def schema(catalog: Catalog = CATALOG) -> dict[str, Any]:
    """Return the JSON schema of a run file's sections, for editors."""
    adapters = []
    for section in catalog:
        union: Any = None
        for kind in kinds(section, catalog):
            cls = part_class(section, kind, catalog)
            union = cls if union is None else union | cls
        choice = (
            Annotated[union, Field(discriminator="kind")] if len(catalog[section]) > 1 else union
        )
        adapters.append((section, "validation", _adapter(choice)))
    found, common = TypeAdapter.json_schemas(adapters)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Archipelago run file",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "about": {"type": "string"},
            "seed": {"type": "integer", "minimum": 0},
            "constraints": {"type": "array", "items": {"type": "string"}},
            **{section: found[section, "validation"]["anyOf"][0] for section in catalog},
        },
        "$defs": common.get("$defs", {}),
    }


def _heading(section: str) -> str:
    return f"write it as [{section}], with its options in the lines below"


def _options(cls: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.init and field.name != "kind")


@cache
def _adapter(choice: Any) -> TypeAdapter[Any]:
    # Parts are plain dataclasses and take their configuration from what is around them, here the
    # union with None: pydantic accepts none for a bare dataclass. No run file can spell None.
    union: Any = choice | None
    return TypeAdapter(union, config=ConfigDict(extra="forbid", strict=True))


def _try(
    adapter: TypeAdapter[Any],
    section: str,
    options: Mapping[str, Any],
    kind: str,
    known: tuple[str, ...],
) -> tuple[Any | None, list[tuple[str, str]]]:
    try:
        text = json.dumps(options)
    except TypeError:
        return None, list(_not_plain(section, options))
    try:
        # Strict JSON: 2 serves as 2.0 and a list as a tuple, but "2" is not 2 nor true 1.
        return adapter.validate_json(text), []
    except ValidationError as error:
        return None, list(of_validation(error, section, kind, known))


def _not_plain(section: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for option, value in options.items():
        try:
            json.dumps(value)
        except TypeError:
            what = "dates and times have no use here; write text"
            yield option, sentence(what, got=str(value), where=f"{section}.{option}")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        shown = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return {name: _plain(inner) for name, inner in shown.items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    return fspath(value) if isinstance(value, PathLike) else value
