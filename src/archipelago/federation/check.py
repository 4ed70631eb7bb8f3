"""Nothing that a client sent counts before it has passed here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from archipelago.core.errors import MachineFailed, UpdateRefused
from archipelago.core.failure import MACHINES, Kind
from archipelago.core.update import Update
from archipelago.federation.counts import Counts
from archipelago.wire.frame import Frame, reading, unpack

__all__ = ["FAILED", "Said", "failed", "parted", "scored", "summed", "unread", "updated", "wild"]

FAILED = "the client's work failed"
"""How what is said of a client begins whose engine gives a reason instead of a reply."""

_AGAIN = "free memory or disk, or lower engine.workers; `archipelago resume DIR` goes on"

_WILD = "the update holds numbers that are not finite"
_KEPT = "a client would keep numbers that are not finite"
_LOSS = "the training loss is not finite"
_SLOWER = "lower client.learning_rate or set client.clip"
_LARGEST = 3.5e38
"""Of a loss: it is worked out in float32."""

_UPDATE = frozenset({"client", "branch", "round", "examples", "seen", "steps", "metrics"})
_SUM = frozenset({"client", "branch", "round", "examples", "seen", "loss", "bytes"})
_SCORE = frozenset({"client", "branch", "round", "examples"})
_FRAME = 65_536
"""Bytes of a frame beside its arrays."""


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
    said = (reason or "no reply")[:10_000]  # printed in terminals, by people who look for the cause
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in said)
    first = text.strip().partition("\n")[0]
    if kind in MACHINES:
        raise MachineFailed("a machine failed, not a client", got=first[:400], fix=_AGAIN)
    refusal = UpdateRefused(f"{FAILED}: {first[:200]}", got=text if text != first else None)
    refusal.kind = kind or "work"
    return refusal


def wild(refusal: UpdateRefused) -> bool:
    """Whether the candidate may be at fault: its training diverged, or cannot be done at all."""
    return refusal.what in (_WILD, _KEPT, _LOSS) or refusal.what.startswith(FAILED)


def unread(refusal: UpdateRefused) -> bool:
    """Whether a client's work failed because its files could not be read."""
    return refusal.kind == "data"


@reading()
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
            _KEPT,
            fix="lower client.local.learning_rate or set client.local.clip",
        )
    return data[:start], torch.from_numpy(kept)


@reading()
def updated(
    data: memoryview,
    *,
    client: int,
    branch: int,
    round: int,
    size: int,
    norm: float = 0.0,
    extras: Mapping[str, int] | None = None,
    counts: Counts | None = None,
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
        counts: what it may say of its work; None takes any positive numbers.

    Returns:
        The update, and the rows seen over all epochs.

    Raises:
        UpdateRefused: says which check failed.
    """
    wanted = extras or {}
    frame = unpack(data, limit=4 * (size + sum(wanted.values())) + _FRAME)
    fields = _expected(frame, "update", _UPDATE, client=client, branch=branch, round=round)
    if len(frame.arrays) != 1 + len(wanted):
        raise UpdateRefused(
            "a reply must hold exactly one array"
            if not wanted
            else f"a reply must hold the update and {', '.join(wanted)}",
            got=len(frame.arrays),
        )
    delta = _vector(frame, 0, "<f4", (size,))
    further = {
        name: _vector(frame, index, "<f4", (wanted[name],)) for index, name in enumerate(wanted, 1)
    }
    metrics = _metrics(fields)
    length = _length(delta)
    if not math.isfinite(length):
        raise UpdateRefused(_WILD, got=f"client {client}, loss {metrics.get('loss')}", fix=_SLOWER)
    if not all(math.isfinite(_length(array)) for array in further.values()):
        raise UpdateRefused(_WILD, got=list(wanted), fix=_SLOWER)
    if norm and length > norm:
        raise UpdateRefused("the update is longer than the bound", got=f"{length:.4g} > {norm:g}")
    examples, seen, steps = (_count(fields, name) for name in ("examples", "seen", "steps"))
    effort = _effort(fields, steps)
    if counts is not None:
        counts.work(examples, seen)
        counts.way(examples, seen, steps, effort)
    _plausible(metrics, -_LARGEST if counts is None else counts.least)
    update = Update(
        client=client,
        delta=_tensor(delta),
        examples=examples,
        steps=steps,
        effort=effort,
        metrics=metrics,
        extras={name: _tensor(array) for name, array in further.items()},
        length=length,
    )
    return update, seen


@reading()
def summed(
    data: memoryview,
    *,
    clients: Sequence[int],
    branch: int,
    round: int,
    size: int,
    counts: Sequence[Counts] | None = None,
) -> tuple[torch.Tensor, list[Said]]:
    """Read a `sum` frame, of several clients' updates, and check it against what was asked.

    Returns:
        The weighted sum, a view of the frame, and what each client said, in the order of `clients`.

    Raises:
        UpdateRefused: says which check failed.
    """
    frame = unpack(data, limit=4 * size + _FRAME + 1_024 * len(clients))
    fields = _expected(frame, "sum", _SUM, branch=branch, round=round)
    names = fields.get("client")
    same = isinstance(names, list) and {*map(type, names)} == {int}  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if not same or names != list(clients):
        raise UpdateRefused("the sum of other clients' updates", got=_brief(names))
    if len(frame.arrays) != 1:
        raise UpdateRefused("a reply must hold exactly one array", got=len(frame.arrays))
    total = _vector(frame, 0, "<f4", (size,))
    if not math.isfinite(_length(total)):
        raise UpdateRefused("a sum of updates holds numbers that are not finite")
    examples, seen, nbytes = (
        _column(fields, name, len(clients), {int}, (1, (1 << 40) - 1))
        for name in ("examples", "seen", "bytes")
    )
    least = counts[0].least if counts else -_LARGEST
    loss = _column(fields, "loss", len(clients), {int, float}, (least, _LARGEST))
    if max(nbytes) > 4 * size + _FRAME:
        raise UpdateRefused("a sum's bytes are more than an update's", got=max(nbytes))
    for bound, rows, passed in zip(counts or (), examples, seen, strict=counts is not None):
        if rows > bound.rows or passed > rows * bound.passes:
            bound.work(rows, passed)
    said = [Said(*row) for row in zip(examples, seen, loss, nbytes, strict=True)]
    return _tensor(total), said


@reading()
def scored(
    data: memoryview, *, client: int, branch: int, round: int, size: int, rows: int | None = None
) -> np.ndarray:
    """Read a `score` frame: sufficient statistics, float64, shape `[size]`, copied.

    What they may be is the task's to say: `data/bounds.py`.

    Args:
        data: the frame.
        client: who was asked.
        branch: for which model.
        round: after which round.
        size: of the vector.
        rows: on which it was to be scored; None takes any.

    Raises:
        UpdateRefused: says which check failed.
    """
    frame = unpack(data, limit=8 * size + _FRAME)
    fields = _expected(frame, "score", _SCORE, client=client, branch=branch, round=round)
    if len(frame.arrays) != 1:
        raise UpdateRefused("a reply must hold exactly one array", got=len(frame.arrays))
    said = fields.get("examples")
    if type(said) is not int or said < 0 or (rows is not None and said != rows):
        raise UpdateRefused(
            "a score of other rows than were asked for",
            got=_brief(said),
            fix=None if rows is None else f"this client was to score {rows} rows",
        )
    return _vector(frame, 0, "<f8", (size,)).copy()


def _expected(frame: Frame, kind: str, names: frozenset[str], **asked: int) -> Mapping[str, Any]:
    fields = frame.fields
    if frame.kind != kind:
        raise UpdateRefused(
            "a reply of the wrong kind", got=_brief(frame.kind), fix=f"expected {kind!r}"
        )
    for name, value in asked.items():
        said = fields.get(name)
        if type(said) is not int or said != value:  # True == 1, and 1.0 == 1
            raise UpdateRefused(
                f"the reply names another {name}",
                got=_brief(said),
                fix=f"this one was asked for {value}",
            )
    if more := fields.keys() - names - {"effort" if kind == "update" else "client"}:
        raise UpdateRefused("a reply says what nobody asked for", got=_brief(sorted(more)))
    return fields


def _length(array: np.ndarray) -> float:
    # NaN and infinity go through, to be refused; so does what is too long for its square to be one.
    return math.sqrt(float(np.vdot(array, array)))


def _vector(frame: Frame, index: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
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
    if not _whole(value):
        raise UpdateRefused(f"{name} must be a positive whole number", got=_brief(value))
    return value  # pyright: ignore[reportReturnType]


def _column(
    fields: Mapping[str, Any], name: str, count: int, types: set[type], ends: tuple[float, float]
) -> Any:
    """Return one number a client. A loop of a hundred steps would show in a round of as many."""
    least, most = ends
    values: Any = fields.get(name)
    if not (
        isinstance(values, list)
        and len(values) == count  # pyright: ignore[reportUnknownArgumentType]
        and {*map(type, values)} <= types  # pyright: ignore[reportUnknownArgumentType]
        and all(map(math.isfinite, values))  # pyright: ignore[reportUnknownArgumentType]
        and least <= min(values, default=least)  # pyright: ignore[reportUnknownArgumentType]
        and max(values, default=most) <= most  # pyright: ignore[reportUnknownArgumentType]
    ):
        raise UpdateRefused(f"a sum's {name} must be numbers, one a client", got=_brief(values))
    return values  # pyright: ignore[reportUnknownVariableType]


def _whole(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 40


def _loss(value: Any, least: float) -> bool:
    return type(value) in (int, float) and least <= value <= _LARGEST


def _effort(fields: Mapping[str, Any], steps: int) -> float:
    value = fields.get("effort", steps)
    if type(value) not in (int, float) or not 0 < value < 1 << 40:
        raise UpdateRefused("effort must be a positive number", got=_brief(value))
    return float(value)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _metrics(fields: Mapping[str, Any]) -> dict[str, float]:
    metrics = fields.get("metrics")
    if not isinstance(metrics, dict) or len(metrics) > 64:  # pyright: ignore[reportUnknownArgumentType]
        raise UpdateRefused("metrics must be a small table of numbers", got=_brief(metrics))  # pyright: ignore[reportUnknownArgumentType]
    numbers: dict[str, Any] = metrics
    if not all(type(value) in (int, float) for value in numbers.values()):
        raise UpdateRefused("a metric is not a number", got=_brief(numbers))
    return {name: float(value) for name, value in numbers.items()}


def _plausible(metrics: Mapping[str, float], least: float) -> None:
    """Refuse a loss that would make everybody's mean what it is itself."""
    loss = metrics.get("loss")
    if loss is None:
        raise UpdateRefused("a reply must say its training loss", got=_brief(dict(metrics)))
    if not math.isfinite(loss):
        raise UpdateRefused(_LOSS, got=loss, fix=_SLOWER)
    if not _loss(loss, least):
        raise UpdateRefused("a training loss cannot be", got=loss)


def _brief(value: object) -> str:
    return repr(value)[:80]
