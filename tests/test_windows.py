"""Long recordings: cut for training, kept together by the split, answered once by `predict`."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from test_new import FAST, status
from test_predict import bare

from archipelago.config.load import load, loads
from archipelago.core.errors import ConfigError, DataError, IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.data import preparation as stored
from archipelago.data.key import TestKey
from archipelago.data.partition import Iid, Natural
from archipelago.data.preparation import Preparation
from archipelago.data.prepare import prepare
from archipelago.data.preprocess import Preprocess
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.files import Files
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.data.windows import Windows
from archipelago.deploy.export import export_onnx
from archipelago.deploy.manifest import KEY
from archipelago.deploy.predict import predict
from archipelago.nn.model import Model
from archipelago.space.series_chain import SeriesChain
from archipelago.study.planning.draft import draft

CUT = Preprocess(window=40, stride=20)


def waves(rows: int, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return slow or fast waves `[rows, steps, 2]`; the second channel is the row's number."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    turns = np.arange(steps) * np.where(y, 0.7, 0.2)[:, None] + rng.uniform(0, 6, (rows, 1))
    x = np.stack([np.sin(turns) + rng.normal(0, 0.3, turns.shape), turns * 0], axis=2)
    x[:, :, 1] = np.arange(rows)[:, None]
    return x.astype(np.float32), np.array(["slow", "fast"])[y]


def made(source: Any, folder: Path, *, cut: Preprocess = CUT, task: Any = None, owner: Any = None):
    task, owner = task or Classification(), owner or Natural()
    return prepare(
        source,
        owner,
        Split(),
        task,
        seed=Seed(0),
        directory=folder / "rows",
        preprocess=replace(cut, floor=1),  # silos of a few recordings
    )


def shipped(prepared: Any, path: Path) -> Model:
    """Ship a network with random weights."""
    signature = prepared.shards.signature
    graph = SeriesChain().baseline(signature.shape, signature.outputs)
    model = Model.of_graph(graph, Seed(7)).eval()
    export_onnx(graph, model.flat, prepared.preparation, signature, path)
    return model


def by_hand(recording: np.ndarray, window: int, stride: int) -> list[np.ndarray]:
    """Cut `[steps, channels]` the plain way, the last window flush with the end."""
    starts = list(range(0, len(recording) - window + 1, stride))
    if starts[-1] + window < len(recording):
        starts.append(len(recording) - window)
    return [recording[start : start + window].T for start in starts]


@pytest.mark.parametrize(
    ("steps", "remainder", "expected"),
    [
        (100, "last", [0, 20, 40, 60]),
        (110, "last", [0, 20, 40, 60, 70]),
        (110, "drop", [0, 20, 40, 60]),
        (40, "last", [0]),
        (39, "last", []),
    ],
)
def test_where_windows_begin(steps: int, remainder: str, expected: list[int]) -> None:
    assert Windows(length=40, stride=20, remainder=remainder).starts(steps).tolist() == expected


def test_ragged_recordings_are_cut_as_one_by_one() -> None:
    x, _ = waves(9, 130)
    lengths = np.array([130, 41, 130, 40, 99, 60, 41, 130, 77])
    cut, counts = Windows(length=40, stride=25).cut(x.transpose(0, 2, 1), lengths)
    plain = [by_hand(row[:n], 40, 25) for row, n in zip(x, lengths, strict=True)]
    assert counts.tolist() == [len(windows) for windows in plain]
    np.testing.assert_array_equal(cut, np.concatenate(plain))


@pytest.mark.parametrize("owner", [Natural(), Iid(clients=3)])
def test_all_windows_of_a_recording_stay_in_one_part_of_one_client(
    owner: Any, tmp_path: Path
) -> None:
    x, y = waves(60, 110)
    source = Arrays(x=x, y=y, clients=np.arange(60) % 3)
    prepared = made(source, tmp_path, owner=owner, cut=CUT)
    shards = prepared.shards
    assert shards.signature.shape == (2, 40)
    opened = shards.sealed.open(TestKey(purpose="a test of splits"))
    places: dict[int, set[tuple[int, str]]] = {}
    windows = 0
    multiply, add = prepared.preparation.multiply[1], prepared.preparation.add[1]
    for client in range(3):
        for part, (rows, labels) in {
            "train": shards.train(client),
            "validation": shards.validation(client),
            "test": opened.test(client),
        }.items():
            level = ((rows[:, 1, 0].numpy() - add) / multiply).round().astype(int)
            for row, label in zip(level.tolist(), labels.tolist(), strict=True):
                assert shards.signature.task.classes[label] == y[row]
                places.setdefault(row, set()).add((client, part))
            windows += len(rows)
    assert windows == 60 * 5
    assert sorted(places) == list(range(60))
    assert all(len(found) == 1 for found in places.values())
    # the split is over recordings: 15 % of each client's twenty
    tested = [row for row, found in places.items() if {part for _, part in found} == {"test"}]
    assert len(tested) == 9


def test_without_windows_nothing_changes(tmp_path: Path) -> None:
    x, y = waves(30, 40)
    plain = made(Arrays(x=x, y=y, clients=np.arange(30) % 2), tmp_path / "a", cut=Preprocess())
    whole = made(Arrays(x=x, y=y, clients=np.arange(30) % 2), tmp_path / "b")
    assert plain.shards.fingerprint == whole.shards.fingerprint  # a recording is one window
    about = json.loads(plain.preparation.to_json())
    assert about["version"] == 1
    assert "windows" not in about


def test_windows_travel_and_an_older_version_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = waves(30, 110)
    prepared = made(Arrays(x=x, y=y, clients=np.arange(30) % 2), tmp_path)
    again = Preparation.from_json(prepared.preparation.to_json())
    assert again == prepared.preparation
    assert again.windows == Windows(length=40, stride=20, remainder="last")
    path = tmp_path / "model.onnx"
    shipped(prepared, path)
    np.savez(tmp_path / "rows.npz", x=x)
    model = onnx.load(path)
    about = json.loads(next(p for p in model.metadata_props if p.key == KEY).value)
    assert about["preparation"]["windows"] == {"length": 40, "stride": 20, "remainder": "last"}
    about["preparation"]["windows"]["length"] = 50
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    onnx.save(model, tmp_path / "bent.onnx")
    with pytest.raises(DataError, match="windows of 50 steps, the network takes"):
        predict(tmp_path / "bent.onnx", tmp_path / "rows.npz")
    monkeypatch.setattr(stored, "VERSION", 1)
    with pytest.raises(DataError, match="was written by a newer version") as error:
        predict(path, tmp_path / "rows.npz")
    assert "install the same or a newer archipelago-nas" in str(error.value)


@pytest.mark.parametrize(
    "task", [Classification(), MultiLabel(), Regression()], ids=lambda t: t.kind
)
def test_answers_are_the_mean_of_the_windows_as_torch_gives_them(task: Any, tmp_path: Path) -> None:
    x, y = waves(60, 110)
    if isinstance(task, MultiLabel):
        y = np.array([f"{a};even" if i % 2 else str(a) for i, a in enumerate(y)])
    if isinstance(task, Regression):
        y = np.random.default_rng(1).normal(50, 10, 60)
    prepared = made(Arrays(x=x, y=y, clients=np.arange(60) % 2), tmp_path, task=task)
    model = shipped(prepared, tmp_path / "model.onnx")
    rows, lengths = waves(12, 205, seed=3)[0], np.array([205, 40, 77, 60] * 3)
    # of another length than training's, padded with what may not be read
    padded = np.where(np.arange(205)[None, :, None] < lengths[:, None, None], rows, np.nan)
    np.savez(tmp_path / "rows.npz", x=padded, lengths=lengths)
    said = predict(tmp_path / "model.onnx", tmp_path / "rows.npz")
    assert len(said) == 12
    agreed = prepared.shards.signature.task
    for row in range(12):
        windows = np.stack(by_hand(rows[row, : lengths[row]], 40, 20))
        with torch.no_grad():
            logits = model(torch.from_numpy(prepared.preparation.apply(windows)))
        if isinstance(agreed, Regression):
            expected = agreed.predict(logits.numpy()).mean()
            assert said.answers[row] == pytest.approx(expected, rel=1e-5)
            assert said.probabilities.shape == (12, 0)
            continue
        several = isinstance(agreed, MultiLabel)
        scores = (logits.sigmoid() if several else logits.softmax(1)).mean(0)
        np.testing.assert_allclose(said.probabilities[row], scores, atol=1e-5)
        names = np.array(agreed.classes)
        label = ";".join(names[scores.numpy() > 0.5]) if several else names[int(scores.argmax())]
        assert said.answers[row] == label


def test_without_torch_a_long_recording_gets_one_answer(tmp_path: Path) -> None:
    x, y = waves(30, 110)
    prepared = made(Arrays(x=x, y=y, clients=np.arange(30) % 2), tmp_path)
    shipped(prepared, tmp_path / "model.onnx")
    np.savez(tmp_path / "rows.npz", x=x.transpose(0, 2, 1))  # channels first, found by itself
    ended = bare("predict", tmp_path / "model.onnx", tmp_path / "rows.npz")
    assert ended.returncode == 0, ended.stderr
    rows = list(csv.reader(ended.stdout.splitlines()))
    np.savez(tmp_path / "last.npz", x=x)
    assert len(rows) == 31
    last = predict(tmp_path / "model.onnx", tmp_path / "last.npz", channels="last")
    assert [row[0] for row in rows[1:]] == last.answers.tolist()


def test_recordings_that_do_not_fit_are_refused_by_predict(tmp_path: Path) -> None:
    x, y = waves(30, 110)
    prepared = made(Arrays(x=x, y=y, clients=np.arange(30) % 2), tmp_path)
    shipped(prepared, tmp_path / "model.onnx")
    path = tmp_path / "rows.npz"

    def refused(**arrays: np.ndarray) -> str:
        np.savez(path, **arrays)
        with pytest.raises(DataError) as error:
            predict(tmp_path / "model.onnx", path)
        return str(error.value)

    assert refused(x=x[:, :30]) == (
        f"{path}, array 'x': a recording is shorter than the model's window of 40 steps\n"
        "  got: '30 of 30 recordings, the first is row 0; the shortest has 30 steps'\n"
        "  fix: leave them out: the model was trained on whole windows only"
    )
    lengths = np.full(30, 110)
    lengths[4] = 39
    assert "1 of 30 recordings, the first is row 4; the shortest has 39" in refused(
        x=x, lengths=lengths
    )
    lengths[4] = 111
    assert "array 'lengths': lengths do not fit the series" in refused(x=x, lengths=lengths)
    assert "give rows of shape (2, 40 or more), or (40 or more, 2) with" in refused(x=x[:, :, :1])
    holed = x.copy()
    holed[7, 100, 0] = np.nan
    assert "1 of 30 rows, the first is row 7" in refused(x=holed)


def test_recordings_that_do_not_fit_are_refused_in_training(tmp_path: Path) -> None:
    x, y = waves(30, 110)
    lengths = np.full(30, 110)
    lengths[[3, 8]] = 25, 30
    source = Arrays(x=x, y=y, clients=np.arange(30) % 2, lengths=lengths)
    with pytest.raises(DataError) as error:
        made(source, tmp_path)
    assert str(error.value) == (
        "arrays: a recording is shorter than the window of 40 steps\n"
        "  got: '2 of 30 recordings, the first is row 3; the shortest has 25 steps'\n"
        "  fix: set preprocess.window to 25 or less, or leave these recordings out"
    )
    with pytest.raises(DataError) as error:
        made(source, tmp_path, cut=Preprocess())
    assert str(error.value) == (
        "arrays: recordings have different lengths, and a network takes one\n"
        "  got: '25 to 110 steps'\n"
        "  fix: set preprocess.window, at most 25, or bring all of them to one length"
    )
    table = Arrays(x=x[:, :, 0], y=y, clients=np.arange(30) % 2)
    with pytest.raises(IncompatibleParts, match="only series are cut into windows"):
        made(table, tmp_path)
    with pytest.raises(DataError, match="only series have lengths"):
        replace(table, lengths=lengths).load()
    with pytest.raises(DataError, match=r"got: 'float64 \(30,\)'") as error:
        replace(source, lengths=lengths / 2).load()
    assert "give 30 whole numbers from 1 to 110" in str(error.value)


def test_a_stride_needs_a_window() -> None:
    with pytest.raises(ConfigError) as error:
        Preprocess(stride=20)
    assert "preprocess.stride: says how far windows are apart, and there are none" in str(
        error.value
    )
    with pytest.raises(ConfigError, match=r"preprocess\.remainder: no such choice"):
        Preprocess(window=20, remainder="lst")
    assert Preprocess(window=20).windows == Windows(length=20, stride=20)
    assert loads("[preprocess]\nwindow = 128\nstride = 64").preprocess.windows == Windows(
        length=128, stride=64
    )


def test_silos_whose_channels_come_first_are_told_which_axis_is_read_as_what(
    tmp_path: Path,
) -> None:
    for name, steps in (("a", 70), ("b", 50)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((20, 2, steps)), y=np.arange(20) % 2)
    paths = (str(tmp_path / "*.npz"),)
    with pytest.raises(DataError, match=r"read as \[rows, steps, channels\]: see data.channels"):
        Files(paths=paths, label="y").load()
    lengths = Files(paths=paths, label="y", channels="first").load().lengths
    assert lengths is not None
    assert set(lengths.tolist()) == {50, 70}


def test_silos_whose_recordings_differ_in_length_are_filled_up(tmp_path: Path) -> None:
    long, short = waves(20, 90), waves(20, 60, seed=1)
    np.savez(tmp_path / "a.npz", x=long[0], y=long[1])
    np.savez(tmp_path / "b.npz", x=short[0], y=short[1], lengths=np.full(20, 50))
    source = Files(paths=(str(tmp_path / "*.npz"),))
    raw = source.load()
    assert raw.lengths is not None
    assert raw.lengths.tolist() == [90] * 20 + [50] * 20
    np.testing.assert_array_equal(np.asarray(raw.x)[20:, :, :60], short[0].transpose(0, 2, 1))
    prepared = made(source, tmp_path)
    # the longer recordings give windows at 0, 20, 40, 50; the shorter ones at 0, 10
    assert [sum((s.train, s.validation, s.test)) for s in prepared.summaries] == [80, 40]
    # padding that every recording has is no length of its own
    np.savez(tmp_path / "b.npz", x=short[0], y=short[1], lengths=np.full(20, 60))
    alike = Files(paths=(str(tmp_path / "b.npz"),)).load()
    assert alike.lengths is None


def test_new_proposes_windows_and_the_whole_way_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("silos").mkdir()
    for index, steps in enumerate((90, 120, 75)):
        x, y = waves(40, steps, seed=index)
        np.savez(f"silos/s{index}.npz", x=x, y=y)
    assert status("new", "--data", "silos", "--label", "y", "mine.toml") == 0
    text = Path("mine.toml").read_text()
    assert "window = 64  # recordings of up to 120 steps differ in length: a network takes" in text
    assert "stride = 32  # windows overlap by half" in text
    assert "#   archipelago predict mine.onnx ROWS.npz" in text
    assert load("mine.toml").preprocess.windows == Windows(length=64, stride=32)
    assert status("check", "mine.toml") == 0
    assert "no fault found" in capsys.readouterr().out
    assert status("search", "mine.toml", "--out", "run", *FAST) == 0
    page = Path("run/report.html").read_text()
    assert "from series windows of shape [2, 64]" in page
    assert "Recordings were cut into windows of 64 steps, one every 32; all windows of one" in page
    np.savez("new.npz", x=waves(7, 300, seed=9)[0])
    capsys.readouterr()
    assert status("predict", "run/model.onnx", "new.npz") == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert status("check", "mine.toml", "--set", "preprocess.window=100") == 2
    assert "set preprocess.window to 75 or less" in capsys.readouterr().err


def test_only_long_or_uneven_series_are_cut_by_new(tmp_path: Path) -> None:
    def said(steps: int) -> str:
        x, y = waves(60, steps)
        np.savez(tmp_path / "all.npz", x=x, y=y, site=np.arange(60) % 2)
        source = Files(paths=(str(tmp_path / "all.npz"),), label="y", client="site")
        return draft(source, file=tmp_path / "run.toml").text

    assert "window" not in said(100)
    assert "window = 256  # recordings of up to 1100 steps; `predict` answers once" in said(1100)
