"""Missed overlap on imported GPU timelines: slices by resource, what could be hidden, and at what price.

Gains are those of the busiest device: others wait for it or look alike, and times of devices are not to be added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from flowprof.profiler.analyzers import gpu
from flowprof.profiler.analyzers.call_bounds import WRONG
from flowprof.profiler.analyzers.gpu_kernels import NAME_SQL, ceilings_of, counted
from flowprof.profiler.findings import in_ms
from flowprof.profiler.intervals import Ints
from flowprof.profiler.machine.ceilings import ANY, LAUNCH_NS, Ceilings
from flowprof.profiler.overlap import legality, picture, price, same_stream, timeline
from flowprof.profiler.overlap.interference import Hidden, Interference
from flowprof.profiler.overlap.legality import LATEST, Chance, Events, Waits
from flowprof.profiler.overlap.operators import LAUNCH
from flowprof.profiler.overlap.timeline import COMPUTE, COPY, MEMORY, NETWORK, OTHER, Slices
from flowprof.profiler.sections.gpu import GpuDevice
from flowprof.profiler.sections.overlap import Exposure, Overlap
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.costs import Cost

LEAST = 0.01  # of the timeline: smaller gains are not worth a word
KNOWN = 0.5  # of the busy time must be of a known class before half batches are advised
SITE_SQL = """
SELECT c.name, coalesce(p.name, (
    SELECT a.name FROM api_call a WHERE a.pid = c.pid AND a.tid = c.tid AND a.kind IN ('annotation', 'python')
    AND a.start_ns <= c.start_ns AND a.end_ns >= c.end_ns ORDER BY a.start_ns DESC, a.end_ns LIMIT 1), '')
FROM api_call c LEFT JOIN api_call p ON p.call_id = c.parent_id WHERE c.call_id = ?
"""
TRAINING_SQL = """
SELECT count(*) > 0 FROM api_call
WHERE kind IN ('operator', 'annotation') AND (starts_with(name, 'autograd::engine') OR starts_with(name, 'Optimizer.'))
"""
CHAIN = (
    "nothing in the recording shows that one of them does not need the other: only two half batches have work for two "
    "resources at a time"
)
SPREAD = np.int64(0x9E3779B97F4A7C15 - (1 << 64))  # odd and large: threads of different processes do not meet
_MEMORY_KIND = np.array([OTHER, MEMORY, NETWORK, COPY, COPY])  # as overlap_slices.sql numbers copies
Found = tuple[tuple[Exposure, ...], tuple[Overlap, ...], tuple[str, ...]]


def overlaps(recording: Recording, table: Interference) -> Found:
    """Exposed time by device; what could overlap on the busiest one; what is not advised, and why."""
    work = _Work(recording)
    devices = work.devices
    exposures = tuple(
        Exposure(one.device, one.span_ns, one.idle_ns, one.host_bound_ns, timeline.times(work.device(one.device)))
        for one in devices
    )
    busiest = max(devices, key=lambda one: one.busy_ns)
    slices = work.device(busiest.device)
    found, refused = _free(recording, work, slices, busiest, table)
    split, why = _split(recording, work, slices, busiest, table)
    return exposures, tuple(sorted((*found, *split), key=lambda one: -one.net_ns)), (*refused, *why)


class _Work:
    """All slices, what they are, and the resource that each takes."""

    def __init__(self, recording: Recording) -> None:
        self.columns = recording.columns(read_sql("overlap_slices.sql"), {"from_ns": gpu.beginning(recording)})
        columns = self.columns
        self.dur = columns["dur_ns"] = columns["end_ns"] - columns["start_ns"]
        launched = {"launch_ns": np.ma.masked_array(columns["launch_ns"], columns["launch_id"] < 0)}
        of_time = ("device", "stream", "kind", "start_ns", "dur_ns")
        self.devices = gpu.devices(recording, {name: columns[name] for name in of_time} | launched)
        rows = recording.rows(read_sql("gpu_whats.sql"))
        whats = [(str(name), torch_costs.arguments(*texts)) for name, *texts in rows]
        self.costs = [torch_costs.cost(name, args) for name, args in whats]
        ceilings, self.notes = ceilings_of(recording, [one.name for one in self.devices])
        self.call, self.what = counted(recording, columns["operator_id"], [cost is not None for cost in self.costs])
        self.floors = _floors(self.costs, ceilings)
        kernels = [str(name) for (name,) in recording.rows(NAME_SQL)]
        self.names = [name.removeprefix("aten::") for name, _ in whats] + (kernels or [""])
        operators = (self.what >= 0) & (columns["kind"] != gpu.COPY)  # a copy's own name says from where to where
        columns["name"] = np.where(operators, self.what, np.maximum(columns["name_id"], 0) + len(whats))
        columns["resource"] = self._resources()
        columns["thread"] = _thread(columns["pid"], columns["tid"])
        for name in ("tid", "operator_id", "name_id", "dur_ns"):  # with millions of slices they are large
            del columns[name]

    def device(self, number: int) -> Slices:
        """Its slices; of the only device without a copy of them."""
        rows = self.columns["device"] == number
        chosen: Any = slice(None) if rows.all() else rows
        columns = {name: np.asarray(column)[chosen] for name, column in self.columns.items()}
        copies = columns["kind"] == gpu.COPY  # of a graph's nodes one launch says nothing: its edges order them
        return Slices(
            start=columns["start_ns"], end=columns["end_ns"], resource=columns["resource"], stream=columns["stream"],
            name=columns["name"], launch=np.where(columns["in_graph"], -1, columns["launch_id"]),
            launch_ns=columns["launch_ns"], launched_ns=columns["launched_ns"], thread=columns["thread"],
            to_device=copies & (columns["memory_kind"] == 3), to_host=copies & (columns["memory_kind"] == 4),
            pageable=columns["pageable"], process=columns["pid"], flag=columns["flag"],
        )  # fmt: skip

    def _resources(self) -> Ints:
        columns = self.columns
        kind = columns["kind"]
        found = np.full(len(kind), OTHER, np.int64)
        found[kind == gpu.COLLECTIVE] = NETWORK
        copies = kind == gpu.COPY
        found[copies] = _MEMORY_KIND[columns["memory_kind"][copies]]
        found[kind == gpu.MEMSET] = MEMORY
        kernels = (kind == gpu.KERNEL) & (self.what >= 0)
        if kernels.any():
            found[kernels] = self._classes(kernels)[self.what[kernels]]
        short = self.dur < 2 * LAUNCH_NS
        found[short & np.isin(found, (COMPUTE, MEMORY))] = OTHER
        return found

    def _classes(self, kernels: Any) -> Ints:
        """By operator: the resource of its floor; OTHER where the time is far from the floor, or below it."""
        what, count = self.what[kernels], len(self.costs)
        total = np.bincount(what, self.dur[kernels], count)
        _, first = np.unique(self.call[kernels], return_index=True)
        calls = np.bincount(what[first], minlength=count)
        arithmetic, weights, rest = self.floors
        floor = np.maximum(arithmetic, weights + rest) * calls
        with np.errstate(divide="ignore", invalid="ignore"):
            reached = np.where(total > 0, floor / total, 0.0)
        known = (reached >= 1 / LAUNCH) & (reached <= WRONG)
        return np.where(known, np.where(arithmetic > weights + rest, COMPUTE, MEMORY), OTHER)

    def gemms(self, number: int) -> list[tuple[float, float, float]]:
        """What price.split_cost asks for, of a device's operators with weights, in seconds: the term that bounds an
        operator takes its time, the other one its floor."""
        rows = (self.columns["device"] == number) & np.isin(self.columns["resource"], (COMPUTE, MEMORY))
        rows &= self.what >= 0
        what = self.what[rows]
        total = np.bincount(what, self.dur[rows], len(self.costs)) / 1e9
        _, first = np.unique(self.call[rows], return_index=True)
        calls = np.bincount(what[first], minlength=len(self.costs)) / 1e9
        found = []
        for one in np.flatnonzero((calls > 0) & (self.floors[1] > 0)).tolist():
            arithmetic, weights, rest = (float(floor[one] * calls[one]) for floor in self.floors)
            if arithmetic > weights + rest:
                found.append((float(total[one]), weights, rest))
            else:
                slower = float(total[one]) / (weights + rest)
                found.append((arithmetic, weights * slower, rest * slower))
        return found

    def top(self, slices: Slices, *resources: int) -> str:
        """Name of the work of these resources that takes most time."""
        rows = slices.of(*resources)
        if not rows.any():
            return ""
        return self.names[int(np.bincount(slices.name[rows], (slices.end - slices.start)[rows]).argmax())]


def _thread(pid: Any, tid: Any) -> Ints:
    """One number for a process and a thread of it."""
    with np.errstate(over="ignore"):
        return np.asarray(pid, np.int64) * SPREAD + np.asarray(tid, np.int64)


def _floors(costs: Sequence[Cost | None], ceilings: Ceilings | None) -> tuple[Any, Any, Any]:
    """ns that each operator's arithmetic, weights and other bytes take at least; 0 where that is not known."""
    arithmetic, weights, rest = np.zeros((3, len(costs)))
    memory = ceilings.get("dram_read", ANY) if ceilings else None
    for number, cost in enumerate(costs):
        peak = ceilings.get("gemm", ANY, cost.path) if ceilings and cost and cost.path else None
        if cost is None or memory is None or (cost.path and peak is None):
            continue
        arithmetic[number] = cost.flops / peak.value * 1e9 if peak else 0.0
        weights[number] = cost.weight_bytes / memory.value * 1e9
        rest[number] = (cost.size_bytes - cost.weight_bytes) / memory.value * 1e9
    return arithmetic, weights, rest


# ---------------------------------------------------------------------- only with half batches


def _split(
    recording: Recording, work: _Work, slices: Slices, device: GpuDevice, table: Interference
) -> tuple[tuple[Overlap, ...], tuple[str, ...]]:
    other = slices.length(slices.of(OTHER))
    if other > (1 - KNOWN) * device.busy_ns:
        share = f"{other / device.busy_ns * 100:.0f} %"
        return (), (*work.notes, f"half batches: the resource is not known for {share} of the busy time")
    room, hidden = timeline.split(slices)
    arithmetic, memory = slices.length(slices.of(COMPUTE)), slices.length(slices.of(MEMORY))
    if not arithmetic:
        return (), ("half batches: no operator is bound by arithmetic, so there is nothing to hide behind",)
    if memory > arithmetic:
        return (), (
            f"half batches: memory's work takes {memory / arithmetic:.1f} times as long as arithmetic; memory is the "
            "scarce resource, and half batches would read the weights twice",
        )
    if recording.rows(TRAINING_SQL)[0][0]:
        return (), ("half batches: the recording trains; gradients and optimiser steps do not shrink with the batch",)
    if not any(hidden.values()):
        return (), ("half batches: neither memory's nor the network's work is exposed",)
    gemms = work.gemms(device.device)
    saving = price.saving(
        room / 1e9, {kind: ns / 1e9 for kind, ns in hidden.items()}, table, price.split_cost(gemms)
    )  # fmt: skip
    if saving.net_s * 1e9 < LEAST * device.span_ns:
        return (), (f"half batches: would gain {in_ms(saving.net_s * 1e9)} of {in_ms(device.span_ns)}",)
    numbers: dict[Hidden, int] = {"memory": MEMORY, "network": NETWORK}
    parts = [f"{kind} ({work.top(slices, numbers[kind])})" for kind in saving.kinds]
    behind = work.top(slices, COMPUTE)
    return (
        Overlap(
            kind="split-only", what=f"{' and '.join(parts)} behind arithmetic ({behind})",
            culprit="one operator after the other", device=device.device, count=1,
            exposed_ns=sum(hidden.values()), room_ns=room, ideal_ns=round(saving.ideal_s * 1e9),
            aware_ns=round(saving.aware_s * 1e9), split_ns=round(saving.split_s * 1e9),
            net_ns=round(saving.net_s * 1e9), share=saving.net_s * 1e9 / device.span_ns, base_ns=device.span_ns,
            reason=CHAIN, confidence="low",
            evidence=(
                *(f"{kind}: {in_ms(hidden[kind])} exposed" for kind in saving.kinds),
                f"{in_ms(room)} of arithmetic had nothing beside it",
                *(("taken for granted: collectives move activations, half as many for half a batch",)
                  if hidden["network"] else ()),
                f"splitting in two costs {in_ms(saving.split_s * 1e9)} by the operators' shapes",
            ),
            picture=picture.halves(slices, work.names, saving.split_s * 1e9 / arithmetic, table),
        ),
    ), ()  # fmt: skip


# ---------------------------------------------------------------------- free


def _free(
    recording: Recording, work: _Work, slices: Slices, device: GpuDevice, table: Interference
) -> tuple[list[Overlap], tuple[str, ...]]:
    chances, refused = legality.held_up(slices, _waits(recording))
    found = []
    for chance in (*same_stream.chances(slices), *chances):
        if min(chance.hidden_ns, chance.room_ns) >= LEAST * device.span_ns:
            saving = price.saving(chance.room_ns / 1e9, {chance.kind: chance.hidden_ns / 1e9}, table)
            if saving.net_s * 1e9 >= LEAST * device.span_ns:
                found.append(_overlap(recording, work, device, chance, saving, table))
                continue
        refused[f"{chance.culprit}: would gain less than {LEAST * 100:.0f} %"] += chance.count
    return found, _counted(refused)


def _overlap(
    recording: Recording, work: _Work, device: GpuDevice, chance: Chance, saving: price.Saving, table: Interference
) -> Overlap:
    hidden, room = work.names[chance.hidden], work.names[chance.room]
    hidden_ns, room_ns = chance.longest
    called, site = "", ""
    if chance.call >= 0:
        ((called, site),) = recording.rows(SITE_SQL, [chance.call])
    culprit = chance.culprit if not called else f"{called} in {site}" if site else str(called)
    return Overlap(
        kind="free", what=f"{hidden} beside {room}", culprit=culprit, device=device.device, count=chance.count,
        exposed_ns=chance.hidden_ns, room_ns=chance.room_ns, ideal_ns=round(saving.ideal_s * 1e9),
        aware_ns=round(saving.aware_s * 1e9), split_ns=0, net_ns=round(saving.net_s * 1e9),
        share=saving.net_s * 1e9 / device.span_ns, base_ns=device.span_ns,
        reason=f"{chance.culprit}: {chance.reason}", confidence=chance.confidence,
        evidence=(
            f"{chance.count} places; in the one with most to gain {in_ms(hidden_ns)} beside {in_ms(room_ns)}",
            f"serialised by: {culprit}",
        ),
        picture=picture.pair(chance.kind, (hidden, hidden_ns), (room, room_ns), table),
    )  # fmt: skip


def _waits(recording: Recording) -> Waits:
    rows = recording.columns(read_sql("overlap_waits.sql"))
    thread, event = _thread(rows["pid"], rows["tid"]), np.asarray(rows["event"], bool)
    whole = np.asarray(rows["whole"], bool)
    start, end, call = (np.asarray(rows[name], np.int64) for name in ("start_ns", "end_ns", "call_id"))
    process, waiting, awaited = (np.asarray(rows[name], np.int64) for name in ("pid", "waiting", "awaited"))
    recorded = np.ma.filled(np.ma.asarray(rows["recorded_ns"]), LATEST).astype(np.int64)
    return Waits(
        start[~event], end[~event], thread[~event], process[~event], call[~event], whole[~event], awaited[~event],
        Events(start[event], thread[event], process[event], waiting[event], awaited[event], recorded[event]),
    )  # fmt: skip


def _counted(refused: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} {'place' if count == 1 else 'places'}: {why}" for why, count in refused.most_common(6))
