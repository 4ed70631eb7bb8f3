"""A graph in ONNX: one translator an operation, milliseconds for a network.

torch's exporter traces a module and takes about ten seconds; our graphs are data, and their few
operations have ONNX counterparts.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, final

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from archipelago.core.trial import Value
from archipelago.space.graph import INPUT, Graph, Node

__all__ = ["IR", "OPSET", "Sheet", "translate"]

OPSET = 20
"""The first with Gelu; onnxruntime 1.17 and later run it."""
IR = 9
"""The file format that belongs to it: a newer one would shut out older runtimes."""
_EPSILON = 1e-5
"""torch's default in every norm."""


@final
class Sheet:
    """ONNX nodes and tensors being written. Methods change it in place."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._count = 0

    def tensor(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        """Add a constant and return its name."""
        name = self._fresh("tensor")
        self.tensors.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation of one used output and return that output's name."""
        return self.op_at(kind, inputs, 0, **attributes)

    def op_at(self, kind: str, inputs: Sequence[str], place: int, **attributes: Any) -> str:
        """Add an operation of which the output at `place` is used, and return its name."""
        name = self._fresh(kind)
        outputs = [*("" for _ in range(place)), name]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """Add a reshape: 0 keeps a size (the batch's), -1 infers one."""
        return self.op("Reshape", x, self.tensor(shape, np.int64))

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


class _Place:
    """One node on its sheet: what a translator may ask."""

    __slots__ = ("inputs", "result", "settings", "shape", "sheet", "tensors")

    def __init__(
        self,
        sheet: Sheet,
        node: Node,
        inputs: Sequence[str],
        shapes: Mapping[str, tuple[int, ...]],
        views: Mapping[str, np.ndarray],
    ) -> None:
        self.sheet, self.inputs = sheet, tuple(inputs)
        self.shape, self.result = shapes[node.inputs[0]], shapes[node.name]
        self.settings: dict[str, Value] = node.settings
        own = f"{node.name}."
        self.tensors = {n.removeprefix(own): v for n, v in views.items() if n.startswith(own)}

    @property
    def x(self) -> str:
        return self.inputs[0]

    @property
    def space(self) -> int:
        return len(self.shape) - 1

    def whole(self, name: str) -> int:
        return int(self.settings[name])

    def put(self, *names: str) -> list[str]:
        return [self.sheet.tensor(self.tensors[name]) for name in names if name in self.tensors]


def translate(sheet: Sheet, graph: Graph, flat: np.ndarray, x: str) -> str:
    """Write `graph` with its tensors onto `sheet` and return the name of its output.

    Args:
        flat: the tensors, float32 `[graph.layout.size]`.
        x: name of the input, `[batch, *graph.input_shape]`.
    """
    views = graph.layout.views(flat)
    shapes = {INPUT: graph.input_shape, **graph.shapes}
    values = {INPUT: x}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        place = _Place(sheet, node, inputs, shapes, views)
        values[node.name] = TRANSLATORS[node.op](place)
    return values[graph.nodes[-1].name]


def _conv(at: _Place) -> str:
    space = at.space
    return at.sheet.op(
        "Conv",
        at.x,
        *at.put("weight", "bias"),
        kernel_shape=[at.whole("kernel")] * space,
        strides=[at.whole("stride")] * space,
        pads=[at.whole("padding")] * 2 * space,
        dilations=[at.whole("dilation")] * space,
        group=at.whole("groups"),
    )


def _linear(at: _Place) -> str:
    return at.sheet.op("Gemm", at.x, *at.put("weight", "bias"), transB=1)


def _pool(kind: str) -> Callable[[_Place], str]:
    def write(at: _Place) -> str:
        space = at.space
        return at.sheet.op(
            kind,
            at.x,
            kernel_shape=[at.whole("kernel")] * space,
            strides=[at.whole("stride") or at.whole("kernel")] * space,
            pads=[at.whole("padding")] * 2 * space,
        )

    return write


def _globalpool(at: _Place) -> str:
    return at.sheet.op("Flatten", at.sheet.op("GlobalAveragePool", at.x), axis=1)


def _norm(at: _Place) -> str:
    sheet, style = at.sheet, at.settings["style"]
    if style == "none":
        return at.x
    channels = at.shape[0]
    affine = {"weight": np.ones(channels), "bias": np.zeros(channels), **at.tensors}
    if style == "batch":
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = [sheet.tensor(affine[name]) for name in names]
        return sheet.op("BatchNormalization", at.x, *tensors, epsilon=_EPSILON)
    # One row of numbers a group, normalised as a "channel"; then the channels' own affine. ONNX's
    # GroupNormalization changed its meaning between opsets 18 and 21: this one means one thing.
    groups = at.whole("groups") if style == "group" else 1
    ones, zeros = sheet.tensor(np.ones(groups)), sheet.tensor(np.zeros(groups))
    rows = sheet.reshape(at.x, 0, groups, prod(at.shape) // groups)
    rows = sheet.op("InstanceNormalization", rows, ones, zeros, epsilon=_EPSILON)
    rows = sheet.reshape(rows, 0, *at.shape)
    if not at.settings["affine"]:
        return rows
    form = [-1, *(1 for _ in at.shape[1:])]
    weight, bias = (sheet.tensor(affine[n].reshape(form)) for n in ("weight", "bias"))
    return sheet.op("Add", sheet.op("Mul", rows, weight), bias)


def _act(at: _Place) -> str:
    if at.settings["fn"] == "silu":
        return at.sheet.op("Mul", at.x, at.sheet.op("Sigmoid", at.x))
    kinds = {"relu": "Relu", "gelu": "Gelu", "tanh": "Tanh", "hardswish": "HardSwish"}
    kinds["sigmoid"] = "Sigmoid"
    return at.sheet.op(kinds[str(at.settings["fn"])], at.x)


def _gru(at: _Place) -> str:
    sheet, hidden = at.sheet, at.whole("hidden")
    endings = ("", "_reverse") if at.settings["bidirectional"] else ("",)

    def gates(name: str) -> np.ndarray:
        # torch keeps the gates as reset, update, new; ONNX wants update, reset, new.
        both = [at.tensors[f"{name}_l0{ending}"] for ending in endings]
        parts = [np.split(np.asarray(one), 3) for one in both]
        return np.stack([np.concatenate([z, r, n]) for r, z, n in parts])

    bias = np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1)
    inputs = [
        sheet.op("Transpose", at.x, perm=[2, 0, 1]),
        *(sheet.tensor(value) for value in (gates("weight_ih"), gates("weight_hh"), bias)),
    ]
    state = sheet.op_at(
        "GRU",
        inputs,
        1,
        hidden_size=hidden,
        direction="bidirectional" if len(endings) == 2 else "forward",
        linear_before_reset=1,  # torch multiplies by the reset gate after the recurrent product
    )
    last = sheet.op("Transpose", state, perm=[1, 0, 2])
    return sheet.reshape(last, 0, len(endings) * hidden)


def _zero(at: _Place) -> str:
    return at.sheet.op("ConstantOfShape", at.sheet.op("Shape", at.x))


def _crop(at: _Place) -> str:
    start, axes = [at.whole("start")] * at.space, list(range(2, 2 + at.space))
    bounds = (start, [*at.shape[1:]], axes)
    return at.sheet.op("Slice", at.x, *(at.sheet.tensor(value, np.int64) for value in bounds))


def _resize(at: _Place) -> str:
    # Sizes, not scales: a scale is rounded to float32 and may lose a pixel.
    return at.sheet.op(
        "Resize",
        *(at.x, "", "", at.sheet.tensor(at.result[1:], np.int64)),
        axes=list(range(2, 2 + at.space)),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _pass(at: _Place) -> str:
    return at.x


TRANSLATORS: Mapping[str, Callable[[_Place], str]] = {
    "conv": _conv,
    "linear": _linear,
    "maxpool": _pool("MaxPool"),
    "avgpool": _pool("AveragePool"),
    "globalpool": _globalpool,
    "norm": _norm,
    "act": _act,
    "add": lambda at: at.sheet.op("Sum", *at.inputs),
    "concat": lambda at: at.sheet.op("Concat", *at.inputs, axis=1),
    "flatten": lambda at: at.sheet.op("Flatten", at.x, axis=1),
    "dropout": _pass,
    "gru": _gru,
    "identity": _pass,
    "crop": _crop,
    "resize": _resize,
    "zero": _zero,
}
"""Every operation of `space.ops.OPS`."""
