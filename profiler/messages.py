"""Lines for the user, on standard error; and names made harmless for them."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Write one line, now."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """`text` with its control characters escaped: names come from the target and may hold anything."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
