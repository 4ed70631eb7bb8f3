"""SCAFFOLD, FedNova and personal models: golden values, what they reduce to, what never travels."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from archipelago.aggregate.fednova import FedNova
from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerAdam
from archipelago.client.agreement import plain
from archipelago.client.ditto import Ditto
from archipelago.client.fedper import FedPer
from archipelago.client.pfedme import PFedMe
from archipelago.client.scaffold import Scaffold
from archipelago.client.training import LocalTraining, effort, tuned
from archipelago.client.worker import WorkerContext
from archipelago.config.load import loads
from archipelago.core.errors import ConfigFaults, IncompatibleParts, UpdateRefused
from archipelago.core.seeds import Seed
from archipelago.core.tree import Layout, Leaf
from archipelago.core.update import Update
from archipelago.data.partition import Classes, Iid
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Digits, Wine
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.deploy.session import Session
from archipelago.engine.processes import Processes
from archipelago.engine.serial import Serial
from archipelago.federation.branch import Branch
from archipelago.federation.check import parted
from archipelago.federation.cohort import Cohort
from archipelago.federation.rounds import Federation, evaluate, message, step
from archipelago.journal.journal import Journal
from archipelago.nn.build import initialise
from archipelago.space.graph import Graph, Node
from archipelago.study.analysing.gather import gather
from archipelago.study.running.search import resume, search
from archipelago.wire.frame import unpack

SEED = Seed(7)
LINE = Graph((1,), (Node("w", "linear", ("input",), (("bias", False), ("features", 1))),))


@dataclass(frozen=True)
class Squares:
    """Mean of (w x - y)^2 / 2: one row has curvature x^2 and optimum y / x."""

    length: int = 2

    def loss(self, logits, y):
        return ((logits.reshape(-1) - y) ** 2).mean() / 2

    def statistics(self, logits, y):
        return np.array([len(y), self.loss(logits, y).item()])


@dataclass(frozen=True)
class Wells:
    """Clients whose loss is curvature / 2 (w - optimum)^2, by `copies` equal rows."""

    curvatures: tuple[float, ...]
    optima: tuple[float, ...]
    copies: tuple[int, ...]

    def train(self, client):
        x = torch.full((self.copies[client], 1), self.curvatures[client] ** 0.5)
        return x, x.reshape(-1) * self.optima[client]

    validation = train


def wells(training, *, curvatures=(1.0, 4.0), optima=(0.0, 1.0), copies=(1, 1), **parts):
    engine = Serial().start()
    engine.open(WorkerContext(shards=Wells(curvatures, optima, copies), task=Squares()))
    rows = np.array(copies)
    return Federation(
        engine=engine,
        task=Squares(),
        train_rows=rows,
        validation_rows=rows,
        seed=SEED,
        training=training,
        **{"aggregator": WeightedMean(weighting="equal"), **parts},
    )


def settled(federation, rounds, start=0.0, clients=2):
    branches = (
        Branch(
            number=0,
            graph=LINE,
            flat=torch.tensor([start]),
            cohort=tuple(range(clients)),
            rounds=max(rounds, 1),
        ),
    )
    for _ in range(rounds):
        branches = step(federation, branches, phase="x").branches
    return branches[0]


def fixed(federation, *, personal=False):
    """Return where rounds lead, exactly: a round on squares is an affine map.

    With `personal`, where the clients' own models go while the shared one stays there.
    """
    zero, one = (settled(federation, 1, start).flat.item() for start in (0.0, 1.0))
    shared = zero / (1 - (one - zero))
    if not personal:
        return shared
    branch = Branch(number=0, graph=LINE, flat=torch.tensor([shared]), cohort=(0, 1), rounds=1)
    ends = []
    for start in (0.0, 1.0):
        begun = replace(branch, kept={client: torch.tensor([start]) for client in (0, 1)})
        kept = step(federation, (begun,), phase="x").branches[0].kept
        ends.append([kept[client].item() for client in (0, 1)])
    return shared, [a / (1 - (b - a)) for a, b in zip(*ends, strict=True)]


TEN = LocalTraining(learning_rate=0.05, batch=0, epochs=10)


def test_scaffold_reaches_the_optimum_where_fedavg_stops_short():
    assert fixed(wells(TEN)) == pytest.approx(0.68988, abs=1e-5)
    branch = settled(wells(Scaffold(local=TEN)), 60)
    assert branch.flat.item() == pytest.approx(0.8, abs=1e-5)
    # At the optimum each control variate is that client's gradient, and they cancel.
    assert [branch.kept[c].item() for c in (0, 1)] == pytest.approx([0.8, -0.8], abs=1e-4)


def test_scaffold_weighs_control_variates_as_the_aggregator_weighs_updates():
    # Three rows of curvature 1 around 0, one of curvature 4 around 1: the pooled optimum is 4 / 7.
    by_rows = wells(Scaffold(local=TEN), copies=(3, 1), aggregator=WeightedMean())
    assert settled(by_rows, 60).flat.item() == pytest.approx(4 / 7, abs=1e-4)


def test_the_server_holds_the_mean_of_the_control_variates_after_every_round():
    federation = wells(
        Scaffold(local=TEN),
        curvatures=(1.0, 4.0, 2.0),
        optima=(0.0, 1.0, -1.0),
        copies=(1, 1, 1),
        cohort=Cohort(clients=2),
    )
    branch = settled(federation, 0, clients=3)
    for _ in range(6):
        branch = step(federation, (branch,), phase="x").branches[0]
        total = sum(branch.kept.values())
        assert torch.allclose(branch.extras["control"], total, atol=1e-6)
    assert set(branch.kept) == {0, 1, 2}


@pytest.mark.parametrize(
    ("steps", "options", "norm"),
    [
        (7, {}, 7),
        (1, {"momentum": 0.9}, 1),
        (2, {"momentum": 0.9}, 2.9),
        (5, {"momentum": 0.9}, 13.1441),
        (10, {"momentum": 0.9}, 41.38106),
        (5, {"pull": 0.01}, 4.900995),
        (10, {"pull": 0.01}, 9.561792),
    ],
)
def test_the_effort_of_local_steps_has_the_published_values(steps, options, norm):
    assert effort(steps, **options) == pytest.approx(norm, abs=1e-5)


def test_the_effort_is_the_way_that_unit_gradients_really_carry_a_client():
    @dataclass(frozen=True)
    class Slope:
        def loss(self, logits, y):
            return -(logits.reshape(-1)).mean()

    local = LocalTraining(learning_rate=0.1, momentum=0.9, proximal=0.3, batch=1, epochs=1)
    federation = wells(local, copies=(6, 6), curvatures=(1.0, 1.0))
    federation.engine.open(
        WorkerContext(shards=Wells((1.0, 1.0), (0.0, 0.0), (6, 6)), task=Slope())
    )
    way = settled(federation, 1).flat.item() / 0.1
    assert way == pytest.approx(effort(6, momentum=0.9, pull=0.03), rel=1e-5)


@dataclass(frozen=True)
class Uneven:
    """Local training with more steps at client 1: `few` and `many` epochs."""

    local: LocalTraining
    few: int
    many: int

    @property
    def epochs(self):
        return self.local.epochs

    def fit(self, model, task, asked):
        epochs = self.many if asked.y[0] else self.few
        return self.local.fit(model, task, replace(asked, epochs=epochs))


@pytest.mark.parametrize(
    ("rate", "avg", "nova"),
    [(0.1, 0.8669, 0.3944), (0.01, 0.9053, 0.4888), (0.001, 0.9087, 0.4989)],
)
def test_fednova_undoes_uneven_steps(rate, avg, nova):
    # Two unit quadratics around 0 and 1, with 1 and 10 steps: their pooled optimum is 1 / 2.
    training = Uneven(LocalTraining(learning_rate=rate, batch=0), few=1, many=10)
    unit = {"curvatures": (1.0, 1.0)}
    assert fixed(wells(training, **unit)) == pytest.approx(avg, abs=1e-4)
    fair = wells(training, **unit, aggregator=FedNova(weighting="equal"))
    assert fixed(fair) == pytest.approx(nova, abs=1e-4)


LAYOUT = Layout.of([Leaf("w", (2,)), Leaf("running_mean", (1,), "stats")])


def test_fednova_averages_statistics_as_they_are_and_reads_effort_or_steps():
    updates = [
        Update(client=0, delta=torch.tensor([1.0, 0.0, 2.0]), examples=1, steps=1, effort=1.0),
        Update(client=1, delta=torch.tensor([0.0, 6.0, 4.0]), examples=3, steps=3, effort=6.0),
    ]
    for effective, mean in (("effort", 4.75), ("steps", 2.5)):
        nova = FedNova(effective=effective)
        folding = nova.start(LAYOUT)
        assert nova.finish(folding).tolist() == [0.0, 0.0, 0.0]
        for update in updates:
            nova.fold(folding, update)
        assert folding.count == 2
        assert nova.finish(folding).tolist() == pytest.approx([0.25 * mean, 0.75 * mean, 3.5])


def between(strength, shared):
    return [(a * o + strength * shared) / (a + strength) for a, o in ((1, 0), (4, 1))]


@pytest.mark.parametrize("strength", [0.0, 0.5, 4.0, 19.0])
def test_dittos_own_models_lie_between_their_own_optima_and_the_shared_model(strength):
    shared, own = fixed(wells(Ditto(strength=strength, local=TEN)), personal=True)
    assert shared == pytest.approx(0.68988, abs=1e-5), "the shared model is FedAvg's"
    assert own == pytest.approx(between(strength, shared), abs=1e-4)


def test_a_strong_pull_of_ditto_leaves_the_shared_model():
    bound = Ditto(strength=20_000.0, local=replace(TEN, learning_rate=5e-5))
    branch = settled(wells(bound), 3)
    assert [branch.kept[c].item() for c in (0, 1)] == pytest.approx(
        [branch.flat.item()] * 2, abs=1e-3
    )


@pytest.mark.parametrize(("strength", "shared"), [(15.0, 0.771084), (1.0, 0.615385)])
def test_pfedme_settles_at_the_minimum_of_the_envelopes(strength, shared):
    # Sum of a l / (a + l) (w - o) is zero, and theta = (a o + l w) / (a + l).
    local = LocalTraining(learning_rate=0.02, batch=0, epochs=1)
    training = PFedMe(strength=strength, steps=120, own_rate=0.05, local=local)
    found = fixed(wells(training))
    assert found == pytest.approx(shared, abs=1e-4)
    branch = settled(wells(training), 1, start=found)
    assert [branch.kept[c].item() for c in (0, 1)] == pytest.approx(
        between(strength, shared), abs=1e-3
    )


# The rest runs on a real table, with a network of two layers.


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return prepare(
        Wine(),
        Iid(clients=4),
        Split(),
        Classification(),
        seed=SEED,
        directory=tmp_path_factory.mktemp("wine"),
    ).shards


@pytest.fixture
def federation(shards):
    return _over(shards, Serial())


def _over(shards, kind):
    engine = kind.start()
    engine.open(WorkerContext(shards=shards, task=shards.signature.task))
    return Federation(
        engine=engine,
        task=shards.signature.task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=SEED,
    )


def branch_of(shards, **options):
    nodes = (
        Node("hidden", "linear", ("input",), (("features", 8),)),
        Node("norm", "norm", ("hidden",), (("style", "batch"),)),
        Node("act", "act", ("norm",), (("fn", "relu"),)),
        Node("out", "linear", ("act",), (("features", 3),)),
    )
    graph = Graph(shards.signature.shape, nodes)
    given = {"cohort": shards.training, "rounds": 10, **options}
    return Branch(number=0, graph=graph, flat=initialise(graph, SEED.child("w")), **given)


def trained(federation, branch, rounds=2, **parts):
    federation = replace(federation, **parts)
    for _ in range(rounds):
        branch = step(federation, (branch,), phase="x").branches[0]
    return branch


# One path for all: the fast one for dense networks differs in the last bits.
PLAIN = LocalTraining(epochs=2, path="flat")
WAYS = [
    Scaffold(local=PLAIN),
    FedPer(local=PLAIN),
    Ditto(local=PLAIN),
    PFedMe(local=PLAIN),
]


def named(way):
    return way.kind


def test_scaffold_with_its_variates_frozen_at_zero_is_fedavg_to_the_bit(shards, federation):
    plain, frozen = branch_of(shards), branch_of(shards)
    for _ in range(2):
        plain = trained(federation, plain, 1, training=PLAIN)
        frozen = trained(federation, frozen, 1, training=Scaffold(local=PLAIN))
        assert frozen.extras["control"].abs().max() > 0
        frozen = replace(frozen, kept={}, extras={})
    assert torch.equal(frozen.flat, plain.flat)


def test_the_shared_model_of_ditto_is_fedavg_to_the_bit(shards, federation):
    plain = trained(federation, branch_of(shards), training=PLAIN)
    ditto = trained(federation, branch_of(shards), training=Ditto(local=PLAIN))
    assert torch.equal(ditto.flat, plain.flat)


def test_ditto_without_a_pull_is_training_alone(shards, federation):
    ditto = trained(federation, branch_of(shards), 1, training=Ditto(strength=0.0, local=PLAIN))
    alone = branch_of(shards, cohort=(2,))
    # Batches of a client's own model have their own stream: all rows at once have none.
    whole = replace(PLAIN, batch=0)
    ditto = trained(federation, branch_of(shards), 3, training=Ditto(strength=0.0, local=whole))
    alone = trained(federation, alone, 3, training=whole)
    assert torch.allclose(ditto.kept[2], alone.flat, atol=1e-6)


def test_fednova_with_equal_steps_is_fedavg(shards, federation):
    even = replace(PLAIN, batch=0)
    plain = trained(federation, branch_of(shards), training=even)
    nova = trained(federation, branch_of(shards), training=even, aggregator=FedNova())
    assert torch.allclose(nova.flat, plain.flat, atol=1e-6)
    uneven = trained(federation, branch_of(shards), training=PLAIN, aggregator=FedNova())
    assert not torch.allclose(uneven.flat, trained(federation, branch_of(shards)).flat, atol=1e-4)


def test_fedper_without_personal_tensors_is_fedavg_to_the_bit(shards, federation):
    plain = trained(federation, branch_of(shards), training=PLAIN)
    none = trained(federation, branch_of(shards), training=FedPer(layers=0, local=PLAIN))
    assert torch.equal(none.flat, plain.flat)


def test_fedper_with_every_layer_is_training_alone(shards, federation):
    every = trained(federation, branch_of(shards), training=FedPer(layers=9, local=PLAIN))
    assert torch.equal(every.flat, branch_of(shards).flat)
    alone = trained(federation, branch_of(shards, cohort=(1,)), training=PLAIN)
    kept = FedPer(layers=9).personal(torch.zeros(0), every.graph.layout, every.kept[1])
    assert torch.allclose(kept, alone.flat, atol=1e-6)


class _Wire:
    """An engine that keeps what passes through it."""

    def __init__(self, inner):
        self.inner, self.down, self.up = inner, [], []

    def share(self, pieces):
        handle = self.inner.share(pieces)
        self.down.append(bytes(handle.data))
        return handle

    def map(self, tasks):
        for result in self.inner.map(tasks):
            self.up.append(bytes(result.data))
            yield result


def test_a_head_is_in_no_message_and_differs_while_the_body_is_shared(shards, federation):
    wire, way = _Wire(federation.engine), FedPer(local=PLAIN)
    start = branch_of(shards)
    branch = trained(federation, start, training=way, engine=wire)
    layout = branch.graph.layout
    head = [leaf for leaf in layout.leaves if leaf.name.startswith("out.")]
    body = layout.size - sum(leaf.size for leaf in head)
    assert way.agreement(layout).size(layout) == body
    assert all(unpack(data).arrays[0].shape == (body,) for data in wire.down)
    sent = [data[: -4 * len(branch.kept[0])] for data in wire.up]
    assert all(unpack(data).arrays[0].shape == (body,) for data in sent)
    for client, kept in branch.kept.items():
        assert not any(kept.numpy().tobytes()[:16] in data for data in (*wire.down, *sent))
        assert all(not torch.equal(kept, other) for c, other in branch.kept.items() if c != client)
    views, before = layout.views(branch.flat), layout.views(start.flat)
    assert all(torch.equal(views[leaf.name], before[leaf.name]) for leaf in head)
    adam = trained(federation, start, training=way, server=ServerAdam())
    assert torch.equal(layout.views(adam.flat)["out.weight"], before["out.weight"])


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_what_travels_is_metered_and_what_is_kept_is_not(shards, federation, way):
    start = branch_of(shards)
    layout = start.graph.layout
    done = step(replace(federation, training=way), (start,), phase="x")
    plain = step(replace(federation, training=PLAIN), (start,), phase="x")
    agreement = way.agreement(layout)
    further = agreement.size(layout) - layout.size + sum(agreement.extras.values())
    for ours, theirs in zip(done.rows, plain.rows, strict=True):
        # A frame is padded to 64 bytes, as its header is.
        assert abs(ours.bytes_down - theirs.bytes_down - 4 * further) <= 128
        assert abs(ours.bytes_up - theirs.bytes_up - 4 * further) <= 128
        assert ours.macs == pytest.approx(theirs.macs * agreement.passes)
    down = sum(len(piece) for piece in message(start))
    assert down == plain.rows[0].bytes_down


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_a_branch_goes_on_from_its_saved_state_to_the_same_bits(shards, federation, way):
    # Half of the clients a round: some have kept something and some have not.
    parts = {"training": way, "cohort": Cohort(fraction=0.5)}
    half = trained(federation, branch_of(shards), 2, **parts)
    assert half.kept
    again = Branch.from_json(half.to_json(), half.tensors())
    a, b = (trained(federation, branch, 2, **parts) for branch in (half, again))
    assert a.to_json() == b.to_json()
    assert all(torch.equal(t, b.tensors()[name]) for name, t in a.tensors().items())
    assert len(a.tensors()) == 1 + len(a.extras) + len(a.kept)


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_one_round_of_every_way_is_the_same_in_processes(shards, federation, way):
    pool = _over(shards, Processes(workers=1))
    try:
        ours = trained(pool, branch_of(shards), 2, training=way)
        scores = evaluate(
            replace(pool, training=way), (ours,), shards.training, phase="x", personal=True
        )
    finally:
        pool.engine.close()
    theirs = trained(federation, branch_of(shards), 2, training=way)
    assert all(torch.equal(t, theirs.tensors()[name]) for name, t in ours.tensors().items())
    here = evaluate(
        replace(federation, training=way), (theirs,), shards.training, phase="x", personal=True
    )
    assert np.array_equal(scores.total(0), here.total(0))


@pytest.mark.parametrize("way", WAYS[1:], ids=named)
def test_a_client_is_scored_on_its_own_model(shards, federation, way):
    federation = replace(federation, training=way)
    branch = trained(federation, branch_of(shards), 2)
    scores = evaluate(federation, (branch,), (0, 1), phase="x", personal=True)
    layout = branch.graph.layout
    for client in (0, 1):
        flat = way.personal(way.agreement(layout).select(branch.flat), layout, branch.kept[client])
        alone = replace(branch, flat=flat)
        plain = evaluate(federation, (alone,), (client,), phase="x").vectors[0][client]
        assert np.array_equal(scores.vectors[0][client], plain)
        other = evaluate(federation, (branch,), (client,), phase="x").vectors[0][client]
        assert not np.array_equal(scores.vectors[0][client], other)
    sent = 0 if way.kind != "fedper" else scores.rows[0].bytes_down
    assert all(row.bytes_down == sent for row in scores.rows)


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_a_round_that_does_not_count_keeps_nothing(shards, federation, way):
    start = branch_of(shards)
    few = Cohort(minimum=3, clients=4, dropout=0.6)
    for _ in range(20):
        done = step(replace(federation, training=way, cohort=few), (start,), phase="x")
        after = done.branches[0]
        if after.counted == start.counted:
            break
        start = after
    else:
        pytest.fail("no void round in twenty")
    assert any(row.kind == "fit" for row in done.rows)
    assert after.kept == start.kept
    assert after.extras == start.extras


class _Spoiled:
    """An engine whose first client replies with something else in its kept numbers."""

    def __init__(self, inner, scalars, keep):
        self.inner, self.share, self.scalars, self.keep = inner, inner.share, scalars, keep

    def map(self, tasks):
        for result in self.inner.map(tasks):
            if result.index:
                yield result
            elif self.keep:
                data = bytearray(result.data)
                data[-4:] = np.array([np.nan], "<f4").tobytes()
                yield replace(result, data=memoryview(data))
            else:
                yield replace(result, data=result.data[: -4 * self.scalars])


@pytest.mark.parametrize(("keep", "text"), [(True, "not finite"), (False, "cut short")])
def test_a_reply_without_sound_state_is_refused_and_the_round_goes_on(
    shards, federation, keep, text
):
    way, start = Scaffold(local=PLAIN), branch_of(shards)
    scalars = way.agreement(start.graph.layout).extras["control"]
    engine = _Spoiled(federation.engine, scalars, keep)
    done = step(replace(federation, training=way, engine=engine), (start,), phase="x")
    assert [row.kind for row in done.rows].count("refused") == 1
    assert text in done.incidents[0].text
    assert len(done.branches[0].kept) == 3
    total = sum(kept * float(federation.train_rows[c]) for c, kept in done.branches[0].kept.items())
    assert torch.allclose(done.branches[0].extras["control"], total, rtol=1e-4, atol=1e-4)


def test_state_that_is_too_short_is_refused():
    with pytest.raises(UpdateRefused, match="cut short"):
        parted(memoryview(b"\0" * 8), 3)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[client]\nkind="scaffold"\n[client.local]\nmomentum=0.9', "client.local.momentum"),
        ('[client]\nkind="scaffold"\n[client.local]\noptimizer="adam"', "client.local.optimizer"),
        ('[aggregator]\nkind="fednova"\n[client]\noptimizer="adam"', "aggregator.kind"),
        ('[aggregator]\nkind="fednova"\n[client]\nkind="scaffold"', "aggregator.kind"),
        ('[client]\nkind="ditto"\n[estimator]\nkind="race"', "estimator.kind"),
        ('[client]\nkind="ditto"\nstrength=41', "client.strength"),
        ('[client]\nkind="pfedme"\nown_rate=0.2', "client.own_rate"),
        ('[client]\nkind="ditto"\n[client.local]\nrate=1', "client.local"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_way_out(text, where):
    with pytest.raises((ConfigFaults, IncompatibleParts)) as caught:
        loads(text)
    assert where in str(caught.value)


def test_settings_that_are_tuned_reach_the_local_training_inside():

    way = tuned(Ditto(), {"strength": 0.5, "learning_rate": 0.2})
    assert way == Ditto(strength=0.5, local=LocalTraining(learning_rate=0.2))
    text = '[client]\nkind="ditto"\n[estimator]\nkind="rounds"\n[tune.choices]\n'
    assert loads(text + "strength=[0.1, 1.0]\nlearning_rate=[0.1, 0.2]")
    with pytest.raises(ConfigFaults, match="no such option"):
        loads(text + "learning_rates=[0.1, 0.2]")


RUN = """
name = "own"
seed = 5
[data]
kind = "wine"
[partition]
kind = "classes"
clients = 6
[space]
kind = "table-mlp"
layers = 2
[estimator]
kind = "rounds"
rounds = 1
candidates = 1
[strategy]
kind = "random"
[client]
kind = "{kind}"
[client.local]
learning_rate = 0.1
[budget]
trials = 1
[final]
rounds = 3
every = 3
references = {references}
[engine]
kind = "serial"
"""


def _digest(directory):
    with Journal.open(directory, write=False) as journal:
        return journal.digest()


def test_a_study_with_personal_models_reports_and_ships_each_clients_own(tmp_path):
    text = RUN.format(kind="ditto", references="true")
    result = search(loads(text), tmp_path / "run").result
    assert set(result.differences) == {"hand-made", "random-final", "pooled", "shared"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "own model beside the shared one" in page
    files = sorted((tmp_path / "run" / "clients").iterdir())
    assert len(files) == 6
    zeros = np.zeros((2, 13), np.float32)
    own = [Session.open(path).run(zeros)[0] for path in files]
    shared = Session.open(result.export_onnx(tmp_path / "shared.onnx")).run(zeros)[0]
    assert not any(np.allclose(logits, shared) for logits in own)
    with Journal.open(tmp_path / "run", write=False) as journal:
        found = gather(journal)
        evaluated = len(list(journal.meter(phase="test")))
    assert all(client.shared is not None for client in found.client_test)
    # Six clients on each of four models, and on the shared one.
    assert evaluated == 5 * 6


@pytest.mark.parametrize("kind", ["scaffold", "fedper"])
def test_a_study_whose_clients_keep_something_resumes_to_the_same_bits(tmp_path, kind):
    run = loads(RUN.format(kind=kind, references="false"))
    search(run, tmp_path / "whole").result  # noqa: B018 - asking for the result runs the study
    study = search(run, tmp_path / "parts")
    for _ in range(40):
        for event in study.events():
            if event.kind == "round":
                study.stop()
        if event.kind == "finished":
            break
        study = resume(tmp_path / "parts")
    assert _digest(tmp_path / "parts") == _digest(tmp_path / "whole")
    assert (tmp_path / "whole" / "clients").is_dir() == (kind == "fedper")


@pytest.fixture(scope="module")
def pairs_of_digits(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits")
    return prepare(
        Digits(), Classes(clients=8), Split(), Classification(), seed=SEED, directory=directory
    ).shards


@pytest.mark.parametrize(
    "way",
    [
        FedPer(local=LocalTraining(learning_rate=0.1)),
        Ditto(local=LocalTraining(learning_rate=0.1)),
        PFedMe(steps=3, local=LocalTraining(learning_rate=0.05)),
    ],
    ids=named,
)
def test_own_models_serve_clients_of_two_digits_better_and_nobody_worse(pairs_of_digits, way):
    shards = pairs_of_digits
    nodes = (
        Node("flat", "flatten", ("input",)),
        Node("hidden", "linear", ("flat",), (("features", 32),)),
        Node("act", "act", ("hidden",), (("fn", "relu"),)),
        Node("out", "linear", ("act",), (("features", 10),)),
    )
    graph = Graph(shards.signature.shape, nodes)
    flat = initialise(graph, SEED.child("w"))
    start = Branch(number=0, graph=graph, flat=flat, cohort=shards.training, rounds=10)
    scores = []
    for training in (plain(way), way):
        federation = replace(_over(shards, Serial()), training=training)
        branch = trained(federation, start, 6)
        found = evaluate(federation, (branch,), shards.training, phase="x", personal=True).vectors[
            0
        ]
        metrics = [shards.signature.task.metrics(found[c])["accuracy"] for c in shards.training]
        scores.append(np.array(metrics))
    shared, own = scores
    assert own.mean() > shared.mean()
    assert np.percentile(own, 10) >= np.percentile(shared, 10)
