"""Plain rows of a query: aligned text, CSV or JSON.

Values come from the recorded process and may hold anything: in the aligned text control characters are escaped, so
that a tensor's name cannot drive the terminal; CSV and JSON keep the value, in their own quoting.
"""

from __future__ import annotations

import csv as csv_format
import json as json_format
import math
from collections.abc import Sequence
from typing import Any, TextIO

from flowprof.viewers.quantity import SPACE

Row = tuple[Any, ...]
MAX_WIDTH = 60


def table(names: Sequence[str], rows: Sequence[Row], out: TextIO) -> None:
    """Aligned columns, numbers to the right, long texts cut at MAX_WIDTH characters."""
    texts = [[_cell(value) for value in row] for row in rows]
    heads = [_cell(name) for name in names]
    widths = [max([len(head), *(len(row[column]) for row in texts)]) for column, head in enumerate(heads)]
    right = [
        all(isinstance(row[column], int | float) or row[column] is None for row in rows) for column in range(len(heads))
    ]
    for line in [heads, ["-" * width for width in widths], *texts]:
        cells = (
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        out.write("  ".join(cells).rstrip() + "\n")


def csv(names: Sequence[str], rows: Sequence[Row], out: TextIO) -> None:
    """CSV with a head line; NULL is an empty field."""
    writer = csv_format.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)


def json(names: Sequence[str], rows: Sequence[Row], out: TextIO) -> None:
    """A list of objects, one per line. What JSON cannot hold (NaN, a time, bytes) becomes null or text."""
    out.write("[")
    for number, row in enumerate(rows):
        one = {name: _plain(value) for name, value in zip(names, row, strict=True)}
        out.write(("," if number else "") + "\n" + json_format.dumps(one, ensure_ascii=False))
    out.write("\n]\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() or c == SPACE else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)
