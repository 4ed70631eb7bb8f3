"""What each part is and takes, read from the classes themselves."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from archipelago.config.catalog import CATALOG, Catalog, kinds, part_class

__all__ = ["Option", "PartInfo", "describe", "parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a part.

    Attributes:
        name: the key in the run file.
        type: as one writes it: `number`, `"sgd" | "adam"`, ...
        default: as one writes it; None where the option is needed.
        about: its line of the docstring.
    """

    name: str
    type: str
    default: str | None
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInfo:
    """One part of the catalog.

    Attributes:
        section: of the run file.
        kind: its name there.
        python: `module:Class`.
        about: first paragraph of the docstring.
        options: in the order of the class.
        references: papers, as the docstring cites them; empty without any.
        default: whether a run without this section gets it.
    """

    section: str
    kind: str
    python: str
    about: str
    options: tuple[Option, ...]
    references: str
    default: bool


def parts(catalog: Catalog = CATALOG, section: str | None = None) -> Iterator[PartInfo]:
    """Yield every part, or those of one section, defaults first."""
    for name in catalog if section is None else (section,):
        for kind in kinds(name, catalog):
            yield describe(name, kind, catalog)


def describe(section: str, kind: str, catalog: Catalog = CATALOG) -> PartInfo:
    """Return what one part is and takes."""
    cls = part_class(section, kind, catalog)
    text = inspect.cleandoc(cls.__doc__ or "")
    abouts, hints = _entries(_block(text, "Attributes")), get_type_hints(cls)
    options = tuple(
        Option(
            name=field.name,
            type=_type(hints[field.name]),
            default=_default(field),
            about=abouts.get(field.name, ""),
        )
        for field in fields(cls)
        if field.init and field.name != "kind"
    )
    return PartInfo(
        section=section,
        kind=kind,
        python=catalog[section][kind],
        about=" ".join(text.partition("\n\n")[0].split()),
        options=options,
        references=" ".join(_block(text, "References").split()),
        default=kind == kinds(section, catalog)[0],
    )


def _block(text: str, heading: str) -> str:
    match = re.search(rf"^{heading}:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    return inspect.cleandoc("\n" + match.group(1)) if match else ""


def _entries(block: str) -> Mapping[str, str]:
    entries: dict[str, str] = {}
    for piece in re.split(r"\n(?=\S)", block):
        name, colon, about = piece.partition(":")
        if colon:
            entries[name.strip()] = " ".join(about.split())
    return entries


def _type(hint: Any) -> str:
    simple = {bool: "true | false", int: "whole number", float: "number", str: "text"}
    if hint in simple:
        return simple[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(_write(choice) for choice in args)
    if origin in (UnionType, Union):
        return " | ".join(_type(arg) for arg in args if arg is not NoneType)
    if origin in (tuple, list) and args:
        return f"list of {_type(args[0])}"
    if origin is Mapping and args:
        return f"table of {_type(args[1])}"
    if is_dataclass(hint):
        return "table"
    return getattr(hint, "__name__", str(hint)).lower()


def _default(field: Any) -> str | None:
    if field.default is not MISSING:
        return _write(field.default)
    return _write(field.default_factory()) if field.default_factory is not MISSING else None


def _write(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return "[" + ", ".join(_write(item) for item in value) + "]"
        case _ if is_dataclass(value):
            return f'the options of kind = "{getattr(value, "kind", "")}"'
        case _:
            return str(value)
