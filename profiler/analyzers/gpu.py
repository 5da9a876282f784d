"""The GPU's time as its own profiler recorded it: busy, idle, exposed copies and communication; what its kernels reach.

Where a recording holds GPU work (an import), per device, over the time from the first to the last slice of any device:

    busy           the union of kernels, collectives, copies and memsets of all streams;  idle = span - busy
    compute        the union of kernels and memsets;  collectives are kernels by name (nccl, rccl, custom all-reduces)
    exposed comm   collectives while nothing computes
    exposed copy   copies while neither a kernel nor a collective runs

as TraceLens (AMD) defines them. Work before the first launch that the trace holds is left out of Kineto traces, whose
profiler switches the GPU's side on before the host's: it belongs to the step before, and how much it is is stated.

Launches: a kernel in a graph has no launch and no operator of its own. `graph_launch_share` is the kernels that ran
inside graphs, over all kernels. Time of work without a known operator is stated as unattributed.

* `gpu.idle`: nothing ran for 10 % of the span or more. Where the next work was launched late the host is too slow:
  larger batches, CUDA graphs, fewer synchronisations; else look at the order of streams and events at the longest gap.
* `gpu.exposed_comm`: collectives ran alone for 10 % of the span or more. Overlap them with computation.
* `gpu.exposed_copy`: copies ran alone for 10 % of the span or more. Copy from pinned memory, on a stream of its own,
  ahead of the kernels that need it.
* `gpu.inefficient`: kernels far below both ceilings take 10 % of the work or more (gpu_kernels.py). Another kernel or
  layout would gain most; element by element operators gain from fusion.
* `gpu.overhead`: kernels too short for the device take 10 % of the work or more. Fuse them, or launch them in a graph.
* `gpu.unattributed`: half of the work or more has no operator. Record a step without graphs, or the graph's capture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers import gpu_kernels
from flowprof.profiler.analyzers.contract import Analyzer, Need, Result, once
from flowprof.profiler.analyzers.gpu_findings import findings
from flowprof.profiler.sections.gpu import GpuDevice, GpuTable
from flowprof.profiler.store import Recording, read_sql

GPU = Need(
    "SELECT count(*) > 0 FROM gpu_slice WHERE kind NOT IN ('sync', 'annotation')",
    "GPU execution not observed; record it with torch.profiler or nsys, then: flowprof import FILE",
)
KERNEL, COLLECTIVE, COPY, MEMSET, GRAPH = range(5)  # as gpu_slices.sql numbers the kinds
DEVICE_SQL = "SELECT device, coalesce(name, '') FROM gpu_device"
LAUNCH_SQL = "SELECT count(*) FROM api_call WHERE kind IN ('runtime', 'driver') AND contains(name, 'GraphLaunch')"
LEAD_IN_SQL = "SELECT count(*), coalesce(sum(dur_ns), 0) FROM gpu_work WHERE start_ns < $from_ns"
BEGINNING = -(1 << 62)


@once
def table(recording: Recording) -> GpuTable:
    from_ns = beginning(recording)
    slices = recording.columns(read_sql("gpu_slices.sql"), {"from_ns": from_ns})
    lead_in, lead_in_ns = recording.rows(LEAD_IN_SQL, {"from_ns": from_ns})[0]
    found = devices(recording, slices)
    groups, unattributed_ns, ceilings, notes = gpu_kernels.groups(recording, slices, found)
    work_ns = int(slices["dur_ns"].sum())
    kernels = (slices["kind"] == KERNEL) | (slices["kind"] == COLLECTIVE)
    inside = kernels & slices["in_graph"]
    whole = int((slices["kind"] == GRAPH).sum())
    if whole:
        notes = (*notes, f"{whole} graphs were traced as a whole: the kernels in them were not seen")
    return GpuTable(
        devices=found,
        groups=groups,
        busy_ns=sum(one.busy_ns for one in found),
        idle_ns=sum(one.idle_ns for one in found),
        exposed_copy_ns=sum(one.exposed_copy_ns for one in found),
        exposed_comm_ns=sum(one.exposed_comm_ns for one in found),
        work_ns=work_ns,
        kernels=int(kernels.sum()),
        graph_launches=max(recording.rows(LAUNCH_SQL)[0][0], whole),
        graph_kernels=int(inside.sum()),
        graph_launch_share=float(inside.sum() / kernels.sum()) if kernels.any() else None,
        unattributed_ns=unattributed_ns,
        unattributed_share=unattributed_ns / work_ns if work_ns else 0.0,
        lead_in_slices=lead_in,
        lead_in_ns=int(lead_in_ns),
        ceilings=ceilings,
        notes=notes,
    )


def devices(recording: Recording, slices: dict[str, Any]) -> tuple[GpuDevice, ...]:
    """Each device's time; `slices`: device, stream, kind, start_ns, dur_ns, launch_ns (masked), sorted by start."""
    names = dict(recording.rows(DEVICE_SQL))
    begin, stop = int(slices["start_ns"].min()), int((slices["start_ns"] + slices["dur_ns"]).max())
    return tuple(
        _device(one, str(names.get(one, "")), {key: part[slices["device"] == one] for key, part in slices.items()},
                begin, stop)
        for one in np.unique(slices["device"]).tolist()
    )  # fmt: skip


def beginning(recording: Recording) -> int:
    """From when on GPU work counts, ns."""
    said = recording.meta().get("gpu_from_ns", "")
    return int(said) if said.lstrip("-").isdigit() else BEGINNING


def _device(number: int, name: str, slices: dict[str, Any], begin: int, stop: int) -> GpuDevice:
    start, end, kind = slices["start_ns"], slices["start_ns"] + slices["dur_ns"], slices["kind"]
    computes = (kind != COLLECTIVE) & (kind != COPY)
    of = {what: kind == what for what in (COLLECTIVE, COPY)}
    busy_start, busy_end = intervals.union(start, end)
    busy = int((busy_end - busy_start).sum())
    compute = intervals.length(start[computes], end[computes])
    with_comm = intervals.length(start[computes | of[COLLECTIVE]], end[computes | of[COLLECTIVE]])
    gap_start = np.concatenate(([begin], busy_end))
    gap_end = np.concatenate((busy_start, [stop]))
    gap = gap_end - gap_start
    longest = int(gap.argmax())
    late, unknown = _launched_late(slices, busy_start, gap_start)
    return GpuDevice(
        device=number,
        name=name,
        span_ns=stop - begin,
        busy_ns=busy,
        idle_ns=stop - begin - busy,
        compute_ns=compute,
        comm_ns=intervals.length(start[of[COLLECTIVE]], end[of[COLLECTIVE]]),
        copy_ns=intervals.length(start[of[COPY]], end[of[COPY]]),
        exposed_comm_ns=with_comm - compute,
        exposed_copy_ns=busy - with_comm,
        streams=len(np.unique(slices["stream"])),
        slices=len(start),
        gaps=int((gap > 0).sum()),
        longest_gap_ns=int(gap[longest]),
        longest_gap_at_ns=int(gap_start[longest]) - begin,
        host_bound_ns=int(gap[:-1][late].sum()),
        unknown_gap_ns=int(gap[:-1][unknown].sum()),
    )


def _launched_late(slices: dict[str, Any], busy_start: Any, gap_start: Any) -> tuple[Any, Any]:
    """Per stretch of work, whether its first slice was launched after the device had drained, and whether that is
    not known."""
    first = np.searchsorted(slices["start_ns"], busy_start)  # slices are sorted by start
    launched = np.ma.masked_array(slices["launch_ns"])[first]
    unknown = np.ma.getmaskarray(launched)
    return ~unknown & (launched.filled(0) > gap_start[:-1]), unknown


def analyze(recording: Recording) -> Result:
    found = table(recording)
    return Result(found, findings(found))


ANALYZER = Analyzer("gpu", "GPU", (GPU,), analyze)
