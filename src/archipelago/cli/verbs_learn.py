"""What there is and whether it works here: data, parts, cite, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from archipelago.cli.printing import say

__all__ = ["bench", "cite", "data", "doctor", "parts"]

data = typer.Typer(invoke_without_command=True, help="List data sets, or show one.")


@data.callback()
def _data(context: typer.Context) -> None:
    """List data sets, or show one."""
    if context.invoked_subcommand is None:
        from archipelago.cli.datasets import listed

        say("\n".join(listed()))


@data.command()
def show(
    name: Annotated[str, typer.Argument(help="A data set, or a run file.")],
) -> None:
    """Print rows, shapes, classes, clients and label skew of one data set."""
    from archipelago.cli.datasets import run_of, shown
    from archipelago.config.load import load

    run = load(name) if name.endswith(".toml") else run_of(name)
    say("\n".join(shown(run)))


def parts(
    section: Annotated[
        str, typer.Argument(help="One section of the run file; all if left out.")
    ] = "",
    schema: Annotated[bool, typer.Option("--schema", help="JSON schema, for editors.")] = False,
) -> None:
    """List every part with its options."""
    import json

    from archipelago.config import describe, tables
    from archipelago.config.catalog import CATALOG
    from archipelago.core.checks import one_of

    if schema:
        print(json.dumps(tables.schema(), indent=2))
        return
    if section:
        one_of("section", section, CATALOG)
    from archipelago.cli.show import part_lines

    for part in describe.parts(section=section or None):
        say("\n".join(part_lines(part)))


def cite(
    source: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="Run file, or a run.", readable=False)
    ],
) -> None:
    """Print BibTeX of the methods and data that a run uses."""
    from archipelago.config.cite import cite as bibtex
    from archipelago.config.load import load

    print(bibtex(load(source / "run.toml" if source.is_dir() else source)), end="")


def bench(  # noqa: PLR0917
    table: Annotated[
        str,
        typer.Argument(metavar="[TABLE]", help="A published table by name, or a file."),
    ] = "nasbench201-cifar10",
    strategies: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy", metavar="KIND[:OPTION=VALUE,...]", help="May be repeated; default: all."
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Searches of each strategy.")] = 20,
    budgets: Annotated[
        str, typer.Option("--budget", help="Networks trained, one or several numbers.")
    ] = "30,60,100",
    batch: Annotated[int, typer.Option(help="Proposals asked for at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Root of all draws.")] = 0,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Results, one JSON line a strategy.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Any-time curves, as .svg or .html.")
    ] = None,
) -> None:
    """Replay strategies on a benchmark table: mean and deviation, regret, significance."""
    import json
    import sys

    from archipelago.core.errors import ConfigError
    from archipelago.core.seeds import Seed
    from archipelago.report.bench_figure import draw
    from archipelago.study.analysing import bench as comparison

    try:
        marks = tuple(int(mark) for mark in budgets.split(","))
    except ValueError:
        raise ConfigError(
            "whole numbers, with commas between", got=budgets, where="--budget"
        ) from None
    measured = comparison.table_of(table)
    entries = [comparison.parse(text) for text in strategies or comparison.LINE_UP]
    if figure is not None and figure.suffix not in (".svg", ".html"):
        draw((), figure)
    rows = comparison.bench(
        measured,
        entries,
        runs=runs,
        budgets=marks,
        batch=batch,
        seed=Seed(seed),
        done=lambda row: say(f"{row.name}: {row.means[-1]:.3f}", file=sys.stderr),
    )
    say("\n".join(comparison.lines(rows, measured)))
    plain = [row.to_json() for row in rows]
    if write is not None:
        write.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    if figure is not None:
        draw(plain, figure)


def doctor(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where runs shall be kept.", readable=False)
    ] = Path(),
) -> None:
    """Show versions, memory and cores, and try what a run asks of the file system."""
    from archipelago.cli.doctor import examine

    fit = True
    for finding in examine(directory):
        say(f"{'ok ' if finding.good else 'NO '} {finding.name}: {finding.detail}")
        fit = fit and finding.good
    if not fit:
        raise typer.Exit(1)
