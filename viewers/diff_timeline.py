"""The representative steps of both sides as one timeline: a's lanes above b's, both from the step's begin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from flowprof.profiler.diff.timelines import RepresentativeStep, StepPair
from flowprof.profiler.timeline import GraphLane, Kind, OperatorLane, Timeline
from flowprof.profiler.timeline_calls import CallKind, CallLane, CallTimeline
from flowprof.viewers.packing import pack
from flowprof.viewers.quantity import clean, count, duration

SIDES = ("before", "after")


def packed(pair: StepPair) -> tuple[dict[str, Any], str]:
    """The description and the arrays that js/timeline.js reads."""
    known = [(side, step) for side, step in enumerate((pair.a, pair.b)) if step is not None]
    kinds: list[Kind] = []
    call_kinds: list[CallKind] = []
    graphs = [(side, SIDES[side], _graph(step)) for side, step in known if step.level]
    operators, calls = [], []
    for side, step in known:
        for lane in step.lanes:
            name = f"{SIDES[side]} · thread {lane.ith}{f' · {clean(lane.comm, 20)}' if lane.comm else ''}"
            operators.append((side, name, replace(lane, kind=lane.kind + np.uint32(len(kinds)))))
        for call in step.calls.lanes:
            name = f"{SIDES[side]} · {clean(call.label, 60)}"
            calls.append((side, name, replace(call, kind=call.kind + np.uint32(len(call_kinds)))))
        kinds += step.kinds
        call_kinds += step.calls.kinds
    timeline = _timeline(
        pair.phase, kinds, [lane for *_, lane in graphs], [lane for *_, lane in operators],
        CallTimeline(tuple(lane for *_, lane in calls), tuple(call_kinds), 0, 0, 0),
    )  # fmt: skip
    description, arrays = pack(timeline)
    placed = []
    for (side, name), lane in zip(
        [one[:2] for one in (*graphs, *operators, *calls)], description["lanes"], strict=True
    ):
        placed.append((side, {**lane, "label": name}))
    description["lanes"] = [lane for _, lane in sorted(placed, key=lambda one: one[0])]  # stable: b's after a's
    return description, arrays


def sentence(pair: StepPair) -> str:
    """Which steps they are."""
    return "; ".join(_said(side, step) for side, step in zip(SIDES, (pair.a, pair.b), strict=True)) + "."


def _said(side: str, step: RepresentativeStep | None) -> str:
    if step is None:
        return f"{side}: no step with operators was recorded"
    if not step.level:
        return f"{side}: {duration(step.dur_ns)}, the median of {count(step.alike)} iterations ({clean(step.file, 60)})"
    tokens = f"{count(step.tokens)} token{'s' * (step.tokens != 1)}"
    return (
        f"{side}: {duration(step.dur_ns)} for {tokens}, the median of {count(step.alike)} such step"
        f"{'s' * (step.alike != 1)} at {step.level} level ({clean(step.file, 60)})"
    )


def _graph(step: RepresentativeStep) -> GraphLane:
    def one(value: int, kind: type) -> np.ndarray:
        return np.array([value], dtype=kind)

    tokens = min(step.tokens, 2**32 - 1)
    return GraphLane(0, one(0, np.int64), one(step.dur_ns, np.int64), one(0, np.uint8), one(tokens, np.uint32))


def _timeline(
    phase: str, kinds: list[Kind], graphs: list[GraphLane], operators: list[OperatorLane], calls: CallTimeline
) -> Timeline:
    lanes: list[GraphLane | OperatorLane | CallLane] = [*graphs, *operators, *calls.lanes]
    ends = [int((lane.start_ns + lane.dur_ns).max(initial=0)) for lane in lanes]
    shown = sum(len(lane.kind) for lane in operators)
    nothing = np.zeros(0, dtype=np.int64)
    return Timeline(
        origin_ns=0, end_ns=max(ends, default=0), phases=(phase,), kinds=tuple(kinds), graphs=tuple(graphs),
        operators=tuple(operators), states=(), others=(), calls=calls, window_level=(), window_start_ns=nothing,
        window_end_ns=nothing, operators_total=shown, operators_shown=shown, every=1, graphs_total=len(graphs),
        graphs_shown=len(graphs), states_total=0, states_shown=0,
    )  # fmt: skip
