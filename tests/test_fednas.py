"""FedNAS: slices, shrinking, the race's options, and what they cost, on small real data."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random as Generator

import numpy as np
import pytest
import torch
from scipy import stats

from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.config.load import loads
from archipelago.core.device import DEVICES, Device, device
from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome, Proposal
from archipelago.data.partition import Dirichlet
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Digits
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.base import one_thread
from archipelago.engine.serial import Serial
from archipelago.estimate.context import EvaluationContext
from archipelago.estimate.margin import behind, drift_of
from archipelago.estimate.race import Race
from archipelago.estimate.rounds import Rounds
from archipelago.federation.branch import Generation
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation, evaluate, message
from archipelago.journal.journal import Journal
from archipelago.nn.inherit import inherited
from archipelago.nn.model import Model
from archipelago.space import slicing
from archipelago.space.graph import Graph, Node
from archipelago.space.image_chain import ImageChain
from archipelago.space.series_chain import SeriesChain
from archipelago.space.sketch import Sketch
from archipelago.space.slicing import Slice, groups, narrow, widths
from archipelago.space.space import Space
from archipelago.space.table_mlp import TableMlp
from archipelago.space.widths import Narrower, Widths
from archipelago.strategy.base import Memory, load, save
from archipelago.strategy.shrinking import ProgressiveShrinking
from archipelago.study.analysing.costs import bills
from archipelago.study.planning.plan import plan
from archipelago.study.running.search import resume, search

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from naive import naive

SEED = Seed(11)


@pytest.fixture(autouse=True, scope="module")
def one_thread_as_engines_do():
    with one_thread():
        yield


CLIENTS, HELD = 20, 4
"""Of digits' clients, the last `HELD` validate and do not train."""


# -- slices ----------------------------------------------------------------------------------------

FAMILIES = [
    (ImageChain(norms=("group", "batch", "none")), (2, 12, 12)),
    (SeriesChain(norms=("group", "batch", "none")), (3, 30)),
    (TableMlp(), (7,)),
]


def one_group(graph: Graph) -> bool:
    """Whether some norm averages over all filters, so that a slice must differ."""
    norms = [node.settings for node in graph.nodes if node.op == "norm"]
    return any(s["style"] == "group" and s["groups"] == 1 for s in norms)


def drawn(graph: Graph, rng: Generator) -> dict[str, int]:
    return {g.name: g.unit * rng.randint(1, g.units) for g in groups(graph)}


@pytest.mark.parametrize(("family", "shape"), FAMILIES, ids=lambda x: type(x).__name__)
def test_a_slice_computes_what_the_large_network_does_with_the_rest_at_zero(family, shape):
    rng, space, exact = Generator(0), family.space(shape, 4), 0
    for turn in range(10):
        graph = family.graph(space.sample(rng), shape, 4)
        large = Model.of_graph(graph, Seed(turn))
        flat = large.flat.detach().numpy() + 0.01
        cut = Slice.largest(graph, flat, drawn(graph, rng))
        small = cut.extract(flat)
        padded, covered = cut.scatter(small)
        assert covered.sum() == len(small) == cut.graph.layout.size
        assert np.array_equal(padded[covered], flat[covered])
        one = Model.of_graph(cut.graph)
        one.load(torch.from_numpy(small))
        large.load(torch.from_numpy(padded))
        x = torch.randn(3, *shape)
        with torch.no_grad():
            gap = (one.eval()(x) - large.eval()(x)).abs().max().item()
        if not one_group(graph):
            exact += 1
            assert gap < 1e-5
    assert exact >= 5


def test_full_coverage_is_no_slicing():
    graph = ImageChain().baseline((1, 8, 8), 10)
    flat = Model.of_graph(graph, SEED).flat.detach().numpy()
    cut = Slice.largest(graph, flat, widths(graph))
    assert cut.graph.key == graph.key
    assert np.array_equal(cut.extract(flat), flat)
    assert cut.scatter(flat)[1].all()


def test_filters_of_a_residual_sum_and_of_a_depthwise_pair_go_together():
    sketch = Sketch((3, 8, 8))
    first = sketch.conv(8, kernel=3)
    sketch.add("act")
    second = sketch.conv(8, kernel=3)
    sketch.join(first)
    depthwise = sketch.conv(8, kernel=3, groups=8)
    sketch.norm("batch")
    sketch.add("flatten")
    sketch.add("linear", features=5)
    graph = sketch.graph()
    (group,) = groups(graph)
    assert group.layers == (first, second, depthwise)
    small = narrow(graph, {group.name: 3})
    assert small.shapes[depthwise] == (3, 8, 8)
    assert dict(small.nodes[4].attrs)["groups"] == 3


def test_the_filters_with_the_largest_norm_stay():
    nodes = (
        Node("a", "linear", ("input",), (("features", 4), ("bias", False))),
        Node("b", "linear", ("a",), (("features", 2), ("bias", False))),
    )
    graph = Graph((2,), nodes)
    flat = np.array([1, 1, 3, 0, 0, 2, 0, 1, *range(8)], np.float32)  # norms 1.4, 3, 2, 1
    cut = Slice.largest(graph, flat, {"a": 2})
    assert dict(cut.kept) == {"a": (1, 2)}
    assert cut.extract(flat).tolist() == [3, 0, 0, 2, 1, 2, 5, 6]


def test_a_layer_that_the_slicer_does_not_know_is_named_with_how_to_teach_it(monkeypatch):
    known = {name: rule for name, rule in slicing.RULES.items() if name != "gru"}
    monkeypatch.setattr(slicing, "RULES", known)
    sketch = Sketch((4, 15))
    sketch.add("gru", hidden=5)
    sketch.add("linear", features=3)
    with pytest.raises(ConfigError, match=r"node 'gru0': .*\n.*'gru'\n.*add a rule for 'gru'"):
        groups(sketch.graph())


def test_widths_that_are_no_whole_units_are_refused():
    sketch = Sketch((1, 8, 8))
    sketch.conv(8, kernel=3)
    sketch.add("norm", groups=4)
    sketch.add("globalpool")
    sketch.add("linear", features=3)
    with pytest.raises(ConfigError, match="multiple of 2"):
        narrow(sketch.graph(), {"conv0": 3})
    with pytest.raises(ConfigError, match="no such group"):
        narrow(sketch.graph(), {"conv1": 3})


def test_a_child_of_another_kind_cannot_inherit():
    a, b = TableMlp().baseline((5,), 2), TableMlp().baseline((6,), 2)
    with pytest.raises(IncompatibleParts, match="narrower form"):
        inherited(a, torch.zeros(a.layout.size), b)


# -- shrinking -------------------------------------------------------------------------------------


def mini() -> Graph:
    sketch = Sketch((1, 8, 8))
    for filters, stride in ((12, 2), (16, 1), (16, 2)):
        sketch.conv(filters, kernel=3, stride=stride)
        sketch.add("act")
    sketch.add("flatten")
    sketch.dense(24)
    sketch.add("linear", features=10)
    return sketch.graph()


NARROWER = Narrower(network=mini())
SLOW = Device(name="slow", macs_per_second=1e6, layer_seconds=1e-4)


def finished(proposals, best=0):
    return [
        Outcome(number=p.number, arch=p.arch, score=0.0, metrics={"loss": float(i != best)})
        for i, p in enumerate(proposals)
    ]


def shrunk(strategy, space, *, through_json=False, n=100):
    """Return every iteration's proposals; the second candidate of each wins."""
    state, seen = Memory(space=space, seed=SEED), []
    while True:
        state, proposals = strategy.ask(state, n)
        if through_json:
            state = load(space, json.loads(json.dumps(save(state))))
        if not proposals:
            return state, seen
        seen.append(proposals)
        state = state.hear(finished(proposals, min(1, len(proposals) - 1)))


@pytest.mark.parametrize("resource", ["macs", "params", "bytes_per_round", "latency_ms"])
def test_every_candidate_is_the_largest_that_meets_its_budget(resource):
    narrower = replace(NARROWER, device=SLOW)
    space = narrower.space()
    strategy = ProgressiveShrinking(resource=resource, step=0.1, until=0.6)
    state, seen = shrunk(strategy, space)
    whole = space.costs(seen[0][0].arch)[resource]
    for turn, proposals in enumerate(seen[1:], 1):
        limit = whole * (1 - 0.1 * turn)
        for proposal in proposals:
            parent = state.asked[proposal.parent].arch
            (name,) = [n for n in parent if parent[n] != proposal.arch[n]]
            assert narrower.costs(proposal.arch)[resource] <= limit * (1 + 1e-9)
            wider = {**proposal.arch, name: proposal.arch[name] + 1}
            assert narrower.costs(wider)[resource] > limit * (1 - 1e-9)
    front = strategy.recorded(state)
    costs = [space.costs(state.asked[number].arch)[resource] for number in front]
    assert len(front) == len(seen)
    assert all(a > b for a, b in pairwise(costs))
    assert costs[-1] <= 0.6 * whole


def test_shrinking_can_be_stopped_and_resumed_anywhere():
    strategy = ProgressiveShrinking(step=0.15, until=0.5)
    there, back = (
        shrunk(strategy, NARROWER.space(), through_json=json)[1] for json in (False, True)
    )
    assert there == back
    assert [p.number for generation in there for p in generation] == list(
        range(sum(map(len, there)))
    )


def test_an_iteration_waits_for_all_its_outcomes_and_survives_failures():
    strategy, space = ProgressiveShrinking(step=0.1, until=0.5), NARROWER.space()
    state, whole = strategy.ask(Memory(space=space, seed=SEED), 9)
    assert strategy.ask(state, 9)[1] == ()
    state, proposals = strategy.ask(state.hear(finished(whole)), 9)
    state = state.hear(finished(proposals)[:-1])
    assert strategy.ask(state, 9)[1] == ()
    failed = replace(finished(proposals)[-1], status="failed", score=float("-inf"))
    state = state.hear([failed])
    assert {p.parent for p in strategy.ask(state, 9)[1]} == {proposals[0].number}
    gone = Memory(space=space, seed=SEED)
    gone, whole = strategy.ask(gone, 1)
    gone = gone.hear([replace(finished(whole)[0], status="failed")])
    assert strategy.ask(gone, 9)[1] == ()


def test_few_askers_see_all_groups_in_turn_and_a_step_too_large_for_one_takes_from_all():
    _, seen = shrunk(ProgressiveShrinking(step=0.05, until=0.5), NARROWER.space(), n=1)
    _, one = shrunk(ProgressiveShrinking(step=0.9, until=0.1), NARROWER.space())
    changed = set()
    for before, after in pairwise(seen):
        changed |= {n for n, v in after[0].arch.items() if before[0].arch[n] != v}
    assert len(changed) > 2
    assert all(one[1][0].arch[n] < v for n, v in one[0][0].arch.items())


def test_what_cannot_be_shrunk_says_why():
    flat = Graph((4,), (Node("out", "linear", ("input",), (("features", 3),)),))
    with pytest.raises(ConfigError, match="nothing to prune"):
        Narrower(network=flat).space()
    narrower = Memory(space=NARROWER.space(), seed=SEED)
    with pytest.raises(ConfigError, match=r"below the smallest(.|\n)*raise until to 0\."):
        ProgressiveShrinking(until=0.001).ask(narrower, 1)
    with pytest.raises(IncompatibleParts, match=r"needs a device(.|\n)*space.device"):
        ProgressiveShrinking(resource="latency_ms").ask(narrower, 1)
    with pytest.raises(ConfigError, match="did you mean 'macs'"):
        ProgressiveShrinking(resource="mac").ask(narrower, 1)
    with pytest.raises(IncompatibleParts, match="space of widths"):
        ProgressiveShrinking().ask(Memory(space=TableMlp().space((4,), 2), seed=SEED), 1)
    with pytest.raises(ConfigError, match="never reach the budget"):
        ProgressiveShrinking(step=0.1, decay=0.5, until=0.5)
    with pytest.raises(ConfigError, match="no such device"):
        Widths(device="fone")
    with pytest.raises(ConfigError, match=r"estimator.inherit(.|\n)*Set inherit = true"):
        loads('[space]\nkind="widths"\n[strategy]\nkind="progressive-shrinking"')


def test_a_device_file_gives_its_own_numbers(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"macs_per_second": 1e6, "layer_seconds": 0.001}')
    assert device(str(path)).latency({"a": (5, 2000), "b": (0, 0)}) == pytest.approx(4.0)
    path.write_text('{"speed": 1}')
    with pytest.raises(ConfigError, match="does not describe a device"):
        device(str(path))


# -- the race --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    shards = prepare(
        Digits(),
        Dirichlet(clients=CLIENTS + HELD, alpha=1.0, least=20),
        Split(),
        Classification(),
        seed=SEED,
        directory=tmp_path_factory.mktemp("digits"),
    ).shards
    engine = Serial().start()
    engine.open(WorkerContext(shards=shards, task=shards.signature.task))
    federation = Federation(
        engine=engine,
        task=shards.signature.task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=SEED,
        training=LocalTraining(learning_rate=0.02, batch=64),
    )
    context = EvaluationContext(
        federation=federation,
        graph=NARROWER.graph,
        clients=tuple(range(CLIENTS)),
        scorers=tuple(range(CLIENTS, CLIENTS + HELD)),
    )
    plan = Rounds(rounds=10, candidates=1)
    well = LocalTraining(learning_rate=0.1, momentum=0.9, batch=16)
    school = replace(context, federation=replace(federation, training=well))
    whole = Proposal(number=0, arch={g.name: g.filters for g in groups(mini())})
    *_, last = plan.run(plan.start([whole], 0, school), school)
    trained = last.generation.branches[0].flat
    yield replace(context, parent=lambda number: (mini(), trained) if number == 0 else None)
    engine.close()


def children(*archs, first=1):
    whole = {g.name: g.filters for g in groups(mini())}
    return [
        Proposal(number=first + n, arch={**whole, **arch}, parent=0) for n, arch in enumerate(archs)
    ]


FOUR = ({"conv0": 8}, {"conv2": 10}, {"conv4": 9}, {"linear7": 12})


def run(race, proposals, context):
    return list(race.run(race.start(proposals, 1, context), context))


def rows_of(steps, kind):
    return [row for step in steps for row in step.rows if row.kind == kind]


def test_one_group_without_drop_is_the_naive_search_to_the_bit(world):
    strategy = ProgressiveShrinking(step=0.2, until=0.6)
    space = NARROWER.space()
    state, whole = strategy.ask(Memory(space=space, seed=SEED), 1)
    state = state.hear(finished(whole))
    kept = {0: world.parent(0)}
    shards = world.federation.engine._context.context.shards
    few = _Some(shards, world.clients)
    for _ in naive(
        shards=few,
        task=world.federation.task,
        training=world.federation.training,
        seed=SEED,
        strategy=strategy,
        state=state,
        narrower=NARROWER,
        kept=kept,
        rounds=2,
        validators=world.scorers,
    ):
        pass
    race = Race(
        candidates=9, groups=1, drop="none", growth="constant", first=2, last=2, checkpoint=2,
        inherit=True,
    )  # fmt: skip
    ours = {0: world.parent(0)}
    index = 0
    while True:
        state, proposals = strategy.ask(state, 9)
        if not proposals:
            break
        context = replace(world, parent=ours.get)
        *_, last = race.run(race.start(proposals, index, context), context)
        ours |= {b.number: (b.graph, b.flat) for b in last.generation.branches}
        state = state.hear(last.generation.outcomes)
        index += 1
    assert index == 2
    assert ours.keys() == kept.keys()
    assert all(torch.equal(ours[number][1], kept[number][1]) for number in kept)


class _Some:
    """Shards of which only some clients train."""

    def __init__(self, shards, training):
        self.training, self.train_rows = training, shards.train_rows
        self.train, self.validation = shards.train, shards.validation


def test_one_candidate_that_inherits_everything_is_fedavg_to_the_bit(world):
    whole = [Proposal(number=1, arch={}, parent=0)]
    race = Race(candidates=1, first=2, last=2, drop="none", inherit=True)
    plan = Rounds(rounds=2, candidates=1, inherit=True)
    a, b = (run(one, whole, world)[-1].generation.branches[0] for one in (race, plan))
    assert torch.equal(a.flat, b.flat)


def test_the_meter_is_the_closed_formula(world):
    race = Race(candidates=4, group=3, first=3, last=3, inherit=True, validators=2, rows=5)
    steps = run(race, children(*FOUR), world)
    generation = steps[-1].generation
    rows = [row for step in steps for row in step.rows]
    alive = [4, 2]  # half goes at each checkpoint; one left has won
    fits = sum(3 * count for count in alive)
    scored = sum(count * len(generation.validators) for count in alive)
    assert len(rows_of(steps, "fit")) == fits
    assert len(rows_of(steps, "evaluate")) == scored
    macs = moved = 0
    reply = {b.number: _sizes(steps, b.number, "bytes_up") for b in generation.branches}
    for branch in generation.branches:
        down = sum(len(memoryview(piece).cast("B")) for piece in message(branch))
        trained = sum(int(world.federation.train_rows[c]) for c in branch.cohort)
        seen = sum(min(5, int(world.federation.validation_rows[c])) for c in generation.validators)
        macs += branch.round * (3 * branch.graph.macs * trained + branch.graph.macs * seen)
        visits = branch.round * (len(branch.cohort) + len(generation.validators))
        moved += visits * down + sum(reply[branch.number])
    assert sum(row.macs for row in rows) == macs
    assert sum(row.bytes_down + row.bytes_up for row in rows) == moved
    for step in steps:
        visited = [row.client for row in step.rows if row.kind == "fit"]
        assert len(set(visited)) == len(visited)
    for number, branch in enumerate(generation.branches):
        assert branch.spent["macs"] == sum(r.macs for r in rows if r.branch == number + 1)


def _sizes(steps, number, column):
    return [getattr(r, column) for step in steps for r in step.rows if r.branch == number]


def test_sabotaged_candidates_go_first_and_the_winner_is_as_good(world):
    good = [{"conv0": 12 - n, "conv2": 16 - n} for n in range(6)]
    bad = [{"conv0": 1}, {"conv2": 1}]
    gaps, first = [], set()
    for seed in range(5):
        context = replace(world, federation=replace(world.federation, seed=Seed(seed)))
        race = Race(
            candidates=8, group=2, first=2, last=2, drop="fraction", fraction=0.25, inherit=True
        )
        steps = run(race, children(*good, *bad), context)
        first |= {b.number for b in steps[0].generation.branches if b.status == "dropped"}
        full = replace(race, groups=1, group=0, drop="none", first=1, last=1)
        everyone = run(full, children(*good, *bad), context)
        whole = everyone[-1].generation
        cost = [sum(row.macs for row in rows_of(one, "fit")) for one in (steps, everyone)]
        assert cost[0] <= cost[1] / 4
        best = min(
            (b for b in steps[-1].generation.branches if b.status == "done"),
            key=lambda b: b.history[-1][1],
        )
        score = {b.number: b.history[-1][2] for b in whole.branches}
        winner = min(whole.branches, key=lambda b: b.history[-1][1]).number
        gaps.append(score[best.number] - score[winner])
    assert first == {7, 8}
    half = stats.t.ppf(0.975, 4) * np.std(gaps, ddof=1) / 5**0.5
    assert np.mean(gaps) + half >= -1e-9


def test_short_scores_on_few_clients_rank_like_long_ones_on_all(world):
    archs = [{"conv2": w} for w in (1, 2, 3, 4, 6, 9)] + [{"conv0": w} for w in (1, 2, 3, 5, 7, 10)]
    short = Race(candidates=12, groups=4, group=5, first=1, last=1, drop="none", inherit=True)
    long = Race(candidates=12, groups=1, first=3, last=3, drop="none", checkpoint=3, inherit=True)
    a, b = (
        [
            branch.history[-1][1]
            for branch in run(race, children(*archs), world)[-1].generation.branches
        ]
        for race in (short, long)
    )
    assert stats.spearmanr(a, b)[0] > 0.6
    # Other groups, about the same ranking.
    other = replace(world, federation=replace(world.federation, seed=Seed(99)))
    c = [x.history[-1][1] for x in run(short, children(*archs), other)[-1].generation.branches]
    assert stats.spearmanr(a, c)[0] > 0.6


CLEAR, CLOSE = [{"conv2": w} for w in (1, 2, 4, 8)], [{"conv2": 9}, {"conv2": 8}, {"conv4": 10}]


@pytest.mark.parametrize("archs", [CLEAR, CLOSE], ids=["clear", "close"])
def test_other_groups_change_the_winner_no_more_often_than_the_standard_error_predicts(
    world, archs
):
    race = Race(candidates=len(archs), group=3, first=1, last=1, drop="none", inherit=True)
    winners, predicted, seen = [], [], set()
    for seed in range(8):
        shuffled = replace(world, federation=replace(world.federation, seed=Seed(seed)))
        last = run(race, children(*archs), shuffled)[-1].generation
        alive = [replace(branch, status="alive") for branch in last.branches]
        seen.add(tuple(branch.cohort for branch in alive))
        vectors = evaluate(world.federation, alive, world.scorers, phase="test").vectors
        best = min(alive, key=lambda b: b.history[-1][1]).number
        winners.append(best)
        # Two races' gaps differ by the root of two standard errors.
        sure = [
            stats.t.sf(behind(vectors[best], vectors[b.number]) / 2**0.5, len(world.scorers) - 1)
            for b in alive
            if b.number != best
        ]
        predicted.append(min(1.0, sum(sure)))
    assert len(seen) == 8
    changes = sum(winner != winners[0] for winner in winners[1:])
    assert changes <= stats.binom.ppf(0.95, 7, np.mean(predicted))
    assert archs is CLOSE or (changes == 0 and np.mean(predicted) < 0.05)


def test_a_margin_is_paired_and_a_drift_widens_it():
    near = {c: np.array([10.0, 10 * (1 + 0.1 * c)]) for c in range(4)}
    far = {
        c: v + np.array([0.0, gap]) for (c, v), gap in zip(near.items(), (1, 3, 2, 2), strict=True)
    }
    # Gaps a row 0.1, 0.3, 0.2, 0.2: mean 0.2, standard error sqrt(0.02 / 3) / 2.
    error = (0.02 / 3) ** 0.5 / 2
    assert behind(near, far) == pytest.approx(0.2 / error)
    assert behind(near, far, 0.1) == pytest.approx(0.2 / (error**2 + 0.01) ** 0.5)
    assert behind(near, {0: far[0]}, 0.1) == 0.0


def test_a_margin_states_its_risk_where_it_has_a_bound():
    margin = Race(drop="margin", drift=0.1, first=4, last=4)
    # Student's tail beyond 2 with 7 degrees of freedom is 0.0428; 3 rivals, 3 droppings.
    assert margin.risk(3, 8) == pytest.approx(9 * stats.t.sf(2, 7))
    assert replace(margin, checkpoint=2).risk(3, 8) == pytest.approx(3 * stats.t.sf(2, 7))
    before = replace(margin, checkpoint=0, inherit=True)
    assert before.risk(3, 8) == pytest.approx(3 * stats.t.sf(2, 7))
    assert before.risk(3, 1) == before.risk(0, 8) == Race(drop="none").risk(3, 8) == 0
    assert replace(margin, z=0.0).risk(3, 8) == 1
    for unbounded in (Race(), replace(margin, drift=0.0), replace(margin, settled=2)):
        assert unbounded.risk(3, 8) is None


def test_the_drift_is_what_points_the_wrong_way():
    right = ([0.1, 0.9], [0.1, 0.2])
    wrong = ([0.5, 0.8, 0.9], [0.3, 0.2, 0.1])  # 0.3, 0.4 and 0.1
    assert drift_of([right]) == 0.0
    assert drift_of([right, wrong]) == pytest.approx((0.26 / 3) ** 0.5)


def test_a_margin_before_training_drops_once_and_trains_the_rest(world):
    race = Race(candidates=4, first=2, last=2, inherit=True, drop="margin", checkpoint=0)
    archs = ({"conv2": 15}, {"conv2": 14}, {"conv2": 1}, {"conv4": 1})
    steps = run(race, children(*archs), world)
    assert [b.status for b in steps[0].generation.branches] == [
        "alive",
        "alive",
        "dropped",
        "dropped",
    ]
    assert not rows_of(steps[:1], "fit")
    assert "round 0: margin" in steps[0].generation.branches[2].reason
    assert [b.round for b in steps[-1].generation.branches] == [2, 2, 0, 0]
    assert len(rows_of(steps, "evaluate")) == (4 + 2) * HELD
    alone = run(race, children({"conv2": 15}), world)
    assert len(rows_of(alone, "evaluate")) == HELD  # nothing to compare before training


OPTIONS = {
    "rotate": {"rotate": True, "drop": "fraction"},
    "waves": {"groups": 2, "drop": "fraction", "checkpoint": 2},
    "sample": {"group": 5, "sample": 2},
    "screen": {"screen": 2},
    "training-free": {"screen": 1},
    "before": {"checkpoint": 0, "drop": "margin", "z": 1.0},
    "drift": {"drop": "margin", "drift": 0.01},
    "trainers": {"scorers": "trainers", "group": 3},
    "speed": {"match": "speed"},
    "settled": {"settled": 2, "drop": "none"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_ends_and_goes_on_from_any_round_to_the_same_bits(world, name):
    race = Race(candidates=4, first=3, last=3, inherit=True, **OPTIONS[name])
    steps = run(race, children(*FOUR), world)
    last = steps[-1].generation
    assert {o.status for o in last.outcomes} <= {"done", "dropped"}
    assert any(o.status == "done" for o in last.outcomes)
    middle = steps[len(steps) // 2 - 1].generation if len(steps) > 1 else None
    if middle is not None:
        generation = Generation.from_json(
            json.loads(json.dumps(middle.to_json())), middle.tensors()
        )
        again = list(race.run(generation, world))[-1].generation
        assert again.to_json() == last.to_json()
        assert all(
            torch.equal(a.flat, b.flat) for a, b in zip(again.branches, last.branches, strict=True)
        )


def test_rotation_is_a_latin_square(world):
    race = Race(candidates=4, first=4, last=4, inherit=True, rotate=True, drop="none")
    steps = run(race, children(*FOUR), world)
    places = [
        {b: {r.client for r in s.rows if r.kind == "fit" and r.branch == b} for b in range(1, 5)}
        for s in steps
    ]
    for branch in range(1, 5):
        assert len({tuple(sorted(place[branch])) for place in places}) == 4
    for place in places:
        assert sum(map(len, place.values())) == CLIENTS


def test_waves_let_more_candidates_than_groups_take_turns(world):
    race = Race(candidates=4, groups=2, first=2, last=2, drop="none", checkpoint=2, inherit=True)
    steps = run(race, children(*FOUR), world)
    assert [sorted({r.branch for r in s.rows if r.kind == "fit"}) for s in steps] == [
        [1, 2], [3, 4], [1, 2], [3, 4],
    ]  # fmt: skip
    assert all(b.round == 2 for b in steps[-1].generation.branches)
    assert race.width(2) == 4
    with pytest.raises(IncompatibleParts, match="groups = 3 to let candidates take turns"):
        Race(candidates=4).width(3)


def test_scoring_without_training_trains_nothing_and_picks_the_best_slice(world):
    race = Race(candidates=4, screen=1, inherit=True)
    (step,) = run(race, children({"conv0": 1}, {"conv2": 14}, {"conv2": 1}, {"conv4": 1}), world)
    assert not rows_of([step], "fit")
    assert [o.status for o in step.generation.outcomes] == ["dropped", "done", "dropped", "dropped"]


def test_trainers_score_without_a_second_download(world):
    common = Race(candidates=4, group=3, first=2, last=2, inherit=True, drop="none")
    theirs = replace(common, scorers="trainers")
    steps = run(theirs, children(*FOUR), world)
    free = [r for r in rows_of(steps, "evaluate") if r.note == "before training"]
    assert len(free) == 4 * 3
    assert all(r.bytes_down == 0 for r in free)
    for branch in steps[-1].generation.branches:
        rows = [r for s in steps for r in s.rows if r.branch == branch.number]
        assert branch.spent["bytes_down"] == sum(r.bytes_down for r in rows)
    for kind in ("fit", "evaluate"):
        asked = {(r.branch, r.client) for r in rows_of(steps, kind)}
        assert len(asked) == 12


def test_a_settled_order_ends_a_race(world):
    archs = ({"conv2": 15}, {"conv2": 4}, {"conv2": 2}, {"conv2": 1})
    race = Race(candidates=4, first=6, last=6, drop="none", settled=2, inherit=True)
    steps = run(race, children(*archs), world)
    assert len(steps) < 6
    assert [o.status for o in steps[-1].generation.outcomes].count("done") == 1


def test_slow_devices_get_small_candidates_and_rounds_get_shorter(world):
    spread = Cohort(spread=1.5, speed=1e6, bandwidth=1e9)
    context = replace(world, federation=replace(world.federation, cohort=spread))
    archs = ({"conv0": 2}, {"conv0": 4}, {"conv0": 8}, {})
    slowest = {}
    for match in ("rows", "speed"):
        race = Race(candidates=4, first=1, last=1, inherit=True, match=match)
        (step,) = run(race, children(*archs), context)
        slowest[match] = sum(
            max(r.virtual_seconds for r in step.rows if r.kind == "fit" and r.branch == b)
            for b in (4,)
        )
    assert slowest["speed"] < slowest["rows"]


def test_a_group_whose_clients_all_drop_out_fails_with_its_reason(world):
    lost = replace(world, federation=replace(world.federation, cohort=Cohort(dropout=1.0)))
    race = Race(candidates=4, first=2, last=2, inherit=True)
    outcomes = run(race, children(*FOUR), lost)[-1].generation.outcomes
    assert {o.status for o in outcomes} == {"failed"}
    assert {o.reason for o in outcomes if o.reason and "replies" in o.reason}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rotate": True, "freed": "join"}, "change groups cannot keep"),
        ({"groups": 2, "match": "speed"}, "change groups cannot keep"),
        ({"scorers": "trainers", "drop": "margin"}, "paired difference"),
        ({"scorers": "trainers", "rotate": True}, "stay with their candidate"),
        ({"screen": 1}, "needs weights to inherit"),
        ({"checkpoint": 0}, "needs weights to inherit"),
        ({"checkpoint": 0, "screen": 2, "inherit": True}, "two rules"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, text):
    with pytest.raises(IncompatibleParts, match=text):
        Race(**options)


# -- a whole study ---------------------------------------------------------------------------------

STUDY = """
name = "shrink"
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 6
[space]
kind = "widths"
[strategy]
kind = "progressive-shrinking"
step = 0.25
until = 0.5
[estimator]
kind = "race"
inherit = true
warm = 2
candidates = 2
first = 1
last = 2
generations = 2
[final]
rounds = 2
every = 2
references = false
[engine]
kind = "serial"
"""


def test_a_front_is_trained_tested_and_exported_and_a_stop_changes_nothing(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert search(loads(STUDY), whole).result.metrics["accuracy"] > 0
    stopped = search(loads(STUDY), parts)
    for event in stopped.events():
        if event.kind == "outcome" and event.data["number"] == 1:
            stopped.stop()
    assert resume(parts).result.metrics["accuracy"] > 0
    front = json.loads((whole / "budgets" / "budgets.json").read_text())
    assert [entry["macs"] for entry in front] == sorted((e["macs"] for e in front), reverse=True)
    assert len(front) == 3
    assert all((whole / entry["file"]).is_file() for entry in front)
    with Journal.open(whole, write=False) as a, Journal.open(parts, write=False) as b:
        assert a.digest() == b.digest()
        (*phases, everything) = bills(a, DEVICES["phone"])
        for name in ("macs", "bytes_up", "bytes_down"):
            rows = sum(getattr(row, name) for row in a.meter())
            assert everything.total(name) == rows == sum(bill.total(name) for bill in phases)
        assert everything.most("macs") >= everything.mean("macs") > 0
        seconds = sum(row.virtual_seconds for row in a.meter())
        assert 0 < everything.parallel_seconds < seconds
        moved = everything.total("bytes_up") + everything.total("bytes_down")
        joules = everything.total("macs") * 4e-10 + moved * 1e-6
        assert everything.total("joules") == pytest.approx(joules)


def test_a_plan_counts_the_warm_rounds_and_the_whole_front(tmp_path, capsys):
    from archipelago.cli.app import app

    done = tmp_path / "run"
    search(loads(STUDY), done).result  # noqa: B018
    with Journal.open(done, write=False) as journal:
        rows = list(journal.meter())
    found = plan(loads(STUDY))
    assert found.generations == 3
    assert found.visits == sum(row.kind == "fit" for row in rows)
    assert found.rounds[0] == 2 + 1 + 1  # the first round of two leaves one, who has won
    cold = plan(loads(STUDY, ["estimator.warm=0"]))
    for told, paid in (
        (found.macs_in_all, sum(row.macs for row in rows)),
        (found.bytes_per_client * 6, sum(row.bytes_up + row.bytes_down for row in rows)),
    ):
        assert told == pytest.approx(paid, rel=0.25)
    assert cold.visits < found.visits
    assert found.risk is None
    file = tmp_path / "run.toml"
    file.write_text(STUDY)
    settings = ("drop=margin", "checkpoint=0", "drift=0.06")
    margin = [part for one in settings for part in ("--set", f"estimator.{one}")]
    app(["plan", str(file), *margin], standalone_mode=False)
    assert "that a generation drops its best candidate" in capsys.readouterr().out


def test_the_cost_of_a_run_is_printed(tmp_path, capsys):
    from archipelago.cli.app import app

    search(loads(STUDY), tmp_path / "run").result  # noqa: B018
    app(["cost", str(tmp_path / "run")], standalone_mode=False)
    text = capsys.readouterr().out
    assert "search" in text
    assert "estimated from the device profile 'phone'" in text
    app(
        ["cost", str(tmp_path / "run"), "--json", "--device", "single-board"], standalone_mode=False
    )
    data = json.loads(capsys.readouterr().out)
    assert data["device"]["name"] == "single-board"
    assert [bill["phase"] for bill in data["bills"]][-1] == "all"


def test_importing_the_strategy_loads_no_torch():
    import subprocess

    code = "import sys, archipelago.strategy.shrinking, archipelago.space.widths; "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_costs_do_not_change_what_a_space_is():
    dims = NARROWER.space().dims
    assert Space(dims) == NARROWER.space()
