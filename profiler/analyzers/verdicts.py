"""What bounds each operator: compute, memory, overhead, a wait, or an inefficient kernel; and what bounds each phase.

For every group of like operators (phase, block, operator, shape) the work counted from shapes (costs.py) is held
against the recorded machine's ceilings, the measured time and the waits; judgement.py decides and lists its thresholds.
Times are wall time on the first thread of the measured graph executions; of thread windows it is told, too, what every
thread did meanwhile, and for which one the others waited. A group's headroom is its time less its floor:
what the ceilings would allow, not what a change is sure to gain.

A phase's bound adds its operators' floors, weights read once per graph however many operators read them. It is compared
with the tokens per second inside the same measured graphs.

* `verdicts.bound`: what limits a phase, and which part of that it reaches. Near the limit only less work helps: smaller
  weights or cache for memory, a faster machine for arithmetic. Far below it, look at the findings that follow.
* `verdicts.inefficient`: groups far below memory and arithmetic with no wait to explain it, that could gain PART of the
  phase's time or more. Try another kernel: a build for this processor's instructions, another type of weights or cache.
* `verdicts.instructions`: products of quantised weights far below the int8 peak, by kernels that leave the instructions
  unused which reach it: the engine was built for an older processor. Build it on this machine (-DGGML_NATIVE=ON), or
  take a build that chooses its kernels when it starts (-DGGML_CPU_ALL_VARIANTS=ON with -DGGML_BACKEND_DL=ON).
* `verdicts.wait`: groups that could gain as much if they were not held up. Remove what is waited for before the kernels
  are looked at.
* `verdicts.overhead`: groups too small for what a call costs whatever it does. Fewer, larger operators: fusion, batches
  of sequences, fewer threads for small models.

Without shapes or operators the analyzer is skipped. Without ceilings rates and waits are told, and verdicts are "wait"
or "unknown". Without scheduler data waits show only at barriers, and "inefficient" is of low confidence, as it is where
a tenth of the scheduler's events was lost; losses above the limit withhold every verdict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from flowprof.profiler.analyzers import losses, verdict_waits
from flowprof.profiler.analyzers.contract import (
    GRAPHS,
    OPERATORS,
    SCHED,
    Analyzer,
    Need,
    Result,
    coverage,
    recorded_ceilings,
)
from flowprof.profiler.analyzers.scheduler_losses import SchedulerLosses, scheduler_losses
from flowprof.profiler.analyzers.verdict_findings import findings
from flowprof.profiler.analyzers.verdict_groups import add_up, judge_group, verdict
from flowprof.profiler.analyzers.verdict_phases import limited_by, phase_bound
from flowprof.profiler.analyzers.verdict_threads import group_threads
from flowprof.profiler.analyzers.verdict_waits import Barrier, Node
from flowprof.profiler.analyzers.verdict_work import MeasuredGraph, measured_graphs
from flowprof.profiler.ggml.build_instructions import left_unused
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings
from flowprof.profiler.roofline.judgement import Known, fixed_cost
from flowprof.profiler.roofline.least_time import SPILLS, last_level
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.profiler.store import Recording, read_sql

NO_CEILINGS = "no ceilings; flowprof calibrate, then record again, or report --ceilings FILE"
SHAPES = Need(
    "SELECT count(*) > 0 FROM graph_node WHERE NOT leaf AND ne IS NOT NULL AND sources IS NOT NULL",
    "no shapes; the graphs' tensors could not be read: record again (list-probes PID says what is known of the build)",
)
BUILDS_SQL = "SELECT DISTINCT instructions FROM module WHERE engine = 'ggml' AND instructions IS NOT NULL"


@dataclass(slots=True)
class _Analysis:
    table: VerdictTable
    nodes: dict[Node, Bound]
    limits: dict[tuple[str, int], tuple[Bound, str]]
    ceilings: tuple[Ceiling, ...]


_ANALYSES: WeakKeyDictionary[Recording, _Analysis] = WeakKeyDictionary()  # `node_bounds` asks again


def analyze(recording: Recording) -> Result:
    table = _analysis(recording).table
    return Result(table, findings(table))


def node_bounds(recording: Recording) -> dict[tuple[int, int], Bound]:
    """(graph_id, node_index) → what bounds it, for nodes that were measured; empty without ceilings or shapes.

    Cheap after `analyze` on the same recording.
    """
    if not recorded_ceilings(recording).items or not SHAPES.met(recording):
        return {}
    return _analysis(recording).nodes


def limits(recording: Recording) -> dict[tuple[str, int], tuple[Bound, str]]:
    """(phase, pid) → what limits it (limited_by); empty when the verdicts are withheld, or cannot be made."""
    return _analysis(recording).limits if ANALYZER.run(recording).status == "ok" else {}


def _analysis(recording: Recording) -> _Analysis:
    ceilings = recorded_ceilings(recording)
    done = _ANALYSES.get(recording)
    if done is None or done.ceilings != ceilings.items:
        done = _ANALYSES[recording] = _analyse(recording, ceilings)
    return done


def _analyse(recording: Recording, ceilings: Ceilings) -> _Analysis:
    lost = losses.analyze(recording).value
    assert isinstance(lost, Losses)
    barriers = verdict_waits.barriers(recording)
    caches = last_level(recording.meta())
    graphs, left_out = measured_graphs(recording, ceilings, barriers, caches)
    unseen = scheduler_losses(recording)
    recorded = SCHED.met(recording)
    scheduler = recorded and not unseen.withheld
    measured = recording.rows(read_sql("verdict_operators.sql"))
    works = {graph.graph_id: graph.work for graph in graphs if graph.work is not None}
    fixed = fixed_cost(
        [
            (float(p50), floor, calls)
            for graph, node, calls, _, p50 in measured
            if graph in works and (work := works[graph].nodes.get(node)) is not None
            and work.terms is not None and (floor := work.terms.floor_ns) is not None
        ]
    )  # fmt: skip
    groups = add_up(graphs, measured, barriers, verdict_waits.away(recording))
    covered = coverage(recording, "op", "thread")
    of = {item.phase: item for item in covered}
    known = Known(fixed, lost.share, lost.withheld)
    threads = group_threads(recording, [group.nodes for group in groups.values()], recorded)
    judged = {
        key: (group, theirs, judge_group(group, theirs, scheduler, known))
        for (key, group), theirs in zip(groups.items(), threads, strict=True)
        if of[key[0]].measured_ns > 0
    }
    order = {item.phase: position for position, item in enumerate(covered)}
    rows = [verdict(key, *judged_as, of[key[0]]) for key, judged_as in judged.items()]
    rows.sort(key=lambda row: (order[row.phase], -row.measured_ns, row.op, row.shape))
    by_phase = {item.phase: [graph for graph in graphs if graph.phase == item.phase] for item in covered}
    bounds = [] if lost.withheld else [phase_bound(item, by_phase[item.phase], rows, lost.share) for item in covered]
    built_for, unused = _instructions(recording)
    table = VerdictTable(
        rows=tuple(rows),
        phases=tuple(bound for bound in bounds if bound is not None),
        ceilings=_used(ceilings, graphs),
        coverage=covered,
        fixed_ns=fixed,
        llc_bytes=caches.size,
        scheduler=scheduler,
        withheld=lost.withheld,
        built_for=built_for,
        left_unused=unused,
        notes=tuple(_notes(lost, bool(ceilings.items), unseen if recorded else None, barriers, caches.size, left_out)),
    )
    nodes = {node: judgement.bound for group, _, judgement in judged.values() for node in group.nodes}
    return _Analysis(table, nodes, {} if lost.withheld else _limits(graphs), ceilings.items)


def _limits(graphs: Sequence[MeasuredGraph]) -> dict[tuple[str, int], tuple[Bound, str]]:
    of: dict[tuple[str, int], list[MeasuredGraph]] = defaultdict(list)
    for graph in graphs:
        of[graph.phase, graph.pid].append(graph)
    return {which: limited_by(theirs) for which, theirs in of.items()}


def _instructions(recording: Recording) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the engine was built for, and what of the processor's it leaves unused where it multiplies int8."""
    facts = recording.meta()
    builds = [set(sets.split()) for (sets,) in recording.rows(BUILDS_SQL)]
    if not builds:
        return (), ()  # not known
    used = set.union(*builds)
    processor = facts.get("cpu_instructions", "").split()
    return tuple(sorted(used)), left_unused(used, processor, facts.get("arch", ""), "int8")


def _used(ceilings: Ceilings, graphs: Sequence[MeasuredGraph]) -> tuple[Ceiling, ...]:
    """The figures for the numbers of threads that ran."""
    kinds = list(dict.fromkeys((item.what, item.dtype) for item in ceilings.items))
    threads = sorted({graph.work.roof.threads for graph in graphs if graph.work is not None})
    found = (ceilings.get(what, count, dtype) for what, dtype in kinds for count in threads)
    return tuple(dict.fromkeys(item for item in found if item is not None))


def _notes(
    lost: Losses,
    calibrated: bool,
    unseen: SchedulerLosses | None,
    barriers: dict[Node, Barrier],
    llc_bytes: int | None,
    left_out: int,
) -> list[str]:
    notes = []
    if lost.withheld:
        notes.append(f"withheld: {lost.share * 100:.1f} % of the events lost, the limit is {lost.limit * 100:.0f} %")
    if not calibrated:
        notes.append(NO_CEILINGS)
    if unseen is not None and unseen.doubtful:
        notes.append(unseen.words)
    if unseen is None:
        notes.append("no scheduler data: waits show only at barriers; record with --levels … ,sched")
    if not barriers:
        notes.append("no thread windows: waits at barriers are not known; record with --full --levels thread")
    if calibrated and llc_bytes is None:
        notes.append(
            "the size of the last-level cache was not recorded: whether it or DRAM serves the weights is open, "
            f"unless they are read faster than DRAM allows (it needs {SPILLS:g} times the cache to be sure)"
        )
    if left_out:
        notes.append(f"{left_out} graphs with the least time were not analysed")
    return notes


ANALYZER = Analyzer("verdicts", "What bounds each operator", (GRAPHS, OPERATORS, SHAPES), analyze)
