"""What travels with a model: task, preparation, columns, units, versions. JSON inside the ONNX."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

from archipelago.core.errors import ArchipelagoError, ConfigError, DataError, did_you_mean
from archipelago.core.small_files import parsed_json
from archipelago.core.trial import Value
from archipelago.data.preparation import Preparation
from archipelago.data.tasks import (
    Classification,
    MultiLabel,
    Regression,
    task_from_json,
    task_to_json,
)

__all__ = ["KEY", "Manifest", "library"]

KEY = "archipelago"
"""Under this name the manifest lies in the metadata of an ONNX file."""
FORMAT = 1


@cache
def library() -> str:
    """Return the version of archipelago that is installed; "unknown" from a bare checkout."""
    try:
        return version("archipelago-nas")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything besides the network that turns a raw row into an answer.

    Attributes:
        task: with its classes in the order of the outputs, or a target's mean and scale.
        preparation: of raw rows. For images and series its arithmetic is in the graph as well, so
            that the network takes stored values; a table's is applied before the network.
        units: of columns, by name, where somebody wrote them down; of the target under "".
        about: what the maker says of the model: run, score, seeds, fingerprint of the data.
        library: version of archipelago that wrote it.

    Raises:
        ConfigError: a unit belongs to no column.
    """

    task: Classification | MultiLabel | Regression
    preparation: Preparation
    units: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Value | None] = field(default_factory=dict)
    library: str = field(default_factory=library)

    def __post_init__(self) -> None:
        known = {"", *(column.name for column in self.preparation.columns)}
        for name in self.units:
            if name not in known:
                fix = did_you_mean(name, known - {""})
                raise ConfigError("a unit for a column that the model lacks", got=name, fix=fix)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the outputs; empty for a regression."""
        return () if isinstance(self.task, Regression) else self.task.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a table's rows must have."""
        return tuple(c.name for c in self.preparation.columns if not c.dropped)

    def to_json(self) -> str:
        """Return JSON text; `from_json` is its inverse. Columns and labels come first, to read."""
        columns = [
            {"name": c.name, "kind": c.kind, "unit": self.units.get(c.name, "")}
            for c in self.preparation.columns
            if not c.dropped
        ]
        data = {
            "format": FORMAT,
            "library": self.library,
            "labels": self.labels,
            "columns": columns,
            "units": dict(self.units),
            "task": task_to_json(self.task),
            "preparation": json.loads(self.preparation.to_json()),
            "about": {name: _or_none(value) for name, value in self.about.items()},
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Rebuild what `to_json` wrote; nothing in `text` is trusted.

        Args:
            where: the file, for messages.

        Raises:
            DataError: not a manifest, written by a newer version, or a column of it is lost.
        """
        try:
            data = parsed_json(text)
            if not isinstance(data, dict) or type(data.get("format")) is not int:
                raise _unreadable("it names no format", where)
            if data["format"] > FORMAT:
                raise DataError(
                    "this model was written by a newer version",
                    got=f"format {data['format']} of archipelago-nas {data.get('library')}, "
                    f"this is format {FORMAT} of {library()}",
                    where=where,
                    fix="pip install --upgrade archipelago-nas",
                )
            made = cls(
                task=task_from_json(data["task"]),
                preparation=Preparation.from_json(json.dumps(data["preparation"])),
                units=_of_text(data["units"]),
                about=_of_values(data["about"]),
                library=_of_text({"": data["library"]})[""],
            )
            _complete(made.preparation)
            _answers(made.task)
            return made
        except DataError as error:
            raise DataError(error.what, got=error.got, where=where, fix=error.fix) from None
        except KeyError as error:
            raise _unreadable(f"{error} is missing", where) from None
        except ArchipelagoError as error:
            raise _unreadable(error.what, where) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise _unreadable(str(error)[:200], where) from None


def _complete(preparation: Preparation) -> None:
    """Refuse columns, or windows, that do not add up to the network's input."""
    windows, shape = preparation.windows, preparation.shape
    if windows and (preparation.modality != "series" or shape[-1:] != (windows.length,)):
        raise DataError(
            "the windows described in this model do not fit its network",
            got=f"windows of {windows.length} steps, the network takes {shape}",
            fix="export the model again with `archipelago export`; do not edit its metadata",
        )
    width = len(preparation.features)
    if preparation.modality == "table" and preparation.shape != (width,):
        raise DataError(
            "the columns described in this model do not fit its network",
            got=f"{width} features, the network takes {preparation.shape}",
            fix="export the model again with `archipelago export`; do not edit its metadata",
        )


def _answers(task: Classification | MultiLabel | Regression) -> None:
    """Refuse classes, or a scale, with which an answer would mean nothing."""
    if isinstance(task, Regression):
        if not 0 < task.scale < 1e37:
            raise ValueError("task.scale: must be above zero")
        return
    if not task.classes or len(set(task.classes)) != len(task.classes):
        raise ValueError("task.classes: must be names, each there once")
    if isinstance(task, MultiLabel):
        if not task.separator or any(task.separator in name for name in task.classes):
            raise ValueError("task.separator: must stand between names, and in none of them")
    elif task.weights and len(task.weights) != len(task.classes):
        raise ValueError("task.weights: must be one a class")


def _or_none(value: Value | None) -> Value | None:
    """Return `value`, of a score that is undefined None: JSON has no word for it."""
    return None if isinstance(value, float) and not isfinite(value) else value


def _of_text(data: Mapping[Any, Any]) -> dict[str, str]:
    for name, text in data.items():
        if not isinstance(text, str):
            raise ValueError(f"units.{name}: must be text" if name else "library: must be text")
    return dict(data)


def _of_values(data: Mapping[Any, Any]) -> dict[str, Value | None]:
    for name, value in data.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise ValueError(f"about.{name}: must be one plain value")
    return dict(data)


def _unreadable(got: str, where: str) -> DataError:
    return DataError(
        "what travels with this model cannot be read",
        got=got,
        where=where,
        fix="export the model again with `archipelago export`",
    )
