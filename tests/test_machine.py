"""What a machine does to a run, with real processes: deaths, ends, and what is left on the disk."""

import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

import pytest
from test_study import digest, run_of

from archipelago.client.training import LocalTraining
from archipelago.config.load import dumps
from archipelago.core.atomic import (
    atomic_file,
    private,
    private_folder,
    scratch,
    sweep,
    sweep_scratch,
)
from archipelago.core.errors import DataError, MachineFailed, UpdateRefused
from archipelago.core.failure import kind_of, read_reason, reason_of
from archipelago.federation.check import failed, unread
from archipelago.journal.journal import Journal
from archipelago.study.running.search import resume, search


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed(LocalTraining):
    """Leaves a mark in `folder` and dies of `how`, until there are `deaths` marks."""

    folder: str = ""
    deaths: int = 0
    how: str = "SIGKILL"

    def fit(self, model, task, asked):
        self.die()
        return LocalTraining.fit(self, model, task, asked)

    def fit_block(self, model, task, leaves, asked):
        self.die()
        return LocalTraining.fit_block(self, model, task, leaves, asked)

    def die(self):
        if not self.deaths or len(os.listdir(self.folder)) >= self.deaths:
            return
        Path(self.folder, token_hex(4)).touch()
        if self.how == "MemoryError":
            raise MemoryError
        if self.how == "EMFILE":
            raise OSError(errno.EMFILE, "Too many open files")
        if self.how == "torch":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        os.kill(os.getpid(), signal.Signals[self.how])


def doomed(marks, path="auto", engine="processes", **how):
    run = run_of(
        False, f'engine.kind="{engine}"', *(["engine.workers=2"] if engine != "serial" else [])
    )
    marks.mkdir(exist_ok=True)
    client = Doomed(learning_rate=0.1, path=path, folder=str(marks), **how)
    return replace(run, client=client)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = {}
    for path in ("auto", "flat"):
        place = tmp_path_factory.mktemp("undisturbed")
        search(doomed(place / "marks", path, "serial"), place / "run").result  # noqa: B018
        found[path] = digest(place / "run")
    return found


@pytest.mark.parametrize(
    ("how", "path", "engine"),
    [
        ("SIGKILL", "auto", "processes"),
        ("MemoryError", "flat", "processes"),
        ("EMFILE", "flat", "serial"),
        ("torch", "auto", "serial"),
    ],
)
def test_a_machine_that_fails_twice_changes_no_bit(undisturbed, tmp_path, how, path, engine):
    run = doomed(tmp_path / "marks", path, engine, deaths=2, how=how)
    if engine == "serial":
        search(run, tmp_path / "run").result  # noqa: B018
    else:
        with pytest.warns(UserWarning, match="a worker was lost"):
            search(run, tmp_path / "run").result  # noqa: B018
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert digest(tmp_path / "run") == undisturbed[path]
    with Journal.open(tmp_path / "run", write=False) as journal:
        assert not list(journal.events("refused"))
        assert [data["gave_up"] for _, data, _ in journal.events("worker lost")]


@pytest.mark.parametrize(
    ("how", "said", "engine"),
    [
        ("SIGKILL", "lost 3 times: SIGKILL, out of memory perhaps", "processes"),
        ("MemoryError", "MemoryError, 3 times", "serial"),
    ],
)
@pytest.mark.filterwarnings("ignore:a worker was lost")
def test_a_machine_that_fails_each_time_stops_the_run_which_goes_on(
    undisturbed, tmp_path, how, said, engine
):
    run = doomed(tmp_path / "marks", "auto", engine, deaths=10**6, how=how)
    with pytest.raises(MachineFailed, match=rf"(?s){said}.*resume {tmp_path / 'run'}"):
        search(run, tmp_path / "run").result  # noqa: B018
    assert not (tmp_path / "run" / "cache").exists()
    well = replace(run, client=replace(run.client, deaths=0))
    resume(tmp_path / "run", well).result  # noqa: B018
    assert digest(tmp_path / "run") == undisturbed["auto"]


def test_kinds_are_decided_by_type_and_a_client_cannot_name_the_machine():
    kinds = [
        (MemoryError(), "machine"),
        (OSError(errno.ENOSPC, "full"), "machine"),
        (OSError(errno.EMFILE, "many"), "machine"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "machine"),
        (RuntimeError("shapes differ: MemoryError"), "work"),
        (FileNotFoundError(2, "gone"), "data"),
        (OSError("the disk gave up"), "data"),
        (DataError("no rows"), "data"),
        (ValueError("DataError: no"), "work"),
    ]
    assert [kind_of(error) for error, _ in kinds] == [kind for _, kind in kinds]
    assert read_reason(reason_of(DataError("no rows"))) == ("data", "DataError: no rows")
    for said in ("machine: MemoryError", "worker: lost", "deadline: late", "anything", ""):
        assert read_reason(said) == ("work", said)
    assert unread(failed("x", "data"))
    assert not unread(failed("DataError: x", "work"))
    for kind in ("machine", "worker"):
        with pytest.raises(MachineFailed):
            failed("gone", kind)
    assert isinstance(failed("late", "deadline"), UpdateRefused)


def test_rows_are_their_owners_alone_and_leave_with_the_run(tmp_path):
    def modes():
        cache = tmp_path / "run" / "cache"
        seen = [cache, *cache.rglob("*")]
        assert any(path.name == "sealed_x.npy" for path in seen)
        for path in (*seen, tmp_path / "run" / "blobs"):
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        assert not (tmp_path / "run").stat().st_mode & 0o022

    before = os.umask(0)
    try:
        study = search(
            run_of(False, 'tune.choices={"preprocess.scaling"=["standard","robust"]}'),
            tmp_path / "run",
        )
        with closing(study.events()) as events:
            for event in events:
                if event.kind == "round":
                    modes()
                    break
        assert not (tmp_path / "run" / "cache").exists()  # a generator that was closed
        again = resume(tmp_path / "run")
        for event in again.events():
            if event.kind == "round":
                modes()
                again.stop()
            elif event.kind == "stopped":
                assert not (tmp_path / "run" / "cache").exists()
        events = resume(tmp_path / "run").events()
        assert next(event for event in events if event.kind == "round")
        with pytest.raises(KeyboardInterrupt):
            events.throw(KeyboardInterrupt)
    finally:
        os.umask(before)
    assert not (tmp_path / "run" / "cache").exists()


def test_a_disk_that_fills_while_rows_are_prepared_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(MachineFailed, match=r"(?s)gave out.*No space left.*resume"):
            search(run_of(), tmp_path / "run").result  # noqa: B018
    assert not (tmp_path / "run" / "cache").exists()
    assert resume(tmp_path / "run").result.metrics["accuracy"] > 0.8


def test_a_closed_terminal_takes_the_rows_away(tmp_path):
    file, out = tmp_path / "run.toml", tmp_path / "run"
    file.write_text(dumps(run_of(False, "budget.trials=400", 'engine.kind="processes"')))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "archipelago", "search", str(file), "--out", str(out)]
    command = ["env", "--default-signal=HUP", *command]  # whoever runs the tests may ignore it
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if " round " in line:
                assert (out / "cache" / "sealed_x.npy").exists()
                process.send_signal(signal.SIGHUP)
                break
        process.stdout.read()
    assert process.returncode == 130
    assert not (out / "cache").exists()
    assert list(temporary.iterdir()) == []


def test_a_polite_end_of_another_verb_takes_the_rows_away(tmp_path):
    script = (
        "import sys, time\n"
        "import archipelago.study.planning.plan as plan\n"
        "plan._sampled = lambda *_: (print('ready', flush=True), time.sleep(60))\n"
        "from archipelago.cli.app import main\n"
        "main(['plan', sys.argv[1]])\n"
    )
    file, temporary = tmp_path / "run.toml", tmp_path / "tmp"
    file.write_text(dumps(run_of()))
    temporary.mkdir()
    command = [sys.executable, "-c", script, str(file)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    for number, left in ((signal.SIGKILL, 1), (signal.SIGTERM, 0)):
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            (folder,) = temporary.iterdir()  # that of the killed one was swept
            assert (folder / "sealed_x.npy").exists()
            process.send_signal(number)
        assert process.returncode == (-9 if left else 128 + number)
        assert len(list(temporary.iterdir())) == left


def test_a_file_in_the_making_is_whole_or_not_there(tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old")
    with suppress(ZeroDivisionError), atomic_file(target) as made:
        made.file.write(b"half")
        raise ZeroDivisionError
    assert (target.read_text(), list(tmp_path.iterdir())) == ("old", [target])
    with atomic_file(target) as made:
        made.file.write(b"new")
        made.file.flush()
        sweep(tmp_path)
        assert made.path.read_bytes() == b"new"  # its owner lives
    assert (target.read_text(), list(tmp_path.iterdir())) == ("new", [target])


def test_only_what_nobody_holds_is_swept(tmp_path):
    gone, ours, other = (
        ".a.onnx.4194999-01234567.tmp",
        f".b.{os.getpid()}.tmp",
        f".c.{os.getppid()}.tmp",
    )
    mine = ("notes.tmp", ".notes.tmp", "a.4194999.tmp", ".vimrc.4194999.swp")
    for name in (gone, ours, other, *mine):
        (tmp_path / name).touch()
    sweep(tmp_path, "elsewhere")
    assert (tmp_path / gone).exists()
    sweep(tmp_path)
    # Our own number without our lock is of an earlier process, in a container that began anew.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other, *mine])
    reused = tmp_path / f".d.{os.getppid()}.tmp"
    reused.touch()
    os.utime(reused, (1, 1))  # older than the process that has its owner's number now
    sweep(tmp_path)
    assert not reused.exists()


def test_scratch_folders_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path):
    dead = tmp_path / ".archipelago-4194999-abcd_123"
    (dead / "cache").mkdir(parents=True)
    strange = [tmp_path / name for name in (".archipelago-abcd_123", "pymp-abcd_123", "mine")]
    for folder in strange:
        folder.mkdir()
    with scratch(tmp_path) as place:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        sweep_scratch(tmp_path)
        assert place.exists()
        assert not dead.exists()
    assert sorted(tmp_path.iterdir()) == sorted(strange)


def test_what_is_private_is_so_whatever_the_umask(tmp_path):
    for mask in (0, 0o777):
        before = os.umask(mask)
        try:
            folder = private_folder(tmp_path / f"{mask}")
            file = private(folder / "x")
            file.write_text("rows")
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "x").touch(0o666)
    assert stat.S_IMODE(private(tmp_path / "x").stat().st_mode) == 0o600
