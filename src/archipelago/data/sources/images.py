"""A folder for each class, with pictures in it: one such folder tree a silo."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError, DataError
from archipelago.data.classes import numeric_first
from archipelago.data.label_map import check_map
from archipelago.data.raw import LabelMap, Raw
from archipelago.data.sources.files import expand
from archipelago.data.spelling import fold

__all__ = ["ENDINGS", "ImageFolder"]

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_PIXELS = 64_000_000
"""Most pixels that a picture may claim; a bomb claims more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Pictures by class.

    Attributes:
        paths: folders or patterns such as `hospitals/*`; each holds one folder a class, and
            several are a silo each.
        size: width and height to resize to; 0 refuses pictures of different sizes.
        grey: read colours as grey.
        label_map: what folders are called that silos name differently: the class of each,
            `{ "kitten" = "cat" }`, or at one silo `{ south = { "k" = "cat" } }`.
    """

    kind: Literal["image-folder"] = "image-folder"
    paths: tuple[str, ...] = ()
    size: int = 0
    grey: bool = False
    label_map: LabelMap | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("names no folder", where="data.paths", fix="e.g. ['hospitals/*']")
        at_least("data.size", self.size, 0)
        check_map(self.label_map)

    def load(self) -> Raw:
        """Read all pictures: `[rows, channels, height, width]` uint8.

        Raises:
            DataError: a folder is missing or empty, a picture cannot be read, is too large, or
                has another size than the first; it is named.
        """
        roots = expand(self.paths)
        found = [(silo, *item) for silo, root in enumerate(roots) for item in _pictures(root)]
        pictures = [self.read(path) for _, _, path in found]
        colour = any(picture.ndim == 3 for picture in pictures)
        x = _stacked(pictures, [path for _, _, path in found], colour=colour)
        several = len(roots) > 1
        stems = [root.name for root in roots]
        names = stems if len(set(stems)) == len(stems) else [str(root) for root in roots]
        return Raw(
            name=roots[0].name if not several else f"{len(roots)} folders",
            modality="image",
            x=x,
            y=np.array([label for _, label, _ in found]),
            natural=np.array([silo for silo, _, _ in found]) if several else None,
            names=tuple(names) if several else (),
            scale=np.array([1 / 255]),
            classes=() if self.label_map else _folders([label for _, label, _ in found]),
            declared=tuple(sorted({label for _, label, _ in found})),
            label_map=self.label_map or {},
        )

    def read(self, path: Path) -> np.ndarray:
        """Read one picture: uint8 `[height, width]` if grey, else `[height, width, 3]`."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as picture:
                    if picture.width * picture.height > _PIXELS:
                        raise _bomb(path, f"{picture.width} x {picture.height}")
                    return self._pixels(picture)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            size = str(error).partition(" exceeds")[0]  # what follows is Pillow's limit, not ours
            raise _bomb(path, size) from None
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                "the picture cannot be read",
                got=str(error)[:120],
                where=str(path),
                fix="replace or remove it",
            ) from None

    def _pixels(self, picture: Any) -> np.ndarray:
        grey = self.grey or picture.mode in ("1", "L", "LA")
        picture = picture.convert("L" if grey else "RGB")
        if self.size:
            picture = picture.resize((self.size, self.size))
        return np.asarray(picture, np.uint8)


def _pictures(root: Path) -> list[tuple[str, Path]]:
    if not root.is_dir():
        raise DataError(
            "a folder is needed",
            got=str(root),
            where="data.paths",
            fix="name folders that hold one folder a class",
        )
    out = [
        (folder.name, path)
        for folder in sorted(root.iterdir())
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.casefold() in ENDINGS
    ]
    if not out:
        raise DataError(
            "no picture was found",
            where=str(root),
            fix=f"lay it out as {root.name}/CLASS/picture.png",
        )
    return out


def _folders(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the classes in order: numbers first, by value."""
    return tuple(sorted(set(labels), key=lambda name: numeric_first(fold(name))))


def _stacked(pictures: Sequence[np.ndarray], paths: Sequence[Path], *, colour: bool) -> np.ndarray:
    size = pictures[0].shape[:2]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape[:2] != size:
            raise DataError(
                "pictures have different sizes",
                got=f"{picture.shape[1]} x {picture.shape[0]}, {paths[0].name} is "
                f"{size[1]} x {size[0]}",
                where=str(path),
                fix=f"set data.size, e.g. {min(size)}, to resize all of them",
            )
    if not colour:
        return np.stack(pictures)[:, None]
    same = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pictures]
    return np.ascontiguousarray(np.stack(same).transpose(0, 3, 1, 2))


def _bomb(path: Path, got: str) -> DataError:
    return DataError(
        "the picture claims more pixels than it should: a decompression bomb?",
        got=got,
        where=str(path),
        fix=f"remove it, or shrink it below {_PIXELS // 1_000_000} million pixels",
    )
