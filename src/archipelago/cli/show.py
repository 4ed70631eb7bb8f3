"""Records as lines of text."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from archipelago.cli.progress import amount, clock, metric
from archipelago.config.describe import PartInfo
from archipelago.config.load import preset, presets
from archipelago.journal.runs import RunLine

if TYPE_CHECKING:
    from archipelago.core.device import Device
    from archipelago.core.meter import MeterRow
    from archipelago.data.inspection import Inspection
    from archipelago.data.quality import Finding
    from archipelago.study.analysing.costs import Bill
    from archipelago.study.analysing.released import Ledger
    from archipelago.study.planning.plan import Plan

__all__ = [
    "bill_lines",
    "columns",
    "finding_lines",
    "inspection_lines",
    "ledger_lines",
    "part_lines",
    "plan_lines",
    "preset_lines",
    "run_lines",
    "score_lines",
    "traffic_line",
]

_WIDTH = 100


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> Iterator[str]:
    """Yield `rows` with their cells aligned; the last cell wraps."""
    if not rows:
        return
    # A line break in a name would begin a line that nobody wrote.
    rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        head = indent + "".join(
            cell.ljust(width) + "  " for cell, width in zip(row[:-1], widths, strict=True)
        )
        pieces = wrap(row[-1], max(30, _WIDTH - len(head))) or [""]
        yield (head + pieces[0]).rstrip()
        for piece in pieces[1:]:
            yield " " * len(head) + piece


def part_lines(part: PartInfo) -> Iterator[str]:
    """Yield a part with its options."""
    yield f'[{part.section}] kind = "{part.kind}"{" (default)" if part.default else ""}'
    yield from (f"  {text}" for text in wrap(part.about, _WIDTH - 2))
    rows = [
        (
            option.name,
            "(needed)" if option.default is None else f"= {option.default}",
            f"{option.type}; {option.about}" if option.about else option.type,
        )
        for option in part.options
    ]
    yield from columns(rows, indent="    ")
    yield ""


def preset_lines() -> Iterator[str]:
    """Yield the presets, each with what it is about."""
    rows = [(name, str(tomllib.loads(preset(name)).get("about", ""))) for name in presets()]
    yield from columns(rows)


def run_lines(lines: Sequence[RunLine]) -> Iterator[str]:
    """Yield a heading and a line for each run."""
    heading = ("status", "best", "trials", "bytes", "client time", "run")
    rows = [
        (
            run.status,
            _best(run),
            str(run.trials),
            amount(run.bytes, "B"),
            clock(run.client_seconds),
            f"{run.directory}  {run.reason or run.name}",
        )
        for run in lines
    ]
    yield from columns([heading, *rows])


def _best(run: RunLine) -> str:
    """Return the best validation value in the metric's own sign, and the metric's name."""
    from archipelago.data.tasks import LOWER_IS_BETTER

    if run.best is None:
        return "-"
    sign = -1 if run.metric in LOWER_IS_BETTER else 1
    return f"{metric(sign * run.best)} {run.metric}".rstrip()


def inspection_lines(seen: "Inspection") -> Iterator[str]:
    """Yield the verdict on each silo's data, and what is not used."""
    counts = Counter(finding.silo for finding in seen.findings)
    rows = [
        (silo, f"{count} train rows", _remarks(counts[silo]))
        for silo, count in seen.rows_by_silo.items()
    ]
    yield from columns(rows)
    if seen.reading:
        yield seen.reading
    yield from finding_lines(seen.findings)
    yield from seen.said
    yield from seen.notes


def finding_lines(findings: Sequence["Finding"]) -> Iterator[str]:
    """Yield each suspicion with its number and what to look at."""
    if not findings:
        yield "data: nothing suspicious"
        return
    rows = [
        (
            f.silo,
            f.what,
            f.column or "(rows)",
            f.size,
            f.advice,
        )
        for f in findings
    ]
    yield "data, to be judged by you:"
    yield from columns(rows, indent="  ")


def score_lines(scores: Sequence[str]) -> Iterator[str]:
    """Yield what to know of the scores before anything is trained."""
    yield from columns([("scores", said) for said in scores])


def traffic_line(meter: Sequence["MeterRow"]) -> str:
    """Return what left the silos, in a sentence."""
    up = sum(row.bytes_up for row in meter)
    what = "counts, sums, class names and categories that several rows share"
    return f"{len(meter)} answers left the silos, {amount(up, 'B')}: {what}; no row"


def _remarks(count: int) -> str:
    return "no remark" if not count else f"{count} remark" + ("s" if count > 1 else "")


def plan_lines(plan: "Plan") -> Iterator[str]:
    """Yield what a study will take."""
    search, final = plan.rounds
    size = str(plan.size) if plan.size < 10**6 else f"{float(plan.size):.2e}"
    rows = [
        ("space", f"{size} architectures, about {plan.allowed:.0%} of them within the constraints"),
        ("clients", f"{plan.clients}, {plan.rows} train rows in all"),
        ("candidates", f"{plan.candidates}, in {plan.generations} generations"),
        ("rounds", f"{search} of the search and {final} of final training"),
        ("parameters", _spread(plan.params)),
        ("MACs a row", _spread(plan.macs)),
        ("client visits", f"{plan.visits}, {amount(plan.macs_in_all, 'MACs')} in all"),
        ("bytes a client", f"{amount(plan.bytes_per_client, 'B')}, up and down"),
        *(
            [("risk", f"at most {plan.risk:.1%} that a generation drops its best candidate")]
            if plan.risk
            else []
        ),
        (
            "time here",
            f"about {clock(60 * plan.minutes)}"
            + (", reference lines included" if plan.references else ""),
        ),
    ]
    yield from columns(rows)
    yield from score_lines(plan.scores)
    yield from plan.withheld
    yield "These are estimates: they sample the space and time one client's round here."


def bill_lines(found: Sequence["Bill"], profile: "Device") -> Iterator[str]:
    """Yield what each phase cost, and the burden on a client."""
    yield from columns(
        [
            ("phase", "fits", "scored", "MACs", "up", "down", "client time", "joules*", "parallel"),
            *(
                (
                    bill.phase,
                    str(bill.fits),
                    str(bill.evaluations),
                    amount(bill.total("macs"), ""),
                    amount(bill.total("bytes_up"), "B"),
                    amount(bill.total("bytes_down"), "B"),
                    clock(bill.total("seconds")),
                    amount(bill.total("joules"), "J"),
                    clock(bill.parallel_seconds),
                )
                for bill in found
            ),
        ]
    )
    whole = found[-1]
    yield ""
    yield from columns(
        [
            ("a client", "MACs", "up", "down", "client time", "joules*"),
            *(
                (
                    word,
                    amount(of("macs"), ""),
                    amount(of("bytes_up"), "B"),
                    amount(of("bytes_down"), "B"),
                    clock(of("seconds")),
                    amount(of("joules"), "J"),
                )
                for word, of in (("mean", whole.mean), ("most", whole.most))
            ),
        ]
    )
    yield f"* estimated from the device profile {profile.name!r} ({profile.source})."


def ledger_lines(found: "Ledger") -> Iterator[str]:
    """Yield what left each silo, then what did not, then what the kinds of release mean."""
    from archipelago.data.releases import TABLE

    heading = ("silo", "purpose", "messages", "bytes", "what")
    rows = [
        (s.silo, s.purpose, str(s.messages), amount(s.bytes, "B"), s.release) for s in found.sent
    ]
    yield from columns([heading, *rows])
    yield ""
    if found.floor:
        yield f"floor: {found.floor} rows"
    else:
        yield "floor: none, since anybody can look these rows up"
    yield from found.withheld
    yield ""
    told = {kind for sent in found.sent for kind in sent.release.split(", ")}
    yield from columns([(r.name, r.leaves) for r in TABLE if r.name in told])


def _spread(values: tuple[int, int, int]) -> str:
    low, middle, high = map(amount, values)
    return f"{middle} ({low} to {high})"
