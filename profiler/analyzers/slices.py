"""Stretches of a recording small enough to join its operators one by one, whatever its length."""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.store import Recording, read_sql

SLICE_OPERATORS = 1_000_000  # some 100 MB in a join


@once
def slices(recording: Recording) -> list[dict[str, int]]:
    """The parameters `first` and `last` (exec_id), `from_ns` and `to_ns` for queries, one set per stretch of about
    SLICE_OPERATORS operators; none when there are no operators.

    Executions are whole, so what is summed per operator, thread or execution can be added up over the stretches.
    """
    found = recording.rows(read_sql("slices.sql"), {"rows": SLICE_OPERATORS})
    return [dict(zip(("first", "last", "from_ns", "to_ns"), row, strict=True)) for row in found]
