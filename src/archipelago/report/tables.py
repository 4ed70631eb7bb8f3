"""Tables of the pages."""

from collections.abc import Sequence

from archipelago.report.text import html

__all__ = ["table"]


def table(caption: str, heads: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; every cell is text, escaped here."""
    head = "".join(f"<th scope='col'>{html(h)}</th>" for h in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class='wide'><table><caption>{html(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
