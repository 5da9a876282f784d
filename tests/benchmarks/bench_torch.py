"""What recording PyTorch's operators costs: attaching to all 3 100 of them, and how much slower a loop becomes.

    python tests/benchmarks/bench_torch.py

One program lives through the comparison, on one processor with one thread; probes are attached and taken off by this
process (the rings are read by a thread of it, as the recorder does), and periods with and without them alternate. A
period is a fixed number of iterations, timed by the program itself. The loop of operators of about 1 ms shows what an
inference engine would notice; the loop of tiny ones what a call costs: its entry, its exit and the shapes between.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # torch_engine, also used by the tests

import torch_engine
from beside import ON_ITS_OWN, halves, on_another, rings_read
from flowprof.probes import engines
from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import Plan, make_plan
from flowprof.profiler.target import open_target
from flowprof.profiler.torch.layout import tensor_layout
from flowprof.profiler.torch.schemas import read_schemas, struct_name
from row import Row, bootstrap

PROGRAM = """
import json, sys, time, torch
torch.set_num_threads(1)
torch.set_grad_enabled(False)
size, work = 64, None
while work is None:
    a = torch.randn(size, size)
    began = time.perf_counter()
    for _ in range(20):
        torch.mm(a, a)
    if (time.perf_counter() - began) / 20 >= 1e-3:
        work = a
    size = int(size * 1.1) + 1
tiny = torch.randn(4, 4)
print(json.dumps(size), flush=True)
for line in sys.stdin:
    which, count = line.split()
    a = work if which == "work" else tiny
    began = time.perf_counter()
    for _ in range(int(count)):
        torch.mm(a, a)
    print(json.dumps((time.perf_counter() - began) / int(count)), flush=True)
"""


def measured(quick: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    with on_another(), torch_engine.running(PROGRAM, *ON_ITS_OWN) as program:
        target = open_target(program.pid)
        whole = make_plan([target], kernel.version(), engines("all"))
        chosen = make_plan([target], kernel.version(), engines())
        probes = ProbesInPlace(engines=["torch"])
        try:
            prepare(probes, chosen)
            yield attaching(probes, whole, 3 if quick else 9)
            yield from slowdown(program, probes, chosen, 4 if quick else 24)
        finally:
            probes.close()


def prepare(probes: ProbesInPlace, plan: Plan) -> None:
    """As the recorder does: arguments to read, and the tensors' layout."""
    site = plan.sites[0]
    probes.load([one for one in plan.sites if one.probe.program in ("torch_begin", "call_end")][:400])
    schemas = read_schemas(open_elf(site.module))
    for one in plan.sites:
        schema = schemas.get(struct_name(one.symbol) or "")
        if schema is not None and one.probe.kind == "entry":
            probes.read_arguments(one.site_id, schema.places(one.symbol))
    probes.set_tensor_layout(site.pid, tensor_layout(plan.targets[0], site.module, site.build_id))


def attaching(probes: ProbesInPlace, plan: Plan, times: int) -> Row:
    entries = sum(site.probe.kind == "entry" and not site.refused for site in plan.sites)
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        probes.attach_deep(list(plan.sites), "op")
        seconds.append(time.monotonic() - began)
        probes.detach_deep()
    note = f"{min(seconds):.2f} … {max(seconds):.2f} s in {times}; {entries} operators, entry and exit of each"
    return Row("attach to all PyTorch operators", statistics.median(seconds), "s", 0.5, note=note)


def slowdown(program: torch_engine.Program, probes: ProbesInPlace, plan: Plan, pairs: int) -> Iterator[Row]:
    for which, count in (("work", 300), ("tiny", 40_000)):
        ratios, costs = [], []
        program.ask(f"{which} {count}")
        for number in range(pairs):
            seconds = {}
            for on in halves(number):
                with attached(probes, plan) if on else nullcontext():
                    program.ask(f"{which} {count // 20}")
                    seconds[on] = program.ask(f"{which} {count}")
            ratios.append(math.log(seconds[True] / seconds[False]))
            costs.append((seconds[True] - seconds[False]) * 1e9)
        if which == "work":
            mean, low, high = (100 * (math.exp(value) - 1) for value in bootstrap(ratios))
            note = f"{pairs} pairs; one operator an iteration"
            yield Row("loop of PyTorch operators of 1 ms", mean, "%", 2.0, interval=(low, high), note=note)
        else:
            mean, low, high = bootstrap(costs)
            note = f"{pairs} pairs; entry, exit, shapes, strides and types of two tensors"
            yield Row("one call of a PyTorch operator", mean / 1e3, "µs", interval=(low / 1e3, high / 1e3), note=note)


@contextmanager
def attached(probes: ProbesInPlace, plan: Plan) -> Iterator[None]:
    """With the operators probed and the rings read."""
    probes.attach_deep(list(plan.sites), "op")
    try:
        with rings_read(probes):
            yield
    finally:
        probes.detach_deep()


if __name__ == "__main__":
    for row in measured("--quick" in sys.argv[1:]):
        print(row)
