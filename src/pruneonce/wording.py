"""Numbers, lists and names in the form that the terminal and the report print."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# Code points that a terminal or a page obeys instead of showing them: control characters (escape sequences begin with
# one), separators of lines, lone surrogates, and marks that change the direction of the text around them.
_OBEYED = {"Cc", "Cs", "Zl", "Zp"}
_DIRECTIONS = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


class _Escapes(dict[int, str | int]):
    """Table for `str.translate`, filled as code points are met; those that stay as they are map to themselves."""

    def __missing__(self, point: int) -> str | int:
        is_obeyed = unicodedata.category(chr(point)) in _OBEYED or point in _DIRECTIONS
        self[point] = (f"\\u{point:04x}" if point > 0xFF else f"\\x{point:02x}") if is_obeyed else point
        return self[point]


_ESCAPES = _Escapes({0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"})
_ESCAPES_BUT_LINES = _Escapes({0x0A: 0x0A, 0x0D: "\\r", 0x09: 0x09})


def shown(value: Any) -> str:
    """Return text from a file in one line, with the characters that a terminal obeys written out, as in repr."""
    return str(value).translate(_ESCAPES)


def shown_lines(text: str) -> str:
    """Return text as `shown` does, with its line breaks and tabs kept."""
    return text.translate(_ESCAPES_BUT_LINES)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def as_in_file(value: Any) -> str:
    """Return `value` in the notation of a data file: null and true rather than None and True."""
    return f"{json.dumps(value, default=str):.40}"


def milliseconds(value: float) -> str:
    """Format milliseconds to three digits."""
    digits = next((digits for digits, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:,.{digits}f}"


def percent(share: float, digits: int = 1, sign: str = "") -> str:
    """Format a share as a percentage with so many decimals; the sign `+` stands before what is above 0, too."""
    return f"{100 * share:{sign}.{digits}f} %"


def percent_as_set(share: float) -> str:
    """Format a share that somebody set, such as a confidence, as a percentage without zeros at its end."""
    return f"{100 * share:.4g} %"


def tenths(share: float) -> float:
    """Return a share in percent, rounded to the tenth that is printed."""
    return round(100 * share, 1)


def spread(share: float | None) -> str:
    """Format a standard deviation to stand behind its mean; return an empty text for None."""
    return "" if share is None else f" ± {100 * share:.1f}"


def megabytes(size: float) -> str:
    """Format a number of bytes as megabytes with two decimals."""
    return f"{size / 1e6:.2f}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """Join words as in `a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def readable(metric: str) -> str:
    """Return the name of a metric with spaces in place of underscores."""
    return metric.replace("_", " ")


def of_seeds(summary: Mapping[str, Any]) -> str:
    """Return the sentence on the seeds behind means and spreads; empty for a single seed."""
    seeds = [str(seed) for seed in summary.get("seeds") or []]
    if len(seeds) < 2:
        return ""
    return (
        f"Values are means over the seeds {listed(seeds)} of the tasks, with their standard deviation; recovery is "
        "over the dense model of the same seed. The sparse model that all start from was made once."
    )
