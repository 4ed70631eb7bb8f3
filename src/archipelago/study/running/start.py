"""The first commit of a run, or the last one to go on from."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from archipelago.config.run import Run
from archipelago.core.errors import JournalError
from archipelago.core.seeds import Seed
from archipelago.data.prepare import Prepared
from archipelago.data.tasks import task_to_json
from archipelago.journal.journal import Journal
from archipelago.journal.registry import Client
from archipelago.study.planning.scorable import scorable
from archipelago.study.running.stages import Line

__all__ = ["restored"]

_BLOCK = 10_000
"""Clients registered at a time."""


def restored(run: Run, journal: Journal, prepared: Prepared, line: Line) -> dict[str, Any]:
    """Return the state of the last full commit; of a new run, commit the first.

    Raises:
        JournalError: the data are not those that the run began with.
        DataError: of a new run, its metric has no value on the rows that it is meant for.
    """
    last = journal.last(full=True)
    journal.rollback(last.number if last else 0)
    if last is None:
        state = {
            "fingerprint": prepared.shards.fingerprint,
            "stage": None,
            "position": None,
            "ended": [],
            "champions": {},
            "searched": None,
            "tested": None,
        }
        facts = _facts(prepared, line)
        journal.register(_registered(run, prepared))
        journal.commit("prepared", state, meter=prepared.rows, events=[("facts", facts)])
        return state
    journal.note("resumed", {"commit": last.number})
    state = dict(last.state)
    if state["fingerprint"] != prepared.shards.fingerprint:
        raise JournalError(
            "the data have changed since this run began",
            got=prepared.shards.fingerprint,
            where=str(journal.directory),
            fix="restore the files, or start a new run with --out",
        )
    return state


def _registered(run: Run, prepared: Prepared) -> Iterator[Client]:
    """Yield every client: a million of them go by one after another."""
    shards, rows = prepared.shards, prepared.shards.train_rows
    devices = Seed(run.seed).child("speed")
    for start in range(0, shards.clients, _BLOCK):
        ids = np.arange(start, min(start + _BLOCK, shards.clients))
        sizes, traces = rows[ids].tolist(), run.cohort.traces(ids, devices).tolist()
        for client, size, trace in zip(ids.tolist(), sizes, traces, strict=True):
            yield Client(client, shards.name(client), size, trace)


def _facts(prepared: Prepared, line: Line) -> dict[str, Any]:
    signature = prepared.shards.signature
    return {
        "task": task_to_json(signature.task),
        "classes": list(getattr(signature.task, "classes", ())),
        "modality": signature.modality,
        "shape": list(signature.shape),
        "names": [summary.name for summary in prepared.summaries],
        "labels": [list(summary.labels) for summary in prepared.summaries],
        "rows": [[s.train, s.validation, s.test, s.held_out] for s in prepared.summaries],
        "windows": asdict(cut) if (cut := prepared.preparation.windows) else None,
        "floor": prepared.shards.home.floor,
        "withheld": [asdict(one) for one in prepared.withheld],
        "quality": None
        if prepared.findings is None
        else [asdict(finding) for finding in prepared.findings],
        "scores": list(scorable(signature.task, prepared.presence)),
        "columns": [[c.name, c.kind, c.dropped] for c in prepared.preparation.columns],
        "baseline": line.baseline().to_json(),
    }
