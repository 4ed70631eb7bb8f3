import json
import pickle
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import agrees

from archipelago.core.errors import ConfigError
from archipelago.space.constraints import Constraint, parse
from archipelago.space.graph import Graph, Node
from archipelago.space.image_chain import ImageChain
from archipelago.space.series_chain import SeriesChain
from archipelago.space.sketch import Sketch
from archipelago.space.table_mlp import TableMlp


def two_convolutions():
    sketch = Sketch((1, 28, 28))
    for filters in (32, 64):
        sketch.conv(filters, kernel=5)
        sketch.add("act")
        sketch.shrink("maxpool")
    sketch.add("flatten")
    sketch.dense(512)
    sketch.add("linear", features=10)
    return sketch.graph()


def perceptron():
    sketch = Sketch((784,))
    sketch.dense(200)
    sketch.dense(200)
    sketch.add("linear", features=10)
    return sketch.graph()


def test_mcmahans_networks_have_the_published_sizes():
    # McMahan et al. 2017, section 3: 1,663,370 and 199,210 parameters.
    cnn, mlp = two_convolutions(), perceptron()
    assert (cnn.params, mlp.params) == (1_663_370, 199_210)
    assert mlp.macs == 784 * 200 + 200 * 200 + 200 * 10
    assert cnn.macs == 784 * 25 * 32 + 196 * 25 * 32 * 64 + 3136 * 512 + 512 * 10
    assert mlp.bytes_per_round == 8 * 199_210
    assert cnn.node_costs["conv0"] == (32 * 26, 784 * 25 * 32)


CASES = {
    "digits": (ImageChain(), (1, 8, 8), 10),
    "one pixel wide": (ImageChain(layers=6), (3, 1, 20), 2),
    "large picture": (ImageChain(layers=2, norms=("batch", "layer")), (3, 150, 90), 5),
    "har": (SeriesChain(), (9, 128), 6),
    "sound": (SeriesChain(layers=2), (1, 4000), 10),
    "one step": (SeriesChain(layers=3), (2, 1), 3),
    "table": (TableMlp(), (13,), 2),
    "one column": (TableMlp(layers=2), (1,), 1),
}
every_case = pytest.mark.parametrize(("family", "shape", "outputs"), CASES.values(), ids=CASES)


@every_case
@given(rng=st.integers(0, 2**32).map(Random))
def test_members_build_and_travel(family, shape, outputs, rng):
    space = family.space(shape, outputs)
    arch = space.mutate(space.sample(rng), rng)
    graph = family.graph(arch, shape, outputs)
    assert graph.outputs == (outputs,)
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
    again = pickle.loads(pickle.dumps(space))
    assert again.canonical(arch) == graph.key == space.canonical(arch)


@every_case
@settings(max_examples=15)
@given(rng=st.integers(0, 2**32).map(Random))
def test_torch_agrees_on_names_shapes_and_costs(family, shape, outputs, rng):
    graph = family.graph(family.space(shape, outputs).sample(rng), shape, outputs)
    agrees(graph, shape, outputs)


@every_case
def test_the_baseline_is_a_network_too(family, shape, outputs):
    agrees(family.baseline(shape, outputs), shape, outputs)


def test_choices_without_effect_share_a_key():
    space = ImageChain().space((1, 1, 1), 10)
    arch = next(iter(space.enumerate())) | {"layer0.reduce": "none", "head": "globalpool"}
    assert space.canonical(arch) == space.canonical({**arch, "layer0.reduce": "maxpool"})
    assert space.canonical(arch) == space.canonical({**arch, "layer0.reduce": "stride"})
    assert space.canonical(arch) != space.canonical({**arch, "layer0.filters": 64})
    # One channel before, eight after: no skip is possible.
    assert space.canonical(arch) == space.canonical({**arch, "layer0.skip": True})


@pytest.mark.parametrize(
    ("shape", "groups"), [((16, 8, 8), 8), ((12, 8, 8), 4), ((8, 2, 2), 2), ((8, 1, 1), 1)]
)
def test_no_group_of_a_norm_is_too_small_to_average(shape, groups):
    sketch = Sketch(shape)
    sketch.norm("group")
    assert sketch.graph().nodes[0].settings["groups"] == groups


def test_most_members_for_digits_are_small():
    family, space, rng = ImageChain(), ImageChain().space((1, 8, 8), 10), Random(0)
    params = sorted(family.graph(space.sample(rng), (1, 8, 8), 10).params for _ in range(200))
    assert 5_000 < params[100] < 60_000


def test_neutral_nodes_and_names_do_not_change_the_key():
    plain = Graph((4,), (Node("a", "linear", ("input",), (("features", 2),)),))
    padded = Graph(
        (4,),
        (
            Node("same", "identity", ("input",)),
            Node("none", "norm", ("same",), (("style", "none"),)),
            Node("keep", "dropout", ("none",), (("rate", 0.0),)),
            Node("b", "linear", ("keep",), (("features", 2), ("bias", True))),
        ),
    )
    assert plain.key == padded.key
    assert plain.key != Graph((5,), plain.nodes).key
    layer = Node("n", "norm", ("input",), (("style", "layer"),))
    group = Node("n", "norm", ("input",), (("style", "group"), ("groups", 1)))
    batch = Node("n", "norm", ("input",), (("style", "batch"),))
    assert Graph((4,), (layer,)).key == Graph((4,), (group,)).key != Graph((4,), (batch,)).key


def node(**changes):
    return {"name": "a", "op": "linear", "inputs": ["input"], "attrs": {"features": 2}} | changes


def doc(*nodes, shape=(4,), **more):
    return {"format": 1, "input_shape": list(shape), "nodes": list(nodes), **more}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "object of format"),
        ([], "object of format"),
        (doc(node(), extra=1), "object of format"),
        (doc(node()) | {"format": 2}, "install a newer"),
        (doc(), "1 to 2000 nodes"),
        (doc(*[node()] * 3000), "1 to 2000 nodes"),
        (doc(node(), shape=()), "positive sizes"),
        (doc(node(), shape=(0,)), "positive sizes"),
        (doc(node(), shape=("4",)), "positive sizes"),
        (doc(node(), shape=(2**20, 2**20)), "at most"),
        (doc(3), "node 0: a node is an object"),
        (doc(node(inputs=[1])), "node 0"),
        (doc(node(more=1)), "node 0"),
        (doc(node(op="lineal")), "node 'a'.*\n.*\n.*did you mean 'linear'"),
        (doc(node(op="__import__")), "node 'a': no such operation"),
        (doc(node(name="a.b")), "a node's name is"),
        (doc(node(name="input")), "a node's name is"),
        (doc(node(inputs=["b"])), "node 'a': no such node before"),
        (doc(node(inputs=["a"])), "no such node before"),
        (doc(node(), node()), "two nodes share a name"),
        (doc(node(), node(name="b")), "node 'a': its output is never used"),
        (doc(node(inputs=[])), "takes 1 inputs"),
        (doc(node(attrs={})), "linear needs features"),
        (doc(node(attrs={"features": 2.0})), "of type int"),
        (doc(node(attrs={"features": True})), "of type int"),
        (doc(node(attrs={"features": [2]})), "of type int"),
        (doc(node(attrs={"features": 10**12})), "must lie in"),
        (doc(node(attrs={"featurs": 2})), "did you mean 'features'"),
        (doc(node(attrs={"features": 60_000}), shape=(60_000,)), "one tensor holds at most"),
        (doc(node(op="dropout", attrs={"rate": float("nan")})), "must lie in"),
        (doc(node(op="act", attrs={"fn": "rely"})), "did you mean 'relu'"),
        (doc(node(op="flatten", attrs={"x": 1})), "takes no attributes"),
        (doc(node(op="conv", attrs={"filters": 2, "kernel": 3})), "node 'a': conv needs"),
        (
            doc(node(op="conv", attrs={"filters": 2, "kernel": 9}), shape=(1, 8, 8)),
            "shrinks its input to nothing",
        ),
        (
            doc(node(op="conv", attrs={"filters": 3, "kernel": 1, "groups": 2}), shape=(2, 8)),
            "groups must divide",
        ),
        (doc(node(), shape=(2, 8)), "put a flatten before it"),
        (doc(node(op="maxpool", attrs={"padding": 2}), shape=(2, 8)), "half its kernel"),
        (doc(node(op="norm", attrs={"groups": 4})), "always normalised to 0"),
        (doc(node(op="norm", attrs={"groups": 3})), "must divide the channels"),
        (doc(node(op="gru", attrs={"hidden": 2})), "gru needs"),
        (doc(node(), node(name="b", op="add", inputs=["a", "input"], attrs={})), "one shape"),
        (
            doc(
                node(op="flatten", attrs={}),
                node(name="b", op="concat", inputs=["a", "input"], attrs={}),
                shape=(2, 3),
            ),
            "channels only",
        ),
    ],
)
def test_a_hostile_file_is_refused_by_name(data, text):
    with pytest.raises(ConfigError, match=text):
        Graph.from_json(data)


def test_too_many_parameters_in_all_are_refused():
    wide = {"features": 16_000}
    nodes = [
        node(name=f"n{i}", inputs=[f"n{i - 1}" if i else "input"], attrs=wide) for i in range(9)
    ]
    with pytest.raises(ConfigError, match="at most 1073741824 parameters"):
        Graph.from_json(doc(*nodes, shape=(16_000,)))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: ImageChain(kernels=(4,)), "space.kernels: a kernel must be odd"),
        (lambda: ImageChain(filters=()), "space.filters: offer at least one"),
        (lambda: ImageChain(norms=("grup",)), "did you mean 'group'"),
        (lambda: ImageChain(activation="rely"), "did you mean 'relu'"),
        (lambda: SeriesChain(hidden=(0,)), "space.hidden: must be at least 1"),
        (lambda: TableMlp(dropouts=(1.0,)), "space.dropouts: must lie in"),
        (lambda: TableMlp(activations=()), "space.activations: offer at least one"),
        (lambda: ImageChain().space((9, 128), 6), "use series-chain for series"),
        (lambda: SeriesChain().baseline((9,), 6), "table-mlp for tables"),
        (lambda: TableMlp().graph({}, (1, 8, 8), 6), "use image-chain for images"),
        (
            lambda: TableMlp(
                layers=1, widths=(8,), activations=("relu",), dropouts=(0.0, 0.0)
            ).space((3,), 2),
            "two options of one choice are equal",
        ),
    ],
)
def test_a_bad_family_is_refused(build, text):
    with pytest.raises(ConfigError, match=text):
        build()


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("params < 100k", Constraint("params", 100_000)),
        ("macs<=5M", Constraint("macs", 5e6, strict=False)),
        (" bytes_per_round < 200_000 ", Constraint("bytes_per_round", 200_000)),
        ("macs < 1.5g", Constraint("macs", 1.5e9)),
    ],
)
def test_limits_are_read_as_people_write_them(text, limit):
    assert parse(text) == limit
    assert parse(str(limit)) == limit


def test_a_limit_holds_below_it_and_at_it_only_when_it_says_so():
    costs = perceptron().costs
    assert parse("params <= 199210").holds(costs)
    assert not parse("params < 199210").holds(costs)
    assert parse("macs < 1M").holds(costs)
    assert not parse("bytes_per_round < 1M").holds(costs)
    assert str(parse("params < 100000")) == "params < 100k"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parms < 3", "did you mean 'params'"),
        ("params > 3", 'write "params < 100k"'),
        ("params < 3T", "in k, M or G"),
        ("params < 0", "above 0"),
        ("params", "cannot be read"),
        ("params < -3", "cannot be read"),
        ("params < 1e999", "above 0"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_the_families_load_without_torch():
    import subprocess
    import sys

    code = (
        "import sys, archipelago.space.image_chain, archipelago.space.series_chain,"
        " archipelago.space.table_mlp, archipelago.space.constraints;"
        " assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
