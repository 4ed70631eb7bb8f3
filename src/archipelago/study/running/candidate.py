"""A candidate that did not win, trained to the end all the same, by the winner's plan.

It is not tested: test rows are opened once, for the winner.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from archipelago.client.worker import WorkerContext
from archipelago.config.load import described
from archipelago.config.run import Run
from archipelago.core.errors import RunFailed
from archipelago.core.trial import Outcome
from archipelago.data.coverage import UNDEFINED
from archipelago.data.prepare import Prepared
from archipelago.driver.loop import Champion, Position, explore
from archipelago.driver.record import Recorder
from archipelago.journal.journal import Journal
from archipelago.journal.runs import FINISHED
from archipelago.study.running.stages import Line

__all__ = ["finish"]


def finish(directory: Path, run: Run, prepared: Prepared, outcome: Outcome) -> np.ndarray:
    """Train a candidate in `directory/candidates/NUMBER`; return its flat weights.

    A journal of its own is kept there: what was interrupted goes on, what is finished is read.

    Raises:
        RunFailed: training diverged, or its metric has no value.
    """
    home = directory / "candidates" / str(outcome.number)
    meta = {"run": described(run), "name": f"{run.name}, candidate {outcome.number}"}
    begun = (home / "journal.sqlite").is_file()
    engine = run.engine.start()
    journal = Journal.open(home, write=True) if begun else Journal.create(home, meta=meta)
    with journal:
        try:
            journal.tidy()
            return _trained(journal, engine, run, prepared, outcome)
        finally:
            engine.close()


def _trained(
    journal: Journal, engine: Any, run: Run, prepared: Prepared, outcome: Outcome
) -> np.ndarray:
    shards = prepared.shards
    recorder = Recorder(journal)
    line = Line(run=run, shards=shards, engine=engine, journal=journal, presence=prepared.presence)
    champion = Champion(outcome=outcome, graph=line.graph(outcome.arch), digest="")
    last = journal.last(full=True)
    journal.rollback(last.number if last else 0)
    position = Position()
    if last and last.state is not None:
        tensors = {name: recorder.get(digest) for name, digest in last.blobs.items()}
        position = Position.from_json(last.state["position"], tensors)

    def whole(at: Position) -> Mapping[str, Any]:
        return {"fingerprint": shards.fingerprint, "position": at.to_json()}

    task = shards.signature.task
    engine.open(WorkerContext(shards=line.rows("final"), task=task, device=run.engine.device))
    for at, _ in explore(line.stage("final", {"search": champion}), recorder, position, whole):
        position = at
    if position.champion is None:
        reason = next((o.reason for o in journal.outcomes() if o.reason), "")
        change = (
            "choose another task.metric" if UNDEFINED in reason else "lower client.learning_rate"
        )
        raise RunFailed(
            "the candidate did not survive its training",
            got=f"#{outcome.number}: {reason}",
            where=str(journal.directory),
            fix=f"{change}, or choose another candidate",
        )
    if journal.commits()[-1].kind != FINISHED:
        recorder.full(FINISHED, whole(position))
    return recorder.get(position.champion.digest).numpy()
