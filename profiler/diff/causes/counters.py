"""Operators' counters of both sides for one row: what instructions and cycles say of a change. Part of own_work.py."""

from __future__ import annotations

import re

from flowprof.profiler.diff.result import Row
from flowprof.profiler.diff.side import Pair, Side

CHANGED = 0.05
_NUMBER = re.compile(r"-\d{1,5}(?= |$)")
COUNTERS_SQL = """
SELECT n.name, sum(c.cycles) / sum(c.calls) AS cycles, sum(c.instructions) / sum(c.calls) AS instructions,
       sum(c.cycles) / nullif(sum(c.task_clock_ns), 0) AS ghz
FROM op_counter c JOIN graph g USING (graph_id)
JOIN graph_node n ON n.graph_id = c.graph_id AND n.node_index = c.node_index
WHERE g.phase = $phase AND n.op = $op AND c.cycles IS NOT NULL AND c.instructions IS NOT NULL AND c.calls > 0
GROUP BY n.name
"""
RECORD = "Record both sides with --counters all: instructions and cycles tell other code from stalls and a lower clock."


def compared_counters(pair: Pair, phase: str, row: Row) -> tuple[list[str], str]:
    """Evidence and what to do; without counters on both sides nothing, and how to get them."""
    a, b = _counted(pair.a, phase, row), _counted(pair.b, phase, row)
    if a is None or b is None:
        return [], RECORD
    cycles, instructions = b[0] / a[0] - 1, b[1] / a[1] - 1
    told = [
        f"cycles per call {a[0]:,.0f} → {b[0]:,.0f} ({cycles * 100:+.0f} %), instructions {a[1]:,.0f} → {b[1]:,.0f} "
        f"({instructions * 100:+.0f} %)"
    ]
    ghz = b[2] / a[2] - 1 if a[2] and b[2] else 0.0
    if ghz:
        told.append(f"cycles per ns on a processor {a[2]:.2f} → {b[2]:.2f} ({ghz * 100:+.0f} %): the clock, or steal")
    if abs(instructions) > CHANGED:
        return told, "Other code runs: compare the builds' options, the types of weights, and the kernel chosen."
    if abs(cycles) > CHANGED:
        return told, "As many instructions take other cycles: memory or caches; see who else uses them, and huge pages."
    if abs(ghz) > CHANGED:
        return told, (
            "As many cycles take another time: the clock (governor, power, heat), or a hypervisor that takes the "
            "processor away meanwhile (steal)."
        )
    return told, "As many cycles take another time: time off the processor that is not in the recording, or the clock."


def _counted(side: Side, phase: str, row: Row) -> tuple[float, float, float] | None:
    """(cycles, instructions, cycles per ns) a call and thread, the mean of the tensors that the row is about; 0 cycles
    per ns: not known; None: not counted."""
    cycles, instructions, ghz = [], [], []
    for recording in side.recordings:
        for name, one, other, clock in recording.rows(COUNTERS_SQL, {"phase": phase, "op": row.op}):
            if one and other and _NUMBER.sub("", str(name)) in row.name.split():
                cycles.append(float(one))
                instructions.append(float(other))
                ghz.append(float(clock or 0.0))
    if not cycles:
        return None
    count = len(cycles)
    return sum(cycles) / count, sum(instructions) / count, sum(ghz) / count if all(ghz) else 0.0
