"""Tables as people keep them: three unseen styles, written by chance. Not a test."""

import csv
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np

STYLES = ("clinic", "shop", "plant")
LABEL = {"clinic": "Outcome", "shop": "Revenue (EUR)", "plant": "fault type"}


def write(folder: Path, style: str, *, rows: int = 360, seed: int = 0) -> Path:
    """Write `folder/silos/` and `folder/rows.csv` (new rows without the label); return the silos.

    `clinic`: a file a silo, two classes; `shop`: semicolons, a numeric target; `plant`: one file
    with a column of owners, three classes.
    """
    rng = np.random.default_rng(seed)
    columns, silo = _STYLES[style](rng, rows)
    label = LABEL[style]
    silos = folder / "silos"
    silos.mkdir(parents=True)
    delimiter = ";" if style == "shop" else ","
    if style == "plant":
        _csv(silos / "all.csv", {**columns, "site": silo}, np.arange(rows), delimiter)
    else:
        for name in np.unique(silo):
            _csv(silos / f"{name}.csv", columns, np.flatnonzero(silo == name), delimiter)
    fresh, _ = _STYLES[style](np.random.default_rng(seed + 1), 40)
    del fresh[label]
    _csv(folder / "rows.csv", fresh, np.arange(40), delimiter)
    return silos


Columns = dict[str, np.ndarray]


def _clinic(rng: np.random.Generator, rows: int) -> tuple[Columns, np.ndarray]:
    age, dose = rng.integers(18, 95, rows), rng.uniform(100, 9000, rows)
    smoker = rng.random(rows) < 0.4
    risk = 0.08 * (age - 55) + 1.5 * smoker + rng.normal(size=rows) > 0.5
    silo = np.array(["north", "south", "west"])[rng.integers(0, 3, rows)]
    day = [date(2019, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 900, rows)]
    columns = {
        "Patient ID": np.array([f"P-{n:06x}" for n in rng.permutation(rows) + 4096]),
        "Age": _gaps(rng, age.astype(str)),
        "Admitted": np.array([f"{d.day} {d:%b} {d.year}" for d in day]),
        "Smoker": _gaps(rng, np.where(smoker, "Yes", "no"), word="n/a"),
        "Daily dose": _gaps(rng, np.array([f"{d:,.1f}" for d in dose])),
        "Ward": _case(rng, np.array(["Surgery", "cardiology", "ICU"])[rng.integers(0, 3, rows)]),
        "Outcome": _case(rng, np.where(risk, "Readmitted", "well")),
    }
    return columns, silo


def _shop(rng: np.random.Generator, rows: int) -> tuple[Columns, np.ndarray]:
    area, open_ = rng.uniform(50, 4000, rows), rng.random(rows) < 0.5
    town = rng.integers(0, 4, rows)
    revenue = 30_000 + 40 * area + 25_000 * open_ + 8_000 * town + rng.normal(0, 4_000, rows)
    silo = np.array(["acme", "bolt", "core", "dart"])[np.arange(rows) % 4]
    day = [date(2020, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 700, rows)]
    columns = {
        "receipt": np.array([f"rcpt {n} / {n * 7 % 977}" for n in range(rows)]),
        "area m2": _gaps(rng, np.array([f"{a:,.0f}".replace(",", "'") for a in area])),
        "opened": np.array([f"{d:%d.%m.%Y}" for d in day]),
        "sunday": np.where(open_, "TRUE", "FALSE"),
        "town": _gaps(
            rng, _case(rng, np.array(["Bern", "Chur", "Thun", "Zug"])[town]), word="none"
        ),
        "Revenue (EUR)": np.array([f"{r:,.2f}" for r in revenue]),
    }
    return columns, silo


def _plant(rng: np.random.Generator, rows: int) -> tuple[Columns, np.ndarray]:
    generation, spin = rng.normal(60, 12, rows), rng.lognormal(7, 1, rows)
    fault = np.where(generation > 68, 2, np.where(spin > 1500, 1, 0))
    silo = np.array(["hall 1", "hall 2", "hall 3", "hall 4", "hall 5"])[np.arange(rows) % 5]
    day = [date(2022, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 365, rows)]
    columns = {
        "serial": np.array([f"SN{n * 7919 % 1_000_003:07d}X" for n in range(rows)]),
        "temperature": _gaps(rng, np.array([f"{h:.2f}" for h in generation])),
        "rpm": _gaps(rng, np.array([f"{s:,.0f}" for s in spin]), word="NULL"),
        "read at": np.array([f"{d:%Y-%m-%d} 0{d.day % 10}:30" for d in day]),
        "alarm": np.where(rng.random(rows) < 0.2, "y", "n"),
        "maker": _gaps(
            rng, _case(rng, np.array(["Siemens", "ABB", "bosch"])[rng.integers(0, 3, rows)])
        ),
        "fault type": _case(rng, np.array(["none seen", "Bearing", "overheated"])[fault]),
    }
    return columns, silo


_STYLES: dict[str, Callable[[np.random.Generator, int], tuple[Columns, np.ndarray]]] = {
    "clinic": _clinic,
    "shop": _shop,
    "plant": _plant,
}


def _gaps(rng: np.random.Generator, values: np.ndarray, word: str = "") -> np.ndarray:
    """Lose 30 % of the values."""
    return np.where(rng.random(len(values)) < 0.3, word, values)


def _case(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Write each value in the case that somebody felt like."""
    draw = rng.integers(0, 3, len(values))
    return np.select([draw == 0, draw == 1], [np.char.upper(values), np.char.lower(values)], values)


def _csv(path: Path, columns: Columns, rows: np.ndarray, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*(column[rows].tolist() for column in columns.values()), strict=True))
