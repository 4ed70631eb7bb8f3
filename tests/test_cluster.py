"""The cluster engine on two machines (of one computer): equal to serial, and what it survives."""

import builtins
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_engine import Add, Place, Raise, Sleep, Sum, numbers
from test_study import _told, run_of

from archipelago.client.worker import WorkerContext
from archipelago.core.errors import ConfigError, MissingExtra, TaskFailed
from archipelago.engine.cluster import Cluster
from archipelago.engine.serial import Serial
from archipelago.study.running.search import search


@dataclass(frozen=True)
class Pid:
    """Says in which process it ran, and takes a little while."""

    seconds: float = 0.05

    def __call__(self, context, memory):
        time.sleep(self.seconds)
        return [np.array([os.getpid()], np.int64)]


@dataclass(frozen=True)
class Scarce:
    def __call__(self, context, memory):
        raise MemoryError


@dataclass(frozen=True)
class Broken:
    def enter(self):
        raise ValueError("no such folder")


@pytest.fixture(scope="module")
def machines():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Machines

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the tasks of these tests
        two = Machines()
        two.add_node(num_cpus=2, include_dashboard=False)
        two.leaver = two.add_node(num_cpus=3)
    yield two
    ray.shutdown()
    two.shutdown()


@pytest.fixture(scope="module")
def engine(machines):
    # Three, since two fit on the machine that stays: one at least is lost with the other.
    running = Cluster(address=machines.address, workers=3).start()
    running.open(Place())
    yield running
    running.close()


def test_results_come_in_task_order_and_equal_serial(engine):
    serial = Serial().start()
    serial.open(Place())
    tasks = [Add(n) for n in range(40)]
    assert numbers(engine, tasks) == numbers(serial, tasks)
    good, bad, after = engine.map([Add(1), Raise(), Add(2)])
    assert (good.error, bad.error, after.error) == (None, "ValueError: three is not four", None)


def test_shared_bytes_reach_every_machine(engine):
    data = np.ones(1_000_000, np.float32)
    handle = engine.share([data, b""])
    assert handle.size == data.nbytes
    results = list(engine.map([Sum(handle) for _ in range(9)]))
    assert {result.worker for result in results} == {0, 1, 2}
    assert [np.frombuffer(r.data, np.float64)[0] for r in results] == [1e6] * 9
    handle.release()


def test_stopping_early_leaves_no_task_behind(engine):
    results = engine.map([Add(n) for n in range(30)])
    for _ in results:
        break
    results.close()
    assert numbers(engine, [Add(5)]) == [105]


def test_a_study_gives_the_journal_of_serial(machines, engine, tmp_path):
    address = f'engine={{kind="cluster", address="{machines.address}", workers=2}}'
    search(run_of(), tmp_path / "serial").result  # noqa: B018 - asking for it runs the study
    search(run_of(False, address), tmp_path / "cluster").result  # noqa: B018
    assert _told(tmp_path / "cluster") == _told(tmp_path / "serial")


def test_a_context_that_cannot_be_entered_is_named(engine):
    with pytest.raises(TaskFailed, match=r"(?s)cannot be made ready.*no such folder"):
        engine.open(Broken())
    if not torch.cuda.is_available():
        with pytest.raises(TaskFailed, match=r"(?s)cannot be made ready.*CUDA"):
            engine.open(WorkerContext(shards=None, task=None, device="cuda"))
    engine.open(Place(7))
    assert numbers(engine, [Add(5)]) == [12]
    engine.open(Place())


def test_all_workers_killed_in_a_round_are_replaced(engine):
    pids = {int(np.frombuffer(r.data, np.int64)[0]) for r in engine.map([Pid()] * 6)}
    assert len(pids) == 3
    results = engine.map([Pid()] * 12)
    next(results)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="a worker was lost"):
        rest = list(results)
    assert [r.error for r in rest] == [None] * 11
    assert max(r.attempts for r in rest) == 2
    assert not pids & {int(np.frombuffer(rest[-1].data, np.int64)[0])}


def test_a_task_that_never_ends_is_stopped_by_name_and_the_queued_one_runs(engine):
    usual, engine._options = engine._options, replace(engine._options, deadline=0.5)
    late, *others = engine.map([Sleep(60), Add(1), Add(2), Add(3)])
    engine._options = usual
    assert late.error.startswith("ran past the deadline of 0.5 s and was stopped; raise engine.d")
    assert [r.error for r in others] == [None] * 3
    assert max(r.attempts for r in others) == 1


def test_a_task_without_memory_is_tried_elsewhere_and_then_the_machines_fault(engine):
    with pytest.warns(UserWarning, match=r"lost \(MemoryError\); its task runs again"):
        bad, good = engine.map([Scarce(), Add(1)])
    assert (bad.error, bad.kind, bad.attempts) == ("MemoryError, 3 times", "machine", 3)
    assert (good.error, good.kind) == (None, None)


def test_a_machine_lost_in_a_round_costs_nothing_but_time(machines, engine):
    # Every worker must be at work when the machine goes: all have started, and each task takes
    # longer than its going.
    ends = time.monotonic() + 60
    while len({result.worker for result in engine.map([Pid(0.2)] * 6)}) < 3:
        assert time.monotonic() < ends
    results = engine.map([Add(1), *[Pid(3.0)] * 6])
    next(results)
    machines.remove_node(machines.leaver, allow_graceful=False)
    with pytest.warns(UserWarning, match="a worker was lost"):
        rest = list(results)
    assert [r.error for r in rest] == [None] * 6
    assert numbers(engine, [Add(1), Add(2)]) == [101, 102]


def test_an_address_where_nobody_answers_is_named():
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for nobody in (f"127.0.0.1:{port}", "no.such.host.invalid:6379", "127.0.0.1:99999"):
        with pytest.raises(ConfigError, match=rf"(?s)no cluster to run on.*{nobody}.*ray start"):
            Cluster(address=nobody).start().open(None)


def test_what_cannot_work_is_refused_before_it_starts():
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"(?s)cannot share memory.*host:6379"):
        Cluster(address="ray://head:10001")
    with pytest.raises(TaskFailed, match="not open"):
        next(Cluster().start().map([Add(1)]))


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"(?s)engine 'cluster' needs.*archipelago-nas\[cluster"):
        Cluster().start()
