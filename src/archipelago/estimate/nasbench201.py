"""The published NAS-Bench-201 measurements as a table."""

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from archipelago.core.checks import one_of
from archipelago.core.errors import DataError
from archipelago.estimate.table import Numbers, Table
from archipelago.space.nasbench201 import cell_space

__all__ = ["BENCH", "Dataset", "nasbench201", "proxy"]

BENCH = "ARCHIPELAGO_BENCH"
"""Environment variable: the directory of `nb201.npz` and `nb201_edge_hw360.npz`."""

Dataset = Literal["cifar10", "cifar100", "imagenet16"]
_SHORT = {"cifar10": "c10", "cifar100": "c100", "imagenet16": "in16"}
_SOURCE = (
    "set ARCHIPELAGO_BENCH to the directory that holds it; the measurements are those of "
    "github.com/D-X-Y/NATS-Bench (MIT) and roldebijvank/HW-NAS-Bench-360"
)


def nasbench201(dataset: Dataset = "cifar10", *, selected_on: Dataset | None = None) -> Table:
    """Return the 15,625 cells: searched on validation after 12 epochs, reported on test after 200.

    Args:
        dataset: whose test accuracy (percent, mean over training seeds) is reported.
        selected_on: whose validation accuracy (percent) is searched on; `dataset`'s if None.

    Returns:
        A table with the costs `params`, `macs` and, where measured, `energy` (mJ) and `latency`
        (ms) of one CIFAR-100 sized picture on a Raspberry Pi 5.

    References:
        Dong and Yang 2020, arXiv:2001.00326.
    """
    one_of("dataset", dataset, get_args(Dataset))
    column = get_args(Dataset).index(dataset)
    chosen = get_args(Dataset).index(selected_on or dataset)
    data = _arrays("nb201.npz")
    costs: dict[str, Numbers] = {
        "params": data["params"][:, column],
        "macs": data["macs"][:, column],
    }
    if (_directory() / "nb201_edge_hw360.npz").is_file():
        edge = _arrays("nb201_edge_hw360.npz")
        costs["energy"] = edge["pi5_litert_cifar100_energy_mj"]
        costs["latency"] = edge["pi5_litert_cifar100_lat_ms"]
    return Table(
        name=f"nasbench201-{dataset}" + ("-transfer" if chosen != column else ""),
        space=cell_space(),
        rows={tuple(ops): row for row, ops in enumerate(data["ops"].tolist())},
        scores={1.0: data["val12"][:, chosen].astype(float)},
        report=data["test200"][:, column].astype(float),
        costs=costs,
    )


def proxy(name: Literal["naswot", "ntk"], dataset: Dataset = "cifar10") -> Numbers:
    """Return a zero-cost score of every row, as published; minus infinity for degenerate cells."""
    return _arrays("nb201.npz")[f"zc_{name}_{_SHORT[dataset]}"].astype(float)


def _directory() -> Path:
    return Path(os.environ.get(BENCH, ""))


def _arrays(name: str) -> dict[str, Numbers]:
    path = _directory() / name
    if not os.environ.get(BENCH) or not path.is_file():
        raise DataError("a benchmark table is not there", where=str(path), fix=_SOURCE)
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
