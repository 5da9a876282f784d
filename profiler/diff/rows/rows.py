"""The rows of a diff: every group of like work on both sides, its part in its phase's change, and the test of it.

Rows of a phase add up to the phase's change end to end. Operators are known of measured steps only; what the change of
all steps differs from theirs is a row of its own (NOT_MEASURED): a correction, which may be below zero.

All rows of a diff are one family for the false discoveries; so are the layers within them, tested apart: a row of which
some layers changed unlike the others is split in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.result import AtContext, LayerShift, PhaseShift, Row
from flowprof.profiler.diff.rows.align import Match, align
from flowprof.profiler.diff.rows.at_context import at_equal_context
from flowprof.profiler.diff.rows.column import Column, times
from flowprof.profiler.diff.rows.layers import by_layer
from flowprof.profiler.diff.rows.phases import Recordings, interval, number, of_phase
from flowprof.profiler.diff.rows.row_facts import facts_of, known, parts
from flowprof.profiler.diff.rows.split_layers import split_layers
from flowprof.profiler.diff.steps.steps import Floats, Group, GroupFacts, Steps

BETWEEN = "between graphs: sampling, the server's own work"
INSIDE = "inside graphs, outside operators"
NOT_MEASURED = "steps without operator probes, against those with them"


@dataclass(slots=True)
class _Phase:
    shift: PhaseShift
    columns: list[Column]
    a: statistics.Blocks
    b: statistics.Blocks
    tested: statistics.Tested
    a_facts: list[GroupFacts | None]
    b_facts: list[GroupFacts | None]
    layers: list[tuple[LayerShift, ...]]
    equal: dict[int, AtContext | None]  # of the columns whose work grows with the context, where the sides' differ


def rows(a: Recordings, b: Recordings, shifts: Sequence[PhaseShift]) -> tuple[Row, ...]:
    """The rows of every phase in `shifts`, in that order: those that changed first, then by their contribution."""
    phases = [_phase(of_phase(a, shift.phase), of_phase(b, shift.phase), shift) for shift in shifts]
    there = [one for one in phases if one is not None]
    if not there:
        return ()
    q = statistics.adjusted(np.concatenate([one.tested.p for one in there]))
    tail_q = statistics.adjusted(np.concatenate([one.tested.tail_p for one in there]))
    found: list[Row] = []
    begin = 0
    for one in there:
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
    columns = [Column(match) for match in matches]
    columns = split_layers(columns, a, b)
    normal = statistics.blocks([(times(one, columns, "a"), one.tokens) for one in a])
    other = statistics.blocks([(times(one, columns, "b"), one.tokens) for one in b], above=normal.limit)
    a_facts = [facts_of(a, column.match.a) for column in columns]
    b_facts = [facts_of(b, column.match.b) for column in columns]
    growing = [at for at in range(len(columns)) if all(one and one.grows for one in (a_facts[at], b_facts[at]))]
    return _Phase(
        shift, columns, normal, other, statistics.test(normal, other, floor=statistics.RUN_TO_RUN), a_facts, b_facts,
        [by_layer(column.match, a, b, column.layers) for column in columns],
        at_equal_context(a, b, [columns[at] for at in growing], growing),
    )  # fmt: skip


def _orders(recordings: list[Steps]) -> dict[Group, int]:
    orders: dict[Group, int] = {}
    for steps in recordings:
        for group, facts in zip(steps.groups, steps.facts, strict=True):
            orders.setdefault(group, facts.order)
    return orders


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
                parts=parts(a_facts, b_facts, float(phase.a.mean[at]), float(phase.b.mean[at])),
                flops=(known(a_facts, "flops"), known(b_facts, "flops")),
                bytes=(known(a_facts, "bytes"), known(b_facts, "bytes")),
                calls_per_token=(known(a_facts, "calls"), known(b_facts, "calls")),
                tensor=" + ".join(dict.fromkeys(group.tensor for group in match.a or match.b if group.tensor)),
                by_layer=phase.layers[at],
                contexts_apart=at in phase.equal,
                equal=phase.equal.get(at),
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
