"""What recording the scheduler costs a target that waits: one wait, with its waker and its stack.

    python tests/benchmarks/bench_waits.py

Two threads of one program hand a word to each other on one processor, so that each hand-over is one wait that begins,
one wake-up and one that ends. The scheduler's probes are attached and taken off by this process, and periods with and
without them alternate.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from beside import Program, answering, ask, halves, on_another, rings_read
from flowprof.probes.sched import SCHED
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from row import Row, bootstrap

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <time.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t handed[2] = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};
static int turn;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
__attribute__((noinline)) static void hand_over(int own)
{
	turn = !own;
	pthread_cond_signal(&handed[!own]);
	while (turn != own)
		pthread_cond_wait(&handed[own], &lock);
}
static void *other(void *nothing)
{
	pthread_mutex_lock(&lock);
	while (turn != 1)
		pthread_cond_wait(&handed[1], &lock);
	for (;;)
		hand_over(1);
	return nothing;
}
int main(void)
{
	long count;
	pthread_t thread;
	pthread_create(&thread, NULL, other, NULL);
	setbuf(stdout, 0);
	puts("ready");
	while (scanf("%ld", &count) == 1) {
		double began = now();
		pthread_mutex_lock(&lock);
		for (long i = 0; i < count; i++)
			hand_over(0);
		pthread_mutex_unlock(&lock);
		printf("%.9f\n", (now() - began) / count / 2);
	}
	return 0;
}
"""


def measured(quick: bool = False) -> Iterator[Row]:
    """The row, when it is measured."""
    with on_another(), answering(PROGRAM, "-lpthread") as program:
        yield cost(program, 4 if quick else 20)


def cost(program: Program, pairs: int) -> Row:
    probes = ProbesInPlace(stacks=True)
    try:
        probes.trace(program.pid)
        costs, base = [], 0.0
        ask(program, 3000)
        for number in range(pairs):
            seconds = {}
            for on in halves(number):
                with attached(probes) if on else nullcontext():
                    ask(program, 3000)
                    seconds[on] = ask(program, 20_000)
            costs.append((seconds[True] - seconds[False]) * 1e6)
            base += seconds[False] * 1e6 / pairs
    finally:
        probes.close()
    mean, low, high = bootstrap(costs)
    note = f"{pairs} pairs; a hand-over takes {base:.2f} µs when nobody looks"
    return Row("one wait with its waker and stack (scheduler)", mean, "µs", interval=(low, high), note=note)


@contextmanager
def attached(probes: ProbesInPlace) -> Iterator[None]:
    """With the scheduler's events recorded and the rings read."""
    refused = probes.attach_sched({event.id: number for number, event in enumerate(SCHED, 1)})
    assert not refused, refused
    try:
        with rings_read(probes):
            yield
    finally:
        probes.detach()


if __name__ == "__main__":
    for row in measured("--quick" in sys.argv[1:]):
        print(row)
