"""The timeline as one compressed block of bytes for the HTML page, with a small description of what lies where.

Per lane, lengths in items: starts and durations are unsigned 32-bit counts of `unit` nanoseconds, starts as gaps from
the end of the item before (longer gaps are in `jumps`: [item, units]). Every array is stored as byte planes (all lowest
bytes, then all second bytes, …), which compresses three times better than whole numbers do. js/lanes.js unpacks it.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
from flowprof.profiler.timeline import STATES, GraphLane, OperatorLane, Other, StateLane, Timeline
from flowprof.profiler.timeline_calls import NO_LANE, CallLane
from flowprof.viewers.quantity import clean

MAX_U32 = 2**32 - 1
BLOCKS = ("attention", "ffn", "moe", "output", "other", "products", "copies", "collectives", "launches", "waits",
          "allocation", "API calls")  # fmt: skip
PHASES = ("prefill", "decode", "mixed", "other")
UNKNOWN_COMPUTE = 255


def pack(timeline: Timeline) -> tuple[dict[str, Any], str]:
    """The description (for JSON) and the arrays (gzip, base64)."""
    unit = _unit(timeline)
    store = _Bytes()
    lanes = [_graph_lane(lane, timeline, unit, store) for lane in timeline.graphs]
    lanes += [_operator_lane(lane, unit, store) for lane in timeline.operators]
    lanes += [_state_lane(lane, unit, store) for lane in timeline.states]
    first_lane, first_kind = len(lanes), len(timeline.kinds)
    lanes += [_call_lane(lane, first_lane, first_kind, unit, store) for lane in timeline.calls.lanes]
    levels = sorted(set(timeline.window_level))
    description = {
        "unit": unit,
        "end": timeline.end_ns,
        "blocks": BLOCKS,
        "phases": PHASES,
        "states": STATES,
        "others": [_other(other) for other in timeline.others],
        "kinds": [
            [
                clean(kind.op, 60),
                clean(kind.name, 120),
                BLOCKS.index(kind.block if kind.block in BLOCKS else "other"),
                kind.layer,
                clean(kind.type, 20),
                clean(kind.shape, 60),
            ]
            for kind in timeline.kinds
        ]
        + [
            [kind.what, clean(kind.name, 160), BLOCKS.index(kind.block), None, "", clean(kind.shape, 160)]
            for kind in timeline.calls.kinds
        ],
        "lanes": lanes,
        "levels": levels,
        "windows": [
            [levels.index(level), int(start), int(end)]
            for level, start, end in zip(
                timeline.window_level, timeline.window_start_ns, timeline.window_end_ns, strict=True
            )
        ],
        "size": store.size,
    }
    return description, compress(store.joined())


def compress(data: bytes) -> str:
    """gzip, then base64: text that is safe inside a script element."""
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode("ascii")


class _Bytes:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, array: np.ndarray) -> list[int]:
        """Append the array as byte planes; returns [offset, items, bytes per item]."""
        width = array.dtype.itemsize
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        planes = little.view(np.uint8).reshape(-1, width).T.tobytes()
        place = [self.size, len(array), width]
        self.parts.append(planes)
        self.size += len(planes)
        return place

    def joined(self) -> bytes:
        return b"".join(self.parts)


def _unit(timeline: Timeline) -> int:
    lanes: list[GraphLane | OperatorLane | StateLane] = [*timeline.graphs, *timeline.operators, *timeline.states]
    durations = [lane.dur_ns for lane in lanes] + [lane.dur_ns for lane in timeline.calls.lanes]
    longest = max((int(duration.max(initial=0)) for duration in durations), default=0)
    unit = 1
    while longest / unit > MAX_U32:
        unit *= 10
    return unit


def _times(start_ns: np.ndarray, dur_ns: np.ndarray, unit: int, store: _Bytes) -> dict[str, Any]:
    start = start_ns // unit
    end = (start_ns + dur_ns) // unit
    # What overlaps (it should not, in one lane) is drawn from the end of the item before it.
    before = np.concatenate(([0], np.maximum.accumulate(end)[:-1])) if len(end) else end
    start = np.maximum(start, before)
    end = np.maximum(end, start)
    gap = start - before
    far = np.flatnonzero(gap > MAX_U32)
    jumps = [[int(item), int(gap[item])] for item in far]
    gap[far] = 0
    return {
        "gap": store.add(gap.astype(np.uint32)),
        "dur": store.add((end - start).astype(np.uint32)),
        "jumps": jumps,
    }


def _graph_lane(lane: GraphLane, timeline: Timeline, unit: int, store: _Bytes) -> dict[str, Any]:
    phases = np.array(
        [PHASES.index(phase if phase in PHASES else "other") for phase in timeline.phases], dtype=np.uint8
    )
    return {
        "type": "graphs",
        "label": f"graphs · pid {lane.pid}",
        **_times(lane.start_ns, lane.dur_ns, unit, store),
        "kind": store.add(phases[lane.phase] if len(phases) else lane.phase),
        "tokens": store.add(lane.tokens),
    }


def _operator_lane(lane: OperatorLane, unit: int, store: _Bytes) -> dict[str, Any]:
    compute = np.full(len(lane.kind), UNKNOWN_COMPUTE, dtype=np.uint8)
    known = (lane.compute_ns >= 0) & (lane.dur_ns > 0)
    share = lane.compute_ns[known] / lane.dur_ns[known]
    compute[known] = np.rint(share.clip(0, 1) * (UNKNOWN_COMPUTE - 1)).astype(np.uint8)
    return {
        "type": "operators",
        "thread": f"{lane.pid}/{lane.tid}/{lane.ith}",
        "label": _thread(lane),
        **_times(lane.start_ns, lane.dur_ns, unit, store),
        "kind": store.add(_narrow(lane.kind)),
        "compute": store.add(compute),
    }


def _state_lane(lane: StateLane, unit: int, store: _Bytes) -> dict[str, Any]:
    return {
        "type": "states",
        "thread": f"{lane.pid}/{lane.tid}/{lane.ith}",
        "label": _thread(lane),
        **_times(lane.start_ns, lane.dur_ns, unit, store),
        "kind": store.add(lane.state),
        "by": store.add(_narrow(lane.by)),
    }


def _call_lane(lane: CallLane, first_lane: int, first_kind: int, unit: int, store: _Bytes) -> dict[str, Any]:
    """Depths of a thread stand close together; a flow leads to an item of another lane."""
    packed = {
        "type": "operators",
        "label": clean(lane.label, 60),
        "under": lane.depth > 0,
        **_times(lane.start_ns, lane.dur_ns, unit, store),
        "kind": store.add(_narrow(lane.kind + np.uint32(first_kind))),
        "compute": store.add(np.full(len(lane.kind), UNKNOWN_COMPUTE, dtype=np.uint8)),
    }
    if lane.flow_lane is not None and lane.flow_item is not None:
        known = lane.flow_lane < NO_LANE - first_lane
        packed["flow_lane"] = store.add(np.where(known, lane.flow_lane + first_lane, NO_LANE).astype(np.uint16))
        packed["flow_item"] = store.add(lane.flow_item)
    return packed


def _thread(lane: OperatorLane | StateLane) -> str:
    name = f" · {clean(lane.comm, 20)}" if lane.comm else ""
    return f"thread {lane.ith}{name} · tid {lane.tid}"


def _other(other: Other) -> str:
    if other.tid is None:
        return ""
    if other.tid == 0:
        return "an interrupt"
    name = f"{clean(other.comm, 40)} ({other.tid})" if other.comm else f"a thread that is gone ({other.tid})"
    return name if other.ith is None else f"thread {other.ith} of the pool, {name}"


def _narrow(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.uint16 if len(numbers) == 0 or int(numbers.max()) < 2**16 else np.uint32)
