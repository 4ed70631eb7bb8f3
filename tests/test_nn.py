import pytest
import torch
from torch import nn

from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.nn.build import build, initialise
from archipelago.nn.model import Model
from archipelago.space.graph import Graph, Node
from archipelago.space.sketch import Sketch


def everything():
    """A small network with every operation once."""
    sketch = Sketch((2, 9))
    start = sketch.conv(8, kernel=3, bias=False)
    sketch.norm("batch")
    sketch.add("resize", size=10)
    sketch.add("crop")
    sketch.add("norm", style="batch", affine=False)
    first = sketch.add("act", fn="gelu")
    side = sketch.conv(8, kernel=3, groups=8, after=start)
    sketch.norm("group")
    left = sketch.add("act", fn="tanh")
    none = sketch.add("zero", side)
    both = sketch.add("add", left, none, first)
    sketch.add("concat", both, start)
    sketch.add("maxpool", kernel=2)
    sketch.add("avgpool", kernel=3, stride=1, padding=1)
    pooled = sketch.last
    sketch.add("gru", hidden=5, bidirectional=True)
    recurrent = sketch.norm("layer")
    sketch.add("globalpool", pooled)
    mean = sketch.add("identity")
    flat = sketch.add("flatten", pooled)
    sketch.add("concat", recurrent, mean, flat)
    sketch.add("dropout", rate=0.25)
    sketch.dense(6, fn="hardswish")
    sketch.add("linear", features=3)
    return sketch.graph()


def test_every_operation_builds_with_the_layout_and_shape_of_its_graph():
    graph = everything()
    model = Model.of_graph(graph, Seed(0))
    assert set(model.module.state_dict()) == {leaf.name for leaf in graph.layout.leaves}
    assert sum(p.numel() for p in model.module.parameters()) == graph.params
    assert graph.layout.span("stats") == slice(graph.params, graph.params + 32)
    assert model(torch.randn(4, 2, 9)).shape == (4, *graph.outputs)
    # One row, also in training mode: a small client's last batch.
    assert model.train()(torch.randn(1, 2, 9)).isfinite().all()


def test_flat_is_the_network():
    model = Model.of_graph(everything(), Seed(0)).eval()
    x = torch.randn(2, 2, 9)
    before = model(x)
    model.flat.mul_(0.5)
    assert not torch.equal(before, model(x))
    for name, view in model.layout.views(model.flat).items():
        assert model.module.state_dict()[name].data_ptr() == view.data_ptr()


def test_gradients_land_in_one_vector_and_equal_the_modules_own():
    model = Model.of_graph(everything(), Seed(0)).eval()
    x = torch.randn(5, 2, 9)
    model(x).square().sum().backward()
    parameters = list(model.module.parameters())
    wanted = torch.autograd.grad(model(x).square().sum(), parameters)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)
    assert model.weights_grad.abs().sum() > 0
    assert model.grad[model.layout.span("stats")].abs().sum() == 0
    model.zero_grad()
    assert all(parameter.grad.abs().sum() == 0 for parameter in parameters)


def test_training_moves_running_statistics_inside_flat():
    model = Model.of_graph(everything(), Seed(0)).train()
    span = model.layout.span("stats")
    before = model.flat[span].clone()
    model(torch.randn(8, 2, 9))
    assert not torch.equal(before, model.flat[span])


def test_the_start_is_a_pure_function_and_leaves_torch_alone():
    graph = everything()
    before = torch.get_rng_state()
    first = initialise(graph, Seed(1))
    build(graph)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, initialise(graph, Seed(1)))
    assert not torch.equal(first, initialise(graph, Seed(2)))
    assert first.isfinite().all()


def test_the_start_has_kaimings_spread():
    graph = Graph(
        (400,),
        (
            Node("hidden", "linear", ("input",), (("features", 300),)),
            Node("act", "act", ("hidden",)),
            Node("out", "linear", ("act",), (("features", 200),)),
        ),
    )
    views = graph.layout.views(initialise(graph, Seed(0)))
    assert views["hidden.weight"].std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert views["out.weight"].std().item() == pytest.approx((1 / 300) ** 0.5, rel=0.01)
    assert views["hidden.bias"].abs().sum() == 0


def test_a_users_own_network_is_copied_and_aliased():
    own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    model = Model.of_module(own)
    assert [leaf.name for leaf in model.layout.leaves][-2:] == ["1.running_mean", "1.running_var"]
    assert own[1].num_batches_tracked is not None
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(model.eval()(x), own.eval()(x))
    model.load(torch.zeros(model.layout.size))
    assert model(x).abs().sum() == 0
    assert own(x).abs().sum() > 0
    model.load(torch.full((model.layout.size,), 0.1))
    model.train()(x)
    assert not (model.flat[model.layout.span("stats")] == 0.1).any()


def test_tied_weights_lie_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x))

    assert Model.of_module(Tied()).layout.size == 16


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.ReLU(), "has no parameters"),
        (nn.Linear(2, 2).double(), "must be float32"),
        (nn.LazyLinear(2), "no shape yet"),
        (nn.BatchNorm1d(3, momentum=None), "momentum=None"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_network_that_cannot_be_federated_is_refused(module, text):
    with pytest.raises(ConfigError, match=text):
        Model.of_module(module)


def test_a_vector_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="has 8 numbers"):
        Model.of_module(nn.Linear(3, 2)).load(torch.zeros(7))


def test_a_node_named_like_a_method_of_torch_is_refused():
    graph = Graph((2,), (Node("forward", "linear", ("input",), (("features", 1),)),))
    with pytest.raises(ConfigError, match="node 'forward'"):
        build(graph)
