"""Published spaces and networks: sizes, parameters and MACs are those of the papers and tables."""

import os
from itertools import pairwise
from math import comb
from random import Random

import numpy as np
import pytest
from networks import agrees
from tables import need_bench

from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.space.cell201 import NasBench201, NasBench201Size
from archipelago.space.darts import Darts, genotype
from archipelago.space.family import Family
from archipelago.space.graph import Graph
from archipelago.space.macro import Macro, rounded
from archipelago.space.multi_branch import MultiBranch
from archipelago.space.nasbench201 import EDGES, OPS, arch_of
from archipelago.space.sketch import Sketch
from archipelago.space.zoo import NETWORKS, Zoo

IMAGENET, CIFAR = ((3, 224, 224), 1000), ((3, 32, 32), 10)

FAMILIES = {
    "nas-bench-201": NasBench201(channels=4, cells=1),
    "nas-bench-201-size": NasBench201Size(widths=(2, 4, 6), norm="group"),
    "darts": Darts(channels=4, layers=3),
    "multi-branch": MultiBranch(filters=(4, 8)),
    "macro": Macro(widths=(4, 8)),
    "zoo": Zoo(widths=(0.0625,), networks=("lenet", "vgg11", "inception", "mobilenet-v2")),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@every_family
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 21, 12), (2, 1, 1)], ids=str)
def test_members_run_forward_and_backward_and_cost_what_they_say(name, shape):
    family, rng = FAMILIES[name], Random(sum(shape))
    assert isinstance(family, Family)
    space = family.space(shape, 3)
    for _ in range(2):
        arch = space.mutate(space.sample(rng), rng)
        agrees(family.graph(arch, shape, 3), shape, 3)
    assert space.decode(space.encode(arch)) == arch
    agrees(family.baseline(shape, 3), shape, 3)


@every_family
def test_equal_keys_are_equal_networks(name):
    family, rng = FAMILIES[name], Random(4)
    space = family.space((1, 8, 8), 2)
    graphs = {}
    for _ in range(20):
        arch = space.sample(rng)
        graph = family.graph(arch, (1, 8, 8), 2)
        known = graphs.setdefault(space.canonical(arch), graph)
        if name != "nas-bench-201":  # there the key prunes what the benchmark builds and trains
            assert known.key == graph.key


@every_family
def test_a_space_of_pictures_says_so(name):
    with pytest.raises(IncompatibleParts, match="needs images"):
        FAMILIES[name].space((9, 128), 2)


def test_sizes_of_the_published_spaces():
    darts, size = Darts().space(*CIFAR), NasBench201Size().space(*CIFAR)
    cell = np.prod([comb(node + 2, 2) * 7**2 for node in range(4)], dtype=object)
    assert darts.size == cell**2
    assert cell == pytest.approx(1.04e9, rel=0.005)
    assert darts.size == pytest.approx(1.08e18, rel=0.005)
    assert size.size == 32_768
    assert NasBench201().space(*CIFAR).size == 15_625


def test_networks_of_nas_bench_201_cost_what_the_table_says():
    need_bench()
    table = np.load(os.path.join(os.environ["ARCHIPELAGO_BENCH"], "nb201.npz"))
    names = [f"edge{a}{b}" for a, b in EDGES]
    for row in (0, 15_624, *Random(0).sample(range(15_625), 12)):
        arch = dict(zip(names, (OPS[op] for op in table["ops"][row]), strict=True))
        for column, (outputs, side) in enumerate(((10, 32), (100, 32), (120, 16))):
            graph = NasBench201().graph(arch, (3, side, side), outputs)
            assert graph.params == table["params"][row, column]
            assert graph.macs == table["macs"][row, column]


def test_equal_widths_make_the_size_space_meet_the_cell_space():
    """With one width a cell of the size space is the residual cell of the other space."""
    shape, outputs = CIFAR
    size = NasBench201Size().graph({f"width{i}": 16 for i in range(5)}, shape, outputs)
    by_hand = Sketch(shape)
    by_hand.conv(16, kernel=3, bias=False)
    conv, norm = 16 * 16 * 9, 2 * 16
    cell, block = 5 * (conv + norm), 2 * (conv + norm) + 16 * 16
    stem, head = 3 * 16 * 9 + norm, norm + 16 * 10 + 10
    assert size.params == stem + 3 * cell + 2 * block + head


V2 = genotype(
    normal=(
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("skip_connect", 0),
        ("dil_conv_3x3", 2),
    ),
    reduce=(
        ("max_pool_3x3", 0),
        ("max_pool_3x3", 1),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
        ("max_pool_3x3", 0),
        ("skip_connect", 2),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
    ),
)


def test_the_published_darts_cell_has_its_published_size():
    # The released code prints 3.349342 million for this genotype at 36 channels and 20 layers.
    family = Darts(channels=36, layers=20, norm="batch")
    family.space(*CIFAR).check(V2)
    assert family.graph(V2, *CIFAR).params == 3_349_342


# Parameters, and MACs where published, at 224 x 224 and 1,000 classes; LeNet-5 at 28 x 28 and 10.
PUBLISHED = {
    "lenet": (61_706, 416_520),
    "vgg11": (132_863_336, None),
    "vgg16": (138_357_544, 15_470_264_320),
    "inception": (6_624_904, None),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet50": (25_557_032, 4_089_184_256),
    "densenet121": (7_978_856, None),
    "mobilenet-v2": (3_504_872, 300_774_272),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_zoo_have_their_published_sizes(name):
    shape, outputs = IMAGENET if name != "lenet" else ((1, 28, 28), 10)
    params, macs = PUBLISHED[name]
    graph = Zoo(norm="batch").graph({"network": name, "width": 1.0}, shape, outputs)
    assert graph.params == params
    assert macs in (None, graph.macs)
    half = Zoo(norm="batch").graph({"network": name, "width": 0.5}, shape, outputs)
    assert 0.2 < half.params / graph.params < 0.55


def test_compound_scaling_doubles_the_work_with_each_step():
    family = Macro()
    base = {"depth": 10, "width": 64, "resolution": 1.0, "connection": "residual"}
    assert family.compound(0, base) == base
    graphs = [family.graph(family.compound(phi, base), (3, 64, 64), 10) for phi in range(5)]
    for small, large in pairwise(graphs):
        assert large.macs / small.macs == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("channels", [1, 8, 8.8, 11.9, 35.2, 70.4, 101])
def test_rounded_channels_are_multiples_of_eight_and_lose_at_most_a_tenth(channels):
    assert rounded(channels) % 8 == 0
    assert rounded(channels) >= 0.9 * channels


def test_connections_of_the_macro_space_differ_only_where_there_is_something_to_connect():
    space = Macro().space(*CIFAR)
    one = {"width": 16, "resolution": 1.0, "depth": 1}
    assert len({space.canonical({**one, "connection": c}) for c in ("chain", "dense")}) == 1
    two = {**one, "depth": 2}
    kinds = ("chain", "residual", "dense")
    assert len({space.canonical({**two, "connection": c}) for c in kinds}) == 3


def test_chains_and_dense_blocks_are_points_of_the_multi_branch_space():
    family = MultiBranch(layers=2, stages=1, operations=("conv3", "conv5"), filters=(8, 16))
    shape, chain = (1, 8, 8), {"filters": 8, "join": "concat"}
    chain |= {"stage0.layer0.op": "conv3", "stage0.layer1.op": "conv5"}
    sketch = Sketch(shape)
    for kernel in (3, 3, 5):
        sketch.conv(8, kernel=kernel)
        sketch.norm("group")
        sketch.add("act")
    sketch.add("maxpool", kernel=2)
    sketch.add("globalpool")
    sketch.add("linear", features=2)
    linked = family.graph({**chain, "stage0.layer1.reads0": True}, shape, 2)
    apart = family.graph({**chain, "stage0.layer1.reads0": False}, shape, 2)
    assert linked.key == sketch.graph().key
    assert "concat" in {node.op for node in apart.nodes}
    assert apart.key != linked.key


def test_a_cell_of_skips_keeps_its_input():
    arch = arch_of("|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    graph = NasBench201(channels=4, cells=1).graph(arch, (1, 8, 8), 2)
    assert "zero" in {node.op for node in graph.nodes}
    assert Graph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Darts(channels=1), "space.channels: must be at least 2"),
        (lambda: NasBench201(norm="bach"), "did you mean 'batch'"),
        (lambda: NasBench201Size(widths=()), "offer at least one"),
        (lambda: Macro(connections=("loop",)), "no such choice"),
        (lambda: Macro(resolutions=(0.0,)), "space.resolutions: must lie in"),
        (lambda: MultiBranch(joins=("sum",)), "no such choice"),
        (lambda: Zoo(networks=("resnet19",)), "did you mean 'resnet18'"),
        (lambda: Zoo(networks=("lenet",), widths=(1.0,)).space(*CIFAR), "nothing to search"),
    ],
)
def test_a_bad_family_is_refused(build, text):
    with pytest.raises(ConfigError, match=text):
        build()
