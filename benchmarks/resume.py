"""Runs that are killed at random instants and resumed, beside one that never was.

    python benchmarks/resume.py [--quick] [--kills N] [--seed N] [--write FILE]

A run with worker processes is killed with SIGKILL in one phase after another, the one hit least so
far, at an instant drawn uniformly over it: by turns the coordinator alone, and its whole process
group. Then no worker, shared-memory segment or lock may be left, and resuming must end with the
same columns (all that are not volatile) and the same tensors as the run that was left alone.
"""

import argparse
import json
import os
import signal
import sqlite3
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import psutil
from bars import bar, show, write

from archipelago.config.load import load
from archipelago.journal.journal import Journal
from archipelago.journal.lock import holder
from archipelago.study.running.search import resume, search

PATIENCE = 60.0
"""Seconds within which workers must have left; one that is still importing leaves after that."""

RUN = """
name = "killed"
seed = 11
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 8
[space]
kind = "table-mlp"
[strategy]
kind = "regularized-evolution"
population = 4
sample = 2
[estimator]
kind = "race"
candidates = 4
first = 4
last = 8
generations = 4
drop = "fraction"
[client]
kind = "local"
learning_rate = 0.1
[engine]
kind = "processes"
workers = 2
[budget]
trials = 16
[final]
rounds = 20
references = true
"""

PHASES = ("search", "final", "references", "test", "ship")
"""What a run does, in order: the reference lines are one phase."""


def started(file: Path, out: Path) -> int:
    """Run, or go on, in a child that leads a session of its own; return its process id.

    The child is forked: it need not import everything again. Its workers do, as always.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            study = resume(out) if (out / "journal.sqlite").exists() else search(load(file), out)
            study.result  # noqa: B018 - asking for the result runs the study
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def finished(file: Path, out: Path) -> tuple[str, dict[str, float]]:
    """Run to the end; return its identity, and each phase's seconds from the journal's making."""
    child = started(file, out)
    begun(out, child)
    begins: dict[str, float] = {}
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if phase := reached(out):
            begins.setdefault(phase, time.monotonic())
        time.sleep(0.005)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{out}: a run failed")
    ends = [*list(begins.values())[1:], time.monotonic()]
    return identity(out), {p: end - begins[p] for p, end in zip(begins, ends, strict=True)}


def reached(out: Path) -> str:
    """Return the phase that a run is in, from its journal as it stands; empty before the first."""
    with suppress(sqlite3.Error):
        base = sqlite3.connect(f"file:{out / 'journal.sqlite'}?mode=ro", uri=True)
        try:
            kinds = {kind for (kind,) in base.execute("SELECT DISTINCT kind FROM commits")}
            query = "SELECT data FROM events WHERE kind = 'ended'"
            ended = {json.loads(data)["phase"] for (data,) in base.execute(query)}
        finally:
            base.close()
        if not kinds:
            return ""
        if "tested" in kinds:
            return "ship"
        if "pooled" in ended:  # the last reference line
            return "test"
        if "final" in ended:
            return "references"
        return "final" if "search" in ended else "search"
    return ""


def begun(out: Path, child: int) -> float:
    """Wait for the journal that `child` makes; return when it was there."""
    while not (out / "journal.sqlite").exists():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise SystemExit(f"{out}: a run ended before it had a journal")
        time.sleep(0.005)
    return time.monotonic()


def identity(out: Path) -> str:
    """Return the digest of all that must be equal, after reading every tensor it names."""
    with Journal.open(out, write=False) as journal:
        return f"{journal.digest()} {told(journal)}"


def told(journal: Journal) -> str:
    """Return the digest of all that a run found and metered, whatever its run file says."""
    last = journal.last(full=True)
    for digest in {*journal.pins().values(), *(last.blobs.values() if last else ())}:
        journal.get(digest)  # verified against its name
    rows = [replace(row, seconds=0.0) for row in journal.meter()]
    found = (rows, list(journal.outcomes()), sorted(journal.pins().items()))
    return blake2b(repr(found).encode(), digest_size=16).hexdigest()


def members(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found: list[int] = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def killed(
    file: Path, out: Path, *, phase: str, after: float, group: bool
) -> dict[str, Any] | None:
    """Kill a run so many seconds into a phase and finish it; None where it was past the phase."""
    before = set(Path("/dev/shm").iterdir())
    child = started(file, out)
    begun(out, child)
    while PHASES.index(reached(out) or PHASES[0]) < PHASES.index(phase) or not reached(out):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.002)
    time.sleep(after)
    if os.waitpid(child, os.WNOHANG)[0]:
        return None
    (os.killpg if group else os.kill)(child, signal.SIGKILL)
    os.waitpid(child, 0)
    began = time.monotonic()
    while (left := members(child)) and time.monotonic() < began + PATIENCE:
        time.sleep(0.05)
    gone = time.monotonic() - began
    locked = holder(out / "lock") is not None
    return {
        "drawn": phase,
        "after": round(after, 3),
        "group": group,
        "reached": reached(out) or "nothing",
        "workers_left": len(left),
        "seconds_to_leave": round(gone, 2),
        "segments_left": len(set(Path("/dev/shm").iterdir()) - before),
        "locked": locked,
        "identity": finished(file, out)[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one kill a phase")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    kills, rng = len(PHASES) if options.quick else options.kills, Random(options.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.toml"
        file.write_text(RUN)
        whole, seconds = finished(file, Path(folder) / "whole")
        tries = 0
        while len(rows) < kills:
            hit = Counter(row["reached"] for row in rows)
            phase, tries = min(PHASES, key=lambda one: hit[one]), tries + 1
            out, after = Path(folder) / f"run-{tries}", rng.uniform(0, seconds.get(phase, 0.0))
            row = killed(file, out, phase=phase, after=after, group=len(rows) % 2 == 1)
            if row is None or row["reached"] != phase:
                seconds[phase] = seconds.get(phase, 0.0) / 2  # the machine was slower before
            if row is not None:
                same = row.pop("identity") == whole
                rows.append(show({**row, "identical": same}))
                write(options.write, rows)
    clean = [r for r in rows if not (r["workers_left"] or r["segments_left"] or r["locked"])]
    bars = [
        bar(
            "resumed runs identical to the uninterrupted one",
            sum(row["identical"] for row in rows),
            kills,
            reached=dict(Counter(row["reached"] for row in rows)),
        ),
        bar(
            "phases in which a run was killed",
            len({row["reached"] for row in rows} & set(PHASES)),
            len(PHASES),
        ),
        bar("kills that left no worker, no shared memory, no lock", len(clean), kills),
    ]
    for line in bars:
        show(line)
    write(options.write, [*rows, *bars])


if __name__ == "__main__":
    main()
