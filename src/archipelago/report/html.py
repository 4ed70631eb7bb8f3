"""One self-contained page: no request leaves it, and a committee can print it."""

from collections.abc import Iterator, Sequence
from functools import cache
from math import isfinite
from typing import Any

from archipelago.report import committee
from archipelago.report.drawing import draw
from archipelago.report.findings import Findings, Shipped
from archipelago.report.tables import table
from archipelago.report.text import clean, html, number, script_json, shown, size, span
from archipelago.report.verdict import compare, front, ranked, verdict

__all__ = ["STYLE", "render"]

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6776;--line:#d9dee5;--paper:#fff;
--tint:#f5f7fa;--accent:#1f6f8b}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa7b6;--line:#35404d;
--paper:#141a21;--tint:#1b232c;--accent:#6fc0dc}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,sans-serif}main{max-width:68rem;margin:0 auto;padding:2.5rem 1.5rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .3rem}h2{margin:3rem 0 .6rem;font-size:1.3rem}
p{max-width:46rem}.soft,caption,figcaption{color:var(--soft);font-size:.9rem}
.verdict{border-left:4px solid var(--accent);background:var(--tint);padding:1rem 1.3rem;
margin:1.5rem 0}
.verdict p{margin:.4rem 0}table{border-collapse:collapse;width:100%;font-size:.92rem}
caption{text-align:left;padding-bottom:.4rem}th,td{padding:.32rem .6rem;text-align:left;
border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}.wide{overflow-x:auto}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}.pair svg{max-width:100%;height:auto}
figure{margin:1rem 0}.vega{width:100%;background:#fff;border-radius:6px;padding:.5rem}
pre{background:var(--tint);padding:1rem;overflow:auto;font-size:.82rem}
svg.network rect{fill:var(--tint);stroke:var(--line)}svg.network .first rect{stroke:var(--accent)}
svg.network text{fill:var(--ink);font:12px system-ui,sans-serif;text-anchor:middle}
svg.network text.op{font-weight:600}
svg.network text.fact{fill:var(--soft)}svg.network path{fill:none;stroke:var(--soft)}
svg.network path.arrow{fill:var(--soft);stroke:none}
@media (max-width:45rem){.pair{grid-template-columns:1fr}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;
--tint:#f5f7fa;--accent:#1f6f8b}body{font-size:10pt}main{max-width:none;padding:0}
h2{break-after:avoid}figure,tr,.verdict{break-inside:avoid}thead{display:table-header-group}
.page{break-before:page}.wide{overflow:visible}pre{white-space:pre-wrap;word-break:break-word}
.vega svg{max-width:100%;height:auto}}
@page{margin:18mm}
"""

_RELEASED = (
    "Showing how labels are spread over clients is itself a release of information: agree on it "
    "before this page is passed on."
)


def render(findings: Findings) -> str:
    """Return the page. The same findings give the same bytes."""
    charts = list(_charts(findings))
    body = "\n".join(_sections(findings, charts))
    specs = script_json({ident: spec for ident, _, spec in charts})
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html(findings.name)}: Archipelago report</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main><script>{_bundle()}</script>"
        f"<script id='specs' type='application/json'>{specs}</script>"
        "<script>const specs=JSON.parse(document.getElementById('specs').textContent);"
        "for(const [id,spec] of Object.entries(specs))"
        "vegaEmbed('#'+id,spec,{mode:'vega-lite',actions:false,renderer:'svg'});</script></body></html>"
    )


@cache
def _bundle() -> str:
    import vl_convert

    version = max(vl_convert.get_vegalite_versions(), key=_numbers)
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version).replace(
        "</script", "<\\/script"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.lstrip("v").split("."))


def _sections(findings: Findings, charts: Sequence[tuple[str, str, Any]]) -> Iterator[str]:
    yield f"<h1>{html(findings.name)}</h1><p class='soft'>{html(findings.about)}</p>"
    note = f" ({findings.metric_note})" if findings.metric_note else ""
    yield f"<p class='soft'>{html(findings.task)}; metric: {html(findings.metric + note)}</p>"
    sentences = "".join(f"<p>{html(line)}</p>" for line in verdict(findings))
    yield f"<section class='verdict' aria-label='Verdict'>{sentences}</section>"
    yield from committee.silos(findings)
    yield from committee.quality(findings)
    yield from committee.abilities(findings)
    yield "<h2>Against the reference lines</h2>" + _references(findings)
    yield from committee.sites(findings)
    for ident, title, _ in charts:
        note = f"<figcaption>{_RELEASED}</figcaption>" if ident == "labels" else ""
        yield (
            f"<figure><h2>{html(title)}</h2><div id='{ident}' class='vega' role='img' "
            f"aria-label='{html(title)}'></div>{note}</figure>"
        )
    yield "<h2>Leaderboard</h2>" + _leaderboard(findings)
    if findings.network and findings.baseline:
        drawn = "".join(
            f"<figure>{draw(net, ident=name)}<figcaption>{html(net.name)}: "
            f"{number(net.params)} parameters, {number(net.macs)} MACs</figcaption></figure>"
            for net, name in ((findings.network, "found"), (findings.baseline, "baseline"))
        )
        yield f"<h2>The network found, beside the baseline</h2><div class='pair'>{drawn}</div>"
    if any(client.shared is not None for client in findings.client_test):
        yield "<h2>Each client's own model beside the shared one</h2>" + _personal(findings)
    if findings.shipped:
        ship = findings.shipped
        yield "<h2>The model</h2>" + table(
            "The exported file, compared with torch on real rows and timed on one thread.",
            (
                "file",
                "size",
                "largest difference",
                "of the largest logit",
                "rows compared",
                "median",
                "90th percentile",
            ),
            [
                (
                    ship.path,
                    size(ship.bytes),
                    f"{ship.max_difference:.2g}",
                    _relative(ship),
                    ship.rows,
                    f"{ship.median_ms:.3f} ms" if ship.median_ms is not None else "not measured",
                    f"{ship.p90_ms:.3f} ms" if ship.p90_ms is not None else "not measured",
                )
            ],
        )
    yield from committee.releases(findings)
    yield from committee.protection(findings)
    if findings.events:
        yield "<h2>What went otherwise than planned</h2>" + table(
            "Refusals, absences and failures, as recorded.",
            ("what", "where", "reason", "times"),
            [(e.kind, e.where, e.detail, e.count) for e in findings.events],
        )
    if findings.profile:
        yield "<h2>Where the time went</h2>" + table(
            "Wall-clock seconds of this machine, in the sessions that were asked to tell; "
            "no result depends on them.",
            ("who", "what", "seconds"),
            [(s.who, s.what, f"{s.seconds:.2f}") for s in findings.profile],
        )
    pairs = [("seed", findings.seed), *findings.versions.items(), *findings.fingerprints.items()]
    yield "<h2>Configuration</h2>" + table("Versions and fingerprints.", ("name", "value"), pairs)
    yield f"<pre>{html(findings.config)}</pre>"


def _relative(ship: Shipped) -> str:
    if ship.relative is None or ship.tolerance is None:
        return "–"
    return f"{ship.relative:.1g} ({ship.tolerance:.0e} allowed)"


def _personal(findings: Findings) -> str:
    rows = [
        (
            client.name,
            client.rows,
            shown(client.score, percent=findings.percent),
            shown(client.shared, percent=findings.percent),
            shown(client.score - client.shared, percent=findings.percent, signed=True),
        )
        for client in findings.client_test
        if client.shared is not None
    ]
    heads = ("client", "test rows", "its own model", "the shared model", "difference")
    return table(f"{findings.metric} on each client's own test rows.", heads, rows)


def _references(findings: Findings) -> str:
    if not findings.references:
        return "<p>No reference was trained.</p>"
    rows: list[Sequence[object]] = []
    if (ours := findings.test) is not None:
        rows.append(
            (
                "this search",
                span(ours.value, ours.low, ours.high, ours.note, percent=findings.percent),
                "–",
                *_work(findings.cost, findings.macs, 1.0, findings),
                "–",
                "the search, tuning where there is any, and final training",
            )
        )
    rows += [
        (
            ref.name,
            span(ref.score, ref.low, ref.high, ref.interval_note, percent=findings.percent),
            span(
                ref.difference,
                ref.difference_low,
                ref.difference_high,
                ref.difference_note,
                percent=findings.percent,
                signed=True,
            ),
            *_work(ref.cost, ref.macs, findings.share(ref), findings),
            compare(ref),
            ref.note,
        )
        for ref in findings.references
    ]
    heads = (
        "line",
        findings.metric,
        "ours minus it",
        "client cost",
        "MACs of clients",
        "share of ours",
        "verdict",
        "how",
    )
    return table(
        "Differences are paired over clients, 95 % intervals. Shares are of the clients' MACs.",
        heads,
        rows,
    )


def _work(
    cost: float | None, macs: float | None, share: float | None, findings: Findings
) -> tuple[str, str, str]:
    return (
        "–" if cost is None else f"{number(cost)} {findings.cost_unit}",
        "–" if macs is None else number(macs),
        "–" if share is None or macs is None else f"{100 * share:.0f} %",
    )


def _leaderboard(findings: Findings) -> str:
    rows = [
        (
            f"#{c.outcome.number}",
            shown(c.value, percent=findings.percent),
            c.outcome.status,
            number(c.outcome.costs.get("params", 0)),
            number(c.outcome.costs.get("macs", 0)),
            c.generation,
            c.outcome.reason or "",
        )
        for c in ranked(findings)
    ]
    heads = ("candidate", findings.metric, "status", "parameters", "MACs", "generation", "reason")
    return table("Validation scores; a dropped candidate's is its last checkpoint's.", heads, rows)


def _charts(findings: Findings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    metric = clean(findings.metric)
    on_front = {cost: {c.outcome.number for c in front(findings, cost)} for cost in _COSTS}
    points = [
        {
            "candidate": f"#{c.outcome.number}",
            "score": c.value,
            "status": c.outcome.status,
            **{cost: c.outcome.costs.get(cost) for cost in _COSTS},
            **{f"front_{k}": c.outcome.number in numbers for k, numbers in on_front.items()},
        }
        for c in findings.candidates
        if c.value is not None
    ]
    if points:
        yield (
            "front",
            f"{metric.capitalize()} against cost; the Pareto front is joined",
            _brushed(points, metric),
        )
    curves = [
        {
            "branch": clean(c.label),
            "round": turn,
            "value": value,
            "status": c.status,
            "phase": c.phase,
        }
        for c in findings.curves
        for turn, value in c.points
    ]
    if curves:
        yield "curves", "Learning curves; a cross marks a drop", _curves(curves, metric)
    if findings.worst_client:
        rows = [
            {"client": clean(c.name), "score": c.score, "rows": c.rows}
            for c in findings.client_test
            if isfinite(c.score)
        ]
        yield "clients", f"Test {metric} per client", _bars(rows, "client", "score", metric)
    if counts := findings.label_counts:
        cells = [
            {"client": clean(client), "label": clean(label), "rows": n}
            for client, row in zip(counts.clients, counts.counts, strict=True)
            for label, n in zip(counts.labels, row, strict=True)
        ]
        yield "labels", "Label skew", _heat(cells)
    if findings.rounds:
        rows = [
            {
                "round": r.round,
                "phase": r.phase,
                "bytes": r.bytes_up + r.bytes_down,
                "seconds": r.client_seconds,
            }
            for r in findings.rounds
        ]
        yield "bytes", "Bytes per round", _bars(rows, "round", "bytes", "bytes", colour="phase")
        unit = findings.cost_unit
        title = f"{unit} per round".capitalize()
        yield "seconds", title, _bars(rows, "round", "seconds", unit, colour="phase")
    if findings.progress:
        rows = [{"cost": p.cost, "best": p.best} for p in findings.progress]
        yield (
            "progress",
            "Best so far over cost",
            {
                **_base(rows),
                "mark": {"type": "line", "interpolate": "step-after", "point": True},
                "encoding": {
                    "x": {"field": "cost", "type": "quantitative", "title": findings.cost_unit},
                    "y": {
                        "field": "best",
                        "type": "quantitative",
                        "title": metric,
                        "scale": {"zero": False},
                    },
                },
            },
        )


_COSTS = ("macs", "bytes_per_round")


def _base(rows: Sequence[Any]) -> dict[str, Any]:
    return {
        "data": {"values": list(rows)},
        "width": "container",
        "height": 260,
    }


def _brushed(points: Sequence[Any], metric: str) -> dict[str, Any]:
    def panel(cost: str) -> dict[str, Any]:
        place = {
            "x": {
                "field": cost,
                "type": "quantitative",
                "scale": {"type": "log"},
                "title": cost.replace("_", " "),
            },
            "y": {
                "field": "score",
                "type": "quantitative",
                "title": metric,
                "scale": {"zero": False},
            },
        }
        return {
            "width": 400,
            "height": 260,
            "layer": [
                {
                    "transform": [{"filter": f"datum.front_{cost}"}],
                    "mark": {"type": "line", "color": "#999"},
                    "encoding": place,
                },
                {
                    "params": [{"name": f"brush_{cost}", "select": "interval"}],
                    "mark": {"type": "point", "filled": True, "size": 70},
                    "encoding": {
                        **place,
                        "color": {
                            "condition": {
                                "test": " && ".join(
                                    f"(!length(data('brush_{c}_store')) || "
                                    f"vlSelectionTest('brush_{c}_store', datum))"
                                    for c in (cost,)
                                ),
                                "field": "status",
                                "type": "nominal",
                            },
                            "value": "#ccc",
                        },
                        "tooltip": [{"field": f} for f in ("candidate", "score", *_COSTS)],
                    },
                },
            ],
        }

    base = _base(points)
    del base["width"], base["height"]
    return {**base, "hconcat": [panel(cost) for cost in _COSTS]}


def _curves(rows: Sequence[Any], metric: str) -> dict[str, Any]:
    return {
        **_base(rows),
        "encoding": {
            "x": {"field": "round", "type": "quantitative"},
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": metric,
                "scale": {"zero": False},
            },
            "color": {"field": "branch", "type": "nominal", "legend": {"columns": 2}},
        },
        "layer": [
            {"mark": {"type": "line", "point": True}},
            {
                "transform": [
                    {"filter": "datum.status == 'dropped'"},
                    {
                        "joinaggregate": [{"op": "max", "field": "round", "as": "end"}],
                        "groupby": ["branch"],
                    },
                    {"filter": "datum.round == datum.end"},
                ],
                "mark": {"type": "point", "shape": "cross", "size": 120, "angle": 45},
            },
        ],
    }


def _bars(
    rows: Sequence[Any], x: str, y: str, title: str, *, colour: str | None = None
) -> dict[str, Any]:
    encoding: dict[str, Any] = {
        "x": {"field": x, "type": "ordinal", "sort": None, "axis": {"labelOverlap": True}},
        "y": {"field": y, "type": "quantitative", "title": title},
        "tooltip": [{"field": name} for name in rows[0]],
    }
    if colour:
        encoding["color"] = {"field": colour, "type": "nominal", "sort": None}
    return {**_base(rows), "mark": "bar", "encoding": encoding}


def _heat(cells: Sequence[Any]) -> dict[str, Any]:
    return {
        **_base(cells),
        "mark": "rect",
        "encoding": {
            "x": {"field": "label", "type": "nominal", "sort": None},
            "y": {"field": "client", "type": "nominal", "sort": None},
            "color": {"field": "rows", "type": "quantitative", "scale": {"scheme": "blues"}},
            "tooltip": [{"field": name} for name in cells[0]],
        },
        "height": {"step": 16},
    }
