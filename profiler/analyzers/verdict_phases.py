"""What the ceilings allow a whole phase: its operators' floors, weights read once per graph. Part of verdicts.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers.verdict_work import GraphWork, MeasuredGraph
from flowprof.profiler.findings import Confidence
from flowprof.profiler.machine.ceilings import Ceiling
from flowprof.profiler.roofline.costs import Cost
from flowprof.profiler.roofline.judgement import CLEAR, LOSSES
from flowprof.profiler.roofline.least_time import Roof, Terms, added, describe
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.verdicts import PhaseBound, Verdict

SURE_GRAPHS, FEW_GRAPHS = 30, 2  # measured executions for high, and for more than low confidence in a phase's bound
UNSURE_SHARE, BLIND_SHARE = 0.02, 0.10  # of the time that the floor leaves out: medium, low


def phase_bound(
    item: Coverage, graphs: Sequence[MeasuredGraph], rows: Sequence[Verdict], lost: float
) -> PhaseBound | None:
    """None where there is nothing to compare: no tokens, no time, or no operator whose floor is known."""
    found = _floor(graphs)
    if found is None:
        return None
    whole, counted, floor, limit, unsure = found.whole, found.counted, found.ns, found.limit, found.unsure
    ns, tokens = sum(graph.ns for graph, _ in whole), sum(graph.tokens for graph, _ in whole)
    executions = sum(graph.executions for graph, _ in whole)
    fraction = floor / ns
    mine = [row for row in rows if row.phase == item.phase]
    blind = sum(row.share for row in mine if row.floor_ns is None) + max(0.0, 1 - sum(row.share for row in mine))
    missing = any((one.flops and one.compute_ns is None) or one.fast_ns is None for _, one, _ in counted)
    used = _ceiling_of(limit, whole[0][1].roof, counted)
    weight = sum(graph.executions * work.total.weight_bytes for graph, work in whole if work.total) / executions
    kv = sum(graph.executions * work.total.kv_bytes for graph, work in whole if work.total) / executions
    flops = sum(calls * (cost.flops or 0.0) for calls, _, cost in counted)
    memory = sum(graph.executions * (_weights_ns(work) or 0.0) for graph, work in whole)
    compute = sum(calls * (one.compute_ns or 0.0) for calls, one, _ in counted)
    evidence = [f"{executions} of {item.graphs} graphs measured, {tokens} tokens"]
    if used is not None:
        evidence.append(f"ceiling {describe(used)}: {used.source}")
    if limit != "compute":
        evidence.append(f"{weight / 1e9:.3g} GB of weights and {kv / 1e9:.3g} GB of KV cache per graph")
    if fraction > 1:
        evidence.append("more than the ceilings allow: a ceiling is wrong, or the work is not what it seems")
    if unsure:
        evidence.append("whether cache or DRAM serves the weights is open: the floor is that of the cache")
    if missing:
        evidence.append("a ceiling is missing: the bound may be too high")
    if blind > UNSURE_SHARE:
        evidence.append(f"{blind * 100:.0f} % of the time is in operators that are not counted")
    low = fraction > 1 or unsure or missing or blind > BLIND_SHARE or executions < FEW_GRAPHS
    less = fraction < CLEAR or blind > UNSURE_SHARE or executions < SURE_GRAPHS or lost > LOSSES
    less = less or (used is not None and used.disturbed)
    confidence: Confidence = "low" if low else "medium" if less else "high"
    shares: dict[Bound, float] = defaultdict(float)
    for row in mine:
        shares[row.bound] += row.share
    return PhaseBound(
        phase=item.phase,
        limit=limit,
        tokens_per_s=tokens / ns * 1e9,
        bound_tokens_per_s=tokens / floor * 1e9,
        fraction=fraction,
        memory_tokens_per_s=tokens / memory * 1e9 if memory else None,
        compute_tokens_per_s=tokens / compute * 1e9 if compute else None,
        weight_bytes=weight,
        kv_bytes=kv,
        flops_per_token=flops / tokens,
        tokens_per_graph=tokens / executions,
        floor_ns_per_token=floor / tokens,
        headroom_ns_per_token=(ns - floor) / tokens,
        graphs_measured=executions,
        unknown_share=blind,
        by_bound=tuple(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))),
        confidence=confidence,
        evidence=tuple(evidence),
    )


def limited_by(graphs: Sequence[MeasuredGraph]) -> tuple[Bound, str]:
    """What most of these graphs' floor is made of; of "compute" the type of the peak, else ""."""
    found = _floor(graphs)
    if found is None:
        return "unknown", ""
    used = _ceiling_of(found.limit, found.whole[0][1].roof, found.counted)
    return found.limit, used.dtype if used is not None else ""


@dataclass(frozen=True, slots=True)
class _Floor:
    """The least time of graphs; never 0."""

    whole: Sequence[tuple[MeasuredGraph, GraphWork]]
    counted: Sequence[tuple[int, Terms, Cost]]
    ns: float
    limit: Bound
    unsure: bool  # it is open which memory serves the weights


def _floor(graphs: Sequence[MeasuredGraph]) -> _Floor | None:
    whole = [(graph, graph.work) for graph in graphs if graph.work is not None and graph.work.total is not None]
    ns, tokens = sum(graph.ns for graph, _ in whole), sum(graph.tokens for graph, _ in whole)
    counted = _counted(whole)
    if not tokens or not ns or not counted:
        return None
    floor = sum(calls * (one.floor_ns or 0.0) for calls, one, _ in counted)
    by_compute = sum(calls * (one.floor_ns or 0.0) for calls, one, _ in counted if _computes(one))
    streams = added([(float(calls), one) for calls, one, _ in counted if not _computes(one)])
    floor -= sum(graph.executions * _twice_ns(work) for graph, work in whole)
    return _Floor(whole, counted, floor, *_limit(by_compute, floor, streams, ns)) if floor > 0 else None


def _counted(whole: Sequence[tuple[MeasuredGraph, GraphWork]]) -> list[tuple[int, Terms, Cost]]:
    """Calls with their least times; what graphs and nodes share, once."""
    nodes = {id(node): node for _, work in whole for node in work.nodes.values()}
    calls: dict[int, int] = defaultdict(int)
    for graph, work in whole:
        for node in work.nodes.values():
            calls[id(node)] += graph.executions
    return [(calls[at], node.terms, node.cost) for at, node in nodes.items()
            if node.terms is not None and node.cost is not None and node.terms.floor_ns is not None]  # fmt: skip


def _computes(one: Terms) -> bool:
    return one.compute_ns is not None and (one.fast_ns is None or one.compute_ns > one.fast_ns)


def _limit(by_compute: float, floor: float, streams: Terms, ns: float) -> tuple[Bound, bool]:
    """What most of the floor is made of, and whether it is open which memory serves it."""
    if by_compute >= floor / 2:
        return "compute", False
    if streams.slow_ns is None:
        return "unknown", False
    from_dram = streams.dram_ns >= streams.slow_ns / 2
    if not from_dram:
        return "memory-cache", False
    if not streams.unsure or streams.fast_ns is None or streams.fast_ns >= streams.slow_ns * 0.9:
        return "memory-dram", False
    return ("memory-cache", False) if streams.slow_ns > ns else ("unknown", True)


def _twice_ns(work: GraphWork) -> float:
    """Time in the operators' floors for weights that several of them read (tied embeddings)."""
    if work.total is None:
        return 0.0
    read = sum(node.cost.weight_bytes for node in work.nodes.values() if node.cost is not None)
    twice = read - work.total.weight_bytes
    bandwidth = _weights_bandwidth(work.roof)
    return twice / bandwidth.value * 1e9 if bandwidth is not None and twice > 0 else 0.0


def _weights_ns(work: GraphWork) -> float | None:
    bandwidth = _weights_bandwidth(work.roof)
    if bandwidth is None or work.total is None:
        return None
    return (work.total.weight_bytes + work.total.kv_bytes) / bandwidth.value * 1e9


def _weights_bandwidth(roof: Roof) -> Ceiling | None:
    return roof.bandwidth("dram_read" if roof.weights_from() == "DRAM" else "llc_read")


def _ceiling_of(limit: Bound, roof: Roof, counted: Sequence[tuple[int, Terms, Cost]]) -> Ceiling | None:
    if limit == "compute":
        paths: dict[str, float] = defaultdict(float)
        for calls, one, cost in counted:
            paths[cost.path] += calls * (one.compute_ns or 0.0)
        return roof.peak(max(paths, key=lambda path: paths[path]))
    return _weights_bandwidth(roof) if limit == "unknown" else roof.bandwidth(
        "dram_read" if limit == "memory-dram" else "llc_read"
    )  # fmt: skip
