"""The three small sets that come with scikit-learn: they work offline, at once."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from archipelago.data.raw import Raw

__all__ = ["BreastCancer", "Diabetes", "Digits", "Wine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """1,797 handwritten digits, 8 x 8 grey pixels of 0..16, 10 classes.

    References:
        Alpaydin & Kaynak 1998, UCI Machine Learning Repository, doi 10.24432/C50P49 (CC BY 4.0).
    """

    kind: Literal["digits"] = "digits"

    PUBLISHED = True

    def load(self) -> Raw:
        """Read all rows: images `[1797, 1, 8, 8]` uint8."""
        x, y = _digits()
        return Raw(
            name="digits",
            modality="image",
            x=x.reshape(-1, 1, 8, 8).astype(np.uint8),
            y=y.astype(np.int64),
            scale=np.array([1 / 16]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BreastCancer:
    """569 tumours, 30 numeric columns, malignant or benign.

    References:
        Wolberg et al. 1995, UCI Machine Learning Repository, doi 10.24432/C5DW2B (CC BY 4.0).
    """

    kind: Literal["breast-cancer"] = "breast-cancer"

    PUBLISHED = True

    def load(self) -> Raw:
        """Read all rows: 30 columns."""
        from sklearn.datasets import load_breast_cancer

        return _table("breast-cancer", load_breast_cancer())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wine:
    """178 wines, 13 numeric columns, 3 cultivars.

    References:
        Aeberhard & Forina 1992, UCI Machine Learning Repository, doi 10.24432/C5PC7J (CC BY 4.0).
    """

    kind: Literal["wine"] = "wine"

    PUBLISHED = True

    def load(self) -> Raw:
        """Read all rows: 13 columns."""
        from sklearn.datasets import load_wine

        return _table("wine", load_wine())


@dataclass(frozen=True, slots=True, kw_only=True)
class Diabetes:
    """442 patients, 10 numeric columns, disease progression after a year (regression).

    References:
        Efron et al. 2004, Annals of Statistics 32(2), section 1.
    """

    kind: Literal["diabetes"] = "diabetes"

    PUBLISHED = True

    def load(self) -> Raw:
        """Read all rows: 10 columns, in the original units."""
        from sklearn.datasets import load_diabetes

        return _table("diabetes", load_diabetes(scaled=False))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return what `sklearn.datasets.load_digits` does, where its file lies as usual.

    Importing that module takes as long as all else between `archipelago search` and its first
    round, scipy.stats included.
    """
    package = find_spec("sklearn")
    for place in (package.submodule_search_locations or ()) if package else ():
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y


def _table(name: str, bunch: object) -> Raw:
    data = vars(bunch) if not isinstance(bunch, dict) else bunch
    columns = {
        str(column): np.ascontiguousarray(data["data"][:, i], np.float64)
        for i, column in enumerate(data["feature_names"])
    }
    classes = tuple(str(c) for c in data.get("target_names", ()))
    y = np.array(classes)[data["target"]] if classes else data["target"].astype(np.float64)
    return Raw(name=name, modality="table", x=columns, y=y, classes=classes)
