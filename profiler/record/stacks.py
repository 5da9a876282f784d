"""Stacks of the targets' threads: numbers for the kernel side's keys, and rows of table `stack` from what it copied."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from flowprof.profiler.binaries.symbolize import Place, symbolize
from flowprof.profiler.binaries.unwind import Frame, Registers, unwind
from flowprof.profiler.columns import Columns
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.target import Module
from numpy.typing import NDArray

_HEAD = struct.Struct("<8QI4x")  # struct user_stack of stacks.bpf.c: registers, length; then the bytes
MAX_STACKS = 4096  # distinct ones that are kept
MAX_FRAMES = 64

Look = Callable[[Iterable[int]], Mapping[int, bytes]]


class Stacks:
    """The stacks of a session."""

    def __init__(self, look: Look) -> None:
        """look: the stacks behind keys, as bytes (struct user_stack), as far as they are still there."""
        self._look = look
        self._numbers: dict[int, int] = {}  # by key
        self._raw: dict[int, tuple[int, int, bytes]] = {}  # number → process, site, struct user_stack
        self.left = 0  # stacks of events and waits that are not known: there were too many, or they were gone

    def numbers(self, keys: NDArray[np.integer[Any]], events: NDArray[np.void]) -> NDArray[np.int32]:
        """The stack_id of each event, by its key; 0: none was taken, or there were too many."""
        distinct, first, at = np.unique(keys, return_index=True, return_inverse=True)
        new = {int(key): events[i] for key, i in zip(distinct, first, strict=True) if key and key not in self._numbers}
        found = self._look(new) if new else {}
        for key, event in new.items():
            raw = found.get(key)
            if len(self._raw) < MAX_STACKS and raw is not None:
                self._numbers[key] = number = len(self._raw) + 1
                self._raw[number] = (int(event["pid"]), int(event["site"]), raw)
        ids: NDArray[np.int32] = np.array([self._numbers.get(key, 0) for key in distinct.tolist()], np.int32)[at]
        self.left += int(np.count_nonzero((ids == 0) & (keys != 0)))
        return ids

    def add(self, pid: int, registers: Registers, copied: bytes) -> int | None:
        """The stack_id of one more; None: there are too many. copied: what lies from rsp on."""
        if len(self._raw) >= MAX_STACKS:
            self.left += 1
            return None
        number = len(self._raw) + 1
        self._raw[number] = (pid, 0, _HEAD.pack(*astuple(registers), len(copied)) + copied)
        return number

    def columns(self, sites: Mapping[int, PlannedSite], modules: Mapping[int, Sequence[Module]]) -> Columns:
        """Table `stack`. modules: the files of each process."""
        return _columns(self._raw, sites, modules)


def _columns(
    raw: Mapping[int, tuple[int, int, bytes]], sites: Mapping[int, PlannedSite], modules: Mapping[int, Sequence[Module]]
) -> Columns:
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
