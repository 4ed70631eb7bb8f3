"""The last of the straight line: an ONNX file, checked and timed, and the report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archipelago.data.prepare import Prepared
from archipelago.data.shards import Shards
from archipelago.deploy.export import export_onnx
from archipelago.deploy.measure import measure
from archipelago.driver.loop import Champion
from archipelago.journal.journal import Journal
from archipelago.report.html import render
from archipelago.study.gather import gather
from archipelago.study.stages import Line
from archipelago.study.verdict import Tested

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
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Export, verify, time and report; yield each event's kind and data.

    Args:
        directory: of the run; `model.onnx` and `report.html` appear in it.
        journal: everything that the report shows.
        line: run and shards.
        prepared: preprocessing that travels in the file.
        champions: the trained network is `final`.
        tested: its test metrics go into the file's metadata.
        flat: its weights.
    """
    graph = champions["final"].graph
    task = line.shards.signature.task
    path = directory / "model.onnx"
    x = _rows(line.shards)
    shipped = export_onnx(
        graph,
        flat,
        prepared.preparation,
        line.shards.signature,
        path,
        rows=x,
        meta={
            "run": line.run.name,
            "metric": task.metric,
            "test": float(tested["final"].metrics[task.metric]),
            "fingerprint": line.shards.fingerprint,
        },
    )
    latency = measure(path, x)
    facts = {
        "path": path.name,
        "bytes": shipped.bytes,
        "max_difference": shipped.max_difference,
        "rows": shipped.rows,
        "median_ms": latency.median_ms,
        "p90_ms": latency.p90_ms,
    }
    journal.note("shipped", facts)
    yield "exported", {**facts, "path": str(path)}
    page = journal.write_text("report.html", render(gather(journal)))
    yield "report", {"path": str(page)}


def _rows(shards: Shards) -> Tensor:
    parts: list[Tensor] = []
    for client in shards.training:
        parts.append(shards.validation(client)[0])
        if sum(len(part) for part in parts) >= ROWS:
            break
    return torch.cat(parts)[:ROWS]
