"""What every operation makes of its input: shape, tensors, multiply-accumulates. No torch.

Shapes are of one example: `(channels, height, width)`, `(channels, steps)` or `(features,)`.
Multiply-accumulates (MACs) count matrix products only: convolution, linear and recurrent layers;
biases, norms, activations and pooling count as none, the convention of the papers we compare with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod

from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.core.trial import Value

__all__ = ["ACTIVATIONS", "MOST_SCALARS", "NORMS", "OPS", "Measure", "State", "complete", "measure"]

ACTIVATIONS = ("relu", "gelu", "tanh", "hardswish", "silu", "sigmoid")
NORMS = ("group", "batch", "layer", "none")
MOST_SCALARS = 2**28
"""Scalars in one activation or tensor: 1 GiB of float32. A graph read from a file is bounded."""

Shape = tuple[int, ...]
Attrs = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class State:
    """One tensor that a node owns.

    Attributes:
        suffix: its name in the node's module.
        spread: standard deviation of its random start; 0 starts every entry at `fill`.
    """

    suffix: str
    shape: Shape
    group: str = "weights"
    spread: float = 0.0
    fill: float = 0.0


@dataclass(frozen=True, slots=True)
class Measure:
    """What a node costs and gives: output shape, tensors, MACs of one example's forward pass."""

    shape: Shape
    states: tuple[State, ...] = ()
    macs: int = 0

    @property
    def params(self) -> int:
        """Trained scalars; running statistics are not among them."""
        return sum(prod(state.shape) for state in self.states if state.group == "weights")


@dataclass(frozen=True, slots=True)
class Attr:
    """One attribute's schema: the default (None: required) tells nothing about its bounds."""

    type: type
    default: Value | None = None
    low: float = 0
    high: float = 65_536
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: its attributes, number of inputs, and rule."""

    attrs: Mapping[str, Attr]
    rule: Callable[[Attrs, Sequence[Shape]], Measure]
    inputs: tuple[int, int] = (1, 1)


def complete(op: str, attrs: Attrs) -> dict[str, Value]:
    """Check `attrs` and add the defaults.

    Raises:
        ConfigError: unknown operation or attribute, or a value of the wrong type or size.
    """
    if op not in OPS:
        raise ConfigError("no such operation", got=op, fix=did_you_mean(op, OPS))
    schema = OPS[op].attrs
    for name, value in attrs.items():
        if name not in schema:
            fix = did_you_mean(name, schema) if schema else f"{op} takes no attributes"
            raise ConfigError(f"{op} has no attribute of this name", got=name, fix=fix)
        _check(op, name, value, schema[name])
    missing = [name for name, attr in schema.items() if attr.default is None and name not in attrs]
    if missing:
        raise ConfigError(f"{op} needs {' and '.join(missing)}")
    full = {name: attrs.get(name, attr.default) for name, attr in schema.items()}
    return {name: value for name, value in full.items() if value is not None}


def measure(op: str, attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    """Return what `op` makes of inputs of these shapes.

    Raises:
        ConfigError: it cannot take them, or the result would be too large.
    """
    full = complete(op, attrs)
    fewest, most = OPS[op].inputs
    if not fewest <= len(inputs) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} or more"
        raise ConfigError(f"{op} takes {wanted} inputs", got=len(inputs))
    result = OPS[op].rule(full, inputs)
    if min(result.shape) < 1:
        raise ConfigError(
            f"{op} shrinks its input to nothing",
            got=tuple(inputs[0]),
            fix="use a smaller kernel or stride, or fewer reductions before it",
        )
    largest = max([prod(result.shape), *(prod(state.shape) for state in result.states)])
    if largest > MOST_SCALARS:
        raise ConfigError(f"one tensor holds at most {MOST_SCALARS} numbers", got=largest)
    return result


def _check(op: str, name: str, value: Value, attr: Attr) -> None:
    right = type(value) is attr.type or (attr.type is float and type(value) is int)
    if not right:
        raise ConfigError(f"{op}'s {name} must be of type {attr.type.__name__}", got=value)
    if attr.options and value not in attr.options:
        raise ConfigError(
            f"{op} has no such {name}", got=value, fix=did_you_mean(str(value), attr.options)
        )
    if isinstance(value, str) or type(value) is bool:
        return
    if not (isfinite(value) and attr.low <= value <= attr.high):
        raise ConfigError(f"{op}'s {name} must lie in [{attr.low:g}, {attr.high:g}]", got=value)


def _whole(attrs: Attrs, name: str) -> int:
    return int(attrs[name])


def _spatial(op: str, shape: Shape) -> None:
    if len(shape) not in (2, 3):
        raise ConfigError(f"{op} needs (channels, height, width) or (channels, steps)", got=shape)


def _slide(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Positions of a window on a line; 0 when it does not fit once."""
    return max(0, (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)


def _conv(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape = inputs[0]
    _spatial("conv", shape)
    filters, kernel, groups = (_whole(attrs, name) for name in ("filters", "kernel", "groups"))
    if shape[0] % groups or filters % groups:
        raise ConfigError(
            "conv's groups must divide the channels before and after it",
            got=(shape[0], filters, groups),
        )
    stride, padding, dilation = (_whole(attrs, name) for name in ("stride", "padding", "dilation"))
    space = tuple(_slide(size, kernel, stride, padding, dilation) for size in shape[1:])
    window = (shape[0] // groups, *(kernel for _ in space))
    # He et al. 2015, arXiv:1502.01852, eq. 10: the variance 2 / fan-in keeps a ReLU net's scale.
    weight = State("weight", (filters, *window), spread=(2 / prod(window)) ** 0.5)
    bias = (State("bias", (filters,)),) if attrs["bias"] else ()
    out = (filters, *space)
    return Measure(out, (weight, *bias), prod(out) * prod(window))


def _linear(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape, features = inputs[0], _whole(attrs, "features")
    if len(shape) != 1:
        raise ConfigError("linear needs (features,)", got=shape, fix="put a flatten before it")
    weight = State("weight", (features, shape[0]), spread=(2 / shape[0]) ** 0.5)
    bias = (State("bias", (features,)),) if attrs["bias"] else ()
    return Measure((features,), (weight, *bias), features * shape[0])


def _pool(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape = inputs[0]
    _spatial("pooling", shape)
    kernel, padding = _whole(attrs, "kernel"), _whole(attrs, "padding")
    if 2 * padding > kernel:
        raise ConfigError("pooling pads by at most half its kernel", got=(padding, kernel))
    stride = _whole(attrs, "stride") or kernel
    return Measure((shape[0], *(_slide(size, kernel, stride, padding) for size in shape[1:])))


def _globalpool(_: Attrs, inputs: Sequence[Shape]) -> Measure:
    _spatial("globalpool", inputs[0])
    return Measure((inputs[0][0],))


def _crop(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape = inputs[0]
    _spatial("crop", shape)
    return Measure((shape[0], *(max(0, size - _whole(attrs, "start")) for size in shape[1:])))


def _resize(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape = inputs[0]
    _spatial("resize", shape)
    longest, size = max(shape[1:]), _whole(attrs, "size")
    # Half up, in whole numbers: the same on every machine.
    return Measure(
        (shape[0], *(max(1, (2 * s * size + longest) // (2 * longest)) for s in shape[1:]))
    )


def _norm(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape, style = inputs[0], attrs["style"]
    channels = shape[0]
    if style == "none":
        return Measure(shape)
    affine = (
        (State("weight", (channels,), fill=1.0), State("bias", (channels,)))
        if attrs["affine"]
        else ()
    )
    if style == "batch":
        mean = State("running_mean", (channels,), "stats")
        variance = State("running_var", (channels,), "stats", fill=1.0)
        return Measure(shape, (*affine, mean, variance))
    groups = _whole(attrs, "groups") if style == "group" else 1
    if channels % groups:
        raise ConfigError("norm's groups must divide the channels", got=(channels, groups))
    if prod(shape) // groups < 2:
        raise ConfigError(
            "a group of one number is always normalised to 0",
            got=(shape, groups),
            fix="use fewer groups, or style 'none'",
        )
    return Measure(shape, affine)


def _same(_: Attrs, inputs: Sequence[Shape]) -> Measure:
    return Measure(inputs[0])


def _add(_: Attrs, inputs: Sequence[Shape]) -> Measure:
    if len(set(inputs)) != 1:
        raise ConfigError("add needs inputs of one shape", got=tuple(inputs))
    return Measure(inputs[0])


def _concat(_: Attrs, inputs: Sequence[Shape]) -> Measure:
    if len({shape[1:] for shape in inputs}) != 1:
        raise ConfigError("concat needs inputs that differ in channels only", got=tuple(inputs))
    return Measure((sum(shape[0] for shape in inputs), *inputs[0][1:]))


def _flatten(_: Attrs, inputs: Sequence[Shape]) -> Measure:
    return Measure((prod(inputs[0]),))


def _gru(attrs: Attrs, inputs: Sequence[Shape]) -> Measure:
    shape, hidden = inputs[0], _whole(attrs, "hidden")
    if len(shape) != 2:
        raise ConfigError("gru needs (channels, steps)", got=shape)
    channels, steps = shape
    endings = ("", "_reverse") if attrs["bidirectional"] else ("",)
    states = tuple(
        State(f"{name}_l0{ending}", shape, spread=spread)
        for ending in endings
        for name, shape, spread in (
            ("weight_ih", (3 * hidden, channels), channels**-0.5),
            ("weight_hh", (3 * hidden, hidden), hidden**-0.5),
            ("bias_ih", (3 * hidden,), 0.0),
            ("bias_hh", (3 * hidden,), 0.0),
        )
    )
    macs = len(endings) * steps * 3 * hidden * (channels + hidden)
    return Measure((len(endings) * hidden,), states, macs)


_POOL = Op(
    {"kernel": Attr(int, 2, 1), "stride": Attr(int, 0), "padding": Attr(int, 0)},  # 0: the kernel
    _pool,
)
MANY = (1, 1_000)
OPS: Mapping[str, Op] = {
    "conv": Op(
        {
            "filters": Attr(int, low=1),
            "kernel": Attr(int, low=1, high=1024),
            "stride": Attr(int, 1, 1),
            "padding": Attr(int, 0),
            "groups": Attr(int, 1, 1),
            "dilation": Attr(int, 1, 1),
            "bias": Attr(bool, True),
        },
        _conv,
    ),
    "linear": Op({"features": Attr(int, low=1), "bias": Attr(bool, True)}, _linear),
    "maxpool": _POOL,
    "avgpool": _POOL,
    "globalpool": Op({}, _globalpool),
    "norm": Op(
        {
            "style": Attr(str, "group", options=NORMS),
            "groups": Attr(int, 1, 1),
            "affine": Attr(bool, True),
        },
        _norm,
    ),
    "act": Op({"fn": Attr(str, "relu", options=ACTIVATIONS)}, _same),
    "add": Op({}, _add, MANY),
    "concat": Op({}, _concat, MANY),
    "flatten": Op({}, _flatten),
    "dropout": Op({"rate": Attr(float, high=0.99)}, _same),
    "gru": Op({"hidden": Attr(int, low=1), "bidirectional": Attr(bool, False)}, _gru),
    "identity": Op({}, _same),
    "crop": Op({"start": Attr(int, 1, 1)}, _crop),
    "resize": Op({"size": Attr(int, low=1, high=4096)}, _resize),
    "zero": Op({}, _same),
}
"""Every operation. `zero` gives zeros of its input's shape: an absent edge of a cell; `crop` leaves
out the first rows and columns; `resize` brings the longest side to a size, linearly between pixels.
"""
