"""What becomes of runs: report, export, predict, runs, compare, reproduce."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archipelago.cli.printing import say

if TYPE_CHECKING:
    from archipelago.study.running.search import Event

__all__ = ["compare", "cost", "export", "predict", "released", "report", "reproduce", "runs"]

_Run = Annotated[Path, typer.Argument(metavar="DIR", help="Of a run.", readable=False)]


def report(directory: _Run) -> None:
    """Write a run's report again; a run that is not finished shows what it has."""
    from archipelago.journal.journal import Journal
    from archipelago.report.html import render
    from archipelago.study.analysing.gather import gather

    with Journal.open(directory, write=False) as journal:
        path = journal.write_text("report.html", render(gather(journal)))
    say(f"report: {path}")


def cost(
    directory: _Run,
    device: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Whose numbers give the joules.")
    ] = "phone",
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """Print what a run cost its clients: sums over its meter, per client total, mean and most."""
    from archipelago.core.device import device as known
    from archipelago.journal.journal import Journal
    from archipelago.study.analysing.costs import bills

    profile = known(device)
    with Journal.open(directory, write=False) as journal:
        found = bills(journal, profile)
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps({"device": asdict(profile), "bills": [asdict(bill) for bill in found]}))
        return
    from archipelago.cli.show import bill_lines

    say("\n".join(bill_lines(found, profile)))


def released(
    directory: _Run,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """List what left each silo of a run, how often and for what, and what was withheld."""
    from archipelago.journal.journal import Journal
    from archipelago.study.analysing.released import ledger

    with Journal.open(directory, write=False) as journal:
        found = ledger(journal)
    if as_json:
        import json
        from dataclasses import asdict

        from archipelago.data.releases import TABLE

        kinds = [asdict(kind) for kind in TABLE]
        print(json.dumps({**asdict(found), "kinds": kinds}))
        return
    from archipelago.cli.show import ledger_lines

    print("\n".join(ledger_lines(found)))


def export(  # noqa: PLR0917 - typer's way to declare options
    directory: _Run,
    onnx: Annotated[
        Path, typer.Option("--onnx", metavar="PATH", help="The file to write; a folder: --front.")
    ],
    number: Annotated[
        int | None, typer.Option(metavar="N", help="Another candidate of the search.")
    ] = None,
    max_macs: Annotated[
        str, typer.Option(metavar="X", help="The best one with at most so many MACs, e.g. 2M.")
    ] = "",
    max_bytes: Annotated[
        str, typer.Option(metavar="X", help="The best one whose file is no larger, e.g. 40k.")
    ] = "",
    front: Annotated[
        bool, typer.Option("--front", help="Every candidate on the Pareto front.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Train what is chosen to the end first.")
    ] = False,
) -> None:
    """Write a network as ONNX: the tested one, or the best so far; or the one that you choose."""
    from archipelago.cli.quantities import bound
    from archipelago.core.errors import ConfigError
    from archipelago.study.running.export import export as write
    from archipelago.study.running.export import export_front

    ways = {"--number": number is not None, "--max-macs or --max-bytes": max_macs or max_bytes}
    if sum(bool(way) for way in (*ways.values(), front)) > 1:
        fix = f"give one of {', '.join(ways)}, --front"
        raise ConfigError("these choices exclude each other", where="export", fix=fix)
    if front:
        for path, what in export_front(directory, onnx, train=train):
            say(f"exported {path}: {what}")
        return
    what = write(
        directory,
        onnx,
        number=number,
        max_macs=bound("--max-macs", max_macs),
        max_bytes=bound("--max-bytes", max_bytes),
        train=train,
    )
    say(f"exported {onnx}: {what}")


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="ONNX file of a run.", readable=False)
    ],
    rows: Annotated[
        Path,
        typer.Argument(metavar="ROWS", help="CSV, Parquet or NPZ of raw rows.", readable=False),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV to write; default: the screen.")
    ] = None,
) -> None:
    """Apply a shipped network to a file of rows."""
    from archipelago.cli.predicting import predicted

    predicted(model, rows, out)


def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Of finished runs.", readable=False)
    ],
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="A page to write, too.")
    ] = None,
) -> None:
    """Set runs side by side: test scores over seeds, paired differences, and what each cost."""
    from archipelago.report.comparison import lines, render
    from archipelago.study.analysing.compare import compare as set_side_by_side

    found = set_side_by_side(directories)
    say("\n".join(lines(found)))
    if page is not None:
        page.write_text(render(found), encoding="utf-8")
        say(f"wrote {page}")


def reproduce(
    directory: _Run,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the repetition here.")
    ] = None,
) -> None:
    """Run a finished run again from its journal, and say whether the bits agree."""
    from archipelago.cli.watch import INTERRUPTED, follow
    from archipelago.study.running.reproduce import Verdict
    from archipelago.study.running.reproduce import reproduce as again

    found: list[Verdict] = []

    def events() -> Iterator["Event"]:
        for event in again(directory, out):
            if isinstance(event, Verdict):
                found.append(event)
            else:
                yield event

    def stop() -> None:  # a repetition in part can be compared with nothing
        raise KeyboardInterrupt

    try:
        follow(events(), stop, as_json=False)
    except KeyboardInterrupt:
        print("stopped: nothing was compared")
        raise typer.Exit(INTERRUPTED) from None
    verdict = found[0]
    counts = ", ".join(f"{count} {what}s" for what, count in verdict.counts.items() if count)
    if verdict.same:
        say(f"the bits agree: {counts}")
        return
    say(f"the bits do not agree; first differences among {counts}:")
    say("\n".join(f"  {line}" for line in verdict.differences))
    raise typer.Exit(1)


def runs(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where runs are kept.", readable=False)
    ] = Path("runs"),
) -> None:
    """List the runs under a directory: state, best score, cost."""
    from archipelago.cli.show import run_lines
    from archipelago.core.errors import ConfigError
    from archipelago.journal.runs import runs as found

    if not directory.is_dir():
        fix = "archipelago runs DIR, a directory in which runs are kept"
        raise ConfigError("no such directory", where=str(directory), fix=fix)
    lines = found(directory)
    say("\n".join(run_lines(lines)) if lines else f"{directory}: no runs here")
