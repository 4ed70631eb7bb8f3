"""The straight line on a small real data set: one run, killed runs, and what the page says."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from archipelago.config.load import loads
from archipelago.core.errors import ConfigError, JournalError
from archipelago.deploy.session import Session
from archipelago.journal.journal import Journal
from archipelago.study.search import resume, search

TEXT = """
name = "wine"
seed = 5
constraints = ["params < 3k"]
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 6
[space]
kind = "table-mlp"
layers = 2
[estimator]
kind = "race"
candidates = 3
first = 2
last = 3
generations = 2
[strategy]
kind = "regularized-evolution"
population = 3
sample = 2
[client]
kind = "local"
learning_rate = 0.1
[budget]
trials = 6
[final]
rounds = 6
every = 3
references = {references}
[engine]
kind = "serial"
"""


def run_of(references=False, *sets):
    return loads(TEXT.replace("{references}", str(references).lower()), sets)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    study = search(run_of(references=True), directory)
    outcomes = list(study)
    return directory, outcomes, study.result


def digest(directory):
    with Journal.open(directory, write=False) as journal:
        return journal.digest()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain") / "run"
    search(run_of(), directory).result  # noqa: B018 - asking for the result runs the study
    return digest(directory)


def test_a_run_ends_with_a_tested_network_and_a_page(whole):
    directory, outcomes, result = whole
    assert len(outcomes) == 6
    assert result.metrics["accuracy"] > 0.8
    assert set(result.differences) == {"hand-made", "random-final", "pooled"}
    assert result.leaderboard()[0].number == result.best.number
    assert not (directory / "cache").exists()
    page = (directory / "report.html").read_text()
    assert len(page) < 2_000_000
    assert "http://" not in page.split("<script>")[0]
    best = json.loads((directory / "best" / "arch.json").read_text())
    assert best["graph"]["format"] == 1


def test_the_exported_file_answers(whole, tmp_path):
    _, _, result = whole
    path = result.export_onnx(tmp_path / "wine.onnx")
    session = Session.open(path)
    logits, scores = session.run(np.zeros((2, 13), np.float32))
    assert logits.shape == scores.shape == (2, 3)


def test_the_hand_made_network_had_the_same_client_cost(whole):
    directory, _, _ = whole
    with Journal.open(directory, write=False) as journal:
        ours = journal.cost("search")["macs"] + journal.cost("final")["macs"]
        theirs = journal.cost("hand-made")["macs"]
    # Whole rounds only: at most the same, and less than two rounds short of it.
    assert 0.8 * ours < theirs <= ours


def test_test_rows_are_opened_after_everything_else(whole):
    directory, _, _ = whole
    with Journal.open(directory, write=False) as journal:
        phases = [row.phase for row in journal.meter()]
    assert set(phases[phases.index("test") :]) == {"test"}


def test_processes_give_the_same_run_as_serial(tmp_path):
    search(run_of(), tmp_path / "serial").result  # noqa: B018
    for workers in (1, 2):
        engine = f'engine={{kind="processes", workers={workers}}}'
        search(run_of(False, engine), tmp_path / str(workers)).result  # noqa: B018
        assert _told(tmp_path / str(workers)) == _told(tmp_path / "serial")


def _told(directory):
    with Journal.open(directory, write=False) as journal:
        rows = [replace(row, seconds=0.0) for row in journal.meter()]
        return rows, list(journal.outcomes()), journal.pins()


def test_a_stop_is_clean_and_resuming_gives_the_uninterrupted_run(plain, tmp_path):
    study = search(run_of(), tmp_path / "run")
    kinds = []
    for event in study.events():
        kinds.append(event.kind)
        if event.kind == "round":
            study.stop()
    assert kinds[-1] == "stopped"
    assert resume(tmp_path / "run").result.metrics["accuracy"] > 0.8
    assert digest(tmp_path / "run") == plain


SCRIPT = """
import sys
from pathlib import Path
from archipelago.config.load import loads
from archipelago.study.search import resume, search
if __name__ == "__main__":
    directory = Path(sys.argv[2])
    run = loads(Path(sys.argv[1]).read_text())
    study = resume(directory) if directory.exists() else search(run, directory)
    study.result
"""


@pytest.mark.parametrize(
    "point",
    [
        "before-blob:2",
        "blob-without-row:1",
        "after-row:3",
        "best-before:1",
        "best-after:1",
        "after-row:6",
    ],
)
def test_a_kill_at_any_point_loses_nothing(plain, tmp_path, point):
    script, text, directory = tmp_path / "go.py", tmp_path / "run.toml", tmp_path / "run"
    script.write_text(SCRIPT)
    text.write_text(TEXT.replace("{references}", "false"))
    command = [sys.executable, str(script), str(text), str(directory)]
    environment = {**os.environ, "ARCHIPELAGO_FAILPOINT": point}
    killed = subprocess.run(command, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    subprocess.run(command, check=True, capture_output=True)
    assert digest(directory) == plain


def test_killing_the_whole_group_leaves_nothing_behind(tmp_path):
    script, text, directory = tmp_path / "go.py", tmp_path / "run.toml", tmp_path / "run"
    script.write_text(SCRIPT)
    text.write_text(TEXT.replace("{references}", "false").replace('"serial"', '"processes"'))
    environment = {**os.environ, "ARCHIPELAGO_FAILPOINT": "after-row:4"}
    command = [sys.executable, str(script), str(text), str(directory)]
    before = set(Path("/dev/shm").iterdir())
    killed = subprocess.run(command, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    psutil.wait_procs(
        [p for p in psutil.process_iter() if str(script) in " ".join(_words(p))], timeout=10
    )
    assert not [p for p in psutil.process_iter() if str(script) in " ".join(_words(p))]
    assert set(Path("/dev/shm").iterdir()) == before
    subprocess.run(command, check=True, capture_output=True)


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_constraint_that_no_architecture_meets_is_named(tmp_path):
    run = run_of(False, 'constraints=["params < 10"]')
    with pytest.raises(ConfigError, match=r"no architecture meets the constraints\n  got"):
        search(run, tmp_path / "run").result  # noqa: B018


def test_a_directory_that_holds_a_run_is_not_overwritten(whole):
    directory, _, _ = whole
    with pytest.raises(JournalError, match="archipelago resume"):
        search(run_of(), directory).result  # noqa: B018


def test_reference_lines_cost_clients_what_the_run_costs(whole):
    with Journal.open(whole[0], write=False) as journal:
        macs = {
            phase: journal.cost(phase)["macs"]
            for phase in ("search", "final", "hand-made", "random", "random-final", "pooled")
        }
    ours = macs["search"] + macs["final"]
    for theirs in (macs["hand-made"], macs["pooled"], macs["random"] + macs["random-final"]):
        # Whole rounds only: never more than ours, and short of it by less than a few rounds.
        assert 0.7 * ours <= theirs <= ours
