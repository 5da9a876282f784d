"""PyTorch's operators on the host: self time, what each reaches of the machine's ceilings, and what it waited for.

Operators nest: `total` is with those inside, `self` without; shares are of all self time. An operator that an
exception left has no end, and counts as a call without time. Recorded in windows (`--overhead-budget`) or all the time
(`--full`); nothing is scaled: the section says how long operators were observed.

FLOPs and bytes come from shapes and types (torch/costs.py), the floor of a call from this machine's ceilings for as
many threads as were seen to compute (those with 20 % or more of the busiest thread's processor time); bytes that fit
the last-level cache are held against its bandwidth (call_bounds.py). Where neither ceiling bounds a group:

 1. off the processor for 30 % of its time or more: it waits; for what, the thread states say (of c10d's calls too,
    which no ceiling bounds)
 2. less than 10 µs a call: overhead, the dispatch costs as much as the work
 3. twenty calls or more: the kernel is inefficient; fewer: unknown

Where a GPU computes, the host's operators only launch: there are no rates, verdicts and findings then (see gpu).

* `torch_operators.largest`: one operator with one set of shapes has 30 % of all self time or more. Look there first.
  Time in `c10d::wait` is the other processes'. Of fewer than twenty calls neither this nor the next is said.
* `torch_operators.overhead`: operators of less than 10 µs a call take 30 % of all operators' time or more: the
  dispatch costs more than the work. Larger batches, torch.compile, or fused operators help.
* `torch_operators.inefficient`: an operator with a tenth of all self time reaches less than 40 % of what this machine
  can do, and nothing it waits for explains it. Another layout, data type or thread count may have a better kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.analyzers.call_bounds import held_against
from flowprof.profiler.analyzers.contract import Analyzer, Need, Result
from flowprof.profiler.findings import Finding
from flowprof.profiler.machine.ceilings import COLUMNS, Ceiling, Ceilings, from_rows
from flowprof.profiler.roofline.least_time import last_level, served
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.torch_operators import TorchOperator, TorchOperators, TorchThread
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.costs import Cost

WAITS = 0.3  # of a call's time off the processor
DISPATCH_NS = 10_000  # a call shorter than that costs its dispatch (1 to 5 µs) as much as its work
FEW_CALLS = 20
LARGE, SMALL_SHARE, WORTH = 0.3, 0.3, 0.1
COMPUTES = 0.2  # of the busiest thread's processor time from which a thread counts
MAX_ROWS = 500
FIRST = "Look here first: what is not in this operator gains less."
OTHERS = "The other processes or the network are slower: compute meanwhile (async_op=True), or divide the work better."
ROLES = {  # by how torch names its threads; those of OpenMP, which work inside operators, have the program's name
    "pt_autograd": "autograd", "PTThreadPool": "inter-op", "pt_data_": "data loading", "pt_gloo": "distributed",
    "pt_nccl": "distributed", "pt_dist": "distributed",
}  # fmt: skip
DEPTH = 64  # operators do not nest deeper
CALLS = Need("SELECT count(*) > 0 FROM (SELECT 1 FROM api_call WHERE kind = 'operator' LIMIT 1)",
             "no PyTorch operators; record longer, or with --full --levels op")  # fmt: skip
CEILING_SQL = f"SELECT {', '.join(COLUMNS)} FROM ceiling"
OBSERVED_SQL = "SELECT coalesce(sum(end_ns - start_ns), 0) FROM probe_window WHERE level IN ('op', 'thread')"
PROBE_SQL = "SELECT sum(hits * cost_ns) FROM probe_site WHERE probe LIKE 'torch.%' AND hits > 0"
SPAN_SQL = "SELECT max(end_ns) - min(start_ns) FROM api_call WHERE kind = 'operator'"
COMPUTING_SQL = """
SELECT count(*) FILTER (value >= $share * most) FROM (
    SELECT value, max(value) OVER () AS most FROM counter WHERE name = 'task_clock_ns'
) WHERE most > 0
"""
ALLOWED_SQL = "SELECT max(cpus_allowed) FROM process"
CALL_SQL = """
SELECT call_id, coalesce(parent_id, -1) AS parent_id, coalesce(end_ns, start_ns) AS end_ns,
       dense_rank() OVER (ORDER BY name, args_id) - 1 AS what
FROM api_call WHERE kind = 'operator' ORDER BY call_id
"""
WHAT_SQL = "SELECT DISTINCT name, args_id FROM api_call WHERE kind = 'operator' ORDER BY 1, 2"
GPU_SQL = "SELECT count(*) > 0 FROM (SELECT 1 FROM gpu_slice UNION ALL SELECT 1 FROM api_call WHERE kind = 'runtime')"

What = tuple[str, int | None]


def analyze(recording: Recording) -> Result:
    facts = recording.meta()
    imported = bool(facts.get("imported_from"))
    observed = recording.rows(SPAN_SQL if imported else OBSERVED_SQL)[0][0]
    found = recording.rows(read_sql("torch_groups.sql"))
    whole = sum(int(row[9]) for row in found)
    gpu = bool(recording.rows(GPU_SQL)[0][0])
    scheduler = facts.get("sched") == "yes"
    away, by_thread = _away(recording) if scheduler else ({}, {})
    threads = computing(recording)
    ceilings = None if gpu or imported else from_rows(facts.get("cpu_model", ""), recording.rows(CEILING_SQL))
    judge = _Judge(ceilings, threads, last_level(facts).of(threads), scheduler)
    rows = []
    for name, args_id, *texts, calls, left, total, own, p50, p99 in found[:MAX_ROWS]:
        args = torch_costs.arguments(*texts)
        cost = torch_costs.cost(name, args)
        ended = calls - left
        bound, ceiling, share, evidence = judge(
            cost, name.startswith("c10d::"), ended, int(total), away.get((name, args_id), {})
        )
        if name in torch_costs.WITHOUT:
            evidence = (torch_costs.WITHOUT[name],)
        counted = cost is not None and total > 0 and not gpu  # else it is done when the call has returned, or not yet
        rows.append(
            TorchOperator(
                name=str(name), shape=torch_costs.shown(str(name), args), calls=calls, left=left, total_ns=int(total),
                self_ns=int(own), share=own / whole if whole else 0.0, p50_ns=float(p50), p99_ns=float(p99),
                flops_per_s=cost.flops * ended * 1e9 / total if counted and cost and cost.flops else None,
                bytes_per_s=cost.size_bytes * ended * 1e9 / total if counted and cost else None,
                bound=bound, ceiling=ceiling, ceiling_share=share,
                headroom_ns=None if share is None else max(0, round(int(total) * (1 - share))),
                confidence="low" if bound == "unknown" else "medium", evidence=evidence,
            )
        )  # fmt: skip
    table = TorchOperators(
        rows=tuple(rows),
        threads=tuple(
            TorchThread(pid, tid, str(comm or ""), _role(pid, tid, str(comm or "")), calls, int(top), int(backward),
                        int(script), int(compiled), by_thread.get((pid, tid), 0) if scheduler else None)
            for pid, tid, comm, calls, top, backward, script, compiled in recording.rows(read_sql("torch_threads.sql"))
        ),
        calls=sum(int(row[6]) for row in found),
        self_ns=whole,
        observed_ns=int(observed or 0),
        probe_share=_probe_share(recording, int(observed or 0)),
        running_threads=threads,
        ceilings=tuple(judge.used),
        notes=_notes(facts, gpu, imported),
    )  # fmt: skip
    return Result(table, () if gpu else tuple(_findings(table)))


class _Judge:
    """What bounds a group of calls."""

    def __init__(self, ceilings: Ceilings | None, threads: int, llc_bytes: int | None, scheduler: bool) -> None:
        self._ceilings, self._threads, self._llc, self._scheduler = ceilings, threads, llc_bytes, scheduler
        self.used: list[Ceiling] = []

    def __call__(
        self, cost: Cost | None, collective: bool, calls: int, total: int, away: dict[str, int]
    ) -> tuple[Bound, str, float | None, tuple[str, ...]]:
        cached = cost is not None and served(cost.size_bytes, self._llc) == "cache"
        held = held_against(self._ceilings, self._threads, "llc_read" if cached else "dram_read", cost, calls, total)
        self.used += [one for one in held.used if one not in self.used]
        if held.bound == "memory":
            return "memory-cache" if cached else "memory-dram", held.ceiling, held.share, held.evidence
        off = sum(away.values())
        waits = off > 0 and off >= WAITS * total and (not held.bound or collective)
        if held.bound and not waits:
            return held.bound, held.ceiling, held.share, held.evidence
        ceiling, share, said = held.ceiling, held.share, held.evidence
        if waits:
            longest = max(away, key=lambda state: away[state])
            reason = f"{off / total * 100:.0f} % of the time off the processor: {longest}"
            return "wait", ceiling, share, (reason,) if collective else (reason, *said)
        if total < DISPATCH_NS * calls:
            return "overhead", ceiling, share, said
        unexplained = () if self._scheduler else ("waits were not recorded",)
        if calls < FEW_CALLS or not self._scheduler:
            return "unknown", ceiling, share, (*said, *(unexplained or ("too few calls",)))
        return "inefficient", ceiling, share, said


def _away(recording: Recording) -> tuple[dict[What, dict[str, int]], dict[tuple[int, int], int]]:
    """Off the processor within operators, ns: by operator and state, with all that are around; and by thread."""
    calls = recording.columns(CALL_SQL)
    states = recording.columns(read_sql("torch_away.sql"))
    ids, parent, end = (np.asarray(calls[name], np.int64) for name in ("call_id", "parent_id", "end_ns"))
    what, whats = np.asarray(calls["what"], np.int64), [(str(n), a) for n, a in recording.rows(WHAT_SQL)]
    by_what: dict[What, dict[str, int]] = {}
    by_thread: dict[tuple[int, int], int] = {}
    start, stop = (np.asarray(states[name], np.int64) for name in ("start_ns", "end_ns"))
    if not len(ids) or not len(start):
        return by_what, by_thread
    state, tid, pid = (np.asarray(states[name]) for name in ("state", "tid", "pid"))

    def place(numbers: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(ids, numbers), len(ids) - 1)
        found: np.ndarray = np.where(ids[at] == numbers, at, -1)
        return found

    around = place(parent)
    at = place(np.asarray(states["call_id"], np.int64))
    rows = np.arange(len(start))
    counted = np.zeros(len(start), bool)
    for _ in range(DEPTH):
        live = at >= 0
        rows, at = rows[live], at[live]
        if not len(rows):
            break
        inside = end[at] > start[rows]
        ns = np.minimum(stop[rows], end[at]) - start[rows]
        for name in np.unique(state[rows]).tolist():
            chosen = inside & (state[rows] == name)
            sums = np.bincount(what[at[chosen]], weights=ns[chosen], minlength=len(whats))
            for number in np.flatnonzero(sums).tolist():
                group = by_what.setdefault(whats[number], {})
                group[name] = group.get(name, 0) + int(sums[number])
        first = inside & ~counted[rows]
        for one in np.unique(np.stack([pid[rows[first]], tid[rows[first]]]), axis=1).T.tolist() if first.any() else ():
            mine = first & (pid[rows] == one[0]) & (tid[rows] == one[1])
            by_thread[one[0], one[1]] = by_thread.get((one[0], one[1]), 0) + int(ns[mine].sum())
        counted[rows[first]] = True
        at = around[at]
    return by_what, by_thread


def computing(recording: Recording) -> int:
    """Threads that computed while the recording ran; at least 1, at most the processors that the process may use."""
    counted = int(recording.rows(COMPUTING_SQL, {"share": COMPUTES})[0][0] or 1)
    allowed = recording.rows(ALLOWED_SQL)[0][0]
    return max(1, min(counted, int(allowed or counted)))


def _probe_share(recording: Recording, observed: int) -> float | None:
    """As if one thread had borne all hits: an upper bound for each."""
    spent = recording.rows(PROBE_SQL)[0][0]
    return float(spent) / observed if spent is not None and observed else None


def _role(pid: int | None, tid: int | None, name: str) -> str:
    """By the thread's name: a data loader's process is all loader, its first thread too."""
    found = next((role for begins, role in ROLES.items() if name.startswith(begins)), "other")
    return "main" if pid is not None and pid == tid and found != "data loading" else found


def _notes(facts: dict[str, str], gpu: bool, imported: bool) -> tuple[str, ...]:
    notes = []
    layout = facts.get("tensor_layout", "")
    if layout.startswith("unknown"):
        notes.append(f"No shapes were recorded, so no FLOPs, bytes and bounds: {layout.partition(': ')[2]}")
    if gpu:
        notes.append("A GPU computes: the host's operators launch its work; their times are those of the launching.")
    elif imported:
        notes.append("An import has no ceilings of the machine that it was recorded on: no bounds.")
    return tuple(notes)


def _findings(table: TorchOperators) -> list[Finding]:
    found = []
    if table.rows and table.calls >= FEW_CALLS and table.rows[0].share >= LARGE:
        top = table.rows[0]
        found.append(
            Finding(
                id="torch_operators.largest", confidence="high",
                claim=f"{_named(top)} takes {top.share * 100:.0f} % of the operators' own time",
                evidence=(f"{top.calls} calls, median {top.p50_ns / 1e3:.1f} µs, 99th percentile "
                          f"{top.p99_ns / 1e3:.1f} µs",
                          f"{top.self_ns / 1e6:.1f} of {table.self_ns / 1e6:.1f} ms"),
                advice=OTHERS if top.name.startswith("c10d::") else FIRST,
            )
        )  # fmt: skip
    small = [row for row in table.rows if row.calls > row.left and row.total_ns < DISPATCH_NS * (row.calls - row.left)]
    own = sum(row.self_ns for row in small)
    if table.self_ns and table.calls >= FEW_CALLS and own >= SMALL_SHARE * table.self_ns:
        calls = sum(row.calls for row in small)
        found.append(
            Finding(
                id="torch_operators.overhead", confidence="medium",
                claim=f"{own / table.self_ns * 100:.0f} % of the operators' time is in calls of less than "
                f"{DISPATCH_NS // 1000} µs",
                evidence=(f"{calls} of {table.calls} calls, {own / max(calls, 1) / 1e3:.1f} µs each", _most(small)),
                advice="The dispatch costs as much as the work: larger batches, torch.compile, or fused operators.",
                severity="problem",
            )
        )  # fmt: skip
    slow = [row for row in table.rows if row.bound == "inefficient" and row.share >= WORTH]
    if slow:
        top = slow[0]
        found.append(
            Finding(
                id="torch_operators.inefficient", confidence=top.confidence,
                claim=f"{_named(top)} reaches {(top.ceiling_share or 0) * 100:.0f} % of {top.ceiling}, "
                "and nothing that it waits for explains it",
                evidence=(*top.evidence, f"{top.share * 100:.0f} % of the operators' own time"),
                advice="Try another memory layout, data type or number of threads: another kernel may serve it.",
            )
        )  # fmt: skip
    return found


def _named(row: TorchOperator) -> str:
    return f"{row.name} {row.shape}".strip()


def _most(rows: Sequence[TorchOperator]) -> str:
    return "most of it: " + ", ".join(f"{row.name} ({row.calls} calls)" for row in rows[:3])


ANALYZER = Analyzer("torch_operators", "PyTorch operators", (CALLS,), analyze)
