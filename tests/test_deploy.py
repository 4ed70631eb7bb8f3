"""Export: every operation equals torch, for any batch; the manifest; measurements; refusals."""

import json
import random

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from archipelago.core.errors import ConfigError, DataError, RunFailed
from archipelago.core.seeds import Seed
from archipelago.data.preparation import Column, Preparation
from archipelago.data.shards import Signature
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.deploy.export import TOLERANCE, export_module, export_onnx
from archipelago.deploy.manifest import KEY, Manifest
from archipelago.deploy.measure import measure, verify
from archipelago.deploy.session import Session
from archipelago.deploy.translate import TRANSLATORS
from archipelago.nn.model import Model
from archipelago.space.ops import ACTIVATIONS, OPS
from archipelago.space.sketch import Sketch

CLASSES = ("a", "b", "c")


def described(shape, task=None):
    """A preparation and a signature of rows of this shape."""
    modality = {1: "table", 2: "series", 3: "image"}[len(shape)]
    if modality == "table":
        columns = tuple(Column(name=f"x{i}", kind="number", scale=2.0) for i in range(shape[0]))
        preparation = Preparation(modality="table", shape=shape, columns=columns)
    else:
        multiply = tuple(0.01 * (1 + c) for c in range(shape[0]))
        add = tuple(-1.0 - c for c in range(shape[0]))
        preparation = Preparation(modality=modality, shape=shape, multiply=multiply, add=add)
    task = task or Classification(classes=CLASSES)
    return preparation, Signature(modality=modality, shape=shape, task=task)


def trained(graph, seed=0):
    """A network whose every tensor matters: no zero bias, no neutral statistics."""
    model = Model.of_graph(graph, Seed(seed)).eval()
    noise = torch.from_numpy(Seed(seed).numpy().standard_normal(model.flat.shape, "float32"))
    model.load(model.flat + 0.1 * noise)
    for name, view in model.layout.views(model.flat).items():
        if name.endswith("running_var"):
            view.abs_().add_(0.5)
    return model


def rows_of(shape, count=7, seed=0):
    return torch.from_numpy(Seed(seed).numpy().standard_normal((count, *shape), "float32"))


def differs(graph, path, seed=0, task=None):
    model = trained(graph, seed)
    rows = rows_of(graph.input_shape)
    shipped = export_onnx(graph, model.flat, *described(graph.input_shape, task), path, rows=rows)
    assert shipped.rows == 7
    assert shipped.bytes == path.stat().st_size
    return shipped.max_difference


def random_image(rng):
    sketch = Sketch((rng.choice([1, 3]), rng.randint(6, 11), rng.randint(6, 11)))
    for _ in range(rng.randint(1, 3)):
        before = sketch.last
        filters = rng.choice([4, 8])
        kernel = rng.choice([1, 3, 5])
        sketch.conv(filters, kernel=kernel, stride=rng.choice([1, 1, 2]), bias=rng.random() < 0.5)
        sketch.norm(rng.choice(["group", "batch", "layer", "none"]))
        act = sketch.add("act", fn=rng.choice(ACTIVATIONS))
        if rng.random() < 0.5:
            deep = sketch.conv(filters, kernel=3, groups=filters)
            sketch.add(rng.choice(["add", "concat"]), act, deep)
        del before
        sketch.shrink(rng.choice(["maxpool", "avgpool"]))
    sketch.add(rng.choice(["globalpool", "flatten"]))
    return head(sketch, rng)


def random_series(rng):
    sketch = Sketch((rng.randint(1, 4), rng.randint(8, 17)))
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.5 and sketch.shape()[1] > 4:
            kernel = rng.choice([2, 3])
            sketch.add("conv", filters=6, kernel=kernel, dilation=rng.choice([1, 2]))
        else:
            sketch.conv(8, kernel=5)
        sketch.norm(rng.choice(["group", "batch", "layer"]))
        sketch.add("act", fn=rng.choice(ACTIVATIONS))
        if min(sketch.shape()[1:]) > 3:
            sketch.add(rng.choice(["maxpool", "avgpool"]), kernel=3, stride=2, padding=1)
    if rng.random() < 0.6:
        sketch.add("gru", hidden=rng.randint(1, 9), bidirectional=rng.random() < 0.5)
    else:
        sketch.add("globalpool")
    return head(sketch, rng)


def random_table(rng):
    sketch = Sketch((rng.randint(1, 20),))
    for _ in range(rng.randint(0, 3)):
        sketch.dense(8, fn=rng.choice(ACTIVATIONS))
        wide = sketch.norm(rng.choice(["group", "batch", "layer", "none"]))
        sketch.add("dropout", rate=0.3)
        if rng.random() < 0.5:
            sketch.add("linear", features=8, bias=False)
            sketch.add("add", sketch.last, wide)
    return head(sketch, rng)


def head(sketch, rng):
    if rng.random() < 0.5:
        sketch.dense(5, fn=rng.choice(ACTIVATIONS))
    sketch.add("linear", features=3)
    return sketch.graph()


@pytest.mark.parametrize("family", [random_image, random_series, random_table])
def test_random_networks_equal_torch_for_any_batch(family, tmp_path):
    seen = set()
    for seed in range(15):
        graph = family(random.Random(seed))
        seen |= {node.op for node in graph.nodes}
        path = tmp_path / f"{seed}.onnx"
        assert differs(graph, path, seed) <= 1e-5
        session = Session.open(path)
        for count in (1, 3):
            logits, scores = session.run(rows_of(graph.input_shape, count).numpy())
            assert logits.shape == scores.shape == (count, 3)
            assert scores.sum(1) == pytest.approx(np.ones(count), abs=1e-5)
    assert "norm" in seen


def corner(draw):
    """Graphs that hold one operation in one setting."""
    sketch = Sketch((4, 9))
    draw(sketch)
    if len(sketch.shape()) > 1:
        sketch.add("flatten")
    sketch.add("linear", features=3)
    return sketch.graph()


CORNERS = {
    "gru": lambda s: s.add("gru", hidden=5),
    "gru-both": lambda s: s.add("gru", hidden=5, bidirectional=True),
    "depthwise": lambda s: s.conv(8, kernel=3, groups=4),
    "group": lambda s: s.add("norm", style="group", groups=2),
    "layer": lambda s: s.add("norm", style="layer"),
    "batch": lambda s: s.add("norm", style="batch"),
    "none": lambda s: s.add("norm", style="none"),
    "group-plain": lambda s: s.add("norm", style="group", groups=2, affine=False),
    "batch-plain": lambda s: s.add("norm", style="batch", affine=False),
    "crop": lambda s: s.add("crop", start=2),
    "resize-down": lambda s: s.add("resize", size=6),
    "resize-up": lambda s: s.add("resize", size=13),
    "zero": lambda s: s.add(
        "add", s.add("zero", "input"), s.add("conv", "input", filters=4, kernel=1)
    ),
    "identity": lambda s: s.add("identity"),
    "maxpool-wide": lambda s: s.add("maxpool", kernel=5, stride=1, padding=2),
    "avgpool-wide": lambda s: s.add("avgpool", kernel=4, stride=3, padding=2),
    "avgpool-one": lambda s: s.add("avgpool", kernel=1),
    "sum-of-three": lambda s: s.add(
        "add", *(s.add("act", "input", fn=f) for f in ("relu", "tanh", "gelu"))
    ),
    "concat": lambda s: s.add("concat", "input", s.conv(2, kernel=3)),
    "globalpool": lambda s: s.add("globalpool"),
    "dropout": lambda s: s.add("dropout", rate=0.9),
    **{fn: (lambda s, fn=fn: s.add("act", fn=fn)) for fn in ACTIVATIONS},
}


@pytest.mark.parametrize("name", CORNERS)
def test_each_operation_equals_torch(name, tmp_path):
    assert differs(corner(CORNERS[name]), tmp_path / "m.onnx") <= 1e-5


@pytest.mark.parametrize("size", [5, 8, 10, 23])
def test_pictures_are_resized_and_cropped_as_torch_does(size, tmp_path):
    sketch = Sketch((2, 9, 7))
    sketch.add("resize", size=size)
    sketch.add("crop")
    sketch.add("flatten")
    sketch.add("linear", features=3)
    graph = sketch.graph()
    assert graph.shapes["resize0"] == (2, size, round(7 * size / 9 + 1e-9))
    assert differs(graph, tmp_path / "m.onnx") <= 1e-5


def test_every_operation_has_a_translator():
    assert set(TRANSLATORS) == set(OPS)


def small(shape=(1, 6, 6), outputs=3):
    sketch = Sketch(shape)
    if len(shape) > 1:
        sketch.conv(4, kernel=3)
        sketch.norm("group")
        sketch.add("flatten")
    sketch.add("linear", features=outputs)
    return sketch.graph()


def test_an_image_network_takes_stored_values(tmp_path):
    graph = small()
    preparation, signature = described((1, 6, 6))
    model, path = trained(graph), tmp_path / "m.onnx"
    export_onnx(graph, model.flat, preparation, signature, path)
    pixels = Seed(1).numpy().integers(0, 256, (5, 1, 6, 6)).astype(np.uint8)
    wanted = model(torch.from_numpy(preparation.apply(pixels))).detach().numpy()
    logits, _ = Session.open(path).run(pixels)
    assert np.abs(logits - wanted).max() <= 1e-5


@pytest.mark.parametrize(
    ("task", "outputs", "scores"),
    [
        (Classification(classes=CLASSES), 3, lambda z: torch.softmax(z, 1)),
        (MultiLabel(classes=("p", "q")), 2, torch.sigmoid),
        (Regression(mean=50.0, scale=4.0), 1, lambda z: z * 4 + 50),
    ],
)
def test_scores_are_what_a_reader_wants(task, outputs, scores, tmp_path):
    graph = small((4,), outputs)
    model, path = trained(graph), tmp_path / "m.onnx"
    export_onnx(graph, model.flat, *described((4,), task), path)
    x = rows_of((4,))
    _, given = Session.open(path).run(x.numpy())
    assert np.allclose(given, scores(model(x)).detach().numpy(), atol=1e-5)


def test_the_manifest_travels(tmp_path):
    graph = small((2,))
    preparation, signature = described((2,))
    path = tmp_path / "m.onnx"
    model = trained(graph)
    units, meta = {"x0": "mmHg"}, {"run": "demo", "accuracy": 0.9}
    export_onnx(graph, model.flat, preparation, signature, path, units=units, meta=meta)
    manifest = Session.open(path).manifest
    assert manifest == Manifest(
        task=signature.task, preparation=preparation, units=units, about=meta
    )
    assert manifest.labels == CLASSES
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(props[KEY])["columns"] == [
        {"name": "x0", "kind": "number", "unit": "mmHg"},
        {"name": "x1", "kind": "number", "unit": ""},
    ]


def test_a_unit_of_no_column_is_refused():
    preparation, signature = described((2,))
    with pytest.raises(
        ConfigError, match=r"the model lacks\n  got: 'x00'\n  fix: did you mean 'x0'"
    ):
        Manifest(task=signature.task, preparation=preparation, units={"x00": "s"})


def test_verify_sees_another_network(tmp_path):
    graph = small()
    path = tmp_path / "m.onnx"
    x = rows_of((1, 6, 6))
    export_onnx(graph, trained(graph).flat, *described((1, 6, 6)), path)
    assert verify(path, trained(graph), x) <= 1e-5
    assert verify(path, trained(graph, seed=1), x) > 1e-2


def test_latency_is_measured(tmp_path):
    graph = small()
    path = tmp_path / "m.onnx"
    export_onnx(graph, trained(graph).flat, *described((1, 6, 6)), path)
    latency = measure(path, rows_of((1, 6, 6)))
    assert latency.runs == 200
    assert 0 < latency.median_ms <= latency.p90_ms < 1_000
    with pytest.raises(DataError, match="no rows to compare or to time"):
        measure(path, rows_of((1, 6, 6), 0))
    with pytest.raises(ConfigError, match=r"another shape .*\n.*\n  fix: give \(1, 6, 6\)"):
        measure(path, rows_of((1, 6, 5)))


def test_a_disagreement_leaves_the_old_file(tmp_path, monkeypatch):
    graph = small()
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr("archipelago.deploy.export.TOLERANCE", -1.0)
    with pytest.raises(RunFailed, match="disagrees with the trained one: nothing was written"):
        differs(graph, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_a_diverged_network_is_warned_of_and_its_difference_is_relative(tmp_path):
    graph, path = small(), tmp_path / "m.onnx"
    usual = described(graph.input_shape)
    rows, flat = rows_of(graph.input_shape), trained(graph).flat
    shipped = export_onnx(graph, flat, *usual, path, rows=rows)
    assert shipped.relative <= shipped.max_difference  # nothing is divided by less than one
    with pytest.warns(UserWarning, match="a logit of this network is .* it has diverged"):
        shipped = export_onnx(graph, 1e5 * flat, *usual, path, rows=rows)
    assert shipped.max_difference > 1e-3
    assert shipped.relative <= TOLERANCE


def test_what_does_not_belong_together_is_refused(tmp_path):
    graph, path = small(), tmp_path / "m.onnx"
    flat = trained(graph).flat
    with pytest.raises(ConfigError, match=r"does not fit the data\n.*\(1, 6, 6\) -> \(3,\), the"):
        export_onnx(graph, flat, *described((1, 6, 7)), path)
    with pytest.raises(ConfigError, match="this network has"):
        export_onnx(graph, flat[1:], *described((1, 6, 6)), path)
    broken = flat.clone()
    broken[3] = float("nan")
    with pytest.raises(RunFailed, match=r"weights are not finite.*\n  got: '1 of"):
        export_onnx(graph, broken, *described((1, 6, 6)), path)
    with pytest.raises(ConfigError, match="cannot be written"):
        export_onnx(graph, flat, *described((1, 6, 6)), tmp_path / "absent" / "m.onnx")
    assert not path.exists()


class CustomNetwork(nn.Module):
    """A user's network, with an operation that graphs lack."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3), nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.two(torch.nn.functional.softplus(self.one(x)).flatten(1))


def test_a_users_own_network_is_traced(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "m.onnx"
    module = CustomNetwork()
    x = rows_of((2, 6, 6))
    shipped = export_module(module, *described((2, 6, 6)), path, rows=x)
    assert shipped.max_difference <= 1e-5
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    task = MultiLabel(classes=("p", "q"))
    with pytest.raises(ConfigError, match=r"does not fit the task\n  got: \(2, 3\)"):
        export_module(module, *described((2, 6, 6), task), path)


class Fixed(nn.Module):
    def forward(self, x):
        return x[:, :3] * (2 if x.shape[0] == 2 else 3)


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x[:, :3] * self.calls


@pytest.mark.parametrize("module", [Fixed(), Remembers()], ids=lambda m: type(m).__name__)
def test_a_network_that_cannot_be_traced_is_refused(module, tmp_path, capfd):
    with pytest.raises((ConfigError, RunFailed), match=r"\n  fix: avoid sizes and branches"):
        export_module(module, *described((4,)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
