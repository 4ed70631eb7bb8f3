"""Predict without torch: 10,000 raw rows of `adult` over five silos, as CSV, through the command.

    python benchmarks/predict.py [--quick] [--write FILE]

A network is searched and trained on the five silos' files, shipped, and applied to all their raw
rows by `archipelago predict` in a process in which neither torch nor anything but NumPy and
onnxruntime can be imported. Needs ARCHIPELAGO_DATA (adult_vertical).
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bars import bar, show, write
from safetensors.numpy import load as load_tensors

from archipelago import loads, search
from archipelago.nn.model import Model
from archipelago.space.graph import Graph
from archipelago.study.running.rows import prepared_for

RUN = """
name = "adult"
[data]
kind = "files"
paths = ["silos/*.csv"]
label = "income"
[partition]
kind = "natural"
[task]
balance = true
[space]
kind = "table-mlp"
[estimator]
kind = "rounds"
rounds = 1
candidates = 2
[client]
batch = 64
[budget]
trials = 2
[final]
rounds = 5
references = false
"""
BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from archipelago.__main__ import main
main(sys.argv[2:])
"""
ABSENT = (
    "torch,sklearn,altair,vl_convert,pydantic,typer,rich,onnx,onnxscript,scipy,safetensors,pandas"
)


def silos(folder: Path, rows: int, parts: int = 5) -> None:
    """Write the first `rows` raw rows of adult as `parts` files, dealt in turn."""
    home = Path(os.environ["ARCHIPELAGO_DATA"], "adult_vertical", "adult.csv.gz")
    with gzip.open(home, "rt", encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader)
        kept = [index for index, name in enumerate(header) if name != "split"]
        table = [[row[i] for i in kept] for row, _ in zip(reader, range(rows), strict=False)]
    (folder / "silos").mkdir()
    heading = [header[i] for i in kept]
    for part in range(parts):
        _csv(folder / "silos" / f"silo{part}.csv", heading, table[part::parts])
    label = heading.index("income")
    raw = [[*row[:label], *row[label + 1 :]] for part in range(parts) for row in table[part::parts]]
    _csv(folder / "rows.csv", [*heading[:label], *heading[label + 1 :]], raw)


def torch_labels(folder: Path) -> list[str]:
    """Return the label of every row as training's own pipeline gives it, silo by silo."""
    run = loads(RUN, folder=folder)
    best = folder / "run" / "best"
    graph = Graph.from_json(json.loads((best / "arch.json").read_text())["graph"])
    tensors = load_tensors((best / "weights.safetensors").read_bytes())
    flat = np.concatenate([tensors[leaf.name].ravel() for leaf in graph.layout.leaves])
    model = Model.of_graph(graph).eval()
    model.load(torch.from_numpy(flat))
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepared_for(run, cache)
        x: Any = run.data.load().x
        with torch.no_grad():
            logits = model(torch.from_numpy(prepared.preparation.apply(x)))
        classes = prepared.shards.signature.task.classes
    return [classes[index] for index in logits.argmax(1).tolist()]


def main() -> None:
    """Run, print and keep the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 rows")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    rows = 2_000 if given.quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        silos(folder, rows)
        result = search(loads(RUN, folder=folder), folder / "run").result
        model = result.export_onnx(folder / "adult.onnx")
        command = [sys.executable, "-c", BARE, ABSENT, "predict", str(model)]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(
                [*command, str(folder / "rows.csv"), "--out", str(folder / "answers.csv")],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds.append(time.perf_counter() - start)
        with (folder / "answers.csv").open(newline="") as stream:
            answers = [row["prediction"] for row in csv.DictReader(stream)]
        theirs = torch_labels(folder)
    same = sum(a == b for a, b in zip(answers, theirs, strict=True))
    lines = [
        show(bar("predict without torch, same labels as torch, share of rows", same / rows, 1.0)),
        show(
            bar(
                f"predict {rows} raw rows, seconds, the interpreter's start included",
                min(seconds),
                1.0,
                most=True,
                all=[round(s, 3) for s in seconds],
                labels=sorted(set(answers)),
            )
        ),
    ]
    write(given.write, lines)


def _csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
