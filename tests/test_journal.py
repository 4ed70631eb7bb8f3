import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from math import inf, isnan, nan
from pathlib import Path

import pytest

from archipelago.core.errors import JournalError
from archipelago.core.failpoint import VARIABLE
from archipelago.core.meter import MeterRow, totals
from archipelago.core.trial import Outcome
from archipelago.journal import beside
from archipelago.journal.fitness import fitness
from archipelago.journal.journal import Journal
from archipelago.journal.registry import Client
from archipelago.journal.runs import FINISHED, runs

SCRIPT = Path(__file__).with_name("journal_script.py")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != VARIABLE}


def row(turn, client=0, **changes):
    values = {"phase": "search", "round": turn, "branch": 1, "client": client, "kind": "fit"}
    costs = {"examples": 50, "bytes_down": 10, "bytes_up": 7, "macs": 2**40, "seconds": 0.1}
    return MeterRow(**{**values, **costs, **changes})


@pytest.fixture
def journal(tmp_path):
    with Journal.create(tmp_path / "run", meta={"name": "x"}) as journal:
        yield journal


def blobs(journal):
    return sorted(path.name for path in (journal.directory / "blobs").rglob("*") if path.is_file())


def test_a_commit_comes_back_as_it_went_in(journal):
    digest = journal.put(b"12", memoryview(b"34"))
    scored = Outcome(number=3, arch={"k": 5}, score=0.5, metrics={"loss": nan})
    failed = Outcome(number=4, arch={}, score=-inf, status="failed", reason="NaN loss")
    rows = [row(0), row(0, client=1, note="late")]
    number = journal.commit(
        "round",
        {"at": [1, None]},
        blobs={"w": digest},
        meter=rows,
        outcomes=[scored, failed],
        curves=[(3, 0, "loss", nan), (3, 0, "accuracy", 0.25, "final")],
        events=[("drop", {"branch": 4})],
    )
    light = journal.commit("light")
    journal.note("stopped")
    journal.close()
    with Journal.open(journal.directory, write=False) as reader:
        assert (number, light) == (1, 2)
        assert reader.meta == {"name": "x"}
        last = reader.last(full=True)
        assert last is not None
        assert (last.number, last.kind, last.state) == (1, "round", {"at": [1, None]})
        assert bytes(reader.get(last.blobs["w"])) == b"1234"
        assert [c.kind for c in reader.commits()] == ["round", "light"]
        assert not getattr(reader.last(), "full", True)
        assert reader.previous() is None
        assert list(reader.meter()) == rows
        assert list(reader.meter(client=1)) == rows[1:]
        first, second = reader.outcomes()
        assert isnan(first.metrics["loss"])
        assert second == failed
        assert reader.standing() == (0.5, 2)
        assert isnan(next(reader.curves()).value)
        assert [p.metric for p in reader.curves("final")] == ["accuracy"]
        assert [(k, d) for k, d, _ in reader.events()] == [
            ("drop", {"branch": 4}),
            ("stopped", None),
        ]
        assert [k for k, _, _ in reader.events("drop")] == ["drop"]
        with pytest.raises(JournalError, match="reading only"):
            reader.commit("x")


def test_costs_are_sums_over_rows(journal):
    rows = [row(t, c, phase=p) for t in range(3) for c in range(4) for p in ("search", "final")]
    journal.commit("a", meter=rows)
    assert journal.cost() == totals(rows)
    assert journal.cost("final") == totals(rows[1::2])
    assert journal.cost(branch=9)["examples"] == 0
    assert journal.cost_per_client()[2] == totals(r for r in rows if r.client == 2)
    assert journal.cost_per_round("final")["final", 1] == totals(
        r for r in rows[1::2] if r.round == 1
    )


def test_rolling_back_takes_every_later_row_along(journal):
    def step(turn):
        digest = journal.put(b"%d" % turn)
        journal.commit(
            "round",
            {"turn": turn} if turn % 2 == 0 else None,
            blobs={"w": digest} if turn % 2 == 0 else {},
            pins={"best": digest},
            meter=[row(turn)],
            outcomes=[Outcome(number=turn, arch={}, score=turn)],
            curves=[(0, turn, "m", 0.5)],
            events=[("e", {"seconds": time.time()})],
        )

    for turn in range(6):
        step(turn)
    before, last = journal.digest(), journal.last(full=True)
    assert last.number == 5
    journal.rollback(journal.previous().number)
    assert journal.digest() != before
    assert [o.number for o in journal.outcomes()] == [0, 1, 2]
    assert journal.cost()["examples"] == 150
    assert bytes(journal.get(journal.pins()["best"])) == b"2"
    for turn in (3, 4, 5):
        step(turn)
    assert journal.digest() == before
    with pytest.raises(JournalError, match="choose one of 1, 3, 5"):
        journal.rollback(4)
    journal.rollback(0)
    assert journal.last() is None


def test_identity_ignores_clocks_and_how_often_states_were_written(tmp_path):
    digests = []
    for index, every in enumerate((1, 2)):
        meta = {"name": "x", "created": time.time(), "versions": {"torch": "2"}}
        with Journal.create(tmp_path / str(index), meta=meta) as journal:
            for turn in range(1, 5):
                digest = journal.put(b"%d" % turn)
                full = turn % every == 0
                journal.commit(
                    "round",
                    {"t": turn, "seconds": time.time()} if full else None,
                    blobs={"w": digest} if full else {},
                    meter=[row(turn, seconds=time.time())],
                )
                if index:
                    journal.collect()
            journal.note("resumed")
            digests.append(journal.digest())
            journal.commit("more", meter=[row(9)])
            assert journal.digest() != digests[-1]
    assert digests[0] == digests[1]


def test_collecting_keeps_two_commits_pins_and_what_is_fresh(journal):
    names = []
    for turn in range(5):
        names.append(journal.put(b"%d" % turn * 100))
        pins = {0: {"net": names[0]}, 3: {"net": names[-1]}}.get(turn, {})
        journal.commit("round", {"t": turn}, blobs={"w": names[-1]}, pins=pins)
    fresh, kept = journal.put(b"fresh"), journal.put(b"kept")
    # 0 was pinned until commit 4, which is where `previous` stands: released from there on
    freed = journal.collect()
    assert freed == 300
    assert blobs(journal) == sorted([*names[3:], fresh, kept])
    journal.commit("light", pins={"net": None})
    journal.collect(keep=[kept])
    assert blobs(journal) == sorted([*names[3:], kept])
    assert [c.number for c in (journal.previous(), journal.last(full=True))] == [4, 5]
    with pytest.raises(JournalError, match="never put, or was collected"):
        journal.commit("round", {}, blobs={"w": names[0]})


def test_sixteen_branches_over_many_rounds_stay_bounded(journal):
    most = 0
    for turn in range(20):
        named = {str(b): journal.put(bytes([turn, b]) * 3000) for b in range(16)}
        journal.commit("round", {"t": turn}, blobs=named)
        most = max(most, len(blobs(journal)))
        journal.collect()
    assert most <= 48
    assert len(blobs(journal)) == 32


def test_a_corrupt_tensor_is_named_with_the_way_back_and_mended_by_recomputing(journal):
    digest = journal.put(b"good" * 100)
    path = journal.directory / "blobs" / digest[:2] / digest
    path.write_bytes(b"evil" * 100)
    with pytest.raises(JournalError, match="corrupt") as caught:
        journal.get(digest)
    assert str(path) in str(caught.value)
    assert f"archipelago resume {journal.directory} --previous" in str(caught.value)
    assert journal.put(b"good" * 100) == digest
    assert bytes(journal.get(digest)) == b"good" * 100
    path.unlink()
    with pytest.raises(JournalError, match="missing"):
        journal.get(digest)


def test_best_spares_folders_that_only_look_like_it(journal):
    (journal.directory / "best-of-all").mkdir()
    journal.best({"a": b"1"})
    assert (journal.directory / "best-of-all").is_dir()


def test_best_is_replaced_whole(journal):
    for turn in range(3):
        link = journal.best({"arch.json": b"%d" % turn, "weights.safetensors": b"w%d" % turn})
        assert (link / "arch.json").read_bytes() == b"%d" % turn
    assert [p.name for p in journal.directory.glob("best*")].count("best") == 1
    assert len(list(journal.directory.glob("best*"))) == 2


def test_a_run_that_exists_is_refused_with_the_command_to_resume(journal):
    with pytest.raises(JournalError, match=f"archipelago resume {journal.directory}"):
        Journal.create(journal.directory, meta={})


@pytest.mark.parametrize("name", ["notes.txt", "blobs/ab", "lock", "best", "run.toml"])
def test_a_directory_that_is_not_ours_alone_is_refused_and_stays(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(JournalError, match=r"holds other files\n  got: .*\n  fix: give --out"):
        Journal.create(tmp_path, meta={})
    assert sorted(tmp_path.rglob("*")) == before
    assert path.read_text() == "mine"


def test_what_a_start_cut_short_leaves_is_no_obstacle(tmp_path):
    (tmp_path / "lock").write_text("4711\n")
    (tmp_path / "blobs").mkdir()
    (tmp_path / ".journal.sqlite.new-wal").write_text("half")
    journal = Journal.create(tmp_path, meta={})
    journal.discard()
    assert list(tmp_path.iterdir()) == []  # it was there before, so it stays


def test_a_run_that_is_live_is_locked_for_writers_only(journal):
    with pytest.raises(JournalError, match=f"locked by live run pid {os.getpid()}"):
        Journal.open(journal.directory, write=True)
    with Journal.open(journal.directory, write=False) as reader:
        journal.commit("round", {})
        assert [c.number for c in reader.commits()] == [1]
    journal.close()
    journal.close()
    Journal.open(journal.directory, write=True).close()


def test_what_is_no_journal_is_refused_clearly(journal, tmp_path):
    with pytest.raises(JournalError, match="not a run"):
        Journal.open(tmp_path / "nowhere", write=True)
    assert not (tmp_path / "nowhere").exists()
    journal._connection.execute("PRAGMA user_version = 99")
    journal.close()
    with pytest.raises(JournalError, match="newer version"):
        Journal.open(journal.directory, write=True)
    (journal.directory / "journal.sqlite").write_bytes(b"")
    with pytest.raises(JournalError, match="not a journal of Archipelago"):
        Journal.open(journal.directory, write=False)


@pytest.mark.parametrize("at", [0, 200, 3000])
def test_a_damaged_database_is_said_to_be_damaged(journal, at):
    for turn in range(50):
        journal.commit("round", {"t": turn}, meter=[row(turn)] * 20)
    journal.close()
    path = journal.directory / "journal.sqlite"
    data = path.read_bytes()
    path.write_bytes(data[:at] + b"\xff" * (len(data) // 2) + data[at + len(data) // 2 :])
    with pytest.raises(JournalError, match="journal is damaged"):
        Journal.open(journal.directory, write=True)


def test_an_interrupted_step_leaves_nothing(journal):
    def broken():
        yield row(0)
        raise ValueError("from the caller")

    with pytest.raises(ValueError, match="caller"):
        journal.commit("round", {}, meter=broken())
    assert journal.last() is None
    assert journal.cost()["examples"] == 0
    with pytest.raises(JournalError, match="without a state"):
        journal.commit("round", blobs={"w": "x"})


def test_what_is_written_later_is_there_for_whoever_looks_next(journal):
    begun, going = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert going.wait(10)
        digest = journal.put(b"1234")  # it uses the journal itself, and does not wait for itself
        journal.commit("round", {"at": 1}, blobs={"w": digest}, meter=[row(0)])

    journal.later(work)
    assert begun.wait(10)  # the caller went on
    threading.Timer(0.05, going.set).start()
    assert journal.cost()["examples"] == 50
    assert bytes(journal.get(journal.last().blobs["w"])) == b"1234"
    for turn in range(1, 20):
        journal.later(lambda turn=turn: journal.commit("round", meter=[row(turn)]))
    assert [r.round for r in journal.meter()] == list(range(20))


def test_what_somebody_waits_for_begins_at_once(journal, monkeypatch):
    monkeypatch.setattr(beside, "PAUSE", 30.0)
    began = time.monotonic()
    for _ in range(2):
        begun = threading.Event()
        journal.later(begun.set)
        assert not begun.wait(0.1)
        journal.settle()
        assert begun.is_set()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("use", ["cost", "later", "put", "close"])
def test_an_error_of_what_is_written_later_reaches_whoever_comes_next(journal, use):
    journal.later(lambda: journal.commit("round", meter=[row(0)]))
    journal.later(lambda: journal.commit("round", {}, blobs={"w": "0" * 40}))
    uses = {
        "cost": journal.cost,
        "later": lambda: journal.later(lambda: None),
        "put": lambda: journal.put(b"x"),
        "close": journal.close,
    }
    with pytest.raises(JournalError, match="a blob that was never put"):
        uses[use]()
    with Journal.open(journal.directory, write=False) as reader:
        assert [commit.kind for commit in reader.commits()] == ["round"]


def test_an_error_outlives_a_wait_that_is_interrupted(journal):
    def work():
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        raise JournalError("the disk is full")

    journal.later(work)
    with pytest.raises(KeyboardInterrupt):
        journal.cost()
    with pytest.raises(JournalError, match="the disk is full"):
        journal.close()


def test_write_text_replaces_a_file(journal):
    journal.write_text("run.toml", "a")
    assert journal.write_text("run.toml", "b").read_text() == "b"
    with pytest.raises(JournalError, match="cannot be read or written"):
        journal.write_text("no/such/folder", "x")


def test_a_million_clients_are_looked_up_by_id(journal):
    count = 1_000_000
    journal.register(Client(i, f"client-{i}", i % 7) for i in range(count))
    assert len(journal.registry) == count
    assert journal.registry.rows == sum(i % 7 for i in range(count))
    ids = list(range(999_999, 0, -997))
    assert [c.id for c in journal.registry.get(ids)] == ids
    assert next(iter(journal.registry)) == Client(0, "client-0", 0, -1)
    with pytest.raises(KeyError):
        journal.registry.get([count])


def test_fifty_rows_cost_less_than_a_millisecond(journal):
    journal._connection.execute("PRAGMA synchronous = OFF")
    rows = [row(0, client=c) for c in range(50)]
    best = inf
    for turn in range(30):
        start = time.perf_counter()
        journal.commit("round", None, meter=rows, curves=[(0, turn, "accuracy", 0.5)])
        best = min(best, time.perf_counter() - start)
    assert best < 1e-3


def test_runs_are_listed_even_where_one_is_broken(tmp_path):
    for name, kind in (("a", "round"), ("b", FINISHED)):
        with Journal.create(tmp_path / name, meta={"name": name.upper()}) as journal:
            journal.commit(
                "round",
                {},
                meter=[row(0)],
                outcomes=[Outcome(number=0, arch={}, score=0.5)],
                events=[("facts", {"task": {"metric": "rmse"}})],
            )
            journal.commit("stage", {}, events=[("ended", {"phase": "search"})])
            # A reference line is nobody's trial.
            journal.commit(kind, {}, outcomes=[Outcome(number=0, arch={}, score=0.9)])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "journal.sqlite").write_bytes(b"nonsense" * 200)
    with Journal.open(tmp_path / "a", write=True):
        a, b, c = runs(tmp_path)
    assert (a.name, a.status, a.best, a.trials, a.bytes) == ("A", "running", 0.5, 1, 17)
    assert (b.status, b.best, b.trials, b.metric) == ("finished", 0.5, 1, "rmse")
    assert (c.status, "damaged" in c.reason) == ("unreadable", True)
    assert runs(tmp_path / "a")[0].status == "stopped"


def test_a_local_disk_is_fit(tmp_path):
    assert [f.detail for f in fitness(tmp_path)[:4]] == ["works"] * 4
    assert list(tmp_path.iterdir()) == []
    assert not fitness(tmp_path / "nowhere")[0].good


def script(directory, *arguments, **environment):
    command = [sys.executable, str(SCRIPT), str(directory), *arguments]
    done = subprocess.run(
        command, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    code, text = script(tmp_path_factory.mktemp("whole") / "run")
    assert code == 0, text
    return text


POINTS = ("before-blob", "blob-without-row", "row-uncommitted", "after-row", "best-before")


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("point", [*POINTS, "best-after"])
def test_killed_at_any_point_the_journal_is_old_or_new_and_the_end_is_the_same(
    point, count, tmp_path, uninterrupted
):
    code, text = script(tmp_path / "run", **{VARIABLE: f"{point}:{count}"})
    assert code == -signal.SIGKILL, text
    with Journal.open(tmp_path / "run", write=False) as journal:
        last = journal.last()
        turns = last.number if last else 0
        assert [r.round for r in journal.meter()] == list(range(1, turns + 1))
        assert [o.number for o in journal.outcomes()] == list(range(1, turns + 1))
        full = journal.last(full=True)
        if full is not None:
            assert full.state == {"turn": full.number}
            assert bytes(journal.get(full.blobs["w"])) == b"weights %d" % full.number * 50
        best = journal.directory / "best"
        if best.exists():
            arch = json.loads((best / "arch.json").read_bytes())
            assert (best / "weights").read_bytes() == b"weights %d" % arch
    code, text = script(tmp_path / "run")
    assert (code, text) == (0, uninterrupted)


@pytest.mark.parametrize("limit", [12_000, 90_000, 200_000])
def test_a_full_disk_stops_with_advice_and_loses_nothing(limit, tmp_path, uninterrupted):
    code, text = script(tmp_path / "run", f"--limit={limit}")
    if "JournalError" in text:
        assert "nothing committed so far is lost" in text
        assert f"archipelago resume {tmp_path / 'run'}" in text
    else:
        assert code == 0, text
    assert limit > 12_000 or "JournalError" in text
    code, text = script(tmp_path / "run")
    assert (code, text) == (0, uninterrupted)


def test_a_tensor_that_does_not_fit_leaves_no_half_file(tmp_path):
    code = """if True:
        import resource, sys
        from archipelago.core.errors import JournalError
        from archipelago.journal.journal import Journal
        with Journal.create(sys.argv[1], meta={}) as journal:
            old = journal.put(b"old")
            journal.commit("round", {"t": 1}, blobs={"w": old})
            journal.best({"arch.json": b"1"})
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
            for call in (lambda: journal.put(b"x" * 10**7),
                         lambda: journal.best({"arch.json": b"x" * 10**7}),
                         lambda: journal.write_text("run.toml", "x" * 10**7)):
                try:
                    call()
                except JournalError as error:
                    sys.stdout.write(error.what + chr(10))
    """
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["the disk is full; nothing committed so far is lost"] * 3
    with Journal.open(tmp_path / "run", write=True) as journal:
        assert len(blobs(journal)) == 1
        assert (journal.directory / "best" / "arch.json").read_bytes() == b"1"
        assert not (journal.directory / "run.toml").exists()
        assert not list(journal.directory.rglob("*.tmp"))


def test_a_child_that_inherited_the_lock_does_not_keep_it_once_the_journal_is_closed(journal):
    handle = journal._lock._handle
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, pass_fds=(handle,))
    try:
        journal.close()
        Journal.open(journal.directory, write=True).close()
    finally:
        child.communicate(b"x")


def test_a_callers_mistake_is_not_called_damage(journal):
    with pytest.raises(sqlite3.IntegrityError, match="virtual_seconds"):
        journal.commit("round", {}, meter=[row(0, virtual_seconds=nan)])
    assert journal.last() is None
    journal.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        journal.cost()


def test_a_reader_follows_a_live_run_and_sees_only_whole_commits(journal):
    with Journal.open(journal.directory, write=False) as reader:
        for turn in range(20):
            journal.commit("round", {"t": turn}, meter=[row(turn)] * 3)
            rows = list(reader.meter())
            assert len(rows) == 3 * len(reader.commits()) == 3 * (turn + 1)
