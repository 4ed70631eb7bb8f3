"""Every fast path against the plain loop; the rule that picks one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from archipelago.client import block as blocked
from archipelago.client.block import Held
from archipelago.client.ditto import Ditto
from archipelago.client.fedper import FedPer
from archipelago.client.kernels import BLOCK, LEAST, SHARES, Kernel, choose
from archipelago.client.pfedme import PFedMe
from archipelago.client.scaffold import Scaffold
from archipelago.client.training import Assignment, Block, FedSgd, LocalTraining, kernel_of
from archipelago.core.errors import IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.nn.build import initialise
from archipelago.nn.model import Model
from archipelago.space.graph import Graph, Node

ONE = Seed(1)
TOLERANCE = 2e-5
"""Largest difference of a weight after a visit, where weights are of the order of 0.1."""


def linear(name, source, features):
    return Node(name, "linear", (source,), (("features", features),))


def act(name, source, fn):
    return Node(name, "act", (source,), (("fn", fn),))


def logistic(outputs=4):
    return Graph((6,), (linear("out", "input", outputs),))


def residual(fn="relu", outputs=4):
    return Graph(
        (1, 2, 3),
        (
            Node("flat", "flatten", ("input",)),
            linear("a", "flat", 5),
            act("b", "a", fn),
            linear("c", "b", 5),
            Node("d", "add", ("c", "b")),
            act("e", "d", fn),
            Node("out", "linear", ("e",), (("bias", False), ("features", outputs))),
        ),
    )


def picture(channels=1):
    return Graph(
        (channels, 8, 8),
        (
            Node("a", "conv", ("input",), (("filters", 4), ("kernel", 3), ("padding", 1))),
            act("b", "a", "relu"),
            Node("c", "maxpool", ("b",), (("kernel", 2),)),
            Node("d", "flatten", ("c",)),
            linear("out", "d", 4),
        ),
    )


def rows(graph, count, task, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(count, *graph.input_shape)
    match task.kind:
        case "classification":
            return x, torch.randint(0, 4, (count,))
        case "multi-label":
            return x, torch.randint(0, 2, (count, 4)).float()
        case _:
            return x, torch.randn(count)


TASKS = [
    Classification(classes=("a", "b", "c", "d")),
    Classification(classes=("a", "b", "c", "d"), weights=(1.0, 2.0, 0.5, 1.0)),
    MultiLabel(classes=("a", "b", "c", "d")),
    Regression(mean=0.5, scale=2.0),
]


def trained(graph, task, x, y, training, *, seed=ONE, epochs=2):
    model = Model.of_graph(graph, Seed(3))
    asked = Assignment(x=x, y=y, seed=seed, progress=0, epochs=epochs)
    done = training.fit(model, task, asked)
    return model.flat.clone(), done


def fitted(training, graph, task, asked):
    """Train a block; return what each client did, and its weights, `[clients, layout.size]`."""
    count, model = len(asked.seeds), Model.of_graph(graph)
    start = initialise(graph, Seed(3))
    leaves = {
        name: view.expand(count, *view.shape).clone()
        for name, view in graph.layout.views(start).items()
    }
    done = training.fit_block(model, task, leaves, asked)
    assert not model.flat.any()
    return done, torch.cat([leaf.flatten(1) for leaf in leaves.values()], 1)


def block(data, seeds, passes):
    return Block(rows=Held(data), seeds=seeds, epochs=passes, progress=0)


@pytest.mark.parametrize("task", TASKS, ids=["classes", "weighted", "labels", "number"])
@pytest.mark.parametrize("fn", ["relu", "tanh", "gelu", "silu", "hardswish"])
def test_dense_equals_the_plain_loop(task, fn):
    graph = residual(fn, outputs=1 if task.kind == "regression" else 4)
    x, y = rows(graph, 23, task)
    slow, slow_done = trained(
        graph, task, x, y, LocalTraining(path="flat", batch=5, learning_rate=0.2)
    )
    fast, fast_done = trained(graph, task, x, y, LocalTraining(batch=5, learning_rate=0.2))
    assert LocalTraining().chosen(graph, task).name == "dense"
    assert (slow - fast).abs().max() < TOLERANCE
    assert (fast_done.steps, fast_done.examples) == (slow_done.steps, slow_done.examples)
    assert fast_done.loss == pytest.approx(slow_done.loss, rel=1e-5)


@pytest.mark.parametrize("task", TASKS[:2], ids=["classes", "weighted"])
def test_dense_equals_the_plain_loop_on_mixed_labels(task):
    graph = residual()
    x, _ = rows(graph, 23, task)
    shares = torch.rand(23, 4).softmax(1)
    slow, slow_done = trained(
        graph, task, x, shares, LocalTraining(path="flat", batch=5, learning_rate=0.2)
    )
    fast, fast_done = trained(graph, task, x, shares, LocalTraining(batch=5, learning_rate=0.2))
    assert (slow - fast).abs().max() < TOLERANCE
    assert fast_done.loss == pytest.approx(slow_done.loss, rel=1e-5)


@dataclass(frozen=True)
class Foreign:
    """Somebody's own way of training."""

    epochs: int = 1

    def fit(self, model, task, asked):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("training", "on_rows", "on_images"),
    [
        (LocalTraining(), "dense", "channels-last"),
        (LocalTraining(momentum=0.9), "flat", "channels-last"),
        (FedPer(), "dense", "channels-last"),
        (Ditto(), "dense", "channels-last"),
        (Scaffold(), "flat", "channels-last"),
        (PFedMe(), "flat", "flat"),
        (FedSgd(), "flat", "flat"),
        (Foreign(), "flat", "flat"),
    ],
    ids=lambda value: "" if isinstance(value, str) else getattr(value, "kind", "foreign"),
)
def test_each_way_of_training_says_how_it_is_computed(training, on_rows, on_images):
    for graph, name in ((residual(), on_rows), (picture(), on_images)):
        path = kernel_of(training, graph, TASKS[0])
        assert path.name == name
        assert path.reason


def test_a_path_that_a_way_of_training_cannot_take_is_refused():
    for training in (Scaffold, Ditto):
        with pytest.raises(IncompatibleParts, match="this path cannot train"):
            kernel_of(training(local=LocalTraining(path="dense")), residual(), TASKS[0])
    with pytest.raises(IncompatibleParts, match="inner steps of its own"):
        PFedMe(local=LocalTraining(path="channels-last"))


def test_rows_laid_out_a_step_at_a_time_give_the_same_bits(monkeypatch):
    graph, task = residual(), TASKS[0]
    data = [rows(graph, count, task, count) for count in (8, 21, 3)]
    asked = block(data, [Seed(9).child(client) for client in range(3)], [2, 1, 2])
    training, found = LocalTraining(batch=5), []
    for most in (blocked.LAID, 1):
        monkeypatch.setattr(blocked, "LAID", most)
        found.append(fitted(training, graph, task, asked))
    (done, whole), (again, pieces) = found
    assert done == again
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("batch", [0, 5, 8])
def test_a_block_of_unequal_clients_equals_one_at_a_time(batch):
    graph, task = residual(), TASKS[0]
    counts, passes = [3, 21, 8, 1, 16], [2, 1, 3, 1, 2]
    data = [rows(graph, count, task, seed) for seed, count in enumerate(counts)]
    seeds = [Seed(9).child(client) for client in range(5)]
    training = LocalTraining(batch=batch, learning_rate=0.2)
    done, flat = fitted(training, graph, task, block(data, seeds, passes))
    for client, (x, y) in enumerate(data):
        alone, one = trained(
            graph, task, x, y, LocalTraining(path="flat", batch=batch, learning_rate=0.2),
            seed=seeds[client], epochs=passes[client],
        )  # fmt: skip
        assert (alone - flat[client]).abs().max() < TOLERANCE
        assert (one.steps, one.examples) == (done[client].steps, done[client].examples)
        assert done[client].loss == pytest.approx(one.loss, rel=1e-5)


def test_no_more_rows_are_laid_out_at_a_time_whoever_comes_first():
    data = [(torch.zeros(count, 3, 2), torch.zeros(count)) for count in (0, 90, 5)]
    plan = blocked.Schedule.of([0, 90, 5], [1, 1, 1], 5, lambda _, __: np.arange(90))
    spans = list(plan.spans(Held(data).size, 1000))
    assert max(active * (steps.stop - steps.start) * 5 * 24 for active, steps in spans) <= 1000
    assert [active for active, _ in spans] == [2, *[1] * (len(spans) - 1)]


@pytest.mark.parametrize("batch", [0, 4])
def test_a_client_without_rows_learns_nothing_and_disturbs_nobody(batch):
    graph, task = residual(), TASKS[0]
    full = [rows(graph, count, task, count) for count in (3, 9)]
    empty = (torch.zeros(0, *graph.input_shape), torch.zeros(0, dtype=torch.int64))
    seeds = [Seed(9).child(client) for client in range(3)]
    training, start = LocalTraining(batch=batch, learning_rate=0.2), initialise(graph, Seed(3))
    asked = block([full[0], empty, full[1]], seeds, [2, 3, 1])
    done, flat = fitted(training, graph, task, asked)
    assert torch.equal(flat[1], start)
    assert (done[1].steps, done[1].examples, done[1].loss) == (0, 0, 0.0)
    asked = block(full, [seeds[0], seeds[2]], [2, 1])
    again, two = fitted(training, graph, task, asked)
    assert again == [done[0], done[2]]
    assert (two - flat[[0, 2]]).abs().max() < TOLERANCE


def normed():
    """Two branches that meet, a group norm, both kinds of pooling."""
    return Graph(
        (2, 8, 8),
        (
            Node("a", "conv", ("input",), (("filters", 4), ("kernel", 3), ("padding", 1))),
            Node("n", "norm", ("a",), (("groups", 2), ("style", "group"))),
            act("b", "n", "gelu"),
            Node("m", "maxpool", ("b",), (("kernel", 2),)),
            Node("v", "avgpool", ("b",), (("kernel", 2),)),
            Node("s", "add", ("m", "v")),
            Node("g", "globalpool", ("s",)),
            linear("out", "g", 4),
        ),
    )


@pytest.mark.parametrize("task", TASKS[:3], ids=lambda task: task.kind)
@pytest.mark.parametrize("graph", [picture(), normed()], ids=["picture", "normed"])
def test_stacked_clients_equal_one_at_a_time(graph, task):
    counts, passes = [3, 21, 8], [2, 1, 3]
    data = [rows(graph, count, task, seed) for seed, count in enumerate(counts)]
    seeds = [Seed(9).child(client) for client in range(3)]
    training = LocalTraining(batch=8, learning_rate=0.05, path="stacked")
    start = initialise(graph, Seed(3))
    done, flat = fitted(training, graph, task, block(data, seeds, passes))
    for client, (x, y) in enumerate(data):
        for path in ("flat", "stacked"):  # the second: a block of one
            alone, one = trained(
                graph, task, x, y, replace(training, path=path),
                seed=seeds[client], epochs=passes[client],
            )  # fmt: skip
            assert (alone - start).abs().max() > 100 * TOLERANCE
            assert (alone - flat[client]).abs().max() < TOLERANCE
            assert (one.steps, one.examples) == (done[client].steps, done[client].examples)
            assert done[client].loss == pytest.approx(one.loss, rel=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        Node("n", "norm", ("a",), (("style", "batch"),)),
        Node("n", "dropout", ("a",), (("rate", 0.5),)),
    ],
    ids=lambda node: node.op,
)
def test_what_cannot_be_stacked_is_refused(node):
    graph = Graph(
        (1, 8, 8),
        (
            Node("a", "conv", ("input",), (("filters", 4), ("kernel", 3))),
            node,
            Node("g", "globalpool", ("n",)),
            linear("out", "g", 4),
        ),
    )
    with pytest.raises(IncompatibleParts, match="stacked plain SGD without batch norm"):
        LocalTraining(path="stacked").chosen(graph, TASKS[0])
    with pytest.raises(IncompatibleParts, match="plain SGD"):
        LocalTraining(path="stacked", momentum=0.9).chosen(picture(), TASKS[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_equals_the_plain_loop(channels):
    graph, task = picture(channels), TASKS[0]
    x, y = rows(graph, 17, task)
    chosen = LocalTraining(batch=5, momentum=0.9)
    assert chosen.chosen(graph, task).name == "channels-last"
    slow, _ = trained(graph, task, x, y, LocalTraining(batch=5, momentum=0.9, path="flat"))
    fast, _ = trained(graph, task, x, y, chosen)
    assert (slow - fast).abs().max() < TOLERANCE


def test_gradients_taken_from_autograd_give_the_bits_of_gradients_accumulated():
    graph, task = picture(), TASKS[0]
    x, y = rows(graph, 17, task)
    training = LocalTraining(batch=5, path="flat", learning_rate=0.05)
    fast, _ = trained(graph, task, x, y, training, epochs=1)
    model = Model.of_graph(graph, Seed(3))
    order = torch.from_numpy(Seed(1).child("epoch", 0).numpy().permutation(17).astype(np.int64))
    with model.stored("plain"):
        for start in range(0, 17, 5):
            pick = order[start : start + 5]
            model.zero_grad()
            task.loss(model(x[pick]), y[pick]).backward()
            with torch.no_grad():
                model.weights.add_(model.weights_grad, alpha=-0.05)
    assert torch.equal(fast, model.flat)


def test_the_rule_and_its_reasons():
    task = TASKS[0]
    assert LocalTraining().chosen(logistic(), task).name == "dense"
    assert LocalTraining(momentum=0.9).chosen(logistic(), task).name == "flat"
    assert LocalTraining(patience=2).chosen(logistic(), task).name == "flat"
    assert LocalTraining(path="flat").chosen(picture(), task).reason == "set in the run file"
    assert choose("auto", None, task, plain=True).name == "flat"
    with pytest.raises(IncompatibleParts, match="cannot train this network"):
        LocalTraining(path="dense").chosen(picture(), task)


def test_a_users_own_network_takes_the_plain_loop():
    model = Model.of_module(nn.Linear(6, 4))
    x, y = rows(logistic(), 9, TASKS[0])
    before = model.flat.clone()
    asked = Assignment(x=x, y=y, seed=Seed(0), progress=0, epochs=1)
    LocalTraining(batch=3).fit(model, TASKS[0], asked)
    assert not torch.equal(before, model.flat)


def test_blocks_are_a_pure_function_of_the_round():
    much, little = SHARES * LEAST, SHARES * LEAST - 1
    dense, stacked = Kernel("dense", ""), Kernel("stacked", "")
    assert dense.blocks(7850, 100, much) == [13] * 4 + [12] * 4
    assert dense.blocks(7850, 100, little) == [25] * 4
    assert dense.blocks(199_210, 20, much) == [3] * 4 + [2] * 4
    assert dense.blocks(199_210, 20, little) == [5] * 4
    assert dense.blocks(1_600_000, 20, little) == [1] * 20
    assert dense.blocks(10, 1, little) == [1]
    assert stacked.blocks(1_600_000, 100, much) == [34, 33, 33]
    assert stacked.blocks(7850, 100, much) == [100]
    assert Kernel("flat", "").blocks(7850, 3, much) == [1, 1, 1]
    many = dense.blocks(7850, 10_000, much)
    assert sum(many) == 10_000
    assert max(many) <= BLOCK // (4 * 7850)
    assert len(many) % 8 == 0
