"""CUDA: what a process asks of its GPUs, through the runtime (shared, or linked into a program) and the driver.

Every function that launches, copies, waits or allocates is probed where it begins and, by a return probe, where it
returns: they are C, and no exception leaves them. The runtime calls the driver, so the driver's functions are probed
where no runtime can be: it is linked statically, without symbols. Only its launches are always probed: Triton and
others call them on their own. One within a runtime's call is told by its parent, and counts once.

Calls that pin memory of the host, make graphs or look up functions are rare, and watched all the time: what was pinned
must be known when it is copied, and which graph or function it is when it is launched.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung
from flowprof.probes.device_functions import (
    DRIVER,
    DRIVER_FUNCTIONS,
    DRIVER_GRAPHS,
    DRIVER_LAUNCHES,
    DRIVER_PINNED,
    GRAPHS,
    PINNED,
    RUNTIME,
    VARIANTS,
    Function,
)


def probes(engine: str, functions: Iterable[Function]) -> tuple[Probe, ...]:
    """An entry and a return for each, grouped by what they do."""
    found = []
    for function in functions:
        symbols = tuple(function.name + variant for variant in VARIANTS)
        name = f"{engine}.{function.what}"
        found.append(Probe(name, "entry", function.program, function.args, symbols, required=False))
        found.append(Probe(f"{name}.return", "return", "device_end", 0, symbols, required=False))
    return tuple(found)


CUDA = Engine(
    "cuda",
    b"LaunchKernel",
    "cuda.bpf.c",
    (
        Ladder(
            "token",
            "which memory of the host is pinned, and which graphs are made",
            (
                Rung("runtime", "cudaHostAlloc and the like, captures", probes("cuda", (*PINNED, *GRAPHS))),
                Rung("driver", "the driver's, likewise", probes("cuda", (*DRIVER_PINNED, *DRIVER_GRAPHS))),
            ),
        ),
        Ladder(
            "token",
            "what the driver's functions are called",
            (Rung("names", "looked up in a module or library", probes("cuda", DRIVER_FUNCTIONS)),),
        ),
        Ladder(
            "op",
            "what is asked of the GPUs",
            (
                Rung("runtime", "the CUDA runtime's launches, copies, waits and allocations", probes("cuda", RUNTIME)),
                Rung("driver", "the driver's copies, waits and allocations: no runtime with symbols is there",
                     probes("cuda", DRIVER)),
            ),
        ),
        Ladder(
            "op",
            "which kernels are launched through the driver",
            (Rung("driver launches", "also those of the runtime, which count once", probes("cuda", DRIVER_LAUNCHES)),),
        ),
    ),
)  # fmt: skip
