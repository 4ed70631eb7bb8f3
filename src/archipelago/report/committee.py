"""The pages that a review committee reads: what was trained on whose data, and what left them."""

from collections.abc import Iterator, Sequence
from math import isfinite
from statistics import pstdev

from archipelago.report.findings import ClientScore, Findings, Remark
from archipelago.report.tables import table
from archipelago.report.text import count, html, plural, shown, size

__all__ = ["abilities", "protection", "quality", "releases", "silos", "sites"]

_FEW = 20
"""Test rows below which a site's own score says little."""


def silos(findings: Findings) -> Iterator[str]:
    """Yield whose rows the model was trained on, and under which stated entitlement."""
    found = findings.silos
    if not found:
        return
    stated = findings.protection
    own = {name: stated.notes.get(f"entitlement of {name}") for name in (s.name for s in found)}
    yield "<h2>Whose data, under which entitlement</h2>" + table(
        "Rows by silo. Entitlements stand as the run file states them; nobody checked them here.",
        ("silo", "train", "validation", "test", "entitlement"),
        [
            (
                silo.name + (" (held out: it never trained)" if silo.held_out else ""),
                count(silo.train),
                count(silo.validation),
                count(silo.test),
                own[silo.name] or stated.entitlement or "not stated",
            )
            for silo in found
        ],
    )


_MEANS = {
    "missing": "of these rows the model knows only that the value is missing",
    "infinite": "the model treats these values as missing",
    "constant": "at this silo nothing can be learned from the column",
    "duplicates": "equal rows may stand in train and test at once: the score may be too good",
    "label noise": "no model can be right on all of these rows",
    "drift": "the model may do worse here than elsewhere: see how it does at each site",
    "spread": "a few values may rule how the column is read: mend them, or scale by ranks",
    "leak": "the score may be too good to last: the column may not be known when the model is used",
    "one label": "a model cannot be judged here by how well it tells labels apart",
    "spellings": "one class may be two, or two one",
    "lone class": "the class and the silo cannot be told apart",
}
"""What a suspicion means for whoever relies on the model."""
_CLEAN, _REMARKS = 20, 200
"""Silos without a remark that are named, and remarks that are listed."""


def quality(findings: Findings) -> Iterator[str]:
    """Yield the verdict on each silo's data: what was found, and what it means."""
    found = findings.quality
    if found is None:
        return
    yield "<h2>The state of each silo's data</h2>" + table(
        "Suspicions from counts and shares over train rows. A person has to judge them: nothing "
        "was dropped or mended because of them.",
        ("silo", "found", "column", "how much", "what it means", "to ask there"),
        [*_remarked(findings, found), *_clean(findings, found)],
    )


def _remarked(findings: Findings, found: Sequence[Remark]) -> Iterator[tuple[str, ...]]:
    place = {silo.name: index for index, silo in enumerate(findings.silos)}
    ordered = sorted(found, key=lambda remark: place.get(remark.silo, -1))
    for r in ordered[:_REMARKS]:
        means = _MEANS.get(r.what, "–")
        yield (r.silo, r.what, r.column or "(rows)", r.amount, means, r.advice)
    if len(ordered) > _REMARKS:
        more = plural(len(ordered) - _REMARKS, "further remark")
        yield ("...", more, "", "", "`archipelago check` lists them all", "")


def _clean(findings: Findings, found: Sequence[Remark]) -> Iterator[tuple[str, ...]]:
    remarked = {remark.silo for remark in found}
    rest = [silo for silo in findings.silos if silo.name not in remarked]
    clean = [silo.name for silo in rest if not silo.held_out]
    shared = remarked - {silo.name for silo in findings.silos}  # what concerns every silo
    verdict = "nothing of its own" if shared else "nothing suspicious"
    names = clean if len(clean) <= _CLEAN else [plural(len(clean), "further silo")]
    yield from ((name, verdict, "", "", "", "") for name in names)
    for silo in rest:
        if silo.held_out:
            yield (silo.name, "not asked: it never trained", "", "", "", "")


def abilities(findings: Findings) -> Iterator[str]:
    """Yield what the model does, from what, and what it does not do."""
    yield "<h2>What the model does, and what it does not</h2>"
    does = [f"It answers a {findings.task}."]
    if findings.classes:
        names = ", ".join(findings.classes[:20]) + (" ..." if len(findings.classes) > 20 else "")
        does.append(f"Its answer is one of: {names}; each with a probability.")
    if findings.protection.notes.get("purpose"):
        does.append(f"Stated purpose: {findings.protection.notes['purpose']}")
    yield "".join(f"<p>{html(line)}</p>" for line in does)
    if findings.inputs:
        yield table(
            "The columns of the silos' tables.",
            ("column", "read as", "unit", "use"),
            [(i.name, i.kind, i.unit or "–", i.dropped or "used") for i in findings.inputs],
        )
    does_not = [
        "It knows nothing of rows that differ from these silos': no score here was measured "
        "outside them.",
        "A probability is the network's own; nobody has calibrated it.",
        "It gives no reason for an answer, and an association that it found is no cause.",
        *(() if findings.protection.notes.get("purpose") else ("No purpose is stated.",)),
        *findings.limits,
    ]
    yield "<ul>" + "".join(f"<li>{html(line)}</li>" for line in does_not) + "</ul>"


def sites(findings: Findings) -> Iterator[str]:
    """Yield the score at every site, the worst one, and how far they spread."""
    found = findings.client_test
    if not found:
        return
    yield "<h2>How it does at each site</h2>"
    told = [*_spread(findings)]
    few = sum(site.rows < _FEW for site in found)
    if few:
        told.append(f"{plural(few, 'site')} with fewer than {_FEW} test rows: read them with care.")
    yield "".join(f"<p>{html(line)}</p>" for line in told)
    overall = findings.test.value if findings.test else float("nan")
    yield table(
        f"Test {findings.metric} by site, worst first.",
        ("site", "test rows", findings.metric, "against all rows together"),
        [
            (
                site.name,
                count(site.rows),
                _shown(site, findings),
                shown(site.score - overall, percent=findings.percent, signed=True)
                if isfinite(overall - site.score)
                else "–",
            )
            for site in _worst_first(findings)
        ],
    )


def _spread(findings: Findings) -> Iterator[str]:
    """Yield the worst site and the spread, of the sites where the metric has a value."""
    found, worst = findings.client_test, findings.worst_client
    values = [site.score for site in found if isfinite(site.score)]
    if worst is not None:
        rows = plural(worst.rows, "row")
        yield f"The worst is {worst.name}: {_shown(worst, findings)} on {rows}."
    if len(values) > 1:
        yield (
            f"Over {plural(len(values), 'site')} the {findings.metric} lies between "
            f"{shown(min(values), percent=findings.percent)} and "
            f"{shown(max(values), percent=findings.percent)}; its standard deviation is "
            f"{shown(pstdev(values), percent=findings.percent, signed=False)}."
        )
    lost = len(found) - len(values)
    if lost:
        left = "" if not values else f", so that {len(values)} of {len(found)} are compared here"
        yield f"At {plural(lost, 'site')} it is undefined: the table says why{left}."


def releases(findings: Findings) -> Iterator[str]:
    """Yield what left every silo: how much in all, for which purpose, then silo by silo."""
    totals: dict[str, list[int]] = {}
    for release in findings.releases:
        entry = totals.setdefault(release.purpose, [0, 0])
        entry[0] += release.messages
        entry[1] += release.bytes
    yield "<h2>What left the silos</h2>" + table(
        "Framed messages to the coordinator, over all silos. No row of data is among them.",
        ("purpose", "messages", "bytes"),
        [(purpose, count(n), size(total)) for purpose, (n, total) in totals.items()],
    )
    yield table(
        "The same by silo.",
        ("silo", "purpose", "messages", "bytes"),
        [(r.client, r.purpose, count(r.messages), size(r.bytes)) for r in findings.releases],
    )


def protection(findings: Findings) -> Iterator[str]:
    """Yield the page on data protection: what is stated, and what the software knows itself."""
    stated = findings.protection
    pairs = [
        ("entitlement", stated.entitlement),
        ("legal basis", stated.legal_basis),
        ("contact", stated.contact),
        *stated.notes.items(),
    ]
    yield "<section class='page'><h2>Data protection</h2>" + table(
        "As stated in [governance] of the run file; not checked by the software.",
        ("", ""),
        [(what, text or "not stated") for what, text in pairs],
    )
    state = "" if findings.quality is None else " and the state of each silo's data"
    known = [
        "Rows stayed with their silos: what left them is the table above, and nothing else."
        if not findings.pooled
        else "The search and its model used rows in their silos only; what left them for that is "
        "the table above. One reference line put all rows in one place: a simulation, which "
        "final.references = false leaves out.",
        *findings.safeguards,
        f"Label counts by silo{state}, shown above, describe people: showing them is a release, "
        "too.",
        "Test rows were opened once, after every choice had been made."
        if not any("opened" in limit for limit in findings.limits)
        else "Test rows were opened more than once: see what the model does not do.",
    ]
    yield "<p class='soft'>What the software itself knows:</p><ul>"
    yield "".join(f"<li>{html(line)}</li>" for line in known) + "</ul></section>"


def _shown(site: ClientScore, findings: Findings) -> str:
    if site.reason:
        return f"undefined: {site.reason}"
    covers = f" ({site.covers})" if site.covers else ""
    return shown(site.score, percent=findings.percent) + covers


def _worst_first(findings: Findings) -> Sequence[ClientScore]:
    sign = 1 if findings.higher_is_better else -1
    return sorted(
        findings.client_test,
        key=lambda site: (not isfinite(site.score), sign * site.score, site.name),
    )
