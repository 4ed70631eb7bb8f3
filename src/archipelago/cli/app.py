"""`archipelago`: one verb a step, in the order in which they are used.

Verbs import what they need when they run: `--help` loads neither torch nor the parts.
"""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from archipelago.cli import verbs_learn, verbs_run, verbs_ship
from archipelago.cli.faults import spoken
from archipelago.cli.signals import politely

__all__ = ["app", "main"]

app = typer.Typer(
    name="archipelago",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RUN, _SHIP, _LEARN = "Search", "Ship", "Look around"

for _verb in (
    verbs_run.demo,
    verbs_run.new,
    verbs_run.check,
    verbs_run.plan,
    verbs_run.search,
    verbs_run.resume,
):
    app.command(rich_help_panel=_RUN)(_verb)
for _verb in (
    verbs_ship.report,
    verbs_ship.cost,
    verbs_ship.released,
    verbs_ship.export,
    verbs_ship.predict,
    verbs_ship.runs,
    verbs_ship.compare,
    verbs_ship.reproduce,
):
    app.command(rich_help_panel=_SHIP)(_verb)
app.add_typer(verbs_learn.data, name="data", rich_help_panel=_LEARN)
for _verb in (verbs_learn.parts, verbs_learn.cite, verbs_learn.bench, verbs_learn.doctor):
    app.command(rich_help_panel=_LEARN)(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("archipelago-nas"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Federated neural architecture search: data stay, architectures travel."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a known error is one message and exit status 2, no traceback."""
    # Named semaphores, which joblib would try at its import, outlive a process that is killed.
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")
    with spoken(), politely():
        app(arguments)
