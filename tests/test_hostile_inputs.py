"""Files, names and numbers that somebody else wrote: one sentence and status 2, or the right value.

The inputs are those of people who make mistakes and of people who mean harm; the ways are the same.
"""

import csv
import gzip
import json
import os
import time
import tomllib
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_deploy import described, small, trained

from archipelago.__main__ import main
from archipelago.cli.progress import line
from archipelago.cli.show import columns
from archipelago.config.load import dumps, load, loads, preset
from archipelago.config.run import Run
from archipelago.config.toml import write
from archipelago.core.device import device
from archipelago.core.display import printable
from archipelago.core.errors import (
    ArchipelagoError,
    ConfigError,
    ConfigFaults,
    DataError,
    JournalError,
    did_you_mean,
)
from archipelago.data.preparation import Preparation
from archipelago.data.sources.files import Files
from archipelago.data.sources.readers import read_csv, read_npz
from archipelago.data.tasks import Classification, Regression
from archipelago.deploy.export import export_onnx
from archipelago.deploy.manifest import KEY
from archipelago.deploy.predict import Predictions, predict
from archipelago.deploy.session import Session
from archipelago.estimate.table import Table
from archipelago.study.planning.draft import draft
from archipelago.study.running.export import _best

# Names that become paths, or reach a terminal


@pytest.mark.parametrize(
    "name",
    [
        "../../ESCAPED",
        "/tmp/x",
        "..",
        ".",
        "a/b",
        "a\\b",
        "a\nb",
        "a\0b",
        "\x1b[31m",
        "\u202eb",
        " ",
        "x" * 201,
        "\u6f22" * 70,
    ],
)
def test_a_runs_name_is_no_path(name):
    with pytest.raises(ConfigError, match="name"):
        Run(name=name)
    with pytest.raises(ConfigFaults, match="name"):
        loads(write({"name": name.replace("\0", "\x01")}))


def test_a_runs_name_may_be_any_other_text():
    for name in ("digits", "Brust-Krebs 2", "\u6f22\u5b57", "a=b, [red]", "..."):
        assert Run(name=name).name == name


def test_no_name_reaches_a_terminal_as_a_command():
    hostile = "\x1b]0;owned\x07\u202e[red]\r\n[/]"
    assert not {"\x1b", "\u202e", "\r"} & {*printable(hostile)}
    assert "[red]" in printable(hostile)
    said = line("outcome", {"phase": "search", "status": "failed", "number": 1, "reason": hostile})
    assert not {"\x1b", "\u202e", "\r"} & {*str(said)}
    table = list(columns([("silo\nerror: all rows are lost", "ok"), ("b", "ok")]))
    assert len(table) == 2


def test_a_name_from_a_file_begins_no_line_of_a_drafted_run(tmp_path):
    # the name of a column stands in a comment of the file that `new` writes
    for silo in "ab":
        rows = [["age", "code\n[engine]\nworkers = 77\n#", "ill"]]
        rows += [[str(30 + i), "same", "yes" if i % 2 else "no"] for i in range(40)]
        with (tmp_path / f"{silo}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    source = Files(paths=(str(tmp_path / "*.csv"),), label="ill")
    text = draft(source, file=tmp_path / "run.toml", name=["x", "[engine]", "workers = 77"][0])
    tables = tomllib.loads(text.text)
    assert tables.get("engine", {}).get("workers") != 77


# Run files


LINES = {
    "a key of 400 kB": "a" + ".a" * 200_000 + " = 1",
    "a quoted key": '"a"' + ' . "a"' * 50_000 + " = 1",
    "a heading": "[a" + ".a" * 100_000 + "]",
    "brackets": "a = " + "[" * 100_000,
    "tables": "a = " + "{a=" * 5000,
    "a seed of 5,000 digits": "seed = " + "9" * 5000,
    "a seed of 400 digits": "seed = " + "9" * 400,
    "a number in a list": "constraints = [" + "9" * 4000 + "]",
    "a very long word": "a" * 400_000,
    "a very long text": 'about = "' + "x" * 400_000 + '"',
    "very many values": "constraints = [" + "1," * 200_000 + "]",
    "a mistyped word": '[strategy]\nkind = "' + "random" * 20_000 + '"',
    "NUL": "seed = 1\0",
    "twice": "seed = 1\nseed = 2",
    "a date": "seed = 1979-05-27",
    "infinity": "[client]\nepochs = inf",
}


@pytest.mark.parametrize("text", LINES.values(), ids=LINES)
def test_a_hostile_run_file_is_one_sentence_at_once(text):
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert time.process_time() - start < 5  # the key took 90 s
    assert len(str(caught.value)) < 6000


def test_what_is_long_and_right_is_read():
    constraints = ", ".join(f'"params < {n}.5k"' for n in range(1, 200))
    assert len(loads(f"constraints = [{constraints}]").constraints) == 199
    assert loads('about = "' + "a.b." * 1000 + '"').about.startswith("a.b.")
    assert loads("# " + "[{." * 1000 + "\nseed = 7").seed == 7
    assert loads('about = """' + "[\n" * 100 + '""""').about.endswith('[\n"')


HOSTILE = {
    "digits": "9" * 5000,
    "400 digits": "9" * 400,
    "-1": "-1",
    "2**63": str(2**63),
    "10**18": "1" + "0" * 18,
    "nan": "nan",
    "inf": "inf",
    "1e400": "1e400",
    "true": "true",
    "empty": '""',
    "long": '"' + "x" * 30_000 + '"',
    "list": "[]",
    "table": "{}",
    "nested": "[" * 200 + "]" * 200,
    "time": "07:32:00",
    "many": "[" + "1," * 1000 + "]",
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_of_any_option_is_a_fault_or_accepted(value):
    tables = tomllib.loads(dumps(loads(preset("quick"))))
    places = [
        (name, option)
        for name, table in tables.items()
        if isinstance(table, dict)
        for option in table
    ]
    for section, option in [("", name) for name in ("name", "about", "seed")] + places[::3]:
        changed = (
            {**tables, section: {**tables[section], option: "@@"}}
            if section
            else {**tables, option: "@@"}
        )
        text = write(changed).replace('"@@"', value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = outcome(text)
        assert len(said) < 20_000, (section, option)


def outcome(text):
    """The error of a run file; of a right one that it is written as it was read."""
    try:
        run = loads(text)
    except ArchipelagoError as error:
        return str(error)
    assert loads(dumps(run)) == run
    return ""


@pytest.mark.parametrize(
    "setting",
    [
        "seed=" + "9" * 5000,
        "client.epochs=" + "[" * 100_000,
        "a" + ".a" * 100_000 + "=1",
        "client.epochs=1000000000000000000",
        "client.weight_decay=1e300",
        "final.rounds=" + "9" * 18,
        "budget.trials=" + "9" * 18,
        "engine.workers=" + "9" * 18,
    ],
    ids=lambda text: text[:20],
)
def test_a_hostile_setting_of_the_command_line_is_a_fault(setting):
    with pytest.raises(ConfigError) as caught:
        loads("seed = 1", [setting])
    assert len(str(caught.value)) < 3000


def test_what_is_no_ordinary_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    (tmp_path / "wide.toml").write_bytes("seed = 1".encode("utf-16"))
    (tmp_path / "long.toml").write_bytes(b"#" * 600_000)
    for path in (*sorted(tmp_path.iterdir()), tmp_path, tmp_path / "none.toml", Path("a\0b")):
        with pytest.raises(ConfigError):
            load(path)
    (tmp_path / "mark.toml").write_text("\ufeffseed = 3\r\n", encoding="utf-8")
    assert load(tmp_path / "mark.toml").seed == 3


# Messages


def test_a_message_is_short_whatever_the_value():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, 10**5000, -(10**5000), [10**5000], deep, list(range(10**5))):
        text = str(ConfigError("cannot be", got=value, where="w" * 10**5, fix="f" * 10**5))
        assert len(text) < 5000
    many = ConfigFaults("f", [f"{i}: {'x' * 10**4}" for i in range(1000)])
    assert (len(str(many)) < 120_000, len(many.faults)) == (True, 1000)
    assert len(did_you_mean("q" * 10**6, [f"name{i}" for i in range(10**4)])) < 4000


# What travels with a model


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A table's model of two classes."""
    preparation, signature = described((2,), Classification(classes=("=cmd|' /C calc'!A0", "-1")))
    graph = small((2,), 2)
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    export_onnx(graph, trained(graph).flat, preparation, signature, path)
    return path


def edited(shipped, folder, change):
    """The model with another manifest."""
    proto = onnx.load(shipped)
    (entry,) = (item for item in proto.metadata_props if item.key == KEY)
    data = json.loads(entry.value)
    entry.value = change if isinstance(change, str) else json.dumps(change(data) or data)
    (folder / "e.onnx").write_bytes(proto.SerializeToString())
    return folder / "e.onnx"


def at(*path, value):
    """A change of one value of the manifest."""

    def change(data):
        *outer, last = path
        for step in outer:
            data = data[step]
        data[last] = value

    return change


FIRST = ("preparation", "columns", 0)
BROKEN = {
    "nested": "[" * 100_000,
    "nested tables": '{"a":' * 100_000,
    "a list": "[1]",
    "digits": '{"format": 1, "library": ' + "9" * 5000 + "}",
    "scale 0": at(*FIRST, "scale", value=0),
    "scale below zero": at(*FIRST, "scale", value=-1.0),
    "scale NaN": at(*FIRST, "scale", value=float("nan")),
    "scale infinite": at(*FIRST, "scale", value=float("inf")),
    "scale text": at(*FIRST, "scale", value="1"),
    "scale true": at(*FIRST, "scale", value=True),
    "shift NaN": at(*FIRST, "shift", value=float("nan")),
    "fill huge": at(*FIRST, "fill", value=10**400),
    "knots fall": at(*FIRST, "knots", value=[1.0, 0.0]),
    "knots repeat": at(*FIRST, "knots", value=[1.0, 1.0]),
    "one knot": at(*FIRST, "knots", value=[1.0]),
    "knots of text": at(*FIRST, "knots", value=["a", "b"]),
    "vocabulary of numbers": at(*FIRST, "vocabulary", value=[1, 2]),
    "vocabulary twice": at(*FIRST, "vocabulary", value=["a", "a"]),
    "vocabulary text": at(*FIRST, "vocabulary", value="ab"),
    "kind": at(*FIRST, "kind", value="other"),
    "kind a list": at(*FIRST, "kind", value=["number"]),
    "order": at(*FIRST, "order", value="ymd"),
    "name a number": at(*FIRST, "name", value=7),
    "name twice": at(*FIRST, "name", value="x1"),
    "indicator": at(*FIRST, "indicator", value="yes"),
    "unknown field": at(*FIRST, "more", value=1),
    "columns a number": at("preparation", "columns", value=7),
    "columns none": at("preparation", "columns", value=[]),
    "shape": at("preparation", "shape", value=[3]),
    "shape negative": at("preparation", "shape", value=[-2]),
    "shape text": at("preparation", "shape", value=["2"]),
    "shape deep": at("preparation", "shape", value=[1, 1, 2]),
    "modality": at("preparation", "modality", value="image"),
    "multiply of a table": at("preparation", "multiply", value=[0.0]),
    "version text": at("preparation", "version", value="1"),
    "windows": at("preparation", "windows", value={"length": -1, "stride": 0}),
    "fewer classes": at("task", "classes", value=["a"]),
    "more classes": at("task", "classes", value=["a", "b", "c"]),
    "classes twice": at("task", "classes", value=["a", "a"]),
    "classes numbers": at("task", "classes", value=[0, 1]),
    "classes text": at("task", "classes", value="ab"),
    "task kind": at("task", "kind", value=["classification"]),
    "task a text": at("task", value="classification"),
    "task metric": at("task", "metric", value="rmse"),
    "units": at("units", value={"x0": 7}),
    "units a list": at("units", value=[1]),
    "about": at("about", value={"test": [1]}),
    "library": at("library", value=7),
    "format true": at("format", value=True),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_gives_no_predictions(change, shipped, tmp_path):
    with pytest.raises(DataError) as caught:
        Session.open(edited(shipped, tmp_path, change))
    assert len(str(caught.value)) < 1500


def test_an_unchanged_manifest_is_read(shipped, tmp_path):
    model = edited(shipped, tmp_path, lambda data: None)
    assert Session.open(model).manifest.labels[1] == "-1"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), 1e-300, 1e300])
def test_a_pictures_or_a_targets_scale_is_positive(value):
    data = {"modality": "image", "shape": [1, 2, 2], "columns": [], "multiply": [value], "add": []}
    with pytest.raises(DataError, match="multiply"):
        Preparation.from_json(json.dumps({"version": 1, "notes": [], **data}))


def test_a_regressions_scale_is_positive(tmp_path):
    preparation, signature = described((2,), Regression(mean=1.0, scale=2.0))
    graph = small((2,), 1)
    export_onnx(graph, trained(graph).flat, preparation, signature, tmp_path / "r.onnx")
    for value in (0.0, -2.0, float("nan")):
        with pytest.raises(DataError, match="scale"):
            Session.open(edited(tmp_path / "r.onnx", tmp_path, at("task", "scale", value=value)))


def test_a_model_names_no_other_file(shipped, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(10**4))
    proto = onnx.load(shipped)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret"
    (tmp_path / "x.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(DataError, match="other files"):
        Session.open(tmp_path / "x.onnx")


def test_what_is_no_model_is_one_sentence(shipped, tmp_path):
    whole = shipped.read_bytes()
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "half": whole[: len(whole) // 2],
        "zip": b"PK\x03\x04" + bytes(100),
        "deep": b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01" * 10,
    }.items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
    for path in (*sorted(tmp_path.iterdir()), tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(DataError):
            Session.open(path)


def test_a_network_that_answers_nan_is_said(shipped, tmp_path):
    proto = onnx.load(shipped)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            many = int(np.prod(tensor.dims))
            tensor.CopyFrom(
                helper.make_tensor(
                    tensor.name, TensorProto.FLOAT, tensor.dims, [float("nan")] * many
                )
            )
    (tmp_path / "nan.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "rows.csv").write_text("x0,x1\n1,2\n3,4\n")
    with pytest.raises(DataError, match="no finite answer"):
        predict(tmp_path / "nan.onnx", tmp_path / "rows.csv")


# Predictions


def test_no_text_of_predictions_is_a_formula(tmp_path):
    names = [
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "-1",
        "+2.5",
        "a,b",
        'a"b',
        "a\nb",
        "plain",
    ]
    many = len(names)
    Predictions(
        answers=np.array(names),
        probabilities=np.full((many, 1), 1e-9, np.float32),
        classes=("=x",),
        files=tuple(f"-{i}.png" for i in range(many)),
    ).write(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["file", "prediction", "p(=x)"]
    assert [row[1] for row in rows] == [
        *(f"'{name}" for name in names[:6]),
        "-1",
        "+2.5",
        *names[8:],
    ]
    assert [rows[0][0], float(rows[0][2])] == ["'-0.png", 1e-9]


def test_negative_numbers_stay_numbers(tmp_path):
    made = Predictions(
        answers=np.array([-1.5, 2.0]), probabilities=np.zeros((2, 0), np.float32), classes=()
    )
    assert list(made.cells()) == [(-1.5,), (2.0,)]


# Other files


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "{}", '{"graph": 7}', "", "\0"])
def test_a_changed_description_of_the_best_network_is_one_sentence(text, tmp_path):
    (tmp_path / "arch.json").write_text(text)
    with pytest.raises(JournalError, match="best network"):
        _best(tmp_path)


def test_a_damaged_table_or_archive_is_one_sentence(tmp_path):
    def put(name, data):
        (tmp_path / name).write_bytes(data)

    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    put("cut.csv.gz", packed[:40])
    put("flip.csv.gz", packed[:30] + b"\xff\xff" + packed[32:])
    put("empty.csv", b"")
    put("binary.csv", bytes(range(256)))
    put("wide.csv", b"a" * 200_000 + b"\n1\n")
    put("twice.csv", b"a,a\n1,2\n")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError):
            read_csv(path)
    put("text.npz", b"hello")
    np.savez(tmp_path / "flip.npz", x=np.arange(5000.0))
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        head = np.lib.format.magic(1, 0)
        text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }\n"
        archive.writestr("x.npy", head + len(text).to_bytes(2, "little") + text)
    data = bytearray((tmp_path / "flip.npz").read_bytes())
    data[200] ^= 0xFF
    put("flip.npz", bytes(data))
    for path in sorted(tmp_path.glob("*.npz")):
        with pytest.raises(DataError):
            read_npz(path)
        with pytest.raises(DataError):
            Table.read(path)


def test_very_many_columns_are_refused_in_a_short_message(shipped, tmp_path):
    (tmp_path / "wide.csv").write_text(
        ",".join(f"c{i}" for i in range(50_000)) + "\n" + ",".join(["1"] * 50_000) + "\n"
    )
    with pytest.raises(DataError, match="absent") as caught:
        predict(shipped, tmp_path / "wide.csv")
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[1]",
        '{"macs_per_second": "1"}',
        '{"macs_per_second": NaN}',
        '{"macs_per_second": ' + "9" * 5000 + "}",
        '{"macs_per_second": 1e999}',
        '{"macs_per_second": true}',
        "",
    ],
    ids=lambda text: text[:24],
)
def test_a_hostile_device_is_one_sentence(text, tmp_path):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ConfigError):
        device(str(tmp_path / "d.json"))


@pytest.mark.parametrize(
    "words",
    [
        ("check", "{}"),
        ("plan", "{}"),
        ("search", "{}"),
        ("cite", "{}"),
        ("data", "show", "{}"),
        ("predict", "{}", "{}"),
        ("report", "{}"),
        ("cost", "{}"),
        ("export", "{}", "--onnx", "o"),
        ("resume", "{}"),
        ("reproduce", "{}"),
        ("compare", "{}", "{}"),
        ("new", "--data", "{}", "--label", "y"),
    ],
    ids=lambda words: words[0],
)
def test_a_verb_refuses_what_is_no_file_of_its_own(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.toml")
    os.mkfifo("pipe.csv")
    Path("empty.npz").touch()
    Path("folder").mkdir()
    for name in ("pipe.toml", "pipe.csv", "empty.npz", "folder", "none", "/dev/null", "/dev/zero"):
        with pytest.raises(SystemExit) as left:
            main([word.format(name) for word in words])
        assert left.value.code == 2, (words, name)
        assert "Traceback" not in capsys.readouterr().err
