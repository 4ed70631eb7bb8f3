"""From a preset to a finished run: demo, new, check, plan, search, resume."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archipelago.cli.printing import say

if TYPE_CHECKING:
    from archipelago.study.running.search import Study

__all__ = ["check", "demo", "new", "plan", "resume", "search"]

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Run file (TOML).", readable=False)]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Stronger than the file; may be repeated."),
]
_Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run is kept.")] = Path(
        "archipelago-demo"
    ),
    settings: _Set = None,
    as_json: _Json = False,
) -> None:
    """Search, train, test and export on handwritten digits of 20 clients: three minutes."""
    _warm()
    from archipelago.config.load import loads, preset
    from archipelago.study.running.search import search as start

    run = loads(preset("digits"), settings or (), source="the preset digits")
    _follow(start(run, out), as_json)


def new(  # noqa: PLR0917 - typer's way to declare options
    preset: Annotated[
        str, typer.Argument(metavar="[PRESET]", help="Left out, without --data: they are listed.")
    ] = "",
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Default: PRESET.toml, or run.toml.", readable=False),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="SILOS",
            help="Your own: a folder, a file or a pattern; may be repeated.",
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="COLUMN", help="With --data: what is predicted.")
    ] = "",
    client: Annotated[
        str, typer.Option(metavar="COLUMN", help="With --data: whose row it is, in one file.")
    ] = "",
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            "--label-map",
            metavar="[SILO:]OLD=NEW",
            help="With --data: what a label is called elsewhere; may be repeated.",
        ),
    ] = None,
    classes: Annotated[
        str, typer.Option(metavar="A,B,...", help="With --data: all classes, as they shall be.")
    ] = "",
) -> None:
    """Write a run file: from your silos with --data, each value with its reason; or a preset's."""
    from archipelago.cli.show import preset_lines
    from archipelago.config.load import preset as text_of
    from archipelago.core.errors import ConfigError

    if data:
        if file is not None:
            fix = "archipelago new --data SILOS --label COLUMN [FILE]"
            raise ConfigError("a preset and --data exclude each other", got=preset, fix=fix)
        from archipelago.data.label_map import read_map

        source = {"label": label, "client": client, "label_map": read_map(label_map or ())}
        names = tuple(name.strip() for name in classes.split(",") if name.strip())
        _drafted(data, source, names, Path(preset or "run.toml"))
        return
    if not preset:
        say("\n".join(preset_lines()))
        return
    path = file or Path(f"{preset}.toml")
    _create(path, text_of(preset))
    say(f"wrote {path}; next: archipelago plan {path}")


def _drafted(
    data: list[str], source: Mapping[str, Any], classes: Sequence[str], file: Path
) -> None:
    from archipelago.cli.show import inspection_lines, traffic_line
    from archipelago.core.errors import ConfigError
    from archipelago.data.sources.locate import locate
    from archipelago.study.planning.draft import draft

    if file.exists():
        fix = "name another file: archipelago new --data SILOS --label COLUMN FILE"
        raise ConfigError("this file exists", where=str(file), fix=fix)
    made = draft(locate(data, **source), file=file, classes=classes)
    _create(file, made.text)
    say("\n".join(inspection_lines(made.inspection)))
    say(traffic_line(made.meter))
    say(f"wrote {file}; next: archipelago check {file}")


def _create(path: Path, text: str) -> None:
    from archipelago.core.errors import ConfigError

    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        fix = "name another file: archipelago new ... FILE"
        raise ConfigError("this file exists", where=str(path), fix=fix) from None
    except OSError as error:
        raise ConfigError(
            "the run file cannot be written",
            got=error.strerror,
            where=str(path),
            fix="name a file in a directory that exists and that you may write to",
        ) from None


def check(file: _File, settings: _Set = None) -> None:
    """Name every fault of a run file, all in one go, then try its data and its constraints."""
    from archipelago.config.load import load

    run = load(file, settings or ())
    from archipelago.study.planning.plan import plan as estimate

    found = estimate(run)
    say(f"{file}: no fault found; {found.clients} clients, {found.rows} train rows")
    from archipelago.cli.show import finding_lines, score_lines
    from archipelago.core.seeds import Seed
    from archipelago.data.inspection import inspect

    seed = Seed(run.seed).child("data")
    cut = getattr(run.preprocess, "windows", None)
    how = run.preprocess
    seen = inspect(
        run.data, run.partition, run.split, run.task, seed=seed, windows=cut, preprocess=how
    )
    reading = [seen.reading] if seen.reading else []
    found_lines = [*finding_lines(seen.findings), *score_lines(found.scores)]
    say("\n".join([*reading, *found.withheld, *found_lines]))


def plan(file: _File, settings: _Set = None, as_json: _Json = False) -> None:
    """Say what a search will take before it starts: candidates, rounds, bytes, MACs, minutes."""
    from archipelago.config.load import load

    run = load(file, settings or ())
    from archipelago.study.planning.plan import plan as estimate

    found = estimate(run)
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps(asdict(found)))
        return
    from archipelago.cli.show import plan_lines

    say("\n".join(plan_lines(found)))


def search(  # noqa: PLR0917 - typer's way to declare options
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Run file (TOML).", readable=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: runs/NAME of the run.")
    ] = None,
    settings: _Set = None,
    as_json: _Json = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write where time went; the report shows it.")
    ] = False,
    finished: Annotated[
        Path | None,
        typer.Option("--continue", metavar="DIR", help="Go on with this finished run instead."),
    ] = None,
    trials: Annotated[
        str, typer.Option(metavar="+N", help="With --continue: so many candidates more.")
    ] = "",
) -> None:
    """Search, train the winner, test it once, export and report."""
    from archipelago.core.errors import ConfigError

    if finished is not None:
        if file or out or settings:
            fix = "archipelago search --continue DIR --trials +20"
            raise ConfigError("a continued run keeps its own settings", where="search", fix=fix)
        _warm()
        from archipelago.study.running.extend import extend

        _follow(extend(finished, _more(trials)), as_json)
        return
    if trials:
        fix = "without --continue, write --set budget.trials=N"
        raise ConfigError("goes with --continue only", got=trials, where="--trials", fix=fix)
    if file is None:
        fix = "archipelago search FILE, or --continue DIR --trials +20"
        raise ConfigError("which run file?", where="search", fix=fix)
    _warm()
    from archipelago.config.load import load

    run = load(file, settings or ())
    from archipelago.study.running.search import search as start

    _follow(start(run, out, profile=profile), as_json)


def _more(trials: str) -> int:
    from archipelago.core.errors import ConfigError

    try:
        return int(trials)
    except ValueError:
        fix = "write --trials +20"
        raise ConfigError("must be a whole number", got=trials, where="--trials", fix=fix) from None


def resume(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Of a stopped run.", readable=False)
    ],
    previous: Annotated[
        bool, typer.Option("--previous", help="Go back one commit first: for a damaged file.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Of engine only: go on elsewhere, to the same bits."
        ),
    ] = None,
    as_json: _Json = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write where time went; the report shows it.")
    ] = False,
) -> None:
    """Go on with a stopped or killed run, to the same result."""
    _warm()
    from archipelago.study.running.search import resume as again

    study = again(directory, previous=previous, settings=settings or (), profile=profile)
    _follow(study, as_json)


def _warm() -> None:
    # Before torch is imported here: the workers' parent imports it at the same time, on its core.
    from archipelago.engine.warm import warm

    warm()


def _follow(study: "Study", as_json: bool) -> None:
    from archipelago.cli.watch import INTERRUPTED, follow

    try:
        status = follow(study.events(), study.stop, as_json=as_json)
    except KeyboardInterrupt:
        resume_it = f"archipelago resume {study.directory}"
        say(f"stopped at once; what was committed is kept. Go on with:\n  {resume_it}")
        status = INTERRUPTED
    sys.stdout.flush()
    if status:
        raise typer.Exit(status)
