"""Serial is the reference; processes equal it and survive losses."""

import errno
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from archipelago.core.errors import TaskFailed
from archipelago.engine.processes import Processes
from archipelago.engine.serial import Serial


@dataclass(frozen=True)
class Place:
    base: int = 100

    def enter(self):
        return self.base


@dataclass(frozen=True)
class Add:
    value: int
    weight: int = 1

    def __call__(self, context, memory):
        return [np.array([context + self.value], np.int64), b"end"]


@dataclass(frozen=True)
class Sum:
    handle: object
    weight: int = 1

    def __call__(self, context, memory):
        data = np.frombuffer(memory.view(self.handle), np.float32)
        return [np.array([data.sum()], np.float64)]


@dataclass(frozen=True)
class Raise:
    def __call__(self, context, memory):
        raise ValueError("three is not four")


@dataclass(frozen=True)
class DieOnce:
    flag: str

    def __call__(self, context, memory):
        path = Path(self.flag)
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [b"survived"]


@dataclass(frozen=True)
class Die:
    def __call__(self, context, memory):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Sleep:
    seconds: float

    def __call__(self, context, memory):
        time.sleep(self.seconds)
        return [b"awake"]


@dataclass(frozen=True)
class Faults:
    """Pages that the system clears for buffers that were there a moment ago."""

    size: int

    def __call__(self, context, memory):
        counts = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            _ = [np.full(self.size // 4, 1, np.uint8) for _ in range(4)]
            del _
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return [np.array(counts[-1:], np.int64)]


@dataclass(frozen=True)
class Fill:
    value: int
    size: int
    seconds: float = 0.0

    def __call__(self, context, memory):
        time.sleep(self.seconds)
        return [bytes([self.value]) * self.size]


@pytest.fixture(scope="module")
def pool():
    engine = Processes(workers=2).start()
    engine.open(Place())
    yield engine
    engine.close()


def numbers(engine, tasks):
    return [int(np.frombuffer(r.data[:8], np.int64)[0]) for r in engine.map(tasks)]


def test_results_come_in_task_order_and_equal_serial(pool):
    serial = Serial().start()
    serial.open(Place())
    tasks = [Add(n) for n in range(40)]
    assert numbers(pool, tasks) == numbers(serial, tasks) == [100 + n for n in range(40)]


def test_replies_keep_their_bytes_until_they_are_read(pool):
    # The first one is late: more replies wait for it than a worker has places for.
    tasks = [Fill(n, 100_000 + 7 * n, 0.4 * (n == 0)) for n in range(14)]
    for n, result in enumerate(pool.map(tasks)):
        time.sleep(0.005)  # the workers go on meanwhile
        assert bytes(result.data) == bytes([n]) * (100_000 + 7 * n)
    assert all(len(worker.free) == 3 and not worker.unread for worker in pool._workers)


def test_a_reply_is_read_where_its_worker_wrote_it(pool):
    (result,) = pool.map([Fill(7, 70_000)])
    worker = next(w for w in pool._workers if w.number == result.worker)
    assert any(
        s.mapped and np.shares_memory(np.asarray(s.mapped), result.data) for s in worker.slots
    )


def test_shared_bytes_reach_every_worker_and_are_given_back(pool):
    data = np.ones(5_000_000, np.float32)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        handle = pool.share([data])
        assert handle.size == data.nbytes
        results = list(pool.map([Sum(handle) for _ in range(4)]))
        assert [np.frombuffer(r.data, np.float64)[0] for r in results] == [5e6] * 4
        handle.release()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_task_that_raises_is_a_value_with_a_reason(pool):
    good, bad, after = pool.map([Add(1), Raise(), Add(2)])
    assert good.data is not None
    assert after.data is not None
    assert bad.error == "ValueError: three is not four"
    assert bad.attempts == 1


def test_a_lost_worker_is_reported_and_its_task_runs_again(pool, tmp_path):
    tasks = [DieOnce(str(tmp_path / "flag")), *[Add(n) for n in range(6)]]
    with pytest.warns(UserWarning, match="a worker was lost"):
        results = [replace(r, data=bytes(r.data)) for r in pool.map(tasks)]
    assert results[0].data == b"survived"
    assert (results[0].attempts, results[1].lost) == (2, "")
    assert results[0].lost.startswith("SIGKILL")
    assert all(r.error is None for r in results)


def test_a_task_that_always_kills_its_worker_fails_with_the_signal(pool):
    with pytest.warns(UserWarning, match="SIGKILL"):
        bad, good = pool.map([Die(), Add(3)])
    assert "lost 3 times" in bad.error
    assert (bad.kind, bad.attempts) == ("worker", 3)
    assert "SIGKILL" in bad.error
    assert bad.lost.startswith("SIGKILL")
    assert good.error is None


def test_a_task_past_its_deadline_is_stopped():
    engine = Processes(workers=1, deadline=0.5).start()
    engine.open(Place())
    late, good = engine.map([Sleep(60), Add(1)])
    assert "deadline of 0.5 s" in late.error
    assert good.error is None
    engine.close()


def test_stopping_early_leaves_the_pool_usable(pool):
    results = pool.map([Add(n) for n in range(30)])
    next(results)
    results.close()
    assert numbers(pool, [Add(5)]) == [105]


def test_an_engine_that_is_not_open_says_so():
    with pytest.raises(TaskFailed, match="not open"):
        next(Serial().start().map([Add(1)]))


def test_where_no_worker_can_be_started_it_is_said(monkeypatch):
    real, left = os.memfd_create, [20]

    def few(name, *more):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(name, *more)

    engine = Processes(workers=len(os.sched_getaffinity(0))).start()
    engine._wanted = 8
    monkeypatch.setattr(os, "memfd_create", few)
    with pytest.raises(TaskFailed, match=r"no further worker[\s\S]*6 of 8 run[\s\S]*ulimit"):
        engine.open(Place())
    assert engine._workers == []


def test_more_workers_than_cores_are_warned_about():
    with pytest.warns(UserWarning, match="each task takes longer"):
        Processes(workers=10_000).start()


@dataclass(frozen=True)
class Who:
    def __call__(self, context, memory):
        return [np.array([os.getpid(), context], np.int64)]


@dataclass(frozen=True)
class Shut:
    def enter(self):
        raise FileNotFoundError("seen_x.npy")


@dataclass(frozen=True)
class Grow:
    def __call__(self, context, memory):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        return [bytes(1 << 33)]


def said(engine, count):
    return [tuple(np.frombuffer(r.data, np.int64)) for r in engine.map([Who()] * count)]


def test_workers_stay_warm_when_the_context_changes(pool):
    before = {pid for pid, _ in said(pool, 8)}
    pool.open(Place(7))
    after = said(pool, 8)
    pool.open(Place())
    assert {pid for pid, _ in after} <= before | {w.process.pid for w in pool._workers}
    assert {value for _, value in after} == {7}
    assert {value for _, value in said(pool, 8)} == {100}


def test_a_context_that_cannot_be_entered_is_the_reason_of_every_task(pool):
    pool.open(Shut())
    bad = list(pool.map([Add(1), Add(2)]))
    pool.open(Place())
    assert [r.error for r in bad] == ["FileNotFoundError: seen_x.npy"] * 2
    assert numbers(pool, [Add(5)]) == [105]


def test_all_workers_killed_at_once_are_replaced_and_nothing_is_lost(pool):
    for worker in pool._workers:
        os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="a worker was lost"):
        assert numbers(pool, [Add(n) for n in range(12)]) == [100 + n for n in range(12)]


def test_a_task_that_asks_for_too_much_memory_is_a_value_with_a_reason(pool):
    with pytest.warns(UserWarning, match=r"lost \(MemoryError\); its task runs again"):
        bad, good = pool.map([Grow(), Add(2)])
    assert bad.error == "MemoryError, 3 times"
    assert (bad.kind, bad.attempts, bad.lost) == ("machine", 3, "MemoryError")
    assert good.error is None
    assert numbers(pool, [Add(n) for n in range(4)]) == [100, 101, 102, 103]  # no limit stays


def test_refused_memory_for_the_servers_model_says_what_to_do(pool, monkeypatch):
    def refuse(name):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(TaskFailed, match="(?s)no shared memory left.*free memory"):
        pool.share([np.ones(4, np.float32)])


SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
from test_engine import Place, Sleep
from archipelago.engine.processes import Processes
if __name__ == "__main__":
    engine = Processes(workers=2).start()
    engine.open(Place())
    print("ready", *[w.process.pid for w in engine._workers], flush=True)
    list(engine.map([Sleep(60), Sleep(60)]))
"""


UNGUARDED = """
from archipelago.engine.processes import Processes
from archipelago.core.errors import TaskFailed
from test_engine import Add, Place
engine = Processes(workers=2).start()
engine.open(Place())
for _ in range(2):
    try:
        list(engine.map([Add(1)] * 8))
    except TaskFailed as error:
        print(error)
engine.close()
"""


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(UNGUARDED)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("workers end before they are ready") == 2
    assert 'if __name__ == "__main__":' in done.stdout


def test_workers_leave_when_the_coordinator_is_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in child.stdout.readline().split()[1:]]
    assert len(workers) == 2
    child.kill()
    child.wait()
    child.stdout.close()
    ends = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in workers)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps as it likes")
def test_a_worker_keeps_the_memory_that_a_step_frees():
    size = 24 << 20
    engine = Processes(workers=1).start()
    engine.open(Place())
    (result,) = engine.map([Faults(size)])
    engine.close()
    assert int(np.frombuffer(result.data, np.int64)[0]) < size // resource.getpagesize() // 10
