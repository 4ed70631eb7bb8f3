"""Raw rows in, answers out. Needs onnxruntime and NumPy only: no torch, no pandas."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.sources.images import ENDINGS
from archipelago.data.tasks import MultiLabel, Regression
from archipelago.deploy.pictures import read_pictures
from archipelago.deploy.rows import Rows, read_rows
from archipelago.deploy.session import Session

__all__ = ["Predictions", "predict"]

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""With these begin cells that a spreadsheet computes; the last four are their full-width twins."""
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """One answer a row, in the order of the file; of long recordings one a recording.

    Attributes:
        answers: class names `[rows]`; of several labels joined by the task's separator; of a
            regression float64 in the target's unit.
        probabilities: float32 `[rows, classes]`, of a recording the mean of its windows'; no
            columns for a regression.
        classes: names of these columns.
        unused: columns of the file that the model does not need.
        files: names of the pictures, one a row; empty for other rows.
    """

    answers: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    unused: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Rows."""
        return len(self.answers)

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the fields of `rows`."""
        first = ("file",) if self.files else ()
        return (*first, "prediction", *(f"p({name})" for name in self.classes))

    def rows(self) -> Iterator[tuple[str | float, ...]]:
        """Yield the answer and the probabilities of each row, behind its picture's name."""
        answers, shares = self.answers.tolist(), self.probabilities.tolist()
        for row, (answer, share) in enumerate(zip(answers, shares, strict=True)):
            yield (*self.files[row : row + 1], answer, *share)

    def cells(self) -> Iterator[tuple[str | float, ...]]:
        """Yield `rows` as they are written: probabilities in six digits, no text as a formula.

        A spreadsheet computes a cell that begins with `=`, `+`, `-` or `@`: before such text, of a
        class or a file name, stands an apostrophe. Numbers stay as they are.
        """
        plain = len(self.header) - len(self.classes)
        for row in self.rows():
            yield (*map(_inert, row[:plain]), *(f"{share:.6g}" for share in row[plain:]))

    def write(self, path: str | Path) -> None:
        """Write a CSV with a header; see `cells`.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            with _created(Path(path)) as file:
                writer = csv.writer(file)
                writer.writerow(self.header)
                writer.writerows(self.cells())
        except OSError as error:
            raise DataError(
                "the predictions cannot be written",
                got=error.strerror,
                where=str(path),
                fix="give --out a file in a folder that is there",
            ) from None


def _inert(cell: str | float) -> str | float:
    formula = isinstance(cell, str) and cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def _created(path: Path) -> TextIO:
    # Names of files need not be text: what cannot be encoded is written as an escape.
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def predict(
    model_path: str | Path, rows_path: str | Path, *, channels: str = "auto"
) -> Predictions:
    """Apply a shipped model to a file of raw rows.

    Args:
        model_path: an ONNX file from `export_onnx`.
        rows_path: CSV, TSV, gzipped CSV, Parquet or NPZ; see `deploy.rows.read_rows`. A picture,
            or a folder of pictures, for a model of pictures; that needs Pillow.
        channels: where the channels of images and series are: `first`, `last` or `auto`.

    Raises:
        DataError: the model or the file cannot be used, or they do not fit each other; the column
            is named.
    """
    session = Session.open(model_path)
    manifest = session.manifest
    files: tuple[str, ...] = ()
    if Path(rows_path).is_dir() or Path(rows_path).suffix.casefold() in ENDINGS:
        x, files = read_pictures(manifest, Path(rows_path))
        rows = Rows(x=x)
    else:
        rows = read_rows(manifest, rows_path, channels=channels)
    logits, windows = session.run(rows.x)
    _refuse_infinite(session, rows, logits, windows)
    scores, whole = rows.mean(windows), rows.windows is None
    names = np.array(manifest.labels, dtype=np.str_)
    match manifest.task:
        case Regression() as task:
            answers, scores = rows.mean(task.predict(logits)), scores[:, :0]
        case MultiLabel() as task:
            chosen = [names[row] for row in (logits > 0 if whole else scores > 0.5)]
            answers = np.array([task.separator.join(some) for some in chosen], dtype=np.str_)
        case _:
            answers = names[(logits if whole else scores).argmax(1)]
    return Predictions(
        answers=answers,
        probabilities=scores,
        classes=manifest.labels,
        unused=rows.unused,
        files=files,
    )


def _refuse_infinite(session: Session, rows: Rows, *answers: np.ndarray) -> None:
    broken = ~np.all([np.isfinite(answer).all(1) for answer in answers], axis=0)
    if broken.any():
        what = "rows" if rows.windows is None else "windows"
        raise DataError(
            "the network gives no finite answer",
            got=f"{int(broken.sum())} of {len(broken)} {what}, the first is {int(broken.argmax())}",
            where=str(session.path),
            fix="leave out rows with values far from those of training; if none is, do not use it",
        )
