"""The steps of a torch program: one iteration each, its operators by what they do and by whom they are called.

A source of `steps.py`; torch_calls.py says what an iteration is. A group's time is its operators' own, without what
they called; its block the operator that called it ("" the program itself, "backward" the engine of backward passes).

* Phase "step": the thread whose iterations they are. What it does outside of operators (Python, other libraries) is
  "unattributed" within the iteration, and "between" from its last operator to the next iteration.
* Other threads of the process run beside it: each role (autograd, inter-op …) is a phase of its own, whose rows add up
  to the time within its operators. Roles with less than WORTH of the steps' time are left out.

Of a GPU's work these are the times of the launching, and of waits for the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from flowprof.profiler.analyzers.torch_operators import ROLES
from flowprof.profiler.diff.result import Part
from flowprof.profiler.diff.steps import torch_calls, torch_groups
from flowprof.profiler.diff.steps.steps import Floats, Group, GroupFacts, Ints, Steps
from flowprof.profiler.diff.steps.torch_calls import Calls, Cut
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs
from numpy.typing import NDArray

WORTH = 0.01
OUTSIDE = "outside of operators"
BETWEEN = "between iterations"
_PARTS: dict[str, Part] = {"runnable": "runnable", "fault": "fault"}


def read(recording: Recording) -> list[Steps]:
    """The main thread's steps, then those of other threads. Empty when there are no operators."""
    cut = torch_calls.cut(recording)
    if cut is None:
        return []
    calls = torch_calls.read(recording)
    main = calls.line == cut.line
    found = [_main(recording, calls, cut, np.flatnonzero(main))]
    least = WORTH * float(found[0].all_ns.sum())
    roles: dict[str, list[int]] = defaultdict(list)
    for line, (pid, tid, comm) in enumerate(calls.lines):
        if line != cut.line and pid == calls.lines[cut.line][0]:
            roles[_role(pid, tid, comm)].append(line)
    for role, lines in roles.items():
        beside = _beside(recording, calls, cut, role, np.flatnonzero(np.isin(calls.line, lines)))
        if beside.all_ns.sum() >= least:
            found.append(beside)
    return found


def _role(pid: int, tid: int, comm: str) -> str:
    role = next((role for begins, role in ROLES.items() if comm.startswith(begins)), "")
    return f"{role} threads" if role else "main thread" if pid == tid else "other threads"


def _main(recording: Recording, calls: Calls, cut: Cut, rows: Ints) -> Steps:
    step = cut.step_of(calls.start[rows], cut.end_ns)
    rows, step = rows[step >= 0], step[step >= 0]
    groups, ns, facts = _grouped(recording, calls, cut, "step", rows, step)
    inner, whole = (cut.end_ns - cut.start_ns).astype(float), (cut.next_ns - cut.start_ns).astype(float)
    groups += [Group("unattributed", "step", "", OUTSIDE, "", ""), Group("between", "step", "", BETWEEN, "", "")]
    facts += [GroupFacts(order=len(rows) + more) for more in range(2)]
    ns = np.column_stack([ns, inner - ns.sum(axis=1), whole - inner])
    return _steps("step", cut, groups, ns, facts)


def _beside(recording: Recording, calls: Calls, cut: Cut, role: str, rows: Ints) -> Steps:
    step = cut.step_of(calls.start[rows], cut.next_ns)
    rows, step = rows[step >= 0], step[step >= 0]
    return _steps(role, cut, *_grouped(recording, calls, cut, role, rows, step))


def _steps(phase: str, cut: Cut, groups: list[Group], ns: Floats, facts: list[GroupFacts]) -> Steps:
    return Steps(
        phase=phase, start_ns=cut.start_ns, tokens=cut.tokens, groups=tuple(groups), ns=ns, facts=tuple(facts),
        all_start_ns=cut.start_ns, all_tokens=cut.tokens, all_ns=ns.sum(axis=1), per=cut.per, what=cut.what,
    )  # fmt: skip


def _grouped(
    recording: Recording, calls: Calls, cut: Cut, phase: str, rows: Ints, step: Ints
) -> tuple[list[Group], Floats, list[GroupFacts]]:
    """Groups of the calls `rows` (n,), their own time by step (steps, groups), and what is known of them."""
    pairs, pair = _pairs(calls, rows)
    keys, group = torch_groups.keys(pairs, pair, step, len(cut.start_ns))
    shape = len(cut.start_ns), len(keys)
    ns = np.asarray(np.bincount(step * shape[1] + group, calls.own[rows], shape[0] * shape[1]), float).reshape(shape)
    groups = [Group("torch", phase, block, op, "", text) for block, op, text in keys]
    return groups, ns, _facts(recording, calls, cut, rows, step, group, len(keys))


def _pairs(calls: Calls, rows: Ints) -> tuple[list[torch_groups.Key], Ints]:
    """Block, operator and shape of every kind of call, and which of them each row (n,) is."""
    around = calls.parent[rows]
    what = np.where(around >= 0, calls.what[np.maximum(around, 0)], -1 - calls.backward[rows].astype(np.int64))
    numbers: dict[str, int] = {"": 0, torch_groups.BACKWARD: 1}
    name_of = np.array([numbers.setdefault(name, len(numbers)) for name in calls.names], np.int64)
    block = np.where(what >= 0, name_of[np.maximum(what, 0)], -1 - what) if len(rows) else what
    kinds, pair = np.unique(block * len(calls.names) + calls.what[rows], return_inverse=True)
    names = list(numbers)
    shapes = [torch_groups.shape(name, args) for name, args in zip(calls.names, calls.args, strict=True)]
    found = []
    for kind in kinds.tolist():
        of, which = divmod(kind, len(calls.names))
        found.append((names[of], calls.names[which], shapes[which]))
    return found, pair.reshape(-1).astype(np.int64)


def _facts(
    recording: Recording, calls: Calls, cut: Cut, rows: Ints, step: Ints, group: Ints, count: int
) -> list[GroupFacts]:
    """Calls, FLOPs and bytes per token of the phase, the first place in a step, and waits off the processor."""
    total = float(cut.tokens.sum()) or 1.0
    number = np.bincount(group, minlength=count)
    first = np.searchsorted(step, step) if _sorted(step) else np.zeros(len(step), np.int64)
    place = np.full(count, len(rows), np.int64)
    np.minimum.at(place, group, np.arange(len(rows)) - first)
    costs = [torch_costs.cost(name, args) for name, args in zip(calls.names, calls.args, strict=True)]
    known = np.array([cost is not None for cost in costs], bool)
    flops = np.array([cost.flops if cost else 0 for cost in costs], float)
    size = np.array([cost.size_bytes if cost else 0 for cost in costs], float)
    of = calls.what[rows]
    with_cost = np.bincount(group, known[of], count) == number
    flops_by, bytes_by = (np.bincount(group, column[of], count) / total for column in (flops, size))
    facts = [
        GroupFacts(
            flops=float(flops_by[at]) if with_cost[at] else None, bytes=float(bytes_by[at]) if with_cost[at] else None,
            calls=float(number[at]) / total, order=int(place[at]),
        )
        for at in range(count)
    ]  # fmt: skip
    if recording.meta().get("sched") == "yes":
        _waits(recording, calls, rows, group, facts, total)
    return facts


def _sorted(step: Ints) -> bool:
    return bool(np.all(step[1:] >= step[:-1]))


def _waits(
    recording: Recording, calls: Calls, rows: Ints, group: Ints, facts: Sequence[GroupFacts], total: float
) -> None:
    """Fill in `parts`: time off the processor within the innermost operator, by its kind."""
    found = recording.columns(read_sql("torch_away.sql"))
    start, stop = np.asarray(found["start_ns"], np.int64), np.asarray(found["end_ns"], np.int64)
    at = torch_calls.rows_of(calls.call_id, np.asarray(found["call_id"], np.int64))
    for _ in range(torch_calls.DEPTH):  # it may have ended: what is around it is what the thread was in
        climbing = np.flatnonzero((at >= 0) & (calls.end[at] <= start))
        if not len(climbing):
            break
        at[climbing] = calls.outer[at[climbing]]
    column = np.full(len(calls.start), -1, np.int64)
    column[rows] = group
    mine = np.where(at >= 0, column[np.maximum(at, 0)], -1) if len(column) else at
    ns = (np.minimum(stop, calls.end[np.maximum(at, 0)]) - start).astype(float) if len(column) else start.astype(float)
    chosen: NDArray[np.bool_] = (mine >= 0) & (ns > 0)
    states = np.array([_PARTS.get(str(state), "blocked") for state in found["state"]], object)
    parts: tuple[Part, ...] = ("runnable", "blocked", "fault")
    for part in parts:
        some = chosen & (states == part)
        for fact, value in zip(facts, np.bincount(mine[some], ns[some], len(facts)).tolist(), strict=True):
            fact.parts[part] = value / total
