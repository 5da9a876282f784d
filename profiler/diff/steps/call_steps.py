"""The median iteration of a torch program, with its threads' calls and the GPU's work: timelines.py for calls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flowprof.profiler.diff.side import Side
from flowprof.profiler.diff.steps import torch_calls
from flowprof.profiler.store import Recording
from flowprof.profiler.timeline_calls import CallLane, CallTimeline, call_timeline

LIMIT = 1_000_000  # calls of a recording: of more the longest are kept


def median_iteration(side: Side) -> tuple[Recording, int, int, int] | None:
    """Recording, begin and end of the median iteration, and of how many it is that; None: there are none."""
    steps: list[tuple[Recording, int, int]] = []
    for recording in side.recordings:
        cut = torch_calls.cut(recording)
        if cut is not None:
            begins, ends = cut.start_ns.tolist(), cut.next_ns.tolist()
            steps += [(recording, begin, end) for begin, end in zip(begins, ends, strict=True)]
    if not steps:
        return None
    lengths = np.array([end - begin for _, begin, end in steps], float)
    chosen = int(np.argmin(np.abs(lengths - np.median(lengths))))
    return (*steps[chosen], len(steps))


def within(recording: Recording, begin_ns: int, end_ns: int) -> CallTimeline:
    """Calls and GPU work that began from `begin_ns` on and before `end_ns`, since `begin_ns`."""
    whole = call_timeline(recording, LIMIT, begin_ns)
    lanes = [_cut(lane, end_ns - begin_ns) for lane in whole.lanes]
    lanes = [lane for lane in lanes if len(lane.start_ns)]
    shown = sum(len(lane.start_ns) for lane in lanes)
    end = max((int((lane.start_ns + lane.dur_ns).max()) for lane in lanes), default=0)
    return CallTimeline(tuple(lanes), whole.kinds, end, shown, shown)


def _cut(lane: CallLane, length_ns: int) -> CallLane:
    """Without what launched each: those are numbers of items of the whole."""
    mine = (lane.start_ns >= 0) & (lane.start_ns < length_ns)
    return replace(
        lane, start_ns=lane.start_ns[mine], dur_ns=lane.dur_ns[mine], kind=lane.kind[mine], flow_lane=None,
        flow_item=None,
    )  # fmt: skip
