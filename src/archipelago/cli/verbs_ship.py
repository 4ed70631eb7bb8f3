"""What becomes of runs: runs."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["runs"]


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
