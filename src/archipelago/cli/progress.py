"""What a run has come to, kept up to date from its events: plain state, no drawing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from archipelago.core.display import printable

__all__ = ["Progress", "amount", "clock", "line", "metric"]


@dataclass(kw_only=True, slots=True)
class Progress:
    """Changes in place with every event.

    Attributes:
        now: seconds since the start, by the caller's clock.
        done: outcomes so far; `failed` (or without a defined score) and `dropped` are among them.
        best: highest score so far, higher is better.
        direction: -1 where the metric is lower-is-better: it is shown with its own sign.
        bytes: down and up, all phases.
        lines: latest remarks, newest last.
    """

    directory: str = ""
    trials: int = 0
    phase: str = "preparing data"
    round: int = 0
    rounds: int = 0
    generation: int = 0
    branches: int = 0
    clients: int = 0
    bytes: int = 0
    best: float | None = None
    best_number: int | None = None
    direction: int = 1
    done: int = 0
    dropped: int = 0
    failed: int = 0
    now: float = 0.0
    phase_started: float = 0.0
    lines: list[str] = field(default_factory=list)

    def update(self, kind: str, data: Mapping[str, Any], now: float) -> None:
        """Take in one event."""
        self.now = now
        self.direction = int(data.get("direction") or self.direction)
        match kind:
            case "started":
                self.directory = str(data.get("directory", ""))
                self.trials = int(data.get("trials") or 0)
            case "round":
                if data["phase"] != self.phase:
                    self.phase, self.phase_started = str(data["phase"]), now
                for name in ("round", "rounds", "generation", "branches", "clients", "bytes"):
                    setattr(self, name, int(data.get(name) or 0))
                if self.phase == "search":
                    self.done = int(data.get("trials") or self.done)
                if self.phase == "search" and data.get("best") is not None:
                    self.best = float(data["best"])
            case "outcome" if data["phase"] == "search":
                self.dropped += data["status"] == "dropped"
                self.failed += data["status"] in ("failed", "undefined")
                # A dropped candidate's score is of an earlier round: it competes with nobody's.
                score = data["score"] if data["status"] == "done" else None
                if score is not None and (self.best is None or score >= self.best):
                    self.best, self.best_number = float(score), int(data["number"])
        said = line(kind, data)
        if said is not None and kind not in ("round", "stopped"):
            self.lines = [*self.lines, said][-6:]

    @property
    def share(self) -> float | None:
        """Share of the current phase that is done, in [0, 1]; None where unknown."""
        if self.phase == "search" and self.trials:
            return min(1.0, self.done / self.trials)
        return min(1.0, self.round / self.rounds) if self.rounds else None

    @property
    def left(self) -> float | None:
        """Seconds that the current phase still takes at its pace so far; None where unknown."""
        if not self.share:
            return None
        return (self.now - self.phase_started) * (1 - self.share) / self.share


def line(kind: str, data: Mapping[str, Any]) -> str | None:
    """Return what a person reads of one event, or None where there is nothing to say."""
    writer = _LINES.get(kind)
    said = None if writer is None else writer(data)
    # Names of silos and classes are in it.
    return None if said is None else printable(said)


def amount(number: float, unit: str = "") -> str:
    """Return a number in three digits.

    Example:
        >>> amount(1_234_567, "B"), amount(999), amount(0)
        ('1.23 MB', '999', '0')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return (
                f"{number / factor:.3g} {prefix}{unit}"
                if unit
                else f"{number / factor:.3g}{prefix}"
            )
    return f"{number:.3g} {unit}".rstrip()


def clock(seconds: float) -> str:
    """Return a duration.

    Example:
        >>> clock(75), clock(3700), clock(7)
        ('1m15s', '1h01m', '7s')
    """
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def metric(value: object) -> str:
    """Return a metric's value, in four decimals where it is below a hundred.

    Example:
        >>> metric(0.91), metric(910.5512), metric(None)
        ('0.9100', '910.6', '-')
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def _own(data: Mapping[str, Any], name: str) -> str:
    """Return a score of an event with the metric's own sign."""
    score = data.get(name)
    return metric(score if score is None else score * data.get("direction", 1))


def _started(data: Mapping[str, Any]) -> str:
    verb = "resuming in" if data.get("resumed") else "writing to"
    return f"{verb} {data['directory']}: {data['clients']} clients, {data['trials']} candidates"


def _prepared(data: Mapping[str, Any]) -> str:
    shape = " x ".join(str(size) for size in data["features"])
    told = [f"\nscores: {said}" for said in data.get("scores") or ()]
    return "".join(
        [f"data ready: {data['rows']} train rows of {shape}, {data['outputs']} outputs", *told]
    )


def _round(data: Mapping[str, Any]) -> str:
    pieces = [f"{data['phase']} round {data['round']}/{data['rounds']}"]
    if data["phase"] == "search":
        pieces += [f"generation {data['generation']}", f"branches {data['branches']}"]
    pieces += [f"clients {data['clients']}", amount(data["bytes"], "B")]
    if data.get("best") is not None:
        pieces.append(f"best {_own(data, 'best')}")
    return " | ".join([*pieces, clock(data["seconds"])])


def _outcome(data: Mapping[str, Any]) -> str | None:
    if data["phase"] != "search":
        return None
    if data["status"] in ("failed", "undefined"):
        return f"#{data['number']} {data['status']}: {data.get('reason') or 'no reason given'}"
    costs = [
        f"{amount(data[name])} {unit}"
        for name, unit in (("params", "parameters"), ("macs", "MACs"))
        if data.get(name) is not None
    ]
    return f"#{data['number']} {data['status']}: {', '.join([_own(data, 'score'), *costs])}"


def _tested(data: Mapping[str, Any]) -> str:
    if data.get("undefined"):
        return f"tested once: {data['undefined']}"
    bounds = _bounds(data, "")
    said = [f"tested once: {data['metric']} {metric(data['score'])} ({bounds})"]
    return "\n  ".join([*said, *(data[name] for name in ("covers", "sites") if data.get(name))])


def _reference(data: Mapping[str, Any]) -> str:
    if not math.isfinite(data["difference"]):
        return f"{data['name']}: {metric(data['score'])}; not compared"
    gap = f"the shipped network differs by {data['difference']:+.4f} ({_bounds(data, '+')})"
    return f"{data['name']}: {metric(data['score'])}; {gap}"


def _bounds(data: Mapping[str, Any], sign: str) -> str:
    """Return the interval of an event in words, or why there is none."""
    note, low, high = data.get("interval") or "", data["low"], data["high"]
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"no interval: {note}" if note else "no interval"
    text = f"{low:{sign}.4f} to {high:{sign}.4f}" if sign else f"{metric(low)} to {metric(high)}"
    return f"95 % interval {text}{f'; {note}' if note else ''}"


def _exported(data: Mapping[str, Any]) -> str:
    pieces = [f"exported {data['path']}"]
    if data.get("bytes") is not None:
        pieces.append(amount(data["bytes"], "B"))
    if data.get("max_difference") is not None:
        said = f"differs from torch by at most {data['max_difference']:.1e}"
        if data.get("relative") is not None:
            allowed = f"{data['tolerance']:.0e} allowed"
            said += f" ({data['relative']:.1e} of the largest logit; {allowed})"
        pieces.append(said)
    if data.get("median_ms") is not None:
        pieces.append(f"{data['median_ms']:.3g} ms a row (p90 {data['p90_ms']:.3g})")
    return ", ".join(pieces)


_LINES = {
    "started": _started,
    "prepared": _prepared,
    "withheld": lambda data: data["text"],
    "round": _round,
    "outcome": _outcome,
    "reference": _reference,
    "tested": _tested,
    "exported": _exported,
    "report": lambda data: f"report: {data['path']}",
    "stopped": lambda data: f"stopped; nothing is lost. Go on with:\n  {data['resume']}",
    "finished": lambda data: f"finished {data['directory']} in {clock(data['seconds'])}",
}
