"""What becomes of runs: report, export, predict, runs."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export", "predict", "report", "runs"]

_Run = Annotated[Path, typer.Argument(metavar="DIR", help="Of a run.")]


def report(directory: _Run) -> None:
    """Write a run's report again; a run that is not finished shows what it has."""
    from archipelago.journal.journal import Journal
    from archipelago.report.html import render
    from archipelago.study.gather import gather

    with Journal.open(directory, write=False) as journal:
        path = journal.write_text("report.html", render(gather(journal)))
    print(f"report: {path}")


def export(
    directory: _Run,
    onnx: Annotated[Path, typer.Option("--onnx", metavar="PATH", help="The file to write.")],
) -> None:
    """Write a run's network as ONNX: the tested one, or the best so far."""
    from archipelago.study.export import export as write

    what = write(directory, onnx)
    print(f"exported {onnx}: {what}")


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file of a run.")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="CSV, Parquet or NPZ of raw rows.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV to write; default: the screen.")
    ] = None,
) -> None:
    """Apply a shipped network to a file of rows."""
    from archipelago.cli.predicting import predicted

    predicted(model, rows, out)


def runs(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where runs are kept.")] = Path(
        "runs"
    ),
) -> None:
    """List the runs under a directory: state, best score, cost."""
    from archipelago.cli.show import run_lines
    from archipelago.core.errors import ConfigError
    from archipelago.journal.runs import runs as found

    if not directory.is_dir():
        raise ConfigError("no such directory", where=str(directory))
    lines = found(directory)
    print("\n".join(run_lines(lines)) if lines else f"{directory}: no runs here")
