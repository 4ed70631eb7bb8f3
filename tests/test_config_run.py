"""A whole study in TOML and in Python: one value, two spellings."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from archipelago.config.catalog import CATALOG, kinds, part, part_class, place_of
from archipelago.config.cite import cite, entries
from archipelago.config.describe import parts
from archipelago.config.load import dumps, load, loads, preset, presets
from archipelago.config.reference import reference
from archipelago.config.run import SETTINGS, Run
from archipelago.config.tables import schema
from archipelago.core.errors import ConfigError, ConfigFaults

ROOT = Path(__file__).parents[1]

# What a part needs before it can be made without options.
NEEDED: dict[str, dict[str, Any]] = {
    "files": {"paths": ("a.csv",)},
    "image-folder": {"paths": ("folder",)},
}
# What a part cannot run without: in a race, clients have no own models of others' candidates;
# what shrinks a network takes its weights along.
BESIDE: dict[str, dict[str, Any]] = {
    **{kind: {"estimator": part("estimator", "rounds")} for kind in ("fedper", "ditto", "pfedme")},
    "progressive-shrinking": {"estimator": part("estimator", "race", inherit=True, warm=30)},
}
LISTED = [(section, kind) for section in CATALOG for kind in kinds(section)]


def made(section: str, kind: str) -> Run:
    beside = BESIDE.get(kind, {})
    return Run(**{section: part(section, kind, **NEEDED.get(kind, {})), **beside})


@pytest.mark.parametrize(("section", "kind"), LISTED)
def test_every_part_survives_the_way_through_a_file(section: str, kind: str) -> None:
    run = made(section, kind)
    text = dumps(run)
    folder = Path("/")  # the options above are relative paths, which a file's folder completes
    again = loads(text, folder=folder)
    if kind not in NEEDED:
        assert again == run
    assert loads(dumps(again)) == again


@pytest.mark.parametrize(("section", "kind"), LISTED)
def test_every_part_keeps_the_house_rules(section: str, kind: str) -> None:
    cls = part_class(section, kind)
    fields = dataclasses.fields(cls)
    assert cls.__dataclass_params__.frozen
    assert hasattr(cls, "__slots__")
    assert fields[0].name == "kind"
    assert fields[0].default == kind
    assert place_of(made(section, kind).__getattribute__(section)) == (section, kind)


@pytest.mark.parametrize("info", list(parts()), ids=lambda info: f"{info.section}-{info.kind}")
def test_every_part_and_option_is_explained(info: object) -> None:
    assert info.about.endswith(".")  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_has_a_field_for_every_section_and_nothing_else() -> None:
    assert {field.name for field in dataclasses.fields(Run)} == {*SETTINGS, *CATALOG}


def test_an_empty_table_is_the_default_part() -> None:
    text = "\n".join(f"[{section}]" for section in CATALOG)
    assert loads(text) == Run() == loads("seed = 0")


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_without_fault_and_says_how_to_run_it(name: str) -> None:
    text = preset(name)
    run = loads(text, source=name)
    assert run.name == name
    assert run.about
    for verb in ("new", "plan", "search"):
        assert f"#   archipelago {verb} {name}" in text
    assert loads(dumps(run)) == run


def test_overrides_are_stronger_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("seed = 1\n[client]\nepochs = 3\n")
    run = load(path, ["client.epochs=2", "strategy.kind=random", "name=mine"])
    assert (run.seed, run.client.epochs, run.strategy.kind, run.name) == (1, 2, "random", "mine")


def test_paths_begin_at_the_run_file_or_for_overrides_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, here = tmp_path / "study", tmp_path / "here"
    study.mkdir()
    here.mkdir()
    path = study / "run.toml"
    path.write_text('[data]\nkind = "files"\npaths = ["silos/*.csv", "/all/b.csv"]\n')
    monkeypatch.chdir(here)
    assert load(path).data.paths == (str(study / "silos/*.csv"), "/all/b.csv")
    assert load(path, ['data.paths=["c.csv"]']).data.paths == (str(here / "c.csv"),)


def test_faults_of_settings_sections_and_overrides_come_together() -> None:
    text = 'seed = 1.5\nconstraints = ["params < 0", 3]\nname = 4\n[data]\nkind = "digit"\n'
    with pytest.raises(ConfigFaults) as caught:
        loads(text, ["client.epochs=none"], source="here")
    assert sorted(caught.value.faults) == [
        "client.epochs: must be a whole number, got 'none'.",
        'constraints.1: must be text, in "quotes", got 3.',
        "data: no such kind, got 'digit'. Did you mean 'digits'?",
        'name: must be text, in "quotes", got 4.',
        "seed: must be a whole number, got 1.5.",
    ]
    assert str(caught.value).startswith("5 faults in here\n  ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("seed = -1", "seed: must lie in [0, 9.22337e+18], got -1."),
        ('name = " "', "name: must not be empty. A run needs a heading."),
        (
            "[partition]\nclients = 5\n[cohort]\nclients = 9",
            "cohort.clients: fewer clients than a cohort, got (5, 9). "
            "Lower cohort.clients to 5 or raise partition.clients to 9.",
        ),
        (
            "[partition]\nclients = 5\n[cohort]\nminimum = 9",
            "cohort.minimum: a round cannot need more replies than it has clients, got (9, 5). "
            "Lower minimum to 5.",
        ),
        (
            "[partition]\nclients = 20\n[estimator]\nkind = 'race'\ncandidates = 8\n"
            "[cohort]\nminimum = 3",
            "cohort.minimum: a round cannot need more replies than a candidate's group gives, "
            "got (3, 2). Lower minimum to 2, or estimator.candidates: groups get larger.",
        ),
        ('constraints = ["params < 0"]', "constraints: a limit must be above 0, got 0.0."),
    ],
)
def test_what_a_run_as_a_whole_refuses(text: str, fault: str) -> None:
    with pytest.raises(ConfigFaults) as caught:
        loads(text)
    assert caught.value.faults == (fault,)


def test_python_refuses_the_same() -> None:
    with pytest.raises(ConfigError, match="cannot be read as a limit"):
        Run(constraints=("params",))
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        preset("digit")


def test_citations_are_those_of_the_parts_used() -> None:
    used = cite(Run())
    assert "mcmahan2017" in used
    assert "usedby" not in used
    assert "li2020fedprox" not in used
    proximal = Run(client=part("client", "local", proximal=0.1))
    assert "li2020fedprox" in cite(proximal)


def test_every_citation_belongs_to_a_part_and_parts_that_cite_are_in_the_file() -> None:
    callers = {caller.partition("=")[0] for named, _ in entries() for caller in named}
    known = {f"{info.section}/{info.kind}": info for info in parts()}
    for caller in callers:
        place, _, option = caller.partition(".")
        assert place in known
        assert not option or option in {o.name for o in known[place].options}
    named = {caller.partition(".")[0] for caller in callers}
    cited = {place for place, info in known.items() if "arXiv" in info.references}
    assert cited <= named


def test_the_schema_is_json_and_names_every_section() -> None:
    found = json.loads(json.dumps(schema()))
    assert set(found["properties"]) == {*SETTINGS, *CATALOG}


def test_the_written_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "run-file.md").read_text() == reference()
