"""The timeline's lanes of calls and of GPU work: operators and API functions by thread and depth, slices by stream.

Of more than `limit` calls, or slices, the longest are kept. Threads and streams with most time come first, MAX_THREADS
and MAX_STREAMS of them; calls deeper than MAX_DEPTH are left out. Where it is known which call launched a slice
(gpu_work), the lane says which item of which lane that is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.sections.cuda_host import stream_name
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs
from numpy.typing import NDArray

MAX_THREADS, MAX_DEPTH, MAX_STREAMS = 12, 8, 32
NO_LANE = 65_535
THREAD_SQL = "SELECT pid, tid, any_value(coalesce(comm, '')) FROM thread GROUP BY pid, tid"
_CLASSES = (  # what a name shows of a call, first match
    ("collectives", re.compile(r"c10d::|nccl|all_?reduce|all_?gather|reduce_?scatter", re.I)),
    ("attention", re.compile(r"attention|attn|fmha|flash", re.I)),
    ("products", re.compile(r"gemm|gemv|matmul|linear|conv|addmm|_mm|::b?mm\b|baddbmm|cutlass|cublas|nvjet", re.I)),
    ("copies", re.compile(r"copy|clone|contiguous|memcpy|memset|::to\b|::cat\b", re.I)),
)
_CALLS = (  # likewise of a function of CUDA's
    ("launches", re.compile(r"Launch")),
    ("waits", re.compile(r"Synchronize")),
    ("copies", re.compile(r"Memcpy|Memset")),
    ("allocation", re.compile(r"Malloc|MemAlloc|HostAlloc|Free|HostRegister|HostUnregister")),
)
_WHATS = {"operator": "PyTorch operator", "collective": "collective"}

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CallKind:
    """What a call or a slice is. block: its class, for the colour."""

    what: str  # "PyTorch operator", "API call", "kernel", "copy" …
    name: str
    block: str
    shape: str  # of an operator's arguments; of a call of CUDA's what it is about


@dataclass(frozen=True, slots=True, eq=False)
class CallLane:
    """Calls of one thread at one depth, or one stream's slices, by start. Arrays of one length; times since origin."""

    label: str
    depth: int
    start_ns: Ints
    dur_ns: Ints
    kind: NDArray[np.uint32]  # index into CallTimeline.kinds
    flow_lane: NDArray[np.uint16] | None  # slices: lane of the call that launched each; NO_LANE: not known
    flow_item: NDArray[np.uint32] | None


@dataclass(frozen=True, slots=True, eq=False)
class CallTimeline:
    """Lanes with all calls and slices that are kept."""

    lanes: tuple[CallLane, ...]
    kinds: tuple[CallKind, ...]
    end_ns: int  # since time 0
    total: int  # calls and slices
    shown: int


def call_timeline(recording: Recording, limit: int, origin_ns: int) -> CallTimeline:
    """Lanes of calls and GPU work. origin_ns: time 0."""
    calls = recording.columns(read_sql("timeline_calls.sql"), {"limit": limit})
    slices = recording.columns(read_sql("timeline_slices.sql"), {"limit": limit})
    if not len(calls["start_ns"]) and not len(slices["start_ns"]):
        return CallTimeline((), (), 0, 0, 0)
    kinds = [
        CallKind(_WHATS.get(kind, "API call"), str(name), _block(str(kind), str(name)),
                 _about(*about) or torch_costs.shown(str(name), torch_costs.arguments(dims, types, scalars)))
        for kind, name, *about, dims, types, scalars in recording.rows(read_sql("timeline_call_whats.sql"))
    ]  # fmt: skip
    of_slices = [
        CallKind(str(kind), str(name), _block(str(kind), str(name)), "")
        for kind, name in recording.rows(read_sql("timeline_slice_whats.sql"))
    ]
    names = {(pid, tid): str(comm) for pid, tid, comm in recording.rows(THREAD_SQL)}
    lanes, launched = _threads(calls, names, origin_ns)
    lanes += _streams(slices, len(kinds), launched, origin_ns)
    ends = [int(np.asarray(part["end_ns"]).max()) for part in (calls, slices) if len(part["end_ns"])]
    totals = [int(part["total"][0]) for part in (calls, slices) if len(part["total"])]
    shown = sum(len(lane.start_ns) for lane in lanes)
    return CallTimeline(tuple(lanes), (*kinds, *of_slices), max(ends) - origin_ns, sum(totals), shown)


def _block(kind: str, name: str) -> str:
    if kind in ("nccl", "collective"):
        return "collectives"
    of_api = kind in ("runtime", "driver")
    found = (block for block, pattern in (_CALLS if of_api else _CLASSES) if pattern.search(name))
    return next(found, "API calls" if of_api else "other")


def _about(kernel: str | None, direction: str | None, host_memory: str | None, stream: int | None) -> str:
    """What a call of CUDA's is about; "" for others, and where it was not recorded."""
    parts = [kernel, direction, host_memory, None if stream is None else f"stream {stream_name(stream)}"]
    return " · ".join(part for part in parts if part)


def _thread(process: int, thread: int, comm: str, several: bool) -> str:
    own = f"process {process} · " if several and process != thread else ""
    return f"calls · {own}thread {thread} {comm}".strip()


def _threads(
    calls: dict[str, np.ndarray], names: dict[tuple[int, int], str], origin: int
) -> tuple[list[CallLane], tuple[Ints, Ints, Ints]]:
    """Lanes, and of every call in them: its number, its lane and its place there, by number."""
    pid, tid, depth, start, end, what, number_of = (
        np.asarray(calls[name], np.int64) for name in ("pid", "tid", "depth", "start_ns", "end_ns", "what", "call_id")
    )
    lanes: list[CallLane] = []
    found: list[tuple[Ints, Ints, Ints]] = []
    threads, thread_of = np.unique(np.stack([pid, tid]), axis=1, return_inverse=True)
    busy = np.bincount(thread_of.ravel(), weights=(end - start) * (depth == 0), minlength=threads.shape[1])
    several = len(np.unique(threads[0])) > 1
    for number in np.argsort(-busy, kind="stable")[:MAX_THREADS].tolist():
        process, thread = (int(value) for value in threads[:, number])
        comm = names.get((process, thread), "")
        for level in range(MAX_DEPTH):
            mine = np.flatnonzero((thread_of.ravel() == number) & (depth == level))
            if not len(mine):
                continue
            found.append((number_of[mine], np.full(len(mine), len(lanes), np.int64), np.arange(len(mine))))
            lanes.append(CallLane(_thread(process, thread, comm, several), level, start[mine] - origin,
                                  end[mine] - start[mine], what[mine].astype(np.uint32), None, None))  # fmt: skip
    if not found:
        return lanes, (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    joined = [np.concatenate([part[place] for part in found]) for place in range(3)]
    order = np.argsort(joined[0], kind="stable")
    return lanes, (joined[0][order], joined[1][order], joined[2][order])


def _streams(slices: dict[str, np.ndarray], first_kind: int, launched: Sequence[Ints], origin: int) -> list[CallLane]:
    device, stream, start, end, what, launch = (
        np.asarray(slices[name], np.int64) for name in ("device", "stream", "start_ns", "end_ns", "what", "launch")
    )
    numbers, lane_of, item_of = launched
    streams, stream_of = np.unique(np.stack([device, stream]), axis=1, return_inverse=True)
    busy = np.bincount(stream_of.ravel(), weights=end - start, minlength=streams.shape[1])
    lanes = []
    for number in np.sort(np.argsort(-busy, kind="stable")[:MAX_STREAMS]).tolist():
        mine = np.flatnonzero(stream_of.ravel() == number)
        flow_lane = np.full(len(mine), NO_LANE, np.uint16)
        flow_item = np.zeros(len(mine), np.uint32)
        if len(numbers):
            at = np.minimum(np.searchsorted(numbers, launch[mine]), len(numbers) - 1)
            known = (numbers[at] == launch[mine]) & (lane_of[at] < NO_LANE)
            flow_lane[known], flow_item[known] = lane_of[at[known]], item_of[at[known]]
        lanes.append(CallLane(f"GPU {int(streams[0, number])} · stream {int(streams[1, number])}", 0,
                              start[mine] - origin, end[mine] - start[mine],
                              (what[mine] + first_kind).astype(np.uint32), flow_lane, flow_item))  # fmt: skip
    return lanes
