"""Clients trained side by side: the same rounds, the same meter, one client's fault its own."""

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from archipelago.aggregate.mean import Folding, WeightedMean
from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.core.buffers import join
from archipelago.core.errors import TaskFailed, UpdateRefused
from archipelago.core.seeds import Seed
from archipelago.core.update import Update
from archipelago.data.augment import Augment
from archipelago.data.preprocess import SCALING
from archipelago.data.shards import Shards, Signature
from archipelago.data.tasks import Classification
from archipelago.engine.processes import Processes
from archipelago.engine.serial import Serial
from archipelago.federation.branch import Branch
from archipelago.federation.check import summed
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation, step
from archipelago.nn.build import initialise
from archipelago.space.graph import Graph, Node
from archipelago.wire.frame import pack

CLIENTS = 40
SEED = Seed(5)
TASK = Classification(classes=("a", "b", "c"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 30, CLIENTS)
    owner = np.repeat(np.arange(CLIENTS), counts)
    x = rng.standard_normal((len(owner), 4)).astype(np.float32)
    rows = [np.flatnonzero(owner == client) for client in range(CLIENTS)]
    y = rng.integers(0, 3, len(owner))

    def written(directory, values):
        return Shards.write(
            directory,
            signature=Signature(modality="table", shape=(4,), task=TASK),
            names=[str(client) for client in range(CLIENTS)],
            held_out=(),
            x=values,
            y=y,
            spans=[(own[1:], own[:1], own[:0]) for own in rows],
            affine=([1.0] * 4, [0.0] * 4),
        )

    home = written(tmp_path_factory.mktemp("blocks") / "shards", x)
    written(home.directory / "shifted", x + 1)
    return home


@pytest.mark.parametrize("shape", [(3, 2, 2), (3,)])
def test_several_clients_rows_are_each_one_s_own(tmp_path, shape):
    rng = np.random.default_rng(1)
    owner = np.arange(40) % 3
    stored = Shards.write(  # as images are: integers, and what turns each channel into inputs
        tmp_path / "shards",
        signature=Signature(modality="image", shape=shape, task=TASK),
        names=["a", "b", "c"],
        held_out=(),
        x=rng.integers(0, 255, (40, *shape), dtype=np.uint8),
        y=rng.integers(0, 3, 40),
        spans=[
            (np.flatnonzero(owner == k)[2:], np.flatnonzero(owner == k)[:2], []) for k in range(3)
        ],
        affine=([0.1, 0.2, 0.5], [-1.0, 0.0, 2.0]),
    )
    clients = [2, 0]
    several = stored.several(clients)
    assert several.counts == [len(stored.train(client)[1]) for client in clients]
    assert several.size == stored.train(0)[0][:1].nbytes
    rows = np.array([[[0, 5], [9, 9]], [[3, 1], [10, 0]]])
    for which in ([0, 1], [1, 0], [1]):
        wanted = rows[: len(which)]
        x, y = several.take(np.array(which), wanted)
        assert x.shape == (len(which), 2, 2, *shape)
        for place, picked, own_x, own_y in zip(which, wanted, x, y, strict=True):
            whole_x, whole_y = stored.train(clients[place])
            assert torch.equal(own_x, whole_x[picked])
            assert torch.equal(own_y, whole_y[picked])


@dataclass(frozen=True)
class Torn:
    """One client's rows cannot be read."""

    shards: Shards
    client: int

    def train(self, client):
        if client == self.client:
            raise OSError("the disk gave up")
        return self.shards.train(client)


@dataclass(frozen=True)
class Shifted:
    """Everybody's rows are moved; what is not said here is as it was."""

    shards: Shards

    def __getattr__(self, name):
        return getattr(self.shards, name)

    def train(self, client):
        x, y = self.shards.train(client)
        return x + 1, y


class Nearer(Shards):
    def train(self, client):
        x, y = super().train(client)
        return x + 1, y


@dataclass(frozen=True)
class Empty:
    """Some clients have no rows."""

    shards: Shards
    clients: tuple[int, ...]

    def train(self, client):
        x, y = self.shards.train(client)
        return (x[:0], y[:0]) if client in self.clients else (x, y)


def federation(shards, engine, place=None, **options):
    engine.open(WorkerContext(shards=place or shards, task=TASK))
    return Federation(
        engine=engine,
        task=TASK,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=SEED,
        **options,
    )


def start(width=8):
    nodes = (
        Node("hidden", "linear", ("input",), (("features", width),)),
        Node("act", "act", ("hidden",), (("fn", "relu"),)),
        Node("out", "linear", ("act",), (("features", 3),)),
    )
    graph = Graph((4,), nodes)
    return Branch(
        number=0, graph=graph, flat=initialise(graph, SEED), cohort=tuple(range(CLIENTS)), rounds=4
    )


def rounds(shards, engine, count=2, place=None, settings=None, **options):
    given = federation(shards, engine, place, **options)
    branches, rows, incidents, paths = (replace(start(), settings=settings or {}),), [], [], {}
    for _ in range(count):
        done = step(given, branches, phase="search")
        branches, paths = done.branches, {**paths, **done.kernels}
        rows += [replace(row, seconds=0.0) for row in done.rows]
        incidents += done.incidents
    engine.close()
    return branches[0], rows, incidents, paths


@pytest.mark.parametrize(("wanted", "name"), [("auto", "dense"), ("stacked", "stacked")])
def test_blocks_equal_one_client_at_a_time(shards, wanted, name):
    uneven = Cohort(dropout=0.1, stragglers=0.3, late="partial")
    fast, seen, _, paths = rounds(
        shards, Serial().start(), training=LocalTraining(batch=5, epochs=3, path=wanted),
        cohort=uneven,
    )  # fmt: skip
    slow, plain, _, _ = rounds(
        shards, Serial().start(), training=LocalTraining(batch=5, epochs=3, path="flat"),
        cohort=uneven,
    )  # fmt: skip
    assert paths[0].name == name
    assert (fast.flat - slow.flat).abs().max() < 1e-5
    by = {(row.round, row.client): row for row in plain}
    assert len(seen) == len(plain) == 2 * CLIENTS
    for row in seen:
        same = replace(by[row.round, row.client], bytes_up=row.bytes_up)
        assert row == same
        # The loss is a number in the frame's header: its digits may differ by a few bytes.
        assert abs(row.bytes_up - by[row.round, row.client].bytes_up) <= 64


@pytest.mark.parametrize(
    "what",
    [
        {"place": Shifted},
        {"place": lambda shards: Nearer(shards.directory)},
        {"settings": {SCALING: "shifted"}},
        {"augment": Augment(jitter=0.5)},
    ],
    ids=["delegated", "derived", "view", "augmented"],
)
def test_a_block_learns_from_the_rows_that_each_client_would(shards, what):
    what = {**what, "place": what["place"](shards)} if "place" in what else what
    as_they_are, fast, slow = (
        rounds(shards, Serial().start(), training=LocalTraining(path=path), **more)[0].flat
        for path, more in (("auto", {}), ("auto", what), ("flat", what))
    )
    assert (fast - slow).abs().max() < 1e-5
    assert (fast - as_they_are).abs().max() > 1e-3


@pytest.mark.parametrize("path", ["auto", "stacked"])
def test_every_number_of_workers_gives_the_bits_of_serial(shards, path):
    training = LocalTraining(path=path)
    expected, rows, _, _ = rounds(shards, Serial().start(), training=training)
    cores = len(os.sched_getaffinity(0))
    for workers in (1, 2, 5):
        with pytest.warns(UserWarning, match="share") if workers > cores else nullcontext():
            engine = Processes(workers=workers).start()
        branch, seen, _, _ = rounds(shards, engine, training=training)
        assert torch.equal(branch.flat, expected.flat)
        assert seen == rows


def test_one_clients_fault_is_not_its_neighbours(shards):
    whole, _, _, _ = rounds(shards, Serial().start(), count=1)
    torn, rows, incidents, _ = rounds(
        shards, Serial().start(), count=1, place=Torn(shards, client=7)
    )
    assert [(i.kind, i.client) for i in incidents] == [("refused", 7)]
    assert "OSError: the disk gave up" in incidents[0].text
    assert [row.client for row in rows if row.kind == "refused"] == [7]
    assert torn.counted == 1
    assert not torch.equal(torn.flat, whole.flat)


@dataclass(frozen=True)
class Vast:
    """One client's rows are not numbers: neither is what it learns."""

    shards: Shards
    client: int

    def train(self, client):
        x, y = self.shards.train(client)
        return (x * np.inf if client == self.client else x), y


def test_a_client_without_rows_is_refused_alone(shards):
    place = Empty(shards, (1, 7))
    branch, rows, found, _ = rounds(shards, Serial().start(), count=1, place=place)
    assert {(i.kind, i.client) for i in found} == {("refused", 1), ("refused", 7)}
    assert sorted(row.client for row in rows if row.kind == "fit") == [
        client for client in range(CLIENTS) if client not in place.clients
    ]
    assert branch.counted == 1


def test_where_nobody_can_read_rows_no_candidate_is_at_fault(shards, tmp_path):
    gone = Shards(tmp_path / "gone")
    with pytest.raises(TaskFailed, match=r"nobody's rows can be read[\s\S]*gone"):
        rounds(shards, Serial().start(), count=1, place=gone)


def test_a_client_that_diverges_is_found_in_its_block(shards):
    torn, _, _, _ = rounds(shards, Serial().start(), count=1, place=Torn(shards, client=7))
    vast, refused, found, _ = rounds(
        shards, Serial().start(), count=1, place=Vast(shards, client=7)
    )
    assert [(i.kind, i.client) for i in found] == [("refused", 7)]
    assert "not finite" in found[0].text
    assert [row.client for row in refused if row.kind == "refused"] == [7]
    assert torn.counted == vast.counted == 1
    assert (torn.flat - vast.flat).abs().max() < 1e-6  # the others count as they did without it


@dataclass(frozen=True, slots=True, kw_only=True)
class Onlooker(WeightedMean):
    """An average that wants to see each update."""

    seen: list[int]

    def fold(self, folding, update):
        self.seen.append(update.client)
        WeightedMean.fold(self, folding, update)


def test_an_average_of_another_kind_sees_every_update(shards):
    mean, rows, _, _ = rounds(shards, Serial().start())
    onlooker = Onlooker(seen=[])
    branch, seen, _, _ = rounds(shards, Serial().start(), aggregator=onlooker)
    assert sorted(onlooker.seen) == sorted([*range(CLIENTS)] * 2)
    assert (branch.flat - mean.flat).abs().max() < 1e-6
    assert seen == rows  # a client whose update is summed is billed for all of it


def test_a_bound_holds_for_every_update_of_a_block(shards):
    _, rows, incidents, _ = rounds(shards, Serial().start(), count=1, norm=1e-9)
    assert {row.kind for row in rows} == {"refused"}
    assert {i.text for i in incidents if "longer than the bound" in i.text}


@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_a_sum_of_a_block_is_the_sum_of_its_updates(weighting):
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(7, 1000, generator=generator)
    mean, examples = WeightedMean(weighting=weighting), range(3, 10)
    one = Folding(torch.zeros(1000))
    for delta, rows in zip(deltas, examples, strict=True):
        mean.fold(one, Update(client=0, delta=delta, examples=rows))
    two = Folding(torch.zeros(1000))
    mean.join(two, mean.gather(deltas[:4], examples[:4]))
    mean.join(two, mean.gather(deltas[4:], examples[4:]))
    assert (one.weight, one.count) == (two.weight, two.count)
    assert (mean.finish(one) - mean.finish(two)).abs().max() < 1e-6


def test_what_no_client_changes_stays_as_it_was(shards):
    before = start().flat
    tiny = LocalTraining(learning_rate=1e-12)  # lost in the last bit of every weight but zeros
    after, _, _, _ = rounds(shards, Serial().start(), count=3, training=tiny)
    there = before != 0
    assert torch.equal(after.flat[there], before[there])


COLUMNS = {"client": [3, 4], "examples": [5, 5], "seen": [5, 5]}
SUM = {"branch": 0, "round": 1, **COLUMNS, "loss": [0.5, 0.25], "bytes": [128, 128]}
TWO = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("fields", "array", "reason"),
    [
        (SUM, np.array([0, np.nan], np.float32), "not finite"),
        (SUM, np.zeros(3, np.float32), "does not fit"),
        ({**SUM, "round": 0}, TWO, "another round"),
        ({**SUM, "client": [4, 3]}, TWO, "other clients"),
        ({**SUM, "client": 3}, TWO, "other clients"),
        ({**SUM, "seen": [5]}, TWO, "seen"),
        ({**SUM, "seen": [1, -1]}, TWO, "seen"),
        ({**SUM, "examples": [5, True]}, TWO, "examples"),
        ({**SUM, "bytes": 256}, TWO, "bytes"),
        ({**SUM, "loss": [0.5, "low"]}, TWO, "loss"),
    ],
)
def test_a_sum_that_was_not_asked_for_is_refused(fields, array, reason):
    data = memoryview(join(pack("sum", fields, [array])))
    with pytest.raises(UpdateRefused, match=reason):
        summed(data, clients=(3, 4), branch=0, round=1, size=2)


def test_the_clock_says_where_a_round_went(shards):
    engine = Serial().start()
    given = federation(shards, engine)
    step(given, (start(),), phase="search")
    told = given.clock.profile()
    engine.close()
    assert {"frame", "select", "wait", "check", "combine"} <= set(told["coordinator"])
    assert 0 < told["workers"]["0"]["train"] <= told["whole"]
    assert sum(told["coordinator"].values()) <= told["whole"]
