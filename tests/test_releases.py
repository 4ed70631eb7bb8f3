"""What leaves a silo: nothing that is about fewer rows than the floor."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archipelago.core.errors import DataError
from archipelago.core.seeds import Seed
from archipelago.data import statistics
from archipelago.data.answers import HISTOGRAM, LocalRows, answer
from archipelago.data.inspection import inspect
from archipelago.data.partition import Natural
from archipelago.data.prepare import prepare
from archipelago.data.preprocess import Preprocess
from archipelago.data.releases import TABLE, lopsided, merged_bins, told, withheld_lines
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.files import Files
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, MultiLabel, Regression

ROOT = Path(__file__).parents[1]


def made(x: Any, y: Any, silo: Any, folder: Path, task: Any = None, **options: Any) -> Any:
    source = Arrays(x=x, y=y, clients=silo, name="test")
    how = Preprocess(**options)
    task = task or Classification()
    return prepare(source, Natural(), Split(), task, seed=Seed(0), directory=folder, preprocess=how)


def three(rows: int = 80) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    silo = np.repeat(np.array(["a", "b", "c"], dtype="U8"), rows)
    return {"age": rng.normal(50, 12, 3 * rows)}, rng.integers(0, 2, 3 * rows), silo


def asked(x: np.ndarray, labels: Any = None, **options: Any) -> LocalRows:
    labels = np.array(["u", "v"] * len(x))[: len(x)] if labels is None else np.array(labels)
    fixed = {"client": 0, "name": "a", "target": None, "scale": np.ones(1), "floor": 5}
    return LocalRows(x={"age": x}, labels=labels, **{**fixed, **options})


COLUMN = {"age": {"kind": "number", "order": "", "shift": 50.0, "scale": 12.0}}


def test_counts_of_few_rows_are_told_as_one_or_as_all_but_one() -> None:
    assert [told(n, 20, 5) for n in (0, 1, 4, 5, 15, 16, 19, 20)] == [0, 1, 1, 5, 15, 19, 19, 20]
    assert told(3, 20, 0) == 3


def test_moments_that_give_a_row_away_are_withheld() -> None:
    def of(values: list[float]) -> Any:
        rows = asked(np.array(values))
        return answer(rows, {"ask": "columns", "floor": 5, "columns": COLUMN})["age"][0]

    assert of([32.0]) == 0
    assert of([1.0, 2.0, np.nan, np.nan, np.nan, np.nan, 3.0]) == 0
    assert of([0.0] * 40 + [7.0]) == 0  # 40 zeros and a 7 are one equation each
    assert of([3.0] * 12) == 12  # a constant is no row's own
    assert of([1.0, 2.0, 3.0, 4.0, 5.0]) == 5
    assert of([*range(40), np.nan]) == 40  # one is missing, told as one
    assert of([*range(40), np.nan, np.nan, np.nan]) == 42
    assert lopsided(np.array([0.0, 1.0] * 2), 5)


@pytest.mark.parametrize("rows", [5, 12, 60, 500])
def test_every_bin_that_is_told_holds_five_rows_and_no_edge_follows_one(rows: int) -> None:
    values = np.random.default_rng(rows).normal(50, 12, rows)
    request = {"ask": "histograms", "columns": COLUMN}
    bins = answer(asked(values), request)["age"]
    assert all(count >= 5 for _, count in bins)
    assert bins[-1][0] == HISTOGRAM
    assert sum(count for _, count in bins) == rows
    if rows == 12:  # the fifth row may move inside its half: nothing that is told moves
        moved = np.sort(values)
        moved[4] += (moved[5] - moved[4]) / 2
        assert answer(asked(moved), request)["age"] == bins
    assert merged_bins(np.array([4, 0, 0, 0]), 5) == []


@pytest.mark.parametrize("scaling", ["robust", "quantile"])
def test_no_single_value_is_shipped(tmp_path: Path, scaling: str) -> None:
    x, y, silo = three()
    x["age"][[3, 100]] = -70.25, 199.5
    (column,) = made(x, y, silo, tmp_path, scaling=scaling).preparation.columns
    knots = np.array(column.knots)
    assert (len(knots) > 0) == (scaling == "quantile")
    assert (np.diff(knots) > 0).all()
    for knot in knots[[0, -1]] if len(knots) else ():
        assert 5 <= (x["age"] < knot).sum() <= 235
    assert not set(np.round(x["age"], 6)) & {*np.round(knots, 6), round(column.shift, 6)}


@pytest.mark.parametrize("scaling", ["robust", "quantile"])
@pytest.mark.parametrize("silos", ["ab", "abc"])
def test_a_value_far_out_is_neither_shipped_nor_told_and_spoils_no_scale(
    tmp_path: Path, scaling: str, silos: str
) -> None:
    x, y, silo = three()
    here = np.isin(silo, list(silos))
    said = []
    for times in (1, 10):  # whatever its size, the same is told
        age = x["age"][here]
        age[7] = -27055.4 * times
        (column,) = made(
            {"age": age}, y[here], silo[here], tmp_path / str(times), scaling=scaling
        ).preparation.columns
        source = Arrays(x={"age": age}, y=y[here], clients=silo[here])
        found = inspect(source, Natural(), Split(), Classification(), seed=Seed(0))
        assert [(f.silo, f.column, f.what) for f in found.findings] == [("a", "age", "spread")]
        assert found.tails == ("age",)
        said.append((column, found.findings))
    assert said[0] == said[1]
    assert (column.fill, column.scale) == pytest.approx((50, 8), abs=3)
    assert column.shift == column.fill
    assert all(10 < knot < 90 for knot in column.knots)
    assert "2705" not in str(said)


def test_silos_below_the_floor_are_left_out_by_name_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    x, y, silo = three()
    silo[:8] = ["one", *["three"] * 3, *["four"] * 4]
    x["age"][:8] = np.nan
    prepared = made(x, y, silo, tmp_path)
    left = {one.silo for one in prepared.withheld if one.what == "silo"}
    assert left == {"one", "three", "four"}
    shards = prepared.shards
    assert {shards.names[client] for client in shards.training} == {"a", "b", "c"}
    assert {shards.names[row.client] for row in prepared.rows} == {"a", "b", "c"}
    with pytest.raises(DataError, match="no silo has 5 train rows"):
        made({"age": x["age"][:8]}, y[:8], silo[:8], tmp_path / "few")


def test_a_class_of_one_row_is_withheld_unless_it_is_declared(tmp_path: Path) -> None:
    x, y, silo = three()
    y = np.where(y, "ill", "well").astype("U8")
    y[5:8] = "ebola"
    prepared = made(x, y, silo, tmp_path / "told")
    assert prepared.shards.signature.task.classes == ("ill", "well")
    assert [one.silo for one in prepared.withheld if one.what == "classes"] == ["a"]
    assert prepared.shards.train_rows.sum() < 3 * 56
    assert "ebola" not in "".join(p.read_text() for p in (tmp_path / "told").glob("*.json"))
    task = Classification(classes=("ebola", "ill", "well"))
    prepared = made(x, y, silo, tmp_path / "declared", task)
    assert prepared.shards.signature.task.classes == ("ebola", "ill", "well")
    assert prepared.shards.train_rows.sum() == 3 * 56


def test_a_label_among_several_that_nobody_names_is_said_to_be_lost(tmp_path: Path) -> None:
    x, y, silo = three()
    y = np.where(y, "ill;old", "well").astype("U12")
    y[5:7] = "ill;ebola"
    prepared = made(x, y, silo, tmp_path, MultiLabel(separator=";"))
    assert prepared.shards.signature.task.classes == ("ill", "old", "well")
    assert prepared.shards.train_rows.sum() == 3 * 56
    source = Arrays(x=x, y=y, clients=silo)
    found = inspect(source, Natural(), Split(), MultiLabel(separator=";"), seed=Seed(0))
    for withheld in (prepared.withheld, found.withheld):
        assert [(one.silo, one.what) for one in withheld] == [("a", "labels")]
    assert "lose one that no silo may name" in "".join(withheld_lines(prepared.withheld, 5))


def test_a_target_whose_moments_are_withheld_is_not_called_constant(tmp_path: Path) -> None:
    x, y, silo = three()
    target = np.random.default_rng(1).normal(size=len(y))
    target[silo == "b"] = 5.5
    target[np.flatnonzero(silo == "b")[:3]] = 7.5, 8.25, 9.5
    prepared = made(x, target, silo, tmp_path / "one", Regression())
    assert [(one.silo, one.what) for one in prepared.withheld] == [("b", "moments")]
    source = Arrays(x=x, y=target, clients=silo)
    found = inspect(source, Natural(), Split(), Regression(), seed=Seed(0))
    assert [(one.silo, one.what) for one in found.withheld] == [("b", "moments")]
    alone = silo == "b"
    with pytest.raises(DataError, match="no silo may tell a mean of the target"):
        made({"age": x["age"][alone]}, target[alone], silo[alone], tmp_path / "b", Regression())


def test_a_slip_in_a_date_at_one_silo_is_no_quarrel_about_their_order(tmp_path: Path) -> None:
    x, y, silo = three()
    days = np.array([f"2024-01-{1 + i % 28:02}" for i in range(len(y))])
    days[87] = "2024-13-45"
    with pytest.raises(DataError, match="dates at some silos and text at others") as caught:
        made({**x, "day": days}, y, silo, tmp_path)
    assert caught.value.where == "silo 'b', column 'day'"
    days = np.array([f"{1 + i % 12:02}/{1 + i % 28:02}/2024" for i in range(len(y))])
    days[silo == "c"] = [f"{1 + i % 28:02}/{1 + i % 12:02}/2024" for i in range(80)]
    with pytest.raises(DataError, match="day first at one silo and month first at another"):
        made({**x, "day": days}, y, silo, tmp_path)


def test_a_target_that_is_no_number_is_named_by_its_row(tmp_path: Path) -> None:
    for name in "ab":
        rows = [f"{i},{i}.5" for i in range(30)]
        rows[4] = "4,secret" if name == "b" else rows[4]
        (tmp_path / f"{name}.csv").write_text("\n".join(["age,y", *rows]))
    source = Files(paths=(str(tmp_path / "?.csv"),), label="y")
    with pytest.raises(DataError, match="does not read as a number") as caught:
        inspect(source, Natural(), Split(), Regression(), seed=Seed(0))
    assert str(caught.value.where).endswith("line 6 of b.csv, column 'y'")
    assert "secret" not in str(caught.value)


def test_exact_label_counts_leave_where_their_owner_says_so(tmp_path: Path) -> None:
    given = three()
    assert not any(one.labels for one in made(*given, tmp_path / "off").summaries)
    on = made(*given, tmp_path / "on", label_counts=True).summaries
    assert [sum(one.labels) for one in on] == [56, 56, 56]
    source = Arrays(x=given[0], y=given[1], clients=given[2])
    seen = inspect(source, Natural(), Split(), Classification(), seed=Seed(0))
    assert all(count % 5 == 0 for count in seen.labels.values())


def test_sites_with_few_rows_are_not_asked_for_scores(tmp_path: Path) -> None:
    x, y, silo = three()
    silo[:12] = "dozen"
    prepared = made(x, y, silo, tmp_path)
    shards = prepared.shards
    dozen = shards.names.index("dozen")
    assert dozen in shards.training
    assert dozen not in shards.scoring
    assert shards.quiet("test") == (dozen,)
    assert {(w.silo, w.what) for w in prepared.withheld} >= {("dozen", "validation")}


def test_a_published_set_has_no_floor(tmp_path: Path) -> None:
    class Known(Arrays):
        PUBLISHED = True

    x, y, silo = three(8)
    how: Any = {"seed": Seed(0), "directory": tmp_path}
    prepared = prepare(Known(x=x, y=y, clients=silo), Natural(), Split(), Classification(), **how)
    assert prepared.withheld == ()
    assert len(prepared.shards.scoring) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.clear(),
        lambda said: said.update(rows=10**400),
        lambda said: said.update(rows=True),
        lambda said: said.update(labels=["u"]),
        lambda said: said.update(labels={"u": -1}),
        lambda said: said.update(labels={"u": 1e9}),
        lambda said: said["columns"].clear(),
        lambda said: said["columns"]["age"].update(number=10**9),
        lambda said: said["columns"]["age"].update(present="many"),
    ],
)
def test_a_malformed_answer_leaves_its_silo_out_of_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    def hostile(rows: LocalRows, request: Any) -> dict[str, Any]:
        said = answer(rows, request)
        if rows.name == "b" and request["ask"] == "schema":
            change(said)
        return said

    monkeypatch.setattr(statistics, "answer", hostile)
    prepared = made(*three(), tmp_path)
    assert [(w.silo, w.what) for w in prepared.withheld] == [("b", "answer")]
    assert prepared.preparation.columns[0].scale == pytest.approx(12, rel=0.2)


def test_no_message_prints_a_value(tmp_path: Path) -> None:
    first, rest = "61,70.9,yes\n", "".join(f"{i},{i}.5,no\n" for i in range(30))
    (tmp_path / "a.csv").write_text("age,crea,y\n" + rest)
    (tmp_path / "b.csv").write_text(first + rest)
    for text in (first, "61,,yes\n", "61,61,yes\n"):
        (tmp_path / "b.csv").write_text(text + rest)
        with pytest.raises(DataError) as caught:
            Files(paths=(str(tmp_path / "?.csv"),), label="y").load()
        said = str(caught.value).replace(str(tmp_path), "")
        assert "61" not in said
        assert "70.9" not in said
        assert "yes" not in said


def test_the_written_table_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "what-leaves.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    said = [tuple(cell.strip() for cell in row) for row in rows[2:]]
    assert said == [
        (r.name, r.leaves, r.floor, r.below, "yes" if r.summed else "no") for r in TABLE
    ]
    assert re.search(r"`preprocess.floor`", text)
