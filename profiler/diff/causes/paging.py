"""Pages come from disk while it runs, more than before: the model's, another file's, or memory from swap.

Fires when threads' waits for pages of mapped files grew in a phase that changed, by 1 % of it or more. What grew of the
rows' time at faults is explained, and of the imbalance at barriers what that can have made (behind.py). Major page
faults, per token, are in the evidence, with the file that most of them were of; the waits of other threads for a page
that one of them reads count as well.

What to do: the file was displaced from the page cache, or memory is short: --mlock, --no-mmap, more memory, a smaller
model; a warm-up request reads it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flowprof.profiler.analyzers.wait_findings import pages
from flowprof.profiler.diff.causes.behind import behind
from flowprof.profiler.diff.causes.change import Change, changes, grown, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.findings import in_ms

MIN_SHARE = 0.01
FAULTS_SQL = """
SELECT f.file, count(*) FROM page_fault f ASOF JOIN graph_exec e ON f.pid = e.pid AND f.at_ns >= e.start_ns
JOIN graph g USING (graph_id) WHERE f.at_ns <= e.end_ns AND g.phase = $phase
GROUP BY f.file
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
    each = a.total() / max(change.shift.a_tokens, 1), b.total() / max(change.shift.b_tokens, 1)
    worse = b if ns > 0 else a
    file, most = max(worse.items(), key=lambda one: one[1], default=(None, 0))
    claim, of, advice = pages(file)
    return Cause(
        claim=f"{claim} {'while it runs' if ns > 0 else 'less than before'}",
        kind="paging",
        share=None,
        confidence="high",
        evidence=(
            f"{change.phase} waits {in_ms(abs(ns))} per token {'more' if ns > 0 else 'less'} for pages from disk",
            f"major page faults in its graphs: {a.total()} → {b.total()} ({each[0]:.2g} → {each[1]:.2g} per token)"
            + (f", {most} of them{of}" if of else ""),
        ),
        next=f"See what displaced them from memory (free -m, vmtouch). {advice}",
        phase=change.phase,
    )


def _faults(side: Side, phase: str) -> Counter[str | None]:
    """Major page faults in graphs of the phase, by file as in page_fault."""
    found = Counter[str | None]()
    for recording in side.recordings:
        for file, count in recording.rows(FAULTS_SQL, {"phase": phase}):
            found[file] += count
    return found
