"""Pictures from files as a shipped model wants them: resized and in its colours. Needs Pillow."""

from pathlib import Path

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.sources.images import ENDINGS, ImageFolder
from archipelago.deploy.manifest import Manifest

__all__ = ["read_pictures"]


def read_pictures(manifest: Manifest, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one picture, or all under a folder; return stored values and the files' names, sorted.

    Each is resized as training resized its own, and read as grey where the model has one channel.

    Raises:
        DataError: the model takes no pictures, there is none, or one cannot be read; it is named.
    """
    shape = manifest.preparation.shape
    if manifest.preparation.modality != "image" or shape[0] not in (1, 3):
        raise DataError(
            f"this model takes {manifest.preparation.modality} rows, not pictures",
            where=str(path),
            fix="give a file of rows",
        )
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in files if file.suffix.casefold() in ENDINGS]
    if not files:
        raise DataError("no picture was found", where=str(path), fix="give .png, .jpg, ...")
    height, width = shape[1:]
    source = ImageFolder(
        paths=(str(path),), size=height if height == width else 0, grey=shape[0] == 1
    )
    rows = []
    for file in files:
        pixels = source.read(file)
        if pixels.shape[:2] != (height, width):
            raise DataError(
                "a picture has another size than the model takes",
                got=f"{pixels.shape[1]} x {pixels.shape[0]}",
                where=str(file),
                fix=f"make it {width} x {height}",
            )
        wide = pixels[:, :, None] if pixels.ndim == 2 else pixels
        rows.append(np.broadcast_to(wide, (height, width, shape[0])).transpose(2, 0, 1))
    root = path if path.is_dir() else path.parent
    names = tuple(str(file.relative_to(root)) for file in files)
    return np.stack(rows).astype(np.float32), names
