"""The benchmark's networks and clients in plain torch: the same work for everyone."""

import os

import numpy as np
import torch
from torch import nn

__all__ = ["BATCH", "ROWS", "SHAPES", "answer", "clients", "network", "plain_visit"]

ROWS = int(os.environ.get("ARCHIPELAGO_ROWS", "50"))
BATCH = 10
SHAPES = {"leaf": (1, 28, 28), "pfl": (3, 32, 32), "mlp": (784,), "logistic": (784,)}


def network(name: str) -> nn.Module:
    """Return McMahan's CNN, pfl-research's CIFAR-10 CNN without dropout, or a dense network."""
    match name:
        case "leaf":
            layers = [
                *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
            ]
        case "pfl":
            layers = [
                *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),
                *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1600, 512), nn.ReLU()),
                nn.Linear(512, 10),
            ]
        case "mlp":
            layers = [
                *(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()),
                nn.Linear(200, 10),
            ]
        case _:
            layers = [nn.Linear(784, 10)]
    return nn.Sequential(*layers)


def clients(name: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every client's rows: drawn, since only the shapes matter for speed."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.standard_normal((ROWS, *SHAPES[name]), dtype=np.float32),
            rng.integers(0, 10, ROWS),
        )
        for _ in range(count)
    ]


def plain_visit(net: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int = BATCH) -> None:
    """Train one epoch the way every tutorial does."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    order = torch.randperm(len(y))
    for start in range(0, len(y), batch):
        rows = order[start : start + batch]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()


def answer(value: float) -> None:
    """Say how long a round took, then wait to be asked for the next."""
    print(f"round {value!r}", flush=True)
    if input() == "end":
        raise SystemExit
