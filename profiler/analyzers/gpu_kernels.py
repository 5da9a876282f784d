"""What kernels reach of a GPU's ceilings, by operator and shapes, where the recording knows them.

A slice's operator is the innermost one around its launch that has a formula (torch/costs.py), else the innermost. It is
held against the device's data sheet or `--ceilings FILE` (call_bounds.py). Where neither ceiling bounds it:

 1. less than 5 µs a slice: overhead (too little work for a launch)
 2. five calls or more: the kernel is inefficient; fewer: unknown

Bytes are counted for a perfect cache; a kernel may be served by the L2, and is above 100 % of the DRAM then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flowprof.profiler.analyzers.call_bounds import held_against
from flowprof.profiler.machine.ceilings import ANY, COLUMNS, LAUNCH_NS, Ceiling, Ceilings, from_rows, gpu_ceilings
from flowprof.profiler.sections.gpu import GpuBound, GpuDevice, GpuGroup
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.costs import Arg, Cost
from numpy.typing import NDArray

FEW_CALLS = 5
MAX_GROUPS = 500
NAME_SQL = "SELECT DISTINCT name FROM gpu_slice ORDER BY name"
CEILING_SQL = f"SELECT {', '.join(COLUMNS)} FROM ceiling"
Ints = NDArray[np.int64]


def groups(
    recording: Recording, slices: dict[str, Any], devices: Sequence[GpuDevice]
) -> tuple[tuple[GpuGroup, ...], int, tuple[Ceiling, ...], tuple[str, ...]]:
    """Groups, most time first; ns of slices without a known operator; ceilings used; notes."""
    ceilings, notes = ceilings_of(recording, [device.name for device in devices])
    names = [str(name) for (name,) in recording.rows(NAME_SQL)]
    whats = [(str(name), torch_costs.arguments(*texts)) for name, *texts in recording.rows(read_sql("gpu_whats.sql"))]
    costs = [torch_costs.cost(name, args) for name, args in whats]
    call, what = counted(recording, np.asarray(slices["operator_id"]), [cost is not None for cost in costs])
    # One group per operator and arguments, or per kernel's name.
    key = np.where(what >= 0, what, len(whats) + np.asarray(slices["name_id"]))
    work = int(slices["dur_ns"].sum())
    found = []
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order], prepend=-2))
    for rows in np.split(order, edges[1:]):
        if not len(rows):
            continue
        number, dur = int(what[rows[0]]), slices["dur_ns"][rows]
        by_name = np.bincount(np.maximum(slices["name_id"][rows], 0), weights=dur)
        top = names[int(by_name.argmax())]
        in_graph = bool(slices["in_graph"][rows].any())
        total = int(dur.sum())
        if number < 0:
            found.append(_group("", (), top, len(rows), len(rows), total, work, in_graph, None, ceilings))
        else:
            name, args = whats[number]
            calls = len(np.unique(call[rows]))
            found.append(_group(name, args, top, calls, len(rows), total, work, in_graph, costs[number], ceilings))
    found.sort(key=lambda one: (-one.total_ns, one.operator, one.kernel))
    return tuple(found[:MAX_GROUPS]), int(slices["dur_ns"][what < 0].sum()), ceilings.items if ceilings else (), notes


def counted(recording: Recording, operator: Ints, has_cost: list[bool]) -> tuple[Ints, Ints]:
    """Per slice the call that it is counted with, and what that is; -1: not known."""
    rows = recording.columns(read_sql("gpu_operators.sql"))
    calls = np.asarray(rows["call_id"], np.int64)
    if not len(calls):
        return np.full(len(operator), -1, np.int64), np.full(len(operator), -1, np.int64)
    what, costed = np.asarray(rows["what_id"], np.int64), np.array(has_cost, bool)

    def place(ids: Ints) -> Ints:
        at = np.minimum(np.searchsorted(calls, ids), len(calls) - 1)
        return np.where(calls[at] == ids, at, -1)

    parent = place(np.asarray(rows["parent_id"], np.int64))
    own = place(operator)
    at = own.copy()
    for _ in range(64):  # operators do not nest deeper
        climbing = np.flatnonzero((at >= 0) & ~costed[what[at]])
        if not len(climbing):
            break
        at[climbing] = parent[at[climbing]]
    at = np.where((at >= 0) & costed[what[at]], at, own)
    return np.where(at >= 0, calls[at], -1), np.where(at >= 0, what[at], -1)


def ceilings_of(recording: Recording, names: Sequence[str]) -> tuple[Ceilings | None, tuple[str, ...]]:
    """Those that the user gave, else the data sheet's of the devices; None with a note where there are none."""
    models = sorted(set(names))
    given = recording.rows(CEILING_SQL) if "imported_from" in recording.meta() else []
    if given:
        return from_rows(", ".join(models), given), ()
    if len(models) > 1:
        return None, ("The devices differ: kernels are held against no ceiling; --ceilings FILE gives one.",)
    if not models or not models[0]:
        return None, (
            "The trace does not name its GPU: kernels are held against no ceiling; --ceilings FILE gives one.",
        )
    found = gpu_ceilings(models[0])
    if found is None:
        return None, (f"No data sheet of {models[0]:.80} is known: --ceilings FILE gives ceilings.",)
    return found, ()


def _group(operator: str, args: Sequence[Arg], kernel: str, calls: int, slices: int, total: int, work: int,
           in_graph: bool, cost: Cost | None, ceilings: Ceilings | None) -> GpuGroup:  # fmt: skip
    flops, moved = (cost.flops * calls, cost.size_bytes * calls) if cost else (None, None)
    bound, ceiling, share, evidence = _verdict(cost, calls, slices, total, ceilings)
    return GpuGroup(
        operator=operator,
        shape=torch_costs.shown(operator, args),
        kernel=kernel,
        calls=calls,
        slices=slices,
        total_ns=total,
        share=total / work if work else 0.0,
        in_graph=in_graph,
        flops=flops,
        size_bytes=moved,
        flops_per_s=flops * 1e9 / total if flops and total else None,
        bytes_per_s=moved * 1e9 / total if moved and total else None,
        bound=bound,
        ceiling=ceiling,
        ceiling_share=share,
        headroom_ns=None if share is None else max(0, round(total * (1 - share))),
        confidence="low" if bound == "unknown" or share is None else "medium",  # data sheets, and a perfect cache
        evidence=evidence,
    )


def _verdict(cost: Cost | None, calls: int, slices: int, total: int, ceilings: Ceilings | None
             ) -> tuple[GpuBound, str, float | None, tuple[str, ...]]:  # fmt: skip
    held = held_against(ceilings, ANY, "dram_read", cost, calls, total)
    if held.bound:
        return held.bound, held.ceiling, held.share, held.evidence
    each = total / slices
    if each < LAUNCH_NS:
        return "overhead", held.ceiling, held.share, (*held.evidence, f"{each / 1e3:.1f} µs a slice")
    if calls < FEW_CALLS:
        return "unknown", held.ceiling, held.share, (*held.evidence, "too few calls")
    return "inefficient", held.ceiling, held.share, held.evidence
