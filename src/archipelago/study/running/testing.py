"""The test, once: sealed rows opened, every finalist scored, and how sure the differences are."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from archipelago.core.seeds import Seed
from archipelago.data.key import TestKey
from archipelago.driver.loop import Champion
from archipelago.driver.record import Recorder
from archipelago.federation.branch import Branch
from archipelago.federation.rounds import Federation, evaluate
from archipelago.journal.journal import Journal
from archipelago.space.joint import settings
from archipelago.study.analysing.verdict import Tested, compared, interval
from archipelago.study.planning.scorable import covered, sites, why
from archipelago.study.running.events import Event
from archipelago.study.running.stages import FINALISTS, Line

__all__ = ["Differences", "judged", "tested"]

Differences = dict[str, tuple[float, float, float]]
"""Reference -> ours minus theirs, and the 95 % interval of that."""


def tested(
    journal: Journal, recorder: Recorder, line: Line, champions: Mapping[str, Champion]
) -> dict[str, Tested]:
    """Open the sealed rows, score every finalist on them, and commit what that cost."""
    opened = line.shards.sealed.open(TestKey(purpose="the report"))
    names = [name for name in FINALISTS if name in champions]
    names += [name for name in champions if name.startswith("final/")]
    rows = np.asarray(opened.test_rows)
    task = line.shards.signature.task
    federation = Federation(
        engine=line.engine,
        task=task,
        train_rows=line.shards.train_rows,
        validation_rows=rows,
        seed=Seed(line.run.seed),
        training=line.run.client,
        cohort=line.run.cohort,
        quiet=frozenset(line.shards.quiet("test")),
    )
    branches = [
        Branch(
            number=number,
            graph=champions[name].graph,
            flat=recorder.get(champions[name].digest),
            cohort=(),
            rounds=1,
            kept={c: recorder.get(digest) for c, digest in champions[name].kept.items()},
            settings=settings(champions[name].outcome.arch),
        )
        for number, name in enumerate(names)
    ]
    clients = np.flatnonzero(rows).tolist()
    scores = evaluate(federation, branches, clients, phase="test", split="test", personal=True)
    rounds = [*scores.rows]
    found = {
        name: Tested(scores.vectors[number], task.metrics(scores.total(number)))
        for number, name in enumerate(names)
    }
    if champions["final"].kept:
        ours = branches[names.index("final")]
        scores = evaluate(federation, (ours,), clients, phase="test", split="test")
        rounds += scores.rows
        total = scores.total(ours.number)
        found["shared"] = Tested(scores.vectors[ours.number], task.metrics(total))
    journal.commit("test", meter=rounds)
    return found


def judged(
    task: Any, found: Mapping[str, Tested], journal: Journal, seed: Seed
) -> tuple[list[Event], Differences]:
    """Return what there is to say of the test, and the differences to the reference lines."""
    ours, metric = found["final"], task.metric
    bounds = interval(task, ours, seed)
    score = ours.metrics[metric]
    about = {
        "metric": metric,
        "score": score,
        metric: score,
        "low": bounds.low,
        "high": bounds.high,
        "interval": bounds.note,
        "undefined": why(task, ours),
        "covers": covered(task, ours),
        "sites": sites(task, ours),
    }
    events, differences = [Event("tested", about)], Differences()
    for name, theirs in found.items():
        if name not in FINALISTS or name == "final":
            continue
        gap = compared(task, ours, theirs, seed)
        differences[name] = (gap.value, gap.bounds.low, gap.bounds.high)
        about = {
            "name": FINALISTS[name],
            "score": theirs.metrics[metric],
            "difference": gap.value,
            "low": gap.bounds.low,
            "high": gap.bounds.high,
            "interval": gap.bounds.note,
            "cost": journal.cost(name)["macs"],
        }
        events.append(Event("reference", about))
    return events, differences
