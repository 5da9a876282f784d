"""Counters per operator (`--counters`): instructions per cycle, page faults, switches, and does the byte model hold?

At thread level they are of the threads' own work (barriers inside a matrix product count as work); at op level of the
first thread only, its waits at barriers included. Cycles and instructions are of user mode: what the probes take is not
in them. A call is the sum of its threads. Operators during which the kernel passed over a switch are left out.

The byte model says what a perfect kernel must move (profiler/roofline/costs.py). Lines counted as coming from memory
are what this one moved. Both are compared for operators whose weights are too large for the last-level cache: what was
counted must lie between the weights alone and everything the operator reads and writes, within TOLERANCE. Whether the
counter can be trusted is known from a stream of known size that was read when the recording began: of the weights it is
expected to see the same share. A counter that leaves prefetched lines out sees a few per cent, and then nothing is
checked. On AMD's Zen what misses the L2 is counted, reads served by the L3 too: more lines than the model has are then
no contradiction, and the model stays unchecked.

* `operator_counters.model`: memory moved more or less than the byte model counts, by more than TOLERANCE, in a phase.
  Take the verdicts of that phase with care, and look at the operators that the evidence names: an engine that repacks
  weights or reads them twice moves more, a working set that fits the cache after all moves less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowprof.profiler.analyzers.contract import Analyzer, Need, Result
from flowprof.profiler.analyzers.verdict_work import Work, read_graphs
from flowprof.profiler.findings import Finding
from flowprof.profiler.machine.ceilings import Ceilings
from flowprof.profiler.roofline.least_time import Roof, last_level
from flowprof.profiler.sections.operator_counters import CountedOperator, ModelCheck, OperatorCounterTable
from flowprof.profiler.store import Recording, read_sql

TOLERANCE = 0.25  # of the bytes, to either side
TRUSTED = (0.6, 1.25)  # share of the known stream that the counter must have seen
FIGURES = (
    "task_clock_ns", "context_switches", "page_faults", "cycles", "instructions", "stalled_cycles", "llc_misses",
    "llc_prefetches",
)  # fmt: skip
LEVEL_SQL = "SELECT max(level) FROM op_counter"  # thread, where there is any
EXECUTIONS_SQL = "SELECT graph_id, count(*) FROM measured_graph WHERE level = $level GROUP BY graph_id"
NEEDED = Need(
    "SELECT count(*) > 0 FROM op_counter WHERE calls > 0", "no counters per operator; record with --counters all"
)

Key = tuple[str, str, str, str]  # phase, block, op, shape


@dataclass(slots=True)
class _Group:
    """Sums over calls; a figure is absent when a node lacks it."""

    calls: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    absent: set[str] = field(default_factory=set)
    weight_bytes: float = 0.0
    model_bytes: float = 0.0
    uncounted: bool = False
    from_memory: bool = True  # the weights of all its graphs are too large for the cache

    def mean(self, name: str) -> float | None:
        return None if name in self.absent else self.sums[name] / self.calls


@dataclass(frozen=True, slots=True)
class _Counter:
    """What counts the lines from memory."""

    line_bytes: int
    untrusted: bool
    with_llc_hits: bool  # it counts what misses the L2
    seen: float  # of a known stream; less than 1 is expected of the weights, too


def analyze(recording: Recording) -> Result:
    facts = recording.meta()
    level = str(recording.rows(LEVEL_SQL)[0][0])
    line = _int(facts.get("counter_line_bytes", "")) or 64
    share = _share(facts.get("counter_stream_share", ""))
    groups, phases = _groups(recording, level)
    some = next(iter(groups.values()), None)
    unchecked = _unchecked(level, share, some is None or "llc_misses" in some.absent)
    counted = _Counter(line, bool(unchecked), facts.get("counter_misses", "") == "l2", min(share or 1.0, 1.0))
    rows = [_row(key, group, counted) for key, group in groups.items()]
    rows.sort(key=lambda row: (phases.index(row.phase), -row.task_clock_ns * row.calls, row.op, row.shape))
    checks = [] if unchecked else _checks(groups, rows, counted, _executions(recording, level))
    missing = [part.partition(": ")[::2] for part in facts.get("counters_missing", "").split("; ") if part]
    table = OperatorCounterTable(
        tuple(rows), level, tuple(checks), unchecked, share, line, tuple((name, why) for name, why in missing)
    )
    return Result(table, tuple(_finding(check, share) for check in checks if check.model in ("less", "more")))


def _groups(recording: Recording, level: str) -> tuple[dict[Key, _Group], list[str]]:
    """The groups, and the phases with most time first."""
    rows: dict[int, list[Sequence[float | None]]] = defaultdict(list)
    for graph_id, *rest in recording.rows(read_sql("operator_counters.sql"), {"level": level}):
        rows[graph_id].append(rest)
    phase_of = dict(recording.rows("SELECT graph_id, phase FROM graph"))
    caches = last_level(recording.meta())
    llc_bytes = caches.of(caches.count)
    groups: dict[Key, _Group] = defaultdict(_Group)
    spent: dict[str, float] = defaultdict(float)
    most_first = sorted(rows, key=lambda graph_id: -sum((row[1] or 0) for row in rows[graph_id]))
    roof = Roof(Ceilings("", ()), 1, llc_bytes, 0)
    for graph_id, work in read_graphs(recording, dict.fromkeys(most_first, roof)):
        nodes = rows[graph_id]
        in_memory = work.total is not None and work.roof.weights_from() == "DRAM"
        for node, calls, _, *figures in nodes:
            one = work.nodes.get(int(node or 0))
            if one is not None and calls:
                key = (str(phase_of.get(graph_id) or "other"), one.block, one.op, one.shape)
                _add(groups[key], one, int(calls), figures, in_memory)
                spent[key[0]] += float(figures[0] or 0.0) * calls
    return groups, sorted(spent, key=lambda phase: -spent[phase])


def _add(group: _Group, work: Work, calls: int, figures: Sequence[float | None], in_memory: bool) -> None:
    group.calls += calls
    group.from_memory &= in_memory
    for name, value in zip(FIGURES, figures, strict=True):
        if value is None:
            group.absent.add(name)
        else:
            group.sums[name] += float(value) * calls
    if work.cost is None:
        group.uncounted = True
    else:
        group.weight_bytes += work.cost.weight_bytes * calls
        group.model_bytes += (work.cost.weight_bytes + work.cost.read_bytes + work.cost.write_bytes) * calls


def _row(key: Key, group: _Group, counted: _Counter) -> CountedOperator:
    cycles, instructions, stalled = (group.mean(name) for name in ("cycles", "instructions", "stalled_cycles"))
    memory = _memory(group, counted.line_bytes)
    checked = not counted.untrusted and _checkable(group)
    weights = None if group.uncounted else group.weight_bytes / group.calls
    whole = None if group.uncounted else group.model_bytes / group.calls
    return CountedOperator(
        *key,
        calls=group.calls,
        task_clock_ns=group.mean("task_clock_ns") or 0.0,
        context_switches=group.mean("context_switches") or 0.0,
        page_faults=group.mean("page_faults") or 0.0,
        cycles=cycles,
        instructions=instructions,
        ipc=instructions / cycles if cycles and instructions is not None else None,
        stalled_share=stalled / cycles if cycles and stalled is not None else None,
        memory_bytes=memory,
        weight_bytes=weights,
        model_bytes=whole,
        ratio=memory / weights if checked and memory is not None and weights else None,
        model=_agrees(memory, weights, whole, counted) if checked and memory is not None and weights and whole else "",
    )


def _memory(group: _Group, line: int) -> float | None:
    """Bytes that came from memory, of the mean call."""
    misses, prefetches = group.mean("llc_misses"), group.mean("llc_prefetches")
    return None if misses is None else (misses + (prefetches or 0.0)) * line


def _checkable(group: _Group) -> bool:
    return group.from_memory and not group.uncounted and group.weight_bytes > 0.5 * group.model_bytes


def _agrees(memory: float, weights: float, whole: float, counted: _Counter) -> str:
    if memory < weights * counted.seen * (1 - TOLERANCE):
        return "less"
    if memory > whole * (1 + TOLERANCE):
        return "unclear" if counted.with_llc_hits else "more"
    return "confirmed"


def _checks(
    groups: dict[Key, _Group], rows: Sequence[CountedOperator], counted: _Counter, executions: dict[str, int]
) -> list[ModelCheck]:
    found = []
    for phase in dict.fromkeys(row.phase for row in rows):
        mine = [group for key, group in groups.items() if key[0] == phase and _checkable(group)]
        graphs = executions.get(phase, 0)
        if not mine or not graphs:
            continue
        memory = sum((_memory(group, counted.line_bytes) or 0.0) * group.calls for group in mine) / graphs
        weights = sum(group.weight_bytes for group in mine) / graphs
        whole = sum(group.model_bytes for group in mine) / graphs
        model = _agrees(memory, weights, whole, counted)
        found.append(ModelCheck(phase, len(mine), memory, weights, whole, memory / weights, model))
    return found


def _executions(recording: Recording, level: str) -> dict[str, int]:
    """Graph executions by phase."""
    phase_of = dict(recording.rows("SELECT graph_id, phase FROM graph"))
    found: dict[str, int] = defaultdict(int)
    for graph_id, count in recording.rows(EXECUTIONS_SQL, {"level": level}):
        found[str(phase_of.get(graph_id) or "other")] += count
    return found


def _unchecked(level: str, share: float | None, no_misses: bool) -> str:
    if no_misses:
        return "cache misses were not counted"
    if level != "thread":
        return "only the first thread was counted; record with --full --levels thread"
    if share is None:
        return "what the counter makes of a known stream was not measured"
    if not TRUSTED[0] <= share <= TRUSTED[1]:
        return f"the counter saw {share * 100:.0f} % of a stream of known size: too far off to check anything"
    return ""


def _finding(check: ModelCheck, share: float | None) -> Finding:
    return Finding(
        id="operator_counters.model",
        claim=f"Memory moves {check.ratio:.2f} times the weights that the byte model counts in {check.phase}",
        phase=check.phase,
        confidence="medium",
        evidence=(
            f"{check.memory_bytes / 1e6:.3g} MB per graph counted by the processor, in {check.operators} groups of "
            f"operators; by the model {check.weight_bytes / 1e6:.3g} MB of weights, "
            f"{check.model_bytes / 1e6:.3g} MB in all",
            f"the counter saw {(share or 0) * 100:.0f} % of a stream of known size",
        ),
        advice="Take the memory verdicts of this phase with care: "
        + ("weights are read more than once, or evicted before they are used." if check.model == "more"
           else "a cache serves part of the weights, or the counter misses lines."),
        severity="notice",
    )  # fmt: skip


def _share(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _int(text: str) -> int | None:
    return int(text) if text.isdigit() else None


ANALYZER = Analyzer("operator_counters", "Counters per operator", (NEEDED,), analyze)
