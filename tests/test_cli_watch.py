"""Following a run: lines when piped, JSON on demand, a panel on a terminal, Ctrl-C in between."""

import io
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from archipelago.cli.progress import Progress
from archipelago.cli.watch import INTERRUPTED, follow, panel


@dataclass
class Said:
    kind: str
    data: Mapping[str, Any]


ROUND = {
    "phase": "final",
    "round": 1,
    "rounds": 2,
    "generation": 0,
    "branches": 1,
    "clients": 5,
    "bytes": 10,
    "best": None,
    "seconds": 1.0,
}
FAILED = {
    "phase": "search",
    "number": 3,
    "status": "failed",
    "score": float("-inf"),
    "reason": "loss is NaN",
}


def test_piped_it_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    events = [Said("round", ROUND), Said("secret", {}), Said("outcome", FAILED)]
    assert follow(events, lambda: None, as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "final round 1/2 | clients 5 | 10 B | 1s",
        "#3 failed: loss is NaN",
    ]


def test_as_json_every_event_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    follow([Said("round", ROUND), Said("outcome", FAILED)], lambda: None, as_json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"event": "round", **ROUND}
    assert second["score"] is None


def test_control_c_asks_the_run_to_stop_and_the_status_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[bool] = []

    def events() -> Iterator[Said]:
        yield Said("round", ROUND)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [True]
        yield Said("stopped", {"directory": "runs/x", "resume": "archipelago resume runs/x"})

    before = signal.getsignal(signal.SIGINT)
    assert follow(events(), lambda: asked.append(True), as_json=False) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out.endswith("Go on with:\n  archipelago resume runs/x\n")


def test_a_second_control_c_stops_at_once() -> None:
    def events() -> Iterator[Said]:
        yield Said("round", ROUND)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield Said("round", ROUND)

    with pytest.raises(KeyboardInterrupt):
        follow(events(), lambda: None, as_json=True)


def test_the_panel_shows_where_the_run_is() -> None:
    progress = Progress()
    progress.update("started", {"directory": "runs/x", "trials": 4, "clients": 9}, 0)
    progress.update("round", {**ROUND, "phase": "search", "best": 0.5, "trials": 0}, 3)
    progress.update(
        "outcome", {"phase": "search", "number": 7, "status": "done", "score": 0.75}, 10
    )
    progress.update("round", {**ROUND, "phase": "search", "best": 0.75, "trials": 1}, 10)
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(panel(progress))
    text = console.export_text()
    for piece in ("search", "1 of 2, generation 0", "0.7500 (#7)", "1 of 4", "10 B", "21s left"):
        assert piece in text
    bar = next(line for line in text.splitlines() if "━" in line)
    assert not any(c.isalpha() for c in bar)
