"""From a run to ONNX files: the tested network, any candidate of the search, or its whole front."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors

from archipelago.config.load import loads
from archipelago.config.run import Run
from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.small_files import parsed_json, read_small
from archipelago.core.trial import Outcome
from archipelago.data.prepare import Prepared
from archipelago.deploy.export import export_onnx
from archipelago.driver.front import pareto
from archipelago.driver.loop import Champion
from archipelago.journal.journal import Journal
from archipelago.space.graph import Graph
from archipelago.space.joint import settings
from archipelago.study.analysing.gather import ranked, searched
from archipelago.study.running.candidate import finish
from archipelago.study.running.rows import prepared_again, units_of

__all__ = ["export", "export_front"]

_LARGEST = 2**32
"""Bytes of a file of `best/`."""
TESTED = "the tested network of this run"
SEARCHED = "searched, not finally trained, not tested"
TRAINED = "trained to the end, not tested"


def export(
    directory: str | Path,
    path: str | Path,
    *,
    number: int | None = None,
    max_macs: float | None = None,
    max_bytes: float | None = None,
    train: bool = False,
) -> str:
    """Write a network of a run as ONNX to `path`; return a sentence on what it is.

    Without a choice, a finished run's tested file is copied, and of any other run `best/` is
    exported: its data are read again, since their preparation travels in the file.

    Args:
        number: of the candidate wanted.
        max_macs: take the best candidate with at most so many multiply-accumulates a row.
        max_bytes: take the best candidate whose file is no larger.
        train: train the chosen one to the end first, as the winner was. Otherwise the weights of
            the search are exported, which are kept for candidates on the Pareto front.

    Raises:
        JournalError: there is no run, it has finished no candidate yet, or weights are gone.
        ConfigError: no candidate is what was asked for, or `path` cannot be written.
    """
    directory, path = Path(directory), Path(path)
    _refuse_unwritable(path)
    with Journal.open(directory, write=False) as journal:
        shelf = _Shelf.of(journal)
    if number is None and max_macs is None and max_bytes is None:
        return _usual(shelf, path)
    with shelf.data() as prepared:
        lighter, smallest = float("inf"), float("inf")
        for outcome in shelf.wanted(number, max_macs, max_bytes):
            if outcome.costs["params"] >= lighter:
                continue
            what = _one(shelf, prepared, outcome, path, train=train)
            if max_bytes is None or path.stat().st_size <= max_bytes:
                return f"candidate #{outcome.number}, {what}"
            smallest = min(smallest, path.stat().st_size)
            path.unlink()
            lighter = outcome.costs["params"]
    raise ConfigError(
        "no candidate's file is that small",
        got=max_bytes,
        where="--max-bytes",
        fix=f"allow more: the lightest file has {smallest:.0f} bytes",
    )


def export_front(
    directory: str | Path, folder: str | Path, *, train: bool = False
) -> list[tuple[Path, str]]:
    """Write every candidate on the Pareto front of score, MACs and parameters into `folder`.

    Returns:
        each file and a sentence on what it is, by number; `front.json` beside them says the same.
    """
    directory, folder = Path(directory), Path(folder)
    with Journal.open(directory, write=False) as journal:
        shelf = _Shelf.of(journal)
    chosen = pareto(shelf.outcomes)
    if not chosen:
        raise _nothing(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "name a folder that can be made there, or one that you may write to"
        what = "the folder cannot be made"
        raise ConfigError(what, got=error.strerror, where=str(folder), fix=fix) from None
    written: list[tuple[Path, str]] = []
    index: list[dict[str, Any]] = []
    with shelf.data() as prepared:
        for outcome in chosen:
            path = folder / f"candidate-{outcome.number}.onnx"
            what = _one(shelf, prepared, outcome, path, train=train)
            written.append((path, f"candidate #{outcome.number}, {what}"))
            costs = {name: outcome.costs[name] for name in ("params", "macs", "bytes_per_round")}
            index.append(
                {
                    "number": outcome.number,
                    "file": path.name,
                    "bytes": path.stat().st_size,
                    "validation": outcome.score,
                    "what": what,
                    **costs,
                }
            )
    (folder / "front.json").write_text(json.dumps(index, indent=1) + "\n")
    return written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shelf:
    """What a run has to export."""

    directory: Path
    run: Run
    outcomes: Sequence[Outcome]
    weights: Mapping[int, np.ndarray]
    shipped: int | None
    fingerprint: str

    @classmethod
    def of(cls, journal: Journal) -> "_Shelf":
        last = journal.last(full=True)
        state: Mapping[str, Any] = (last.state or {}) if last else {}
        champions = {n: Champion.from_json(c) for n, c in state.get("champions", {}).items()}
        pinned = {
            int(name.removeprefix("front/")): np.frombuffer(journal.get(digest), np.float32)
            for name, digest in journal.pins().items()
            if name.startswith("front/")
        }
        finished = (journal.directory / "model.onnx").is_file() and "search" in champions
        return cls(
            directory=journal.directory,
            run=loads(journal.meta["run"], source=str(journal.directory / "run.toml")),
            outcomes=searched(journal),
            weights=pinned,
            shipped=champions["search"].outcome.number if finished else None,
            fingerprint=str(state.get("fingerprint", "")),
        )

    def wanted(
        self, number: int | None, max_macs: float | None, max_bytes: float | None
    ) -> Iterator[Outcome]:
        """Yield candidates that fit, best first; the file's size is known once it is written."""
        known = {outcome.number: outcome for outcome in self.outcomes}
        if number is not None:
            if number not in known:
                raise ConfigError(
                    "there is no such candidate",
                    got=number,
                    where="--number",
                    fix=f"choose one of 0 to {max(known)}" if known else "search first",
                )
            if not known[number].scored:
                raise ConfigError(
                    "this candidate has no score, and its weights were not kept",
                    got=known[number].reason,
                    where=f"--number {number}",
                    fix="`archipelago report` lists those that are done",
                )
            yield known[number]
            return
        done = [outcome for outcome in ranked(list(self.outcomes)) if outcome.status == "done"]
        if not done:
            raise _nothing(self.directory)
        fitting = [
            outcome for outcome in done if max_macs is None or outcome.costs["macs"] <= max_macs
        ]
        if not fitting:
            macs = min(outcome.costs["macs"] for outcome in done)
            raise ConfigError(
                "no candidate is that small",
                got=max_macs,
                where="--max-macs",
                fix=f"allow more: the smallest has {macs:.0f} MACs a row",
            )
        # Weights alone may be too many; where they always are, the lightest shows the file's size.
        light = [o for o in fitting if max_bytes is None or 4 * o.costs["params"] <= max_bytes]
        yield from light or [min(fitting, key=lambda outcome: outcome.costs["params"])]

    def data(self) -> AbstractContextManager[Prepared]:
        """Read the data again: their preparation travels in the file."""
        return prepared_again(self.run, self.fingerprint, self.directory)


def _usual(shelf: _Shelf, path: Path) -> str:
    if (shelf.directory / "model.onnx").is_file():
        _copied(shelf.directory / "model.onnx", path)
        return TESTED
    best = shelf.directory / "best"
    if not (best / "arch.json").is_file():
        raise _nothing(shelf.directory)
    graph, flat, outcome = _best(best)
    with shelf.data() as prepared:
        about = {"trained": "best so far", "tested": False}
        _write(shelf, prepared, graph, flat, path, about=about, outcome=outcome)
    return "the best network so far; it is not tested yet"


def _best(best: Path) -> tuple[Graph, np.ndarray, Outcome]:
    """Read what a run writes for people, who may have changed it."""
    try:
        described = parsed_json(read_small(best / "arch.json", _LARGEST))
        graph = Graph.from_json(described["graph"])
        tensors = load_tensors(read_small(best / "weights.safetensors", _LARGEST))
        flat = np.concatenate([tensors[leaf.name].ravel() for leaf in graph.layout.leaves])
        return graph, flat, Outcome.from_json(described["outcome"])
    except Exception as error:  # whatever a part of it raises, it is not what was written
        raise JournalError(
            "the best network so far cannot be read",
            got=str(error)[:200] or type(error).__name__,
            where=str(best),
            fix=f"archipelago resume {best.parent} writes it again",
        ) from None


def _one(shelf: _Shelf, prepared: Prepared, outcome: Outcome, path: Path, *, train: bool) -> str:
    if outcome.number == shelf.shipped:
        _copied(shelf.directory / "model.onnx", path)
        return TESTED
    signature = prepared.shards.signature
    graph = shelf.run.family.graph(outcome.arch, signature.shape, signature.outputs)
    if train:
        flat, what = finish(shelf.directory, shelf.run, prepared, outcome), TRAINED
    elif outcome.number in shelf.weights:
        flat, what = shelf.weights[outcome.number], SEARCHED
    else:
        raise JournalError(
            "the weights of this candidate are gone: only the Pareto front's are kept",
            got=outcome.number,
            where=str(shelf.directory),
            fix="add --train: it is then trained to the end, as the winner was",
        )
    about = {"trained": what, "tested": False}
    _write(shelf, prepared, graph, flat, path, about=about, outcome=outcome)
    return what


def _write(
    shelf: _Shelf,
    prepared: Prepared,
    graph: Graph,
    flat: Any,
    path: Path,
    *,
    about: Mapping[str, Any],
    outcome: Outcome,
) -> None:
    seen = prepared.tuned(settings(outcome.arch))
    shards = seen.shards
    export_onnx(
        graph,
        flat,
        seen.preparation,
        shards.signature,
        path,
        rows=shards.validation(shards.scoring[0])[0],
        units=units_of(shelf.run),
        meta={
            "run": shelf.run.name,
            "fingerprint": prepared.shards.fingerprint,
            "candidate": outcome.number,
            "validation": outcome.score,
            **about,
        },
    )


def _refuse_unwritable(path: Path) -> None:
    """Refuse before anything is computed for the file."""
    if path.is_dir():
        what, fix = "this is a directory", f"name the file too, e.g. {path / 'model.onnx'}"
    elif not path.parent.is_dir():
        what, fix = "its directory does not exist", f"mkdir -p {path.parent}"
    elif not os.access(path.parent, os.W_OK):
        what, fix = "its directory is read-only", "choose a directory that you may write to"
    else:
        return
    raise ConfigError(
        f"the model cannot be written: {what}", got=str(path), where="--onnx", fix=fix
    )


def _copied(source: Path, path: Path) -> None:
    try:
        shutil.copyfile(source, path)
    except OSError as error:
        raise ConfigError(
            "the model cannot be written",
            got=error.strerror,
            where=str(path),
            fix="choose a file in a directory that you may write to",
        ) from None


def _nothing(directory: Path) -> JournalError:
    return JournalError(
        "no candidate is finished yet: there is nothing to export",
        where=str(directory),
        fix=f"archipelago resume {directory}",
    )
