"""Finished runs set side by side: grouped by seed, paired where they can be, refused where not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from math import isfinite, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from archipelago.config.load import loads
from archipelago.config.run import SETTINGS, Run
from archipelago.config.tables import to_table
from archipelago.core.errors import DataError, JournalError
from archipelago.core.seeds import Seed
from archipelago.data.tasks import task_from_json
from archipelago.driver.loop import Champion
from archipelago.journal.journal import Journal
from archipelago.report.comparison import Comparison, Group, Pair
from archipelago.study.analysing.verdict import Tested, compared
from archipelago.study.planning.scorable import covered, why
from archipelago.study.running.stages import OURS

__all__ = ["compare"]

_SAME = ("data", "partition", "split", "task")
"""Sections that must agree: otherwise scores are of different rows, or of different questions."""
_LEAST = 3
"""Seeds in common from which a t test over seeds is worth its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    directory: Path
    run: Run
    task: Any
    facts: Mapping[str, Any]
    fingerprint: str
    tested: Tested
    champion: Champion
    cost: Mapping[str, float]

    @property
    def score(self) -> float:
        return self.tested.metrics[self.task.metric]

    @property
    def options(self) -> dict[str, Any]:
        """Everything that was set, but what names or repeats a run."""
        found: dict[str, Any] = {"constraints": self.run.constraints}
        for section in (f.name for f in fields(Run)):
            if section in SETTINGS or section in ("engine", "governance"):
                continue
            for option, value in to_table(getattr(self.run, section), section).items():
                found[f"{section}.{option}"] = value
        # Units are words: no score depends on them.
        found.pop("preprocess.units", None)
        return found


def compare(directories: Sequence[str | Path]) -> Comparison:
    """Compare finished runs.

    Args:
        directories: of runs; those that differ in their seed only are one group, and a
            repetition of settings and seed is left out with a note.

    Raises:
        JournalError: a run is not finished.
        DataError: runs are of different data or tasks; what differs is named.
    """
    places, notes = {Path(given).resolve(): Path(given) for given in directories}, list[str]()
    if len(places) < 2:
        raise DataError(
            "give at least two runs",
            got=list(map(str, directories)),
            where="compare",
            fix="archipelago compare runs/a runs/b",
        )
    if len(places) < len(directories):
        notes.append("a run that was given more than once counts once")
    runs = [_finished(place) for place in places.values()]
    for other in runs[1:]:
        _same_data(runs[0], other)
    groups: list[list[_Finished]] = []
    for run in runs:
        home = next((group for group in groups if group[0].options == run.options), None)
        if home is None:
            groups.append([run])
        elif same := next((one for one in home if one.run.seed == run.run.seed), None):
            # The same settings and seed are the same run: it is no second draw.
            notes.append(
                f"{run.directory} repeats {same.directory} (seed {run.run.seed}): left out"
            )
        else:
            home.append(run)
    for group in groups:
        group.sort(key=lambda run: run.run.seed)
    pairs = [
        _pair(a, b, first, second)
        for (first, a), (second, b) in combinations(list(enumerate(groups)), 2)
    ]
    task, facts = runs[0].task, runs[0].facts
    notes += [f"{run.directory}: {said}" for run in runs if (said := _said(run))]
    return Comparison(
        data=f"{facts['modality']} rows of {len(facts['names'])} clients, {task.kind}",
        metric=task.metric,
        percent=task.metric not in ("log_loss", "rmse", "mae", "r2", "auroc"),
        groups=tuple(_group(group, groups[0][0]) for group in groups),
        pairs=tuple(pairs),
        notes=tuple(notes),
    )


def _said(run: _Finished) -> str:
    """Return what a run's score leaves out; of one that is undefined, why it counts in no mean."""
    lost = why(run.task, run.tested)
    return f"{lost}; left out of means" if lost else covered(run.task, run.tested)


def _finished(directory: Path) -> _Finished:
    with Journal.open(directory, write=False) as journal:
        last = journal.last(full=True)
        state = (last.state or {}) if last else {}
        if not state.get("tested"):
            raise JournalError(
                "this run has no tested network yet",
                where=str(directory),
                fix=f"archipelago resume {directory}",
            )
        facts = next(data for _, data, _ in journal.events("facts"))
        costs = [journal.cost(phase) for phase in OURS]
        return _Finished(
            directory=directory,
            run=loads(journal.meta["run"], source=str(directory / "run.toml")),
            task=task_from_json(facts["task"]),
            facts=facts,
            fingerprint=state["fingerprint"],
            tested=Tested.from_json(state["tested"]["final"]),
            champion=Champion.from_json(state["champions"]["final"]),
            cost={name: sum(cost[name] for cost in costs) for name in costs[0]},
        )


def _same_data(a: _Finished, b: _Finished) -> None:
    ours, theirs = a.options, b.options
    apart = {
        option: (ours.get(option), theirs.get(option))
        for option in sorted({*ours, *theirs})
        if option.partition(".")[0] in _SAME and ours.get(option) != theirs.get(option)
    }
    for what in ("classes", "modality", "shape"):
        if not apart and a.facts[what] != b.facts[what] and a.run.preprocess == b.run.preprocess:
            apart[what] = (a.facts[what], b.facts[what])
    alike = a.run.seed == b.run.seed and a.run.preprocess == b.run.preprocess
    if not apart and alike and a.fingerprint != b.fingerprint:
        apart["fingerprint of the data"] = (a.fingerprint, b.fingerprint)
    if apart:
        raise DataError(
            "these runs are of different data or tasks: their scores do not compare",
            got="; ".join(f"{name}: {one!r} and {two!r}" for name, (one, two) in apart.items()),
            where=f"{a.directory}, {b.directory}",
            fix="compare runs that differ in how they search and train only",
        )


def _group(runs: Sequence[_Finished], first: _Finished) -> Group:
    scores = [run.score for run in runs if isfinite(run.score)]
    ours, base = runs[0].options, first.options
    apart = [
        f"{name}={ours.get(name)}"
        for name in sorted({*ours, *base})
        if ours.get(name) != base.get(name)
    ]
    return Group(
        name=runs[0].run.name,
        settings=tuple(apart),
        seeds=tuple(run.run.seed for run in runs),
        mean=mean(scores) if scores else nan,
        deviation=stdev(scores) if len(scores) > 1 else None,
        params=mean(run.champion.graph.params for run in runs),
        macs=mean(run.champion.graph.macs for run in runs),
        client_seconds=mean(run.cost["virtual_seconds"] for run in runs),
        bytes=mean(run.cost["bytes_up"] + run.cost["bytes_down"] for run in runs),
    )


def _pair(ours: Sequence[_Finished], theirs: Sequence[_Finished], first: int, second: int) -> Pair:
    seeds = {run.run.seed: run for run in theirs}
    shared = [(run, seeds[run.run.seed]) for run in ours if run.run.seed in seeds]
    shared = [(a, b) for a, b in shared if isfinite(a.score) and isfinite(b.score)]
    if not shared:
        return Pair(first=first, second=second)
    sign = ours[0].task.direction(ours[0].task.metric)
    if len(shared) >= _LEAST:
        gaps = [sign * (a.score - b.score) for a, b in shared]
        low, high, p = _t_test(gaps)
        return Pair(
            first=first,
            second=second,
            difference=mean(gaps),
            low=low,
            high=high,
            p=p,
            paired="seeds",
            units=len(gaps),
        )
    a, b = (_pooled(shared, ours[0].task, side) for side in (0, 1))
    gap = compared(ours[0].task, a, b, Seed(shared[0][0].run.seed).child("verdict")).turned(sign)
    return Pair(
        first=first,
        second=second,
        difference=gap.value,
        low=gap.bounds.low,
        high=gap.bounds.high,
        note=gap.bounds.note,
        paired="clients",
        units=len(a.vectors.keys() & b.vectors.keys()),
    )


def _pooled(shared: Sequence[tuple[_Finished, _Finished]], task: Any, side: int) -> Tested:
    """Return the clients of all shared seeds as if they were clients of one run."""
    vectors = {
        1_000_000 * index + client: vector
        for index, pair in enumerate(shared)
        for client, vector in pair[side].tested.vectors.items()
    }
    return Tested(vectors, task.metrics(np.sum(list(vectors.values()), axis=0)))


def _t_test(gaps: Sequence[float]) -> tuple[float, float, float]:
    """Return the 95 % bounds of the mean and the two-sided p of a paired t test."""
    from scipy import stats

    centre, error = mean(gaps), stdev(gaps) / len(gaps) ** 0.5
    if error == 0:
        return centre, centre, float(centre == 0)
    half = float(stats.t.ppf(0.975, len(gaps) - 1)) * error
    p = 2 * float(stats.t.sf(abs(centre) / error, len(gaps) - 1))
    return centre - half, centre + half, p
