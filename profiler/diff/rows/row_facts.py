"""What is known of a row besides its time, over a side's recordings: its work, and what of it was waiting."""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.result import PARTS, Part, PartShift
from flowprof.profiler.diff.steps.steps import Group, GroupFacts, Steps


def facts_of(recordings: list[Steps], groups: Sequence[Group]) -> GroupFacts | None:
    """What is known of several groups together, mean over the repeats that have them."""
    each = []
    for steps in recordings:
        place = {group: at for at, group in enumerate(steps.groups)}
        mine = [steps.facts[place[group]] for group in groups if group in place]
        if mine:
            each.append(_sum(mine))
    return _mean(each) if each else None


def _sum(facts: Sequence[GroupFacts]) -> GroupFacts:
    def added(name: str) -> float | None:
        values = [getattr(one, name) for one in facts]
        return None if any(value is None for value in values) else float(sum(values))

    parts = {part: sum(one.parts.get(part, 0.0) for one in facts) for part in facts[0].parts}
    rows_read = [one.context for one in facts if one.context is not None]
    return GroupFacts(
        added("flops"), added("bytes"), added("calls"), max(rows_read) if rows_read else None,
        any(one.grows for one in facts), parts, facts[0].order,
    )  # fmt: skip


def _mean(facts: Sequence[GroupFacts]) -> GroupFacts:
    whole, count = _sum(facts), len(facts)
    rows_read = [one.context for one in facts if one.context is not None]
    return GroupFacts(
        None if whole.flops is None else whole.flops / count,
        None if whole.bytes is None else whole.bytes / count,
        None if whole.calls is None else whole.calls / count,
        sum(rows_read) / len(rows_read) if rows_read else None,
        whole.grows,
        {part: ns / count for part, ns in whole.parts.items()},
        whole.order,
    )


def known(facts: GroupFacts | None, name: str) -> float | None:
    value: float | None = None if facts is None else getattr(facts, name)
    return value


def parts(a: GroupFacts | None, b: GroupFacts | None, a_ns: float, b_ns: float) -> tuple[PartShift, ...]:
    """What was waited for, and the rest, which is work; a part that is larger than its row is cut to it."""
    sides = [_side(facts, ns) for facts, ns in ((a, a_ns), (b, b_ns))]
    return tuple(
        PartShift(part, sides[0].get(part), sides[1].get(part))
        for part in PARTS if part in sides[0] or part in sides[1]
    )  # fmt: skip


def _side(facts: GroupFacts | None, ns: float) -> dict[Part, float]:
    if facts is None or not facts.parts:
        return {}
    waits = sum(facts.parts.values())
    scale = min(1.0, ns / waits) if waits > 0 else 1.0
    found: dict[Part, float] = {part: value * scale for part, value in facts.parts.items()}
    return {"work": max(0.0, ns - sum(found.values())), **found}
