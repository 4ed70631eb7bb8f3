"""MB432: a micro-benchmark of 432 networks on handwritten digits, each trained once. It ships here.

Two minutes make it anew (`benchmarks/mb432.py`), so anyone can check a strategy's regrets on real
trainings, in milliseconds. No torch until something is trained.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from archipelago.core.trial import Arch
from archipelago.estimate.table import Numbers, Table
from archipelago.space.dims import Choice
from archipelago.space.space import Space

__all__ = ["EPOCHS", "LENGTHS", "build", "mb432", "mb432_space", "train"]

EPOCHS = 12
LENGTHS = (1, 2, 4, EPOCHS)
"""Epochs after which a network is scored."""
FILE = Path(__file__).with_name("mb432.npz")


def mb432_space() -> Space:
    """Return the 432 members: three widths (0 leaves a layer out), activation, learning rate."""
    return Space(
        {
            "width1": Choice((8, 16, 64)),
            "width2": Choice((0, 8, 16, 64)),
            "width3": Choice((0, 8, 16, 64)),
            "activation": Choice(("relu", "tanh", "sigmoid")),
            "learning_rate": Choice((0.003, 0.03, 0.3)),
        }
    )


def mb432() -> Table:
    """Return the measured table: accuracy on held-out digits after 1, 2, 4 and 12 epochs.

    Its fidelities are 1/12, 1/6, 1/3 and 1; the reported score is the searched one.
    """
    return Table.read(FILE)


def build() -> Table:
    """Train all 432 networks and return their table; about two minutes of one core."""
    archs = list(mb432_space().enumerate())
    scores = np.array([train(arch) for arch in archs], np.float32)
    return _table(archs, scores)


def train(arch: Arch) -> tuple[float, ...]:
    """Train one member from seed 0 and return its accuracy after each of `LENGTHS` epochs.

    SGD with momentum 0.9 on batches of 64; pixels lie in [-1, 1]; 60 % of the rows, stratified,
    are trained on and 40 % held out; torch's own initialisation.
    """
    import torch
    from torch import nn

    x, y, held, answers = (torch.from_numpy(array) for array in _rows())
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    threads, scores = torch.get_num_threads(), list[float]()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers: list[nn.Module] = []
            for before, after in pairwise(_widths(arch)):
                layers += [nn.Linear(before, after), kinds[str(arch["activation"])]()]
            network = nn.Sequential(*layers[:-1])
            rate = float(arch["learning_rate"])
            sgd = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
            for epoch in range(1, EPOCHS + 1):
                for rows in torch.randperm(len(y)).split(64):
                    sgd.zero_grad()
                    nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                    sgd.step()
                if epoch in LENGTHS:
                    with torch.no_grad():
                        right = network(held).argmax(1) == answers
                    scores.append(right.float().mean().item())
    finally:
        torch.set_num_threads(threads)
    return tuple(scores)


def _rows() -> tuple[Numbers, Numbers, Numbers, Numbers]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = map(np.asarray, load_digits(return_X_y=True))
    scaled = ((pixels - 8) / 8).astype(np.float32)
    x, held, y, answers = train_test_split(
        scaled, digits, test_size=0.4, stratify=digits, random_state=0
    )
    return np.asarray(x), np.asarray(y), np.asarray(held), np.asarray(answers)


def _table(archs: Sequence[Arch], scores: Numbers) -> Table:
    space = mb432_space()
    return Table(
        name="mb432",
        space=space,
        rows={space.places(arch): row for row, arch in enumerate(archs)},
        scores={length / EPOCHS: scores[:, i] for i, length in enumerate(LENGTHS)},
        report=scores[:, -1],
        costs={"params": np.array([_params(arch) for arch in archs], np.int32)},
    )


def _widths(arch: Arch) -> list[int]:
    """Return the sizes of all layers, the 64 pixels and the 10 digits included."""
    inner = [int(arch[f"width{layer}"]) for layer in (1, 2, 3)]
    return [64, *(width for width in inner if width), 10]


def _params(arch: Arch) -> int:
    return sum((before + 1) * after for before, after in pairwise(_widths(arch)))
