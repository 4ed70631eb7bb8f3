"""Nothing that a client sent counts before it has passed here."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from archipelago.core.errors import MachineFailed, UpdateRefused
from archipelago.core.failure import MACHINES, Kind
from archipelago.core.update import Update
from archipelago.wire.frame import Frame, unpack

__all__ = ["FAILED", "Said", "failed", "parted", "scored", "summed", "unread", "updated"]

FAILED = "the client's work failed"
"""How what is said of a client begins whose engine gives a reason instead of a reply."""

_AGAIN = "free memory or disk, or lower engine.workers; `archipelago resume DIR` goes on"


class Said(NamedTuple):
    """What a client says beside an update that came in a sum.

    Attributes:
        examples: training rows behind it.
        seen: rows over all epochs.
        loss: mean training loss.
        nbytes: of the frame that it would have sent.
    """

    examples: int
    seen: int
    loss: float
    nbytes: int


def failed(reason: str | None, kind: Kind | None = None) -> UpdateRefused:
    """Return what is said of a client whose work failed: the first line of the reason goes on.

    Args:
        reason: in words.
        kind: what failed; None is the client's work.

    Raises:
        MachineFailed: a worker or a machine failed: no client refused anything.
    """
    first = (reason or "no reply").strip().partition("\n")[0]
    if kind in MACHINES:
        raise MachineFailed("a machine failed, not a client", got=first[:400], fix=_AGAIN)
    refusal = UpdateRefused(f"{FAILED}: {first[:200]}", got=reason if reason != first else None)
    refusal.kind = kind or "work"
    return refusal


def unread(refusal: UpdateRefused) -> bool:
    """Whether a client's work failed because its files could not be read."""
    return refusal.kind == "data"


def parted(data: memoryview, scalars: int) -> tuple[memoryview, torch.Tensor]:
    """Part a client's reply into the frame that travels and what the client keeps, copied.

    Args:
        data: a frame and, behind it, `scalars` float32 that never leave the client.
        scalars: how many it keeps.

    Raises:
        UpdateRefused: it is too short, or the client keeps numbers that are not finite.
    """
    if not scalars:
        return data, torch.zeros(0)
    start = data.nbytes - 4 * scalars
    if start < 0:
        raise UpdateRefused("a reply is cut short", got=f"{data.nbytes} bytes")
    kept = np.frombuffer(data[start:], "<f4").copy()
    if not np.isfinite(kept).all():
        raise UpdateRefused(
            "a client would keep numbers that are not finite",
            fix="lower client.local.learning_rate or set client.local.clip",
        )
    return data[:start], torch.from_numpy(kept)


def updated(
    data: memoryview,
    *,
    client: int,
    branch: int,
    round: int,
    size: int,
    norm: float = 0.0,
    extras: Mapping[str, int] | None = None,
) -> tuple[Update, int]:
    """Read an `update` frame and check it against what was asked.

    Args:
        data: the frame; the update's tensor is a view of it.
        client: who was asked.
        branch: for which model.
        round: in which round.
        size: scalars of the model that travel.
        norm: largest L2 norm accepted; 0 accepts any finite one.
        extras: names and sizes of the further vectors that must come with it.

    Returns:
        The update, and the rows seen over all epochs.

    Raises:
        UpdateRefused: says which check failed.
    """
    wanted = extras or {}
    frame = unpack(data, limit=4 * (size + sum(wanted.values())) + 65_536)
    fields = _expected(frame, "update", client=client, branch=branch, round=round)
    if len(frame.arrays) != 1 + len(wanted):
        raise UpdateRefused(
            "a reply must hold exactly one array"
            if not wanted
            else f"a reply must hold the update and {', '.join(wanted)}",
            got=len(frame.arrays),
        )
    delta = _array(frame, 0, "<f4", (size,))
    further = {
        name: _array(frame, index, "<f4", (wanted[name],)) for index, name in enumerate(wanted, 1)
    }
    if not all(np.isfinite(array).all() for array in further.values()):
        raise UpdateRefused("the update's further vectors are not finite", got=list(wanted))
    length = _length(delta)
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
        delta=_tensor(delta),
        examples=examples,
        steps=steps,
        effort=_effort(fields, steps),
        metrics=_metrics(fields),
        extras={name: _tensor(array) for name, array in further.items()},
    )
    return update, _count(fields, "seen")


def summed(
    data: memoryview, *, clients: Sequence[int], branch: int, round: int, size: int
) -> tuple[torch.Tensor, list[Said]]:
    """Read a `sum` frame, of several clients' updates, and check it against what was asked.

    Returns:
        The weighted sum, a view of the frame, and what each client said, in the order of `clients`.

    Raises:
        UpdateRefused: says which check failed.
    """
    frame = unpack(data, limit=4 * size + 65_536 + 1_024 * len(clients))
    fields = _expected(frame, "sum", branch=branch, round=round)
    if fields.get("client") != list(clients):
        raise UpdateRefused("the sum of other clients' updates", got=str(fields.get("client"))[:80])
    if len(frame.arrays) != 1:
        raise UpdateRefused("a reply must hold exactly one array", got=len(frame.arrays))
    total = _array(frame, 0, "<f4", (size,))
    if not math.isfinite(_length(total)):
        raise UpdateRefused("a sum of updates holds numbers that are not finite")
    examples, seen, nbytes = (
        _column(fields, name, len(clients), _whole) for name in ("examples", "seen", "bytes")
    )
    loss = _column(fields, "loss", len(clients), _number)
    said = [Said(*row) for row in zip(examples, seen, loss, nbytes, strict=True)]
    return _tensor(total), said


def scored(data: memoryview, *, client: int, branch: int, round: int, size: int) -> np.ndarray:
    """Read a `score` frame: sufficient statistics, float64, shape `[size]`, copied.

    Raises:
        UpdateRefused: says which check failed.
    """
    frame = unpack(data, limit=8 * size + 65_536)
    _expected(frame, "score", client=client, branch=branch, round=round)
    if len(frame.arrays) != 1:
        raise UpdateRefused("a reply must hold exactly one array", got=len(frame.arrays))
    return _array(frame, 0, "<f8", (size,)).copy()


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


def _length(array: np.ndarray) -> float:
    return math.sqrt(float(np.vdot(array, array)))  # NaN and infinity go through, to be refused


def _array(frame: Frame, index: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    array = frame.arrays[index]
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise UpdateRefused(
            "the array does not fit the model",
            got=f"{array.dtype} {array.shape}",
            fix=f"expected {np.dtype(dtype)} {shape}",
        )
    return array


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if value is None or not _whole(value):
        raise UpdateRefused(f"{name} must be a positive whole number", got=value)
    return value


def _column(fields: Mapping[str, Any], name: str, count: int, fits: Callable[[Any], bool]) -> Any:
    values = fields.get(name)
    if not isinstance(values, list) or len(values) != count or not all(map(fits, values)):  # pyright: ignore[reportUnknownArgumentType]
        raise UpdateRefused(f"a sum's {name} must be numbers, one a client", got=str(values)[:80])
    return values  # pyright: ignore[reportUnknownVariableType]


def _whole(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 40


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _effort(fields: Mapping[str, Any], steps: int) -> float:
    value = fields.get("effort", steps)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 40:
        raise UpdateRefused("effort must be a positive number", got=value)
    return float(value)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _metrics(fields: Mapping[str, Any]) -> dict[str, float]:
    metrics = fields.get("metrics")
    if not isinstance(metrics, dict) or len(metrics) > 64:
        raise UpdateRefused("metrics must be a small table of numbers", got=str(metrics)[:80])
    if not all(isinstance(value, int | float) for value in metrics.values()):
        raise UpdateRefused("a metric is not a number", got=str(metrics)[:80])
    return {str(name): float(value) for name, value in metrics.items()}
