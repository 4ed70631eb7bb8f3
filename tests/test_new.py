"""From silos alone to a run file: what is chosen and why, what is suspected, what is refused."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import messy
import numpy as np
import pytest
from PIL import Image

from archipelago.cli.app import main
from archipelago.config.load import load, loads
from archipelago.core.errors import DataError
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.bundled import Diabetes, Digits, Wine
from archipelago.data.sources.files import Files
from archipelago.data.sources.locate import locate
from archipelago.deploy.session import Session
from archipelago.study.planning.draft import draft

FAST = [
    *("--set", "budget.trials=2", "--set", "estimator.candidates=2", "--set", "final.rounds=4"),
    *("--set", "estimator.rounds=1", "--set", "final.references=false"),
    *("--set", "engine.kind=serial"),
]


def status(*arguments: object) -> Any:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.parametrize("style", messy.STYLES)
def test_three_messy_tables_go_the_whole_way_without_editing(
    style: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    messy.write(tmp_path, style)
    monkeypatch.chdir(tmp_path)
    owner = ("--client", "site") if style == "plant" else ()
    assert status("new", "--data", "silos", "--label", messy.LABEL[style], *owner, "mine.toml") == 0
    out = capsys.readouterr().out
    assert "is not used: nearly every row has its own text" in out
    assert "missing" in out
    assert status("check", "mine.toml") == 0
    column = {"clinic": "Age", "shop": "area m2", "plant": "rpm"}[style]
    unit = ("--set", f'preprocess.units={{"{column}"="u<1>", "{messy.LABEL[style]}"="EUR"}}')
    assert status("search", "mine.toml", "--out", "run", *FAST, *unit) == 0
    assert status("export", "run", "--onnx", "model.onnx") == 0
    assert Session.open("model.onnx").manifest.units == {column: "u<1>", "": "EUR"}
    assert "<td>u&lt;1&gt;</td>" in (tmp_path / "run" / "report.html").read_text()
    assert status("check", "mine.toml", "--set", "preprocess.units={cost='EUR'}") == 2
    assert "a unit for a column that the data lack" in capsys.readouterr().err
    assert status("predict", "model.onnx", "rows.csv") == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 41
    if style == "shop":
        values = np.array([float(row[0]) for row in rows[1:]])
        assert 30_000 < values.mean() < 300_000


def test_every_value_says_why(tmp_path: Path) -> None:
    silos = messy.write(tmp_path, "clinic")
    made = draft(Files(paths=(f"{silos}/*.csv",), label="Outcome"), file=tmp_path / "mine.toml")
    values = [line for line in made.text.splitlines() if " = " in line and line[0] != "#"]
    reasons = [line for line in values if "  # " in line]
    assert len(reasons) >= len(values) - 4  # name, the data's kind and paths
    run = loads(made.text, folder=tmp_path)
    assert run.data.load().rows == 360
    assert {row.kind for row in made.meter} == {"statistics"}
    assert made.inspection.rows_by_silo.keys() == {"north", "south", "west"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Wine(), {"task": "classification", "space": "table-mlp", "partition": "iid"}),
        (Diabetes(), {"task": "regression", "space": "table-mlp", "partition": "iid"}),
        (Digits(), {"task": "classification", "space": "image-chain", "estimator": "race"}),
    ],
)
def test_task_space_and_estimator_follow_the_data(source: Any, expected: dict[str, str]) -> None:
    run = loads(draft(source).text)
    assert {section: getattr(run, section).kind for section in expected} == expected


def test_labels_decide_the_task() -> None:
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=300), "b": rng.lognormal(size=300) ** 2}
    for y, kind, metric in (
        (rng.integers(0, 3, 300), "classification", "accuracy"),
        (np.where(np.arange(300) % 10, "well", "ill"), "classification", "balanced_accuracy"),
        (rng.integers(0, 200, 300), "regression", "rmse"),
        (np.array(["red", "red;blue", "blue"])[rng.integers(0, 3, 300)], "multi-label", "macro_f1"),
    ):
        run = loads(_of_arrays(x, y))
        assert (run.task.kind, run.task.metric) == (kind, metric)
        assert run.preprocess.scaling == "quantile"  # b has a long tail
    assert run.task.separator == ";"


def _of_arrays(x: Any, y: Any) -> str:
    """A draft of arrays cannot be spelt in a file: its data section is left out."""
    from archipelago.study.planning import draft as module

    source = Arrays(x=x, y=y, clients=np.array(["u", "v", "w"])[np.arange(len(y)) % 3])
    before, module._data = module._data, lambda *_: iter(())
    try:
        return draft(source).text
    finally:
        module._data = before


def _table(folder: Path, name: str, columns: dict[str, list[Any]]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.mark.parametrize(
    ("south", "expected"),
    [
        (
            {"age": ["old"] * 40, "y": list("ab") * 20},
            "silo 'south', column 'age': a column holds numbers at some silos and text at others",
        ),
        (
            {"age": list(range(40)), "y": [""] * 40},
            "got: \"40 of 120 rows, the first is line 2 of south.csv: 40 of 'south'\"",
        ),
        (
            {"age": list(range(40)), "y": ["a", "b", "", "b"] * 10},
            "got: \"10 of 120 rows, the first is line 4 of south.csv: 10 of 'south'\"",
        ),
        (
            {"wage": list(range(40)), "y": list("ab") * 20},
            "got: 'absent: age; extra: wage'",
        ),
    ],
)
def test_a_silo_that_differs_is_named(
    south: dict[str, list[Any]], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("north", "west"):
        _table(tmp_path / "s", name, {"age": list(range(40)), "y": list("ab") * 20})
    _table(tmp_path / "s", "south", south)
    assert status("new", "--data", tmp_path / "s", "--label", "y", tmp_path / "run.toml") == 2
    err = capsys.readouterr().err
    assert expected in err
    assert not (tmp_path / "run.toml").exists()


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([1.5] * 40, "the target is constant"),
        ([f"{n},5" for n in range(40)], "the label's numbers are written with a decimal comma"),
        (["a"] * 40, "label column 'y': the label has one class only"),
        ([str(n) + "x" for n in range(40)], "nearly every row has its own label"),
    ],
)
def test_a_target_from_which_nothing_is_learned_is_refused(
    y: list[Any], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("north", "south"):
        _table(tmp_path / "s", name, {"age": list(range(40)), "y": y})
    assert status("new", "--data", tmp_path / "s", "--label", "y", tmp_path / "run.toml") == 2
    err = capsys.readouterr().err
    assert expected in err
    assert "fix:" in err


def test_leaks_and_lone_classes_are_said_and_nothing_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    for name, labels in (("north", ["a", "b"]), ("south", ["a", "b", "c"])):
        y = [labels[i] for i in rng.integers(0, len(labels), 90)]
        after = {"a": "home", "b": "ward", "c": "ICU"}
        x = rng.normal(size=90).tolist()
        _table(tmp_path / "s", name, {"age": x, "sent to": [after[v] for v in y], "y": y})
    assert status("new", "--data", tmp_path / "s", "--label", "y", tmp_path / "run.toml") == 0
    out = capsys.readouterr().out
    assert "it alone gives the label" in out
    assert "only this silo has 'c'" in out
    assert 'drop = ["sent to"]; nothing was dropped' in (tmp_path / "run.toml").read_text()
    assert load(tmp_path / "run.toml").data.drop == ()
    # The class of one silo does not keep a run from starting.
    assert status("check", tmp_path / "run.toml") == 0
    assert "only this silo has 'c'" in capsys.readouterr().out


def test_a_copy_of_a_numeric_target_is_a_leak(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("north", "south"):
        y = rng.normal(100, 20, 90)
        age = rng.normal(size=90).tolist()
        _table(tmp_path / "s", name, {"age": age, "cents": (100 * y).tolist(), "euros": y.tolist()})
    made = draft(Files(paths=(f"{tmp_path}/s/*.csv",), label="euros"))
    assert [(f.what, f.column) for f in made.inspection.findings] == [("leak", "cents")]


def test_other_categories_at_one_silo_are_drift(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("north", "south", "west"):
        words = ["x", "y"] if name == "west" else ["m", "f"]
        columns: dict[str, list[Any]] = {
            "sex": [words[i] for i in rng.integers(0, 2, 90)],
            "age": rng.normal(size=90).tolist(),
            "y": list("abc") * 30,
        }
        _table(tmp_path / "s", name, columns)
    made = draft(Files(paths=(f"{tmp_path}/s/*.csv",), label="y"))
    assert [(f.silo, f.what, f.column) for f in made.inspection.findings] == [
        ("west", "drift", "sex")
    ]


def test_pictures_in_folders_are_found_and_resized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for silo in ("east", "west"):
        for kind in ("cat", "dog"):
            folder = tmp_path / "pets" / silo / kind
            folder.mkdir(parents=True)
            for number in range(12):
                side = 20 + number
                pixels = rng.integers(0, 255, (side, side), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    assert status("new", "--data", tmp_path / "pets", tmp_path / "pets.toml") == 0
    run = load(tmp_path / "pets.toml")
    assert (run.data.kind, run.data.size, run.space.kind) == ("image-folder", 32, "image-chain")
    assert run.data.load().names == ("east", "west")
    assert "data: nothing suspicious" in capsys.readouterr().out
    # The model takes pictures of any size: resizing travels with it.
    small = ["--set", "space.filters=[8]", "--set", "space.layers=1"]
    assert status("search", tmp_path / "pets.toml", "--out", tmp_path / "run", *FAST, *small) == 0
    capsys.readouterr()
    assert status("predict", tmp_path / "run" / "model.onnx", tmp_path / "pets" / "east") == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["file", "prediction", "p(cat)", "p(dog)"]
    assert [row[0] for row in rows[:2]] == ["cat/0.png", "cat/1.png"]
    assert len(rows) == 24
    assert status("predict", tmp_path / "run" / "model.onnx", tmp_path / "pets.toml") == 2
    _table(tmp_path, "rows", {"a": [1]})
    assert status("predict", tmp_path / "run" / "model.onnx", tmp_path / "rows.csv") == 2
    assert "fix: give a picture, a folder of pictures, or an .npz" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert status("predict", tmp_path / "run" / "model.onnx", tmp_path / "none") == 2
    assert "no picture was found" in capsys.readouterr().err


def test_what_cannot_be_located_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "void").mkdir()
    assert status("new", "--data", tmp_path / "void", "--label", "y") == 2
    assert "the folder holds neither tables nor folders of pictures" in capsys.readouterr().err
    _table(tmp_path / "s", "north", {"age": [1, 2], "y": ["a", "b"]})
    assert status("new", "--data", tmp_path / "s", tmp_path / "run.toml") == 2
    assert "which column is to be predicted?" in capsys.readouterr().err
    (tmp_path / "s" / "x.tsv").write_text("a\n1\n")
    with pytest.raises(DataError, match="tables of several kinds"):
        locate([str(tmp_path / "s")], label="y")
    (tmp_path / "taken.toml").write_text("")
    assert status("new", "--data", tmp_path / "s", "--label", "y", tmp_path / "taken.toml") == 2
    assert "this file exists" in capsys.readouterr().err
    assert status("new", "wine", "wine.toml", "--data", tmp_path / "s", "--label", "y") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_only_counts_and_sums_leave_a_silo(tmp_path: Path) -> None:
    """No id, no rare category and no single value is in any answer."""
    from archipelago.data import statistics

    silos = messy.write(tmp_path, "clinic")
    said: list[str] = []
    before = statistics.answer
    try:
        statistics.answer = lambda rows, request: _kept(said, before(rows, request))
        draft(Files(paths=(f"{silos}/*.csv",), label="Outcome"))
    finally:
        statistics.answer = before
    text = " ".join(said)
    assert "P-00" not in text
    assert "surgery" in text  # shared by many rows
    with (silos / "north.csv").open() as stream:
        doses = [row["Daily dose"].replace(",", "") for row in csv.DictReader(stream)]
    assert not [dose for dose in doses if dose and dose in text]


def _kept(said: list[str], reply: Any) -> Any:
    said.append(json.dumps(reply))
    return reply


def test_the_run_files_of_the_documentation_load() -> None:
    text = (Path(__file__).parent.parent / "docs" / "your-data.md").read_text()
    found = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(found) == 4
    for piece in found:
        loads(piece)
