"""Tables to parts and back: every fault at once, in words, and nothing lost on the way."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipelago.config.catalog import part, part_class, place_of
from archipelago.config.describe import describe
from archipelago.config.overrides import apply
from archipelago.config.reference import reference
from archipelago.config.tables import from_table, schema, to_table
from archipelago.config.toml import write
from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sail:
    """A part for tests.

    It has a second paragraph.

    Attributes:
        area: square metres;
            more is faster.
        crew: people, all told.

    References:
        Cook 1768, arXiv:1768.0001.
    """

    kind: Literal["sail"] = "sail"
    area: float = 10.0
    crew: int = 2
    rig: Literal["sloop", "ketch"] = "sloop"
    ports: tuple[str, ...] = ()
    log: Path | None = None

    def __post_init__(self) -> None:
        between("boat.area", self.area, 0, 100, open_low=True)
        at_least("boat.crew", self.crew, 1, fix="somebody must steer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Raft:
    """Another, with an option that is needed."""

    kind: Literal["raft"] = "raft"
    logs: int


BOATS = {"boat": {"sail": f"{__name__}:Sail", "raft": f"{__name__}:Raft"}}


def test_a_table_becomes_the_part_its_kind_names() -> None:
    table = {"kind": "sail", "area": 7, "ports": ["Bergen"], "log": "log.txt"}
    made, faults = from_table("boat", table, BOATS)
    assert faults == []
    assert made == Sail(area=7.0, ports=("Bergen",), log=Path("log.txt"))


def test_without_a_kind_it_is_the_first_one() -> None:
    assert from_table("boat", {}, BOATS) == (Sail(), [])
    assert part("boat", catalog=BOATS) == Sail()


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        ({"kind": "sial"}, ["boat: no such kind, got 'sial'. Did you mean 'sail'?"]),
        ({"crw": 3}, ["boat: 'sail' has no option 'crw'. Did you mean 'crew'?"]),
        ({"rig": "slop"}, ["boat.rig: no such choice, got 'slop'. Did you mean 'sloop'?"]),
        ({"crew": "2"}, ["boat.crew: must be a whole number, got '2'."]),
        ({"crew": True}, ["boat.crew: must be a whole number, got True."]),
        ({"crew": 2.5}, ["boat.crew: must be a whole number, got 2.5."]),
        ({"area": "large"}, ["boat.area: must be a number, got 'large'."]),
        ({"ports": "Bergen"}, ["boat.ports: must be a list, in [brackets], got 'Bergen'."]),
        ({"ports": ["a", 1]}, ['boat.ports.1: must be text, in "quotes", got 1.']),
        ({"kind": "raft"}, ["boat.logs: is needed and has no default."]),
        (
            7,
            [
                "boat: must be a table, got 7. "
                "Write it as [boat], with its options in the lines below."
            ],
        ),
        (
            {"log": tomllib.loads("x = 2020-01-01")["x"]},
            ["boat.log: dates and times have no use here; write text, got '2020-01-01'."],
        ),
    ],
)
def test_each_fault_says_place_problem_value_and_cure(table: object, lines: list[str]) -> None:
    assert from_table("boat", table, BOATS) == (None, lines)


def test_all_faults_of_a_section_are_found_in_one_go() -> None:
    table = {"area": 700, "crew": 0, "rig": "slop", "sails": 3}
    made, faults = from_table("boat", table, BOATS)
    assert made is None
    assert sorted(faults) == [
        "boat.area: must lie in (0, 100], got 700.0.",
        "boat.crew: must be at least 1, got 0. Somebody must steer.",
        "boat.rig: no such choice, got 'slop'. Did you mean 'sloop'?",
        "boat: 'sail' has no option 'sails'. Choose one of area, crew, log, ports, rig.",
    ]


@given(
    st.builds(
        Sail,
        area=st.floats(0.001, 100),
        crew=st.integers(1, 2**40),
        rig=st.sampled_from(["sloop", "ketch"]),
        ports=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
    )
)
def test_a_part_survives_the_way_through_toml(boat: Sail) -> None:
    text = write({"boat": to_table(boat, "boat", BOATS)})
    assert from_table("boat", tomllib.loads(text)["boat"], BOATS) == (boat, [])


def test_the_writer_spells_what_toml_has() -> None:
    tables = {
        "a b": 'say "hi"\n\x7f\x00',
        "n": [1, 2.5, [True, {"x": 1}], {}],
        "tiny": 1e-05,
        "far": math.inf,
        "empty": {},
        "deep": {"er": {"value": -1}},
    }
    assert tomllib.loads(write(tables)) == tables
    assert math.isnan(tomllib.loads(write({"x": math.nan}))["x"])
    assert write({"x": None}) == "\n"
    with pytest.raises(ConfigError, match=r"(?s)a\.b: has no spelling in TOML.*object"):
        write({"a": {"b": object()}})


def test_a_part_of_ones_own_has_no_spelling() -> None:
    assert place_of(Sail()) is None
    assert place_of(Sail(), BOATS) == ("boat", "sail")
    with pytest.raises(ConfigError, match="this part has no name in a run file"):
        to_table(object(), "boat", BOATS)


def test_an_unknown_section_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'boat'"):
        part_class("baot", "sail", BOATS)


def test_a_part_is_described_from_its_docstring() -> None:
    info = describe("boat", "sail", BOATS)
    assert info.about == "A part for tests."
    assert info.references == "Cook 1768, arXiv:1768.0001."
    assert info.default
    shown = {option.name: option for option in info.options}
    assert shown["area"].about == "square metres; more is faster."
    assert [o.type for o in info.options] == [
        "number",
        "whole number",
        '"sloop" | "ketch"',
        "list of text",
        "path",
    ]
    assert [o.default for o in info.options] == ["10.0", "2", '"sloop"', "[]", "none"]
    assert describe("boat", "raft", BOATS).options[0].default is None


def test_the_schema_and_the_reference_cover_every_option() -> None:
    found = schema(BOATS)
    assert found["properties"]["boat"]["discriminator"]["propertyName"] == "kind"
    assert found["$defs"]["Sail"]["additionalProperties"] is False
    assert schema({"boat": {"raft": BOATS["boat"]["raft"]}})["properties"]["boat"]["$ref"]
    text = reference(BOATS)
    assert '| `rig` | "sloop" or "ketch" | `"sloop"` |  |' in text
    assert "| `logs` | whole number | needed |  |" in text


def test_overrides_are_toml_or_text_and_a_new_kind_starts_afresh() -> None:
    tables = {"seed": 1, "boat": {"kind": "sail", "area": 3}}
    given_ = ["boat.logs=4", "boat.kind=raft", "seed=2", 'name="x y"', "about=plain words"]
    result, faults = apply(tables, given_)
    assert faults == []
    assert result == {
        "seed": 2,
        "boat": {"kind": "raft", "logs": 4},
        "name": "x y",
        "about": "plain words",
    }
    assert tables["boat"] == {"kind": "sail", "area": 3}


def test_overrides_that_cannot_be_read_are_faults() -> None:
    _, faults = apply({"seed": 1}, ["boat", "seed.x=1", ".x=2"])
    advice = "Write section.option=value, e.g. client.epochs=2."
    assert faults == [
        f"--set: cannot be read, got 'boat'. {advice}",
        "seed: is a plain value, not a section.",
        f"--set: cannot be read, got '.x=2'. {advice}",
    ]
