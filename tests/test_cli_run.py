"""The whole way by command line: plan, search, stop, resume, report, export, predict, runs."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from archipelago.cli.app import main

TINY = """
name = "tiny"
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 4
[space]
kind = "table-mlp"
[strategy]
kind = "random"
[estimator]
kind = "rounds"
rounds = 1
candidates = 2
[engine]
kind = "serial"
[budget]
trials = 2
[final]
rounds = 2
references = false
"""


def status(*arguments: object) -> Any:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(TINY)
    assert (
        status("search", folder / "tiny.toml", "--out", folder / "runs" / "tiny", "--profile") == 0
    )
    return folder / "runs" / "tiny"


def test_plan_says_what_a_search_takes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("plan", file) == 0
    out = capsys.readouterr().out
    for piece in (
        "clients         4,",
        "candidates      2, in 1 generations",
        "time here",
        "estim",
    ):
        assert piece in out
    assert status("plan", file, "--json", "--set", "budget.trials=5") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["candidates"], found["generations"], found["rounds"]) == (5, 3, [3, 2])
    # 4 clients: 5 candidates for a round each, then the winner for two.
    assert found["visits"] == 5 * 4 + 2 * 4


def test_check_tries_data_and_constraints(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARCHIPELAGO_DATA", raising=False)
    assert status("check", file) == 0
    assert "no fault found; 4 clients" in capsys.readouterr().out
    assert status("check", file, "--set", 'constraints=["params < 1"]') == 2
    assert "no architecture of the space meets the constraints" in capsys.readouterr().err
    assert status("check", file, "--set", "task.weights=[1.0]") == 2
    assert "task.weights: there must be one weight for each class" in capsys.readouterr().err
    assert status("check", file, "--set", "data.kind=named", "--set", "data.name=cifar10") == 2
    assert "licence" in capsys.readouterr().err


def test_a_finished_run_is_listed_reported_exported_and_applied(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("runs", finished.parent) == 0
    assert "finished" in capsys.readouterr().out
    (finished / "report.html").unlink()
    assert status("report", finished) == 0
    assert (finished / "report.html").stat().st_size > 10_000
    assert "Where the time went" in (finished / "report.html").read_text()
    told = json.loads((finished / "profile.json").read_text())
    assert set(told) == {"coordinator", "whole", "workers"}
    assert all(set(times) == {"train", "evaluate", "idle"} for times in told["workers"].values())
    assert all(min(times["train"], times["evaluate"]) > 0 for times in told["workers"].values())
    shipped = tmp_path / "wine.onnx"
    assert status("export", finished, "--onnx", shipped) == 0
    assert "the tested network of this run" in capsys.readouterr().out
    assert status("cite", finished) == 0
    assert "aeberhard1992" in capsys.readouterr().out
    assert status("search", finished / "run.toml", "--out", finished) == 2
    assert "there is a run in this directory already" in capsys.readouterr().err
    rows = _wine(tmp_path / "rows.csv")
    assert status("predict", shipped, rows, "--out", tmp_path / "answers.csv") == 0
    assert "wrote 5 predictions" in capsys.readouterr().out
    assert status("predict", shipped, rows) == 0
    printed = list(csv.reader(capsys.readouterr().out.splitlines()))
    with (tmp_path / "answers.csv").open() as stream:
        assert list(csv.reader(stream)) == printed
    assert printed[0][0] == "prediction"
    assert printed[1][0].startswith("class_")


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, what in (
        (tmp_path / "absent" / "x.onnx", "its directory does not exist"),
        (tmp_path, "this is a directory"),
    ):
        assert status("export", finished, "--onnx", path) == 2
        err = capsys.readouterr().err
        assert f"--onnx: the model cannot be written: {what}\n  got: {str(path)!r}\n  fix: " in err
    assert status("new", "quick", tmp_path / "absent" / "zz.toml") == 2
    err = capsys.readouterr().err
    assert "zz.toml: the run file cannot be written\n  got: 'No such file" in err
    assert "\n  fix: name a file in a directory that exists" in err


def test_a_run_file_that_may_not_be_read_is_said_in_our_words(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # whom rights do not bind, too

    opened = os.open

    def refuse(path: Path, *how: int, **more: int) -> int:
        if str(path) == str(file):
            raise PermissionError(13, "Permission denied")
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "open", refuse)
    for verb in ("check", "plan", "search"):
        assert status(verb, file) == 2
        err = capsys.readouterr().err
        assert f"{file}: cannot be read: Permission denied\n  fix: give a TOML file" in err


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (("resume",), ("report",), ("export", "--onnx", tmp_path / "x.onnx")):
        assert status(*verb, tmp_path) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_control_c_stops_at_a_commit_and_resume_goes_on(file: Path) -> None:
    out = file.parent / "run"
    command = [sys.executable, "-m", "archipelago"]
    settings = ["--set", "budget.trials=400", "--set", "estimator.rounds=20"]
    with subprocess.Popen(
        [*command, "search", str(file), "--out", str(out), "--json", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        events: list[dict[str, Any]] = []
        for text in process.stdout:
            events.append(json.loads(text))
            if events[-1]["event"] == "round" and len(events) < 6:
                os.kill(process.pid, signal.SIGINT)
                break
        events += [json.loads(text) for text in process.stdout]
    assert process.returncode == 130
    assert not (out / "cache").exists()
    assert events[-1] == {
        "event": "stopped",
        "directory": str(out),
        "resume": f"archipelago resume {out}",
    }
    done = subprocess.run(
        [*command, "export", str(out), "--onnx", str(file.parent / "early.onnx")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no candidate is finished yet" in done.stderr


def test_the_best_so_far_is_exported_before_the_end(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from archipelago.config.load import load
    from archipelago.study.running.search import resume, search

    out = file.parent / "run"
    study = search(load(file), out)
    for event in study.events():
        if event.kind == "round" and event.data["phase"] == "final":
            study.stop()
    early = file.parent / "early.onnx"
    assert status("export", out, "--onnx", early) == 0
    assert "not tested yet" in capsys.readouterr().out
    assert early.is_file()
    assert status("report", out) == 0
    assert resume(out).result.metrics["accuracy"] > 0


def test_data_sets_are_listed_and_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("data") == 0
    out = capsys.readouterr().out
    assert "wine" in out
    assert "har_subjects" in out
    assert status("data", "show", "wine") == 0
    out = capsys.readouterr().out
    assert "classes    3: class_0, class_1, class_2" in out
    assert "label skew" in out
    assert status("data", "show", file) == 0
    assert "clients    4 (iid)" in capsys.readouterr().out
    assert status("data", "show", "wien") == 2
    assert "did you mean 'wine'? A run file can be shown, too" in capsys.readouterr().err
    assert status("data", "show", "zzzzzz") == 2
    assert re.search(r"choose one of .*[a-z]\. A run file can be shown", capsys.readouterr().err)
    assert status("data", "show", "diabetes") == 0


def _wine(path: Path) -> Path:
    from sklearn.datasets import load_wine

    bunch: Any = load_wine()
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(bunch.feature_names)
        writer.writerows(bunch.data[:5].tolist())
    return path


def test_own_files_need_two_lines_of_the_preset_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "silos").mkdir()
    for silo, shift in (("north", 0), ("south", 1), ("west", 2)):
        rows = [f"{i % 7 + shift},{'abc'[i % 3]},{'yes' if i % 2 else 'no'}" for i in range(60)]
        text = "\n".join(["age,colour,outcome", *rows])
        (tmp_path / "silos" / f"{silo}.csv").write_text(text)
    mine = tmp_path / "mine.toml"
    assert status("new", "files", mine) == 0
    assert status("check", mine) == 2
    assert "there is no such column\n  got: 'label'" in capsys.readouterr().err
    mine.write_text(mine.read_text().replace('label = "label"', 'label = "outcome"'))
    assert status("check", mine) == 0
    assert "no fault found; 3 clients" in capsys.readouterr().out
