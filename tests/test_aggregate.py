"""Averaging and the FedOpt family, against values computed by hand."""

import pytest
import torch

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerAdagrad, ServerAdam, ServerSgd, ServerYogi
from archipelago.core.errors import ConfigError
from archipelago.core.tree import Layout, Leaf
from archipelago.core.update import Update

LAYOUT = Layout.of([Leaf("w", (2,)), Leaf("running_mean", (1,), "stats")])
DELTA = torch.tensor([0.1, -0.2, 0.5])


ONE = Layout.of([Leaf("w", (1,))])


def update(delta, examples):
    return Update(client=0, delta=torch.tensor([delta]), examples=examples)


def test_the_mean_weighs_by_rows():
    mean = WeightedMean()
    folding = mean.start(ONE)
    mean.fold(folding, update(1.0, 10))
    mean.fold(folding, update(4.0, 30))
    assert mean.finish(folding).item() == pytest.approx(3.25)


def test_equal_weighting_counts_every_client_once():
    mean = WeightedMean(weighting="equal")
    folding = mean.start(ONE)
    mean.fold(folding, update(1.0, 10))
    mean.fold(folding, update(4.0, 30))
    assert mean.finish(folding).item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("server", "moved"),
    [
        (ServerAdam(learning_rate=0.1, beta1=0.9), (0.090503, -0.095126)),
        (ServerYogi(learning_rate=0.1, beta1=0.9), (0.090499, -0.095125)),
        (ServerAdagrad(learning_rate=0.1, beta1=0.9), (0.0099005, -0.0099502)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_one_step_of_fedopt(server, moved):
    # Reddi et al. 2021, algorithm 2, no bias correction, v_0 = tau^2 = 1e-6.
    _, flat = server.step(server.init(LAYOUT), LAYOUT, torch.zeros(3), DELTA)
    assert flat[:2].tolist() == pytest.approx(moved, rel=1e-4)
    assert flat[2].item() == pytest.approx(0.5), "statistics are averaged, never optimised"


def test_a_server_rate_of_one_is_fedavg_to_the_bit():
    server, start = ServerSgd(), torch.randn(3, generator=torch.Generator().manual_seed(0))
    _, flat = server.step(server.init(LAYOUT), LAYOUT, start, DELTA)
    assert torch.equal(flat, start + DELTA)


def test_momentum_adds_up():
    server = ServerSgd(momentum=0.5)
    state, flat = server.step(server.init(LAYOUT), LAYOUT, torch.zeros(3), DELTA)
    _, flat = server.step(state, LAYOUT, flat, DELTA)
    assert flat[:2].tolist() == pytest.approx([0.25, -0.5])


def test_a_rate_out_of_range_says_where():
    with pytest.raises(ConfigError, match=r"server.learning_rate: must lie in \(0, 100\]"):
        ServerAdam(learning_rate=0)
