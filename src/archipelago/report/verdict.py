"""The run in three paragraphs: what was found, against what, and how far it holds."""

from math import isfinite

from archipelago.report.findings import Candidate, Findings, Interval, Reference
from archipelago.report.text import count, plural, shown

__all__ = ["compare", "front", "ranked", "verdict"]

_EQUAL = 0.1
"""Client costs whose quotient is no further from one are called equal."""
_COARSE = 5
"""Clients below which an interval from drawing clients again is coarse."""


def ranked(findings: Findings) -> tuple[Candidate, ...]:
    """Return all candidates, best first: finished, then dropped, then those without a score."""
    order = {"done": 0, "dropped": 1, "failed": 2, "undefined": 2}
    return tuple(
        sorted(
            findings.candidates,
            key=lambda c: (order[c.outcome.status], -c.outcome.score, c.outcome.number),
        )
    )


def front(findings: Findings, cost: str) -> tuple[Candidate, ...]:
    """Return the Pareto front of score against `cost`, cheapest first.

    Only candidates that finished compete: a dropped one was scored after fewer rounds.
    """
    rivals = [
        c
        for c in findings.candidates
        if c.outcome.status == "done" and c.value is not None and cost in c.outcome.costs
    ]
    best, kept = -float("inf"), list[Candidate]()
    for rival in sorted(rivals, key=lambda c: (c.outcome.costs[cost], -c.outcome.score)):
        if rival.outcome.score > best:
            best = rival.outcome.score
            kept.append(rival)
    return tuple(kept)


def compare(reference: Reference) -> str:
    """Return `better than`, `worse than` or `not distinguishable from`, by the interval alone.

    Without an interval nothing is said of either.
    """
    if not isfinite(reference.difference_low + reference.difference_high):
        return "not compared with"
    if reference.difference_low > 0:
        return "better than"
    return "worse than" if reference.difference_high < 0 else "not distinguishable from"


def _against(findings: Findings, reference: Reference) -> str:
    if not isfinite(reference.difference):
        return f"not compared with {reference.name}"
    difference = shown(reference.difference, percent=findings.percent, signed=True)
    if not isfinite(reference.difference_low + reference.difference_high):
        why = reference.difference_note or "there is none"
        return f"{difference} from {reference.name}, of which no interval tells more ({why})"
    low = shown(reference.difference_low, percent=findings.percent, signed=True, unit=False)
    high = shown(reference.difference_high, percent=findings.percent, signed=True, unit=False)
    share, cost = findings.share(reference), ""
    if share is not None and not _equal(findings, reference):
        cost = f"; at {100 * share:.0f} % of our client cost"
    return f"{compare(reference)} {reference.name} ({difference}, {low} to {high}{cost})"


def _equal(findings: Findings, reference: Reference) -> bool:
    share = findings.share(reference)
    return share is None or abs(share - 1) <= _EQUAL


def verdict(findings: Findings) -> tuple[str, str, str]:
    """Return finding, comparison and limits, plain text (not yet escaped)."""
    tried = plural(len(findings.candidates), "architecture")
    silos = f" across {plural(_silos(findings), 'silo')}" if _silos(findings) else ""
    if findings.test is None:
        first = f"The search scored {tried}{silos}; no model has been tested yet."
    else:
        test = findings.test
        network = findings.network
        model = f"a network of {count(network.params)} parameters" if network else "a network"
        partly = f" Not of everything: {findings.covers}." if findings.covers else ""
        first = (
            f"From {tried} scored{silos}, {model} was trained to the end and "
            f"{_reached(findings, test)} on {plural(findings.test_rows, 'row')} that were opened "
            f"once, at the end.{partly}"
        )
    if findings.references:
        equal = all(_equal(findings, reference) for reference in findings.references)
        second = (
            f"At equal client cost{'' if equal else ', where no other share is stated,'} it is "
            + _listed([_against(findings, reference) for reference in findings.references])
            + "; brackets hold the difference and its 95 % interval."
        )
    else:
        second = "It was not compared with any reference, so nothing here says that a search paid."
    return first, second, _limits(findings)


def _reached(findings: Findings, test: Interval) -> str:
    if not isfinite(test.value):
        return f"has no test score ({findings.undefined or 'it is not finite'})"
    percent = findings.percent
    score = f"reaches a test {findings.metric} of {shown(test.value, percent=percent)}"
    if not (isfinite(test.low) and isfinite(test.high)):
        return f"{score} (no interval: {test.note or 'there is none'})"
    low, high = shown(test.low, percent=percent, unit=False), shown(test.high, percent=percent)
    note = f"; {test.note}" if test.note else ""
    return f"{score} (95 % interval {low} to {high}{note})"


def _limits(findings: Findings) -> str:
    worst = findings.worst_client
    clients = len(findings.client_test)
    coarse = f"; with {plural(clients, 'client')} they are coarse" if 0 < clients < _COARSE else ""
    one = (
        f"This is one run with seed {findings.seed}: the intervals come from drawing whole clients "
        f"again, so they cover the choice of clients, not a repetition of the search{coarse}."
        if clients != 1
        else f"This is one run with seed {findings.seed}, tested at one client: no interval says "
        "how it would do at another one."
    )
    if worst is None:
        return f"{one} Nothing was measured outside these silos."
    score = shown(worst.score, percent=findings.percent)
    return (
        f"{one} The weakest client, {worst.name}, stands at {score} on "
        f"{plural(worst.rows, 'row')}; nothing was measured outside these silos."
    )


def _silos(findings: Findings) -> int:
    if findings.label_counts is not None:
        return len(findings.label_counts.clients)
    return (
        len(findings.silos)
        or len(findings.client_test)
        or len({release.client for release in findings.releases})
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
