"""The model's pages come from disk while it runs, more than before.

Fires when threads' waits for pages of mapped files grew in a phase that changed, by 1 % of it or more. What grew of the
rows' time at faults is explained, and of the imbalance at barriers what that can have made (behind.py). Major page
faults, per token, are in the evidence; the waits of other threads for a page that one of them reads count as well.

What to do: the file was displaced from the page cache, or memory is short: --mlock, --no-mmap, more memory, a smaller
model; a warm-up request reads it once.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.behind import behind
from flowprof.profiler.diff.causes.change import Change, changes, grown, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.findings import in_ms

MIN_SHARE = 0.01
FAULTS_SQL = """
SELECT count(*) FROM page_fault f ASOF JOIN graph_exec e ON f.pid = e.pid AND f.at_ns >= e.start_ns
JOIN graph g USING (graph_id) WHERE f.at_ns <= e.end_ns AND g.phase = $phase
"""


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        faults = change.of(parts=("fault",))
        if abs(total(faults)) < MIN_SHARE * max(change.shift.a_ns_per_token, 1.0):
            continue
        sign = 1.0 if total(faults) > 0 else -1.0
        explains = {**grown(faults, sign), **behind(compared, change, total(faults))}
        found.append(Claim(_cause(compared, change, total(faults)), explains))
    return found


def _cause(compared: Compared, change: Change, ns: float) -> Cause:
    a, b = _faults(compared.pair.a, change.phase), _faults(compared.pair.b, change.phase)
    a_each, b_each = a / max(change.shift.a_tokens, 1), b / max(change.shift.b_tokens, 1)
    return Cause(
        claim="The model is read from disk while it runs"
        if ns > 0
        else "The model is no longer read from disk while it runs",
        kind="paging",
        share=None,
        confidence="high",
        evidence=(
            f"{change.phase} waits {in_ms(abs(ns))} per token {'more' if ns > 0 else 'less'} for pages of mapped files",
            f"major page faults in its graphs: {a} → {b} ({a_each:.2g} → {b_each:.2g} per token)",
        ),
        next="See what displaced the file from the page cache (free -m, vmtouch); --mlock, --no-mmap, more memory or a "
        "smaller model; a warm-up request reads it once.",
        phase=change.phase,
    )


def _faults(side: Side, phase: str) -> int:
    return sum(int(one.rows(FAULTS_SQL, {"phase": phase})[0][0]) for one in side.recordings)
