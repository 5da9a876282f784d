"""Where threads went to wait: their stacks when they left the processor by themselves, and how long until they woke.

What perf and bcc call off-CPU analysis. The stack is that with which a thread entered the kernel, unwound by .eh_frame;
the time ends when it is woken (what it then waits for a processor is `runnable`, in the waits). It makes no findings: a
thread that has nothing to do waits, too, and idle workers are mostly what is longest. Look for threads that compute,
for a state other than sleeping, and for a waker that should not be one; a manifest (`--resources futex`, say) then
tells who held what.

Threads that had not come back when the recording ended (one that hangs, say) are told apart: their stacks are those of
that moment. Of pool threads it is told in which operators they went to wait, from op and thread windows; of those that
had not come back in which ones threads had gone to wait with the same stack before, as the last graph has no end.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from flowprof.profiler.analyzers.contract import Analyzer, Need, Result
from flowprof.profiler.analyzers.slices import slices
from flowprof.profiler.blame import scene
from flowprof.profiler.sections.blocked import BlockedOperator, BlockedRow, BlockedTable, OpenWait
from flowprof.profiler.store import Recording, read_sql

MAX_ROWS = 100
MAX_OPERATORS = 5  # told of each stack
STACKS = Need(
    "SELECT count(stack_id) > 0 FROM (SELECT stack_id FROM thread_state UNION ALL SELECT stack_id FROM open_wait)",
    "no stacks of waits; record with --levels token,graph,op,thread,sched (on x86-64, with the kernel's BTF)",
)
# Whose functions say how a thread waits, and not for what.
_LIBRARY = re.compile(r"/(libc|libpthread|librt|ld-linux|libstdc\+\+|libc\+\+|libgomp|ld-musl)[-.\w+]*$")
_NAMED_SQL = """
SELECT stack_id, frame, coalesce(module, '') FROM stack
WHERE function IS NOT NULL AND list_contains($stacks, stack_id) ORDER BY stack_id, frame DESC
"""


def analyze(recording: Recording) -> Result:
    facts = recording.meta()
    begun, ended = (int(text) if (text := facts.get(key, "")).isdigit() else 0 for key in ("started_ns", "stopped_ns"))
    rows = recording.rows(read_sql("blocked.sql"), {"limit": MAX_ROWS})
    still = recording.rows(read_sql("open_waits.sql"), {"limit": MAX_ROWS, "end": ended})
    words = _stacks(recording, {row[2] for row in (*rows, *still) if row[2] >= 0})
    during = _operators(recording, {row[2] for row in (*rows, *still) if row[2] >= 0 and row[5]})
    found = tuple(
        BlockedRow(
            pid, comm, threads, computes, state, by, ns, ns / ((ended - begun) * threads) if ended > begun else None,
            times, longest, at - begun, *words[stack], during.get((pid, state, stack), ()),
        )
        for pid, state, stack, comm, threads, computes, by, ns, times, longest, at, _, _ in rows if stack >= 0
    )  # fmt: skip
    total, missing = rows[0][-2:] if rows else (0, 0)
    waits = tuple(
        OpenWait(pid, comm, threads, computes, state, longest, *words[stack], during.get((pid, state, stack), ()))
        for pid, state, stack, comm, threads, computes, longest in still
    )
    return Result(BlockedTable(found, total, sum(row.total_ns for row in found), missing, waits))


def _operators(recording: Recording, stacks: set[int]) -> dict[tuple[int, str, int], tuple[BlockedOperator, ...]]:
    """By process, state and stack."""
    sums: dict[tuple[int, str, int], Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for stretch in slices(recording) if stacks else ():
        given = {"stacks": sorted(stacks), **stretch}
        for pid, state, stack, phase, op, block, ns in recording.rows(read_sql("blocked_operators.sql"), given):
            sums[pid, state, stack][phase or "", op or "", block] += ns
    return {
        where: tuple(BlockedOperator(*of, ns) for of, ns in sorted(found.items(), key=lambda one: (-one[1], one[0])))
        [:MAX_OPERATORS]
        for where, found in sums.items()
    }  # fmt: skip


def _stacks(recording: Recording, wanted: set[int]) -> dict[int, tuple[str, str, tuple[str, ...]]]:
    """Of each stack the innermost function that is not the C library's, who called it, and the frames in words."""
    frames = scene.stacks(recording, sorted(wanted))
    inner: dict[int, int] = {}
    for stack, frame, module in recording.rows(_NAMED_SQL, {"stacks": sorted(wanted)}):
        if not _LIBRARY.search(module):
            inner[stack] = frame
    found = {}
    for stack in wanted:
        functions = frames.get(stack, [])
        place = inner.get(stack, len(functions))
        named = [name for name, _ in functions[place : place + 2]] + ["", ""]
        found[stack] = named[0], named[1], tuple(f"{name} ({at})" if at else name for name, at in functions)
    return found


ANALYZER = Analyzer("blocked", "Where threads waited", (STACKS,), analyze)
