"""The steps of a GPU's work, as its own profiler recorded it: kernels and copies by name and operator, and idle time.

A source of `steps.py`. The device has a clock and a timeline of its own: its phase ("device", with several of them
"device 0" …) stands beside the host's "step" and is never added to it. A step is an iteration of the host's thread
(torch_calls.py), and a slice belongs to the one in which it was launched; where the host's iterations are not known, a
repetition of the kernels themselves (iterations.py).

Times are exposed: what runs beside an earlier slice counts only from where that one ends. Idle time belongs to the
slice that ends it, "waits for the host" where that was launched after the device had drained. So the rows of a step add
up to the time from the end of the step before it to its own end. Pauses (as in torch_calls.py) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers import gpu
from flowprof.profiler.analyzers.gpu_kernels import NAME_SQL, counted
from flowprof.profiler.diff.steps import iterations, torch_calls, torch_groups
from flowprof.profiler.diff.steps.steps import Floats, Group, GroupFacts, Ints, Steps
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs

PHASE = "device"
LATE = "idle, waits for the host"
IDLE = "idle"
GRAPH = "CUDA graph"
MAX_DEVICES = 8
MAX_NAME = 200
HAS_SQL = "SELECT count(*) > 0 FROM (SELECT 1 FROM gpu_slice WHERE kind NOT IN ('sync', 'annotation') LIMIT 1)"


@dataclass(frozen=True, slots=True)
class _Work:
    """Slices of one device by start; arrays (n,)."""

    start: Ints
    end: Ints
    launch: Ints  # when it was launched; -1 not known
    pair: Ints  # what it is, which of the pairs


def read(recording: Recording) -> list[Steps]:
    """One phase for each device, the busiest first. Empty when no GPU work was recorded."""
    if not recording.rows(HAS_SQL)[0][0]:
        return []
    slices = recording.columns(read_sql("gpu_slices.sql"), {"from_ns": gpu.beginning(recording)})
    device = np.asarray(slices["device"], np.int64)
    pairs, pair = _pairs(recording, slices)
    start = np.asarray(slices["start_ns"], np.int64)
    end = start + np.asarray(slices["dur_ns"], np.int64)
    launch = np.ma.filled(np.ma.asarray(slices["launch_ns"]), -1).astype(np.int64)
    devices, counts = np.unique(device, return_counts=True)
    found = []
    for one in devices[np.argsort(-counts, kind="stable")].tolist()[:MAX_DEVICES]:
        mine = device == one
        phase = PHASE if len(devices) == 1 else f"{PHASE} {one}"
        steps = _device(recording, phase, _Work(start[mine], end[mine], launch[mine], pair[mine]), pairs)
        if steps is not None:
            found.append(steps)
    return found


def _pairs(recording: Recording, slices: dict[str, np.ndarray]) -> tuple[list[torch_groups.Key], Ints]:
    """Operator, kernel and shape of every kind of slice, and which of them each slice is."""
    names = [str(name)[:MAX_NAME] for (name,) in recording.rows(NAME_SQL)]
    whats = [(str(name), torch_costs.arguments(*texts)) for name, *texts in recording.rows(read_sql("gpu_whats.sql"))]
    _, what = counted(recording, np.asarray(slices["operator_id"], np.int64), [True] * len(whats))
    in_graph = np.asarray(slices["in_graph"], bool)
    operator = np.where(what >= 0, what, len(whats) + in_graph)
    name = np.asarray(slices["name_id"], np.int64)
    kinds, pair = np.unique(operator * (len(names) + 1) + name + 1, return_inverse=True)
    of_operator = [*((op, torch_costs.shown(op, args)) for op, args in whats), ("", ""), (GRAPH, "")]
    found = []
    for kind in kinds.tolist():
        at, kernel = divmod(kind, len(names) + 1)
        block, shape = of_operator[at]
        found.append((block, names[kernel - 1] if kernel else "", shape))
    return found, pair.reshape(-1).astype(np.int64)


def _device(recording: Recording, phase: str, work: _Work, pairs: list[torch_groups.Key]) -> Steps | None:
    reached = np.maximum.accumulate(work.end)
    before = np.append(work.start[:1], reached[:-1])
    exposed = np.maximum(reached - np.maximum(work.start, before), 0).astype(float)
    idle = np.maximum(work.start - before, 0).astype(float)
    cut = torch_calls.cut(recording)
    if cut is not None and bool((work.launch >= 0).any()):
        step = _launched_in(cut.start_ns, cut.next_ns, work.launch)
        tokens, per, what = cut.tokens, cut.per, f"launched in {cut.what}"
    else:
        names: dict[str, int] = {}
        kernel = np.array([names.setdefault(key[1], len(names)) for key in pairs], np.int64)[work.pair]
        found = iterations.find((kernel, work.pair), np.zeros(len(kernel), np.int64), work.start, reached)
        if found is None:
            return None
        step = np.searchsorted(found.first, np.arange(len(kernel)), "right") - 1
        step[found.last[-1] :] = -1
        tokens, per = np.ones(len(found.first), np.int64), "step"
        what = f"one repetition of about {found.calls} kernels and copies: {len(found.first)} of them"
    steps = np.unique(step[step >= 0])
    if len(steps) < 2:
        return None
    idle[idle > max(torch_calls.PAUSE_NS, 4 * float(np.median(np.diff(work.start[np.searchsorted(step, steps)])))
                    if _sorted(step) else torch_calls.PAUSE_NS)] = 0.0  # fmt: skip
    chosen = step >= 0
    place = np.searchsorted(steps, step[chosen])
    return _steps(phase, work, chosen, place, (exposed, idle), before, pairs, tokens[steps], per, what)


def _launched_in(start: Ints, until: Ints, launch: Ints) -> Ints:
    """The step of each slice; one whose launch is not known belongs to the step of the slice before it."""
    step = np.searchsorted(start, launch, "right") - 1
    step = np.where((step >= 0) & (launch < until[np.maximum(step, 0)]), step, -1)
    known = np.maximum.accumulate(np.where(launch >= 0, np.arange(len(launch)), -1))
    return np.where(known >= 0, step[np.maximum(known, 0)], -1)


def _sorted(step: Ints) -> bool:
    return bool(np.all(step[1:] >= step[:-1]))


def _steps(
    phase: str, work: _Work, chosen: np.ndarray, place: Ints, times: tuple[Floats, Floats], before: Ints,
    pairs: list[torch_groups.Key], tokens: Ints, per: str, what: str,
) -> Steps:  # fmt: skip
    exposed, idle = times[0][chosen], times[1][chosen]
    count = len(tokens)
    keys, group = torch_groups.keys(pairs, work.pair[chosen], place, count)
    ns = np.asarray(np.bincount(place * len(keys) + group, exposed, count * len(keys)), float).reshape(count, len(keys))
    late = work.launch[chosen] > before[chosen]
    waits = [np.bincount(place[which], idle[which], count) for which in (late, ~late)]
    groups = [Group("kernel", phase, block, op, "", shape) for block, op, shape in keys]
    groups += [Group("between", phase, "", LATE, "", ""), Group("between", phase, "", IDLE, "", "")]
    ns = np.column_stack([ns, *waits])
    start = np.full(count, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(start, place, work.start[chosen])
    first = np.searchsorted(place, place) if _sorted(place) else np.zeros(len(place), np.int64)
    order = np.full(len(keys), len(place), np.int64)
    np.minimum.at(order, group, np.arange(len(place)) - first)
    number = np.bincount(group, minlength=len(keys)) / float(tokens.sum())
    facts = [GroupFacts(calls=float(number[at]), order=int(order[at])) for at in range(len(keys))]
    facts += [GroupFacts(order=len(place) + more) for more in range(2)]
    return Steps(
        phase=phase, start_ns=start, tokens=tokens, groups=tuple(groups), ns=ns, facts=tuple(facts),
        all_start_ns=start, all_tokens=tokens, all_ns=ns.sum(axis=1), per=per, what=what,
    )  # fmt: skip
