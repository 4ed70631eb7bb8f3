"""The end of a run: a network, its weights and its preparation become one verified ONNX file."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from archipelago.core.atomic import atomic_file
from archipelago.core.errors import ConfigError, RunFailed
from archipelago.core.seeds import Seed
from archipelago.core.trial import Value
from archipelago.data.preparation import Preparation
from archipelago.data.shards import Signature
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.deploy.manifest import KEY, Manifest
from archipelago.deploy.measure import compare
from archipelago.deploy.session import INPUT, LOGITS, SCORES, Session
from archipelago.deploy.translate import IR, OPSET, Sheet, translate
from archipelago.space.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TOLERANCE", "Shipped", "export_module", "export_onnx"]

_LARGEST = 2**31 - 2**24
"""Bytes: a protobuf message holds 2 GiB; 16 MiB are left for what is not weights."""
TOLERANCE = 1e-4
"""Largest difference to torch, in units of the largest logit (at least 1). Float32 kernels that sum
in another order differ by about 1e-6 of it."""
_DIVERGED = 1e4
"""Logits beyond this are warned of: a softmax is settled by differences of a few tens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """An ONNX file on disk.

    Attributes:
        path: where it lies.
        bytes: its size.
        max_difference: largest difference of a logit to torch's over `rows`; None without them.
        rows: compared rows.
        relative: the difference in units of the largest logit (at least 1); at most `TOLERANCE`.
    """

    path: Path
    bytes: int
    max_difference: float | None
    rows: int
    relative: float | None = None


def export_onnx(
    graph: Graph,
    flat: "Tensor | np.ndarray",
    preparation: Preparation,
    signature: Signature,
    path: str | Path,
    *,
    rows: "Tensor | np.ndarray | None" = None,
    units: Mapping[str, str] | None = None,
    meta: Mapping[str, Value | None] | None = None,
) -> Shipped:
    """Write a trained network as ONNX: any batch size, raw values in, logits and scores out.

    An image's or series' arithmetic is in the graph; a table's preparation is in the metadata, and
    `predict` applies it. The file appears whole, after it passed every check, or not at all.

    Args:
        flat: the trained tensors, float32 `[graph.layout.size]`.
        path: of the new file; replaced if it exists.
        rows: real rows as the network takes them, to compare with torch; noise is always compared.
        units: of columns, by name; of the target under "".
        meta: what to say of the model, e.g. run, score, fingerprint.

    Raises:
        ConfigError: graph, weights, preparation and signature do not belong together, or `path`
            cannot be written.
        RunFailed: the file disagrees with torch, or weights are not finite.
    """
    manifest = Manifest(
        task=signature.task, preparation=preparation, units=units or {}, about=meta or {}
    )
    weights = _weights(flat, graph)
    _belong(graph, manifest)
    sheet = Sheet()
    x = INPUT
    if preparation.modality != "table":
        multiply, add = (sheet.tensor(value) for value in _affine(preparation))
        x = sheet.op("Add", sheet.op("Mul", x, multiply), add)
    _finish(sheet, translate(sheet, graph, weights, x), signature.task)
    body = helper.make_graph(
        sheet.nodes,
        "archipelago",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *graph.input_shape])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *graph.outputs])
            for name in (LOGITS, SCORES)
        ],
        sheet.tensors,
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)

    def trained() -> "Callable[[Tensor], Tensor]":
        import torch

        from archipelago.nn.model import Model

        model = Model.of_graph(graph).eval()
        model.load(torch.from_numpy(weights))
        return model

    fix = "report this with the run's directory; its weights are safe in best/"
    return _write(proto, manifest, Path(path), trained, rows=rows, fix=fix)


def export_module(
    module: "nn.Module",
    preparation: Preparation,
    signature: Signature,
    path: str | Path,
    *,
    rows: "Tensor | np.ndarray | None" = None,
    units: Mapping[str, str] | None = None,
    meta: Mapping[str, Value | None] | None = None,
) -> Shipped:
    """Write a network of your own, which is no `Graph`, as ONNX. Takes about 10 s: torch traces it.

    Args:
        module: takes `[batch, *shape]` and gives `[batch, outputs]`; it is copied.
        path: see `export_onnx`, as for the other arguments.

    Raises:
        ConfigError: torch cannot trace the module for any batch size.
        RunFailed: see `export_onnx`; also where the result depends on the size of the batch.
    """
    from archipelago.deploy.trace import evaluated, traced

    manifest = Manifest(
        task=signature.task, preparation=preparation, units=units or {}, about=meta or {}
    )
    copy = evaluated(module)
    proto = traced(copy, manifest, _affine(preparation))
    fix = "avoid sizes and branches in forward() that depend on the batch or on values"
    return _write(proto, manifest, Path(path), lambda: copy, rows=rows, fix=fix)


def _weights(flat: Any, graph: Graph) -> np.ndarray:
    weights = np.asarray(flat.detach().cpu() if hasattr(flat, "detach") else flat, np.float32)
    if weights.shape != (graph.layout.size,):
        raise ConfigError(f"this network has {graph.layout.size} numbers", got=weights.shape)
    if weights.nbytes > _LARGEST:
        raise ConfigError("one ONNX file holds at most 2 GiB", got=f"{weights.nbytes} bytes")
    if not np.isfinite(weights).all():
        raise RunFailed(
            "the network's weights are not finite: there is nothing to ship",
            got=f"{int((~np.isfinite(weights)).sum())} of {weights.size}",
            fix="train with a lower learning rate, or clip gradients",
        )
    return weights


def _belong(graph: Graph, manifest: Manifest) -> None:
    wanted = (manifest.preparation.shape, (manifest.task.outputs,))
    if (graph.input_shape, graph.outputs) != wanted:
        raise ConfigError(
            "the network does not fit the data",
            got=f"{graph.input_shape} -> {graph.outputs}, the data need {wanted[0]} -> {wanted[1]}",
        )


def _affine(preparation: Preparation) -> tuple[np.ndarray, np.ndarray]:
    """Return `multiply` and `add`, float32, that broadcast over a batch."""
    shape = (-1, *(1 for _ in preparation.shape[1:]))
    pair = (preparation.multiply or (1.0,), preparation.add or (0.0,))
    multiply, add = (np.array(values, np.float32).reshape(shape) for values in pair)
    return multiply, add


def _finish(sheet: Sheet, logits: str, task: Classification | MultiLabel | Regression) -> None:
    """Name the output, and add what a user reads: probabilities, or a number in its own unit."""
    sheet.nodes.append(helper.make_node("Identity", [logits], [LOGITS], name=LOGITS))
    if isinstance(task, Regression):
        scaled = sheet.op("Mul", LOGITS, sheet.tensor(task.scale))
        last = helper.make_node("Add", [scaled, sheet.tensor(task.mean)], [SCORES], name=SCORES)
    elif isinstance(task, MultiLabel):
        last = helper.make_node("Sigmoid", [LOGITS], [SCORES], name=SCORES)
    else:
        last = helper.make_node("Softmax", [LOGITS], [SCORES], name=SCORES, axis=-1)
    sheet.nodes.append(last)


def _write(
    proto: onnx.ModelProto,
    manifest: Manifest,
    path: Path,
    trained: "Callable[[], Callable[[Tensor], Tensor]]",
    *,
    rows: Any,
    fix: str,
) -> Shipped:
    """Check, write, compare, and only then give the file its name."""
    proto.producer_name, proto.producer_version = KEY, manifest.library
    helper.set_model_props(proto, {KEY: manifest.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    try:
        with atomic_file(path) as draft:
            draft.file.write(proto.SerializeToString())
            draft.file.flush()
            session, model = Session.open(draft.path), trained()
            difference, relative = None, None
            # A traced network may have baked in the two rows that it was traced with.
            noise = Seed(0).numpy().standard_normal((6, *manifest.preparation.shape), "float32")
            for batch in (noise[:1], noise[1:3], noise[3:]):
                _compared(session, model, batch, fix)
            if rows is not None:
                difference, largest = _compared(session, model, rows, fix)
                relative = difference / max(1.0, largest)
                if largest > _DIVERGED:
                    warnings.warn(
                        f"{path}: a logit of this network is {largest:.3g} on real rows, beyond "
                        f"{_DIVERGED:.0e}: it has diverged, or inputs are not scaled; do not use "
                        "it before its scores are checked",
                        stacklevel=3,
                    )
    except OSError as error:
        raise ConfigError(
            "the model cannot be written",
            got=error.strerror,
            where=str(path),
            fix="choose a file in a directory that exists and that you may write to",
        ) from None
    count = 0 if rows is None else len(rows)
    return Shipped(
        path=path,
        bytes=path.stat().st_size,
        max_difference=difference,
        rows=count,
        relative=relative,
    )


def _compared(
    session: Session, model: "Callable[[Tensor], Tensor]", rows: Any, fix: str
) -> tuple[float, float]:
    difference, largest = compare(session, model, rows)
    if not difference <= TOLERANCE * max(1.0, largest):
        raise RunFailed(
            "the exported network disagrees with the trained one: nothing was written",
            got=f"a logit differs by {difference:.3g}, the largest is {largest:.3g}: more than "
            f"{TOLERANCE:.0e} of it",
            fix=fix,
        )
    return difference, largest
