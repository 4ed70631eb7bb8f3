"""From silos to a run file that says why each value was chosen. Only aggregates leave a silo."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from archipelago.config import toml
from archipelago.config.catalog import part
from archipelago.config.load import loads
from archipelago.config.tables import to_table
from archipelago.core.display import words
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.data.decide import decide
from archipelago.data.inspection import Inspection, inspect
from archipelago.data.partition import Iid, Natural
from archipelago.data.prepare import floor_of
from archipelago.data.preprocess import Preprocess
from archipelago.data.raw import Raw
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, MultiLabel, Regression

__all__ = ["Draft", "draft"]

_FAMILIES = {"table": "table-mlp", "image": "image-chain", "series": "series-chain"}
_ROWS = {1: "ROWS.csv", 2: "ROWS.npz", 3: "PICTURES"}
"""What `predict` is given, by the axes of a row."""
_RARE = 0.2
"""Below this share of the rows a class is rare: plain accuracy would hardly see it."""
_SAMPLE = 64
"""Members of the space from which the size of its networks is read."""
_LONG, _WINDOW, _LEAST_WINDOW = 1024, 256, 8
"""Steps beyond which series are cut, of the windows then, and below which no window makes sense."""
_LARGEST_SHARE = 0.25
"""Of a small silo's rows that are put aside, to validate and to test each."""
_WORK = 4e12
"""Multiply-accumulates that the search may spend on clients: minutes on a few cores."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One setting: where it stands, its value (None: not set), and why."""

    section: str
    option: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A run file that somebody may own, and what it was made from.

    Attributes:
        text: of the file, commented; it loads as it stands.
        inspection: the verdict on each silo.
        meter: every message of the inspection.
    """

    text: str
    inspection: Inspection
    meter: tuple[MeterRow, ...]


def draft(
    source: Any,
    *,
    file: str | Path = "run.toml",
    name: str = "",
    seed: int = 0,
    classes: Sequence[str] = (),
) -> Draft:
    """Inspect the silos and write a run file for them.

    Args:
        source: a data part of the catalog, e.g. `Files(paths=("silos/*.csv",), label="y")`.
        file: where the text will lie: its paths begin there.
        name: of the run; by default the file's.
        seed: of the run.
        classes: all that there are, in order, where the owner says so; empty: as silos say.

    Raises:
        DataError: a silo, column or label cannot be used; it is named, with the remedy.
    """
    raw = source.load()
    partition, how = _partition(raw)
    floor = floor_of(source, Preprocess())
    split, root = _split(raw, floor), Seed(seed).child("data")
    decision = decide(raw, partition, split, seed=root, floor=floor)
    task = _declared(decision.task, classes)
    cut, reason = _cut(raw)
    windows = cut.windows
    found = inspect(
        _Loaded(raw, getattr(source, "PUBLISHED", False)),
        partition,
        split,
        task,
        seed=root,
        windows=windows,
    )
    lines = [
        *_data(source, Path(file), found),
        _Line("partition", "kind", partition.kind, how),
        *_shares(split, floor),
        *_held(found),
        *_task(task, decision.why, found),
        *_preprocess(found),
        *_windows(cut, reason),
        *_work(raw, found, partition),
    ]
    if isinstance(partition, Iid):
        lines.insert(3, _Line("partition", "clients", partition.clients, "at least 60 rows each"))
    text = _text(lines, name or Path(file).stem, seed, Path(file), found)
    loads(text, source=str(file), folder=Path(file).absolute().parent)
    return Draft(text=text, inspection=found, meter=(*decision.meter, *found.meter))


def _declared(
    task: Classification | MultiLabel | Regression, classes: Sequence[str]
) -> Classification | MultiLabel | Regression:
    if not classes:
        return task
    if isinstance(task, Regression):
        return Classification(classes=tuple(classes))
    return replace(task, classes=tuple(classes))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Rows that were read once already."""

    raw: Raw
    PUBLISHED: bool

    def load(self) -> Raw:
        return self.raw


def _partition(raw: Raw) -> tuple[Natural | Iid, str]:
    if raw.natural is not None:
        return Natural(), f"{len(raw.names)} owners hold the rows: each is a client"
    clients = max(2, min(10, raw.rows // 60))
    why = "nobody owns these rows: they are dealt out, so this is a simulation"
    return Iid(clients=clients), why


def _split(raw: Raw, floor: int) -> Split:
    """Return shares with which the typical silo has enough rows to tell a score of."""
    plain = Split()
    if raw.natural is None or not floor:
        return plain
    typical = int(np.median(np.bincount(raw.natural)))
    share = min(_LARGEST_SHARE, ceil(100 * (floor + 0.5) / typical) / 100)
    return Split(validation=share, test=share) if share > plain.test else plain


def _shares(split: Split, floor: int) -> Iterator[_Line]:
    if split == Split():
        return
    why = f"a silo tells no score of fewer than {floor} rows"
    yield _Line("split", "validation", split.validation, why)
    yield _Line("split", "test", split.test, why)


def _data(source: Any, file: Path, found: Inspection) -> Iterator[_Line]:
    about = {
        "label": "what is predicted",
        "client": "whose row it is",
        "label_map": "what silos write differently, as its owner says",
        "size": "pictures differ in size: all are resized to so many pixels a side",
    }
    for option, value in to_table(source, "data").items():
        if value in ("", [], 0, False, None) or (option, value) in (
            ("modality", "auto"),
            ("channels", "last"),
        ):
            continue
        shown = _from(file, value) if option == "paths" else value
        yield _Line("data", option, shown, about.get(option, ""))
    leaks = sorted({f.column for f in found.findings if f.what == "leak"})
    if leaks:
        shown = ", ".join(f'"{name}"' for name in leaks)
        why = f"suspected leak: if so, write drop = [{shown}]; nothing was dropped"
        yield _Line("data", "drop", None, why)


def _from(file: Path, paths: Sequence[str]) -> list[str]:
    """Return paths of the working directory as the file, which lies elsewhere, must write them."""
    return [relpath(Path(path).absolute(), file.absolute().parent) for path in paths]


def _held(found: Inspection) -> Iterator[_Line]:
    if len(found.rows_by_silo) >= 10:
        why = "no silo is kept out of training; 1 or 2 would show how the model does elsewhere"
        yield _Line("split", "held_out", 0, why)


def _task(
    task: Classification | MultiLabel | Regression, why: str, found: Inspection
) -> Iterator[_Line]:
    yield _Line("task", "kind", task.kind, f"{why}; {found.reading}" if found.reading else why)
    if not isinstance(task, Regression) and task.classes:
        yield _Line("task", "classes", list(task.classes), "as their owner declares them")
    if isinstance(task, Regression):
        yield _Line("task", "metric", "rmse", "in the target's own unit; large errors count most")
        return
    if isinstance(task, MultiLabel):
        yield _Line("task", "separator", task.separator, "between names in one field")
        yield _Line("task", "metric", "macro_f1", "every label counts alike, however rare")
        return
    rarest = min(found.labels, key=lambda label: found.labels[label])
    share = found.labels[rarest] / sum(found.labels.values())
    rows = f"{rarest!r} is the rarest of {len(found.labels)} classes, {share:.0%} of the train rows"
    if share < min(_RARE, 0.5 / len(found.labels) * 1.6):
        yield _Line("task", "metric", "balanced_accuracy", f"{rows}: each class counts alike")
        yield _Line("task", "balance", True, "and weighs alike in training")
    else:
        yield _Line("task", "metric", "accuracy", f"{rows}: none is rare")


def _preprocess(found: Inspection) -> Iterator[_Line]:
    if not found.columns:
        return
    if found.tails:
        names = ", ".join(found.tails[:4]) + (" ..." if len(found.tails) > 4 else "")
        why = f"a few values lie far out in {names}: ranks even them out"
        yield _Line("preprocess", "scaling", "quantile", why)
    else:
        yield _Line("preprocess", "scaling", "standard", "no numeric column has a long tail")


def _cut(raw: Raw) -> tuple[Preprocess, str]:
    """Choose windows for series that differ in length or are very long, and say why.

    Steps are the files' format, as a picture's size is: no silo is asked for them.
    """
    if raw.modality != "series" or isinstance(raw.x, Mapping):
        return Preprocess(), ""
    longest = raw.x.shape[2]
    shortest = longest if raw.lengths is None else int(raw.lengths.min())
    window = min(_WINDOW, 2 ** (shortest.bit_length() - 1))
    if window < _LEAST_WINDOW or (raw.lengths is None and longest <= _LONG):
        return Preprocess(), ""
    why = f"recordings of up to {longest} steps"
    why += " differ in length: a network takes one" if raw.lengths is not None else ""
    return Preprocess(window=window, stride=window // 2), why


def _windows(cut: Preprocess, why: str) -> Iterator[_Line]:
    if not cut.window:
        return
    yield _Line("preprocess", "window", cut.window, f"{why}; `predict` answers once a recording")
    yield _Line("preprocess", "stride", cut.stride, "windows overlap by half")


def _work(raw: Raw, found: Inspection, partition: Natural | Iid) -> Iterator[_Line]:
    """Choose space, limits, rounds and trials from numbers of rows and silos."""
    rows = sorted(found.rows_by_silo.values())
    typical, total, silos = rows[len(rows) // 2], sum(rows), len(rows)
    family = part("space", _FAMILIES[raw.modality])
    yield _Line("space", "kind", family.kind, f"{raw.modality} rows of shape {found.shape}")
    space, rng = family.space(found.shape, found.outputs), Seed(0).child("draft").rng()
    graphs = [family.graph(space.sample(rng), found.shape, found.outputs) for _ in range(_SAMPLE)]
    params = sorted(graph.params for graph in graphs)
    # Ten parameters a row, but never fewer than a quarter of the space needs.
    limit = max(10 * total, params[_SAMPLE // 4], 2_000)
    limit = _round_up(min(limit, 2 * params[-1]))
    why = f"{total} train rows; networks of this space have {params[0]} to {params[-1]} parameters"
    yield _Line("", "constraints", [f"params < {_short(limit)}"], why)
    macs = sorted(graph.macs for graph in graphs if graph.params < limit)
    batch = 2 ** max(3, min(6, (max(typical, 8) // 8).bit_length() - 1))
    steps = max(1, typical // batch)
    final = max(20, min(80, -(-1_200 // steps)))
    rounds = max(4, min(10, final // 6))
    race = silos >= 8
    candidates = 4
    # A race trains each candidate on its own group of silos: a round costs one pass in all.
    a_trial = 3 * macs[len(macs) // 2] * total * rounds / (candidates if race else 1)
    trials = max(8, min(24, int(_WORK / max(a_trial, 1)) // candidates * candidates))
    yield _Line("strategy", "kind", "regularized-evolution", "robust, and needs no tuning")
    yield _Line("strategy", "population", max(6, trials // 3), "a third of the trials stays alive")
    yield _Line("strategy", "sample", 3, "parents compared for a child")
    if race:
        why = f"{silos} silos are enough for disjoint groups: candidates train side by side"
        yield _Line("estimator", "kind", "race", why)
        yield _Line("estimator", "candidates", candidates, f"about {silos // 4} silos each")
        yield _Line("estimator", "first", max(2, rounds // 2), "few rounds at first")
        yield _Line("estimator", "last", rounds, "more once the search has an idea")
    else:
        why = f"{silos} silos are too few for disjoint groups: every candidate trains at each"
        yield _Line("estimator", "kind", "rounds", why)
        yield _Line("estimator", "candidates", candidates, "side by side")
        yield _Line("estimator", "rounds", rounds, f"a sixth of the final {final}")
    yield from _training(batch, typical)
    yield _Line("budget", "trials", trials, f"networks of about {macs[len(macs) // 2]} MACs a row")
    yield _Line("final", "rounds", final, f"{steps} steps a round at the typical silo")
    yield _Line("final", "references", True, "what a hand-made network and random search reach")
    if isinstance(partition, Natural):
        why = "references pool all rows on this machine: false where that is not allowed"
        yield _Line("final", "", None, why)


def _training(batch: int, typical: int) -> Iterator[_Line]:
    yield _Line("client", "batch", batch, f"the typical silo has {typical} train rows")
    yield _Line("client", "learning_rate", 0.02, "a safe start for small networks")
    yield _Line("client", "momentum", 0.9, "fewer rounds than without")
    yield _Line("client", "schedule", "cosine", "large steps first, small ones at the end")
    yield _Line("client", "clip", 5.0, "one wild batch cannot ruin a round")


def _text(lines: list[_Line], name: str, seed: int, file: Path, found: Inspection) -> str:
    called, place = words(name), words(str(file))
    head = [
        f"# Made by `archipelago new` from counts and sums of {len(found.rows_by_silo)} silos.",
        "# Each value has its reason behind it; change what you know better.",
        "#",
        *(f"#   archipelago {verb} {place}" for verb in ("check", "plan", "search")),
        *(f"#   archipelago export runs/{called} --onnx {called}.onnx",),
        *(f"#   archipelago predict {called}.onnx {_ROWS[len(found.shape)]}",),
        "",
    ]
    top = [_Line("", "name", name, ""), _Line("", "seed", seed, "another seed repeats the study")]
    sections: dict[str, list[_Line]] = {"": top}
    for line in lines:
        sections.setdefault(line.section, []).append(line)
    sections["governance"] = [
        _Line("governance", option, "", why)
        for option, why in (
            ("entitlement", "under which agreement or approval the silos take part"),
            ("legal_basis", "for example an article of the GDPR"),
            ("contact", "whom a data subject or an auditor may ask"),
        )
    ]
    for section, group in sections.items():
        if section:
            head += ["", f"[{section}]"]
        head += [_written(line) for line in group]
    notes = [f"# {words(note)}" for note in found.notes]
    return (
        "\n".join([*head, *(["", "# Columns that are not used:", *notes] if notes else [])]) + "\n"
    )


def _written(line: _Line) -> str:
    # Names of columns and silos stand in reasons: none may begin a line of its own.
    why = words(line.why).strip()
    if line.value is None:
        return f"# {why}"
    text = toml.line(line.option, line.value)
    return f"{text}  # {why}" if why else text


def _round_up(value: float) -> int:
    """Return 1, 2 or 5 times a power of ten, at least `value`."""
    power = 10 ** (len(str(int(value))) - 1)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _short(value: int) -> str:
    return f"{value // 1000}k" if value % 1000 == 0 else str(value)
