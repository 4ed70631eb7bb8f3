"""No client's message can hurt anybody else: what is refused, and what the others make of it."""

import json
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_blocks import SUM
from test_federation import ASKED, SEED, branch, context, proposals, reply

from archipelago.aggregate.fednova import FedNova
from archipelago.aggregate.mean import Folding, WeightedMean
from archipelago.client.ditto import Ditto
from archipelago.client.pfedme import PFedMe
from archipelago.client.scaffold import Scaffold
from archipelago.client.tasks import Evaluate
from archipelago.client.training import LocalTraining
from archipelago.client.worker import WorkerContext
from archipelago.config.load import loads
from archipelago.core.buffers import join
from archipelago.core.errors import ConfigError, DataError, UpdateRefused
from archipelago.core.update import Update
from archipelago.data.bounds import check
from archipelago.data.partition import Iid
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Wine
from archipelago.data.split import Split
from archipelago.data.statistics import Clients
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.estimate.race import Race
from archipelago.estimate.zero_cost import ZeroCost
from archipelago.federation.branch import Branch
from archipelago.federation.buffer import Buffered
from archipelago.federation.check import failed, parted, scored, summed, updated
from archipelago.federation.cohort import Cohort
from archipelago.federation.counts import Counts
from archipelago.federation.norm_bound import NormBound
from archipelago.federation.replies import Answer
from archipelago.federation.rounds import Federation, evaluate, step
from archipelago.journal.journal import Journal
from archipelago.study.analysing.gather import gather
from archipelago.study.running.search import search
from archipelago.wire.frame import bundle, pack, unbundle, unpack

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import hostile

COUNTS = Counts(rows=40, passes=2, epochs=2, batch=16)


def test_tampered_messages_are_refused_or_within_bounds():
    found = Counter(end for _, end in hostile.tried(3000, seed=1))
    assert set(found) == {"refused", "accepted"}  # nothing uncaught, nothing outside
    assert min(found.values()) > 50
    assert all(read(memoryview(bytearray(data))) for _, data, read in hostile.honest())


@given(st.binary(max_size=300))
def test_whatever_arrives_is_read_or_refused(data):
    for read in (unpack, unbundle, lambda view: parted(view, 3)):
        try:
            read(memoryview(data))
        except UpdateRefused:
            continue


def framed(text, body=b""):
    raw = text.encode()
    raw += b" " * (-(12 + len(raw)) % 64)
    return b"ARCH\x01\x00\x00\x00" + len(raw).to_bytes(4, "little") + raw + body


def header(arrays="[]", fields="{}"):
    return f'{{"kind": "x", "fields": {fields}, "arrays": {arrays}}}'


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (framed(header('[["f4", [true, true, true]]]'), bytes(64)), "shape cannot be"),
        (framed(header(f'[["f4", {[1] * 65}]]'), bytes(64)), "shape cannot be"),
        (framed(header(f'[["f4", {[0, 2**39, 2**39]}]]')), "larger than any model"),
        (framed(header('[["f4", [1.0]]]'), bytes(64)), "shape cannot be"),
        (framed(header('[["f4", [-1]]]'), bytes(64)), "shape cannot be"),
        (framed(header('[["f4", "1"]]'), bytes(64)), "description cannot be read"),
        (framed(header('[["f4", [1], 2]]'), bytes(64)), "description cannot be read"),
        (framed(header(str([["f4", [0]]] * 300).replace("'", '"'))), "too many arrays"),
        (framed(header(fields='{"a": 1, "a": 2}')), "comes twice"),
        (framed(header(fields='{"a": {"b": 1, "b": 1}}')), "comes twice"),
        (framed(header(fields=f'{{"a": {"9" * 400}}}')), "more than 20 digits"),
        (framed(header(fields='{"a": ' + "[" * 200 + "]" * 200 + "}")), "nests too deeply"),
        (framed(header(fields='{"a": ' + "[" * 99_999 + "]" * 99_999 + "}")), "cannot be read"),
        (framed(header() + "\t"), "must hold kind, fields and arrays"),
        (framed("[1, 2]"), "must hold kind, fields and arrays"),
        (framed(header()[:-1] + ', "more": 1}'), "must hold kind, fields and arrays"),
        (framed(header() + " " * 64), "padded by more"),
        (framed(header('[["f4", [1]]]'), bytes(63) + b"\1"), "are not zero"),
        (framed(header()).replace(b"H\1\0\0\0", b"H\1\0\1\0"), "reserved bytes are not zero"),
        (b"ARCH\1\0\0\0" + (60).to_bytes(4, "little") + header().encode().ljust(60), "odd place"),
    ],
)
def test_a_message_has_one_spelling_and_bounded_sizes(data, text):
    with pytest.raises(UpdateRefused, match=text):
        unpack(data)


@pytest.mark.parametrize("count", [2**62, 2**63 - 1, 2**64 - 1, 1, 3])
def test_a_table_that_lies_is_refused(count):
    table = (count % 2**64).to_bytes(8, "little") + (-(2**63)).to_bytes(8, "little", signed=True)
    with pytest.raises(UpdateRefused, match="bundle"):
        unbundle(memoryview(table + bytes(48)))
    good = bytearray(join(bundle(["ab", [b"c" * 3]])))
    good[-1] = 7
    with pytest.raises(UpdateRefused, match="not zero"):
        unbundle(memoryview(good))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"client": True}, "another client"),
        ({"client": 1.0}, "another client"),
        ({"round": 3.0}, "another round"),
        ({"branch": "2"}, "another branch"),
        ({"examples": 2**39}, "no more than the client declared"),
        ({"examples": 41}, "no more than the client declared"),
        ({"seen": 81}, "no more than was asked for"),
        ({"examples": 5, "seen": 11}, "no more than was asked for"),
        ({"steps": 7}, "no more than the rows make"),
        ({"steps": 6.0}, "positive whole number"),
        ({"effort": 1e-9}, "effort is not that"),
        ({"effort": True}, "effort must be"),
        ({"metrics": {"loss": 10**19}}, None),
        ({"metrics": {"loss": True}}, "not a number"),
        ({"metrics": {"loss": math.nan}}, "loss is not finite"),
        ({"metrics": {"loss": -1.0}}, "training loss cannot be"),
        ({"metrics": {"loss": 1e300}}, "training loss cannot be"),
        ({"metrics": {}}, "must say its training loss"),
        ({"more": 1}, "what nobody asked for"),
    ],
)
def test_a_client_says_no_more_than_it_declared(changed, text):
    fields = {"examples": 40, "seen": 80, "steps": 6, **changed}
    if text is None:
        assert updated(reply(**fields), **ASKED, size=4, counts=COUNTS)
        return
    with pytest.raises(UpdateRefused, match=text):
        updated(reply(**fields), **ASKED, size=4, counts=COUNTS)


def test_a_loss_of_400_digits_is_refused():
    data = bytes(reply(metrics={"loss": 10**399}))
    with pytest.raises(UpdateRefused, match="20 digits"):
        updated(memoryview(data), **ASKED, size=4)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"client": [True, 4]}, "other clients"),
        ({"client": [3.0, 4]}, "other clients"),
        ({"examples": [2**39, 5]}, "declared"),
        ({"seen": [5, 11]}, "asked for"),
        ({"loss": [0.5, math.nan]}, "loss"),
        ({"bytes": [128, 2**39]}, "more than an update's"),
        ({"steps": [1, 1]}, "nobody asked for"),
    ],
)
def test_a_sum_says_no_more_than_its_clients_declared(changed, text):
    data = join(pack("sum", {**SUM, **changed}, [np.zeros(2, np.float32)]))
    with pytest.raises(UpdateRefused, match=text):
        summed(memoryview(data), clients=(3, 4), branch=0, round=1, size=2, counts=[COUNTS] * 2)


def test_a_reason_that_is_printed_holds_nothing_that_a_terminal_obeys():
    assert "\x1b" not in str(failed("ValueError: \x1b[2J\x1b]0;x\x07"))
    assert len(str(failed("x" * 10**6))) < 30_000


@pytest.mark.parametrize("task", hostile.TASKS, ids=str)
def test_statistics_that_no_rows_give_are_refused(task):
    vector = hostile.statistics(task, 5)
    check(task, vector, hostile.SCORED)
    check(task, np.zeros(task.length), 0)
    for wrong in (-vector, 2 * vector, vector + 0.25, np.full_like(vector, 1e300)):
        with pytest.raises(UpdateRefused):
            check(task, wrong, hostile.SCORED)
    with pytest.raises(UpdateRefused, match="other rows"):
        check(task, vector, hostile.SCORED + 1)
    diverged = vector.copy()
    diverged[1] = math.nan
    check(task, diverged, hostile.SCORED)  # how a network that diverged is told


@pytest.mark.parametrize(
    ("task", "place", "values", "text"),
    [
        (hostile.TASKS[0], 1, (0.0,), "log loss"),  # wrong answers cost something
        (hostile.TASKS[0], 2, (29,), "top-5"),
        (hostile.TASKS[0], 3, (0.5,), "whole numbers"),
        (hostile.TASKS[1], -1, (5,), "histograms"),
        (hostile.TASKS[3], 2, (31,), "more decisions"),
        (hostile.TASKS[5], 1, (1.0, 1e3), "absolute errors"),
        (hostile.TASKS[5], 3, (1e3, 1.0), "target's mean"),
        (hostile.TASKS[5], 4, (1e20,), "million times"),
        (hostile.TASKS[5], 3, (math.nan,), "moments"),
    ],
)
def test_a_relation_that_is_broken_is_named(task, place, values, text):
    vector = hostile.statistics(task, 5)
    vector[place : place + len(values) or None] = values
    with pytest.raises(UpdateRefused, match=text):
        check(task, vector, hostile.SCORED)


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


@dataclass
class Tampering:
    """An engine at which one client sends something else than it should.

    `update` changes fields and arrays of its updates, `score` its vectors; both are given the task.
    """

    inner: object
    client: int = 1
    update: object = None
    score: object = None
    branches: tuple[int, ...] = ()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def map(self, tasks):
        for task, result in zip(tasks, self.inner.map(tasks), strict=True):
            change = self.score if isinstance(task, Evaluate) else self.update
            mine = getattr(task, "client", None) == self.client and change is not None
            if not mine or (self.branches and task.branch not in self.branches):
                yield result
                continue
            stays = len(task.kept) if getattr(task, "kept", None) is not None else 0
            data, kept = parted(result.data, 0 if isinstance(task, Evaluate) else stays)
            frame = unpack(data)
            arrays, fields = [array.copy() for array in frame.arrays], dict(frame.fields)
            change(fields, arrays)
            pieces = [*pack(frame.kind, fields, arrays), kept.numpy()]
            data = memoryview(bytearray(join(pieces)))
            yield replace(result, data=data)


def tampering(shards, training=None, **options):
    engine = Serial().start()
    engine.open(WorkerContext(shards=shards, task=shards.signature.task))
    return Federation(
        engine=Tampering(engine, **options),
        task=shards.signature.task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=SEED,
        training=training or LocalTraining(path="flat", learning_rate=0.1),
    )


def setting(name, value):
    return lambda fields, arrays: fields.__setitem__(name, value)


def filled(value, which=0):
    return lambda fields, arrays: arrays[which].fill(value)


def gone_on(federation, start, rounds):
    incidents, branches = [], (start,)
    for _ in range(rounds):
        # What is stored between two rounds is all that the next one needs.
        stored = [(json.loads(json.dumps(b.to_json())), b.tensors()) for b in branches]
        branches = [Branch.from_json(*one) for one in stored]
        done = step(federation, branches, phase="search")
        branches, incidents = done.branches, [*incidents, *done.incidents]
    return branches[0], incidents


WAYS = {
    "flat": LocalTraining(path="flat", learning_rate=0.1),
    "momentum": LocalTraining(
        path="flat", momentum=0.9, proximal=0.1, learning_rate=0.02, epochs=2
    ),
    "scaffold": Scaffold(local=LocalTraining(learning_rate=0.1)),
    "ditto": Ditto(local=LocalTraining(learning_rate=0.1, epochs=2), epochs_own=3),
    "pfedme": PFedMe(strength=1.0, local=LocalTraining(learning_rate=0.1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_nobody_honest_is_refused(shards, way):
    aggregator = WeightedMean() if way in ("scaffold", "ditto", "pfedme") else FedNova()
    federation = tampering(shards, WAYS[way])
    after, incidents = gone_on(replace(federation, aggregator=aggregator), branch(shards), 4)
    off = replace(federation, aggregator=replace(aggregator, bound=0.0))
    unmeasured, _ = gone_on(off, branch(shards), 4)
    assert not incidents
    assert torch.equal(after.flat, unmeasured.flat)
    assert after.agreed.replies == 4
    assert unmeasured.agreed is None


@pytest.mark.parametrize("value", [1e15, -3e5, 2e25])
@pytest.mark.parametrize("first", [0, 3])
def test_an_update_that_is_far_too_long_is_refused_in_any_round(shards, value, first):
    honest = tampering(shards)
    start, _ = gone_on(honest, branch(shards), first)
    cruel = tampering(shards, update=filled(value))
    after, incidents = gone_on(cruel, start, 2)
    without, _ = gone_on(honest, replace(start, cohort=(0, 2, 3)), 2)
    assert [(i.kind, i.client) for i in incidents] == [("refused", 1)] * 2
    assert re.search("far longer than others'|not finite", incidents[0].text)
    assert after.alive
    assert torch.allclose(after.flat, without.flat, atol=1e-6)


def test_further_vectors_are_bounded_too(shards):
    cruel = tampering(shards, WAYS["scaffold"], update=filled(1e12, which=1))
    after, incidents = gone_on(cruel, branch(shards), 3)
    assert [i.client for i in incidents] == [1] * 3
    assert "control is far longer" in incidents[0].text
    assert after.extras["control"].abs().max() < 100


def test_a_buffer_bounds_updates_too(shards):
    cruel = tampering(shards, update=filled(1e15))
    cruel = replace(cruel, topology=Buffered(buffer=3), cohort=Cohort(spread=1.0))
    after, incidents = gone_on(cruel, branch(shards, cohort=shards.training), 5)
    assert {i.client for i in incidents} == {1}
    assert after.alive
    assert after.flat.abs().max() < 100


@pytest.mark.parametrize("value", [1e15, 0.0, 1e-12])
def test_of_two_clients_one_cannot_have_the_other_refused(shards, value):
    cruel = tampering(shards, update=filled(value))
    after, incidents = gone_on(cruel, branch(shards, cohort=(0, 1)), 4)
    assert {i.client for i in incidents} == ({1} if value == 1e15 else set())
    assert after.counted == 4


def test_a_client_alone_voids_rounds_but_fails_no_candidate(shards):
    cruel = tampering(shards, update=filled(1e15))
    after, incidents = gone_on(cruel, branch(shards, cohort=(1,)), 2)
    assert after.alive
    assert [i.kind for i in incidents] == ["refused", "void"] * 2


def test_clients_that_all_go_further_find_a_median_of_their_own(shards):
    start, _ = gone_on(tampering(shards), branch(shards), 1)
    tiny = replace(start.agreed, length=start.agreed.length * 1e-6)
    start = replace(start, agreed=tiny, flat=start.flat * 1e-3)
    after, incidents = gone_on(tampering(shards), start, 3)
    assert {i.kind for i in incidents} <= {"refused", "void"}
    assert after.counted == start.counted + 2


def test_sums_of_blocks_are_neither_measured_nor_kept_waiting():
    gate, taken = NormBound(times=10.0, agreed=None, flat=torch.ones(4)), []
    sums = [Answer(visit=None, part=Folding(torch.full((4,), 1e9), 3.0, 3)) for _ in range(3)]
    for answer in sums:
        gate.take(answer, taken.append)
    assert all(a is b for a, b in zip(taken, sums, strict=True))
    gate.close()
    assert gate.next is None


def test_replies_of_a_first_round_are_handed_on_in_the_order_of_issue():
    gate, taken = NormBound(times=10.0, agreed=None, flat=torch.ones(4)), []
    for number in range(80):
        update = Update(client=number, delta=torch.ones(4), examples=1, steps=1, length=2.0)
        part = Folding(torch.ones(4), 1.0, 1) if number % 10 == 5 else update
        gate.take(Answer(visit=None, examples=number, part=part), taken.append)
        assert bool(taken) == (number >= 70)  # 64 of them wait, and the sums among them
    gate.close()
    assert [answer.examples for answer in taken] == list(range(80))
    assert (gate.next.length, gate.next.replies) == (2.0, 72)


def test_a_bound_below_one_would_refuse_half_of_the_clients():
    with pytest.raises(ConfigError, match="0 refuses none"):
        WeightedMean(bound=0.5)
    assert FedNova(bound=0).bound == 0


def raced(shards, **options):
    where = context(shards, tampering(shards, **options))
    race = Race(candidates=2, first=2, last=2, drop="none")
    steps = list(race.run(race.start(proposals(4, 8), 0, where), where))
    return steps[-1].generation.outcomes, [i for s in steps for i in s.incidents]


def scaled(factor):
    return lambda fields, arrays: np.multiply(arrays[0], factor, out=arrays[0])


def losing(value):
    return lambda fields, arrays: arrays[0].__setitem__(1, value)


@pytest.mark.parametrize("branches", [(), (1,)])
@pytest.mark.parametrize(
    "score", [filled(math.nan), losing(math.nan), losing(1e15), scaled(-1), scaled(2.0**39)]
)
def test_one_clients_scores_neither_fail_nor_tie_candidates(shards, score, branches):
    found, incidents = raced(shards, score=score, branches=branches)
    where = context(shards, tampering(shards))
    fair = replace(where, scorers=tuple(c for c in where.scorers if c != 1))
    race = Race(candidates=2, first=2, last=2, drop="none")
    without = list(race.run(race.start(proposals(4, 8), 0, fair), fair))[-1].generation.outcomes
    # Refused for one candidate, it is missing for both: they are compared on the same rows.
    assert [(o.status, o.score) for o in found] == [(o.status, o.score) for o in without]
    assert {(i.kind, i.client) for i in incidents} == {("refused", 1)}


def test_a_client_whose_labels_depend_on_the_network_is_refused(shards):
    def swapped(fields, arrays):
        confusion = arrays[0][3:12].reshape(3, 3)
        confusion[:] = confusion[[1, 0, 2]][:, [1, 0, 2]]

    found, incidents = raced(shards, score=swapped, branches=(1,))
    assert all(o.status == "done" for o in found)
    assert {(i.client, i.branch) for i in incidents} == {(1, 0), (1, 1)}
    assert "labels that depend" in incidents[0].text


def test_a_network_that_diverged_is_told_as_such_by_most_clients(shards):
    start = branch(shards)
    wild = replace(start, flat=torch.full_like(start.flat, 1e38))
    federation = tampering(shards, score=losing(1.0))  # one client pretends that it did not
    scores = evaluate(federation, (wild, branch(shards, 1)), shards.training, phase="x")
    assert not np.isfinite(scores.total(0)).all()
    assert np.isfinite(scores.total(1)).all()
    assert scores.vectors[0].keys() == scores.vectors[1].keys()


def test_scores_that_nobody_could_give_have_their_true_reason(shards):
    class All(Tampering):
        def map(self, tasks):
            for task in tasks:
                self.client = task.client
                yield from Tampering.map(self, [task])

    federation = tampering(shards, score=scaled(3))
    federation = replace(federation, engine=All(federation.engine.inner, score=scaled(3)))
    scores = evaluate(federation, (branch(shards),), shards.training, phase="x")
    assert scores.vectors == {0: {}}
    assert scores.reasons[0].startswith("no client could score it: a score of other rows")


@pytest.mark.parametrize("value", [math.nan, 1e300, -1e12])
def test_one_clients_proxy_decides_nothing(shards, value):
    def search(**options):
        where = context(shards, tampering(shards, **options))
        cheap = ZeroCost(proxy="grad-norm", candidates=2)
        return list(cheap.run(cheap.start(proposals(4, 8), 0, where), where))[-1]

    found = search(update=filled(value))  # a probe is no `Evaluate`
    honest = search()
    assert {(i.kind, i.client) for i in found.incidents} == {("refused", 1)}
    ranks = [np.argsort([o.score for o in s.generation.outcomes]).tolist() for s in (found, honest)]
    assert ranks[0] == ranks[1]
    assert all(o.status == "done" for o in found.generation.outcomes)


def test_a_score_frame_of_other_rows_is_refused():
    data = join(pack("score", {**ASKED, "examples": True}, [np.zeros(2)]))
    with pytest.raises(UpdateRefused, match="other rows"):
        scored(memoryview(data), **ASKED, size=2, rows=1)


RUN = """
name = "wine"
seed = 5
constraints = ["params < 3k"]
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 4
[space]
kind = "table-mlp"
layers = 2
[estimator]
kind = "rounds"
rounds = 3
candidates = 2
[client]
kind = "local"
learning_rate = 0.1
path = "flat"
[budget]
trials = 2
[final]
rounds = 6
every = 3
references = false
[engine]
kind = "serial"
"""


LIES = {
    "vast": (filled(1e15), filled(math.nan)),
    "many": (setting("examples", 2**39), scaled(2.0**39)),
}


def studied(directory, monkeypatch, name=""):
    update, score = LIES.get(name, (None, None))
    start = Serial.start
    with monkeypatch.context() as patch:
        patch.setattr(
            Serial, "start", lambda self: Tampering(start(self), update=update, score=score)
        )
        result = search(loads(RUN), directory).result
    with Journal.open(directory, write=False) as journal:
        told = [data for _, data, _ in journal.events("refused")]
        shown = [event for event in gather(journal).events if event.kind == "refused"]
        outcomes = [outcome.status for outcome in journal.outcomes()]
    return result.metrics["accuracy"], told, shown, outcomes


def test_a_run_goes_on_without_the_client_that_lies(tmp_path, monkeypatch):
    honest, told, _, statuses = studied(tmp_path / "honest", monkeypatch)
    assert not told
    for name in LIES:
        accuracy, told, shown, outcomes = studied(tmp_path / name, monkeypatch, name)
        assert outcomes == statuses  # no candidate failed
        assert {data["client"] for data in told} == {1}
        assert sum(event.count for event in shown) == len(told)
        assert abs(accuracy - honest) < 0.1, (name, accuracy, honest)


@pytest.mark.parametrize("frame", [b"x" * 99, join(pack("score", {})), framed(header("[[1]]"))])
def test_a_statistics_answer_that_cannot_be_read_leaves_its_silo_out(frame, monkeypatch):
    sound = {"rows": 3, "labels": {"a": 3}, "channels": [[3, 0.0, 1.0]]}
    monkeypatch.setattr("archipelago.data.statistics.answer", lambda rows, told: sound)

    def packed(kind, told):
        sent.append(kind)
        first = kind == "statistics-answer" and sent.count(kind) == 1
        return [frame] if first else pack(kind, told)

    sent = []
    monkeypatch.setattr("archipelago.data.statistics.pack", packed)

    def rows_of(client):
        return SimpleNamespace(name=("north", "south")[client], rows=3, x=None)

    clients = Clients(rows_of=rows_of, clients=[0, 1])
    assert [silo for silo, _ in clients.ask({"ask": "schema"})] == ["south"]
    assert [(one.silo, one.what) for one in clients.withheld] == [("north", "answer")]
    clients.clients, sent[:] = [0], []
    with pytest.raises(DataError, match="silo 'north': nobody's answer could be read"):
        clients.ask({"ask": "schema"})
