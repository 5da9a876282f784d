"""Like operators of the measured graphs, added up and judged. Part of verdicts.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowprof.profiler.analyzers import verdict_waits
from flowprof.profiler.analyzers.contract import ratio
from flowprof.profiler.analyzers.verdict_threads import GroupThreads
from flowprof.profiler.analyzers.verdict_waits import Away, Barrier, Node
from flowprof.profiler.analyzers.verdict_work import MeasuredGraph, Work
from flowprof.profiler.machine.ceilings import Ceilings
from flowprof.profiler.roofline.judgement import Judgement, Known, Seen, judge
from flowprof.profiler.roofline.least_time import Roof, Terms, added
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.verdicts import Verdict

Key = tuple[str, str, str, str]  # phase, block, op, shape

NOT_ANALYSED = Work("other", "other", "not analysed", None, "", None, None, None, ())
NOTHING = Away()


@dataclass(slots=True)
class Group:
    """Like operators, added up over layers, graphs and calls."""

    calls: int = 0
    ns: float = 0.0
    off_ns: float = 0.0
    barrier_ns: float = 0.0
    barrier_calls: int = 0
    causes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    terms: list[tuple[float, Terms]] = field(default_factory=list)
    uncounted: bool = False
    paths: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    roofs: dict[int, tuple[float, Roof]] = field(default_factory=dict)  # threads → most time, roof
    hedges: set[str] = field(default_factory=set)
    contexts: list[int] = field(default_factory=list)
    tensors: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    layers: set[int] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class _Like:
    """Calls of operators with the same work."""

    work: Work
    group: Group
    calls: int = 0
    ns: float = 0.0


def add_up(
    graphs: Sequence[MeasuredGraph],
    measured: Sequence[tuple[int, int, int, int, float]],
    barriers: dict[Node, Barrier],
    away: dict[Node, Away],
) -> dict[Key, Group]:
    of = {graph.graph_id: graph for graph in graphs}
    groups: dict[Key, Group] = defaultdict(Group)
    likes: dict[tuple[str, int], _Like] = {}  # by phase and work, which like operators share
    for graph_id, index, calls, ns, _ in measured:
        graph = of[graph_id]
        work = (graph.work.nodes.get(index) if graph.work is not None else None) or NOT_ANALYSED
        like = likes.get((graph.phase, id(work)))
        if like is None:
            like = _Like(work, groups[graph.phase, work.block, work.op, work.shape])
            likes[graph.phase, id(work)] = like
        like.calls += calls
        like.ns += float(ns)
        group = like.group
        node = (graph_id, index)
        group.nodes.append(node)
        lost = away.get(node, NOTHING)
        if lost is not NOTHING:
            group.off_ns += lost.ns
            for cause, cause_ns in lost.causes.items():
                group.causes[cause] += cause_ns
        barrier = barriers.get(node)
        if barrier is not None:
            alone = max(0.0, barrier.imbalance_ns - lost.ns / calls * (1 - 1 / barrier.threads))
            group.barrier_ns += alone * calls
            group.barrier_calls += calls
        if graph.work is not None:
            roof = graph.work.roof
            most = group.roofs.get(roof.threads, (0.0, roof))[0]
            group.roofs[roof.threads] = (most + float(ns), roof)
    for like in likes.values():
        _add(like)
    return groups


def _add(like: _Like) -> None:
    work, group = like.work, like.group
    group.calls += like.calls
    group.ns += like.ns
    if work.terms is None or work.cost is None:
        group.uncounted = True
    else:
        group.terms.append((float(like.calls), work.terms))
        group.paths[work.cost.path] += like.ns
    group.hedges.update(work.hedges)
    if work.context is not None:
        group.contexts.append(work.context)
    group.tensors[work.tensor] += like.ns
    if work.layer is not None:
        group.layers.add(work.layer)


def judge_group(group: Group, threads: GroupThreads, scheduler: bool, known: Known) -> Judgement:
    roof = max(group.roofs.values(), key=lambda pair: pair[0])[1] if group.roofs else Roof(Ceilings("", ()), 1, None, 0)
    seen = Seen(
        calls=group.calls,
        total_ns=group.ns,
        off_ns=min(group.off_ns, group.ns),
        off_cause=verdict_waits.cause(group.causes),
        barrier_ns=group.barrier_ns / group.barrier_calls * group.calls if group.barrier_calls else None,
        slowest=_called(threads),
        scheduler=scheduler,
    )
    work = None if group.uncounted or not group.terms else added(group.terms)
    path = max(group.paths, key=lambda name: group.paths[name]) if group.paths else ""
    return judge(work, seen, roof, path, Known(known.fixed_ns, known.lost, known.withheld, tuple(sorted(group.hedges))))


def _called(threads: GroupThreads) -> str:
    slowest = threads.slowest
    if slowest is None:
        return ""
    several = len({one.pid for one in threads.threads}) > 1
    return f"thread {slowest.thread}" + (f" of process {slowest.pid}" if several else "")


def verdict(key: Key, group: Group, threads: GroupThreads, judgement: Judgement, item: Coverage) -> Verdict:
    phase, block, op, shape = key
    work = None if group.uncounted or not group.terms else added(group.terms)
    floor = work.floor_ns if work is not None else None
    ceiling = judgement.ceiling
    tensors = sorted((name for name in group.tensors if name), key=lambda name: -group.tensors[name])
    return Verdict(
        phase=phase,
        block=block,
        op=op,
        shape=shape,
        context=(min(group.contexts), max(group.contexts)) if group.contexts else None,
        tensors=tuple(tensors[:6]),
        layers=len(group.layers),
        calls=round(group.calls * item.count_weight),
        measured_calls=group.calls,
        measured_ns=round(group.ns),
        share=ratio(group.ns, item.measured_ns) or 0.0,
        ns_per_call=group.ns / group.calls,
        ns_per_token=ratio(group.ns, item.tokens_measured),
        bound=judgement.bound,
        confidence=judgement.confidence,
        served=judgement.served,
        gflops=ratio(work.flops, group.ns) if work is not None else None,
        gbps=ratio(work.bytes, group.ns) if work is not None else None,
        intensity=ratio(work.flops, work.bytes) if work is not None else None,
        ceiling="" if ceiling is None else f"{ceiling.what} {ceiling.dtype}".strip(),
        ceiling_value=None if ceiling is None else ceiling.value,
        ceiling_share=judgement.share,
        floor_ns=None if floor is None else floor / group.calls,
        headroom_ns_per_token=None if floor is None else ratio(group.ns - floor, item.tokens_measured),
        wait=judgement.wait,
        wait_share=judgement.wait_share,
        evidence=judgement.evidence,
        threads=threads.threads,
        slowest_thread=None if threads.slowest is None else threads.slowest.thread,
        imbalance_ns=threads.imbalance_ns,
        wait_state=verdict_waits.state(judgement.wait),
    )
