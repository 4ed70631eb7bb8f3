"""From a path that somebody typed to the source that reads it."""

from collections.abc import Sequence
from pathlib import Path

from archipelago.core.errors import ConfigError, DataError
from archipelago.data.raw import LabelMap
from archipelago.data.sources.files import Files
from archipelago.data.sources.images import ImageFolder

__all__ = ["locate"]

_TABLES = (".csv", ".csv.gz", ".tsv", ".parquet", ".npz")
_SIDE = 32
"""Pixels a side, where pictures differ in size and somebody must choose."""


def locate(
    paths: Sequence[str], *, label: str, client: str = "", label_map: LabelMap | None = None
) -> Files | ImageFolder:
    """Return the source for files, patterns, a folder of tables, or folders of pictures.

    Args:
        paths: a folder holds either a table a silo, or pictures as `SILO/CLASS/picture.png`, or
            as `CLASS/picture.png`.
        label: the column to predict; pictures take it from their folder.
        client: the column of owners, where one file holds all silos.
        label_map: as in `Files` and `ImageFolder`.

    Raises:
        DataError: there is nothing that is read.
        ConfigError: a table is given without a label.
    """
    folders = [path for path in paths if Path(path).is_dir()]
    if folders and len(folders) == len(paths) and not any(map(_tables, folders)):
        return _pictures(folders, label_map)
    found: list[str] = []
    for path in paths:
        endings = _tables(path) if Path(path).is_dir() else []
        if len(endings) > 1:
            raise DataError(
                "the folder holds tables of several kinds",
                got=endings,
                where=path,
                fix=f"name those you mean, e.g. --data '{path}/*{endings[0]}'",
            )
        found.append(f"{path.rstrip('/')}/*{endings[0]}" if endings else path)
    if not label:
        raise ConfigError(
            "which column is to be predicted?", where="--label", fix="add --label COLUMN"
        )
    return Files(paths=tuple(found), label=label, client=client, label_map=label_map)


def _tables(folder: str) -> list[str]:
    names = [path.name.casefold() for path in Path(folder).iterdir() if path.is_file()]
    return [
        ending
        for ending in _TABLES
        if any(name.endswith(ending) and not name.startswith(".") for name in names)
    ]


def _pictures(folders: Sequence[str], label_map: LabelMap | None) -> ImageFolder:
    found = tuple(path for folder in folders for path in _roots(folder))
    source = ImageFolder(paths=found, label_map=label_map)
    try:
        source.load()
    except DataError as error:
        if error.what != "pictures have different sizes":
            raise
        return ImageFolder(paths=found, size=_SIDE, label_map=label_map)
    return source


def _roots(folder: str) -> tuple[str, ...]:
    """Return the pattern of the silos' folders, or the folder where it holds the classes itself."""
    inner = [path for path in sorted(Path(folder).iterdir()) if path.is_dir()]
    if not inner:
        raise DataError(
            "the folder holds neither tables nor folders of pictures",
            where=folder,
            fix=f"give {', '.join(_TABLES)} files, or pictures as {folder}/SILO/CLASS/picture.png",
        )
    deeper = any(path.is_dir() for first in inner for path in first.iterdir())
    return (f"{folder.rstrip('/')}/*",) if deeper else (folder,)
