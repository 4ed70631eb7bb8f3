"""An ONNX file, opened: the network in onnxruntime, and its manifest. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archipelago.core.errors import DataError
from archipelago.core.small_files import read_small
from archipelago.deploy.external_data import refuse_external
from archipelago.deploy.manifest import KEY, Manifest

__all__ = ["INPUT", "LOGITS", "SCORES", "Session", "prepared"]

INPUT, LOGITS, SCORES = "rows", "logits", "scores"
"""Names in the graph. `scores` are probabilities, or a number in the target's own unit."""
_BATCH = 1024
_LARGEST = 2**31
"""Bytes: no message of protobuf is longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A shipped model, ready to run on one thread.

    Attributes:
        path: the file.
        manifest: what travels with it.
        runtime: onnxruntime's session.
    """

    path: Path
    manifest: Manifest
    runtime: Any

    @classmethod
    def open(cls, path: str | Path) -> "Session":
        """Load a model and check that it is one of ours.

        Raises:
            DataError: absent, not ONNX, not exported by archipelago, written by a newer version,
                or its network does not fit its manifest.
        """
        import onnxruntime as ort

        path = Path(path)
        data = _bytes_of(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            refuse_external(data)
            runtime = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no other base
            raise DataError(
                "the file cannot be loaded as an ONNX model",
                got=next(iter(str(error).splitlines()), type(error).__name__)[:160],
                where=str(path),
                fix="export it again, or update onnxruntime",
            ) from None
        text = runtime.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise DataError(
                "this ONNX file was not exported by archipelago: it says nothing of its rows",
                where=str(path),
                fix="use a file written by `archipelago export`",
            )
        session = cls(path, Manifest.from_json(text, str(path)), runtime)
        session._fits()
        return session

    def run(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and scores, each `[rows, outputs]`, of what the graph takes.

        Args:
            x: `[rows, *shape]`: a table's features, or stored values of images and series.

        Raises:
            DataError: the network cannot be computed, or gives other shapes than it declares.
        """
        x = np.ascontiguousarray(x, np.float32)
        try:
            parts = [
                self.runtime.run([LOGITS, SCORES], {INPUT: x[low : low + _BATCH]})
                for low in range(0, max(1, len(x)), _BATCH)
            ]
        except Exception as error:  # onnxruntime's errors share no other base
            raise self._broken(next(iter(str(error).splitlines()), "")[:160]) from None
        logits, scores = map(np.concatenate, zip(*parts, strict=True))
        wanted = (len(x), self.manifest.task.outputs)
        if (logits.shape, scores.shape) != (wanted, wanted):
            raise self._broken(f"{logits.shape} and {scores.shape} for {wanted}")
        return logits, scores

    def _broken(self, got: str) -> DataError:
        return DataError(
            "the network of this model cannot be computed",
            got=got,
            where=str(self.path),
            fix="export the model again with `archipelago export`",
        )

    def _fits(self) -> None:
        inputs = {item.name: tuple(item.shape[1:]) for item in self.runtime.get_inputs()}
        outputs = {item.name: tuple(item.shape[1:]) for item in self.runtime.get_outputs()}
        width = (self.manifest.task.outputs,)
        wanted = {INPUT: self.manifest.preparation.shape}, {LOGITS: width, SCORES: width}
        if (inputs, outputs) != wanted:
            raise DataError(
                "the network does not fit what travels with it",
                got=f"{inputs} -> {outputs}, described as {wanted[0]} -> {wanted[1]}",
                where=str(self.path),
                fix="export the model again; do not edit its metadata",
            )


def _bytes_of(path: Path) -> bytes:
    try:
        return read_small(path, _LARGEST)
    except FileNotFoundError:
        raise DataError(
            "no such model", where=str(path), fix="give the .onnx file's path"
        ) from None
    except (OSError, ValueError) as error:
        got = (error.strerror if isinstance(error, OSError) else f"it {error}") or None
        what = "the model cannot be read"
        raise DataError(what, got=got, where=str(path), fix="give the .onnx file's path") from None


def prepared(manifest: Manifest, stored: np.ndarray) -> np.ndarray:
    """Return what the trained network takes, given what the exported graph takes."""
    table = manifest.preparation.modality == "table"
    return stored if table else manifest.preparation.apply(stored)
