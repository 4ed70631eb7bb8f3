"""From a preset to a finished run: new, check."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["check", "new"]

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Run file (TOML).")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Stronger than the file; may be repeated."),
]


def new(
    preset: Annotated[
        str, typer.Argument(metavar="[PRESET]", help="Left out: they are listed.")
    ] = "",
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: PRESET.toml.")
    ] = None,
) -> None:
    """Copy a preset to a run file of your own."""
    from archipelago.cli.show import preset_lines
    from archipelago.config.load import preset as text_of
    from archipelago.core.errors import ConfigError

    if not preset:
        print("\n".join(preset_lines()))
        return
    text, path = text_of(preset), file or Path(f"{preset}.toml")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        fix = f"name another file: archipelago new {preset} FILE"
        raise ConfigError("this file exists", where=str(path), fix=fix) from None
    print(f"wrote {path}; next: archipelago plan {path}")


def check(file: _File, settings: _Set = None) -> None:
    """Name every fault of a run file, all in one go."""
    from archipelago.config.load import load

    load(file, settings or ())
    print(f"{file}: no fault found")
