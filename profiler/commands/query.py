"""Ask a recording with SQL (read-only).

Tables and views: flowprof query FILE 'SHOW ALL TABLES'. Every column's meaning and unit is in profiler/sql/*.sql.
"""

from __future__ import annotations

import argparse
import sys

NAME = "query"
TABLE_ROWS = 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a recording (.duckdb)")
    parser.add_argument("sql", metavar="SQL", help="one query; '-' reads it from standard input")
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help=f"table (the first {TABLE_ROWS} rows), or csv or json with all of them (default: table)",
    )


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.store import Recording
    from flowprof.viewers import rows

    sql = sys.stdin.read() if asked.sql == "-" else asked.sql
    if not sql.strip():
        raise UsageError("the query is empty", f"flowprof query {asked.file} 'SHOW ALL TABLES'")
    with Recording.open(asked.file) as recording:
        # One row more than is shown tells whether there are more.
        names, found = recording.table(sql, limit=TABLE_ROWS + 1 if asked.format == "table" else None)
    if asked.format == "csv":
        rows.csv(names, found, sys.stdout)
    elif asked.format == "json":
        rows.json(names, found, sys.stdout)
    else:
        rows.table(names, found[:TABLE_ROWS], sys.stdout)
        if len(found) > TABLE_ROWS:
            sys.stderr.write(f"only the first {TABLE_ROWS} rows are shown; --format csv gives them all\n")
    return 0
