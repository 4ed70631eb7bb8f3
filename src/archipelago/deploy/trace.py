"""A user's own torch network in ONNX, by torch's exporter: slow, but it knows every operation."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from archipelago.core.errors import ConfigError
from archipelago.data.tasks import MultiLabel, Regression
from archipelago.deploy.manifest import Manifest
from archipelago.deploy.session import INPUT, LOGITS, SCORES
from archipelago.deploy.translate import OPSET

__all__ = ["evaluated", "traced"]


@final
class _Whole(nn.Module):
    """A network between what precedes it (stored values) and what follows it (scores)."""

    multiply: Tensor
    add: Tensor

    def __init__(
        self, module: nn.Module, manifest: Manifest, affine: tuple[np.ndarray, np.ndarray]
    ) -> None:
        super().__init__()
        self.module, self.task = module, manifest.task
        self.table = manifest.preparation.modality == "table"
        for name, values in zip(("multiply", "add"), affine, strict=True):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(rows if self.table else rows * self.multiply + self.add)
        if isinstance(self.task, Regression):
            return logits, logits * self.task.scale + self.task.mean
        if isinstance(self.task, MultiLabel):
            return logits, logits.sigmoid()
        return logits, logits.softmax(-1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log, which names packages that nobody here needs."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def evaluated(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, without gradients."""
    return deepcopy(module).cpu().eval().requires_grad_(False)


def traced(
    module: nn.Module, manifest: Manifest, affine: tuple[np.ndarray, np.ndarray]
) -> onnx.ModelProto:
    """Trace `module` for any batch size.

    Raises:
        ConfigError: it cannot be traced, or gives another shape than the task needs.
    """
    example = torch.zeros(2, *manifest.preparation.shape)
    width = (2, manifest.task.outputs)
    with torch.no_grad():
        given = tuple(module(example).shape)
    if given != width:
        raise ConfigError("the network does not fit the task", got=given, fix=f"give {width}")
    try:
        # torch's exporter prints its progress and warns of its own insides.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Whole(module, manifest, affine),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[LOGITS, SCORES],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise _bound(str(error).strip().splitlines()[0][:160]) from None
    assert program is not None  # noqa: S101 - dynamo=True always returns one
    proto = program.model_proto
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise _bound(f"a batch of {batch.dim_value} only")
    return proto


def _bound(got: str) -> ConfigError:
    return ConfigError(
        "torch cannot trace this network for any batch size",
        got=got,
        fix="avoid sizes and branches in forward() that depend on the batch or on values",
    )
