"""One flipped bit in the journal of a run that was stopped or killed, then resumed.

    python benchmarks/flips.py [--quick] [--flips N] [--seed N] [--write FILE]

A run is stopped in order, and another is killed so that its log and the log's index stay. In copies
of both, one bit is flipped at a place drawn at random. Resuming must end with the identity of a run
that was left alone, or be refused with the one error of a damaged journal; after a refusal,
`--previous` must end with that identity too, or say that no commit before the damage was kept.
"""

import argparse
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from bars import bar, show, write

from archipelago.config.load import loads
from archipelago.core.errors import JournalError
from archipelago.journal.journal import Journal
from archipelago.study.running.search import Study, resume, search

FILES = {"stopped": ("",), "killed": ("", "-wal", "-shm")}
"""What is flipped in each kind of run, by the end of the file's name."""

RUN = """
name = "flipped"
seed = 11
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 4
[space]
kind = "table-mlp"
[strategy]
kind = "random"
[estimator]
kind = "race"
candidates = 3
first = 2
last = 4
generations = 3
drop = "fraction"
[client]
kind = "local"
learning_rate = 0.1
[engine]
kind = "serial"
[budget]
trials = 9
[final]
rounds = 6
references = false
"""


def ended(study: Study) -> str:
    """Run to the end; return the run's identity."""
    study.result  # noqa: B018 - asking for the result runs the study
    with Journal.open(study.directory, write=False) as journal:
        return journal.digest()


def halted(out: Path, *, after: int, kill: bool) -> None:
    """Run in a child that stops in order, or dies, after so many outcomes."""
    child = os.fork()
    if child == 0:
        try:
            study = search(loads(RUN), out)
            for seen, _ in enumerate(study, 1):
                if seen == after:
                    if kill:
                        os._exit(0)  # the generator left open: its journal is not closed
                    study.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def flipped(source: Path, out: Path, suffix: str, rng: Random) -> tuple[str, int]:
    """Copy a run and flip one bit of one of its files; return the file's name and the bit."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out, symlinks=True)
    path = out / f"journal.sqlite{suffix}"
    data = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return path.name, bit


def outcome(out: Path, whole: str, *, previous: bool) -> str:
    """Go on with a run; say what came of it."""
    try:
        return "identical" if ended(resume(out, previous=previous)) == whole else "different"
    except JournalError as error:
        return "refused" if "--previous" in (error.fix or "") else "refused, no way back"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="six flips a file")
    parser.add_argument(
        "--flips", type=int, default=120, help="of a stopped run; a third in each other file"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    rng = Random(options.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        whole = ended(search(loads(RUN), home / "whole"))
        for kind, suffixes in FILES.items():
            halted(home / kind, after=4, kill=kind == "killed")
            for suffix in suffixes:
                if options.quick:
                    flips = 6
                else:
                    flips = options.flips if kind == "stopped" else options.flips // 3
                for _ in range(flips):
                    file, bit = flipped(home / kind, home / "copy", suffix, rng)
                    row = {"run": kind, "file": file, "bit": bit}
                    row["resumed"] = outcome(home / "copy", whole, previous=False)
                    if row["resumed"] == "refused":
                        row["previous"] = outcome(home / "copy", whole, previous=True)
                    rows.append(show(row))
    good = {"identical", "refused", "refused, no way back"}
    bad = [
        r for r in rows if r["resumed"] not in good or r.get("previous", "identical") not in good
    ]
    lost = [r for r in rows if r.get("previous", "identical") != "identical"]
    counts = dict(Counter(f"{r['resumed']}" for r in rows))
    bars = [
        bar("flipped bits that ended in other records or a raw error", len(bad), 0, most=True)
        | {"flips": len(rows), "resumed": counts},
        bar("promised ways back that did not lead to the same end", len(lost), 0, most=True)
        | {"promised": counts.get("refused", 0)},
    ]
    for line in bars:
        show(line)
    write(options.write, [*rows, *bars])


if __name__ == "__main__":
    main()
