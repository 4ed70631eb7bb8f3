"""The last of the straight line: an ONNX file, checked and timed, and the report."""

import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archipelago.data.fleet import Population
from archipelago.data.prepare import Prepared
from archipelago.deploy.export import TOLERANCE, export_onnx
from archipelago.deploy.measure import measure
from archipelago.driver.loop import Champion
from archipelago.driver.record import Recorder
from archipelago.journal.journal import Journal
from archipelago.report.html import render
from archipelago.space.joint import settings
from archipelago.study.analysing.gather import gather
from archipelago.study.analysing.verdict import Tested
from archipelago.study.running.rows import units_of
from archipelago.study.running.stages import Line

__all__ = ["ship"]

ROWS = 256
"""Validation rows on which the exported file is compared with torch."""


def ship(
    directory: Path,
    journal: Journal,
    line: Line,
    prepared: Prepared,
    *,
    champions: Mapping[str, Champion],
    tested: Mapping[str, Tested],
    flat: Tensor,
    own: Mapping[int, Tensor],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Export, verify, time and report; yield each event's kind and data.

    Args:
        directory: of the run; `model.onnx` and `report.html` appear in it, and `clients/` where
            clients have models of their own.
        journal: everything that the report shows.
        line: run and shards.
        prepared: preprocessing that travels in the file.
        champions: the trained network is `final`.
        tested: its test metrics go into the file's metadata.
        flat: its weights.
        own: the weights of each client that has a model of its own; they go to `clients/`.
    """
    graph = champions["final"].graph
    task = line.shards.signature.task
    path = directory / "model.onnx"
    final = prepared.tuned(settings(champions["final"].outcome.arch))
    x = _rows(final.shards)
    shipped = export_onnx(
        graph,
        flat,
        final.preparation,
        line.shards.signature,
        path,
        rows=x,
        units=units_of(line.run),
        meta={
            "run": line.run.name,
            "metric": task.metric,
            "test": _finite(tested.get("shared", tested["final"]).metrics[task.metric]),
            "fingerprint": line.shards.fingerprint,
        },
    )
    for client, weights in own.items():
        name = line.shards.name(client)
        # At most 60 characters: a file system takes 255 bytes, and a character may be four.
        stem = re.sub(r"[^\w.-]+", "_", f"{client:03d}-{name}")[:60]
        (directory / "clients").mkdir(exist_ok=True)
        vector = tested["final"].vectors.get(client)
        export_onnx(
            graph,
            weights,
            final.preparation,
            line.shards.signature,
            directory / "clients" / f"{stem}.onnx",
            rows=x,
            units=units_of(line.run),
            meta={
                "run": line.run.name,
                "client": name,
                "metric": task.metric,
                "test": None if vector is None else _finite(task.metrics(vector)[task.metric]),
                "fingerprint": line.shards.fingerprint,
            },
        )
    found = _budgets(directory, line, prepared, champions=champions, tested=tested)
    if found:
        journal.write_text("budgets/budgets.json", json.dumps(found, indent=1))
        journal.note("budgets", found)
    latency = measure(path, x)
    facts = {
        "path": path.name,
        "bytes": shipped.bytes,
        "max_difference": shipped.max_difference,
        "relative": shipped.relative,
        "tolerance": TOLERANCE,
        "rows": shipped.rows,
        "median_ms": latency.median_ms,
        "p90_ms": latency.p90_ms,
    }
    journal.note("shipped", facts)
    yield "exported", {**facts, "path": str(path)}
    page = journal.write_text("report.html", render(gather(journal, line.run)))
    yield "report", {"path": str(page)}


def _budgets(
    directory: Path,
    line: Line,
    prepared: Prepared,
    *,
    champions: Mapping[str, Champion],
    tested: Mapping[str, Tested],
) -> list[dict[str, Any]]:
    """Export the network of every budget to `budgets/`; return what each costs and reaches."""
    task, out = line.shards.signature.task, []
    recorder = Recorder(line.journal)
    for name in (name for name in champions if name.startswith("final/")):
        graph = champions[name].graph
        seen = prepared.tuned(settings(champions[name].outcome.arch))
        file = directory / "budgets" / f"{name.partition('/')[2]}.onnx"
        file.parent.mkdir(exist_ok=True)
        export_onnx(
            graph,
            recorder.get(champions[name].digest),
            seen.preparation,
            line.shards.signature,
            file,
            rows=_rows(seen.shards),
            units=units_of(line.run),
            meta={"run": line.run.name, "fingerprint": line.shards.fingerprint},
        )
        costs = {**graph.costs, task.metric: _finite(tested[name].metrics[task.metric])}
        out.append({"file": f"budgets/{file.name}", **costs})
    return out


def _finite(value: float) -> float | None:
    """Return a score as JSON can say it: None where it is undefined."""
    return float(value) if isfinite(value) else None


def _rows(shards: Population) -> Tensor:
    parts: list[Tensor] = []
    for client in shards.scoring:
        parts.append(shards.validation(client)[0])
        if sum(len(part) for part in parts) >= ROWS:
            break
    return torch.cat(parts)[:ROWS]
