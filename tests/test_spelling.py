"""What a value is: labels, categories, owners; label sets that differ; label maps."""

import csv
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from archipelago.cli.app import main
from archipelago.config.load import dumps, load, loads
from archipelago.core.errors import ConfigError, DataError
from archipelago.core.seeds import Seed
from archipelago.data.classes import agree
from archipelago.data.columns import categories, plain_numbers, texts
from archipelago.data.decide import decide
from archipelago.data.inspection import inspect
from archipelago.data.partition import Iid, Natural
from archipelago.data.preparation import Column
from archipelago.data.prepare import prepare
from archipelago.data.preprocess import Preprocess
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.files import Files
from archipelago.data.sources.images import ImageFolder
from archipelago.data.spelling import fold, kept, spelled, spellings, truth_of
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.deploy.session import Session

ROWS = 90


def source(y: Any, silo: Any = None, **options: Any) -> Arrays:
    """Rows of silos a, b, c in turn, with one column; `y` is repeated, or one list a silo."""
    turn = np.arange(ROWS) % 3
    if isinstance(y, dict):
        lists = list(y.values())
        y = np.array([lists[t][(i // 3) % len(lists[t])] for i, t in enumerate(turn)])
        silo = np.array(list(options.pop("names", "abc")))[turn]
    x = {"age": np.random.default_rng(0).normal(size=ROWS)}
    return Arrays(
        x=x, y=y, clients=np.array(list("abc"))[turn] if silo is None else silo, **options
    )


def seen(made: Any, task: Any = None, partition: Any = None) -> Any:
    how = partition or Natural()
    return inspect(made, how, Split(), task or Classification(), seed=Seed(0))


def classes(y: Any, task: Any = None, **options: Any) -> list[str]:
    return list(seen(source(y, **options), task).labels)


def whats(inspection: Any) -> list[tuple[str, str]]:
    return [(f.silo, f.what) for f in inspection.findings]


def status(*arguments: object) -> Any:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("01", "1"),
        ("007", "7"),
        ("1e3", "1000"),
        ("+1", "1"),
        ("1.50", "1.5"),
        ("250.00", "250"),
        ("1_0", "10"),
        ("\uff11", "1"),
        ("9007199254740993", "9007199254740992"),
        ("Ma\u00dfe", "Masse"),
        ("a-1", "a1"),
    ],
)
def test_codes_that_read_alike_are_two_values_everywhere(one: str, other: str) -> None:
    assert fold(one) != fold(other)
    assert set(classes({"a": [one, other], "b": [other, one], "c": [one, other]})) == {one, other}
    assert len(set(texts(np.array([one, other])).tolist())) == 2
    column = Column(name="c", kind="category", vocabulary=tuple(sorted((fold(one), fold(other)))))
    assert (column.apply(np.array([one, other])).sum(0)[:2] == 1).all()


@pytest.mark.parametrize(
    "spelt",
    [
        ["Rome", "rome", " ROME "],
        ["caf\u00e9", "cafe\u0301", "CAF\u00c9"],
        ["New  York", "new york", "NEW YORK"],
        ["stage 2", "Stage 2", "STAGE 2"],
    ],
)
def test_spellings_that_lose_nothing_are_one_value(spelt: list[str]) -> None:
    assert len({fold(text) for text in spelt}) == 1
    y = {"a": [spelt[0], "x-ray"], "b": [spelt[1], "x-ray"], "c": [*spelt, "x-ray"]}
    found = classes(y)
    assert len(found) == 2
    assert {unicodedata.normalize("NFC", text.strip()) for text in spelt} & set(found)


def test_numbers_of_any_type_are_the_class_that_text_names() -> None:
    for typed in (np.int8, np.uint64, np.float32, np.float64, np.str_):
        assert spellings(np.array([7, 10], dtype=typed)).tolist() == ["7", "10"]
    assert spelled(np.float32(0.1)) == "0.1"
    assert spelled(2**60 + 1) == str(2**60 + 1)
    assert [spelled(v) for v in (float("nan"), float("inf"), True)] == ["", "", "True"]
    # a float's text beside whole numbers elsewhere, as one of two programs writes them
    assert classes({"a": ["1.0", "2.0"], "b": ["1", "2"], "c": ["1", "2"]}) == ["1", "2"]
    # but not where one silo has both
    both = {"a": ["1.0", "1", "2"], "b": ["1", "2"], "c": ["1", "2"]}
    assert classes(both) == ["1", "1.0", "2"]


def test_case_parts_codes_and_joins_words() -> None:
    yes = {"yes": 9, "Yes": 8, "YES": 7, "no": 30}
    assert kept(yes) == {"yes": "yes", "Yes": "yes", "YES": "yes", "no": "no"}
    assert set(kept({"Y": 9, "y": 9, "N": 9, "n": 9}).values()) == {"Y", "N"}
    assert set(kept({"M": 9, "m": 8, "F": 9, "f": 8}).values()) == {"M", "F"}
    for codes in ("us US", "a1 A1", "AA Aa aa", "mRNA MRNA", "e11.9 E11.9"):
        names = codes.split()
        assert kept(dict.fromkeys(names, 9)) == {name: name for name in names}
        # a slip: fewer rows than anybody would count as a class
        few = dict.fromkeys(names, 2) | {names[0]: 50}
        assert set(kept(few).values()) == {names[0]}


def test_what_one_silo_keeps_apart_nobody_folds() -> None:
    y = {"a": ["us", "US", "de"], "b": ["US", "de"], "c": ["us", "de"]}
    found = seen(source(y))
    assert list(found.labels) == ["de", "US", "us"]
    assert ("all silos", "spellings") in whats(found)
    # where no silo has both, it is one code under the spelling of most rows
    assert classes({"a": ["us", "de"], "b": ["US", "de"], "c": ["us", "de"]}) == ["de", "us"]


def test_one_word_in_three_cases_raises_no_alarm() -> None:
    y = {"a": ["yes", "Yes", "YES", "no"], "b": ["Yes", "No"], "c": ["YES", "NO"]}
    found = seen(source(y))
    assert len(found.labels) == 2
    assert found.findings == ()
    assert found.reading == ""


def test_rows_that_differ_in_the_case_of_their_label_are_no_contradiction() -> None:
    made = source({"a": ["yes", "no"], "b": ["Yes", "no"], "c": ["yes", "YES", "no", "NO"]})
    age = np.array([1.0, 2.0])[(np.arange(ROWS) // 3) % 2]
    made.x["age"] = np.where(np.arange(ROWS) % 3 == 2, np.arange(ROWS) % 2, age)
    assert "label noise" not in {what for silo, what in whats(seen(made)) if silo != "c"}


@pytest.mark.parametrize(
    ("sets", "names"),
    [
        ((["0", "1"], ["no", "yes"], ["0", "1"]), ["0", "1"]),
        ((["0", "1"], ["No", "Yes"], ["False", "True"]), None),
        ((["n", "y"], ["no", "yes"], ["NO", "YES"]), None),
        ((["f", "t"], ["false", "true"], ["0", "1"]), None),
        ((["no", "yes"], ["1", "1"], ["no", "yes"]), ["no", "yes"]),
    ],
)
def test_truth_values_are_one_pair_of_classes(sets: Any, names: list[str] | None) -> None:
    found = seen(source(dict(zip("abc", sets, strict=True))))
    assert len(found.labels) == 2
    assert [truth_of(name) for name in found.labels] == [0, 1]
    assert names is None or list(found.labels) == names
    assert "positive class" in found.reading
    assert not {what for _, what in whats(found)} & {"lone class", "spellings"}
    # Counts are told in steps of the floor, rounded down.
    assert 0 <= sum(found.rows_by_silo.values()) - sum(found.labels.values()) < 5 * 2 * 3


def test_rows_that_nobody_was_asked_of_are_read_by_the_same_rule() -> None:
    found = agree([("a", {"labels": {"0": 9, "1": 9}})], truths=True)
    assert [found.place(text) for text in ("1", "1.0", "YES", "f", "01", "2")] == [
        1,
        1,
        1,
        0,
        -1,
        -1,
    ]
    found = agree([("a", {"labels": {"us": 9, "US": 8, "de": 9}})], truths=True)
    assert [found.names[found.place(text)] for text in ("us", "US", "Us")] == ["us", "US", "us"]


def test_letters_that_are_no_truth_values_stay_classes() -> None:
    assert classes({s: ["t", "y", "n"] for s in "abc"}) == ["n", "t", "y"]
    assert classes({s: ["n", "f"] for s in "abc"}) == ["f", "n"]
    assert classes({s: ["0", "1", "2"] for s in "abc"}) == ["0", "1", "2"]
    declared = Classification(classes=("no", "0", "1", "yes"))
    y = {"a": ["0", "1"], "b": ["no", "yes"], "c": ["0", "1"]}
    assert classes(y, declared) == ["no", "0", "1", "yes"]


@pytest.mark.parametrize(
    ("sets", "proposed"),
    [
        ((["0", "1"], ["benign", "malignant"], ["0", "1"]), '"benign" = "0", "malignant" = "1"'),
        ((["ill", "well"], ["sick", "well"], ["ill", "well"]), '"sick" = "ill"'),
        ((["a", "b"], ["c", "d"], ["a", "b"]), '"c" = "a", "d" = "b"'),
        ((["a", "b", "c"], ["c", "d", "e"], ["a", "b", "c"]), '"d" = "a", "e" = "b"'),
        ((["0", "1"], ["1", "2"], ["0", "1"]), '"b" = { "1" = "0", "2" = "1" }'),
        ((["0", "1"], ["2", "3"], ["0", "1"]), '"2" = "0", "3" = "1"'),
        ((["no", "yes", "unknown"], ["0", "1"], ["no", "yes"]), '"0" = "no", "1" = "yes"'),
        ((["0", "1"], ["ill"], ["0", "1"]), '"ill" = "0"'),
        ((["M", "F"], ["male", "female"], ["M", "F"]), '"female" = "F", "male" = "M"'),
    ],
)
def test_two_vocabularies_are_refused_with_a_map_that_works(sets: Any, proposed: str) -> None:
    y = dict(zip("abc", sets, strict=True))
    with pytest.raises(DataError, match="silos call the classes differently") as refused:
        seen(source(y))
    said = str(refused.value)
    assert "silo 'b'" in said
    assert f"label_map = {{ {proposed} }}" in said
    with pytest.raises(DataError, match="silos call the classes differently"):
        decided(source(y), Classification())
    # as proposed it works; so does the declaration; rows that are dealt out have one owner
    line = next(text for text in said.splitlines() if "label_map =" in text)
    mapping = loads(f"[data]\nkind = 'files'\npaths = ['x']\n{line}").data.label_map
    assert len(classes(y, label_map=mapping)) < len(set().union(*sets))
    line = next(text for text in said.splitlines() if "classes =" in text)
    task = loads(f"[task]\n{line}").task
    assert classes(y, task) == list(task.classes)
    assert seen(source(y), partition=Iid(clients=3)).labels


def decided(made: Any, task: Any, tmp: str = "/nowhere", **options: Any) -> Any:
    return prepare(
        made, Natural(), Split(), task, seed=Seed(0), directory=tmp, preprocess=None, **options
    )


@pytest.mark.parametrize(
    "sets",
    [
        (["0", "1", "2"], ["0", "1"], ["2", "1"]),
        (["0", "1"], ["2", "3"], ["4", "5"]),
        (["a"], ["b"], ["c"]),
        (["a", "b"], ["b", "c"], ["a", "c"]),
        (["a", "b"], ["b"], ["b"]),
        (["a", "b", "c", "d"], ["b", "c", "d", "e"], ["a", "b", "c"]),
        (["1", "2", "other"], ["1", "2"], ["other"]),
    ],
)
def test_silos_that_lack_classes_are_no_second_vocabulary(sets: Any) -> None:
    found = seen(source(dict(zip("abc", sets, strict=True))))
    assert list(found.labels) == sorted(set().union(*sets))


def test_a_word_for_nothing_is_a_class_where_somebody_says_so() -> None:
    y = {s: ["none", "bearing"] for s in "abc"}
    with pytest.raises(DataError, match=r"labels are missing[\s\S]*'none' is a class, list all"):
        seen(source(y))
    assert classes(y, Classification(classes=("none", "bearing"))) == ["none", "bearing"]
    assert classes(y, label_map={"none": "sound"}) == ["bearing", "sound"]
    y["b"] = ["", "bearing"]
    with pytest.raises(DataError, match="labels are missing"):
        seen(source(y), Classification(classes=("none", "bearing")))


def test_folders_are_classes_as_they_are_called(tmp_path: Path) -> None:
    for silo in ("east", "west"):
        for name in ("01", "1", "none"):
            folder = tmp_path / silo / name
            folder.mkdir(parents=True)
            for number in range(10):
                pixels = np.full((4, 4), 20 * number, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    found = seen(ImageFolder(paths=(f"{tmp_path}/*",)))
    assert list(found.labels) == ["01", "1", "none"]
    mapped = ImageFolder(paths=(f"{tmp_path}/*",), label_map={"01": "1", "none": "2"})
    assert list(seen(mapped).labels) == ["1", "2"]


def test_several_labels_a_row_are_spelt_one_by_one() -> None:
    y = {"a": ["red; blue", "red"], "b": ["Red;blue", "RED"], "c": ["01;1", "blue ; red"]}
    found = seen(source(y), MultiLabel())
    assert list(found.labels) == ["01", "1", "blue", "red"]
    rows = Counter(found.labels)
    assert rows["red"] > rows["blue"] > rows["01"] > 0
    mapped = seen(source(y, label_map={"01": "blue", "1": "red"}), MultiLabel())
    assert set(mapped.labels) == {"blue", "red"}


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"yess": "1"}, r"names a label that no row has[\s\S]*did you mean 'yes'"),
        ({"q": {"yes": "1"}}, r"names a silo that is not there[\s\S]*got: 'q'"),
        ({"a": {"maybe": "1"}}, r"label_map\.a: names a label that no row has"),
        ({"yes": ""}, "a class needs a name"),
        ({"yes": "1", "no": "1"}, r"one class only[\s\S]*data\.label_map"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(mapping: Any, text: str) -> None:
    with pytest.raises((ConfigError, DataError), match=text):
        seen(source({s: ["yes", "no"] for s in "abc"}, label_map=mapping))


def test_a_class_below_the_floor_makes_no_second_vocabulary() -> None:
    # a has three rows of y, too few to name it: b's set is part of a's all the same.
    y = {"a": ["x"] * 13 + ["z"] * 13 + ["y"] * 4, "b": ["x", "y"], "c": ["x", "y"]}
    found = seen(source(y))
    assert list(found.labels) == ["x", "y", "z"]
    y = {"a": ["x"] * 13 + ["z"] * 13 + ["ebola"] * 4, "b": ["x", "y"], "c": ["x", "y"]}
    with pytest.raises(DataError, match="call the classes differently") as caught:
        seen(source(y))
    assert "ebola" not in str(caught.value)


def test_labels_among_several_have_one_vocabulary_too() -> None:
    with pytest.raises(DataError, match="call the classes differently"):
        seen(source({"a": ["p;q", "p"], "b": ["u;v", "u"], "c": ["p", "q"]}), MultiLabel())


def test_a_slip_in_a_map_shows_no_label_of_few_rows() -> None:
    y = np.array(["yes", "no"] * 45, dtype="U9")
    y[3] = "ebola"
    for slip in ("ebolla", "zz"):
        with pytest.raises(ConfigError, match="names a label that no row has") as caught:
            seen(source(y, label_map={slip: "yes"}))
        assert "ebola" not in str(caught.value)
        assert "choose one of no, yes" in str(caught.value)


def test_a_map_has_no_meaning_for_numbers_to_predict() -> None:
    made = source(np.arange(ROWS) * 1.5, label_map={"1.5": "2"})
    with pytest.raises(ConfigError, match="names classes, and a regression has none"):
        seen(made, Regression())


def test_a_map_is_part_of_the_run_and_is_left_out_where_there_is_none() -> None:
    text = "[data]\nkind = 'files'\npaths = ['a.csv']\n"
    assert "label_map" not in dumps(loads(text))
    run = loads(text + "label_map = { yes = '1', south = { '2' = '1' } }\n")
    assert loads(dumps(run)) == run
    assert run.data.label_map == {"yes": "1", "south": {"2": "1"}}
    with pytest.raises(ConfigError, match="label_map"):
        loads(text + "label_map = { yes = 1 }\n")


def test_categories_of_one_silo_stay_apart_in_training_and_in_prediction(tmp_path: Path) -> None:
    made = source({s: ["x", "w"] for s in "abc"})
    words = np.array(["us", "US", "01", "1", "Rome", "ROME"])[np.arange(ROWS) // 3 % 6]
    made.x["code"] = np.where(np.arange(ROWS) % 3 == 1, np.char.lower(words), words)
    ours = prepare(
        made,
        Natural(),
        Split(),
        Classification(),
        seed=Seed(0),
        directory=tmp_path,
        preprocess=Preprocess(floor=2),
    )
    column = next(c for c in ours.preparation.columns if c.name == "code")
    assert column.vocabulary == ("01", "1", "US", "rome", "us")
    said = column.apply(np.array(["01", "1", "US", "rOmE", "us", "Us", "1.0", "001"]))
    assert said.argmax(1).tolist() == [0, 1, 2, 3, 4, 5, 1, 5]  # 5 is (other)


def test_owners_are_who_they_are_written_as(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    owners = ["01", "1", "1.0"]
    rows = [f"{owners[i % 3]},{i},{'ab'[i // 3 % 2]}" for i in range(60)]
    path.write_text("\n".join(["who,age,y", *rows]))
    raw = Files(paths=(str(path),), label="y", client="who").load()
    assert raw.names == ("01", "1", "1.0")
    typed = source({s: ["a", "b"] for s in "abc"})
    made = Arrays(x=typed.x, y=typed.y, clients=np.arange(ROWS) % 3 * 1.0)
    assert made.load().names == ("0", "1", "2")
    lost = np.where(np.arange(ROWS) % 3 == 2, np.nan, 1.0)
    with pytest.raises(DataError, match=r"some rows have no owner[\s\S]*30 rows"):
        Arrays(x=typed.x, y=typed.y, clients=lost).load()


def test_types_that_differ_between_files_lose_no_label(tmp_path: Path) -> None:
    large = 2**53
    x = np.random.default_rng(0).normal(size=(30, 2))
    turn = np.arange(30) % 2
    np.savez(tmp_path / "a.npz", x=x, y=np.array([large, large + 1])[turn])
    np.savez(tmp_path / "b.npz", x=x, y=np.array([large, large + 1], np.uint64)[turn])
    np.savez(tmp_path / "c.npz", x=x, y=np.array([str(large), str(large + 1)])[turn])
    found = seen(Files(paths=(f"{tmp_path}/*.npz",), label="y"))
    assert list(found.labels) == [str(large), str(large + 1)]


def test_parquet_keeps_large_codes_and_truth_values(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    large = 2**53
    y, flag = [large, large + 1] * 15, [True, False] * 15
    table = {"y": y, "code": y, "flag": flag, "gap": [None, large + 1] * 15}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    codes = ("code", "gap")
    raw = Files(paths=(str(tmp_path / "a.parquet"),), label="y", categorical=codes).load()
    assert set(spellings(raw.y).tolist()) == {str(large), str(large + 1)}
    assert set(texts(raw.x["code"]).tolist()) == {str(large), str(large + 1)}
    assert raw.x["flag"].dtype == np.float64
    assert set(categories(raw.x["gap"]).tolist()) == {"", str(large + 1)}


def test_only_plain_numbers_are_numbers() -> None:
    assert plain_numbers(np.array(["1", "", "-2.5e3"])).dtype == np.float64
    assert plain_numbers(np.array(["1_0", "2_1"])).dtype.kind == "U"


def test_many_codes_with_zeros_before_them_are_no_quantity() -> None:
    many = np.arange(ROWS) // 3 % 15
    for y, kind in (
        (np.array([f"{n:03d}" for n in many]), "classification"),
        (many.astype(str), "regression"),
    ):
        raw = source(y).load()
        assert decide(raw, Natural(), Split(), seed=Seed(0)).task.kind == kind


LETTERS = st.text("aAbB01.sS\u00df \u0131", min_size=1, max_size=4).filter(spelled)
COUNTS = st.dictionaries(LETTERS.map(spelled), st.integers(1, 20), min_size=2, max_size=8)


@settings(max_examples=60)
@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_what_a_silo_keeps_apart_stays_apart(silos: list[dict[str, int]]) -> None:
    answers = [(str(i), {"labels": counts}) for i, counts in enumerate(silos)]
    found = agree(answers, truths=True, least=1)
    assert sum(found.counts) == sum(sum(counts.values()) for counts in silos)
    assert len(set(found.names)) == len(found.names)
    written = set().union(*silos)
    assert found.truths or set(found.names) <= written
    for counts in silos:
        own = set(kept(counts).values())
        if len({fold(text) for text in own} & {"0", "1"}) < 2:
            assert len({found.place(text) for text in own}) == len(own)


def _silos(folder: Path, sets: dict[str, list[str]]) -> None:
    rng = np.random.default_rng(1)
    folder.mkdir()
    for name, labels in sets.items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["age", "ward", "y"])
            for row in range(60):
                k = row % len(labels)
                ward = ["01", "x", "1", "z", "w"][row % 5]
                writer.writerow([f"{3 * k + rng.normal():.3f}", ward, labels[k]])


def test_codes_and_mapped_labels_go_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user does it: refused, mapped, trained, shipped under the names as written."""
    monkeypatch.chdir(tmp_path)
    codes = ["007", "010"]
    _silos(tmp_path / "s", {"north": codes, "south": ["sick", "well"], "west": codes})
    new = ("new", "--data", "s", "--label", "y")
    assert status(*new, "run.toml") == 2
    assert 'label_map = { "sick" = "007", "well" = "010" }' in capsys.readouterr().err
    assert not (tmp_path / "run.toml").exists()
    assert status(*new, "--label-map", "sick", "run.toml") == 2
    assert status(*new, "--label-map", "sick=010", "--label-map", "south:well=007", "run.toml") == 0
    assert load("run.toml").data.label_map == {"sick": "010", "south": {"well": "007"}}
    assert status("check", "run.toml") == 0
    assert status("check", "run.toml", "--set", "data.label_map={sick='010'}") == 2
    small = ["budget.trials=1", "estimator.candidates=1", "estimator.rounds=1", "final.rounds=2"]
    small += ["final.references=false", "engine.kind=serial"]
    sets = [word for setting in small for word in ("--set", setting)]
    assert status("search", "run.toml", "--out", "run", *sets) == 0
    assert Session.open("run/model.onnx").manifest.labels == ("007", "010")
    (tmp_path / "rows.csv").write_text("age,ward\n0.1,01\n3.1,1\n")
    capsys.readouterr()
    assert status("predict", "run/model.onnx", "rows.csv") == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["prediction", "p(007)", "p(010)"]
    assert {row[0] for row in rows} <= {"007", "010"}
