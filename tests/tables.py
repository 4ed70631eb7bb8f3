"""Tables for tests: the measured one where it is there, and small made-up ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from archipelago.estimate.nasbench201 import nasbench201
from archipelago.estimate.table import Table
from archipelago.space.dims import Choice
from archipelago.space.space import Space


def need_bench(name="nb201.npz"):
    if not (Path(os.environ.get("ARCHIPELAGO_BENCH", "")) / name).is_file():
        if os.environ.get("ARCHIPELAGO_REQUIRE_DATA") == "1":
            pytest.fail(f"ARCHIPELAGO_REQUIRE_DATA is set and {name} is not there")
        pytest.skip(f"{name} is not in ARCHIPELAGO_BENCH")


def cells(dataset="cifar10", **options):
    need_bench()
    return nasbench201(dataset, **options)


def toy(missing=(), fidelities=(1.0,)):
    """Three choices of four; the score is the sum of the places, reported as its square."""
    space = Space({name: Choice((1, 2, 3, 4)) for name in "abc"})
    rows = {space.places(arch): row for row, arch in enumerate(space.enumerate())}
    full = np.array([float(sum(places)) for places in rows])
    full[list(missing)] = np.nan
    return Table(
        name="toy",
        space=space,
        rows=rows,
        scores={f: full * f for f in fidelities},
        report=full**2,
        costs={"params": np.array([float(places[0]) for places in rows])},
    )
