"""Rows of a query in the three formats, with values as hostile as a target can make them."""

from __future__ import annotations

import csv
import io
import json

import pytest
from flowprof.viewers import quantity, rows

NAMES = ["op", "n", "share"]
ROWS = [("MUL_MAT", 3, 0.5), ("\x1b[31mevil\n", None, float("nan")), ('a,"b"', 12345678901234, 1e-9)]


def written(form, found=ROWS, names=NAMES) -> str:
    out = io.StringIO()
    form(names, found, out)
    return out.getvalue()


def test_table_is_aligned_and_escaped() -> None:
    lines = written(rows.table).splitlines()
    assert lines[0].split() == NAMES and len(lines) == 5
    assert "\x1b" not in "".join(lines) and "\\x1b[31mevil\\n" in lines[3]
    assert len({line.rstrip().rfind(" ") for line in lines[2:3]}) == 1


def test_a_number_in_groups_stays_readable() -> None:
    assert "2\u00a0571" in written(rows.table, [("MUL_MAT", quantity.count(2571), 1.0)])


def test_long_text_is_cut() -> None:
    assert max(map(len, written(rows.table, [("x" * 500, 1, 1.0)]).splitlines())) < 100


def test_csv_comes_back_as_it_went() -> None:
    back = list(csv.reader(io.StringIO(written(rows.csv))))
    assert back[0] == NAMES and back[2][0] == ROWS[1][0] and back[3] == ['a,"b"', "12345678901234", "1e-09"]


def test_json_comes_back_as_it_went() -> None:
    back = json.loads(written(rows.json))
    assert [row["op"] for row in back] == [row[0] for row in ROWS]
    assert back[1] == {"op": ROWS[1][0], "n": None, "share": None}


@pytest.mark.parametrize(
    ("form", "text"), [(rows.table, "op  n  share\n--  -  -----\n"), (rows.csv, "op,n,share\n"), (rows.json, "[\n]\n")]
)
def test_no_rows(form, text: str) -> None:
    assert written(form, []) == text


def test_nested_values() -> None:
    assert json.loads(written(rows.json, [({"a": b"x"}, [1, (2,)], None)]))[0]["n"] == [1, [2]]
