"""The shipped network of a run, or the best so far of one that has not come to its end."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_tensors

from archipelago.config.load import loads
from archipelago.core.errors import JournalError
from archipelago.core.seeds import Seed
from archipelago.data.prepare import prepare
from archipelago.deploy.export import export_onnx
from archipelago.journal.journal import Journal
from archipelago.space.graph import Graph

__all__ = ["export"]


def export(directory: str | Path, path: str | Path) -> str:
    """Write a run's network as ONNX to `path`; return a sentence on what it is.

    A finished run's file is copied. Of any other run, `best/` is exported: its data are read again,
    since their preparation travels in the file.

    Raises:
        JournalError: there is no run, or it has finished no candidate yet.
    """
    directory, path = Path(directory), Path(path)
    with Journal.open(directory, write=False) as journal:
        text = str(journal.meta["run"])
    shipped = directory / "model.onnx"
    if shipped.is_file():
        shutil.copyfile(shipped, path)
        return "the tested network of this run"
    best = directory / "best"
    if not (best / "arch.json").is_file():
        raise JournalError(
            "no candidate is finished yet: there is nothing to export",
            where=str(directory),
            fix=f"archipelago resume {directory}",
        )
    about = json.loads((best / "arch.json").read_text(encoding="utf-8"))
    graph = Graph.from_json(about["graph"])
    tensors = load_tensors((best / "weights.safetensors").read_bytes())
    flat = np.concatenate([tensors[leaf.name].ravel() for leaf in graph.layout.leaves])
    run = loads(text, source=str(directory / "run.toml"))
    with tempfile.TemporaryDirectory(prefix="archipelago-") as folder:
        prepared = prepare(
            run.data,
            run.partition,
            run.split,
            run.task,
            seed=Seed(run.seed).child("data"),
            directory=folder,
            preprocess=run.preprocess,
        )
        shards = prepared.shards
        export_onnx(
            graph,
            flat,
            prepared.preparation,
            shards.signature,
            path,
            rows=shards.validation(shards.training[0])[0],
            meta={"run": run.name, "fingerprint": shards.fingerprint},
        )
    return "the best network so far; it is not tested yet"
