"""What recording the events of resources costs the programs with planted troubles (examples/), each at its own work.

    python tests/benchmarks/bench_resource_examples.py [--quick]

Each program runs as a whole, with its manifest's probes in place and without them in turns, pairs of runs next to each
other. It tells what every thread did and how much processor time it took. Denominator: the processor time of all its
threads; the hottest one computes all along, as an application does, and the others, whose events these are, mostly
sleep: what they take for an event more than without probes is what the event costs. A cost at 100 000 events a second
is that of as many in a second of the program's processor time, whatever the program's own rate.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from bench_resource_events import LIMIT, attached
from beside import halves
from flowprof.examples.planted_resource import DECOY, PlantedResource, Program
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.resources.events import ResourceEvents
from flowprof.profiler.resources.manifest import load
from flowprof.profiler.target import open_target
from row import Row, bootstrap

EXAMPLES = {
    "G1": "scan_floods_pool", "G2": "table_lock_held", "G3": "acquired_never_used", "G4": "dead_client",
    "G5": "log_purge_floods_pool", "G6": "leaked_handle", "G7": "one_unit_at_a_time",
}  # fmt: skip
KINDS = ("wait", "acquire", "use", "release")
ENOUGH = 1000  # events of a run: with fewer the cost of one cannot be told from what else varies


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a program. workers_ns: processor time of the threads whose events these are."""

    events: int
    workers_ns: int
    all_ns: int
    seconds: float


def measured(quick: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    own, scaled = [], []
    for number, name in EXAMPLES.items():
        planted: PlantedResource = importlib.import_module(f"flowprof.examples.{name}").RESOURCE
        pairs = [
            {on: live(planted, 1.0 if quick else 3.0, on) for on in halves(pair)} for pair in range(2 if quick else 10)
        ]
        one = pairs[0][True]
        what, rate = f"{number} {name}", one.events / one.all_ns * 1e9
        note = f"{len(pairs)} pairs; {one.events / one.seconds:,.0f} events/s"
        if one.events < ENOUGH:
            yield Row(f"resource events of {what}", None, "%", note=f"{note}: too few to tell")
            continue
        costs = [cost_us(pair[False], pair[True]) for pair in pairs]
        cost, low, high = bootstrap(costs)
        own.append([one * rate / 1e4 for one in costs])
        scaled.append([one * 10 for one in costs])
        interval = (low * rate / 1e4, high * rate / 1e4)
        yield Row(f"resource events of {what}, of its processor time", cost * rate / 1e4, "%", interval=interval,
                  note=f"{note}, {cost:.2f} µs each")  # fmt: skip
        yield Row(f"the same, at 100 000 events/s, {what}", cost * 10, "%", interval=(low * 10, high * 10), note=note)
    for what, each, limit in (("at their own rates", own, None), ("at 100 000 events/s", scaled, LIMIT)):
        mean, low, high = bootstrap([sum(pair) / len(pair) for pair in zip(*each, strict=True)])
        yield Row(f"resource events, mean of {len(each)} examples, {what}", mean, "%", limit, interval=(low, high),
                  note="of their processor time; G2 has too few events" if math.isfinite(mean) else "")  # fmt: skip


def cost_us(without: Run, probed: Run) -> float:
    """What an event costs more, µs."""
    return (probed.workers_ns / probed.events - without.workers_ns / without.events) / 1e3


def live(planted: PlantedResource, seconds: float, on: bool) -> Run:
    """One whole life, with probes in place or not."""
    with Program(planted, seconds) as program:
        manifest = load(planted.manifests)
        plan = make_plan([open_target(program.pid)], kernel.version(), (), manifests=(manifest,))
        probes = ProbesInPlace(resources=True, stacks=True)
        try:
            events = ResourceEvents((manifest,), Stacks(probes.stacks))
            probes.load([site for site in plan.sites if not site.refused])
            probes.place_taps(*events.know(plan.sites))
            with attached(probes, plan) if on else nullcontext():
                program.begin()
                return told(program.truth())
        finally:
            probes.close()


def told(truth: Mapping[str, Any]) -> Run:
    """What the program tells of itself."""
    workers = [thread for thread in truth["threads"] if thread["name"] != DECOY]
    events = sum(tally[kind] for thread in workers for tally in thread["resources"].values() for kind in KINDS)
    everybody = sum(thread["cpu_ns"] for thread in truth["threads"])
    used = sum(thread["cpu_ns"] for thread in workers)
    return Run(events, used, everybody, (truth["end_ns"] - truth["start_ns"]) / 1e9)


if __name__ == "__main__":
    for row in measured("--quick" in sys.argv[1:]):
        print(row)
