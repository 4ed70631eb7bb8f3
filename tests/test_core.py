import numpy as np
import pytest

from archipelago.core.checks import at_least, between, one_of
from archipelago.core.errors import ConfigError, ConfigFaults, did_you_mean
from archipelago.core.meter import COLUMNS, MeterRow, totals
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome


@pytest.mark.parametrize("count", [1, 7, 50, 3000])
def test_a_brief_generator_draws_what_a_fresh_one_does(count):
    for seed in (Seed(0), Seed(0).child("client", 3), Seed(9).child("epoch", 1)):
        for draw in (
            lambda rng: rng.permutation(count),
            lambda rng: rng.integers(0, count, 7, np.int32),  # leaves half a number behind
            lambda rng: rng.standard_normal(count),
        ):
            assert (draw(seed.scratch()) == draw(seed.numpy())).all()


def test_a_child_seed_depends_only_on_its_path():
    assert Seed(0).child("client", 7).value() == Seed(0).child("client").child(7).value()
    assert Seed(0).child(7).value() != Seed(0).child("7").value()
    assert Seed(1).child(7).value() != Seed(0).child(7).value()


def test_numpy_streams_are_repeatable_and_distinct():
    a, b, c = (Seed(0).child(k).numpy().random(4).tolist() for k in ("a", "a", "b"))
    assert a == b != c


def test_an_error_says_what_got_where_fix():
    error = ConfigError("must lie in (0, 1]", got=7, where="wire.ratio", fix="use 0.01")
    assert str(error) == "wire.ratio: must lie in (0, 1]\n  got: 7\n  fix: use 0.01"


def test_faults_are_counted_and_listed():
    assert str(ConfigFaults("a.toml", ["one", "two"])) == "2 faults in a.toml\n  one\n  two"


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (lambda: between("a.b", 0, 0, 1, open_low=True), "a.b: must lie in (0, 1]"),
        (lambda: at_least("a", float("nan"), 1), "a: must be at least 1"),
        (lambda: one_of("kind", "medain", ["mean", "median"]), "did you mean 'median'?"),
    ],
)
def test_checks_name_the_place(check, text):
    with pytest.raises(ConfigError) as caught:
        check()
    assert text in str(caught.value)


def test_did_you_mean_lists_all_when_nothing_is_close():
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of a, b"


def test_an_outcome_survives_json_even_when_it_failed():
    failed = Outcome(number=3, arch={"w": 4}, score=float("-inf"), status="failed", reason="NaN")
    assert Outcome.from_json(failed.to_json()) == failed


def test_meter_rows_sum():
    row = MeterRow(phase="search", round=0, branch=1, client=2, kind="fit", bytes_up=10, macs=5)
    assert totals([row, row])["bytes_up"] == 20
    assert len(row.to_row()) == len(COLUMNS)
