"""Data sets as lines of text: which there are, and what one of them holds."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from archipelago.cli.show import columns
from archipelago.config.catalog import kinds, part
from archipelago.config.describe import describe
from archipelago.config.run import Run
from archipelago.core.atomic import scratch
from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.data.prepare import Summary
from archipelago.data.sources.named import NAMED
from archipelago.study.running.rows import prepared_for

__all__ = ["listed", "run_of", "shown"]

_YOURS = ("files", "image-folder", "named")
_MOST = 30
"""Clients shown one by one."""


def listed() -> Iterator[str]:
    """Yield every data set that a run file can name."""
    yield "ready at once (data.kind):"
    bundled = [kind for kind in kinds("data") if kind not in _YOURS]
    yield from columns([(kind, describe("data", kind).about) for kind in bundled], indent="  ")
    home = os.environ.get("ARCHIPELAGO_DATA", "")
    yield f"\nnamed sets (data.name), from ARCHIPELAGO_DATA ({home or 'not set'}):"
    rows = [
        (
            name,
            "here" if home and Path(home, name, known.file).is_file() else "absent",
            f"{known.about} ({known.licence})",
        )
        for name, known in NAMED.items()
    ]
    yield from columns(rows, indent="  ")
    yield "\nyour own:"
    own = [(kind, describe("data", kind).about) for kind in ("files", "image-folder")]
    yield from columns(own, indent="  ")


def run_of(name: str) -> Run:
    """Return a run over the data set `name`, by its natural clients where it has them."""
    if name in kinds("data") and name not in _YOURS:
        source = part("data", name)
    elif name in NAMED:
        source = part("data", "named", name=name)
    else:
        known = [*(kind for kind in kinds("data") if kind not in _YOURS), *NAMED]
        advice = did_you_mean(name, known)
        stop = "" if advice.endswith("?") else "."
        fix = f"{advice}{stop} A run file can be shown, too"
        raise ConfigError("no such data set", got=name, fix=fix)
    raw = source.load()
    # Without clients of its own the set is dealt to twenty, or to as many as have 30 rows each.
    partition = (
        part("partition", "dirichlet", clients=min(20, raw.rows // 30))
        if raw.natural is None
        else part("partition", "natural")
    )
    about = describe("data", name).about if name in kinds("data") else ""
    task = "regression" if "regression" in about else "classification"
    return Run(
        name=name,
        data=source,
        partition=partition,
        task=part("task", task),
    )


def shown(run: Run) -> Iterator[str]:
    """Yield rows, shapes, classes, clients and label skew of a run's data."""
    with scratch() as directory:
        prepared = prepared_for(run, directory)
        signature, summaries = prepared.shards.signature, prepared.summaries
    classes = tuple(getattr(signature.task, "classes", ()))
    totals = [sum(getattr(s, what) for s in summaries) for what in ("train", "validation", "test")]
    yield f"modality   {signature.modality}"
    yield f"shape      {' x '.join(map(str, signature.shape))} after preparation"
    yield f"rows       {sum(totals)}: {totals[0]} train, {totals[1]} validation, {totals[2]} test"
    if classes:
        yield f"classes    {len(classes)}: {', '.join(classes)}"
    clients = prepared.shards.clients
    homes = f" in {len(summaries)} homes, which follow" if clients != len(summaries) else ""
    yield f"clients    {clients} ({run.partition.kind}){homes}"
    if classes:
        yield f"label skew {_skew(summaries):.2f}  (0: everybody alike, towards 1: a class each)"
    yield ""
    yield from _clients(summaries, classes)


def _clients(summaries: Sequence[Summary], classes: Sequence[str]) -> Iterator[str]:
    heading = ("client", "train", "validation", "test", "train rows of each class")
    rows = [
        (
            s.name + (" (held out)" if s.held_out else ""),
            str(s.train),
            str(s.validation),
            str(s.test),
            " ".join(map(str, s.labels)),
        )
        for s in summaries[:_MOST]
    ]
    rows = [heading, *rows]
    yield from columns(rows if classes else [row[:-1] for row in rows])
    if len(summaries) > _MOST:
        yield f"... and {len(summaries) - _MOST} more"


def _skew(summaries: Sequence[Summary]) -> float:
    """Return the mean total variation distance of a client's labels from everybody's."""
    counts = np.array([s.labels for s in summaries if sum(s.labels)], np.float64)
    shares = counts / counts.sum(1, keepdims=True)
    overall = counts.sum(0) / counts.sum()
    return float(np.abs(shares - overall).sum(1).mean() / 2)
