"""What tests plant: facts in a written recording (absent threads, faults, counters), trouble for a live process."""

from __future__ import annotations

from pathlib import Path

import duckdb

HOG = 99
GRAPH_STATES = """
INSERT INTO thread_state
SELECT e.pid, e.tid + t.ith, 0, e.start_ns + t.at_ns, e.start_ns + t.at_ns + t.dur_ns, t.state, t.by_tid, t.by_comm,
       NULL
FROM graph_exec e, (VALUES
    (0, 100_000, 200_000, 'runnable', $hog, $comm), (1, 300_000, 100_000, 'sleeping', 4242, 'llama-server'),
    (1, 600_000, 50_000, 'fault', 0, NULL), (0, 900_000, 20_000, 'disk', NULL, NULL),
    (1, 1_000_000, 10_000, 'stopped', $hog, $comm)
) t(ith, at_ns, dur_ns, state, by_tid, by_comm)
WHERE e.level = 'thread'
"""
SHORT_STATES = """
INSERT INTO thread_state
SELECT e.pid, o.tid, 0, o.start_ns + 500, o.start_ns + 600 + row_number() OVER () % 1500, 'runnable', $hog, $comm, NULL
FROM op_exec o JOIN graph_exec e USING (exec_id) WHERE o.ith = 1 LIMIT $many
"""

STACKS = ((7, "sleeping", "lock"), (8, "disk", "read_block"))


def plant_stacks(path: str | Path) -> None:
    """Threads that slept, and those that waited for the disk, have a stack each."""
    with duckdb.connect(str(path)) as db:
        for stack, state, function in STACKS:
            db.execute("UPDATE thread_state SET stack_id = ? WHERE state = ?", [stack, state])
            db.execute("INSERT INTO stack BY NAME SELECT ? AS stack_id, 0 AS frame, '/opt/engine' AS module, "
                       "? AS address, ? AS function, 'exact' AS how", [stack, stack, function])  # fmt: skip


COUNTERS = """
INSERT INTO op_counter
SELECT DISTINCT e.graph_id, o.node_index, o.ith, 'thread', 10, 1e6, 3, 7, 3e6, 4e6, NULL, 2e5, NULL
FROM op_exec o JOIN graph_exec e USING (exec_id) WHERE e.level = 'thread'
"""


def plant_counters(path: str | Path) -> None:
    """Every operator at thread level was counted; what came from memory can be held against the byte model."""
    with duckdb.connect(str(path)) as db:
        db.execute(COUNTERS)
        db.execute(
            "INSERT INTO meta VALUES ('counter_stream_share', '0.95'), ('counters_missing', 'stalled_cycles: -')"
        )


def plant(path: str | Path, comm: str = "hog", many: int = 0) -> None:
    """Every graph at thread level has a stretch of each state; `many` more are short. The scheduler was recorded."""
    with duckdb.connect(str(path)) as db:
        db.execute("DELETE FROM meta WHERE key = 'sched'")
        db.execute("INSERT INTO meta VALUES ('sched', 'yes')")
        db.execute(GRAPH_STATES, {"hog": HOG, "comm": comm})
        if many:
            db.execute(SHORT_STATES, {"hog": HOG, "comm": comm, "many": many})
        db.execute(
            "INSERT INTO page_fault BY NAME SELECT pid, tid, start_ns AS at_ns, 0 AS address FROM graph_exec LIMIT 3"
        )
