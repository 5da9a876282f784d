"""What the GPU's timeline is worth saying: idle time, exposed transfers, kernels below their ceilings.

Each price is the most that could be gained, in ms and in percent of the timeline; prices overlap and do not add up.
"""

from __future__ import annotations

from typing import Literal

from flowprof.profiler.findings import Confidence, Finding, in_ms, part_of
from flowprof.profiler.sections.gpu import GpuGroup, GpuTable

IDLE = EXPOSED = 0.10  # of the span: below it a bottleneck lies elsewhere
GROUP = 0.10  # of the work: a kernel group worth a word
UNATTRIBUTED = 0.5
_SLOW = {
    "inefficient": (
        "gpu.inefficient",
        "Kernels far below both ceilings take",
        "Another kernel or layout would gain most here; element by element operators gain from fusion (torch.compile).",
    ),
    "overhead": (
        "gpu.overhead",
        "Kernels too small for their launch take",
        "Fuse them (torch.compile), put them into a CUDA graph, or batch more.",
    ),
}


def findings(table: GpuTable) -> tuple[Finding, ...]:
    span = table.busy_ns + table.idle_ns
    if not span:
        return ()
    found = [_idle(table, span), _comm(table, span), _copy(table, span), *(_slow(table, bound) for bound in _SLOW),
             _unattributed(table)]  # fmt: skip
    return tuple(finding for finding in found if finding is not None)


def _idle(table: GpuTable, span: int) -> Finding | None:
    if table.idle_ns < IDLE * span:
        return None
    late, unknown = sum(one.host_bound_ns for one in table.devices), sum(one.unknown_gap_ns for one in table.devices)
    worst = max(table.devices, key=lambda one: one.longest_gap_ns)
    host = late >= 0.5 * table.idle_ns
    return _finding(
        "gpu.idle",
        f"The GPU is idle for {part_of(table.idle_ns, span)} of the timeline",
        (
            f"{sum(one.gaps for one in table.devices)} gaps; longest {in_ms(worst.longest_gap_ns)} on device "
            f"{worst.device}, {in_ms(worst.longest_gap_at_ns)} after the beginning",
            f"{part_of(late, table.idle_ns)} of the idle time: the next work was launched after the device had drained",
            *((f"{part_of(unknown, table.idle_ns)}: that launch is not in the recording",) if unknown else ()),
        ),
        "The host prepares while the device waits: larger batches, CUDA graphs, or fewer synchronisations."
        if host
        else "Work was launched in time and waited: look at stream order and events around the longest gap.",
        confidence="high" if host else "medium",
        severity="problem",
    )


def _comm(table: GpuTable, span: int) -> Finding | None:
    if table.exposed_comm_ns < EXPOSED * span:
        return None
    whole = sum(one.comm_ns for one in table.devices)
    return _finding(
        "gpu.exposed_comm",
        f"Collectives run alone for {part_of(table.exposed_comm_ns, span)} of the timeline",
        (f"{in_ms(table.exposed_comm_ns)} of {in_ms(whole)} of communication had no computation beside it",),
        "Compute beside them: another stream, smaller buckets sent earlier, or split batches.",
        severity="problem",
    )


def _copy(table: GpuTable, span: int) -> Finding | None:
    if table.exposed_copy_ns < EXPOSED * span:
        return None
    whole = sum(one.copy_ns for one in table.devices)
    return _finding(
        "gpu.exposed_copy",
        f"Copies run alone for {part_of(table.exposed_copy_ns, span)} of the timeline",
        (
            f"{in_ms(table.exposed_copy_ns)} of {in_ms(whole)} of copies had neither a kernel nor a collective "
            "beside it",
        ),
        "Copy from pinned memory on a stream of its own, ahead of the kernels that need it.",
        severity="problem",
    )


def _slow(table: GpuTable, bound: str) -> Finding | None:
    slow = [one for one in table.groups if one.bound == bound and one.headroom_ns]
    share = sum(one.share for one in slow)
    if share < GROUP:
        return None
    gain = sum(one.headroom_ns or 0 for one in slow)
    id, claim, advice = _SLOW[bound]
    return _finding(
        id,
        f"{claim} {share * 100:.0f} % of the GPU's work (≤ {in_ms(gain)} of {in_ms(table.work_ns)})",
        tuple(_line(one) for one in slow[:4]),
        advice,
        confidence="medium",
    )


def _line(group: GpuGroup) -> str:
    return f"{group.operator} [{group.shape}]: {group.share * 100:.1f} % of the work; {'; '.join(group.evidence)}"


def _unattributed(table: GpuTable) -> Finding | None:
    inside = sum(group.total_ns for group in table.groups if group.in_graph)
    if table.unattributed_share < UNATTRIBUTED or not table.graph_kernels:
        return None
    launches = "launch runs" if table.graph_launches == 1 else "launches run"
    return _finding(
        "gpu.unattributed",
        f"{table.graph_launches} graph {launches} {table.graph_kernels} of {table.kernels} kernels: "
        f"{part_of(table.unattributed_ns, table.work_ns)} of the GPU's work has no operator",
        (f"groups with kernels in graphs: {in_ms(inside)} of {in_ms(table.work_ns)}",),
        "Record one step without graphs, or the graph's capture: it names operators and shapes.",
    )


def _finding(
    id: str, claim: str, evidence: tuple[str, ...], advice: str,
    confidence: Confidence = "high", severity: Literal["problem", "notice"] = "notice",
) -> Finding:  # fmt: skip
    """A GPU's timeline has neither phases nor tokens: the price is part of the claim."""
    return Finding(id=id, claim=claim, confidence=confidence, evidence=evidence, advice=advice, severity=severity)
