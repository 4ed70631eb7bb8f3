"""A study from data to a shipped network, stoppable and resumable at every round."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors
from torch import Tensor

from archipelago.client.keeping import terms_of
from archipelago.client.training import tuned
from archipelago.client.workplace import Workplace
from archipelago.config.load import dumps, loads
from archipelago.config.run import Run
from archipelago.core.clock import Clock
from archipelago.core.errors import ArchipelagoError, ConfigError, JournalError, RunFailed
from archipelago.core.memory import trim
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.data.key import TestKey
from archipelago.data.prepare import Prepared
from archipelago.data.tasks import task_to_json
from archipelago.driver.loop import Champion, Position, explore
from archipelago.driver.record import Recorder
from archipelago.estimate.arena import SILENT, Step
from archipelago.federation.branch import Branch
from archipelago.federation.rounds import Federation, evaluate
from archipelago.journal.journal import Journal
from archipelago.journal.registry import Client
from archipelago.journal.runs import FINISHED
from archipelago.space.joint import settings
from archipelago.study.again import prepared_for
from archipelago.study.gather import ranked, searched
from archipelago.study.ship import ship
from archipelago.study.stages import FINALISTS, Line
from archipelago.study.verdict import Tested, compared, interval

__all__ = ["Event", "Result", "Study", "resume", "search"]


_BLOCK = 10_000
"""Clients registered at a time."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth showing while a study runs.

    Attributes:
        kind: `started`, `prepared`, `round`, `outcome`, `reference`, `tested`, `exported`,
            `report`, `stopped` or `finished`.
        data: the rest, ready for JSON.
    """

    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a study found, read from its directory.

    Attributes:
        directory: of the run.
        best: the outcome that won the search.
        metrics: of the trained winner on everybody's test rows.
        differences: reference -> (difference, low, high), ours minus theirs, 95 %.
    """

    directory: Path
    best: Outcome
    metrics: Mapping[str, float]
    differences: Mapping[str, tuple[float, float, float]]

    def leaderboard(self) -> list[Outcome]:
        """Return the search's outcomes, best first; failures last."""
        with Journal.open(self.directory, write=False) as journal:
            return ranked(searched(journal))

    def export_onnx(self, path: str | Path) -> Path:
        """Copy the trained winner's ONNX file to `path`."""
        return Path(shutil.copyfile(self.directory / "model.onnx", path))


@dataclass(slots=True)
class Study:
    """A run in a directory. Iterate over it for outcomes as they come, or over `events()`.

    Nothing happens before it is iterated. With `profile` it writes where time went to
    `profile.json`, and the report shows it.
    """

    run: Run
    directory: Path
    resumed: bool = False
    profile: bool = False
    _stopping: bool = False
    _journal: Journal | None = None
    _result: Result | None = None
    _began: float = field(default_factory=time.monotonic)

    def __iter__(self) -> Iterator[Outcome]:
        """Run, yielding the search's outcomes."""
        for event in self.events():
            if event.kind == "outcome" and event.data["phase"] == "search":
                yield Outcome.from_json(event.data["outcome"])

    @property
    def result(self) -> Result:
        """What was found; runs the study if nobody has."""
        if self._result is None:
            for _ in self.events():
                pass
        if self._result is None:
            raise RunFailed(
                "the run was stopped before its end",
                where=str(self.directory),
                fix=f"archipelago resume {self.directory}",
            )
        return self._result

    def stop(self) -> None:
        """Ask the run to stop after the commit of the round under way."""
        self._stopping = True

    def events(self) -> Iterator[Event]:
        """Run to the end, or to the first commit after `stop`."""
        engine = self.run.engine.start()
        meta = {"run": dumps(self.run), "name": self.run.name}
        journal = (
            Journal.open(self.directory, write=True)
            if self.resumed
            else Journal.create(self.directory, meta=meta)
        )
        with journal:
            try:
                journal.write_text("run.toml", dumps(self.run))
                yield from self._line(journal, engine)
            except ArchipelagoError:
                # Nothing was trained: the same command shall work once the fault is mended.
                if not self.resumed and {c.kind for c in journal.commits()} <= {"prepared"}:
                    shutil.rmtree(self.directory / "cache", ignore_errors=True)
                    journal.discard()
                raise
            finally:
                engine.close()

    def _line(self, journal: Journal, engine: Any) -> Iterator[Event]:
        run = self.run
        cache = self.directory / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        prepared = prepared_for(run, cache)
        shards = prepared.shards
        run.check_clients(len(shards.training))
        for augment in run.augments:
            augment.check(shards.signature)
        clock = Clock()
        line = Line(run=run, shards=shards, engine=engine, journal=journal, clock=clock)
        recorder = Recorder(journal, clock)
        state = self._restored(journal, prepared, line)
        # Committed by now; 10,000 clients' rows and summaries would pin 150 MB of arenas.
        prepared = replace(prepared, rows=(), summaries=())
        trim()
        yield Event(
            "started",
            {
                "directory": str(self.directory),
                "name": run.name,
                "clients": shards.clients,
                "trials": run.budget.trials,
                "resumed": self.resumed,
            },
        )
        yield Event(
            "prepared",
            {
                "rows": int(shards.train_rows.sum()),
                "features": list(shards.signature.shape),
                "outputs": shards.signature.outputs,
            },
        )
        champions = {n: Champion.from_json(c) for n, c in state["champions"].items()}
        for name in line.names():
            if name in state["ended"]:
                continue
            engine.open(Workplace(shards=line.rows(name), task=shards.signature.task))
            stage = line.stage(name, champions)
            position = Position()
            if state["stage"] == name and state["position"] is not None:
                last = journal.last(full=True)
                blobs = last.blobs if last else {}
                tensors = {key: recorder.get(digest) for key, digest in blobs.items()}
                position = Position.from_json(state["position"], tensors)

            def whole(
                at: Position, name: str = name, before: Mapping[str, Any] = state
            ) -> dict[str, Any]:
                return {**before, "stage": name, "position": at.to_json()}

            for at, step in explore(stage, recorder, position, whole):
                position = at
                if at.champion and at.heat is None and name in {"search", "final"}:
                    self._keep_best(journal, recorder, at.champion)
                yield from self._shown(name, at, step, journal)
                if self._stopping:
                    self._profiled(journal, clock)
                    journal.note("stopped", {"phase": name})
                    yield Event(
                        "stopped",
                        {
                            "directory": str(self.directory),
                            "resume": f"archipelago resume {self.directory}",
                        },
                    )
                    return
            if position.trials == 0:
                raise ConfigError(
                    "no architecture meets the constraints",
                    got=list(run.constraints),
                    where="constraints",
                    fix="loosen them; `archipelago plan FILE` shows what the space costs",
                )
            if position.champion:
                champions[name] = position.champion
                champions |= line.budgets(name, position)
            elif name in {"search", "final"}:
                reasons = sorted({o.reason for o in journal.outcomes() if o.reason})
                raise RunFailed(
                    "every candidate failed",
                    got="; ".join(reasons)[:400],
                    where=name,
                    fix="lower cohort.minimum or cohort.dropout, or raise cohort.deadline"
                    if all(reason == SILENT for reason in reasons)
                    else "lower client.learning_rate, or set client.clip",
                )
            state = {
                **state,
                "stage": None,
                "position": None,
                "ended": [*state["ended"], name],
                "champions": {n: c.to_json() for n, c in champions.items()},
            }
            if name == "search":  # where `extend` goes on from
                state["searched"] = position.to_json()
            recorder.full("stage", state, {}, events=[("ended", {"phase": name})])
        if state["tested"] is None:
            engine.open(
                Workplace(
                    shards=shards.sealed.open(TestKey(purpose="the report")),
                    task=shards.signature.task,
                )
            )
            tested = self._tested(journal, recorder, line, champions)
            state = {**state, "tested": {n: t.to_json() for n, t in tested.items()}}
            recorder.full("tested", state, {})
        tested = {n: Tested.from_json(t) for n, t in state["tested"].items()}
        yield from self._verdict(shards.signature.task, tested, journal)
        flat = recorder.get(champions["final"].digest)
        self._profiled(journal, clock)
        yield from (
            Event(kind, data)
            for kind, data in ship(
                self.directory,
                journal,
                line,
                prepared,
                champions=champions,
                tested=tested,
                flat=flat,
                own=self._own(recorder, champions["final"], flat),
            )
        )
        if journal.commits()[-1].kind != FINISHED:
            recorder.full(FINISHED, state, {})
        shutil.rmtree(cache, ignore_errors=True)
        score = tested["final"].metrics[shards.signature.task.metric]
        yield Event(
            "finished",
            {
                "directory": str(self.directory),
                "score": score,
                "seconds": time.monotonic() - self._began,
            },
        )

    def _profiled(self, journal: Journal, clock: Clock) -> None:
        if self.profile:
            journal.note("profile", clock.profile())
            journal.write_text("profile.json", json.dumps(clock.profile(), indent=1))

    def _restored(self, journal: Journal, prepared: Prepared, line: Line) -> dict[str, Any]:
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
            journal.register(_registered(self.run, prepared))
            journal.commit("prepared", state, meter=prepared.rows, events=[("facts", facts)])
            return state
        journal.note("resumed", {"commit": last.number})
        state = dict(last.state)
        if state["fingerprint"] != prepared.shards.fingerprint:
            raise JournalError(
                "the data have changed since this run began",
                got=prepared.shards.fingerprint,
                where=str(self.directory),
                fix="restore the files, or start a new run with --out",
            )
        return state

    def _keep_best(self, journal: Journal, recorder: Recorder, champion: Champion) -> None:
        flat = recorder.get(champion.digest).numpy()
        views = champion.graph.layout.views(flat)
        about = {"graph": champion.graph.to_json(), "outcome": champion.outcome.to_json()}
        journal.best(
            {
                "weights.safetensors": save_tensors(
                    {name: np.ascontiguousarray(view) for name, view in views.items()}
                ),
                "arch.json": json.dumps(about, indent=1).encode(),
            }
        )

    def _own(self, recorder: Recorder, champion: Champion, flat: Tensor) -> dict[int, Tensor]:
        """Return the whole model of each client that has one of its own."""
        layout = champion.graph.layout
        training: Any = tuned(self.run.client, settings(champion.outcome.arch))
        travels = terms_of(training, layout).select(flat) if champion.kept else flat
        return {
            client: training.own(travels, layout, recorder.get(digest))
            for client, digest in sorted(champion.kept.items())
        }

    def _tested(
        self, journal: Journal, recorder: Recorder, line: Line, champions: Mapping[str, Champion]
    ) -> dict[str, Tested]:
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
            seed=Seed(self.run.seed),
            training=self.run.client,
            cohort=self.run.cohort,
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
        scores = evaluate(federation, branches, clients, phase="test", split="test", own=True)
        rounds = [*scores.rows]
        tested = {
            name: Tested(scores.vectors[number], task.metrics(scores.total(number)))
            for number, name in enumerate(names)
        }
        if champions["final"].kept:
            ours = branches[names.index("final")]
            scores = evaluate(federation, (ours,), clients, phase="test", split="test")
            rounds += scores.rows
            total = scores.total(ours.number)
            tested["shared"] = Tested(scores.vectors[ours.number], task.metrics(total))
        journal.commit("test", meter=rounds)
        return tested

    def _verdict(
        self, task: Any, tested: Mapping[str, Tested], journal: Journal
    ) -> Iterator[Event]:
        ours = tested["final"]
        seed = Seed(self.run.seed).child("verdict")
        low, high = interval(task, ours, seed)
        yield Event(
            "tested",
            {
                "metric": task.metric,
                "score": ours.metrics[task.metric],
                task.metric: ours.metrics[task.metric],
                "low": low,
                "high": high,
            },
        )
        differences: dict[str, tuple[float, float, float]] = {}
        for name, theirs in tested.items():
            if name in FINALISTS and name != "final":
                gap = compared(task, ours, theirs, seed)
                differences[name] = gap
                yield Event(
                    "reference",
                    {
                        "name": FINALISTS[name],
                        "score": theirs.metrics[task.metric],
                        "difference": gap[0],
                        "low": gap[1],
                        "high": gap[2],
                        "cost": journal.cost(name)["macs"],
                    },
                )
        best = ranked(searched(journal))[0]
        self._result = Result(self.directory, best, ours.metrics, differences)

    def _shown(self, name: str, at: Position, step: Step, journal: Journal) -> Iterator[Event]:
        live = [branch for branch in step.heat.branches if branch.alive]
        first = step.heat.branches[0]
        cost = journal.cost(name)
        yield Event(
            "round",
            {
                "phase": name,
                "round": max(branch.round for branch in step.heat.branches),
                "rounds": first.rounds,
                "generation": step.heat.generation,
                "branches": len(live),
                "clients": len({row.client for row in step.rows if row.kind == "fit"}),
                "bytes": cost["bytes_up"] + cost["bytes_down"],
                "best": at.champion.outcome.score if at.champion else None,
                "trials": at.trials,
                "seconds": time.monotonic() - self._began,
            },
        )
        for outcome in step.heat.outcomes:
            yield Event(
                "outcome",
                {
                    "phase": name,
                    "number": outcome.number,
                    "status": outcome.status,
                    "score": outcome.score if outcome.score > float("-inf") else None,
                    "params": outcome.costs["params"],
                    "macs": outcome.costs["macs"],
                    "reason": outcome.reason,
                    "outcome": outcome.to_json(),
                },
            )


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
        "columns": [[c.name, c.kind, c.dropped] for c in prepared.preparation.columns],
        "baseline": line.baseline().to_json(),
    }


def search(run: Run, out: str | Path | None = None, *, profile: bool = False) -> Study:
    """Return a study that will run in the directory `out`, by default `runs/NAME`.

    With `profile` it also writes where time went.

    Example:
        >>> study = search(run, "runs/digits")  # doctest: +SKIP
        >>> for outcome in study: print(outcome.score)  # doctest: +SKIP
        >>> study.result.export_onnx("digits.onnx")  # doctest: +SKIP
    """
    directory = Path(out) if out is not None else Path("runs") / run.name
    return Study(run, directory, profile=profile)


def resume(directory: str | Path, *, previous: bool = False) -> Study:
    """Return a study that goes on from the directory's last commit.

    Args:
        directory: of a run that was stopped or killed.
        previous: go back to the commit before the last, for a damaged tensor file.
    """
    path = Path(directory)
    with Journal.open(path, write=previous) as journal:
        if previous and (commit := journal.previous()):
            journal.rollback(commit.number)
        text = journal.meta["run"]
    return Study(loads(text, source=str(path / "run.toml")), path, resumed=True)
