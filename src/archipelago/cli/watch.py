"""Follows a run on the screen: a live panel, a line a round, or JSON events.

Ctrl-C asks the run to stop at its next commit; a second one stops it at once, and even then nothing
committed is lost. A batch system's polite end, and a terminal that is closed, are heeded like it.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from archipelago.cli.progress import Progress, amount, clock, line, metric
from archipelago.cli.signals import ENDS

__all__ = ["INTERRUPTED", "follow", "panel"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Happening(Protocol):
    """One event of a run."""

    @property
    def kind(self) -> str:
        """What happened."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """The rest, ready for JSON."""
        ...


def follow(events: Iterable[Happening], stop: Callable[[], None], *, as_json: bool) -> int:
    """Show `events` until they end; return the exit status.

    Args:
        events: of a run, in order.
        stop: asks the run to stop at its next commit.
        as_json: one JSON object a line instead of text.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    live = console.is_terminal and not as_json
    show = _panelled(console) if live else nullcontext(_json if as_json else _plain)
    status = 0
    with show as tell, _interrupts(stop):
        for event in events:
            if event.kind == "stopped":
                status = INTERRUPTED
            tell(event.kind, event.data)
    return status


def panel(progress: Progress) -> Panel:
    """Draw the state of a run."""
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(progress):
        table.add_row(Text(name, style="dim"), Text(value))
    rows: list[Any] = [table]
    if progress.share is not None:
        # A bar ends no line by itself; a row of a grid does.
        bar = Table.grid()
        bar.add_row(ProgressBar(total=1.0, completed=progress.share, width=48))
        rows.append(bar)
    if progress.lines:
        rows.append(Text("\n".join(progress.lines), style="dim"))
    return Panel(Group(*rows), title="archipelago", title_align="left", width=78)


def _facts(progress: Progress) -> Iterator[tuple[str, str]]:
    yield "phase", progress.phase
    if progress.rounds:
        generation = f", generation {progress.generation}" if progress.phase == "search" else ""
        yield "round", f"{progress.round} of {progress.rounds}{generation}"
    if progress.best is not None:
        number = f" (#{progress.best_number})" if progress.best_number is not None else ""
        yield "best so far", f"{metric(progress.direction * progress.best)}{number}"
    if progress.trials:
        lost = f", {progress.dropped} dropped, {progress.failed} failed"
        yield "candidates", f"{progress.done} of {progress.trials}{lost}"
    yield "branches alive", str(progress.branches)
    yield "clients", str(progress.clients)
    yield "bytes", amount(progress.bytes, "B")
    left = f", about {clock(progress.left)} left in this phase" if progress.left is not None else ""
    yield "time", f"{clock(progress.now)}{left}"


@contextmanager
def _panelled(console: Console) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    progress, start = Progress(), time.monotonic()
    last: list[str] = []

    def tell(kind: str, data: Mapping[str, Any]) -> None:
        progress.update(kind, data, time.monotonic() - start)
        if kind in ("tested", "reference", "exported", "report", "stopped", "finished"):
            last.append(line(kind, data) or "")
        live.update(panel(progress))

    with Live(panel(progress), console=console, refresh_per_second=4, transient=True) as live:
        yield tell
    for said in last:
        console.print(said)


def _plain(kind: str, data: Mapping[str, Any]) -> None:
    said = line(kind, data)
    if said is not None:
        print(said, flush=True)


def _json(kind: str, data: Mapping[str, Any]) -> None:
    print(json.dumps({"event": kind, **_finite(data)}, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    """Return `value` with null for what JSON cannot say: NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    asked = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # print is not safe inside a signal handler; a bare write is.
        with suppress(OSError):  # the terminal may be what went away
            os.write(2, b"\nstopping at the next commit; Ctrl-C again: at once\n")
        stop()

    heard = [signal.SIGINT, *(n for n in ENDS if signal.getsignal(n) is not signal.SIG_IGN)]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
