"""The tables of CUDA's host side, as texts: the terminal shows the first rows of the first ones, the HTML page all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from flowprof.profiler.sections.cuda_host import CudaHost, stream_name
from flowprof.viewers.quantity import clean, count, duration, percent, rate, size


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table: the first `names` columns are texts, the others figures."""

    id: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def sentence(host: CudaHost) -> str:
    """What there was, in one line."""
    parts = [f"{count(host.launches)} launches", f"{count(host.graph_launches)} of graphs"]
    if host.captured:
        parts.append(f"{count(host.captured)} captured into graphs")
    if host.graph_launch_share:
        parts.append(f"{percent(host.graph_launch_share)} of the launching calls launch a graph")
        parts.append(_in_graphs(host))
    parts.append(f"{duration(host.launch_ns)} in launching calls, {duration(host.wait_ns)} in waits")
    if not host.gpu_observed and host.span_ns:
        parts.append(f"all streams empty ≥ {percent(host.drained_ns / host.span_ns)} of {duration(host.span_ns)}")
    if host.failed:
        parts.append(f"{count(host.failed)} calls returned an error")
    return " · ".join(parts)


def _in_graphs(host: CudaHost) -> str:
    """How many kernels that were."""
    if host.graph_kernel_share is not None:
        return f"{percent(host.graph_kernel_share)} of the kernels were launched by graphs, as these were captured"
    if not host.graph_launches_known:
        return "how many kernels graphs hold is not known: they were made before"
    known, all_ = count(host.graph_launches_known), count(host.graph_launches)
    return f"{count(host.graph_kernels)} kernels by {known} of {all_} graph launches, of the others it is not known"


def sheets(host: CudaHost) -> list[Sheet]:
    """The tables that have rows."""
    found = [
        Sheet(
            "streams", "CUDA streams", "host time; queued: at most; empty: at least",
            ("stream", "launches", "graphs", "per s", "each", "queued", "empty", "waited"),
            tuple(
                (stream_name(one.stream, host.gpu_observed), count(one.launches), count(one.graph_launches),
                 "–" if one.launches_per_s is None else rate(one.launches_per_s), duration(one.launch_ns),
                 count(one.depth), duration(one.drained_ns), duration(one.wait_ns))
                for one in host.streams
            ),
        ),
        Sheet(
            "kernels", "CUDA launches", "host time, not the kernels'",
            ("kernel", "launches", "host time", "grid", "block"),
            tuple(
                (clean(one.name, 120) or "name not known", count(one.launches), duration(one.host_ns),
                 _dim(one.grid), _dim(one.block))
                for one in host.kernels
            ),
        ),
        Sheet(
            "waits", "Waits for the device", "", ("call", "for stream", "calls", "time", "longest"),
            tuple(
                (clean(one.function, 40),
                 "all, or unknown" if one.stream is None else stream_name(one.stream, host.gpu_observed),
                 count(one.calls), duration(one.total_ns), duration(one.longest_ns))
                for one in host.waits
            ),
            names=2,
        ),
        Sheet(
            "copies", "Copies", "time the host was in the call",
            ("direction", "host memory", "calls", "bytes", "host time"),
            tuple(
                (one.direction or "not known", one.host_memory or "–", count(one.calls), _known(one.size_bytes, size),
                 duration(one.host_ns))
                for one in host.copies
            ),
            names=2,
        ),
        Sheet(
            "collectives", "Collectives", "bytes of this process",
            ("call", "communicator", "calls", "bytes", "host time"),
            tuple(
                (clean(one.function, 40), f"{one.communicator & (1 << 64) - 1:#x}", count(one.calls),
                 size(one.size_bytes), duration(one.host_ns))
                for one in host.collectives
            ),
            names=2,
        ),
    ]  # fmt: skip
    used = host.allocator
    if used.allocations or used.frees:
        row = (count(used.allocations), count(used.frees), _known(used.size_bytes, size), _known(used.repeated, count),
               duration(used.host_ns))  # fmt: skip
        heads = ("allocations", "frees", "allocated", "of a size seen before", "host time")
        found.append(Sheet("allocator", "Allocations", "device memory and pinned", heads, (row,), names=0))
    return [sheet for sheet in found if sheet.rows]


def _known(value: int | None, shown: Callable[[int], str]) -> str:
    return "–" if value is None else shown(value)


def _dim(text: str) -> str:
    """`[8, 1, 1]` as 8, `[8, 2, 1]` as 8x2; "–" when it was not recorded or makes no sense."""
    try:
        sizes = json.loads(text) if text else []
    except ValueError:
        return "–"
    if not isinstance(sizes, list) or len(sizes) != 3 or not all(isinstance(one, int) for one in sizes):
        return "–"
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return "x".join(map(str, sizes))
