"""What there is and whether it works here: data, parts, cite, doctor."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["cite", "data", "doctor", "parts"]

data = typer.Typer(invoke_without_command=True, help="List data sets, or show one.")


@data.callback()
def _data(context: typer.Context) -> None:
    """List data sets, or show one."""
    if context.invoked_subcommand is None:
        from archipelago.cli.datasets import listed

        print("\n".join(listed()))


@data.command()
def show(
    name: Annotated[str, typer.Argument(help="A data set, or a run file.")],
) -> None:
    """Print rows, shapes, classes, clients and label skew of one data set."""
    from archipelago.cli.datasets import run_of, shown
    from archipelago.config.load import load

    run = load(name) if name.endswith(".toml") else run_of(name)
    print("\n".join(shown(run)))


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
        print("\n".join(part_lines(part)))


def cite(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="Run file, or a run.")],
) -> None:
    """Print BibTeX of the methods and data that a run uses."""
    from archipelago.config.cite import cite as bibtex
    from archipelago.config.load import load

    print(bibtex(load(source / "run.toml" if source.is_dir() else source)), end="")


def doctor(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where runs shall be kept.")
    ] = Path(),
) -> None:
    """Show versions, memory and cores, and try what a run asks of the file system."""
    from archipelago.cli.doctor import examine

    fit = True
    for finding in examine(directory):
        print(f"{'ok ' if finding.good else 'NO '} {finding.name}: {finding.detail}")
        fit = fit and finding.good
    if not fit:
        raise typer.Exit(1)
