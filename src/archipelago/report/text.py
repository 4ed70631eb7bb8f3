"""From values to characters: escaping what comes from files, and numbers as people read them."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

__all__ = [
    "amount",
    "clean",
    "clip",
    "count",
    "html",
    "number",
    "plural",
    "script_json",
    "seconds",
    "shown",
    "size",
    "span",
]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def _harmless(character: str) -> str:
    if character in "\n\t":
        return character
    # Cc: terminal escapes; Cf: bidirectional overrides that make a name read as another;
    # Cs: lone surrogates, which cannot be written as UTF-8.
    return _REPLACEMENT if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def clean(value: object) -> str:
    """Return `value` as text in which nothing invisible can mislead a reader or a terminal."""
    return "".join(map(_harmless, str(value)))


def clip(value: object, length: int) -> str:
    """Return clean text of at most `length` characters; a cut shows as an ellipsis."""
    text = " ".join(clean(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def html(value: object) -> str:
    """Return `value` as text for an element or a quoted attribute."""
    return escape(clean(value), quote=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_finite(item) for item in value]
    return value


def script_json(value: Any) -> str:
    r"""Return JSON that may stand inside a `<script>` element.

    Non-finite numbers become null; no `<`, `>`, `&` and no character beyond ASCII remains, so
    that neither `</script>`, `<!--` nor U+2028 in a string can end the element or the line.

    Example:
        >>> script_json({"name": "</script>"})
        '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def number(value: float, digits: int = 3) -> str:
    """Return `value` to `digits` significant digits; a dash when it is not finite."""
    if not isfinite(value):
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return text.replace("-", "−")


def count(value: float) -> str:
    """Return a whole number with thousands separated by commas."""
    return f"{value:,.0f}" if isfinite(value) else "–"


def _scaled(value: float, units: Sequence[str], unit_gap: str) -> str:
    if not isfinite(value):
        return "–"
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    digits = f"{value:.0f}" if step == 0 or abs(value) >= 99.95 else f"{value:.3g}"
    return f"{digits}{unit_gap if units[step] else ''}{units[step]}"


def amount(value: float) -> str:
    """Return a large count in words' reach: 12,300 is `12.3 k`."""
    return _scaled(value, ("", "k", "M", "G", "T"), " ")


def size(value: float) -> str:
    """Return bytes in decimal units: 12,300 is `12.3 kB`."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"), " ")


def seconds(value: float) -> str:
    """Return a duration in the unit that keeps it short."""
    if not isfinite(value):
        return "–"
    if value < 120:
        return f"{value:.3g} s" if value < 99.5 else f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.3g} min"
    return f"{value / 3600:.3g} h" if value < 99.5 * 3600 else f"{value / 3600:,.0f} h"


def shown(value: float | None, *, percent: bool, signed: bool = False, unit: bool = True) -> str:
    """Return a metric's value, or with `signed` a difference of two.

    Args:
        value: in the metric's own unit; None and non-finite values become a dash.
        percent: show 0.964 as `96.4 %`, and differences in points.
        signed: write the sign, for differences.
        unit: write `%` or `points` after it.
    """
    if value is None or not isfinite(value):
        return "–"
    if percent:
        text = f"{100 * value:{'+' if signed else ''}.1f}"
        suffix = "" if not unit else " points" if signed else " %"
    else:
        text, suffix = f"{value:{'+' if signed else ''}.3f}", ""
    return text.replace("-", "−") + suffix


def span(
    value: float, low: float, high: float, note: str, *, percent: bool, signed: bool = False
) -> str:
    """Return a value with its 95 % interval, or with why there is none."""
    text = shown(value, percent=percent, signed=signed)
    if not isfinite(value):
        return "undefined"
    if not (isfinite(low) and isfinite(high)):
        return f"{text} (no interval{f': {note}' if note else ''})"
    bounds = [shown(v, percent=percent, signed=signed) for v in (low, high)]
    return f"{text} ({bounds[0]} to {bounds[1]}{f'; {note}' if note else ''})"


def plural(how_many: int, noun: str, many: str | None = None) -> str:
    """Return `1 silo`, `2 silos`."""
    return f"{count(how_many)} {noun if how_many == 1 else many or noun + 's'}"
