import pickle
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipelago.core.errors import ConfigError
from archipelago.space.space import Choice, Range, Repeat, Space, When

LAYER = {
    "op": Choice(("conv", "pool")),
    "kernel": When("op", ("conv",), Choice((3, 5))),
    "skip": Choice((False, True)),
}
SPACES = {
    "flat": Space({"depth": Range(2, 8, 2), "act": Choice(("relu", "gelu"))}),
    "conditional": Space(
        {
            "head": Choice(("gru", "mean", "none")),
            "gru": When(
                "head", ("gru",), {"hidden": Choice((8, 16)), "both": Choice((True, False))}
            ),
            "drop": When("head", ("gru", "mean"), Range(0.0, 0.5, 0.25)),
        }
    ),
    "repeated": Space({"layer": Repeat(LAYER, Range(0, 3)), "width": Repeat(Choice((1, 2)), 2)}),
    "deep": Space(
        {
            "a": Choice((1, 2)),
            "b": When("a", (2,), Choice(("x", "y"))),
            "c": When("b", ("y",), Repeat(Choice((0, 1)), Range(1, 2))),
            "d": When("a", (1,), When("a", (1, 2), Choice(("only",)))),
        }
    ),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
seeds = st.integers(0, 2**32).map(Random)


@every_space
@given(rng=seeds)
def test_samples_children_and_mutants_are_members(space, rng):
    a, b = space.sample(rng), space.sample(rng)
    assert a in space
    assert space.mutate(a, rng) in space
    assert space.crossover(a, b, rng) in space
    assert all(near in space for near in space.neighbours(a))


@every_space
@given(rng=seeds)
def test_a_mutation_changes_exactly_one_choice(space, rng):
    arch = space.sample(rng)
    child = space.mutate(arch, rng)
    changed = [name for name in arch.keys() & child.keys() if arch[name] != child[name]]
    assert len(changed) == 1
    depends = {s.name: {name for name, _ in s.conditions} for s in space.slots}
    assert all(changed[0] in depends[name] for name in arch.keys() ^ child.keys())


@every_space
@given(rng=seeds)
def test_an_encoding_decodes_to_what_was_encoded(space, rng):
    arch = space.sample(rng)
    vector = space.encode(arch)
    assert space.decode(vector) == arch
    assert len(vector) == len(space.encode(space.sample(rng)))
    assert space.decode([rng.uniform(-2, 2) for _ in vector]) in space


@every_space
def test_the_size_is_the_number_of_distinct_members(space):
    members = list(space.enumerate())
    assert len(members) == space.size
    assert len({space.canonical(arch) for arch in members}) == space.size
    assert all(arch in space for arch in members)


def test_sizes_counted_by_hand():
    # A layer: conv 2 kernels + pool 1, times skip 2 = 6; 0 to 3 layers, two widths of two.
    assert SPACES["repeated"].size == (1 + 6 + 36 + 216) * 4
    assert SPACES["conditional"].size == 4 * 3 + 3 + 1
    assert Space({"layer": Repeat(LAYER, Range(1, 30))}).size == sum(6**n for n in range(1, 31))


def test_names_of_repeated_parts():
    names = [slot.name for slot in SPACES["repeated"].slots][:5]
    assert names == ["layer.count", "layer0.op", "layer0.kernel", "layer0.skip", "layer1.op"]


def test_crossing_a_point_with_itself_gives_it_back():
    rng = Random(0)
    arch = SPACES["repeated"].sample(rng)
    assert SPACES["repeated"].crossover(arch, arch, rng) == arch


def test_the_same_seed_draws_the_same_point_and_global_state_is_left_alone():
    import random

    before = random.getstate()
    assert SPACES["deep"].sample(Random(3)) == SPACES["deep"].sample(Random(3))
    assert random.getstate() == before


@every_space
def test_a_space_travels_and_keeps_its_digest(space):
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert hash(again) == hash(space)
    assert again.digest == Space(space.dims).digest
    assert len({other.digest for other in SPACES.values()}) == len(SPACES)


def lower(arch):
    return str(arch["act"]).lower()


def test_a_canonicaliser_merges_isomorphic_points():
    space = Space({"act": Choice(("relu", "RELU"))}, canonicaliser=lower)
    assert space.canonical({"act": "relu"}) == space.canonical({"act": "RELU"})
    with pytest.raises(ConfigError, match="missing"):
        space.canonical({})


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Choice(()), "at least one option"),
        (lambda: Choice("abc"), "among a list of options"),
        (lambda: Choice((1, True)), "two options of one choice are equal"),
        (lambda: Choice((float("nan"),)), "must be finite"),
        (lambda: Choice(((1, 2),)), "a string, a number or a boolean"),
        (lambda: Range(3, 1), "write Range\\(1, 3\\)"),
        (lambda: Range(1, 3, 0), "above 0"),
        (lambda: Range(0, 1e9), "at most 10000 numbers"),
        (lambda: Repeat(Choice((1, 2)), 0), "at least 1"),
        (lambda: Repeat(Choice((1, 2)), Range(0.5, 2)), "whole number of times"),
        (lambda: Space({}), "nothing to search"),
        (lambda: Space({"a": Choice((1,))}), "nothing to search"),
        (lambda: Space({"a.b": Choice((1, 2))}), "without dots"),
        (lambda: Space({"a": 3}), "made of Choice, Range"),
        (
            lambda: Space({"a": Repeat(Choice((1, 2)), 2), "a0": Choice((1, 2))}),
            "two choices share a name",
        ),
        (
            lambda: Space({"act": Choice((1, 2)), "b": When("akt", (1,), Choice((1, 2)))}),
            "did you mean 'act'",
        ),
        (
            lambda: Space({"a": Choice((1, 2)), "b": When("a", (3,), Choice((1, 2)))}),
            "a value that it never has",
        ),
        (
            lambda: Space(
                {"a": Choice((1, 2)), "b": When("a", (1,), When("a", (2,), Choice((1, 2))))}
            ),
            "contradictory conditions",
        ),
        (
            lambda: Space(
                {
                    "a": Choice((1, 2)),
                    "b": When("a", (1,), Choice((1, 2))),
                    "c": When("a", (2,), When("b", (1,), Choice((1, 2)))),
                }
            ),
            "contradictory conditions",
        ),
        (lambda: When("a", (), Choice((1, 2))), "needs a list of values"),
    ],
)
def test_a_bad_declaration_is_refused(build, text):
    with pytest.raises(ConfigError, match=text):
        build()


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        ({"head": "mean"}, "drop: this choice is missing"),
        ({"head": "none", "drop": 0.0}, "there only when head in"),
        ({"head": "rnn"}, "must be one of"),
        ({"head": "mean", "drop": 0}, "must be one of"),
        ({"head": "none", "heat": 1}, "did you mean 'head'"),
    ],
)
def test_a_bad_point_is_refused_by_name(arch, text):
    space = SPACES["conditional"]
    assert arch not in space
    with pytest.raises(ConfigError, match=text):
        space.check(arch)


def test_a_bad_encoding_is_refused():
    with pytest.raises(ConfigError, match="has 3 numbers"):
        SPACES["flat"].decode([0.0])
    with pytest.raises(ConfigError, match="finite"):
        SPACES["flat"].decode([float("nan")] * 3)


def test_the_space_loads_without_torch():
    import subprocess
    import sys

    code = "import sys, archipelago.space.space; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
