"""A million registered clients: who they are, when they are free, and what a round costs."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_federation import SEED, branch, trained
from test_study import _told

from archipelago.client.worker import WorkerContext
from archipelago.config.load import loads, preset
from archipelago.core.errors import ArchipelagoError, ConfigFaults
from archipelago.core.seeds import Seed
from archipelago.data.fleet import Fleet
from archipelago.data.key import TestKey
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Wine
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.federation.cohort import WAIT, Cohort, Fate
from archipelago.federation.rounds import Federation, step
from archipelago.federation.traces import DAY, TRACES, left, trace_of, windows
from archipelago.journal.journal import Journal
from archipelago.study.running.search import resume, search

MILLION = 1_000_000


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return prepare(
        Wine(),
        Fleet(clients=MILLION, homes=5, rows=20, most=500, panel=8),
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
        cohort=Cohort(clients=10),
    )
    engine.close()


def test_sizes_are_heavy_tailed_as_asked(shards):
    sizes = np.asarray(shards.train_rows)
    assert shards.clients == len(sizes) == MILLION
    assert np.median(sizes) == 20
    inside = np.log(sizes[(sizes > 2) & (sizes < 500)])
    assert abs(inside.std() - 1.0) < 0.1
    # The share of the largest hundredth of a log-normal law of sigma 1: Phi(sigma - 2.326) = 9 %.
    top = np.sort(sizes)[-MILLION // 100 :].sum() / sizes.sum()
    assert 0.07 < top < 0.10
    assert sizes.min() >= 1
    assert sizes.max() == 500


def test_a_client_s_rows_are_its_home_s_and_always_the_same(shards):
    client = 123_456
    x, y = shards.train(client)
    assert len(x) == len(y) == shards.train_rows[client]
    again = pickle.loads(pickle.dumps(shards))
    assert len(pickle.dumps(shards)) < 500
    assert torch.equal(again.train(client)[0], x)
    home = shards.home.train(int(shards._members.homes[client]))[0]
    rows = {tuple(row.tolist()) for row in home}
    assert all(tuple(row.tolist()) in rows for row in x)


def test_several_clients_rows_are_each_one_s_own(shards):
    clients = [123_456, 7, 999_999, 7]
    several = shards.several(clients)
    assert several.counts == [shards.train_rows[client] for client in clients]
    which = np.array([2, 0, 1])
    rows = np.array([[[several.counts[place] - 1, 0], [0, 0]] for place in which])
    x, y = several.take(which, rows)
    for place, picked, own_x, own_y in zip(which, rows, x, y, strict=True):
        whole_x, whole_y = shards.train(clients[place])
        assert torch.equal(own_x, whole_x[picked])
        assert torch.equal(own_y, whole_y[picked])


def test_the_panel_validates_and_tests_on_rows_that_nobody_trains_on(shards):
    assert len(shards.scoring) == 8
    assert set(np.flatnonzero(shards.validation_rows)) == set(shards.scoring)
    trained_on = {
        tuple(row.tolist()) for c in shards.home.training for row in shards.home.train(c)[0]
    }
    client = shards.scoring[0]
    opened = shards.sealed.open(TestKey(purpose="a test"))
    assert set(np.flatnonzero(opened.test_rows)) == set(shards.scoring)
    for x, y in (shards.validation(client), pickle.loads(pickle.dumps(opened)).test(client)):
        assert len(x) == len(y) > 0
        assert not any(tuple(row.tolist()) in trained_on for row in x)
    with pytest.raises(ArchipelagoError, match="sealed"):
        shards.sealed.open("please")


def test_four_times_as_many_devices_are_free_at_night():
    ids = np.arange(20_000)
    share = [(left(ids, hour * 3600.0, SEED) > 0).mean() for hour in range(24)]
    assert 3 < max(share) / min(share) < 6
    assert 10 < int(np.argmin(share)) < 21  # by day
    # A window comes back every day, and is a function of the client alone.
    assert np.allclose(left(ids, 5000.0, SEED), left(ids, 5000.0 + 3 * DAY, SEED))
    assert trace_of(77, SEED) == trace_of(ids, SEED)[77]
    assert len(np.unique(trace_of(ids, SEED))) == TRACES == len(windows(SEED))
    assert (trace_of(ids, SEED) != trace_of(ids, Seed(8))).mean() > 0.9


@pytest.mark.parametrize("clients", [range(MILLION), range(40), tuple(range(0, 60_000, 3))])
def test_those_drawn_are_free_different_and_not_busy(clients):
    cohort = Cohort(availability="diurnal")
    busy = frozenset(clients[:20])
    now = 3 * 3600.0
    drawn = cohort.draw(clients, 10, SEED, devices=SEED, now=now, busy=busy)
    assert len(drawn) == len(set(drawn) - busy) == 10
    assert set(drawn) <= set(clients)
    assert (left(np.array(drawn), now, SEED) > 0).all()
    assert drawn == cohort.draw(clients, 10, SEED, devices=SEED, now=now, busy=busy)


def test_where_fewer_are_free_a_round_is_short():
    some = np.arange(64)
    free = some[left(some, 43_200.0, SEED) > 0]
    cohort = Cohort(availability="diurnal")
    assert cohort.select(range(64), SEED, devices=SEED, now=43_200.0) == tuple(free.tolist())


def test_the_first_replies_close_an_over_selected_round():
    cohort = Cohort(clients=10, over=1.3, spread=1.0)
    chosen = cohort.select(range(MILLION), SEED)
    assert len(chosen) == 13
    fates = cohort.fates(chosen, [1e9] * 13, 100, 1, speeds=SEED, seed=SEED)
    plain = replace(cohort, over=1.0).fates(chosen, [1e9] * 13, 100, 1, speeds=SEED, seed=SEED)
    ranked = sorted(f.seconds for f in plain)
    kept = [f.seconds for f in fates if f.epochs]
    assert sorted(kept) == ranked[:10]
    assert cohort.lasts(fates) == ranked[9]
    late = [f for f in fates if not f.epochs]
    assert [(f.seconds, f.note) for f in late] == [(ranked[9], "not needed, reply dropped")] * 3


@pytest.mark.parametrize("over", [1.0, 1.5])
def test_equal_work_has_an_equal_fate_where_nothing_is_drawn(over):
    clients, work = list(range(6)), [3e9, 1e9, 2e9, 1e9, 9e9, 9e9]
    certain = Cohort(over=over, deadline=5.0, late="partial")
    drawn = replace(certain, dropout=1e-12)  # looks at every client, and drops none
    told = [c.fates(clients, work, 10, 3, speeds=SEED, seed=SEED) for c in (certain, drawn)]
    assert told[0] == told[1]
    assert len({fate.epochs for fate in told[0]}) > 2


def test_how_long_a_round_lasts():
    on, off = Fate(epochs=1, seconds=30.0), Fate(epochs=0, seconds=80.0)
    assert Cohort().lasts([on, on]) == 30.0
    assert Cohort().lasts([on, off]) == 80.0  # without a deadline the server waits in vain
    assert Cohort(deadline=60.0).lasts([on, off]) == 60.0
    assert Cohort().lasts([]) == WAIT


def test_a_device_that_leaves_its_charger_does_not_reply():
    client = int(np.flatnonzero((s := left(np.arange(500), 0.0, SEED)) > 0)[0])
    cohort = Cohort(availability="diurnal", speed=1e6)
    [gone] = cohort.fates([client], [1e6 * (s[client] + 1)], 0, 1, speeds=SEED, seed=SEED)
    assert (gone.epochs, gone.note) == (0, "went away, reply dropped")
    assert gone.seconds == pytest.approx(s[client])
    [stays] = cohort.fates([client], [1e6 * (s[client] - 1)], 0, 1, speeds=SEED, seed=SEED)
    assert stays.epochs == 1


def test_a_round_over_a_million_touches_its_cohort_only(shards, federation):
    start = branch(shards, cohort=shards.training)
    done = step(federation, [start], phase="search")
    assert len(done.rows) == 10
    again = replace(federation, cohort=Cohort(clients=10, spread=0.5, over=1.5))
    after = step(again, done.branches, phase="search")
    assert len(after.rows) == 15
    assert after.branches[0].clock > done.branches[0].clock > 0
    # What is committed does not grow with the registered.
    assert after.branches[0].to_json()["cohort"] == MILLION
    back = type(start).from_json(after.branches[0].to_json(), after.branches[0].tensors())
    assert back.cohort == range(MILLION)


def test_training_on_the_fleet_learns(shards, federation):
    start = branch(shards, cohort=shards.training)
    x, y = shards.home.train(0)
    task = shards.signature.task

    def loss(flat):
        from archipelago.nn.model import Model

        model = Model.of_graph(start.graph)
        model.load(flat)
        return task.loss(model(x), y).item()

    assert loss(trained(federation, start, 10).flat) < 0.7 * loss(start.flat)


MINI = [
    "partition.clients=5000",
    "partition.homes=4",
    "partition.panel=6",
    "estimator.rounds=2",
    "estimator.candidates=2",
    "cohort.clients=8",
    "topology.buffer=4",
    "budget.trials=2",
    "final.rounds=4",
    'engine={kind="serial"}',
]


@pytest.fixture(scope="module")
def phones(tmp_path_factory):
    directory = tmp_path_factory.mktemp("phones") / "run"
    search(loads(preset("phones"), MINI), directory).result  # noqa: B018 - asking for it runs it
    return directory


def test_the_preset_of_phones_runs_in_miniature(phones):
    with Journal.open(phones, write=False) as journal:
        assert len(journal.registry) == 5000
        client = next(journal.meter(phase="final", kind="fit")).client
        [known] = journal.registry.get([client])
        assert known.name == f"device-{client:04d}"
        assert 0 <= known.trace < TRACES
        assert any("old" in row.note for row in journal.meter(kind="fit"))
    page = (phones / "report.html").read_text()
    assert "device-" in page


def test_a_stopped_asynchronous_run_goes_on_to_the_same_bits(phones, tmp_path):
    directory = tmp_path / "run"
    study = search(loads(preset("phones"), MINI), directory)
    while True:
        kinds = []
        for event in study.events():
            kinds.append(event.kind)
            if event.kind == "round":
                study.stop()
        if kinds[-1] == "finished":
            break
        study = resume(directory)
    assert _told(directory) == _told(phones)


def test_a_fleet_that_nobody_waits_for_is_the_same_with_workers(phones, tmp_path):
    workers = [*MINI[:-1], 'engine={kind="processes", workers=2}']
    search(loads(preset("phones"), workers), tmp_path / "run").result  # noqa: B018
    assert _told(tmp_path / "run") == _told(phones)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[partition]\nkind = "fleet"\nclients = 1000000',
            "cohort.clients: a round would visit very many clients, got 1000000. Sample some, "
            "e.g. cohort.clients = 100.",
        ),
        (
            '[partition]\nkind = "fleet"\nclients = 1000000\n[cohort]\nclients = 10',
            "estimator.group: the groups would share out very many clients, got 1000000. Give each "
            "candidate a group, e.g. estimator.group = 1000.",
        ),
        (
            '[cohort]\nover = 1.3\n[topology]\nkind = "buffered"',
            "cohort.over: a buffer does not wait for the slow: nothing is gained by asking more "
            "clients, got 1.3. Leave cohort.over out, or use topology.kind = 'synchronous'.",
        ),
        (
            '[cohort]\nminimum = 5\n[topology]\nkind = "buffered"\nbuffer = 4',
            "cohort.minimum: a step cannot need more replies than its buffer holds, got (5, 4). "
            "Lower minimum to 4.",
        ),
        (
            '[partition]\nkind = "fleet"\nclients = 1000\npanel = 2000',
            "partition.panel: the panel is some of the clients, got 2000. Choose from 1 to 1000.",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_way_out(text, fault):
    with pytest.raises(ConfigFaults) as caught:
        loads(text)
    assert caught.value.faults == (fault,)
