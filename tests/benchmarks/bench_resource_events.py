"""What recording the events of resources costs the target: one event, and a program with 100 000 of them a second.

    python tests/benchmarks/bench_resource_events.py

One program lives through the comparison: with one thread on one processor, and with two threads on all of them, which
share the events and this process's work. Probes are attached and taken off by this process, and periods with and
without them alternate. Between two events a thread computes for as long as makes 100 000 events a second of all threads
together when nobody looks; what the program loses is throughput. An event at a function's entry is one probe hit; one
at its return, which reads the arguments, is two.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from beside import Program, answering, ask, halves, on_another, rings_read
from flowprof.profiler.kernel_side.probes_in_place import ALWAYS, ProbesInPlace
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import Plan, make_plan
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.resources.events import ResourceEvents
from flowprof.profiler.resources.manifest import Manifest, parse
from flowprof.profiler.target import open_target
from row import Row, bootstrap

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#define SEEN __attribute__((noinline, noipa))
struct pool { long id; int free; };
/* Like functions of real size they call others, and so begin with a push. */
SEEN int check(struct pool *p) { return p->id == 7; }
SEEN void *pool_get(struct pool *p, long task) { p->free -= check(p); return (char *)p + task; }
SEEN void pool_use(struct pool *p, void *unit) { p->id += !check(p); asm volatile("" :: "r"(unit)); }
SEEN void pool_put(struct pool *p, void *unit) { p->free += check(p); asm volatile("" :: "r"(unit)); }
static struct worker {
	struct pool pool;
	long rounds, count;
	double seconds;
} __attribute__((aligned(128))) workers[64];
static int threads;
static double at(clockid_t clock) { struct timespec t; clock_gettime(clock, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static __thread volatile double sink;
static void compute(long rounds) { double x = 1; for (long i = 0; i < rounds; i++) x = x * 1.0000001 + 1e-9; sink = x; }
static void *set_pace(void *argument)
{
	struct worker *w = argument;
	double began = at(CLOCK_THREAD_CPUTIME_ID); /* what others take does not slow the pace down */
	for (int i = 0; i < 100; i++) compute(100000);
	w->rounds = 100000 * 100 / (at(CLOCK_THREAD_CPUTIME_ID) - began) * 10e-6 * threads;
	w->pool = (struct pool){7, 64};
	return 0;
}
static void *work(void *argument)
{
	struct worker *w = argument;
	double began = at(CLOCK_MONOTONIC);
	for (long i = 0; i < w->count; i++) {
		void *unit = pool_get(&w->pool, i & 7);
		compute(w->rounds);
		pool_use(&w->pool, unit);
		compute(w->rounds);
		pool_put(&w->pool, unit);
		compute(w->rounds);
	}
	w->seconds = at(CLOCK_MONOTONIC) - began;
	return 0;
}
static void all(void *(*what)(void *))
{
	pthread_t running[64];
	for (int i = 0; i < threads; i++) pthread_create(&running[i], 0, what, &workers[i]);
	for (int i = 0; i < threads; i++) pthread_join(running[i], 0);
}
int main(int argc, char **argv)
{
	long count;
	threads = argc > 1 ? atoi(argv[1]) : 1;
	all(set_pace);
	setbuf(stdout, 0);
	puts("ready");
	while (scanf("%ld", &count) == 1) {
		double per_s = 0;
		for (int i = 0; i < threads; i++) workers[i].count = count / threads;
		all(work);
		for (int i = 0; i < threads; i++) per_s += workers[i].count * 3 / workers[i].seconds;
		printf("%.12f\n", 1 / per_s);
	}
	return 0;
}
"""
AT_ENTRY = """
name = "pool"
modules = 'program'
[[resource]]
name = "unit"
kind = "memory"
[[resource.event]]
event = "acquire"
function = 'pool_get'
instance = "*(arg1):i64"
unit = "arg2"
stack = STACK
[[resource.event]]
event = "use"
function = 'pool_use'
instance = "*(arg1):i64"
unit = "arg2"
[[resource.event]]
event = "release"
function = 'pool_put'
instance = "*(arg1):i64"
unit = "arg2"
"""
RETURN = "function = 'pool_get'\nat = \"return\"\nno_unwind = true"
KINDS = {
    "at entries": AT_ENTRY.replace("STACK", "false"),
    "at entries, a third with a stack": AT_ENTRY.replace("STACK", "true"),
    "a third at returns, with a stack": AT_ENTRY.replace("STACK", "true").replace("function = 'pool_get'", RETURN),
}
LIMIT = 4.0  # per cent at 100 000 events a second


def measured(quick: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    pairs = 4 if quick else 20
    with on_another(), answering(PROGRAM, "-lpthread") as program:
        for what, text in KINDS.items():
            yield from slowdown(program, what, parse(text, "pool.toml"), pairs)
    with answering(PROGRAM, "-lpthread", before=(), arguments=("2",)) as program:
        for what, text in KINDS.items():
            yield from slowdown(program, f"{what}, of two threads", parse(text, "pool.toml"), pairs, 2)


def slowdown(program: Program, what: str, manifest: Manifest, pairs: int, threads: int = 1) -> Iterator[Row]:
    plan = make_plan([open_target(program.pid)], kernel.version(), (), manifests=(manifest,))
    probes = ProbesInPlace(resources=True, stacks=True)
    try:
        events = ResourceEvents((manifest,), Stacks(probes.stacks))
        probes.load([site for site in plan.sites if not site.refused])
        probes.place_taps(*events.know(plan.sites))
        ratios, costs = [], []
        ask(program, 3000)
        for number in range(pairs):
            seconds = {}
            for on in halves(number):
                with attached(probes, plan) if on else nullcontext():
                    ask(program, 1000)
                    seconds[on] = ask(program, 10_000)
            ratios.append(math.log(seconds[True] / seconds[False]))
            costs.append((seconds[True] - seconds[False]) * 1e6 * threads)
        mean, low, high = (100 * (math.exp(value) - 1) for value in bootstrap(ratios))
        note = f"{pairs} pairs; {1e-5 / seconds[False] * 1e5:,.0f} events/s"
        yield Row(f"100 000 resource events/s, {what}", mean, "%", LIMIT, interval=(low, high), note=note)
        mean, low, high = bootstrap(costs)
        yield Row(f"one resource event, {what}", mean, "µs", interval=(low, high), note=f"{pairs} pairs")
    finally:
        probes.close()


@contextmanager
def attached(probes: ProbesInPlace, plan: Plan) -> Iterator[None]:
    """With the functions probed and the rings read."""
    probes.attach_always([site for site in plan.sites if site.level in ALWAYS and not site.refused])
    try:
        with rings_read(probes):
            yield
    finally:
        probes.detach()


if __name__ == "__main__":
    for row in measured("--quick" in sys.argv[1:]):
        print(row)
