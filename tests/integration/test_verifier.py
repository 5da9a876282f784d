"""The kernel's verifier follows a program for at most a million steps, and another kernel may need several times as
many as this one for the same program (6.1 four times as many as 6.18): every program must be far from the limit."""

from __future__ import annotations

import ctypes
import struct

import pytest
from flowprof.probes import ENGINES
from flowprof.probes.sched import INTERRUPTS, SCHED, Tracepoint
from flowprof.profiler.kernel_side.bpf import Kind, Module
from flowprof.profiler.kernel_side.operator_counters import KINDS_OF
from flowprof.profiler.kernel_side.probes_in_place import RESOURCES, SOURCES, STACKS, _sources
from flowprof.profiler.machine import kernel

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

MOST_STEPS = 200_000
OBJ_GET_INFO, VERIFIED_STEPS = 15, 216  # struct bpf_prog_info; kernels before 5.16 leave zero there
KERNEL_EVENTS = (*SCHED, *(end for pair in INTERRUPTS for end in pair))
TRACEPOINTS = {event.program for event in KERNEL_EVENTS if isinstance(event, Tracepoint)}
PERF_EVENTS = {event.program for event in KERNEL_EVENTS} - TRACEPOINTS
ALL = tuple(dict.fromkeys((*SOURCES, *_sources(engine.name for engine in ENGINES), RESOURCES)))


@pytest.mark.parametrize("counters", [0, *KINDS_OF.values()])
def test_every_program_is_far_from_the_verifiers_limit(counters: int) -> None:
    module = Module(*ALL, ring_shift=12, multi=False, counters=counters, stacks=STACKS)
    steps = {name: _steps(module.program(name, _kind(name)).fd) for name in module._object.programs}
    module.close()
    assert len(steps) > 50
    assert {name: count for name, count in steps.items() if count > MOST_STEPS} == {}


def _kind(name: str) -> Kind:
    if name in TRACEPOINTS or "_syscall" in name:
        return "TRACEPOINT"
    return "PERF_EVENT" if name in PERF_EVENTS else "KPROBE"


def _steps(program: int) -> int:
    info = ctypes.create_string_buffer(256)
    kernel.bpf(OBJ_GET_INFO, struct.pack("<IIQ", program, len(info), ctypes.addressof(info)))
    return int(struct.unpack_from("<I", info, VERIFIED_STEPS)[0])
