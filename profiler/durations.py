"""Durations as people type them: `30s`, `2m`, `500ms`, `1.5h`, or a plain number of seconds."""

from __future__ import annotations

import re

from flowprof.profiler.errors import UsageError

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
LONGEST_SECONDS = 366 * 24 * 3600.0


def seconds(text: str) -> float:
    """The seconds that `text` means. Raises UsageError when it is no duration, zero, or longer than a year."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})\s*([a-z]*)", text.strip().lower())
    unit = SECONDS.get(match[2]) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is not a duration", "write it like 30s, 2m, 500ms or 1.5")
    value = float(match[1]) * unit
    if not 0 < value <= LONGEST_SECONDS:
        raise UsageError(f"a duration of {text!r} makes no sense here", "give something between 1us and 366 days")
    return value
