import numpy as np

from archipelago.core.seeds import Seed
from archipelago.data.columns import evidence, is_missing, numbers, texts
from archipelago.data.inspection import inspect
from archipelago.data.partition import Iid, Natural
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.bundled import Digits
from archipelago.data.split import Split
from archipelago.data.tasks import Classification


def judged(x, y, silo):
    source = Arrays(x=x, y=y, clients=silo, name="test")
    return inspect(source, Natural(), Split(), Classification(), seed=Seed(0))


def table(rows=400):
    rng = np.random.default_rng(0)
    silo = np.array(["a", "b"])[np.arange(rows) % 2]
    y = rng.integers(0, 2, rows)
    return {"noise": rng.normal(size=rows), "signal": y + rng.normal(size=rows)}, y, silo


def whats(inspection):
    return {(f.silo, f.column, f.what) for f in inspection.findings}


def test_a_sound_table_has_no_findings():
    inspection = judged(*table())
    assert inspection.findings == ()
    assert inspection.rows_by_silo == {"a": 140, "b": 140}
    assert inspection.labels == {"0": 120, "1": 150}  # in steps of the floor, silo by silo
    assert all(row.bytes_up > 0 for row in inspection.meter)


def test_each_planted_fault_is_found_where_it_is():
    x, y, silo = table()
    at_b = silo == "b"
    x["gaps"] = np.where(at_b & (np.arange(400) % 4 != 1), np.nan, x["noise"])
    x["unit"] = np.where(at_b, 1000.0, 1.0) + x["noise"]
    x["flat"] = np.where(at_b, 3.0, x["noise"])
    x["after"] = np.where(y == 1, "discharged", "none yet")
    found = whats(judged(x, y, silo))
    assert found >= {
        ("b", "gaps", "missing"),
        ("b", "flat", "constant"),
        ("b", "unit", "drift"),
        ("all silos", "after", "leak"),
    }
    assert not any(column in ("noise", "signal") for _, column, _ in found)


def test_another_unit_at_one_of_many_silos_is_drift():
    x, y, _ = table()
    silo = np.array(list("abcdefgh"))[np.arange(400) % 8]
    x["unit"] = np.where(silo == "c", 1000.0, 1.0) + x["noise"]
    assert ("c", "unit", "drift") in whats(judged(x, y, silo))


def test_a_few_silos_are_compared_by_the_deviation_within_them():
    x, y, _ = table()
    for names in ("ab", "abc"):
        silo = np.array(list(names))[np.arange(400) % len(names)]
        x["dose"] = x["noise"] + 1.5 * (silo == "b")
        drifted = {(s, c) for s, c, what in whats(judged(x, y, silo)) if what == "drift"}
        # Of two silos either may be the odd one; of three the majority tells.
        assert drifted == {(s, "dose") for s in (names if len(names) == 2 else "b")}


def test_a_column_that_separates_the_labels_is_a_leak():
    x, y, silo = table()
    x["score"] = np.where(y == 1, 10.0, 2.0) + np.random.default_rng(1).uniform(size=400)
    assert whats(judged(x, y, silo)) == {("all silos", "score", "leak")}
    x["late"] = np.where((silo == "b") & (y == 1), 99.0, 0.0) + x["noise"]
    found = whats(judged(x, y, silo))
    assert ("b", "late", "leak") in found
    assert ("a", "late", "leak") not in found
    # Three classes in a row, each in its own interval.
    y3 = np.digitize(x["noise"], [-0.5, 0.5])
    assert ("all silos", "noise", "leak") in whats(judged({"noise": x["noise"]}, y3, silo))


def test_few_rows_that_a_column_happens_to_part_are_no_leak():
    x, y, _ = table()
    silo = np.array([f"s{i}" for i in range(50)])[np.arange(400) % 50]
    assert not {w for w in whats(judged(x, y, silo)) if w[2] == "leak"}


def test_doubled_rows_and_contradictions_are_counted():
    x, y, silo = table()
    x = {name: np.round(column) for name, column in x.items()}
    found = whats(judged({"noise": x["noise"]}, y, silo))
    assert ("a", "", "duplicates") in found
    assert ("a", "", "label noise") in found


def test_doubled_rows_make_no_column_a_leak():
    x, y, silo = table()
    twice = np.concatenate([np.arange(400), np.arange(240)])
    found = judged({n: c[twice] for n, c in x.items()}, y[twice], silo[twice]).findings
    assert {f.what for f in found} == {"duplicates"}
    # where a table has few categories, equal rows are no slip: its one column is a leak still
    after = {"after": np.where(y == 1, "discharged", "none yet")}
    assert ("all silos", "after", "leak") in whats(judged(after, y, silo))


def test_a_class_at_one_silo_only_is_named():
    x, y, silo = table()
    y = np.where((silo == "a") & (np.arange(400) < 60), 2, y)
    findings = judged(x, y, silo).findings
    assert [(f.silo, f.what) for f in findings] == [("a", "lone class")]
    assert "only this silo has '2'" in findings[0].advice


def test_a_silo_with_one_label_is_named():
    x, y, silo = table()
    findings = judged(x, np.where(silo == "a", 1, y), silo).findings
    assert ("a", "one label") in [(f.silo, f.what) for f in findings]
    assert "all its rows have '1'" in next(f.advice for f in findings if f.what == "one label")


def test_pictures_are_inspected_for_their_labels():
    inspection = inspect(Digits(), Iid(clients=4), Split(), Classification(), seed=Seed(0))
    assert inspection.findings == ()
    assert len(inspection.labels) == 10


def test_infinite_values_are_remarked_on_and_count_as_missing():
    x, y, silo = table()
    odd = (silo == "b") & (np.arange(400) % 4 == 1)  # half of b's rows
    x["ratio"] = np.where(odd, np.inf, x["noise"])
    inspection = judged(x, y, silo)
    assert whats(inspection) == {("b", "ratio", "infinite"), ("b", "ratio", "missing")}
    (column,) = (c for c in inspection.columns if c.name == "ratio")
    assert column.indicator


def test_infinite_values_in_text_are_missing_among_numbers_and_words_among_words():
    said = evidence(np.array(["1,234.5", "Inf", "-infinity", "7", ""]))
    assert (said["present"], said["number"], said["infinite"]) == (2, 2, 2)
    read = numbers(np.array(["1,234.5", "Inf", "-infinity"]), "number", column="x")
    assert read[0] == 1234.5
    assert np.isnan(read[1:]).all()
    words = np.array(["inf", "ant", "inf"])  # where an infarct was
    assert "infinite" not in evidence(words)
    assert (evidence(words)["present"], evidence(words)["distinct"]) == (3, 2)
    assert texts(words).tolist() == ["inf", "ant", "inf"]
    assert texts(np.array([1.0, np.inf, np.nan])).tolist() == ["1", "", ""]
    assert is_missing(np.array([1.0, -np.inf, np.nan])).tolist() == [False, True, True]
