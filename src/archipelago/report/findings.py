"""Everything the report shows, as plain values: no torch, no journal, no open file.

`study` fills these in from a finished run; the rest of this folder only reads them. A field that
a run cannot fill keeps its default, and the page then leaves out the paragraph or says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from archipelago.core.checks import one_of
from archipelago.core.errors import ConfigError
from archipelago.core.trial import Outcome

__all__ = [
    "Candidate",
    "ClientScore",
    "Curve",
    "Event",
    "Findings",
    "Input",
    "Interval",
    "LabelCounts",
    "Network",
    "NetworkNode",
    "Progress",
    "Protection",
    "Reference",
    "Release",
    "Remark",
    "RoundCost",
    "Shipped",
    "Silo",
    "Spent",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A measured value between its 95 % bounds, in the metric's own unit.

    Attributes:
        value: NaN where it is undefined; so are `low` and `high` where there is no interval.
        note: why there is none, or what it leaves out.
    """

    value: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A reference line: what something simpler reaches, at equal client cost where rounds allow.

    Attributes:
        name: `hand-made network`, `random search`, `pooled training`, ...
        score: its test score in the metric's unit; `low` and `high` bound it at 95 %.
        difference: shipped minus reference, paired over the same test rows, turned so that
            positive means that the shipped model is better; with its own 95 % bounds.
        cost: client-seconds (or the unit that `Findings.cost_unit` names) it was given.
        macs: multiply-accumulates that clients spent on it; None where not known.
        note: how it was trained, or why it could not be.
        interval_note: of its score, and `difference_note` of the difference: why there is no
            interval (the bounds are then NaN), or what it leaves out.
    """

    name: str
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    cost: float
    macs: float | None = None
    note: str = ""
    interval_note: str = ""
    difference_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One evaluated architecture.

    Attributes:
        outcome: the core record: number, arch, score (higher is better), status, costs, reason.
            `costs["macs"]`, `["params"]` and `["bytes_per_round"]` feed the charts.
        generation: counts up from 0.
        dropped_round: round in which the race stopped it; None where it was not.
        display: its validation value in the metric's own unit; None: `outcome.score` is shown.
    """

    outcome: Outcome
    generation: int = 0
    dropped_round: int | None = None
    display: float | None = None

    @property
    def value(self) -> float | None:
        """The number to show; None for a candidate without a finite score."""
        shown = self.outcome.score if self.display is None else self.display
        return shown if self.outcome.scored and isfinite(shown) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkNode:
    """One operation of a drawn network. `inputs` names earlier nodes, or `input`."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: str = ""
    shape: str = ""
    params: int = 0
    macs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A drawn network: nodes in an order in which every input comes first.

    Attributes:
        name: heading above the drawing.
        input_shape: shape of one example, as text.
        params: scalars; `macs`: multiply-accumulates of one forward pass on one example.
    """

    name: str
    input_shape: str
    nodes: tuple[NetworkNode, ...]
    params: int
    macs: int

    def __post_init__(self) -> None:
        seen = {"input"}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in seen]
            if missing:
                raise ConfigError(
                    "a node reads from one that does not come before it",
                    got=missing,
                    where=f"network {self.name!r}, node {node.name!r}",
                    fix="list the nodes in topological order; the input is called 'input'",
                )
            seen.add(node.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A branch's validation metric by round.

    Attributes:
        label: `#12`, `final`, a reference's name.
        points: (round, metric value).
        status: of the outcome; a dropped branch's last point gets a mark.
        phase: `search` or `final`.
    """

    label: str
    points: tuple[tuple[int, float], ...]
    status: str = "done"
    phase: str = "search"

    def __post_init__(self) -> None:
        one_of(
            f"curve {self.label!r}, status", self.status, ("done", "dropped", "failed", "undefined")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientScore:
    """The shipped model at one client: its test rows and the metric on them.

    Attributes:
        score: where clients have models of their own, of that one.
        shared: of the model that they share beside it; None where they have none of their own.
        reason: why the score is undefined (NaN); empty where it is a number.
        covers: how many of the classes it says something of, e.g. `2 of 3 classes`; empty: all.
    """

    name: str
    rows: int
    score: float
    shared: float | None = None
    reason: str = ""
    covers: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silo:
    """One silo's rows; `held_out`: all of them are test rows."""

    name: str
    train: int
    validation: int
    test: int
    held_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One suspicion about a silo's train rows.

    Attributes:
        silo: whose; "all silos" where it concerns every one.
        column: empty where it concerns rows.
        what: `missing`, `constant`, `duplicates`, ...; see `data.quality.Finding`.
        amount: how much of it, as text: a share of rows, or a distance in standard deviations.
        advice: what to look at.
    """

    silo: str
    column: str
    what: str
    amount: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A column: what it is read as, why it is not used (empty where it is), its stated unit."""

    name: str
    kind: str
    dropped: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Rows by class (columns) and client (rows): `counts[client][label]`."""

    clients: tuple[str, ...]
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        wide = {len(row) for row in self.counts} - {len(self.labels)}
        if len(self.counts) != len(self.clients) or wide:
            raise ConfigError(
                "label counts need one row a client and one column a label",
                got=(len(self.counts), sorted({len(row) for row in self.counts})),
                where="report.label_counts",
                fix=f"give {len(self.clients)} rows of {len(self.labels)} counts",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCost:
    """One federated round, summed over branches and clients.

    Attributes:
        round: counts up over the whole run, so that phases lie side by side.
        phase: `statistics`, `search`, `final`, `test`, ...
        bytes_up: client to server; `bytes_down`: server to client; framed messages.
        client_seconds: of work, in virtual or measured time (see `Findings.cost_unit`).
        refused: updates that failed a check.
    """

    round: int
    phase: str
    bytes_up: int
    bytes_down: int
    client_seconds: float
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Best validation value so far (metric's unit), once `cost` had been spent."""

    cost: float
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What left one silo for one purpose: `messages` of `bytes` in total (framed)."""

    client: str
    purpose: str
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """The exported model, checked against torch on real rows.

    Attributes:
        path: where it lies, relative to the run directory.
        bytes: size of the file.
        max_difference: largest absolute difference of any output, onnxruntime against torch.
        relative: the same in units of the largest logit (at least 1); `tolerance`: beyond it no
            file is written. None where not known.
        median_ms, p90_ms: latency of one example, in milliseconds; None where not measured.
        rows: rows compared.
    """

    path: str
    bytes: int
    max_difference: float
    median_ms: float | None = None
    p90_ms: float | None = None
    rows: int = 0
    relative: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that went otherwise than planned.

    Attributes:
        kind: `refused`, `void`, `absent`, `worker lost`, ...
        where: round, client or candidate.
        detail: the reason as recorded.
        count: how often the same was seen.
    """

    kind: str
    where: str
    detail: str
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What the run file states about the right to use the data. Shown as given, never checked.

    Attributes:
        entitlement: under which entitlement the silos take part.
        legal_basis: for example an article of the GDPR.
        contact: whom a data subject or an auditor may ask.
        notes: anything further, by heading: `purpose`, `retention`, `entitlement of SILO`.
    """

    entitlement: str = ""
    legal_basis: str = ""
    contact: str = ""
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Where wall-clock time went.

    Attributes:
        who: the coordinator or a worker.
        what: `frame`, `check`, `combine`, `journal`, `wait`, `busy`, `idle`, ...
        seconds: in all.
    """

    who: str
    what: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One finished run.

    Attributes:
        name: the run's name; `about`: its purpose, one paragraph.
        task: one line, for example `classification of 10 classes from images [1, 8, 8]`.
        metric: what was optimised and is shown everywhere; `higher_is_better`: its direction.
        metric_note: how it was computed, where that is not plain.
        covers: which classes the test score says something of, where these are not all.
        undefined: why there is no test score; empty where there is one, or no test yet.
        percent: show the metric as a percentage (accuracy-like metrics in [0, 1]).
        test: the shipped model's score on test rows opened once; None before the test.
        test_rows: rows behind it.
        cost_unit: of every `cost` and `client_seconds`: `virtual client-seconds` or measured.
        pooled: a reference line was trained on all rows in one place.
        cost: of search, tuning and final training, which references are given too; `macs`: the
            same in multiply-accumulates of all clients.
        simulation: all silos lay on one machine, so pooled training was permitted.
        winner: number of the shipped candidate.
        network, baseline: drawn side by side.
        classes: class names; empty for regression.
        client_test: one row a client; clients without test rows are left out.
        config: the resolved run file, as text.
        profile: where time went, if the run was asked to tell.
        versions: package to version; `fingerprints`: data part to digest.
        limits: further sentences for "what it does not do".
        silos: rows of each; `inputs`: columns of their tables.
        quality: suspicions about their rows; None where nobody judged them.
        safeguards: sentences on what was done, or not done, to protect updates.
        created: date as text; empty for a byte-identical page.
    """

    name: str
    metric: str
    seed: int
    candidates: tuple[Candidate, ...]
    about: str = ""
    task: str = ""
    metric_note: str = ""
    covers: str = ""
    undefined: str = ""
    higher_is_better: bool = True
    percent: bool = False
    test: Interval | None = None
    test_rows: int = 0
    references: tuple[Reference, ...] = ()
    cost_unit: str = "virtual client-seconds"
    pooled: bool = False
    cost: float | None = None
    macs: float | None = None
    simulation: bool = True
    winner: int | None = None
    network: Network | None = None
    baseline: Network | None = None
    classes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    client_test: tuple[ClientScore, ...] = ()
    label_counts: LabelCounts | None = None
    rounds: tuple[RoundCost, ...] = ()
    progress: tuple[Progress, ...] = ()
    releases: tuple[Release, ...] = ()
    shipped: Shipped | None = None
    events: tuple[Event, ...] = ()
    profile: tuple[Spent, ...] = ()
    protection: Protection = field(default_factory=Protection)
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    fingerprints: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: tuple[str, ...] = ()
    silos: tuple[Silo, ...] = ()
    inputs: tuple[Input, ...] = ()
    quality: tuple[Remark, ...] | None = None
    safeguards: tuple[str, ...] = ()
    created: str = ""

    def share(self, reference: Reference) -> float | None:
        """Return a reference's multiply-accumulates over ours; None where either is not known."""
        if not self.macs or reference.macs is None:
            return None
        return reference.macs / self.macs

    @property
    def worst_client(self) -> ClientScore | None:
        """The client where the shipped model does worst; the first by name among equals."""
        sign = 1 if self.higher_is_better else -1
        return min(
            (client for client in self.client_test if isfinite(client.score)),
            key=lambda client: (sign * client.score, client.name),
            default=None,
        )
