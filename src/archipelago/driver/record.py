"""What loop one writes: light commits every round, tensors when it pays."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from archipelago.core.clock import Clock
from archipelago.core.trial import Outcome
from archipelago.estimate.context import Step
from archipelago.journal.journal import Journal

__all__ = ["Recorder"]

SHARE = 20.0
"""Tensors are written again once the work since has taken this many times as long."""


class Recorder:
    """Commits steps to a journal. How often it writes tensors depends on speed; results do not.

    A round's commit is written while the next round trains: a killed run goes on from the commit
    before. What a caller is to rely on, `full`, is on the disk when it returns.
    """

    def __init__(self, journal: Journal, clock: Clock | None = None) -> None:
        self.journal = journal
        self.clock = clock or Clock()
        self._due = 0.0

    def round(
        self,
        step: Step,
        phase: str,
        standing: Callable[[], tuple[Mapping[str, Any], Mapping[str, Tensor]]] | None = None,
    ) -> None:
        """Commit a round's rows and curves, and once in a while what to resume from.

        Args:
            step: what the round gave.
            phase: its stage.
            standing: gives a state and its tensors, which nobody may change any more, where they
                are wanted; None never writes them.
        """
        with self.clock.of("journal"):
            rows = _rows(step, phase)
            self.journal.settle()  # before anybody looks at what is due
            if standing is None or time.monotonic() < self._due:
                self.journal.later(lambda: self.journal.commit("round", **rows))
            else:
                state, tensors = standing()
                self.journal.later(lambda: self._write("round", dict(state), tensors, **rows))

    def full(
        self,
        kind: str,
        state: Mapping[str, Any],
        *,
        step: Step | None = None,
        phase: str = "",
        outcomes: Sequence[Outcome] = (),
        pins: Mapping[str, str | None] | None = None,
        events: Sequence[tuple[str, Any]] = (),
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Commit a state between two generations or stages, where no round is under way.

        `tensors` are what parts keep of their own; for most there are none.
        """
        with self.clock.of("journal"):
            rows: dict[str, Any] = _rows(step, phase) if step else {"events": list(events)}
            self._write(
                kind, dict(state), tensors or {}, outcomes=outcomes, pins=pins or {}, **rows
            )

    def _write(
        self, kind: str, state: dict[str, Any], tensors: Mapping[str, Tensor], **more: Any
    ) -> None:
        """Commit, then collect what the commit superseded."""
        began = time.monotonic()
        blobs = {name: self.put(tensor) for name, tensor in tensors.items()}
        self.journal.commit(kind, state, blobs=blobs, **more)
        self.journal.collect()
        now = time.monotonic()
        self._due = now + SHARE * (now - began)

    def put(self, tensor: Tensor) -> str:
        """Store a flat float32 vector; return its digest."""
        return self.journal.put(tensor.contiguous().numpy().data)

    def get(self, digest: str) -> Tensor:
        """Return a stored vector."""
        data = self.journal.get(digest)
        return torch.frombuffer(data, dtype=torch.float32) if len(data) else torch.zeros(0)


def _rows(step: Step, phase: str) -> dict[str, Any]:
    curves = [
        (branch, _round(step, branch), "train_loss", loss, phase)
        for branch, loss in step.losses.items()
    ]
    for branch in step.generation.branches:
        if branch.history and branch.history[-1][0] == branch.round:
            turn, loss, score = branch.history[-1]
            curves.append((branch.number, turn, "loss", loss, phase))
            curves.append((branch.number, turn, "score", score, phase))
    events = [
        (
            incident.kind,
            {"branch": incident.branch, "client": incident.client, "text": incident.text},
        )
        for incident in step.incidents
    ]
    for branch, kernel in step.kernels.items():
        about = {"phase": phase, "branch": branch, "path": kernel.name, "reason": kernel.reason}
        events.append(("path", about))
    return {"meter": step.rows, "curves": _once(curves), "events": json.loads(json.dumps(events))}


def _round(step: Step, number: int) -> int:
    return next(branch.round for branch in step.generation.branches if branch.number == number)


def _once(points: list[Any]) -> list[Any]:
    return list(dict.fromkeys(points))
