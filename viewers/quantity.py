"""Numbers and names for people: three figures and a unit; names made harmless. For the terminal and HTML."""

from __future__ import annotations

import re

SPACE = "\u00a0"  # no line break between a number and its unit
# Control characters and the invisible ones that reorder or hide text, in names that the target chose.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_ASCII = str.maketrans({"µ": "u", "·": "-", "–": "-", "…": "..", "█": "#", "▒": "=", "▌": ":", "×": "x", "≤": "<=",
                        "▲": "!", "●": "*", "−": "-", SPACE: " ", "→": "->", "Σ": "sum"})  # fmt: skip


def ascii_only(text: str) -> str:
    """For terminals that cannot show more."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def clean(text: str, limit: int = 200) -> str:
    """A name that cannot drive a terminal or turn the text around it; unsafe characters as \\x1b or \\u202e."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return _UNSAFE.sub(lambda found: _escape(found.group()), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def three(value: float) -> str:
    """A number with three significant figures, never in exponents: 0.0123, 1.23, 12.3, 123, 1 234."""
    if value == 0:
        return "0"
    if abs(value) >= 999.5:
        return count(round(value))
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    if abs(value) < 0.0995:
        digits = 4 if abs(value) >= 0.00995 else 5
    return f"{value:.{digits}f}"


def count(value: int) -> str:
    """An integer in groups of three."""
    return f"{value:,}".replace(",", SPACE)


def duration(ns: float | None) -> str:
    """Nanoseconds as ns, µs, ms, s or min with three figures; "–" for None."""
    if ns is None:
        return "–"
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if abs(ns) < 999.5 * size:
            return f"{round(ns)}{SPACE}{unit}" if unit == "ns" else f"{three(ns / size)}{SPACE}{unit}"
    seconds = ns / 1e9
    return f"{three(seconds)}{SPACE}s" if abs(seconds) < 600 else f"{three(seconds / 60)}{SPACE}min"


def percent(share: float | None) -> str:
    """0.583 → 58.3 %; small shares keep a figure; "–" for None."""
    if share is None:
        return "–"
    value = share * 100
    if 0 < abs(value) < 0.05:
        return f"<{SPACE}0.1{SPACE}%" if value > 0 else f"{value:.2f}{SPACE}%"
    return f"{value:.1f}{SPACE}%"


def size(count_bytes: float | None) -> str:
    """Bytes in decimal units; "–" for None."""
    return _scaled(count_bytes, (("B", 1e0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)))


def many(value: float | None) -> str:
    """A large count in words of a thousand: 1.10 B."""
    return _scaled(value, (("", 1e0), ("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)))


def rate(per_second: float | None) -> str:
    """A speed with three figures; "–" for None."""
    return "–" if per_second is None else three(per_second)


def _scaled(value: float | None, units: tuple[tuple[str, float], ...]) -> str:
    if value is None:
        return "–"
    name, factor = units[0]
    for unit, step in units:
        if abs(value) >= step:
            name, factor = unit, step
    number = count(round(value)) if factor == 1 else three(value / factor)
    return f"{number}{SPACE}{name}".strip()


def slowdown(ratio: float | None, ci95: tuple[float, float] | None) -> str:
    """1.012 (1.008, 1.016) → +1.2 % (95 %: +0.8 … +1.6 %)."""
    if ratio is None:
        return "not measurable"
    if ci95 is None:
        return f"{(ratio - 1) * 100:+.2f}{SPACE}%"
    low, high = ((bound - 1) * 100 for bound in ci95)
    return f"{(ratio - 1) * 100:+.2f}{SPACE}% (95{SPACE}%: {low:+.2f} … {high:+.2f}{SPACE}%)"
