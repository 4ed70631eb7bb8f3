"""A run file: TOML to `Run` and back, every fault of a file in one go."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from archipelago.config.bounds import parse_toml, refused
from archipelago.config.catalog import CATALOG, place_of
from archipelago.config.faults import of_error, of_validation, sentence
from archipelago.config.overrides import apply
from archipelago.config.run import SETTINGS, Run
from archipelago.config.tables import from_table, to_table
from archipelago.config.toml import write
from archipelago.core.errors import ArchipelagoError, ConfigError, ConfigFaults, did_you_mean
from archipelago.core.small_files import TooLong, read_small
from archipelago.space.constraints import parse

__all__ = ["described", "dumps", "load", "loads", "preset", "presets"]

_SHAPES: Mapping[str, TypeAdapter[Any]] = {
    "name": TypeAdapter(str),
    "about": TypeAdapter(str),
    "seed": TypeAdapter(int),
    "constraints": TypeAdapter(tuple[str, ...]),
}
_PYTHON = "python"
"""The kind of a part that only Python knows, in the text of a run that was composed there."""
_LARGEST = 500_000
"""Bytes: no run file is longer."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Read a run from a TOML file.

    Args:
        path: the file.
        overrides: `section.option=value`, each stronger than the file.

    Raises:
        ConfigFaults: everything that is wrong with the file.
        ConfigError: there is no such file, or it cannot be read.
    """
    place = Path(path)
    return loads(_text_of(place), overrides, source=str(path), folder=place.parent)


def loads(
    text: str,
    overrides: Sequence[str] = (),
    *,
    source: str = "the run file",
    folder: str | Path = ".",
) -> Run:
    """Read a run from TOML text.

    Args:
        text: of the file.
        overrides: `section.option=value`, each stronger than the file.
        source: names the text in errors.
        folder: where relative `data.paths` of the text begin. Those of `overrides` begin in the
            working directory. Both become absolute: a run can then be resumed from anywhere.

    Example:
        >>> loads('seed = 7').seed
        7
    """
    try:
        tables = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"is not TOML: {str(error)[0].lower()}{str(error)[1:]}",
            where=source,
            fix="mend that line; `archipelago new` writes a file that can be read",
        ) from None
    except ConfigError as error:
        place = f"{source}, {error.where}" if error.where else source
        raise ConfigError(error.what, got=error.got, where=place, fix=error.fix) from None
    for name, table in tables.items():
        if isinstance(table, Mapping) and table.get("kind") == _PYTHON and "part" in table:
            raise ConfigError(
                "this part was composed in Python, and no file can name it",
                got=table["part"],
                where=f"{source}: {name}",
                fix="go on in Python: resume(directory, run) with the run that began it",
            )
    tables, faults = apply(_absolute(tables, Path(folder)), overrides)
    tables = _absolute(tables, Path.cwd())
    if beyond := refused(tables):
        raise ConfigFaults(source, [*faults, *beyond])
    known = {field.name for field in fields(Run)}
    values: dict[str, Any] = {}
    for name, value in tables.items():
        if name not in known:
            faults.append(sentence("no such setting", where=name, fix=did_you_mean(name, known)))
        elif name in SETTINGS:
            faults += _setting(values, name, value)
        else:
            values[name], found = from_table(name, value, CATALOG)
            faults += found
    if faults:
        raise ConfigFaults(source, faults)
    try:
        return Run(**values)
    except ConfigError as error:
        raise ConfigFaults(source, of_error(error, "")) from error


def dumps(run: Run) -> str:
    """Return the run, defaults included, as TOML that `loads` reads back as an equal value.

    Raises:
        ConfigError: a part is not in the catalog.
    """
    tables = {
        field.name: getattr(run, field.name)
        if field.name in SETTINGS
        else to_table(getattr(run, field.name), field.name, CATALOG)
        for field in fields(Run)
    }
    return write(tables)


def described(run: Run) -> str:
    """Return `dumps(run)`; parts that only Python knows are named there, and read back by nobody.

    Such a run is resumed, and exported, from Python: `resume(directory, run)`.
    """
    tables: dict[str, Any] = {}
    for name in (field.name for field in fields(Run)):
        part = getattr(run, name)
        if name in SETTINGS or place_of(part, CATALOG) is not None:
            tables[name] = part if name in SETTINGS else to_table(part, name, CATALOG)
        else:
            cls = type(part)
            tables[name] = {"kind": _PYTHON, "part": f"{cls.__module__}:{cls.__qualname__}"}
    return write(tables)


def presets() -> tuple[str, ...]:
    """Return the names of the run files that come with Archipelago."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def preset(name: str) -> str:
    """Return the text of one of them, to be copied and owned.

    Raises:
        ConfigError: there is none of this name; the closest one is named.
    """
    if name not in presets():
        raise ConfigError("no such preset", got=name, fix=did_you_mean(name, presets()))
    return (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")


def _absolute(tables: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    data = tables.get("data")
    paths = data.get("paths") if isinstance(data, Mapping) else None
    if not isinstance(paths, list):
        return tables
    whole = [str(folder.absolute() / path) if isinstance(path, str) else path for path in paths]
    return {**tables, "data": {**tables["data"], "paths": whole}}


_PRESETS = Path(__file__).parent / "presets"


def _setting(values: dict[str, Any], name: str, value: object) -> list[str]:
    try:
        values[name] = _SHAPES[name].validate_python(
            tuple(value) if isinstance(value, list) else value, strict=True
        )
    except ValidationError as error:
        return [line for _, line in of_validation(error, name, name, ())]
    faults: list[str] = []
    for text in values[name] if name == "constraints" else ():
        try:
            parse(text)
        except ArchipelagoError as error:
            faults += of_error(error, name)
    return faults


def _text_of(path: Path) -> str:
    new = "archipelago new digits run.toml"
    try:
        data = read_small(path, _LARGEST)
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), fix=new) from None
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError(what, where=str(path), fix="give a TOML file") from None
    except TooLong as error:
        fix = "give a TOML file; rows belong into [data]"
        what = "too long for a run file"
        raise ConfigError(what, got=f"it {error}", where=str(path), fix=fix) from None
    except ValueError as error:
        # Of the path itself, where it holds a NUL.
        what = f"is no run file: it {error}"
        raise ConfigError(what, where=str(path), fix="give a TOML file") from None
    if not data.strip():
        raise ConfigError("the file is empty", where=str(path), fix=new)
    try:
        # Some editors put a byte order mark first.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("is not text in UTF-8", where=str(path), fix="give a TOML file") from None
