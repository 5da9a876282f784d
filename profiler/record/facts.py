"""The rows in which a recording states whom it observed and with which probes. Columns for `Recording.append`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from flowprof.probes.sched import SoftwareEvent, Tracepoint
from flowprof.profiler.ggml.model_facts import ModelFacts
from flowprof.profiler.kernel_side.probes_in_place import ALWAYS
from flowprof.profiler.machine.neighbours import Neighbour
from flowprof.profiler.planning.plan import CALL_ENGINES, LadderPlan, Plan
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.record.decode import Window
from flowprof.profiler.target import Module, Target, mapped_model

Columns = dict[str, object]
MAX_CMDLINE = 4096


def process_columns(target: Target, now_ns: int) -> Columns:
    """Table `process`. now_ns: CLOCK_MONOTONIC, to place the process's start on the recording's clock."""
    age_ns = int((time.time() - target.started_at) * 1e9)
    return {
        "pid": [target.pid], "ppid": [target.ppid], "uid": [target.uid], "exe": [target.exe],
        "cmdline": [target.cmdline[:MAX_CMDLINE]], "started_ns": [now_ns - age_ns],
        "cpus_allowed": [_cpus_allowed(target.pid)],
    }  # fmt: skip


def module_columns(
    number: int, module: Module, engine: str, build_id: str | None, version: str | None, sets: Sequence[str] | None
) -> Columns:
    """Table `module`. sets: of the processor's instructions, that the build uses; None: it does not say."""
    return {
        "module_id": [number], "pid": [module.pid], "path": [module.path], "build_id": [build_id],
        "engine": [engine], "engine_version": [version], "size_bytes": [_size(module.open_path)],
        "instructions": [None if sets is None else " ".join(sets)],
    }  # fmt: skip


def site_columns(site: PlannedSite, module_id: int | None, cost_ns: float | None, levels: Sequence[str]) -> Columns:
    """Table `probe_site`. levels: those that the user allowed."""
    status = "refused" if site.refused else "attached" if site.level in (*ALWAYS, *levels) else "planned"
    return {
        "site_id": [site.site_id], "module_id": [module_id], "probe": [site.probe.id], "level": [site.level],
        "kind": [site.probe.kind], "symbol": [site.symbol], "file_offset": [site.offset],
        "instruction": [site.instruction], "cost_class": [site.cost_class], "status": [status],
        "reason": [site.reason], "hits": [0], "cost_ns": [cost_ns],
    }  # fmt: skip


def kernel_site_columns(site_id: int, event: Tracepoint | SoftwareEvent, refused: str) -> Columns:
    """Table `probe_site`: an event of the kernel itself; `refused`: why not, else empty."""
    tracepoint = isinstance(event, Tracepoint)
    return {
        "site_id": [site_id], "probe": [event.id], "level": ["sched"],
        "kind": ["tracepoint" if tracepoint else "software event"],
        "symbol": [f"{event.category}:{event.event}" if isinstance(event, Tracepoint) else event.event],
        "status": ["refused" if refused else "attached"], "reason": [refused], "hits": [0],
    }  # fmt: skip


def window_columns(window: Window) -> Columns:
    """Table `probe_window`."""
    return {
        "window_id": [window.window_id], "level": [window.level], "start_ns": [window.start_ns],
        "end_ns": [window.end_ns], "graphs": [window.graphs], "tokens": [window.tokens],
        "hits": [window.hits], "losses": [window.drops], "recorder_ns": [window.recorder_ns],
        "displaced_ns": [window.displaced_ns],
    }  # fmt: skip


def neighbour_columns(found: Sequence[Neighbour], leave_out: Container[int]) -> Columns:
    """Table `neighbour`, without the processes in `leave_out`."""
    rows = [one for one in found if one.pid not in leave_out]
    return {
        "pid": [one.pid for one in rows], "comm": [one.comm for one in rows],
        "cpu_ns": [one.cpu_ns for one in rows], "cpus": [one.cpus for one in rows],
    }  # fmt: skip


def model_columns(pid: int, model: ModelFacts) -> Columns:
    """Table `model`."""
    types = ", ".join(f"{name} {size * 100 // max(model.weight_bytes, 1)} %" for name, size in model.weight_types)
    return {
        "pid": [pid], "name": [mapped_model(pid)], "parameters": [model.parameters], "layers": [model.layers],
        "embedding": [model.embedding], "vocabulary": [model.vocabulary], "experts": [model.experts],
        "weight_bytes": [model.weight_bytes], "weight_types": [types],
    }  # fmt: skip


def rung(plan: Plan, levels: Sequence[str]) -> tuple[str, str]:
    """On which rung of each ladder the targets stand, and what the rungs above lacked; in words."""
    ladders = [(_ladder_name(x), x) for x in plan.ladders if x.engine == "ggml" or x.engine in CALL_ENGINES]
    stands = [f"{name}: {x.rung or 'not possible'}" for name, x in ladders if x.level in levels]
    lacks = [f"{name}: {missing}" for name, x in ladders for missing in x.missing]
    return "; ".join(dict.fromkeys(stands)), "; ".join(dict.fromkeys(lacks))[:2000]


def _ladder_name(ladder: LadderPlan) -> str:
    return ladder.level if ladder.engine == "ggml" else f"{ladder.engine} {ladder.level}"


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _cpus_allowed(pid: int) -> int | None:
    try:
        return len(os.sched_getaffinity(pid))
    except OSError:
        return None


def allowed(pids: Iterable[int]) -> set[int] | None:
    """The processors that the targets may use; None where all of them are gone."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found |= os.sched_getaffinity(pid)
    return found or None
