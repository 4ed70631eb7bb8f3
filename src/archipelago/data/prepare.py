"""From a source to shards: own, agree, apply, split, write. The straight line of this folder."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from archipelago.core.atomic import private
from archipelago.core.errors import ConfigError, DataError, IncompatibleParts, did_you_mean
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.core.trial import Value
from archipelago.data.answers import LocalRows
from archipelago.data.classes import Lexicon
from archipelago.data.fleet import Fleet, FleetShards, Population
from archipelago.data.label_map import words_of
from archipelago.data.labels import (
    codes_of,
    labels_of,
    lexicon_of,
    target_of,
    targets_of,
    untold_targets,
)
from archipelago.data.partition import Classes, Dirichlet, Iid, Natural, Quantity, assign
from archipelago.data.preparation import Preparation
from archipelago.data.preprocess import SCALING, Preprocess
from archipelago.data.presence import Labels, Presence, ask
from archipelago.data.quality import Finding, judge
from archipelago.data.raw import Raw
from archipelago.data.releases import Withheld, refuse_all_few
from archipelago.data.shards import Shards, Signature
from archipelago.data.spelling import spelled
from archipelago.data.split import TEST, TRAIN, VALIDATION, Split
from archipelago.data.statistics import (
    Agreed,
    Answers,
    Clients,
    agree_columns,
    merged,
    refuse_unnamed,
)
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.data.vocabularies import refuse_two_vocabularies
from archipelago.data.windows import Windows, windows_of

__all__ = [
    "SILOS",
    "Owned",
    "Prepared",
    "Source",
    "Summary",
    "agreed_classes",
    "floor_of",
    "owned_by_clients",
    "owned_unread",
    "prepare",
    "unnamed",
]

SILOS = 1000
"""Most clients on whose data a run passes a verdict, one by one."""

LEAST_ROWS = 3
"""Rows of a client that can be parted at all: one each to train, validate and test."""

_Spans = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@runtime_checkable
class Source(Protocol):
    """Where rows come from.

    A class of a set that anybody can look up says `PUBLISHED = True`: its rows are not judged.
    """

    def load(self) -> Raw:
        """Read all rows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One client in numbers. Showing `labels` to others is a release: they describe its people.

    Attributes:
        train: rows to train on.
        validation: rows to validate on.
        test: sealed rows.
        labels: train rows of each class; empty for a regression, and where the owner of the rows
            did not set `preprocess.label_counts`.
        held_out: whether it never trains.
    """

    client: int
    name: str
    train: int
    validation: int
    test: int
    labels: tuple[int, ...] = ()
    held_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run needs of its data.

    Attributes:
        shards: rows by client, inputs already prepared.
        rows: what the statistics round cost.
        preparation: turns raw rows into inputs, then and later.
        summaries: one for each client; of a fleet, one for each home.
        views: by scaling, further preparations of the same rows that a search may choose.
        findings: the verdict on each client's rows; None where nobody asked for one.
        presence: which classes each client's splits hold; of a fleet, those of its panel.
        withheld: what silos did not tell, or are not asked, for want of rows.
    """

    shards: Population
    rows: tuple[MeterRow, ...]
    preparation: Preparation
    summaries: tuple[Summary, ...]
    presence: Presence
    views: Mapping[str, Preparation] = field(default_factory=dict[str, Preparation])
    findings: tuple[Finding, ...] | None = None
    withheld: tuple[Withheld, ...] = ()

    def tuned(self, settings: Mapping[str, Value]) -> "Prepared":
        """Return the same under the scaling that `settings` names, where there is one."""
        name = str(settings.get(SCALING, ""))
        if name not in self.views:
            return self
        return replace(self, shards=self.shards.view(name), preparation=self.views[name])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Owned:
    """Rows with their owners and parts. `labels` or `target` is None, as the task has it.

    Attributes:
        held: clients that are not asked: held out, or with fewer rows than the floor; the latter
            have no row in any part.
        floor: fewest rows behind what leaves a client; 0 where the set is published.
        recording: of windows: which recording each row was cut from.
        declared: class names that are schema.
        exact: whether exact counts of labels may leave.
        withheld: clients that were left out.
    """

    raw: Raw
    names: tuple[str, ...]
    held: frozenset[int]
    spans: _Spans
    labels: np.ndarray | None
    target: np.ndarray | None
    separator: str
    floor: int = 0
    recording: np.ndarray | None = None
    declared: tuple[str, ...] = ()
    exact: bool = False
    withheld: tuple[Withheld, ...] = ()

    def local(self, client: int) -> LocalRows:
        """Return one client's train rows: all that its half of the statistics round sees."""
        rows, raw = self.spans[client][TRAIN], self.raw
        return LocalRows(
            client=client,
            name=self.names[client],
            x=(
                {name: column[rows] for name, column in raw.x.items()}
                if isinstance(raw.x, Mapping)
                else raw.x[rows]
            ),
            labels=None if self.labels is None else self.labels[rows],
            target=None if self.target is None else self.target[rows],
            scale=raw.scale,
            categorical=raw.categorical,
            separator=self.separator,
            floor=self.floor,
            declared=self.declared,
            units=None if self.recording is None else self.recording[rows],
            place=None if self.recording is not None else lambda row: raw.place(int(rows[row])),
            exact=self.exact,
        )

    def units(self, part: int) -> np.ndarray:
        """Return how many rows, or recordings, each client has in a part, int64 `[clients]`."""
        of = self.recording
        return np.array(
            [len(s[part] if of is None else np.unique(of[s[part]])) for s in self.spans]
        )

    def quiet(self, part: int) -> tuple[int, ...]:
        """Return the clients that have rows in a part, and too few to tell of."""
        counts = self.units(part)
        return tuple(np.flatnonzero((counts > 0) & (counts < self.floor)).tolist())

    def without(self, rows: np.ndarray) -> "Owned":
        """Return the same without some rows (`[rows]` bool), and without clients left with few."""
        spans = [tuple(part[~rows[part]] for part in parts) for parts in self.spans]
        kept = replace(self, spans=spans)
        counts = kept.units(TRAIN)
        few = set(np.flatnonzero(counts < self.floor).tolist()) - self.held
        return kept.leaving(few)

    def leaving(self, few: Collection[int]) -> "Owned":
        """Return the same with some clients left out, who then have no rows.

        Raises:
            DataError: nobody is left to train.
        """
        if not few:
            return self
        none = np.zeros(0, np.int64)
        out = replace(
            self,
            spans=[(none,) * 3 if c in few else parts for c, parts in enumerate(self.spans)],
            held=self.held | frozenset(few),
            withheld=(
                *self.withheld,
                *(Withheld(silo=self.names[c], what="silo") for c in sorted(few)),
            ),
        )
        if len(out.held) == len(self.names):
            raise refuse_all_few([self.names[c] for c in sorted(few)], self.floor)
        return out

    def cut(self, windows: Windows | None) -> "Owned":
        """Return the windows of these recordings, each where its recording is."""
        raw = self.raw
        if windows is None:
            _refuse_lengths(raw)
            return self
        if isinstance(raw.x, Mapping) or raw.modality != "series":
            raise IncompatibleParts(
                "only series are cut into windows",
                got=raw.modality,
                where="preprocess.window",
                fix="leave it out",
            )
        fix = "set preprocess.window to {shortest} or less, or leave these recordings out"
        windows.check(raw.x, raw.lengths, where=raw.name, whose="the", fix=fix)
        x, counts = windows.cut(raw.x, raw.lengths)
        recording = np.repeat(np.arange(raw.rows), counts)
        spent = dict.fromkeys(("natural", "groups", "official", "lengths"))
        return replace(
            self,
            raw=replace(raw, x=x, y=raw.y[recording], **spent),
            spans=[tuple(windows_of(part, counts) for part in parts) for parts in self.spans],
            labels=None if self.labels is None else self.labels[recording],
            target=None if self.target is None else self.target[recording],
            recording=recording,
        )


def prepare(
    source: Source,
    partition: Iid | Dirichlet | Classes | Quantity | Natural | Fleet,
    split: Split,
    task: Classification | MultiLabel | Regression,
    *,
    seed: Seed,
    directory: str | Path,
    preprocess: Preprocess | None = None,
    choices: Mapping[str, tuple[Value, ...]] | None = None,
    judged: bool = False,
) -> Prepared:
    """Give rows to clients, hold the statistics round over train rows, write the shards.

    Args:
        source: where rows come from.
        partition: who owns which.
        split: train, validation and test.
        task: what is learned.
        seed: of both.
        directory: for the prepared rows; made if absent. They are their owners': the study
            removes it at the end of a run.
        preprocess: how tables are scaled.
        choices: what a search tunes; other scalings among it are prepared too.
        judged: whether the round also asks what a verdict on each client's rows needs. More than
            `SILOS` clients are phones, of which nobody reads ten thousand verdicts: not asked.

    Raises:
        DataError: a file, silo, column or label cannot be used; it is named.
        ConfigError: the partition or the split asks for what the data cannot give, or a unit
            belongs to no column.
    """
    scaled, home = preprocess or Preprocess(), Path(directory)
    floor = floor_of(source, scaled)
    owned = owned_by_clients(
        source.load(),
        partition,
        split,
        task,
        seed,
        windows=scaled.windows,
        floor=floor,
        exact=scaled.label_counts,
    )
    raw = owned.raw
    clients = Clients(owned.local, [c for c in range(len(owned.names)) if c not in owned.held])
    answers = clients.ask({"ask": "schema"})
    lexicon = agreed_classes(task, answers, owned, source=source, partition=partition)
    filled, y, owned = _targets(task, answers, owned, lexicon)
    clients.withheld += untold_targets(answers, raw.label or "the target")
    clients.clients = [c for c in clients.clients if c not in owned.held]
    kept = {owned.names[client] for client in clients.clients}
    answers = [(silo, said) for silo, said in answers if silo in kept]
    quiet = {"validation": owned.quiet(VALIDATION), "test": owned.quiet(TEST)}

    def agreed(how: Preprocess) -> Agreed | None:
        table = isinstance(raw.x, Mapping)
        return agree_columns(clients, answers, how) if table else None

    def written(how: Preprocess, where: Path, of: Agreed | None) -> tuple[Preparation, Shards]:
        preparation, x = _inputs(owned, answers, of, how.windows)
        _check_units(how, preparation, getattr(source, "label", ""))
        shards = Shards.write(
            where,
            signature=Signature(modality=raw.modality, shape=preparation.shape, task=filled),
            names=owned.names,
            held_out=sorted(owned.held),
            x=x,
            y=y,
            spans=owned.spans,
            affine=(preparation.multiply or (1.0,), preparation.add or (0.0,)),
            floor=floor,
            quiet=quiet,
        )
        private(where / "preparation.json").write_text(preparation.to_json())
        return preparation, shards

    first = agreed(scaled)
    preparation, shards = written(scaled, home, first)
    others = {
        name: replace(scaled, scaling=name) for name in scaled.views(choices or {}, raw.modality)
    }
    views = {name: written(how, home / name, agreed(how))[0] for name, how in others.items()}
    few = len(clients.clients) <= SILOS
    named = lexicon.named(answers) if lexicon else answers
    findings = judge(clients, named, first) if judged and few else None
    withheld = [*owned.withheld, *dict.fromkeys(clients.withheld)]
    for part, silent in quiet.items():
        withheld += [Withheld(silo=owned.names[client], what=part) for client in silent]
    population = partition.settle(shards, seed) if isinstance(partition, Fleet) else shards
    presence = ask(
        filled,
        _labels(population, owned, y, quiet),
        floor=scaled.floor,
        meter=clients.meter,
        turn=clients.rounds,
    )
    return Prepared(
        shards=population,
        presence=presence,
        rows=tuple(clients.meter),
        preparation=preparation,
        summaries=tuple(_summaries(owned, y, filled)),
        views=views,
        findings=findings,
        withheld=tuple(withheld),
    )


def floor_of(source: object, preprocess: Preprocess) -> int:
    """Return the fewest rows behind what leaves a silo; 0 for a set that anybody can look up."""
    return 0 if getattr(source, "PUBLISHED", False) else preprocess.floor


def _labels(
    population: Population, owned: Owned, y: np.ndarray, quiet: Mapping[str, Collection[int]]
) -> Iterator[Labels]:
    """Yield the targets of everybody who will score: the held-out too, since they test.

    Of a split with too few rows to be scored nothing is told.
    """
    if isinstance(population, FleetShards):
        sealed = np.array([len(test) for *_, test in owned.spans])
        for client in population.scoring:
            home, drawn = population.rows_of(client, sealed)
            train, validation, test = (
                y[rows[some]] for rows, some in zip(owned.spans[home], drawn, strict=True)
            )
            parts = (train, validation, test)
            yield Labels(client=client, home=home, name=population.name(client), parts=parts)
        return
    for client, (train, validation, test) in enumerate(owned.spans):
        if not len(train) and not len(test):  # below the floor, and left out: nothing is asked
            continue
        parts = (
            y[train],
            y[validation[:0] if client in quiet["validation"] else validation],
            y[test[:0] if client in quiet["test"] else test],
        )
        yield Labels(client=client, home=client, name=owned.names[client], parts=parts)


def _refuse_lengths(raw: Raw) -> None:
    """Refuse recordings of several lengths that nobody cuts."""
    if raw.lengths is not None:
        shortest, longest = int(raw.lengths.min()), int(raw.lengths.max())
        raise DataError(
            "recordings have different lengths, and a network takes one",
            got=f"{shortest} to {longest} steps",
            where=raw.name,
            fix=f"set preprocess.window, at most {shortest}, or bring all of them to one length",
        )


def _check_units(preprocess: Preprocess, preparation: Preparation, label: str) -> None:
    known = {label, *(column.name for column in preparation.columns)}
    for name in preprocess.units:
        if name not in known:
            raise ConfigError(
                "a unit for a column that the data lack",
                got=name,
                where="preprocess.units",
                fix=did_you_mean(name, known - {""}) if known - {""} else "leave it out",
            )


def owned_by_clients(
    raw: Raw,
    partition: Iid | Dirichlet | Classes | Quantity | Natural | Fleet,
    split: Split,
    task: Classification | MultiLabel | Regression,
    seed: Seed,
    *,
    windows: Windows | None = None,
    floor: int = 0,
    exact: bool = False,
) -> Owned:
    """Give rows to clients, part them, then cut recordings; nothing is learned from them yet.

    Args:
        floor: clients with fewer train rows are left out; see `Owned`.
        exact: see `Owned`.

    Raises:
        DataError: labels are missing, or a recording is shorter than a window.
        IncompatibleParts: there are windows, and the rows are no series.
    """
    if isinstance(task, Regression):
        target = target_of(raw)
        owned = _owned(raw, partition, split, _fifths(target), seed, floor=floor, target=target)
        return owned.cut(windows)
    labels = labels_of(raw, task)
    strata = np.unique(labels, return_inverse=True)[1]
    separator = task.separator if isinstance(task, MultiLabel) else ""
    owned = _owned(raw, partition, split, strata, seed, floor=floor, labels=labels)
    declared = (*task.classes, *raw.declared)
    owned = replace(owned, separator=separator, declared=declared, exact=exact)
    return owned.cut(windows)


def owned_unread(
    raw: Raw,
    partition: Iid | Dirichlet | Classes | Quantity | Natural | Fleet,
    split: Split,
    seed: Seed,
    *,
    floor: int = 0,
) -> Owned:
    """Give rows to clients before anybody knows what the label column means."""
    labels = words_of(raw, strict=False)[0] if raw.label_map else raw.y
    strata = np.zeros(raw.rows, np.int64)
    return _owned(raw, partition, split, strata, seed, floor=floor, labels=labels)


def agreed_classes(
    task: Classification | MultiLabel | Regression,
    answers: Answers,
    owned: Owned,
    *,
    source: Source,
    partition: Iid | Dirichlet | Classes | Quantity | Natural | Fleet,
) -> Lexicon | None:
    """Agree on classes; None of a regression.

    Raises:
        DataError: there is one class only, too few rows to name two, or owners of rows call the
            classes differently. Rows that are dealt out, published sets, and very many owners are
            not asked for that.
    """
    if isinstance(task, Regression):
        return None
    raw = owned.raw
    refuse_unnamed(answers, raw.target, owned.floor)
    lexicon = lexicon_of(task, answers, raw.classes, raw.target)
    own_rows = isinstance(partition, Natural) and not getattr(source, "PUBLISHED", False)
    if own_rows and len(answers) <= SILOS:
        refuse_two_vocabularies(
            _held(lexicon, answers, owned),
            lexicon.names,
            task.classes,
            schema=bool(raw.classes),
            where=raw.target,
        )
    return lexicon


def _held(lexicon: Lexicon, answers: Answers, owned: Owned) -> Answers:
    """Return the answers with all agreed classes that a silo holds, those of few rows too.

    A silo told no name of these; that it holds a class which others name is what it tells as class
    presence, and without it a silo that lacks nothing would seem to call classes differently.
    """
    out: list[tuple[str, Mapping[str, Any]]] = []
    for silo, said in lexicon.named(answers):
        few: dict[str, int] = {}
        if said.get("unnamed") and owned.labels is not None:
            rows = owned.spans[owned.names.index(silo)][TRAIN]
            places = map(lexicon.place, _words(owned, rows))
            few = {lexicon.names[place]: 1 for place in places if place >= 0}
        out.append((silo, {**said, "labels": {**few, **said["labels"]}}))
    return out


def _words(owned: Owned, rows: np.ndarray) -> set[str]:
    """Return the different labels of some rows, as written."""
    fields = set() if owned.labels is None else set(np.unique(owned.labels[rows]).tolist())
    mark = owned.separator
    return {spelled(part) for f in fields for part in f.split(mark)} - {""} if mark else fields


def _owned(
    raw: Raw,
    partition: Iid | Dirichlet | Classes | Quantity | Natural | Fleet,
    split: Split,
    strata: np.ndarray,
    seed: Seed,
    *,
    floor: int,
    labels: np.ndarray | None = None,
    target: np.ndarray | None = None,
) -> Owned:
    owners = partition.owners if isinstance(partition, Fleet) else partition
    if isinstance(owners, Natural) and floor > 1 and owners.least <= max(LEAST_ROWS, floor):
        owners = replace(owners, least=1)  # whoever has too few is left out below, not refused
    owner, names = assign(
        owners,
        raw,
        strata,
        seed.child("partition"),
        official=raw.official if split.official else None,
    )
    held = frozenset(split.held(len(names), seed.child("split")))
    least = max(floor, LEAST_ROWS) if floor > 1 else 0
    spans = _spans(raw, split, strata, (owner, names, held), seed.child("split"), least=least)
    owned = Owned(
        raw=raw,
        names=names,
        held=held,
        spans=spans,
        labels=labels,
        target=target,
        separator="",
        floor=floor,
    )
    few = [c for c, parts in enumerate(spans) if len(parts[TEST if c in held else TRAIN]) < floor]
    return owned.leaving(few)


def _spans(
    raw: Raw,
    split: Split,
    strata: np.ndarray,
    owners: tuple[np.ndarray, tuple[str, ...], frozenset[int]],
    seed: Seed,
    *,
    least: int,
) -> _Spans:
    """Part each client's rows; one with fewer than `least` gets no part."""
    owner, names, held = owners
    order = np.argsort(owner, kind="stable")
    cuts = np.searchsorted(owner[order], np.arange(len(names) + 1))
    none = np.zeros(0, np.int64)
    out: _Spans = []
    for client, name in enumerate(names):
        rows = order[cuts[client] : cuts[client + 1]]
        if client in held:
            out.append((none, none, rows))
            continue
        if len(rows) < least:
            out.append((none, none, none))
            continue
        part = split.parts(
            strata[rows],
            client=name,
            seed=seed.child("client", client),
            groups=None if raw.groups is None else raw.groups[rows],
            official=None if raw.official is None else raw.official[rows],
        )
        out.append((rows[part == TRAIN], rows[part == VALIDATION], rows[part == TEST]))
    return out


def _targets(
    task: Classification | MultiLabel | Regression,
    answers: Answers,
    owned: Owned,
    lexicon: Lexicon | None,
) -> tuple[Classification | MultiLabel | Regression, np.ndarray, Owned]:
    """Fill in the task, encode every row's target, and leave out rows of unnamed classes."""
    if owned.target is not None and isinstance(task, Regression):
        y = owned.target.astype(np.float32)
        return targets_of(task, answers, owned.raw.target), y, owned
    if owned.labels is None or lexicon is None or isinstance(task, Regression):
        raise AssertionError("a task has labels or a target")
    filled, codes = codes_of(task, lexicon, owned.labels)
    if isinstance(task, MultiLabel):
        lost = tuple(unnamed(owned, lexicon)) if owned.floor > 1 else ()
        return filled, codes, replace(owned, withheld=(*owned.withheld, *lost))
    if owned.floor > 1:
        return filled, codes, _without_unnamed(owned, codes < 0)
    for spans, name in zip(owned.spans, owned.names, strict=True):
        rows = np.concatenate(spans)
        unseen = rows[codes[rows] < 0]
        if len(unseen):
            raise DataError(
                "a class has no train row at any client",
                got=owned.raw.place(int(unseen[0])),
                where=f"client {name!r}, {owned.raw.target}",
                fix="remove this class, or use another seed or a smaller test share",
            )
    return filled, codes, owned


def unnamed(owned: Owned, lexicon: Lexicon) -> Iterator[Withheld]:
    """Yield the silos that hold rows of a class, or of a label among several, that nobody names.

    A silo finds out when it is told the agreed classes; that it does is all that it says.
    """
    what = "labels" if owned.separator else "classes"
    for name, spans in zip(owned.names, owned.spans, strict=True):
        if any(lexicon.place(word) < 0 for word in _words(owned, np.concatenate(spans))):
            yield Withheld(silo=name, what=what)


def _without_unnamed(owned: Owned, unnamed: np.ndarray) -> Owned:
    """Leave out rows of classes that no silo may name, and say whose they were."""
    if not unnamed.any():
        return owned
    whose = [c for c, parts in enumerate(owned.spans) if any(unnamed[p].any() for p in parts)]
    out = owned.without(unnamed)
    noted = tuple(Withheld(silo=owned.names[client], what="classes") for client in whose)
    return replace(out, withheld=(*out.withheld, *noted))


def _inputs(
    owned: Owned, answers: Answers, agreed: Agreed | None, windows: Windows | None
) -> tuple[Preparation, np.ndarray]:
    raw = owned.raw
    if agreed is not None:
        width = sum(len(column.features) for column in agreed.columns)
        made = Preparation(
            modality="table", shape=(width,), columns=agreed.columns, notes=agreed.notes
        )
        return made, _applied(made, owned)
    if isinstance(raw.x, Mapping):
        raise AssertionError("a table's columns are agreed on first")
    pooled = [merged([said["channels"][c] for _, said in answers]) for c in range(raw.x.shape[1])]
    if not np.isfinite(pooled).all():
        raise DataError(
            "values are missing or infinite",
            where=raw.name,
            fix="only tables may miss values: fill these in, or leave the rows out",
        )
    unit = np.broadcast_to(raw.scale, len(pooled)).tolist()
    made = Preparation(
        modality=raw.modality,
        shape=raw.x.shape[1:],
        multiply=tuple(s / (d or 1.0) for s, (_, _, d) in zip(unit, pooled, strict=True)),
        add=tuple(-m / (d or 1.0) for _, m, d in pooled),
        windows=windows,
    )
    # integers stay as they are on disk and are scaled when fetched: a quarter of the bytes
    return made, raw.x if raw.x.dtype in (np.uint8, np.int16) else made.apply(raw.x)


def _applied(made: Preparation, owned: Owned) -> np.ndarray:
    """Apply a preparation to a table's rows; those that are left out are not read, and stay 0."""
    raw = owned.raw
    rows = np.sort(np.concatenate([part for parts in owned.spans for part in parts]))
    if len(rows) == raw.rows:
        return made.apply(raw.x, raw.place)
    if not isinstance(raw.x, Mapping):
        raise AssertionError("only tables have columns")
    kept = {name: column[rows] for name, column in raw.x.items()}
    out = np.zeros((raw.rows, *made.shape), np.float32)
    out[rows] = made.apply(kept, lambda row: raw.place(int(rows[row])))
    return out


def _summaries(
    owned: Owned, y: np.ndarray, task: Classification | MultiLabel | Regression
) -> list[Summary]:
    out: list[Summary] = []
    for client, (train, validation, test) in enumerate(owned.spans):
        if owned.floor and not owned.exact:
            labels = ()
        elif isinstance(task, MultiLabel):
            labels = tuple(y[train].sum(0).astype(int).tolist())
        elif isinstance(task, Classification):
            labels = tuple(np.bincount(y[train], minlength=task.outputs).tolist())
        else:
            labels = ()
        summary = Summary(
            client=client,
            name=owned.names[client],
            train=len(train),
            validation=len(validation),
            test=len(test),
            labels=labels,
            held_out=client in owned.held,
        )
        out.append(summary)
    return out


def _fifths(target: np.ndarray) -> np.ndarray:
    """Return 0..4 by rank: strata of a numeric target."""
    edges = np.quantile(target, [0.2, 0.4, 0.6, 0.8])
    return np.searchsorted(edges, target).astype(np.int64)
