"""The straight line on a small real data set: one run, killed runs, and what the page says."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from archipelago.config.load import loads
from archipelago.core.errors import ConfigError, DataError, JournalError, RunFailed
from archipelago.core.trial import Outcome
from archipelago.deploy.session import Session
from archipelago.driver.loop import Position
from archipelago.engine.base import Result
from archipelago.journal.journal import Journal
from archipelago.journal.lock import holder
from archipelago.study.analysing.gather import gather
from archipelago.study.running.lost_workers import RecordsLostWorkers
from archipelago.study.running.rows import cleared
from archipelago.study.running.search import resume, search

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
drop = "fraction"
fraction = 0.25
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
    assert "One reference line put all rows in one place" in page
    assert "and nothing else" not in page
    assert "reference line, hand-made network: model updates" in page
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


@pytest.mark.filterwarnings("ignore:.*workers share")
def test_processes_give_the_same_run_as_serial(tmp_path):
    search(run_of(), tmp_path / "serial").result  # noqa: B018
    for workers in (1, 5):
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


def test_a_begun_run_moves_to_another_engine_and_ends_with_the_same_bits(plain, tmp_path):
    study = search(run_of(), tmp_path / "run")
    for event in study.events():
        if event.kind == "round":
            study.stop()
    with pytest.raises(ConfigError, match=r"--set: a begun run keeps its settings"):
        resume(tmp_path / "run", settings=["budget.trials=3"])
    moved = ['engine={kind="processes", workers=2}']
    with pytest.raises(ConfigError, match="brings its engine along"):
        resume(tmp_path / "run", run_of(), settings=moved)
    before = digest(tmp_path / "run")
    with pytest.raises(ConfigError, match="no such kind"):
        resume(tmp_path / "run", settings=["engine.kind=procesess"], previous=True)
    with pytest.raises(ConfigError, match="not the run that began"):
        resume(tmp_path / "run", run_of(False, "seed=99"), previous=True)
    assert digest(tmp_path / "run") == before  # refused: nothing was rolled back
    again = resume(tmp_path / "run", settings=moved, profile=True)
    assert again.result.metrics["accuracy"] > 0.8
    assert digest(tmp_path / "run") == plain
    with Journal.open(tmp_path / "run", write=False) as journal:
        spent = {(one.who, one.what): one.seconds for one in gather(journal).profile}
        [(_, told, _)] = journal.events("profile")
    workers = {who for who, _ in spent} - {"coordinator"}
    assert len(workers) == 2
    assert all(spent[worker, "train"] > 0 for worker in workers)
    assert spent["worker 0", "train"] == told["workers"]["0"]["train"]


class Killer:
    """Talks to kill_script.py."""

    def __init__(self, temporary):
        path, self.temporary = Path(__file__).with_name("kill_script.py"), temporary
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            env={**os.environ, "TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, directory, *, engine="serial", point=""):
        text = TEXT.replace("{references}", "false").replace('"serial"', f'"{engine}"')
        wanted = {"run": text, "directory": str(directory), "point": point}
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    killer = Killer(tmp_path_factory.mktemp("tmp"))
    yield killer
    killer.process.stdin.close()
    killer.process.wait()
    killer.process.stdout.close()


POINTS = {
    "before a blob": "before-blob:2",
    "blob without row": "blob-without-row:2",
    "mid-race": "after-row:2",
    "after a generation": "after-row:5",
    "before best": "best-before:1",
    "after best": "best-after:2",
    "in final training": "after-row:9",
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_kill_at_any_point_loses_nothing(plain, tmp_path, killer, point):
    assert killer(tmp_path / "run", point=point)["code"] == -signal.SIGKILL
    assert killer(tmp_path / "run")["code"] == 0
    assert digest(tmp_path / "run") == plain


@pytest.fixture(scope="module")
def parallel(tmp_path_factory, killer):
    directory = tmp_path_factory.mktemp("parallel") / "run"
    assert killer(directory, engine="processes")["code"] == 0
    return digest(directory), names(directory)


def names(directory):
    # Without folders: which of a blob store's are empty depends on when it was cleared.
    found = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if not p.is_dir())
    return sorted(re.sub(r"^best-\d+", "best-N", name) for name in found)  # it counts up


@pytest.mark.parametrize(
    ("where", "group"),
    [
        ("mid-race", False),
        ("before a blob", True),
        ("blob without row", True),
        ("mid-race", True),
        ("before best", True),
        ("after best", True),
        ("in final training", True),
    ],
)
def test_a_kill_leaves_no_worker_no_memory_and_no_lock(parallel, tmp_path, killer, where, group):
    directory, before = tmp_path / "run", set(Path("/dev/shm").iterdir())
    point = POINTS[where] + (":group" if group else "")
    killed = killer(directory, engine="processes", point=point)
    assert killed["code"] == -signal.SIGKILL
    ends = time.monotonic() + 20
    while (left := _members(killed["session"])) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not left
    assert set(Path("/dev/shm").iterdir()) == before
    assert holder(directory / "lock") is None
    assert (directory / "cache" / "sealed_x.npy").exists()
    # As if it had been killed while it wrote each of these.
    made = (".run.toml.4194999.tmp", ".report.html.4194999-01234567.tmp", ".best.tmp")
    for name in (*made, ".model.onnx.4194999.partial", f"blobs/.{'0' * 40}.tmp"):
        (directory / name).touch()
    assert killer(directory, engine="processes")["code"] == 0
    assert (digest(directory), names(directory)) == parallel
    ends = time.monotonic() + 20
    while (left := _temporary(killer)) and time.monotonic() < ends:
        time.sleep(0.05)  # the workers' parent leaves, and its socket goes, when it is alone
    assert not left
    assert set(Path("/dev/shm").iterdir()) == before


def _temporary(killer):
    # onnxruntime writes a file of its own there, `.ses`, in every run.
    return [path for path in killer.temporary.iterdir() if path.name != ".ses"]


def _members(session):
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


class _Lossy:
    def map(self, tasks):
        yield Result(index=0, data=memoryview(b"a"), attempts=2, lost="SIGKILL")
        yield Result(index=1, data=memoryview(b"b"))
        yield Result(index=2, data=None, error="x", attempts=3, lost="SIGSEGV")


def test_lost_workers_are_noted_and_the_report_shows_them(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run", symlinks=True)
    with Journal.open(tmp_path / "run", write=True) as journal:
        before = journal.digest()
        assert [r.index for r in RecordsLostWorkers(_Lossy(), journal).map([1, 2, 3])] == [0, 1, 2]
        assert journal.digest() == before  # which worker died is no part of a run
        shown = {e.detail: e.count for e in gather(journal).events if e.kind == "worker lost"}
    assert shown == {
        "SIGKILL; its task ran again": 1,
        "SIGSEGV; given up after 3 attempts": 1,
    }


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
        longest = {
            p: max(c.round for c in journal.curves(p)) for p in ("hand-made", "random-final")
        }
    ours = macs["search"] + macs["final"]
    assert max(longest.values()) <= 5 * 6
    for theirs in (macs["hand-made"], macs["pooled"], macs["random"] + macs["random-final"]):
        # Whole rounds only: never more than ours, and short of it by less than a few rounds.
        assert 0.7 * ours <= theirs <= ours


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (['constraints=["params < 10"]'], "no architecture meets the constraints"),
        (['partition={kind="natural"}'], "no natural owners"),
        (["cohort.clients=3", "split.held_out=4"], "fewer clients than a cohort"),
    ],
)
def test_a_run_that_could_not_begin_leaves_no_directory(tmp_path, sets, text):
    with pytest.raises((ConfigError, DataError), match=text):
        search(run_of(False, *sets), tmp_path / "run").result  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises((ConfigError, DataError), match=text):
        search(run_of(False, *sets), mine).result  # noqa: B018
    assert list(tmp_path.iterdir()) == [mine]  # it was there before: it stays, empty
    assert list(mine.iterdir()) == []


def test_a_directory_with_somebody_elses_files_is_refused_untouched(tmp_path, monkeypatch):
    kept = {"run.toml": "mine", "blobs/mine.txt": "a", "cache/mine.txt": "b", "zoo.txt": "c"}
    for name, text in kept.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for sets in ([], ['constraints=["params < 3"]']):
        with pytest.raises(JournalError, match="own: this one holds other files") as caught:
            search(run_of(False, *sets), ".").result  # noqa: B018
        assert caught.value.got == "blobs, cache, run.toml and 1 more"
        assert "--out a new or an empty directory" in str(caught.value)
    found = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*.*")}
    assert found == kept


def test_clearing_prepared_rows_spares_other_files(tmp_path):
    cache = tmp_path / "cache"
    for name in ("seen_x.npy", "shards.json", "ranks/seen_x.npy", "mine/notes.txt"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("x")
    cleared(cache)
    assert sorted(p.name for p in cache.rglob("*")) == ["mine", "notes.txt"]
    (cache / "mine" / "notes.txt").unlink()
    cleared(cache)
    assert not cache.exists()
    cleared(cache)  # what is not there is no fault


def test_clients_that_never_answer_end_the_run_with_advice(tmp_path):
    with pytest.raises(RunFailed, match=r"every candidate failed[\s\S]*enough replies") as caught:
        search(run_of(False, "cohort.dropout=1.0"), tmp_path / "run").result  # noqa: B018
    assert "cohort.dropout" in str(caught.value)


def test_a_diverging_search_says_what_to_lower(tmp_path):
    sets = ("client.learning_rate=100.0", "client.epochs=20", 'space.activations=["relu"]')
    with pytest.raises(RunFailed, match=r"every candidate failed[\s\S]*learning_rate"):
        search(run_of(False, *sets), tmp_path / "run").result  # noqa: B018


def test_a_failed_final_training_gives_its_own_reason(tmp_path):
    study = search(run_of(), tmp_path / "run")
    with Journal.create(tmp_path / "run", meta={}) as journal:
        early = Outcome(number=0, arch={}, score=0.1, status="dropped", reason="dropped at round 1")
        late = Outcome(number=0, arch={}, score=-1.0, status="failed", reason="round 4: NaN loss")
        journal.commit("round", outcomes=[early])
        journal.commit("round", outcomes=[late])
        with pytest.raises(RunFailed, match="final: the final training failed") as caught:
            study._check_found("final", Position(trials=1), journal)
    assert caught.value.got == "round 4: NaN loss"


def test_an_edited_run_file_in_the_directory_is_refused_and_kept(plain, tmp_path):
    place = tmp_path / "run"
    study = search(run_of(), place)
    for event in study.events():
        if event.kind == "round":
            study.stop()
    file = place / "run.toml"
    text, before = file.read_text(), digest(place)
    for edited in (text.replace("seed = ", "seed = 9"), text + "\n[budget", "\udcff"):
        data = edited.encode(errors="surrogateescape")
        file.write_bytes(data)
        for previous in (False, True):
            with pytest.raises(ConfigError, match="a begun run keeps its settings") as caught:
                resume(place, previous=previous)
            assert str(file) in str(caught.value)
        assert file.read_bytes() == data
        assert digest(place) == before  # nothing was rolled back
    file.write_text(f"# a comment\n{text}")
    assert resume(place).result.metrics["accuracy"] > 0.5
    assert digest(place) == plain


def test_a_directory_renamed_under_a_run_stops_it_at_the_next_commit(tmp_path):
    place, turns = tmp_path / "run", []

    def watched():
        for event in search(run_of(), place).events():
            if event.kind == "round":
                turns.append(event)
                if len(turns) == 1:
                    place.rename(tmp_path / "elsewhere")

    with pytest.raises(JournalError, match="directory was removed or renamed"):
        watched()
    assert len(turns) <= 3
    assert not place.exists()
    assert (tmp_path / "elsewhere/journal.sqlite").is_file()


def test_a_corrupt_tensor_is_named_and_the_commit_before_goes_on(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("archipelago.driver.record.SHARE", 0.0)  # tensors with every commit
    study = search(run_of(), tmp_path / "run")
    for event in study.events():
        if event.kind == "round" and event.data["phase"] == "final" and event.data["round"] == 4:
            study.stop()
    with Journal.open(tmp_path / "run", write=False) as journal:
        last, before = journal.last(full=True), journal.previous()
        (digest_,) = set(last.blobs.values()) - set(before.blobs.values())
    (path,) = (tmp_path / "run" / "blobs").rglob(digest_)
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(
        JournalError, match=rf"{digest_}: a tensor file is corrupt[\s\S]*--previous"
    ):
        resume(tmp_path / "run").result  # noqa: B018
    resume(tmp_path / "run", previous=True).result  # noqa: B018
    assert digest(tmp_path / "run") == plain
