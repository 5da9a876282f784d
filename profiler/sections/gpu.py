"""What GPUs did with their time, and what their kernels reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.findings import Confidence
from flowprof.profiler.machine.ceilings import Ceiling

GpuBound = Literal["compute", "memory", "overhead", "inefficient", "unknown"]


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One device's time. busy + idle = span; compute + exposed communication + exposed copies = busy."""

    device: int
    name: str  # "" unknown
    span_ns: int  # from the first to the last slice of any device
    busy_ns: int  # at least one kernel, collective, copy or memset runs
    idle_ns: int
    compute_ns: int  # kernels and memsets, no collectives
    comm_ns: int  # collectives
    copy_ns: int
    exposed_comm_ns: int  # collectives while nothing computes
    exposed_copy_ns: int  # copies while neither a kernel nor a collective runs
    streams: int
    slices: int
    gaps: int
    longest_gap_ns: int
    longest_gap_at_ns: int  # since the timeline's beginning
    host_bound_ns: int  # of idle: the launch of the work that ended the gap began after the device had drained
    unknown_gap_ns: int  # of idle: that launch is not in the recording


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """Work of one operator with one set of shapes, or, where the operator is not known, of one kernel name."""

    operator: str  # "" unknown
    shape: str
    kernel: str  # the name that took most of the time
    calls: int  # of the operator; of the kernel where the operator is not known
    slices: int
    total_ns: int  # the slices' durations, summed
    share: float  # of all slices' durations
    in_graph: bool
    flops: int | None  # of all calls; None: no formula, or no shapes
    size_bytes: int | None
    flops_per_s: float | None
    bytes_per_s: float | None
    bound: GpuBound
    ceiling: str  # what the floor was taken from: "gemm bf16", "dram_read", ""
    ceiling_share: float | None  # floor / time
    headroom_ns: int | None  # time less floor, of all calls
    confidence: Confidence
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuTable:
    """All devices together: times are sums over devices."""

    devices: tuple[GpuDevice, ...]
    groups: tuple[GpuGroup, ...]  # most time first
    busy_ns: int
    idle_ns: int
    exposed_copy_ns: int
    exposed_comm_ns: int
    work_ns: int  # slices' durations, summed: more than busy where they overlap
    kernels: int  # kernels and collectives
    graph_launches: int  # calls that launched a whole graph
    graph_kernels: int  # kernels that ran inside graphs
    graph_launch_share: float | None  # graph_kernels / kernels; None: no kernels
    unattributed_ns: int  # of the slices' durations: no operator is known for them
    unattributed_share: float
    lead_in_slices: int  # launched before the recording began: not in the timeline
    lead_in_ns: int
    ceilings: tuple[Ceiling, ...]
    notes: tuple[str, ...]
