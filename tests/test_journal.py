import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from math import inf, isnan, nan
from pathlib import Path

import pytest

from archipelago.core.errors import JournalError
from archipelago.core.failpoint import VARIABLE
from archipelago.core.meter import MeterRow, totals
from archipelago.core.trial import Outcome
from archipelago.journal import background
from archipelago.journal.filesystem import tried_filesystem
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
    monkeypatch.setattr(background, "PAUSE", 30.0)
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
    assert [f.detail for f in tried_filesystem(tmp_path)[:4]] == ["works"] * 4
    assert list(tmp_path.iterdir()) == []
    assert not tried_filesystem(tmp_path / "nowhere")[0].good


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


def sealed(directory):
    """Three full commits, of which two keep their states, and a light one."""
    with Journal.create(directory, meta={"name": "x", "run": "seed = 1"}) as journal:
        journal.register([Client(0, "north", 40), Client(1, "south", 60)])
        for turn in range(4):
            blob = {"w": journal.put(b"weights %d" % turn)} if turn < 3 else {}
            journal.commit(
                "round",
                {"turn": turn, "pad": "é" * 200} if turn < 3 else None,
                blobs=blob,
                pins=blob,
                meter=[row(turn, client) for client in range(8)],
                outcomes=[Outcome(number=turn, arch={}, score=turn / 7)],
                curves=[(1, turn, "loss", nan)],
                events=[("path", {"turn": turn})],
            )
            journal.note("resumed", {"turn": turn})
        journal.collect()
        return everything(journal)


def everything(journal):
    """All that is read of a journal, but for the order of its tables on the disk."""
    rows = list(journal.meter())
    told = (journal.meta, list(journal.registry), rows, list(journal.outcomes()))
    return repr((journal.digest(), *told, list(journal.events()), journal.pins(), journal.last()))


def test_no_flipped_bit_is_believed_and_none_ends_in_a_raw_error(tmp_path):
    whole = sealed(tmp_path / "run")
    path = tmp_path / "run/journal.sqlite"
    data, ends = path.read_bytes(), set()
    for at in range(1, 8 * len(data), 8 * len(data) // 150):
        harmed = bytearray(data)
        harmed[at // 8] ^= 1 << at % 8
        path.write_bytes(harmed)
        try:
            with Journal.open(tmp_path / "run", write=False) as journal:
                assert everything(journal) == whole
                ends.add("same")
        except JournalError:
            ends.add("refused")
    assert ends == {"same", "refused"}


@pytest.mark.filterwarnings("error")  # of generators that are left to the collector, too
def test_a_schema_that_is_no_text_any_more_is_a_damaged_journal(tmp_path):
    sealed(tmp_path / "run")
    path = tmp_path / "run/journal.sqlite"
    data = path.read_bytes()
    start = data.index(b"CREATE TABLE", 2000)
    for at in range(start, start + 40):  # SQLite quotes what it cannot read in its message
        harmed = bytearray(data)
        harmed[at] ^= 0x80
        path.write_bytes(harmed)
        for write in (False, True):
            with pytest.raises(JournalError, match="the journal is damaged"):
                Journal.open(tmp_path / "run", write=write)


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("UPDATE meter SET bytes_up = bytes_up + 1 WHERE number = 4", 3),
        ("DELETE FROM meter WHERE number = 3 AND client = 7", 2),
        ("UPDATE meter SET client = 1 - client WHERE number = 3 AND client < 2", 2),
        ("DELETE FROM events WHERE number = 4", 3),
        ("UPDATE meter SET number = 'four' WHERE number = 4", 3),
        ("UPDATE events SET number = x'04' WHERE number = 4", 3),
        ("UPDATE curves SET number = 3.5 WHERE number = 4", 3),
        ("INSERT INTO curves SELECT 9, branch, round, metric, value, phase FROM curves", 3),
        ("UPDATE outcomes SET record = replace(record, '0.28', '0.29') WHERE number = 3", 2),
        ("UPDATE pins SET digest = replace(digest, 'a', 'b') WHERE number = 4 OR number = 3", 2),
        ("UPDATE commits SET wall = wall + 1 WHERE number = 4", 3),
        ("DELETE FROM states WHERE number = 3", 2),
        ("UPDATE states SET state = x'00' WHERE number = 3", 2),
        ("UPDATE commit_blobs SET name = 'v' WHERE number = 3", 2),
        ("UPDATE outcomes SET record = CAST(x'ff' AS TEXT) WHERE number = 4", 3),
        ("UPDATE notes SET data = '{}' WHERE rowid = 4", 3),
        ("DELETE FROM notes WHERE rowid = 4", 3),
        ("UPDATE meter SET bytes_up = 0 WHERE number = 1", None),
        ("UPDATE meta SET value = '2' WHERE key = 'run'", None),
        ("UPDATE clients SET rows = 41 WHERE id = 0", None),
        ("CREATE INDEX more ON meter (client)", 3),
    ],
)
def test_what_was_changed_is_refused_and_the_commit_before_it_can_be_gone_back_to(
    change, back, tmp_path
):
    place = tmp_path / "run"
    sealed(place)
    connection = sqlite3.connect(place / "journal.sqlite")
    assert connection.execute(change).rowcount != 0
    connection.commit()
    connection.close()
    for write in (False, True):
        with pytest.raises(JournalError, match="the journal is damaged") as caught:
            Journal.open(place, write=write)
        assert ("--previous" in str(caught.value)) == (back is not None)
    if back is None:
        with pytest.raises(JournalError, match="the journal is damaged"):
            Journal.open(place, write=True, damaged=True)
        return
    harmed = (place / "journal.sqlite").read_bytes()
    with Journal.open(place, write=True, damaged=True) as journal:
        assert (place / "journal.sqlite").read_bytes() == harmed  # nothing is changed before
        assert journal.go_back() == back
        assert [c.number for c in journal.commits()] == list(range(1, back + 1))
        assert journal.commit("round", {"turn": 9}, meter=[row(9)]) == back + 1
    assert (place / "journal.sqlite.damaged").read_bytes() == harmed
    with Journal.open(place, write=False) as journal:
        assert journal.last().state == {"turn": 9}
        assert len(list(journal.registry)) == 2


def test_a_torn_log_is_an_earlier_journal_or_is_refused(tmp_path):
    place, copy = tmp_path / "run", tmp_path / "copy"
    with Journal.create(place, meta={"name": "x"}) as journal:
        for turn in range(12):
            journal.commit("round", {"turn": turn}, meter=[row(turn)])
        shutil.copytree(place, copy)  # as a kill leaves it, with its log
    log = copy / "journal.sqlite-wal"
    data = log.read_bytes()
    for at in range(5, 8 * len(data), 8 * len(data) // 40):
        shutil.copytree(place, copy, dirs_exist_ok=True)
        harmed = bytearray(data)
        harmed[at // 8] ^= 1 << at % 8
        log.write_bytes(harmed)
        with suppress(JournalError), Journal.open(copy, write=False) as journal:
            rounds = [r.round for r in journal.meter()]
            assert rounds == list(range(len(journal.commits())))


@pytest.mark.parametrize("loss", ["remove", "rename", "file"])
def test_a_directory_that_goes_is_noticed_at_the_next_commit(loss, tmp_path):
    place = tmp_path / "run"
    journal = Journal.create(place, meta={"name": "x"})
    journal.commit("round", {"turn": 0})
    if loss == "remove":
        shutil.rmtree(place)
    elif loss == "rename":
        place.rename(tmp_path / "elsewhere")
    else:
        (place / "journal.sqlite").unlink()
    journal.later(lambda: journal.commit("round"))
    with pytest.raises(JournalError, match="removed"):
        journal.settle()
    journal.close()
    if loss == "rename":
        (tmp_path / "elsewhere").rename(place)
        with Journal.open(place, write=False) as journal:
            assert [c.number for c in journal.commits()] == [1]


def test_a_disk_too_full_for_a_journal_leaves_nothing_that_bars_the_way(tmp_path):
    script = (
        "import resource, sys\n"
        "from archipelago.journal.journal import Journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))\n"
        "Journal.create(sys.argv[1], meta={'run': 'x' * 10_000})"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "run"], capture_output=True, text=True
    )
    assert "no run was begun: the disk is full" in told.stderr
    assert "give the same command again" in told.stderr
    sealed(tmp_path / "run")


def first_version(place):
    """Turn a journal into one of version 1, which had no digests and kept states as text."""
    connection = sqlite3.connect(place / "journal.sqlite", isolation_level=None)
    packed = connection.execute("SELECT number, state FROM states").fetchall()
    connection.executescript(
        "DROP TABLE seals; ALTER TABLE notes DROP COLUMN seal;"
        'ALTER TABLE commits DROP COLUMN seal; ALTER TABLE commits DROP COLUMN "full";'
        "CREATE TABLE c (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, state TEXT, wall REAL);"
        "INSERT INTO c SELECT number, kind, NULL, wall FROM commits; DROP TABLE commits;"
        "ALTER TABLE c RENAME TO commits; DROP TABLE states; PRAGMA user_version = 1;"
        "CREATE INDEX full_commits ON commits (number) WHERE state IS NOT NULL;"
    )
    states = [(zlib.decompress(state).decode(), number) for number, state in packed]
    connection.executemany("UPDATE commits SET state = ? WHERE number = ?", states)
    connection.close()


def test_a_journal_of_version_1_is_read_and_gone_on_with(tmp_path):
    place = tmp_path / "run"
    whole = sealed(place)
    first_version(place)
    before = (place / "journal.sqlite").read_bytes()
    with Journal.open(place, write=False) as journal:
        assert everything(journal) == whole
    assert (place / "journal.sqlite").read_bytes() == before
    with Journal.open(place, write=True) as journal:
        assert everything(journal) == whole
        journal.commit("round", {"turn": 4})
        assert journal.go_back() == 3
    with Journal.open(place, write=False) as journal:
        assert journal.last().state["turn"] == 2


def test_a_state_that_repeats_itself_takes_little_room(journal):
    state = {"kept": [{"client": n, "branch": 1, "rounds": [n] * 8} for n in range(20_000)]}
    for _ in range(6):
        journal.commit("round", state)
        journal.collect()
    assert len(json.dumps(state)) > 10**6
    assert (journal.directory / "journal.sqlite").stat().st_size < 10**6
