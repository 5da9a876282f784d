"""Waits planted into single threads of a live llama-server, or into its cgroup: named first by the report, and whom.

A quota is a cgroup's. Threads that sleep, or have more to do than others, are those that get a signal whose handler
(a library loaded before the engine's) reads from a slow pipe, or computes: inside an operator, wherever it is.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load, planted, quota
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.sections.waits import WaitTable
from undisturbed import DISTURBED, MS, busiest, numbers, pool, problems, recorded, report_of

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]

HANDLERS = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int slow;

static void sleeps(int number)
{
	char one;
	if (read(slow, &one, 1)) {}
}

static long now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000L + at.tv_nsec;
}

static void computes(int number)
{
	for (long begun = now(); now() - begun < 10000000;) {}
}

__attribute__((constructor)) static void install(void)
{
	struct sigaction action = {.sa_flags = SA_RESTART};
	slow = open(getenv("SLOW_PIPE"), O_RDWR);
	action.sa_handler = sleeps;
	sigaction(SIGUSR1, &action, 0);
	action.sa_handler = computes;
	sigaction(SIGUSR2, &action, 0);
}
"""

SPIN = "OMP_WAIT_POLICY=active"

StartServer = Callable[..., RunningServer]


# ---------------------------------------------------------------------- a quota


def test_a_quota_throttles_the_server(server: StartServer, tmp_path: Path) -> None:
    engine, path = server("dense-150m"), tmp_path / "x.duckdb"
    with quota.of(engine.pid, 1.0) as stat, recorded(engine, path):
        load.request(engine.url, n_predict=60, prompt_tokens=64)
        throttled = int(dict(line.split() for line in stat.read_text().splitlines())["nr_throttled"])
    assert throttled > 5, "nothing was planted"
    first = problems(report_of(path))[0]
    assert first.id == "waits.throttled", first
    assert 25 < numbers(first.claim)[0] < 60, "two threads, one processor's time: half is lost"
    times, _, longest_ms = numbers(first.evidence[0])
    assert times <= 2 * throttled + 2
    assert longest_ms < 45, "two threads use up 50 ms in 25, and the period has 25 more"
    assert first.claim.startswith("The quota of its cgroup"), first
    assert "its cgroup may use 50 ms of processor time in 50 ms (1 processor)" in first.evidence[1]
    used_up = re.search(r"used that up in (\d+) of (\d+) periods", first.evidence[1])
    assert used_up and 0.5 * throttled <= int(used_up[1]) <= int(used_up[2]), "before it was recorded, too"


# ---------------------------------------------------------------------- single threads


@pytest.fixture
def handled(server: StartServer, tmp_path: Path) -> tuple[RunningServer, Path]:
    """A server whose threads sleep at SIGUSR1 until the pipe has a byte for each, and compute 10 ms at SIGUSR2.

    They spin at barriers: where woken threads wait long for a processor, half of the signals would come to a barrier.
    """
    source, library, pipe = tmp_path / "handlers.c", tmp_path / "handlers.so", tmp_path / "pipe"
    source.write_text(HANDLERS)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    os.mkfifo(pipe)
    return server("dense-150m", wrapper=("env", f"LD_PRELOAD={library}", f"SLOW_PIPE={pipe}", SPIN)), pipe


def interrupt(pid: int, tid: int, number: signal.Signals) -> None:
    assert ctypes.CDLL(None, use_errno=True).tgkill(pid, tid, int(number)) == 0


def test_a_thread_sleeps_inside_operators(handled: tuple[RunningServer, Path], tmp_path: Path) -> None:
    (engine, pipe), path = handled, tmp_path / "x.duckdb"
    victim = busiest(engine.pid, lambda: load.request(engine.url, n_predict=20, prompt_tokens=64))[1]
    slept = []

    def hold_up() -> None:
        begun = time.monotonic_ns()
        interrupt(engine.pid, victim, signal.SIGUSR1)
        time.sleep(0.008)
        gate.write(b"x")
        slept.append(time.monotonic_ns() - begun)

    with pipe.open("wb", buffering=0) as gate, recorded(engine, path), planted.every(0.012, hold_up):
        load.request(engine.url, n_predict=60, prompt_tokens=16)
    report = report_of(path)
    found = problems(report)
    first = found[0]
    assert first.id == "waits.blocked", first
    assert f"thread {pool(path)[victim]} " in first.claim.lower(), (first, pool(path), victim)
    table = report.get(WaitTable)
    assert table is not None
    mine = [row for row in table.rows if row.tid == victim]
    blocked, asleep = (sum(getattr(row, part) for row in mine) / MS for part in ("blocked_ns", "barrier_blocked_ns"))
    print(blocked, asleep, sum(slept) / MS)
    assert blocked > 0.5 * sum(slept) / MS, "it works more than it waits"
    assert 0.6 * sum(slept) / MS < blocked + asleep <= sum(slept) / MS, "some lie between graphs"
    assert "threads.imbalance" not in {finding.id for finding in found}


def test_a_thread_has_more_to_do(handled: tuple[RunningServer, Path], tmp_path: Path) -> None:
    (engine, _), path = handled, tmp_path / "x.duckdb"
    busy = busiest(engine.pid, lambda: load.request(engine.url, n_predict=20, prompt_tokens=64))[1]
    with recorded(engine, path), planted.every(0.014, lambda: interrupt(engine.pid, busy, signal.SIGUSR2)):
        load.request(engine.url, n_predict=60, prompt_tokens=16)
    report = report_of(path)
    first = problems(report)[0]
    assert first.id == "threads.imbalance", first
    assert f"wait for thread {pool(path)[busy]}," in first.claim
    table = report.get(WaitTable)
    assert table is not None
    rows = {row.tid: row for row in table.rows if row.phase == "decode"}
    other = next(row for tid, row in rows.items() if tid != busy)
    assert other.barrier_ns - rows[busy].barrier_ns > 0.3 * other.wall_ns, "10 ms in 14"
    assert max(row.runnable_ns + row.blocked_ns for row in rows.values()) < 0.1 * other.wall_ns, "nobody was off"
