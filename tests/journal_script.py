"""A small resumable run, started by test_journal.py to be killed: prints its identity."""

import resource
import sys
from pathlib import Path

from archipelago.core.meter import MeterRow
from archipelago.core.trial import Outcome
from archipelago.journal.journal import Journal
from archipelago.journal.schema import DATABASE

TURNS = 6


def main(directory, limit):
    if (directory / DATABASE).is_file():
        journal = Journal.open(directory, write=True)
    else:
        journal = Journal.create(directory, meta={"name": "killed"})
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with journal:
        last = journal.last(full=True)
        journal.rollback(last.number if last else 0)
        journal.note("resumed")
        for turn in range(last.number + 1 if last else 1, TURNS + 1):
            full = turn % 2 == 0
            digest = journal.put(b"weights %d" % turn * 50)
            journal.commit(
                "round",
                {"turn": turn} if full else None,
                blobs={"w": digest} if full else {},
                pins={"best": digest},
                meter=[MeterRow(phase="search", round=turn, branch=0, client=0, kind="fit")],
                outcomes=[Outcome(number=turn, arch={}, score=0.0, reason="x" * 9000)],
            )
            journal.best({"arch.json": b"%d" % turn, "weights": b"weights %d" % turn})
            journal.collect()
        sys.stdout.write(f"{journal.digest()} {sorted(journal.pins().items())}")


main(Path(sys.argv[1]), int(sys.argv[2].partition("=")[2]) if sys.argv[2:] else 0)
