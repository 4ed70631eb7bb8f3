"""A study from data to a shipped network, stoppable and resumable at every round."""

import json
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors
from torch import Tensor

from archipelago.client.agreement import agreement_of
from archipelago.client.training import tuned
from archipelago.client.worker import WorkerContext
from archipelago.config.load import described, loads
from archipelago.config.run import Run
from archipelago.core.atomic import private_folder, sweep_scratch
from archipelago.core.clock import Clock
from archipelago.core.errors import ArchipelagoError, ConfigError, MachineFailed, RunFailed
from archipelago.core.failure import kind_of, words_of
from archipelago.core.memory import trim
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.data.coverage import UNDEFINED
from archipelago.data.fleet import Population
from archipelago.data.key import TestKey
from archipelago.data.releases import withheld_lines
from archipelago.driver.loop import Champion, Position, explore
from archipelago.driver.record import Recorder
from archipelago.estimate.context import SILENT
from archipelago.federation.check import FAILED
from archipelago.journal.identity import lasting
from archipelago.journal.journal import Journal
from archipelago.journal.runs import FINISHED
from archipelago.space.joint import settings
from archipelago.study.analysing.gather import ranked, searched
from archipelago.study.analysing.verdict import Tested
from archipelago.study.running.events import Event, shown
from archipelago.study.running.lost_workers import RecordsLostWorkers
from archipelago.study.running.rows import (
    BEFORE,
    cleared,
    continuation,
    prepared_for,
    refuse_silence,
)
from archipelago.study.running.ship import ship
from archipelago.study.running.stages import Line
from archipelago.study.running.start import restored
from archipelago.study.running.testing import judged, tested

__all__ = ["Event", "Result", "Study", "resume", "search"]


_ROOM = "free memory, disk or open files, or lower engine.workers"


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
        meta = {"run": described(self.run), "name": self.run.name}
        journal = (
            Journal.open(self.directory, write=True)
            if self.resumed
            else Journal.create(self.directory, meta=meta)
        )
        with journal:
            try:
                self._tidied(journal)
                journal.write_text("run.toml", described(self.run))
                yield from self._line(journal, RecordsLostWorkers(engine, journal))
            except (MachineFailed, MemoryError, OSError) as error:
                if isinstance(error, OSError) and kind_of(error) != "machine":
                    raise
                raise _gave_out(error, self.directory) from error
            except ArchipelagoError:
                # Nothing was trained: the same command shall work once the fault is mended.
                if not self.resumed and {c.kind for c in journal.commits()} <= {"prepared"}:
                    cleared(self.directory / "cache")
                    journal.discard()
                raise
            finally:
                # However it ends: prepared rows, sealed ones too, lie there for the run only.
                try:
                    engine.close()
                finally:
                    cleared(self.directory / "cache")

    def _tidied(self, journal: Journal) -> None:
        """Remove what killed processes left half made. The run's lock is ours: none of it lives."""
        journal.tidy()
        sweep_scratch()
        begun = continuation(self.directory)
        if not (begun / BEFORE).exists():
            shutil.rmtree(begun, ignore_errors=True)

    def _line(self, journal: Journal, engine: Any) -> Iterator[Event]:
        """From data to report: prepare, the stages one after another, the test, the file."""
        run, cache, clock = self.run, self.directory / "cache", Clock()
        cleared(cache)
        private_folder(cache)
        # A run that goes on has its verdict in the journal, with what asking for it cost.
        prepared = prepared_for(run, cache, judged=journal.last(full=True) is None)
        shards = prepared.shards
        run.check_clients(len(shards.training))
        refuse_silence(shards)
        for augment in run.augments:
            augment.check(shards.signature)
        line = Line(
            run=run,
            shards=shards,
            engine=engine,
            journal=journal,
            clock=clock,
            presence=prepared.presence,
        )
        recorder = Recorder(journal, clock)
        state = restored(run, journal, prepared, line)
        said = list(withheld_lines(prepared.withheld, shards.home.floor))
        # Committed by now; 10,000 clients' rows and summaries would pin 150 MB of arenas.
        prepared = replace(prepared, rows=(), summaries=(), withheld=())
        trim()
        yield from self._begun(shards, journal)
        for text in said:
            yield Event("withheld", {"text": text})
        for name in line.names():
            if name not in state["ended"]:
                state = yield from self._stage(name, line, recorder, state)
            if self._stopping:
                self._profiled(journal, clock)
                journal.note("stopped", {"phase": name})
                cleared(cache)
                again = f"archipelago resume {self.directory}"
                yield Event("stopped", {"directory": str(self.directory), "resume": again})
                return
        champions = _champions(state)
        task = shards.signature.task
        if state["tested"] is None:
            opened = shards.sealed.open(TestKey(purpose="the report"))
            engine.open(WorkerContext(shards=opened, task=task, device=run.engine.device))
            found = tested(journal, recorder, line, champions)
            state = {**state, "tested": {n: t.to_json() for n, t in found.items()}}
            recorder.full("tested", state)
        found = {n: Tested.from_json(t) for n, t in state["tested"].items()}
        events, differences = judged(task, found, journal, Seed(run.seed).child("verdict"))
        yield from events
        best = ranked(searched(journal))[0]
        self._result = Result(self.directory, best, found["final"].metrics, differences)
        flat = recorder.get(champions["final"].digest)
        self._profiled(journal, clock)
        for kind, data in ship(
            self.directory,
            journal,
            line,
            prepared,
            champions=champions,
            tested=found,
            flat=flat,
            own=self._own(recorder, champions["final"], flat),
        ):
            yield Event(kind, data)
        if journal.commits()[-1].kind != FINISHED:
            recorder.full(FINISHED, state)
        cleared(cache)
        about = {
            "directory": str(self.directory),
            "score": found["final"].metrics[task.metric],
            "seconds": time.monotonic() - self._began,
        }
        yield Event("finished", about)

    def _begun(self, shards: Population, journal: Journal) -> Iterator[Event]:
        about = {
            "directory": str(self.directory),
            "name": self.run.name,
            "clients": shards.clients,
            "trials": self.run.budget.trials,
            "resumed": self.resumed,
        }
        yield Event("started", about)
        about = {
            "rows": int(shards.train_rows.sum()),
            "features": list(shards.signature.shape),
            "outputs": shards.signature.outputs,
            "scores": next(data for _, data, _ in journal.events("facts")).get("scores", []),
        }
        yield Event("prepared", about)

    def _stage(
        self, name: str, line: Line, recorder: Recorder, state: dict[str, Any]
    ) -> Generator[Event, None, dict[str, Any]]:
        """Go on with a stage to its end, or to the commit after `stop`; return the next state."""
        journal, champions = line.journal, _champions(state)
        task = line.shards.signature.task
        rows, device = line.rows(name), self.run.engine.device
        line.engine.open(WorkerContext(shards=rows, task=task, device=device))
        position = Position()
        if state["stage"] == name and state["position"] is not None:
            last = journal.last(full=True)
            blobs = last.blobs if last else {}
            tensors = {key: recorder.get(digest) for key, digest in blobs.items()}
            position = Position.from_json(state["position"], tensors)

        def whole(at: Position) -> dict[str, Any]:
            return {**state, "stage": name, "position": at.to_json()}

        before = journal.cost(name)
        moved = before["bytes_up"] + before["bytes_down"]
        for at, step in explore(line.stage(name, champions), recorder, position, whole):
            position = at
            if at.champion and at.generation is None and name in {"search", "final"}:
                self._keep_best(journal, recorder, at.champion)
            moved += sum(row.bytes_up + row.bytes_down for row in step.rows)
            seconds = time.monotonic() - self._began
            direction = task.direction(task.metric)
            yield from shown(name, at, step, direction=direction, moved=moved, seconds=seconds)
            if self._stopping:
                return state
        self._check_found(name, position, journal)
        if position.champion:
            champions[name] = position.champion
            champions |= line.budgets(name, position)
        state = {
            **state,
            "stage": None,
            "position": None,
            "ended": [*state["ended"], name],
            "champions": {n: c.to_json() for n, c in champions.items()},
        }
        pins: dict[str, str | None] = {}
        if name == "search":  # where `extend` goes on from
            state["searched"] = position.to_json()
            own = position.tensors()
            pins = {f"searched/{key}": recorder.put(tensor) for key, tensor in own.items()}
        recorder.full("stage", state, events=[("ended", {"phase": name})], pins=pins)
        return state

    def _check_found(self, name: str, position: Position, journal: Journal) -> None:
        """Refuse to go on from a stage that tried nothing, or whose every candidate failed."""
        if position.trials == 0:
            raise ConfigError(
                "no architecture meets the constraints",
                got=list(self.run.constraints),
                where="constraints",
                fix="loosen them; `archipelago plan FILE` shows what the space costs",
            )
        if position.champion is None and name in {"search", "final"}:
            own = list(journal.outcomes())[-position.trials :]  # the stage's, which came last
            reasons = sorted({outcome.reason for outcome in own if outcome.reason})
            raise RunFailed(
                "every candidate failed" if name == "search" else "the final training failed",
                got="; ".join(reasons)[:400],
                where=name,
                fix=_advice(reasons),
            )

    def _profiled(self, journal: Journal, clock: Clock) -> None:
        if self.profile:
            journal.note("profile", clock.profile())
            journal.write_text("profile.json", json.dumps(clock.profile(), indent=1))

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
        travels = agreement_of(training, layout).select(flat) if champion.kept else flat
        return {
            client: training.personal(travels, layout, recorder.get(digest))
            for client, digest in sorted(champion.kept.items())
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


def resume(
    directory: str | Path,
    run: Run | None = None,
    *,
    previous: bool = False,
    settings: Sequence[str] = (),
    profile: bool = False,
) -> Study:
    """Return a study that goes on from the directory's last commit.

    Args:
        directory: of a run that was stopped or killed.
        run: that began it, where a part of it is known to Python only; None reads it from there.
            Its engine may be another one.
        previous: go back to the commit before the last, for a damaged tensor file; of a damaged
            journal, to the last before the damage.
        settings: `engine.option=value`: where this session computes.
        profile: as in `search`.

    Raises:
        ConfigError: another run began there, its `run.toml` was edited since, or `settings` would
            change what is computed.
    """
    for setting in settings:
        if setting.partition("=")[0].partition(".")[0].strip() != "engine":
            raise ConfigError(
                "a begun run keeps its settings, except where it is computed",
                got=setting,
                where="--set",
                fix="set engine.* only, or start a new run",
            )
    if run is not None and settings:
        raise ConfigError(
            "a run composed in Python brings its engine along",
            got=list(settings),
            where="settings",
            fix="replace the run's engine instead",
        )
    path = Path(directory)
    with Journal.open(path, write=previous, damaged=previous) as journal:
        text = journal.meta["run"]
        if run is None:
            run = loads(text, settings, source=str(path / "run.toml"))
        elif lasting(described(run)) != lasting(text):
            raise ConfigError(
                "this is not the run that began here",
                got=run.name,
                where=str(path),
                fix=f"compose it as {path / 'run.toml'} says, or start a new one",
            )
        # Last: what is refused above changes nothing.
        _check_unedited(path, text)
        if previous:
            journal.go_back()
    return Study(run, path, resumed=True, profile=profile)


def _gave_out(error: Exception, directory: Path) -> MachineFailed:
    """Return what is said where a machine ended the run: its commit is kept."""
    given = isinstance(error, MachineFailed)
    return MachineFailed(
        error.what if given else "this machine gave out",
        got=error.got if given else words_of(error),
        where=str(directory),
        fix=f"{_ROOM}, then `archipelago resume {directory}`: what was committed is kept",
    )


def _check_unedited(directory: Path, text: str) -> None:
    """Refuse a `run.toml` that says something else than what began here: it would go unheard.

    Comments and `[engine]` are written over: neither changes what is computed.
    """
    path = directory / "run.toml"
    try:
        if not path.exists() or lasting(path.read_text(encoding="utf-8")) == lasting(text):
            return
        got = None
    except (ValueError, RecursionError) as error:  # no TOML, or no text
        got = str(error)
    raise ConfigError(
        "this copy of the run file is not what began here: a begun run keeps its settings",
        got=got,
        where=str(path),
        fix="move it and `archipelago search` it into a new directory, or remove it: "
        f"`archipelago resume {directory}` writes it again; --set engine.* says where to compute",
    )


def _advice(reasons: Sequence[str]) -> str:
    """Return what to do where every candidate failed."""
    if all(reason == SILENT for reason in reasons):
        return "lower cohort.minimum or cohort.dropout, or raise cohort.deadline"
    if any(FAILED in reason for reason in reasons):
        return "mend what the reason names, then start a new run"
    if any(UNDEFINED in reason for reason in reasons):
        return (
            "choose another task.metric, or give the rows that score them every class: another "
            "seed, a larger split.validation, or more estimator.validators"
        )
    return "lower client.learning_rate, or set client.clip"


def _champions(state: Mapping[str, Any]) -> dict[str, Champion]:
    return {name: Champion.from_json(one) for name, one in state["champions"].items()}
