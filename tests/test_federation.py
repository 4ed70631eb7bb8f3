"""Loop two on tiny real data: equivalences, hostile replies, drop-outs, dropping."""

from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerSgd
from archipelago.client.training import Assignment, FedSgd, LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.core.buffers import join
from archipelago.core.errors import IncompatibleParts, UpdateRefused
from archipelago.core.seeds import Seed
from archipelago.core.trial import Proposal
from archipelago.data.partition import Iid
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Wine
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.base import Result
from archipelago.engine.processes import Processes
from archipelago.engine.serial import Serial
from archipelago.estimate.context import EvaluationContext
from archipelago.estimate.race import Race, groups
from archipelago.estimate.rounds import Rounds
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.check import updated
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation, evaluate, step
from archipelago.nn.build import initialise
from archipelago.nn.model import Model
from archipelago.space.graph import Graph, Node
from archipelago.wire.frame import pack

SEED = Seed(7)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return prepare(
        Wine(),
        Iid(clients=6),
        Split(),
        Classification(),
        seed=SEED,
        directory=tmp_path_factory.mktemp("wine"),
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


def network(shards, width=8):
    nodes = (
        Node("hidden", "linear", ("input",), (("features", width),)),
        Node("act", "act", ("hidden",), (("fn", "relu"),)),
        Node("out", "linear", ("act",), (("features", 3),)),
    )
    return Graph(shards.signature.shape, nodes)


def branch(shards, number=0, width=8, **options):
    graph = network(shards, width)
    flat = initialise(graph, SEED.child("w", number))
    given = {"cohort": shards.training, "rounds": 10, **options}
    return Branch(number=number, graph=graph, flat=flat, **given)


def trained(federation, start, rounds):
    branches = (start,)
    for _ in range(rounds):
        branches = step(federation, branches, phase="search").branches
    return branches[0]


def test_fedsgd_is_gradient_descent_on_the_pooled_rows(shards, federation):
    start = branch(shards)
    ours = trained(replace(federation, training=FedSgd(learning_rate=0.1)), start, 3).flat
    model = Model.of_graph(start.graph)
    model.load(start.flat)
    parts = [shards.train(client) for client in shards.training]
    x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    for _ in range(3):
        model.zero_grad()
        shards.signature.task.loss(model(x), y).backward()
        with torch.no_grad():
            model.weights.add_(model.weights_grad, alpha=-0.1)
    assert torch.allclose(ours, model.flat, atol=1e-6)


def test_one_full_batch_epoch_of_fedavg_is_fedsgd(shards, federation):
    start = branch(shards)
    avg = LocalTraining(batch=0, epochs=1, learning_rate=0.1)
    a = trained(replace(federation, training=avg), start, 2).flat
    b = trained(replace(federation, training=FedSgd(learning_rate=0.1)), start, 2).flat
    assert torch.allclose(a, b, atol=1e-6)


def test_no_proximal_term_is_fedavg_to_the_bit_and_a_large_one_holds_back(shards, federation):
    start = branch(shards)
    plain = trained(federation, start, 2).flat
    zero = replace(federation, training=LocalTraining(proximal=0.0))
    held = replace(federation, training=LocalTraining(proximal=10.0))
    assert torch.equal(trained(zero, start, 2).flat, plain)
    assert (trained(held, start, 2).flat - start.flat).norm() < (plain - start.flat).norm()


@dataclass(frozen=True)
class _Quadratic:
    """Mean of (w x - y)^2 / 2: with one row, curvature x^2 and optimum y / x."""

    def loss(self, logits, y):
        return ((logits.reshape(-1) - y) ** 2).mean() / 2


@pytest.mark.parametrize(("mu", "fixed"), [(0.1, 0.51765), (1, 0.61538), (10, 0.75862)])
def test_fedprox_has_the_published_fixed_points(mu, fixed):
    # F1 = w^2 / 2, F2 = 2 (w - 1)^2; each client solves its proximal problem to convergence.
    graph = Graph((1,), (Node("w", "linear", ("input",), (("bias", False), ("features", 1))),))
    one, two = torch.tensor([[1.0]]), torch.tensor([[2.0]])
    rows = [(one, torch.tensor([0.0])), (two, torch.tensor([2.0]))]
    model, w = Model.of_graph(graph), torch.zeros(1)
    local = LocalTraining(learning_rate=0.9 / (4 + mu), batch=0, epochs=50, proximal=mu)
    asked = [Assignment(x=x, y=y, seed=SEED, progress=0, epochs=50) for x, y in rows]
    for _ in range(60):
        ends = []
        for one in asked:
            model.load(w)
            local.fit(model, _Quadratic(), one)
            ends.append(model.flat.detach().clone())
        w = torch.stack(ends).mean(0)
    assert w.item() == pytest.approx(fixed, abs=2e-4)


def test_one_client_is_plain_training(shards, federation):
    start = branch(shards, cohort=(0,))
    ours = trained(federation, start, 1)
    model = Model.of_graph(start.graph)
    model.load(start.flat)
    seed = SEED.child("search", 0, "round", 0, "client", 0)
    x, y = shards.train(0)
    asked = Assignment(x=x, y=y, seed=seed, progress=0, epochs=1)
    federation.training.fit(model, shards.signature.task, asked)
    assert torch.allclose(ours.flat, model.flat, atol=1e-7)


def test_every_byte_is_metered(shards, federation):
    done = step(federation, (branch(shards), branch(shards, 1)), phase="search")
    assert len(done.rows) == 2 * len(shards.training)
    assert all(row.bytes_up > 4 * network(shards).layout.size for row in done.rows)
    assert all(row.bytes_down > 4 * network(shards).layout.size for row in done.rows)
    spent = done.branches[0].spent
    assert spent["examples"] == shards.train_rows.sum()
    assert spent["macs"] == 3 * network(shards).macs * shards.train_rows.sum()


@dataclass(frozen=True)
class Median(WeightedMean):
    """Keeps every update until the round ends."""

    streaming = False

    def fold(self, folding, update):
        folding.updates.append(update.delta)
        folding.count += 1

    def start(self, layout):
        return SimpleNamespace(count=0, updates=[])

    def finish(self, folding):
        return torch.stack(folding.updates).median(0).values


def test_an_average_that_keeps_updates_gets_its_own(shards, federation):
    """Replies of processes lie where later ones arrive, 18 after another in one worker's places."""
    robust = replace(federation, aggregator=Median(), training=LocalTraining(path="flat"))
    pool = Processes(workers=1).start()
    pool.open(WorkerContext(shards=shards, task=shards.signature.task))
    starts = [branch(shards, number) for number in range(3)]
    ours = step(replace(robust, engine=pool), starts, phase="search").branches
    pool.close()
    theirs = step(robust, starts, phase="search").branches
    assert all(torch.equal(a.flat, b.flat) for a, b in zip(ours, theirs, strict=True))


def test_branches_side_by_side_equal_branches_alone(shards, federation):
    pair = (branch(shards), branch(shards, 1, width=4))
    together = step(federation, pair, phase="search").branches
    alone = [step(federation, (one,), phase="search").branches[0] for one in pair]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.flat, b.flat)


def test_a_diverging_candidate_fails_with_its_reason_and_the_others_go_on(shards, federation):
    wild = replace(branch(shards), flat=torch.full_like(branch(shards).flat, 1e30))
    done = step(federation, (wild, branch(shards, 1)), phase="search")
    assert done.branches[0].status == "failed"
    assert "not finite" in done.branches[0].reason
    assert done.branches[1].alive


def test_a_round_without_enough_replies_does_not_count(shards, federation):
    empty = replace(federation, cohort=Cohort(dropout=1.0))
    start = branch(shards)
    done = step(empty, (start,), phase="search")
    assert torch.equal(done.branches[0].flat, start.flat)
    assert [incident.kind for incident in done.incidents] == ["void"]
    assert all(row.note == "dropped out" and row.bytes_up == 0 for row in done.rows)


def test_stragglers_are_dropped_by_fedavg_and_kept_in_part_by_fedprox():
    seed, chosen = Seed(0), tuple(range(10))
    drop = Cohort(stragglers=0.9).fates(chosen, [1e6] * 10, 100, 20, speeds=seed, seed=seed)
    assert sum(fate.epochs == 20 for fate in drop) == 1
    assert sum(fate.epochs == 0 for fate in drop) == 9
    kept = Cohort(stragglers=0.9, late="partial").fates(
        chosen, [1e6] * 10, 100, 20, speeds=seed, seed=seed
    )
    assert sorted(fate.epochs for fate in kept)[-1] == 20
    assert all(1 <= fate.epochs <= 20 for fate in kept)


def test_a_deadline_cuts_slow_clients():
    cohort = Cohort(deadline=1.0, speed=1e6, bandwidth=1e9, late="partial")
    fate = cohort.fates((0,), [0.3e6], 0, 5, speeds=Seed(0), seed=Seed(0))[0]
    assert (fate.epochs, fate.note) == (3, "late, partial")


def test_a_cohort_cannot_need_more_replies_than_it_has_clients():
    with pytest.raises(IncompatibleParts, match="more replies than it has clients"):
        Cohort(clients=3, minimum=4)


ASKED = {"client": 1, "branch": 2, "round": 3}


def reply(array=None, **changed):
    fields = {**ASKED, "examples": 5, "seen": 5, "steps": 1, "metrics": {"loss": 1.0}, **changed}
    values = np.ones(4, np.float32) if array is None else array
    return memoryview(bytearray(join(pack("update", fields, [values]))))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (reply(client=9), "names another client"),
        (reply(round=4), "names another round"),
        (reply(branch=0), "names another branch"),
        (reply(np.ones(5, np.float32)), "does not fit the model"),
        (reply(np.ones(4, np.float64)), "does not fit the model"),
        (reply(np.array([1, np.nan, 1, 1], np.float32)), "not finite"),
        (reply(np.full(4, 1e3, np.float32)), "longer than the bound"),
        (reply(examples=-1), "positive whole number"),
        (reply(examples=True), "positive whole number"),
        (reply(metrics={"loss": "x"}), "not a number"),
        (memoryview(b"\0" * 100), "not an Archipelago frame"),
    ],
)
def test_hostile_updates_are_refused(data, text):
    with pytest.raises(UpdateRefused, match=text):
        updated(data, **ASKED, size=4, norm=100.0)


def test_an_honest_update_passes():
    update, seen = updated(reply(), **ASKED, size=4, norm=100.0)
    assert (update.delta.tolist(), update.examples, seen) == ([1.0] * 4, 5, 5)


class _Hostile:
    """An engine whose first client lies about its round."""

    def __init__(self, inner):
        self.inner, self.share = inner, inner.share

    def map(self, tasks):
        for result in self.inner.map(tasks):
            if result.index == 0:
                yield Result(index=0, data=reply(round=99))
            else:
                yield result


def test_a_bad_reply_is_recorded_and_the_round_goes_on(shards, federation):
    alone = LocalTraining(path="flat")
    hostile = replace(federation, engine=_Hostile(federation.engine), training=alone)
    done = step(hostile, (branch(shards),), phase="search")
    assert done.branches[0].counted == 1
    assert [row.kind for row in done.rows].count("refused") == 1
    assert "another client" in done.incidents[0].text or "another" in done.incidents[0].text


def context(shards, federation):
    return EvaluationContext(
        federation=federation,
        graph=lambda arch: network(shards, int(arch["width"])),
        clients=shards.training,
        scorers=shards.training,
    )


def proposals(*widths):
    return [Proposal(number=n, arch={"width": w}) for n, w in enumerate(widths)]


def test_groups_are_disjoint_and_share_the_rows(shards):
    rows = np.array([5, 50, 10, 40, 20, 30])
    out = groups(range(6), rows, 3, 0, SEED)
    assert sorted(c for group in out for c in group) == list(range(6))
    sums = [rows[list(group)].sum() for group in out]
    assert max(sums) <= 2 * min(sums)
    assert all(len(group) == 1 for group in groups(range(6), rows, 3, 1, SEED))


def test_a_race_drops_half_at_each_checkpoint_and_ends_with_one(shards, federation):
    race, where = Race(candidates=3, first=4, last=4), context(shards, federation)
    steps = list(race.run(race.start(proposals(1, 8, 16), 0, where), where))
    last = steps[-1].generation
    assert [o.status for o in last.outcomes].count("done") == 1
    assert [o.number for o in last.outcomes] == [0, 1, 2]
    trained_by = [{r.client for r in s.rows if r.kind == "fit"} for s in steps]
    assert trained_by[-1] <= trained_by[0]
    checks = [r for s in steps for r in s.rows if r.kind == "evaluate"]
    assert {r.client for r in checks} == set(shards.training)


def test_a_race_of_one_without_drop_is_fedavg_to_the_bit(shards, federation):
    where = context(shards, federation)
    race = Race(candidates=1, first=3, last=3, drop="none")
    plain = Rounds(rounds=3, candidates=1)
    ends = [
        list(plan.run(plan.start(proposals(8), 0, where), where))[-1].generation.branches[0]
        for plan in (race, plain)
    ]
    assert torch.equal(ends[0].flat, ends[1].flat)


def test_a_heat_goes_on_from_any_round_to_the_same_bits(shards, federation):
    race, where = Race(candidates=3, first=4, last=4, drop="fraction"), context(shards, federation)
    steps = list(race.run(race.start(proposals(2, 8, 16), 0, where), where))
    for kept in steps[:-1]:
        generation = Generation.from_json(kept.generation.to_json(), kept.generation.tensors())
        again = list(race.run(generation, where))[-1].generation
        assert again.to_json() == steps[-1].generation.to_json()
        for a, b in zip(again.branches, steps[-1].generation.branches, strict=True):
            assert torch.equal(a.flat, b.flat)


def test_budgets_grow_with_the_generation():
    for growth in ("linear", "geometric"):
        race = Race(first=2, last=8, growth=growth, generations=5)
        budgets = [race.budget(generation) for generation in range(7)]
        assert budgets[0] == 2
        assert budgets[4] == budgets[6] == 8
        assert all(a <= b for a, b in pairwise(budgets))


def test_more_candidates_than_clients_are_refused():
    with pytest.raises(IncompatibleParts, match="more candidates than clients"):
        Race(candidates=7).width(6)


def test_validation_sums_do_not_depend_on_who_is_asked_first(shards, federation):
    start = branch(shards)
    a = evaluate(federation, (start,), shards.training, phase="x").total(0)
    b = evaluate(federation, (start,), shards.training[::-1], phase="x").total(0)
    assert np.array_equal(a, b)


def test_a_server_rate_of_a_half_goes_half_the_way(shards, federation):
    start = branch(shards)
    whole = step(federation, (start,), phase="search").branches[0].flat
    half = replace(federation, server=ServerSgd(learning_rate=0.5))
    there = step(half, (start,), phase="search").branches[0].flat
    assert torch.allclose(there - start.flat, (whole - start.flat) / 2, atol=1e-6)
