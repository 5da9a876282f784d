"""The stacks at events of resources: rows of table `stack` from what the kernel side copied."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from flowprof.profiler.columns import Columns
from flowprof.profiler.planned_site import PlannedSite
from flowprof.profiler.symbolize import Place, symbolize
from flowprof.profiler.target import Module
from flowprof.profiler.unwind import Frame, Registers, unwind

_HEAD = struct.Struct("<8QI4x")  # struct resource_stack of resources.bpf.c: registers, length; then the bytes
MAX_FRAMES = 64


def stack_columns(
    raw: Mapping[int, tuple[int, int, bytes]], sites: Mapping[int, PlannedSite], modules: Mapping[int, Sequence[Module]]
) -> Columns:
    """Table `stack`. raw: number → process, site, struct resource_stack; modules: the files of each process."""
    walked = {number: _frames(*one, sites, modules) for number, one in raw.items()}
    wanted: dict[Module, set[int]] = {}
    for frames in walked.values():
        for frame in frames:
            wanted.setdefault(frame.module, set()).add(frame.address)
    places = {module: symbolize(module, addresses) for module, addresses in wanted.items()}
    rows = [(number, i, frame) for number, frames in walked.items() for i, frame in enumerate(frames)]
    found: list[Place] = [places[frame.module][frame.address] for _, _, frame in rows]
    return {
        "stack_id": [number for number, _, _ in rows], "frame": [i for _, i, _ in rows],
        "module": [frame.module.path for _, _, frame in rows], "address": [frame.address for _, _, frame in rows],
        "function": [place.function for place in found], "source": [place.source for place in found],
        "how": [frame.how for _, _, frame in rows],
    }  # fmt: skip


def _frames(
    pid: int, site_id: int, raw: bytes, sites: Mapping[int, PlannedSite], modules: Mapping[int, Sequence[Module]]
) -> list[Frame]:
    """From the probed function on. A return probe comes behind it: there the stack begins with its caller."""
    if len(raw) < _HEAD.size:
        return []
    *registers, length = _HEAD.unpack_from(raw)
    site = sites.get(site_id)
    found = unwind(Registers(*registers), raw[_HEAD.size : _HEAD.size + length], modules.get(pid, ()))
    if site is not None and site.probe.kind == "return" and site.address is not None:
        found = [Frame(site.module, site.address, "exact"), *found]
    return found[:MAX_FRAMES]
