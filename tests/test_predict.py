"""`archipelago predict` on a machine without torch: the same answers, and refusals by name."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import messy
import numpy as np
import onnx
import pytest
import torch
from test_data_named import need

from archipelago.core.seeds import Seed
from archipelago.data.partition import Iid, Natural
from archipelago.data.prepare import prepare
from archipelago.data.sources.files import Files
from archipelago.data.sources.named import Named
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, Regression
from archipelago.deploy.export import export_onnx
from archipelago.deploy.manifest import KEY
from archipelago.nn.model import Model
from archipelago.space.table_mlp import TableMlp

ABSENT = "torch sklearn altair vl_convert pydantic typer rich onnx onnxscript scipy safetensors"
BARE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from archipelago.__main__ import main
main(sys.argv[1:])
"""


def bare(*arguments):
    words = [str(argument) for argument in arguments]
    return subprocess.run([sys.executable, "-c", BARE, *words], capture_output=True, text=True)


def shipped(source, partition, task, folder):
    """Ship a network with random weights; return the file, and how torch answers raw columns."""
    prepared = prepare(source, partition, Split(), task, seed=Seed(0), directory=folder / "rows")
    signature = prepared.shards.signature
    graph = TableMlp().baseline(signature.shape, signature.outputs)
    model = Model.of_graph(graph, Seed(7)).eval()
    path = folder / "model.onnx"
    export_onnx(graph, model.flat, prepared.preparation, signature, path)

    def answers(columns):
        with torch.no_grad():
            logits = model(torch.from_numpy(prepared.preparation.apply(columns)))
        task = signature.task
        if isinstance(task, Regression):
            return task.predict(logits.numpy())
        return [task.classes[index] for index in logits.argmax(1).tolist()]

    return path, answers


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic")
    silos = messy.write(folder, "clinic")
    source = Files(paths=(f"{silos}/*.csv",), label="Outcome")
    path, answers = shipped(source, Natural(), Classification(), folder)
    return folder, path, answers


def table(path):
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_without_torch_the_answers_are_the_same(clinic):
    folder, model, answers = clinic
    done = bare("predict", model, folder / "rows.csv", "--out", folder / "answers.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote 40 predictions to {folder / 'answers.csv'}\n"
    assert done.stderr == "not used: Patient ID\n"
    said = table(folder / "answers.csv")
    assert said["prediction"].tolist() == answers(table(folder / "rows.csv"))
    assert len(set(said["prediction"])) == 2


def test_answers_never_overwrite_what_they_are_made_from(clinic):
    folder, model, _ = clinic
    for path in (folder / "rows.csv", model):
        before = path.read_bytes()
        done = bare("predict", model, folder / "rows.csv", "--out", path)
        assert done.returncode == 2
        assert "--out: the answers would overwrite the" in done.stderr
        assert path.read_bytes() == before


def test_ten_thousand_rows_of_adult(tmp_path):
    need("adult_vertical")
    source = Named(name="adult_vertical", rows=10_000)
    model, answers = shipped(source, Iid(clients=5), Classification(), tmp_path)
    columns = source.load().x
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in zip(*(column.tolist() for column in columns.values()), strict=True):
            writer.writerow("" if value != value else value for value in row)  # noqa: PLR0124
    done = bare("predict", model, tmp_path / "rows.csv", "--out", tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr
    said = table(tmp_path / "answers.csv")["prediction"].tolist()
    assert said == answers(columns)
    assert len(said) == 10_000
    assert len(set(said)) == 2


def test_a_regression_answers_in_the_targets_unit(tmp_path):
    silos = messy.write(tmp_path, "shop")
    source = Files(paths=(f"{silos}/*.csv",), label="Revenue (EUR)")
    model, answers = shipped(source, Natural(), Regression(), tmp_path)
    done = bare("predict", model, tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(done.stdout.splitlines())
    assert header == ["prediction"]
    with (tmp_path / "rows.csv").open(newline="") as stream:
        raw = list(csv.DictReader(stream, delimiter=";"))
    columns = {name: np.array([row[name] for row in raw]) for name in raw[0]}
    given = np.array([float(row[0]) for row in rows])
    np.testing.assert_allclose(given, answers(columns), rtol=1e-5)


def _spoilt(text, number):
    """Write a word for the age in one line of the file."""
    lines = text.splitlines()
    fields = next(csv.reader([lines[number - 1]]))
    fields[lines[0].split(",").index("Age")] = "old"
    lines[number - 1] = ",".join(f'"{field}"' for field in fields)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("Smoker", "smokes"), "columns that the model needs are absent"),
        (lambda text: text.replace("Smoker", "smokes"), "got: ['Smoker']"),
        (lambda text: text.replace("Smoker", "smokes"), "does not use: Patient ID, smokes"),
        (lambda text: text.replace("Yes", "perhaps"), "column 'Smoker': a value does not read as"),
        (lambda text: _spoilt(text, 5), "rows.csv, line 5, column 'Age': a value does not read"),
        (lambda _: "", "rows.csv: the file is empty"),
        (lambda text: text.splitlines()[0], "rows.csv: the file has a header and no rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(clinic, tmp_path, change, expected):
    folder, model, _ = clinic
    rows = tmp_path / "rows.csv"
    rows.write_text(change((folder / "rows.csv").read_text()))
    done = bare("predict", model, rows)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_newer_or_foreign_model_is_refused(clinic, tmp_path):
    folder, model, _ = clinic
    proto = onnx.load(model)
    facts = json.loads(next(p.value for p in proto.metadata_props if p.key == KEY))
    for name, text, expected in (
        ("newer", json.dumps({**facts, "format": 99}), "this model was written by a newer version"),
        ("foreign", json.dumps({"format": 1}), "what travels with this model cannot be read"),
        ("bare", "", "it says nothing of its rows"),
        ("shorn", json.dumps(_shorn(facts)), "described in this model do not fit its network"),
    ):
        path = tmp_path / f"{name}.onnx"
        del proto.metadata_props[:]
        if text:
            onnx.helper.set_model_props(proto, {KEY: text})
        onnx.save(proto, path)
        done = bare("predict", path, folder / "rows.csv")
        assert done.returncode == 2
        assert expected in done.stderr
    assert (
        "pip install --upgrade archipelago-nas"
        in bare("predict", tmp_path / "newer.onnx", folder / "rows.csv").stderr
    )


def _shorn(facts):
    """Lose the last column that is used."""
    used = [c for c in facts["preparation"]["columns"] if not c["dropped"]]
    kept = [c for c in facts["preparation"]["columns"] if c is not used[-1]]
    return {**facts, "preparation": {**facts["preparation"], "columns": kept}}


def test_other_verbs_say_what_they_need(clinic):
    done = bare("search", "run.toml")
    assert done.returncode == 2
    assert "only `predict` runs here" in done.stderr
    assert Path(clinic[1]).is_file()
