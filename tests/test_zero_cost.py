"""Zero-cost proxies: closed forms, autograd, untouched networks; centrally and on clients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archipelago.config.load import loads
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.estimate.zero_cost import ZeroCost
from archipelago.journal.journal import Journal
from archipelago.nn.model import Model
from archipelago.nn.proxies import LABELLED, PROXIES, proxy
from archipelago.space.image_chain import ImageChain
from archipelago.space.sketch import Sketch
from archipelago.study.planning.plan import plan
from archipelago.study.running.search import search


def drawn(shape, seed=0):
    return torch.from_numpy(Seed(seed).numpy().standard_normal(shape, "float32"))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def convolutional():
    sketch = Sketch((1, 6, 6))
    for filters in (4, 6):
        sketch.conv(filters, kernel=3)
        sketch.norm("batch")
        sketch.add("act")
    sketch.add("globalpool")
    sketch.add("dropout", rate=0.5)
    sketch.add("linear", features=3)
    return Model.of_graph(sketch.graph(), Seed(1))


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_leaves_network_gradients_and_chance_alone(name):
    model, state = convolutional(), torch.get_rng_state()
    model.train()
    before, grad = model.flat.clone(), model.grad.clone()
    first = proxy(name, model.module, drawn((8, 1, 6, 6)), LABELS, F.cross_entropy)
    again = proxy(name, model.module, drawn((8, 1, 6, 6)), LABELS, F.cross_entropy)
    assert first == again
    assert math.isfinite(first)
    assert torch.equal(model.flat, before)
    assert torch.equal(model.grad, grad)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.module.training


@pytest.mark.parametrize("name", sorted(set(PROXIES) - {*LABELLED}))
def test_only_two_proxies_look_at_the_targets(name):
    model, x = convolutional(), drawn((8, 1, 6, 6))
    a = proxy(name, model.module, x, LABELS, F.cross_entropy)
    assert a == proxy(name, model.module, x, LABELS.flip(0), F.cross_entropy)


def linear(*weights):
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight
        layers.append(layer)
    return nn.Sequential(*layers)


def test_synflow_of_a_linear_chain_is_its_depth_times_its_flow():
    # By Euler's theorem every layer holds the whole of R = 1^T |W2| |W1| 1.
    first, second = drawn((5, 4), 1), drawn((3, 5), 2)
    flow = (second.abs() @ first.abs()).sum().item()
    value = proxy("synflow", linear(first, second), drawn((2, 4)), LABELS, F.cross_entropy)
    assert value == pytest.approx(2 * flow, rel=1e-6)


def test_synflow_does_not_see_data_signs_or_norms():
    model = convolutional()
    a = proxy("synflow", model.module, drawn((8, 1, 6, 6), 1), LABELS, F.cross_entropy)
    assert a == proxy("synflow", model.module, drawn((2, 1, 6, 6), 2), LABELS, F.cross_entropy)
    model.load(-model.flat)
    assert a == proxy("synflow", model.module, drawn((8, 1, 6, 6)), LABELS, F.cross_entropy)


def test_snip_is_the_gradient_of_a_mask():
    weights = [drawn((5, 4), 1), drawn((3, 5), 2)]
    x, y = drawn((8, 4)), LABELS
    masks = [torch.ones_like(w, requires_grad=True) for w in weights]
    F.cross_entropy(x @ (weights[0] * masks[0]).T @ (weights[1] * masks[1]).T, y).backward()
    wanted = sum(mask.grad.abs().sum().item() for mask in masks)
    value = proxy("snip", linear(*weights), x, y, F.cross_entropy)
    assert value == pytest.approx(wanted, rel=1e-5)


def test_the_gradient_norm_of_softmax_regression_is_the_textbook_one():
    weight, x, y = drawn((3, 4), 1), drawn((8, 4)), LABELS
    error = (torch.softmax(x @ weight.T, 1) - F.one_hot(y, 3)) / 8
    wanted = (error.T @ x).norm().item()
    assert proxy("grad-norm", linear(weight), x, y, F.cross_entropy) == pytest.approx(wanted)


def test_naswot_of_one_layer_counts_agreeing_units():
    weight, x = drawn((6, 4), 1), drawn((5, 4))
    network = nn.Sequential(*linear(weight), nn.ReLU())
    codes = (x @ weight.T > 0).numpy()
    kernel = np.array([[(a == b).sum() for b in codes] for a in codes])
    wanted = math.log(abs(np.linalg.det(kernel)))
    assert proxy("naswot", network, x, LABELS[:5], F.cross_entropy) == pytest.approx(wanted)
    twice = torch.cat([x[:1], x[:1]])
    assert proxy("naswot", network, twice, LABELS[:2], F.cross_entropy) == -math.inf


def test_the_jacobian_of_a_linear_network_sees_no_difference_between_examples():
    # Every example has the same input gradient: eigenvalues n, 0, ..., 0.
    n, k = 4, 1e-5
    wanted = -(math.log(n + k) + 1 / (n + k) + (n - 1) * (math.log(k) + 1 / k))
    value = proxy("jacobian", linear(drawn((3, 6), 1)), drawn((n, 6)), LABELS[:n], F.cross_entropy)
    assert value == pytest.approx(wanted, rel=1e-6)


def test_the_parameter_count_is_a_proxy_too():
    model = convolutional()
    x = drawn((8, 1, 6, 6))
    value = proxy("params", model.module, x, LABELS, F.cross_entropy)
    assert value == model.layout.span("weights").stop


TEXT = """
name = "proxies"
seed = 3
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 4
[space]
kind = "table-mlp"
layers = 2
[strategy]
kind = "random"
[estimator]
kind = "zero-cost"
proxy = "PROXY"
where = "WHERE"
candidates = 4
batch = 16
[budget]
trials = 8
[final]
rounds = 2
references = false
[engine]
kind = "serial"
"""


@pytest.mark.parametrize(
    ("name", "where"),
    [("synflow", "clients"), ("grad-norm", "clients"), ("synflow", "server"), ("params", "server")],
)
def test_a_search_by_proxy_trains_the_winner_only(name, where, tmp_path):
    run = loads(TEXT.replace("PROXY", name).replace("WHERE", where))
    study = search(run, out=tmp_path / "run")
    outcomes = list(study)
    with Journal.open(tmp_path / "run", write=False) as journal:
        rows = [row for row in journal.meter() if row.phase == "search"]
    assert len(outcomes) == 8
    best = max(outcomes, key=lambda o: (o.status == "done", o.score))
    assert study.result.best.arch == best.arch
    for outcome in outcomes:
        assert outcome.metrics["params"] == outcome.costs["params"]
        assert outcome.score == outcome.metrics[name]
    assert all(row.kind == "evaluate" for row in rows)
    if where == "server":
        assert rows == []
        return
    visit = next(row for row in rows if row.branch == 0 and row.client == 0)
    assert len(rows) == 8 * 4
    assert visit.macs == 3 * outcomes[0].costs["macs"] * visit.examples
    assert visit.bytes_down > 4 * outcomes[0].costs["params"]
    assert 0 < visit.bytes_up < 1000
    assert plan(run).visits == 2 * 4  # fits of final training alone


def test_clients_and_server_agree_where_no_data_are_needed(tmp_path):
    scores = []
    for where in ("clients", "server"):
        run = loads(TEXT.replace("PROXY", "synflow").replace("WHERE", where))
        scores.append([o.score for o in search(run, out=tmp_path / where)])
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)


def test_a_proxy_that_needs_labels_is_refused_on_the_server():
    with pytest.raises(ConfigError, match="the server has none"):
        ZeroCost(proxy="snip", where="server")


def test_every_proxy_is_defined_on_members_of_a_real_space():
    family, shape = ImageChain(norms=("batch",)), (1, 8, 8)
    space = family.space(shape, 3)
    for seed in range(3):
        graph = family.graph(space.sample(Seed(seed).rng()), shape, 3)
        model = Model.of_graph(graph, Seed(seed))
        for name in PROXIES:
            value = proxy(name, model.module, drawn((8, *shape)), LABELS, F.cross_entropy)
            assert math.isfinite(value), name
