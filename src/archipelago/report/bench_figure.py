"""The figure of a comparison: any-time curves, and exploration against exploitation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from archipelago.core.errors import ConfigError

__all__ = ["draw"]


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one figure as `.svg` or self-contained `.html`.

    Args:
        rows: plain rows of a comparison, with `strategy`, `family`, `curve`, `explored`,
            `exploited`, `mean` and `table`.
        path: its suffix decides the format.

    Raises:
        ConfigError: another suffix.
    """
    if path.suffix not in (".svg", ".html"):
        raise ConfigError(
            "a figure is written as svg or html", got=path.name, fix="end it in .svg or .html"
        )
    chart = (_curves(rows) | _spread(rows)).resolve_scale(color="shared")
    chart = chart.configure_view(strokeWidth=0).configure_axis(grid=False)
    if path.suffix == ".svg":
        import vl_convert

        path.write_text(vl_convert.vegalite_to_svg(chart.to_json()), encoding="utf-8")
    else:
        chart.save(str(path), format="html", inline=True)


def _curves(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    points = [
        {"strategy": row["strategy"], "trainings": step, "reported": value}
        for row in rows
        for step, value in enumerate(row["curve"], 1)
        if step >= max(2, len(row["curve"]) // 10)
    ]
    return (
        alt.Chart(alt.Data(values=points), title=f"Best found so far, {rows[0]['table']}")
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("trainings:Q", title="networks trained"),
            y=alt.Y("reported:Q", title="reported score", scale=alt.Scale(zero=False)),
            color=_colour(),
        )
        .properties(width=420, height=320)
    )


def _spread(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    keep = ("strategy", "explored", "exploited")
    points = [{**{k: row[k] for k in keep}, "final": row["mean"][-1]} for row in rows]
    return (
        alt.Chart(alt.Data(values=points), title="Exploration against exploitation")
        .mark_circle(opacity=0.9)
        .encode(
            x=alt.X("exploited:Q", title="share of proposals one choice from an earlier one"),
            y=alt.Y("explored:Q", title="mean distance to the nearest earlier one"),
            size=alt.Size("final:Q", title="reported", scale=alt.Scale(zero=False)),
            color=_colour(),
        )
        .properties(width=320, height=320)
    )


def _colour() -> alt.Color:
    return alt.Color("strategy:N", title=None, scale=alt.Scale(scheme="category20"))
