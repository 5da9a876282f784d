"""The rows of a diff: every group of like work on both sides, its part in its phase's change, and the test of it.

Rows of a phase add up to the phase's change end to end. Operators are known of measured steps only; what the change of
all steps differs from theirs is a row of its own ("steps without operator probes").

All rows of a diff are one family for the false discoveries; so are the layers within them, tested apart: a row of which
some layers changed unlike the others is split in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.align import Match, align
from flowprof.profiler.diff.layers import by_layer
from flowprof.profiler.diff.phases import Recordings, interval, number, of_phase
from flowprof.profiler.diff.result import PARTS, LayerShift, Part, PartShift, PhaseShift, Row
from flowprof.profiler.diff.steps import Floats, Group, GroupFacts, Steps

MAX_ROWS = 2_000  # of one phase: those with the least time are added up
APART, SPREADS = 0.05, 4.0  # a layer's change stands apart by at least so much, and so many spreads
BETWEEN = "between graphs: sampling, the server's own work"
INSIDE = "inside graphs, outside operators"
NOT_MEASURED = "steps without operator probes"


@dataclass(frozen=True, slots=True)
class _Column:
    """One row in the making. layers: those it is of, where it is of some only."""

    match: Match
    layers: tuple[int, ...] | None = None


@dataclass(slots=True)
class _Phase:
    shift: PhaseShift
    columns: list[_Column]
    a: statistics.Blocks
    b: statistics.Blocks
    tested: statistics.Tested
    a_facts: list[GroupFacts | None]
    b_facts: list[GroupFacts | None]
    layers: list[tuple[LayerShift, ...]]


def rows(a: Recordings, b: Recordings, shifts: Sequence[PhaseShift]) -> tuple[Row, ...]:
    """The rows of every phase in `shifts`, in that order: those that changed first, then by their contribution."""
    phases = [_phase(of_phase(a, shift.phase), of_phase(b, shift.phase), shift) for shift in shifts]
    known = [one for one in phases if one is not None]
    if not known:
        return ()
    q = statistics.adjusted(np.concatenate([one.tested.p for one in known]))
    tail_q = statistics.adjusted(np.concatenate([one.tested.tail_p for one in known]))
    found: list[Row] = []
    begin = 0
    for one in known:
        end = begin + len(one.columns)
        made = _rows(one, q[begin:end], tail_q[begin:end])
        rest = _not_measured(one.shift, made)
        found += sorted([*made, *rest], key=_order)
        begin = end
    return tuple(found)


def _order(row: Row) -> tuple[bool, float, str]:
    return not (row.significant or row.tail_significant), -abs(row.delta_ns_per_token), row.name


def _phase(a: list[Steps], b: list[Steps], shift: PhaseShift) -> _Phase | None:
    a, b = [one for one in a if len(one.start_ns)], [one for one in b if len(one.start_ns)]
    if not a or not b:
        return None
    matches = align(_orders(a), _orders(b))
    columns = [_Column(match) for match in matches]
    columns = _split_layers(columns, a, b)
    normal = statistics.blocks([(_ns(one, columns, "a"), one.tokens) for one in a])
    other = statistics.blocks([(_ns(one, columns, "b"), one.tokens) for one in b], above=normal.limit)
    return _Phase(
        shift, columns, normal, other, statistics.test(normal, other, floor=statistics.RUN_TO_RUN),
        [_facts(a, column.match.a) for column in columns], [_facts(b, column.match.b) for column in columns],
        [by_layer(column.match, a, b, column.layers) for column in columns],
    )  # fmt: skip


def _orders(recordings: list[Steps]) -> dict[Group, int]:
    orders: dict[Group, int] = {}
    for steps in recordings:
        for group, facts in zip(steps.groups, steps.facts, strict=True):
            orders.setdefault(group, facts.order)
    return orders


def _ns(steps: Steps, columns: Sequence[_Column], side: str) -> Floats:
    """(n, columns) ns of one recording's steps."""
    place = {group: at for at, group in enumerate(steps.groups)}
    ns = np.zeros((len(steps.tokens), len(columns)))
    for at, column in enumerate(columns):
        for group in column.match.a if side == "a" else column.match.b:
            if group not in place:
                continue
            if column.layers is None:
                ns[:, at] += steps.ns[:, place[group]]
            else:
                layers, each = steps.layers[group]
                ns[:, at] += each[:, [layer in column.layers for layer in layers]].sum(axis=1)
    return ns


# ------------------------------------------------------------------ layers


def _split_layers(columns: list[_Column], a: list[Steps], b: list[Steps]) -> list[_Column]:
    """Columns of which only some layers changed become two: those layers, and the others."""
    each: list[tuple[int, int]] = []  # column, layer
    for at, column in enumerate(columns):
        if len(column.match.a) == len(column.match.b) == 1:
            each += [(at, layer) for layer in _common_layers(column.match, a, b)]
    if not each:
        return columns
    single = [_Column(columns[at].match, (layer,)) for at, layer in each]
    normal = statistics.blocks([(_ns(one, single, "a"), one.tokens) for one in a])
    other = statistics.blocks([(_ns(one, single, "b"), one.tokens) for one in b])
    tested = statistics.test(normal, other, intervals=False, floor=2 * statistics.RUN_TO_RUN)
    changed = statistics.significant(tested, statistics.adjusted(tested.p))
    relative = tested.delta / np.where(normal.mean > 0, normal.mean, np.nan)
    found: list[_Column] = []
    for at, column in enumerate(columns):
        mine = [i for i, (owner, _) in enumerate(each) if owner == at]
        apart = changed[mine] & _apart(relative[mine]) if mine else np.zeros(0, bool)
        some = tuple(each[i][1] for i, one in zip(mine, apart, strict=True) if one)
        if some and len(some) <= len(mine) / 2:
            others = tuple(each[i][1] for i, one in zip(mine, apart, strict=True) if not one)
            found += [_Column(column.match, some), _Column(column.match, others)]
        else:
            found.append(column)
    return found


def _apart(relative: Floats) -> np.ndarray:
    """Which layers' relative changes stand apart from what a row's layers changed by in general (median and MAD)."""
    middle = np.nanmedian(relative)
    spread = 1.4826 * np.nanmedian(np.abs(relative - middle))
    apart: np.ndarray = np.abs(relative - middle) > max(APART, SPREADS * spread)
    return apart


def _common_layers(match: Match, a: list[Steps], b: list[Steps]) -> list[int]:
    """The group's layers, where every recording has the same."""
    sets = {one.layers[match.a[0]][0] if match.a[0] in one.layers else () for one in a}
    sets |= {one.layers[match.b[0]][0] if match.b[0] in one.layers else () for one in b}
    return list(sets.pop()) if len(sets) == 1 else []


# ------------------------------------------------------------------ the rows themselves


def _rows(phase: _Phase, q: Floats, tail_q: Floats) -> list[Row]:
    tested = phase.tested
    counts = statistics.significant(tested, q)
    tails = statistics.tail_significant(tested, tail_q)
    found = []
    for at, column in enumerate(phase.columns):
        match = column.match
        first = (match.a or match.b)[0]
        a_shape, b_shape = _joined(match.a), _joined(match.b)
        whole = column.layers is None  # of some layers nothing but their time is known
        a_facts, b_facts = (phase.a_facts[at], phase.b_facts[at]) if whole else (None, None)
        found.append(
            Row(
                kind=first.kind,
                name=_name(match, column.layers),
                phase=phase.shift.phase,
                block=first.block,
                op=first.op,
                shape=a_shape if match.a else b_shape,
                b_shape=b_shape if match.a and match.b and a_shape != b_shape else "",
                a_ns_per_token=float(phase.a.mean[at]) if match.a else None,
                b_ns_per_token=float(phase.b.mean[at]) if match.b else None,
                delta_ns_per_token=float(tested.delta[at]),
                ci95=interval(tested.low[at], tested.high[at]),
                shift_ns_per_token=number(tested.shift[at]),
                shift_ci95=interval(tested.shift_low[at], tested.shift_high[at]),
                q=number(q[at]),
                noise_ns_per_token=number(tested.noise[at]),
                significant=bool(counts[at]),
                a_tail_ns=number(phase.a.tail[at]) if match.a else None,
                b_tail_ns=number(phase.b.tail[at]) if match.b else None,
                tail_q=number(tail_q[at]),
                tail_significant=bool(tails[at]),
                layers=column.layers or (),
                matched=match.how,
                parts=_parts(a_facts, b_facts, float(phase.a.mean[at]), float(phase.b.mean[at])),
                flops=(_known(a_facts, "flops"), _known(b_facts, "flops")),
                bytes=(_known(a_facts, "bytes"), _known(b_facts, "bytes")),
                calls_per_token=(_known(a_facts, "calls"), _known(b_facts, "calls")),
                tensor=" + ".join(dict.fromkeys(group.tensor for group in match.a or match.b if group.tensor)),
                by_layer=phase.layers[at],
            )
        )  # fmt: skip
    return found


def _joined(groups: Sequence[Group]) -> str:
    return " + ".join(dict.fromkeys(group.shape for group in groups if group.shape))


def _name(match: Match, layers: tuple[int, ...] | None) -> str:
    groups = match.a or match.b
    first = groups[0]
    if first.kind == "between":
        return first.op or BETWEEN
    if first.kind == "unattributed":
        return first.op or INSIDE
    words = [" + ".join(dict.fromkeys(" ".join(filter(None, (g.op, g.tensor))) for g in groups)), _joined(groups)]
    if layers is not None:
        words.append(f"· layer{'s' if len(layers) > 1 else ''} {_ranges(layers)}")
    return " ".join(filter(None, words))


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 → 1-3, 7."""
    runs: list[list[int]] = []
    for one in numbers:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _facts(recordings: list[Steps], groups: Sequence[Group]) -> GroupFacts | None:
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
    contexts = [one.context for one in facts if one.context is not None]
    return GroupFacts(
        added("flops"), added("bytes"), added("calls"), max(contexts) if contexts else None, parts, facts[0].order
    )


def _mean(facts: Sequence[GroupFacts]) -> GroupFacts:
    whole, count = _sum(facts), len(facts)
    contexts = [one.context for one in facts if one.context is not None]
    return GroupFacts(
        None if whole.flops is None else whole.flops / count,
        None if whole.bytes is None else whole.bytes / count,
        None if whole.calls is None else whole.calls / count,
        sum(contexts) / len(contexts) if contexts else None,
        {part: ns / count for part, ns in whole.parts.items()},
        whole.order,
    )


def _known(facts: GroupFacts | None, name: str) -> float | None:
    value: float | None = None if facts is None else getattr(facts, name)
    return value


def _parts(a: GroupFacts | None, b: GroupFacts | None, a_ns: float, b_ns: float) -> tuple[PartShift, ...]:
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


def _not_measured(shift: PhaseShift, made: Sequence[Row]) -> list[Row]:
    a = shift.a_ns_per_token - sum(row.a_ns_per_token or 0.0 for row in made)
    b = shift.b_ns_per_token - sum(row.b_ns_per_token or 0.0 for row in made)
    if max(abs(a), abs(b)) <= 1e-6 * max(shift.a_ns_per_token, shift.b_ns_per_token):
        return []
    nothing = (None, None)
    return [
        Row(
            "unattributed", NOT_MEASURED, shift.phase, "other", "", "", "", a, b, b - a, None, None, None, None, None,
            False, None, None, None, False, (), "", (), nothing, nothing, nothing,
        )
    ]  # fmt: skip
