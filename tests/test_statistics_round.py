import numpy as np
import pytest

from archipelago.core.errors import DataError
from archipelago.core.seeds import Seed
from archipelago.data.answers import moments
from archipelago.data.columns import evidence, numbers, texts
from archipelago.data.partition import Natural
from archipelago.data.preparation import Preparation
from archipelago.data.prepare import prepare
from archipelago.data.preprocess import Preprocess
from archipelago.data.sources.arrays import Arrays
from archipelago.data.split import Split
from archipelago.data.statistics import merged
from archipelago.data.tasks import Classification

ROWS = 240


def messy(seed=0):
    """Two silos that write the same things differently."""
    rng = np.random.default_rng(seed)
    first = np.arange(ROWS) < ROWS // 2
    income = rng.lognormal(10, 1, ROWS).round(2)
    written = [f"{v:,.2f}" if f else f"{v:.2f}" for v, f in zip(income, first, strict=True)]
    written[::9] = ["n/a"] * len(written[::9])
    smoker = rng.integers(0, 2, ROWS)
    smokes = np.where(first, np.array(["No", "YES"])[smoker], np.array(["f", "t"])[smoker])
    days = np.datetime64("2020-01-01") + rng.integers(0, 900, ROWS)
    city = np.array(["Rome", "rome ", "OSLO", "Oslo"])[rng.integers(0, 4, ROWS)]
    city[:3] = "Lima"
    x = {
        "income": np.array(written),
        "smokes": smokes,
        "since": days.astype(str),
        "city": city,
        "id": np.array([f"P-{i}" for i in range(ROWS)]),
        "void": np.array([""] * ROWS),
    }
    y = np.where(smoker, np.where(first, "Ill", "ill"), "well")
    return Arrays(x=x, y=y, clients=np.where(first, "a", "b"), name="messy")


def made(source, tmp_path, **options):
    return prepare(
        source,
        Natural(),
        Split(),
        Classification(),
        seed=Seed(0),
        directory=tmp_path,
        preprocess=Preprocess(**options),
    )


def test_messy_columns_are_read_and_agreed(tmp_path):
    ours = made(messy(), tmp_path)
    columns = {c.name: c for c in ours.preparation.columns}
    assert {n: c.kind for n, c in columns.items() if not c.dropped} == {
        "income": "number",
        "smokes": "boolean",
        "since": "date",
        "city": "category",
    }
    assert columns["city"].vocabulary == ("oslo", "rome")  # lima is below the floor
    assert "nearly every row has its own text" in columns["id"].dropped
    assert "empty at every silo" in columns["void"].dropped
    assert len(ours.preparation.notes) == 2
    assert ours.shards.signature.task.classes == ("Ill", "well")


def test_the_round_equals_the_pooled_computation(tmp_path):
    source = messy()
    ours = made(source, tmp_path)
    column = next(c for c in ours.preparation.columns if c.name == "income")
    trained = np.concatenate([ours.shards.train(c)[0][:, 0].numpy() for c in range(2)])
    clipped = np.abs(trained) >= 10
    assert not clipped.any()
    values = trained * column.scale + column.shift
    present = values[np.abs(values - column.fill) > 1e-2]
    assert column.shift == pytest.approx(present.mean(), rel=1e-4)
    assert column.scale == pytest.approx(present.std(), rel=1e-4)


def test_unseen_categories_and_missing_values_are_handled_later(tmp_path):
    preparation = made(messy(), tmp_path).preparation
    row = {
        "income": np.array(["1,000", "", "12"]),
        "smokes": np.array(["TRUE", "no", ""]),
        "since": np.array(["2020-05-01", "2021/05/01", "1 May 2021"]),
        "city": np.array(["Paris", "", " ROME"]),
    }
    x = preparation.apply(row)
    assert x.shape == (3, len(preparation.features))
    assert np.isfinite(x).all()
    names = list(preparation.features)
    assert x[:, names.index("city=(other)")].tolist() == [1, 1, 0]
    assert x[:, names.index("city=rome")].tolist() == [0, 0, 1]
    assert x[1, names.index("income=(missing)")] == 1
    with pytest.raises(DataError, match=r"column 'income': a value does not read as a number"):
        preparation.apply(row | {"income": np.array(["dear", "1", "2"])})
    del row["city"]
    with pytest.raises(DataError, match=r"columns that the model needs are absent[\s\S]*city"):
        preparation.apply(row)


def test_only_train_rows_are_asked(tmp_path):
    """Values of validation and test rows may be anything: the agreement does not move."""
    source = messy()
    before = made(source, tmp_path / "a")
    owned = before.shards.train_rows.sum()
    assert sum(row.examples for row in before.rows if row.round == 0) == owned


@pytest.mark.parametrize("scaling", ["robust", "quantile", "none"])
def test_other_scalings(tmp_path, scaling):
    ours = made(messy(), tmp_path, scaling=scaling)
    column = next(c for c in ours.preparation.columns if c.name == "income")
    assert Preparation.from_json(ours.preparation.to_json()) == ours.preparation
    x = np.concatenate([ours.shards.train(c)[0][:, 0].numpy() for c in range(2)])
    assert np.isfinite(x).all()
    if scaling == "robust":
        exact = np.nanmedian(numbers(messy().x["income"], "number", column="income"))
        assert column.shift == pytest.approx(exact, rel=0.15)
        assert abs(np.median(x)) < 0.1
    if scaling == "quantile":
        assert abs(x.mean()) < 0.25  # bins of fewer than five rows are merged
        assert x.std() == pytest.approx(1, abs=0.25)  # outer knots are trimmed
        assert np.abs(x).max() <= 3**0.5 + 1e-6
    if scaling == "none":
        assert (column.shift, column.scale) == (0, 1)


def test_moments_merge_to_the_pooled_ones_even_far_from_zero():
    values = 1e9 + np.random.default_rng(0).normal(size=1000)
    count, mean, deviation = merged([moments(part) for part in np.split(values, [10, 300, 301])])
    assert count == 1000
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert deviation == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1,234.5", "number", 1234.5),
        ("1 234", "number", 1234),
        ("10,412", "number", 10412),
        ("-2e3", "number", -2000),
        ("Yes", "boolean", 1),
        ("f", "boolean", 0),
        ("2000-01-02", "date", 1),
        ("2000-01-01 12:00", "date", 0.5),
        ("Jan 3, 2000", "date", 2),
        ("N/A", "number", float("nan")),
    ],
)
def test_fields_read_as_values(text, kind, value):
    got = numbers(np.array([text]), kind, column="c", order="dmy")[0]
    assert got == pytest.approx(value, nan_ok=True)


def test_a_decimal_comma_is_no_thousand_separator():
    with pytest.raises(DataError, match=r"digits, commas'\s+fix: write 3.14, not 3,14"):
        numbers(np.array(["0,412"]), "number", column="c")


def test_dates_that_end_in_the_year_follow_their_order():
    field = np.array(["02/01/2000"])
    assert numbers(field, "date", column="c", order="dmy")[0] == 1
    assert numbers(field, "date", column="c", order="mdy")[0] == 31
    assert evidence(np.array(["13/01/2000", ""]))["mdy"] == 0


def test_categories_ignore_case_blanks_and_trailing_zeros():
    assert texts(np.array([" Rome", "ROME", "1.0", "NA"])).tolist() == ["rome", "rome", "1", ""]
    assert texts(np.array([1.0, np.nan])).tolist() == ["1", ""]


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", '{"version": 1}'])
def test_a_broken_preparation_is_refused(text):
    with pytest.raises(DataError, match="a preparation cannot be read"):
        Preparation.from_json(text)


def test_a_newer_preparation_is_refused():
    with pytest.raises(DataError, match="written by a newer version"):
        Preparation.from_json('{"version": 99, "columns": []}')
