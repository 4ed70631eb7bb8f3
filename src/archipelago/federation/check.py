"""Nothing that a client sent counts before it has passed here."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from archipelago.core.errors import UpdateRefused
from archipelago.core.update import Update
from archipelago.wire.frame import Frame, unpack

__all__ = ["scored", "updated"]


def updated(
    data: memoryview, *, client: int, branch: int, round: int, size: int, norm: float = 0.0
) -> tuple[Update, int]:
    """Read an `update` frame and check it against what was asked.

    Args:
        data: the frame; the update's tensor is a view of it.
        client: who was asked.
        branch: for which model.
        round: in which round.
        size: scalars of the model.
        norm: largest L2 norm accepted; 0 accepts any finite one.

    Returns:
        The update, and the rows seen over all epochs.

    Raises:
        UpdateRefused: says which check failed.
    """
    frame = unpack(data, limit=4 * size + 65_536)
    fields = _expected(frame, "update", client=client, branch=branch, round=round)
    delta = _array(frame, "<f4", (size,))
    length = float(np.linalg.norm(delta))
    if not math.isfinite(length):
        raise UpdateRefused(
            "the update holds numbers that are not finite",
            got=f"client {client}, loss {fields.get('metrics')}",
            fix="lower client.learning_rate or set client.clip",
        )
    if norm and length > norm:
        raise UpdateRefused("the update is longer than the bound", got=f"{length:.4g} > {norm:g}")
    examples, steps = _count(fields, "examples"), _count(fields, "steps")
    update = Update(
        client=client,
        delta=torch.from_numpy(delta if delta.flags.writeable else delta.copy()),
        examples=examples,
        steps=steps,
        metrics=_metrics(fields),
    )
    return update, _count(fields, "seen")


def scored(data: memoryview, *, client: int, branch: int, round: int, size: int) -> np.ndarray:
    """Read a `score` frame: sufficient statistics, float64, shape `[size]`, copied.

    Raises:
        UpdateRefused: says which check failed.
    """
    frame = unpack(data, limit=8 * size + 65_536)
    _expected(frame, "score", client=client, branch=branch, round=round)
    return _array(frame, "<f8", (size,)).copy()


def _expected(frame: Frame, kind: str, **asked: int) -> Mapping[str, Any]:
    if frame.kind != kind:
        raise UpdateRefused("a reply of the wrong kind", got=frame.kind, fix=f"expected {kind!r}")
    for name, value in asked.items():
        if frame.fields.get(name) != value:
            raise UpdateRefused(
                f"the reply names another {name}",
                got=frame.fields.get(name),
                fix=f"this one was asked for {value}",
            )
    return frame.fields


def _array(frame: Frame, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(frame.arrays) != 1:
        raise UpdateRefused("a reply must hold exactly one array", got=len(frame.arrays))
    array = frame.arrays[0]
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise UpdateRefused(
            "the array does not fit the model",
            got=f"{array.dtype} {array.shape}",
            fix=f"expected {np.dtype(dtype)} {shape}",
        )
    return array


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 40:
        raise UpdateRefused(f"{name} must be a positive whole number", got=value)
    return value


def _metrics(fields: Mapping[str, Any]) -> dict[str, float]:
    metrics = fields.get("metrics")
    if not isinstance(metrics, dict) or len(metrics) > 64:
        raise UpdateRefused("metrics must be a small table of numbers", got=str(metrics)[:80])
    if not all(isinstance(value, int | float) for value in metrics.values()):
        raise UpdateRefused("a metric is not a number", got=str(metrics)[:80])
    return {str(name): float(value) for name, value in metrics.items()}
