"""Which operators took most of a request's graphs, by phase: request → slot → batch → graph → operators. Part of
requests.py.

A batch is its thread's next graph (view request_graph); of a graph with the tokens of several requests each has its
share of the tokens. Only graphs whose operators were measured tell: how many of the request's graphs that were is said.
"""

from __future__ import annotations

from collections import defaultdict

from flowprof.profiler.sections.requests import RequestOperator
from flowprof.profiler.store import Recording, read_sql

MOST = 3  # of a phase


def operators(recording: Recording) -> dict[tuple[int, int], tuple[RequestOperator, ...]]:
    """By process and task."""
    found: dict[tuple[int, int], list[RequestOperator]] = defaultdict(list)
    for pid, task, phase, op, block, ns, graphs, of_graphs, share in recording.rows(
        read_sql("request_operators.sql"), {"most": MOST}
    ):
        found[pid, task].append(RequestOperator(phase or "", op, block, ns, share, graphs, of_graphs))
    return {who: tuple(rows) for who, rows in found.items()}
