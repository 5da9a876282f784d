"""What pool threads waited for: a processor, the disk, each other, or somebody's signal.

In graph executions at thread level every thread's time is split into its own work, the wait at barriers (spinning or
asleep), runnable (it wanted a processor and another thread had it), blocked (asleep or stopped elsewhere) and fault
(reading a page of the mapped model from disk); the parts add up to the thread's wall time. Who was in the way is known
for the whole recording, as the scheduler is watched all the time. While one thread is away the others wait for it at
the next barrier, so a graph loses the time of the thread that was away longest: that is the price of the findings. Of
stretches that began before a graph, or outlast it, the part within counts.
What flowprof itself took is left out here: that is in the overhead. Of several recorded processes each has its own
prices, of its own tokens. Where more than 1 % of the scheduler's events were lost (scheduler_losses.py) the findings
are of low confidence, above 10 % they are withheld.

Who wakes a thread may have waited itself. `roots` pass waits on to what their waker, or the last thread at a barrier,
waited for meanwhile, to the end of the chain (wait_roots.py); the parts add up to the waits.

* `waits.preempted`: other programs took processors from the pool for 5 % of a phase or more, or used a quarter of one
  (small ones together), so that the pool's threads were in each other's way on the rest. Move them away (taskset,
  cgroups, nice), or give the engine fewer threads than there are processors.
* `waits.throttled`: threads could run and did not, while their processor idled: a cgroup's quota (docker --cpus). Or
  the kernel's own account of the cgroup says that it was held up for half of the time that threads waited for a
  processor: others may run on it meanwhile. Where that account stood still, something else kept them off idle
  processors (a host that took them from this guest, say), and the finding's confidence is low.
  Raise it (cpu.max, Kubernetes limits), or start no more --threads than it has processors.
* `waits.wakeup`: threads that slept for short were woken, and waited until an idle processor had come back for them
  (idle states, a virtual processor that its host has to start again), 5 % of a phase or more. Let them spin (--poll,
  OMP_WAIT_POLICY=active), or see to the machine's idle states.
* `waits.shared_processor`: threads of the server took turns on one processor. Their affinity lets them use fewer
  processors than there are threads: --threads, taskset, docker --cpuset-cpus. Of threads that are bound to no single
  one only when that is 10 % of the time in all graphs: after a pause some wake up together, and are soon parted. When
  the pool has more threads than the process has processors, that is `threads.oversubscribed`.
* `waits.fault`: pages came from disk while graphs ran, 2 % of a phase or more; of what file most of them were is said.
  Of the model: memory is short, or the file was not in the page cache: --mlock, more memory, or a warm-up request. Of
  none: the process's own memory was in swap.
  Waits for pages that another thread is reading count as well: uninterruptible waits in graphs with major faults.
* `waits.blocked`: threads slept on locks or I/O within operators, 5 % or more of their time. Their stacks (`blocked`)
  show on what; sleep in OpenMP's barriers within an operator is known by them, and does not count.
* `waits.stopped`: the process was stopped (SIGSTOP, a debugger), in a graph or before it. Says when, for how
  long, and who continued it: look there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from flowprof.profiler.analyzers import wait_findings
from flowprof.profiler.analyzers.absence import (
    computing,
    crowded_pools,
    in_process,
    losses,
    quotas,
    splits,
    total,
)
from flowprof.profiler.analyzers.contract import GRAPHS, SCHED, Analyzer, Result, coverage
from flowprof.profiler.analyzers.scheduler_losses import LIMIT, SchedulerLosses, scheduler_losses
from flowprof.profiler.analyzers.wait_findings import Neighbour, Scene
from flowprof.profiler.analyzers.wait_roots import wait_roots
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.waits import WaitTable
from flowprof.profiler.store import Recording

MAX_CAUSES = 100
NEIGHBOURS_SQL = """
SELECT comm, pid, cpu_ns / (SELECT max(end_ns) - min(start_ns) FROM probe_window) AS share, coalesce(cpus, '')
FROM neighbour ORDER BY share DESC, pid
"""
FAULTS_SQL = "SELECT pid, file, count(*) FROM page_fault GROUP BY pid, file ORDER BY count(*) DESC, file"


def analyze(recording: Recording) -> Result:
    rows, lost, pids = splits(recording), losses(recording), computing(recording)
    crowded = {pool.pid for pool in crowded_pools(recording)}
    neighbours = [Neighbour(*row) for row in recording.rows(NEIGHBOURS_SQL)]
    faults: dict[int, list[tuple[str | None, int]]] = defaultdict(list)
    for pid, file, count in recording.rows(FAULTS_SQL):
        faults[pid].append((file, count))
    runnable = Counter[int]()  # threads' waits for a processor by process, ns
    for loss in lost:
        runnable[loss.pid] += total(loss.causes) if loss.state == "runnable" else 0
    held = quotas(recording)
    found: list[Finding | None] = []
    for pid in pids:
        where = in_process(pid, pids)
        whole = {item.phase: item for item in coverage(recording, "token", "op", "thread", pid=pid)}
        scene = Scene(where, whole, neighbours, faults[pid], pid in crowded, held.get(pid), runnable[pid])
        found += [wait_findings.of_loss(loss, scene) for loss in lost if loss.pid == pid]
        if pid not in crowded:  # else whoever holds a lock may have no processor: threads.oversubscribed says so
            deep = {item.phase: item for item in coverage(recording, "thread", pid=pid)}
            found += wait_findings.blocked([row for row in rows if row.pid == pid], deep, where)
    unseen = scheduler_losses(recording)
    said = () if unseen.withheld else tuple(_hedged(finding, unseen) for finding in found if finding is not None)
    causes = sorted((cause for loss in lost for cause in loss.causes), key=lambda cause: -cause.total_ns)
    roots, roots_ns = wait_roots(recording)
    table = WaitTable(
        rows, tuple(causes[:MAX_CAUSES]), roots[:MAX_CAUSES], roots_ns,
        sum(count for files in faults.values() for _, count in files), coverage(recording, "thread"),
        unseen.share, unseen.withheld, _notes(unseen),
    )  # fmt: skip
    return Result(table, said)


def _hedged(finding: Finding, unseen: SchedulerLosses) -> Finding:
    if not unseen.doubtful:
        return finding
    return replace(finding, confidence="low", evidence=(*finding.evidence, unseen.words))


def _notes(unseen: SchedulerLosses) -> tuple[str, ...]:
    if unseen.withheld:
        return (f"findings are withheld: {unseen.words}; the limit is {LIMIT * 100:.0f} %",)
    return (unseen.words,) if unseen.doubtful else ()


ANALYZER = Analyzer("waits", "Waits", (GRAPHS, SCHED), analyze)
