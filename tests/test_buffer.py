"""FedBuff: the published weights, FedAvg where nothing is stale, and who waits for whom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_federation import SEED, branch

from archipelago.aggregate.mean import WeightedMean
from archipelago.client.training import FedSgd
from archipelago.client.worker import WorkerContext
from archipelago.data.fleet import Fleet
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Wine
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.federation.branch import Branch
from archipelago.federation.buffer import Buffered, Flight, advance
from archipelago.federation.cohort import WAIT, Cohort
from archipelago.federation.rounds import Federation, step
from archipelago.nn.model import Model


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return prepare(
        Wine(),
        Fleet(clients=50, homes=4, rows=12, spread=0.0, panel=4),
        Split(),
        Classification(),
        seed=SEED,
        directory=tmp_path_factory.mktemp("fleet"),
    ).shards


@pytest.fixture
def federation(shards):
    engine = Serial().start()
    engine.open(WorkerContext(shards=shards, task=shards.signature.task))
    yield Federation(
        engine=engine,
        task=shards.signature.task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=SEED,
    )
    engine.close()


def steps(federation, start, count):
    """Yield the branch and the rows of each round."""
    for _ in range(count):
        done = step(federation, [start], phase="search")
        [start] = done.branches
        yield start, done.rows


def test_the_published_weights():
    scale = Buffered().scale
    assert [round(scale(s), 4) for s in range(5)] == [1.0, 0.7071, 0.5774, 0.5, 0.4472]
    assert Buffered(exponent=0.0).scale(9) == 1.0


@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_a_buffer_as_large_as_the_cohort_is_fedavg_to_the_bit(shards, federation, weighting):
    plain = replace(
        federation, cohort=Cohort(clients=4), aggregator=WeightedMean(weighting=weighting)
    )
    buffered = replace(plain, topology=Buffered(buffer=4))
    start = branch(shards, cohort=shards.training)
    for (a, ours), (b, theirs) in zip(
        steps(buffered, start, 5), steps(plain, start, 5), strict=True
    ):
        assert torch.equal(a.flat, b.flat)
        assert a.clock == pytest.approx(b.clock)
        still = [replace(row, seconds=0.0) for row in ours]
        assert still == [replace(row, seconds=0.0) for row in theirs]


def test_a_stale_change_is_scaled_and_was_made_on_its_own_model(shards, federation):
    # FedSGD's change is -rate * gradient: the step can be done by hand.
    one = replace(
        federation,
        cohort=Cohort(clients=6, spread=1.5, speed=1e6),
        topology=Buffered(buffer=2),
        training=FedSgd(learning_rate=0.1),
        aggregator=WeightedMean(weighting="equal"),
    )
    start = branch(shards, cohort=shards.training)
    flats, stalest = [start.flat], 0
    for index, (after, rows) in enumerate(steps(one, start, 8)):
        changes = []
        for row in rows:
            if row.kind == "fit":
                stale = index - row.round
                assert row.note == ("", "1 step old", f"{stale} steps old")[min(stale, 2)]
                stalest = max(stalest, stale)
                change = gradient(shards, start.graph, flats[row.round], row.client)
                changes.append(-0.1 * change / (1 + stale) ** 0.5)
        assert len(changes) == 2
        assert torch.allclose(after.flat, flats[-1] + sum(changes) / 2, atol=1e-6)
        flats.append(after.flat)
    assert stalest >= 2


def gradient(shards, graph, flat, client):
    model = Model.of_graph(graph)
    model.load(flat)
    x, y = shards.train(client)
    shards.signature.task.loss(model(x), y).backward()
    return model.grad.clone()


def test_a_slow_client_holds_up_rounds_but_not_a_buffer(shards, federation):
    rows = np.full(6, 12)
    rows[0] *= 100
    slow = replace(federation, train_rows=rows, cohort=Cohort(speed=1e4))
    start = branch(shards, cohort=tuple(range(6)))
    # Its visit: 1,200 rows, three passes of the network's arithmetic, and the way there and back.
    [(once, _)] = steps(slow, start, 1)
    visit = 3 * start.graph.macs * 1200 / 1e4
    assert visit < once.clock < 1.1 * visit
    *_, (waited, _) = steps(slow, start, 5)
    assert waited.clock == pytest.approx(5 * once.clock)
    quick = replace(slow, topology=Buffered(buffer=5))
    *_, (after, _) = steps(quick, start, 5)
    assert after.clock < 0.1 * once.clock
    assert after.counted == 5
    assert {flight.client for flight in after.flights} >= {0}


def test_replies_that_are_too_old_are_refused(shards, federation):
    given = replace(
        federation,
        cohort=Cohort(clients=8, spread=2.0, speed=1e5),
        topology=Buffered(buffer=2, oldest=1),
    )
    start = branch(shards, cohort=shards.training)
    rows = [row for _, rows in steps(given, start, 12) for row in rows]
    old = [row for row in rows if row.note.endswith("steps old, reply dropped")]
    assert old
    assert all(row.kind == "refused" and int(row.note.split()[0]) > 1 for row in old)
    assert all(row.bytes_down > 0 for row in old)


def test_what_is_under_way_is_committed_and_goes_on_to_the_same_bits(shards, federation):
    given = replace(federation, cohort=Cohort(clients=8, spread=1.0), topology=Buffered(buffer=3))
    start = branch(shards, cohort=shards.training, rounds=6)
    whole = [(after.flat, rows) for after, rows in steps(given, start, 6)]
    for index in range(6):
        [(start, rows)] = steps(given, start, 1)
        assert torch.equal(start.flat, whole[index][0])
        assert [r.client for r in rows] == [r.client for r in whole[index][1]]
        assert set(start.older) <= {flight.version for flight in start.flights}
        start = Branch.from_json(start.to_json(), start.tensors())
    # The plan has ended: whoever was under way did so in vain, and it is on the bill.
    assert start.flights == ()
    assert [r.note for r in rows].count("under way at the end") == 7
    assert sum(len(rows) for _, rows in whole) == 6 * 3 + 7


def flight(due, order, client, version, epochs=1):
    return Flight(due=due, order=order, client=client, version=version, epochs=epochs, seconds=due)


def schedule(durations, version=0, lost=()):
    """Return a `begin` that starts clients 0, 1, 2, ... unless busy, and what it was asked."""
    asked = []

    def begin(count, now, busy, order):
        asked.append((count, now, sorted(busy)))
        free = [c for c in range(len(durations)) if c not in busy][:count]
        return [
            flight(now + durations[c], order + i, c, version, int(c not in lost))
            for i, c in enumerate(free)
        ]

    return begin, asked


def test_the_event_queue_by_hand():
    # 0 takes 1 s, 1 takes 3 s, 2 takes 1 s; two at a time, a step every two replies.
    begin, asked = schedule([1.0, 3.0, 1.0, 5.0])
    first = advance((), 0.0, buffer=2, concurrency=2, begin=begin)
    assert asked == [(2, 0.0, []), (1, 1.0, [0, 1])]
    assert [(f.client, f.due) for f in first.ended] == [(0, 1.0), (2, 2.0)]
    assert [(f.client, f.due) for f in first.flights] == [(1, 3.0)]
    assert first.now == 2.0
    # Client 1 is still at its first model when the second step is due; 0 is free again, and ties
    # with it: those that began first count first, and nobody begins in between.
    begin, asked = schedule([1.0, 3.0, 1.0, 5.0], version=1)
    second = advance(first.flights, first.now, buffer=2, concurrency=2, begin=begin)
    assert asked == [(1, 2.0, [1])]
    assert [(f.client, f.version) for f in second.ended] == [(1, 0), (0, 1)]
    assert (second.flights, second.now) == ((), 3.0)


def test_lost_replies_free_their_place_and_do_not_count():
    begin, asked = schedule([1.0, 2.0, 3.0, 4.0, 5.0], lost={0, 2})
    then = advance((), 0.0, buffer=2, concurrency=2, begin=begin)
    assert [(f.client, f.epochs) for f in then.ended] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert asked[1] == (1, 1.0, [0, 1])


def test_where_nobody_is_free_time_passes_and_where_nobody_ever_replies_it_ends():
    hours = iter([[], [], [flight(2 * WAIT + 5.0, 0, 7, 0)]])
    then = advance((), 0.0, buffer=1, concurrency=1, begin=lambda *_: next(hours))
    assert (then.now, then.ended[0].client) == (2 * WAIT + 5.0, 7)
    never = advance((), 0.0, buffer=1, concurrency=3, begin=lambda *_: [])
    assert never.ended == ()
    assert never.now > 86_400
