"""The differential flame graph's data for js/flame.js: phase → block → operator → tensor → layer.

Every frame has the time of both sides (ns per token) and is as wide as the larger of the two, an inner frame as wide as
its parts together: so what vanished keeps its place (in a graph of one side it would have no width). `changed` is the
part of the difference that is no noise; it gives the colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from flowprof.profiler.diff.result import Diff, Row
from flowprof.viewers.quantity import clean

NAME = 80
MAX_LAYERS = 20_000  # frames of layers, 1 MB of the page


@dataclass(slots=True)
class Frame:
    """`a_ns`, `b_ns`: None on the side that has no such frame."""

    name: str
    a_ns: float | None = None
    b_ns: float | None = None
    changed_ns: float = 0.0
    note: str = ""
    parts: dict[str, Frame] = field(default_factory=dict)

    @property
    def width_ns(self) -> float:
        """At least as much as either side's time."""
        each = sum(part.width_ns for part in self.parts.values())
        return max(each, self.a_ns or 0.0, self.b_ns or 0.0)

    def add(self, a_ns: float | None, b_ns: float | None, changed_ns: float) -> None:
        """Times below zero (a remainder may be) count as none."""
        if a_ns is not None and math.isfinite(a_ns):
            self.a_ns = (self.a_ns or 0.0) + max(a_ns, 0.0)
        if b_ns is not None and math.isfinite(b_ns):
            self.b_ns = (self.b_ns or 0.0) + max(b_ns, 0.0)
        if math.isfinite(changed_ns):
            self.changed_ns += changed_ns

    def part(self, name: str) -> Frame:
        return self.parts.setdefault(name, Frame(name))


def flames(diff: Diff) -> dict[str, Any]:
    """For `<script type="application/json">`, by phase: frames as [name, a, b, changed, width, note, parts].

    `per`: what times are divided by.
    """
    per = {phase.phase: phase.per for phase in diff.phases}
    return {
        clean(name, 20): {"per": per[name], "root": packed(root)} for name, root in trees(diff).items() if root.parts
    }


def trees(diff: Diff) -> dict[str, Frame]:
    """The phases' frames, in the order of the diff's phases."""
    roots = {phase.phase: Frame(clean(phase.phase, 20)) for phase in diff.phases}
    for phase in diff.phases:
        changed = phase.delta_ns_per_token if phase.significant else 0.0
        roots[phase.phase].add(phase.a_ns_per_token, phase.b_ns_per_token, changed)
    layered = _layered(diff)
    for row in diff.rows:
        if row.phase not in roots:
            continue
        frame = roots[row.phase]
        changed = row.delta_ns_per_token if row.significant else 0.0
        for name in _path(row):
            frame = frame.part(clean(name, NAME))
            frame.add(row.a_ns_per_token, row.b_ns_per_token, changed)
        frame.note = clean(row.matched, 160)
        for one in row.by_layer if id(row) in layered else ():
            delta = (one.b_ns or 0.0) - (one.a_ns or 0.0)
            frame.part(f"layer {one.layer}").add(one.a_ns, one.b_ns, delta if row.significant else 0.0)
    return roots


def _layered(diff: Diff) -> set[int]:
    """Rows whose layers are drawn, by id: those with the most time, MAX_LAYERS in all."""
    found: set[int] = set()
    left = MAX_LAYERS
    for row in sorted(diff.rows, key=lambda one: -max(one.a_ns_per_token or 0.0, one.b_ns_per_token or 0.0)):
        left -= len(row.by_layer)
        if left < 0:
            break
        found.add(id(row))
    return found


def _path(row: Row) -> list[str]:
    if row.kind in ("between", "unattributed"):
        return [row.name]
    leaf = " ".join(filter(None, (row.tensor, row.shape))) or row.name
    return [name for name in (row.block, row.op) if name] + [leaf]


def packed(frame: Frame) -> list[Any]:
    parts = sorted(frame.parts.values(), key=_order)
    numbers = [_rounded(ns) for ns in (frame.a_ns, frame.b_ns, frame.changed_ns, frame.width_ns)]
    return [frame.name, *numbers, frame.note, [packed(part) for part in parts]]


def _order(frame: Frame) -> tuple[int, float, str]:
    """Layers by their number, all else by width."""
    word, _, number = frame.name.partition(" ")
    if word == "layer" and number.isdigit():
        return int(number), 0.0, ""
    return 0, -frame.width_ns, frame.name


def _rounded(ns: float | None) -> float | None:
    return None if ns is None else round(ns, 1)
