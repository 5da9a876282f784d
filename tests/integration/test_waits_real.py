"""Waits planted in a live llama-server: the report must name the planted cause first, and who, when and how long."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pytest
from flowprof.examples import load, synthetic_model
from flowprof.examples.hog import running as hog
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.read_from_disk import evict
from flowprof.profiler.findings import Finding
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.kernel_side.ring import MAJOR_FAULT, OFF_CPU
from flowprof.profiler.machine import calibrate
from flowprof.profiler.record.schedule import Schedule
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.waits import WaitTable
from flowprof.profiler.store import Recording
from recorded import read
from undisturbed import CPUS, DISTURBED, MS, busiest, numbers, pool, problems, recorded, report_of

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine, pytest.mark.usefixtures("recorder_first_in_line")]

HEALTHY = 20
WITHIN_S = 100
DELAYED_MS = 50  # a dozen of the scheduler's slices, over both threads: no more than that could be lost
WAITS = ("waits.", "threads.", "thread_count.", "processes.")
PAUSE = """
import os, signal, sys, time
pid, seconds = int(sys.argv[1]), float(sys.argv[2])
stopped = time.monotonic_ns()
os.kill(pid, signal.SIGSTOP)
try:
    time.sleep(seconds)
finally:
    os.kill(pid, signal.SIGCONT)
print(stopped, time.monotonic_ns())
"""
PING_PONG = r"""
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static int count;

static void *waiter(void *none)
{
	printf("%ld\n", (long)syscall(SYS_gettid));
	fflush(stdout);
	for (int seen = 0; seen < 23; seen++)
		while (__atomic_load_n(&count, __ATOMIC_SEQ_CST) <= seen)
			syscall(SYS_futex, &count, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0);
	return 0;
}

int main(void)
{
	pthread_t thread;
	getchar();
	pthread_create(&thread, 0, waiter, 0);
	for (int i = 0; i < 23; i++) {
		usleep(5000);
		__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &count, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	}
	pthread_join(thread, 0);
	puts("done");
	fflush(stdout);
	getchar();
	return 0;
}
"""


# ---------------------------------------------------------------------- one test per cause


def test_another_program_takes_a_processor(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    engine, path = server("dense-150m"), tmp_path / "x.duckdb"
    with hog(CPUS[1], 20, 20) as pid, recorded(engine, path):
        load.request(engine.url, n_predict=60, prompt_tokens=64)
    report = report_of(path)
    first = problems(report)[0]
    assert first.id == "waits.preempted" and f"planted-hog ({pid})" in first.claim, first
    table = report.get(WaitTable)
    assert table is not None
    mine = [cause for cause in table.causes if cause.by_tid == pid]
    assert {(cause.state, cause.by_comm, cause.by_own_process) for cause in mine} == {
        ("runnable", "planted-hog", False)
    }
    if "share the rest" not in first.claim:  # else the evidence names who waits for whom on the processor that is left
        # Who waited is who was on that processor: the hog's share of the waits of the thread that the evidence names.
        named = int(numbers(first.evidence[1])[0])
        assert max(mine, key=lambda cause: cause.total_ns).ith == named
    assert 3 < max(cause.longest_ns for cause in mine) / MS < 60, "at a time: a slice of 4 ms, up to its 20 and a few"


def test_two_threads_bound_to_one_processor(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    engine, path = server("tiny"), tmp_path / "x.duckdb"
    pair = busiest(engine.pid, lambda: load.request(engine.url, n_predict=100, prompt_tokens=64))
    with recorded(engine, path):
        load.request(engine.url, n_predict=100, prompt_tokens=16)  # so that one graph too early is no loss to speak of
        for tid in pair:
            os.sched_setaffinity(tid, {CPUS[1]})
        load.request(engine.url, n_predict=6, prompt_tokens=16)
    report, bound = report_of(path), pool(path)
    assert set(bound) == set(pair)
    first = problems(report)[0]
    assert first.id == "waits.shared_processor", first
    assert f"take turns on processor {CPUS[1]}" in first.claim
    assert re.search(r"thread [01] of the pool waits for thread [01],", first.claim)
    assert f"both may use processors {CPUS[1]} only" in first.evidence[1]


def test_one_thread_shares_its_processor(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """A hog of 5 ms in 15 on the processor to which one thread is bound: the other one waits at barriers."""
    engine, path = server("dense-150m"), tmp_path / "x.duckdb"
    pair = busiest(engine.pid, lambda: load.request(engine.url, n_predict=20, prompt_tokens=64))
    os.sched_setaffinity(pair[0], {CPUS[0]})
    os.sched_setaffinity(pair[1], {CPUS[1]})
    with hog(CPUS[1], 5, 10) as pid, recorded(engine, path):
        load.request(engine.url, n_predict=120, prompt_tokens=64)
    report, bound = report_of(path), pool(path)
    found = problems(report)
    assert {finding.id for finding in found} == {"waits.preempted"}, "one cause, one finding (of each phase)"
    assert f"planted-hog ({pid})" in found[0].claim
    assert f"thread {bound[pair[1]]} waited longest" in found[0].evidence[1], (bound, pair)
    table = report.get(WaitTable)
    assert table is not None
    rows = {row.tid: row for row in table.rows if row.phase == "decode"}
    hurt, other = rows[pair[1]], rows[pair[0]]
    assert hurt.runnable_ns > max(0.1 * hurt.wall_ns, 2 * other.runnable_ns)
    assert other.barrier_ns > hurt.runnable_ns * 0.8 and other.barrier_ns > 2 * hurt.barrier_ns
    waited = [root for root in table.roots if (root.phase, root.wait, root.ith) == ("decode", "barrier", other.ith)]
    assert {root.direct_ith for root in waited} == {hurt.ith}, "at first sight it waits for the other thread"
    first = max(waited, key=lambda root: root.total_ns)
    assert (first.cause, first.by_tid, first.by_comm) == ("runnable", pid, "planted-hog"), "in the end for the hog"


def major_faults(pid: int) -> dict[int, int]:
    """Of every thread so far."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
            found[int(task)] = int(text.rpartition(")")[2].split()[9])
    return found


def test_the_model_is_read_from_disk(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    own = Path(shutil.copy(synthetic_model.write("dense-150m"), tmp_path))  # pages that others have mapped would stay
    engine, path = server(own), tmp_path / "x.duckdb"
    gained: Counter[int] = Counter()
    with recorded(engine, path):
        began = time.monotonic_ns()
        for _ in range(4):  # read-ahead may take megabytes at a time: few faults, long ones
            evict(engine)
            before = major_faults(engine.pid)
            load.request(engine.url, n_predict=1, prompt_tokens=16)
            gained += Counter(major_faults(engine.pid)) - Counter(before)
    truth = sum(gained.values())
    per_thread = dict(read(path, "SELECT tid, count(*) FROM page_fault WHERE at_ns > ? GROUP BY tid", began))
    assert truth >= 4, "the model was still in memory: nothing was planted"
    assert sum(per_thread.values()) == pytest.approx(truth, rel=0.01)
    assert per_thread == dict(gained)
    assert read(path, "SELECT DISTINCT file FROM page_fault WHERE at_ns > ?", began) == [(str(own),)]
    report = report_of(path)
    first = problems(report)[0]
    assert first.id == "waits.fault" and first.cost_ns_per_token, first
    table = report.get(WaitTable)
    assert table is not None and table.major_faults >= truth
    assert f"{table.major_faults} major page faults" in first.evidence[1]
    assert set(gained) & set(pool(path))


def test_the_process_is_stopped(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    engine, path = server("dense-150m"), tmp_path / "x.duckdb"
    with recorded(engine, path):
        request = threading.Thread(
            target=load.request, args=(engine.url,), kwargs={"n_predict": 300, "prompt_tokens": 16}
        )
        request.start()
        time.sleep(0.5)
        pauser = subprocess.Popen([sys.executable, "-c", PAUSE, str(engine.pid), "0.08"], stdout=subprocess.PIPE)
        stopped, continued = map(int, pauser.communicate()[0].split())
        request.join()
    first = problems(report_of(path))[0]
    assert first.id == "waits.stopped", first
    began = int(dict(read(path, "SELECT key, value FROM meta"))["started_ns"])
    ms, seconds = numbers(first.claim)
    truth_ms = (continued - stopped) / MS
    assert 80 - 5 <= ms <= truth_ms + 40, (ms, truth_ms)
    assert abs(seconds - (stopped - began) / 1e9) < 0.05
    assert f"({pauser.pid})" in first.evidence[1], "who sent SIGCONT"


def test_more_threads_than_processors(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    engine, path = server("tiny", threads=2 * len(CPUS)), tmp_path / "x.duckdb"
    with recorded(engine, path):
        load.request(engine.url, n_predict=24, prompt_tokens=64)
    report = report_of(path)
    found = problems(report)
    assert found[0].id == "threads.oversubscribed", found
    assert not {"threads.imbalance", "waits.shared_processor"} & {finding.id for finding in found}
    assert f"{2 * len(CPUS)} threads compute on {len(CPUS)} processors (process {engine.pid})" in found[0].claim
    assert found[0].cost_ns_per_token and "is lost while a thread waits" in found[0].evidence[1]


# ---------------------------------------------------------------------- nothing planted


def waited_ms(pid: int, tids: list[int]) -> float:
    """How long these threads have waited for a processor so far, by the kernel's own account."""
    return sum(schedstat(pid, tid)[1] for tid in tids) / MS


def lost_ms(report: Report, found: Sequence[Finding]) -> float:
    """What all tokens together paid for these findings."""
    summary = report.get(Summary)
    assert summary is not None
    tokens = {phase.phase: phase.tokens for phase in summary.phases}
    return sum((finding.cost_ns_per_token or 0.0) * tokens[finding.phase] for finding in found) / MS


def test_a_healthy_server_has_no_finding(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """Twenty recordings out of twenty. Healthy is one in which the kernel kept the pool's threads waiting for less than
    DELAYED_MS, whoever else used this machine. Others are made again, while the time lasts; in them nothing but whoever
    took the processors may be found, and no more than the kernel says."""
    ceilings = calibrate.measure(threads=(1, len(CPUS)), budget_s=8.0)
    path, deadline, disturbed = tmp_path / "x.duckdb", time.monotonic() + WITHIN_S, 0
    for kind, prompt, predict in (("tiny", 32, 100), ("dense-150m", 32, 24)):
        engine, healthy = server(kind), 0
        pair = busiest(engine.pid, partial(load.request, engine.url, n_predict=20, prompt_tokens=32))
        while healthy < HEALTHY // 2:
            before = waited_ms(engine.pid, pair)
            with recorded(engine, path):
                load.run(engine.url, seconds=1.2, n_predict=predict, prompt_tokens=prompt)
            delayed = waited_ms(engine.pid, pair) - before
            with Recording.open(str(path)) as recording:
                report = build_report(recording, ceilings)
            assert set(pool(path)) == set(pair)
            assert {report.section(name).status for name in ("waits", "threads", "thread_count", "verdicts")} == {"ok"}
            found = [finding for finding in report.findings if finding.id.startswith(WAITS)]
            print(kind, f"{delayed:.0f} ms without a processor", *found, sep="\n    ")
            if delayed < DELAYED_MS:
                assert found == []
                healthy += 1
            else:
                assert {finding.id for finding in found} <= {"waits.preempted"}
                assert lost_ms(report, found) <= 1.05 * delayed
                disturbed += 1
                healthy += time.monotonic() > deadline  # it will not be quiet any more
    print(f"{disturbed} recordings were disturbed")


# ---------------------------------------------------------------------- the numbers


ABSENCES = """
SELECT sum(end_ns - start_ns) FILTER (state = 'runnable'), count(*) FILTER (following IS DISTINCT FROM end_ns) FROM (
    SELECT *, lead(start_ns) OVER (ORDER BY start_ns) AS following FROM thread_state
    WHERE tid = ? AND end_ns > ? AND start_ns < ?
)
"""


def schedstat(pid: int, tid: int) -> tuple[int, int, int]:
    """Time on a processor and time waiting for one, ns; how often it got one."""
    ran, waited, arrived = map(int, Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split())
    return ran, waited, arrived


def test_the_parts_are_the_kernels(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """A long prompt keeps both threads busy: their time is what the kernel's own accounts say, part by part."""
    engine, path = server("dense-150m", nice=0), tmp_path / "x.duckdb"
    pair = busiest(engine.pid, lambda: load.request(engine.url, n_predict=8, prompt_tokens=64))
    with recorded(engine, path):
        time.sleep(0.1)
        began, before = time.monotonic_ns(), [schedstat(engine.pid, tid) for tid in pair]
        with hog(CPUS[1], 2, 18):
            load.request(engine.url, n_predict=2, prompt_tokens=1200)
        after, ended = [schedstat(engine.pid, tid) for tid in pair], time.monotonic_ns()
    with duckdb.connect(str(path)) as raw:  # the request alone
        raw.execute("DELETE FROM graph_exec WHERE start_ns < ?", [began])
    table = report_of(path).get(WaitTable)
    assert table is not None and set(pool(path)) == set(pair)
    counted = dict(read(path, "SELECT place, events FROM loss_by_place"))
    not_seen = counted.get("unseen_return", 0) + 2 * counted.get("passed_over", 0)
    for tid, (ran, waited, arrivals), (ran_before, waited_before, arrivals_before) in zip(
        pair, after, before, strict=True
    ):
        rows = [row for row in table.rows if row.tid == tid]
        for row in rows:
            parts = row.work_ns + row.barrier_ns + row.runnable_ns + row.blocked_ns + row.fault_ns
            assert parts == pytest.approx(row.wall_ns, rel=0.01)
        on_processor = sum(row.work_ns + row.barrier_ns - row.barrier_blocked_ns for row in rows)
        queued, seen = read(path, ABSENCES, tid, began, ended)[0]
        missed = arrivals - arrivals_before - seen
        print(tid, on_processor / MS, (ran - ran_before) / MS, queued / MS, (waited - waited_before) / MS, missed)
        assert on_processor == pytest.approx(ran - ran_before, rel=0.03)
        assert missed <= 2 + not_seen, "what is missing was counted"
        slices = max(missed, 0) * 4 * MS
        assert int(queued) == pytest.approx(waited - waited_before, rel=0.05, abs=2 * MS + slices)


@pytest.fixture(scope="module")
def ping_pong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ping-pong")
    (folder / "toy.c").write_text(PING_PONG)
    subprocess.run(["gcc", "-O1", "-pthread", "-o", folder / "toy", folder / "toy.c"], check=True)
    return folder / "toy"


def scheduled(program: Path, storm: bool = False, bound: bool = False) -> tuple[dict[str, np.ndarray], int, int, int]:
    """thread_state of one run of the program, its process id, its waiter's thread id, and what the kernel passed over.

    bound: it runs on CPUS[0] only. storm: likewise, and somebody calls BPF maps there all the while.
    """
    probes = ProbesInPlace()
    ended = threading.Event()

    def call_maps() -> None:
        os.sched_setaffinity(0, {CPUS[0]})
        while not ended.is_set():
            probes.thread_names(range(1, 200))

    caller = threading.Thread(target=call_maps)
    command = ["taskset", "-c", str(CPUS[0]), program] if storm or bound else [program]
    toy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert toy.stdin is not None and toy.stdout is not None
        probes.trace(toy.pid)
        assert probes.attach_sched({"sched.switch": 1, "sched.waking": 2, "sched.fault": 3}) == {}
        if storm:
            caller.start()
        toy.stdin.write("x")
        toy.stdin.flush()
        waiter = int(toy.stdout.readline())
        assert toy.stdout.readline() == "done\n"
        time.sleep(0.05)
        ended.set()
        passed_over, events = probes.passed_over, probes.rings.read()
        states, _ = Schedule(toy.pid, probes.thread_names, Stacks(probes.stacks)).decode(
            events[np.isin(events["kind"], (OFF_CPU, MAJOR_FAULT))], final=True
        )
    finally:
        ended.set()
        if caller.ident is not None:
            caller.join()
        probes.close()
        toy.kill()
        toy.communicate()
    assert probes.rings.drops == 0
    return states, toy.pid, waiter, passed_over


def test_what_the_kernel_passes_over_is_counted(ping_pong: Path) -> None:
    """46 known sleeps while BPF maps are called on the same processor: those that are missing were passed over."""
    for _ in range(4):
        states, pid, waiter, passed_over = scheduled(ping_pong, storm=True)
        asleep = states["state"] == "sleeping"
        length = (states["end_ns"] - states["start_ns"]) / MS
        seen = (asleep & ((states["tid"] == waiter) | ((states["tid"] == pid) & (length > 4.9)))).sum()
        # A switch that is passed over ends one absence and begins another; once the waiter may be late and not sleep.
        assert seen >= 46 - 2 * passed_over - 1
        assert seen > 23, "most are seen all the same"


def test_known_sleeps_and_their_waker(ping_pong: Path) -> None:
    """23 waits on a futex, 23 sleeps of 5 ms: the kernel side alone, on a process that is no engine. The kernel passes
    over tracepoint programs while somebody (another recorder, say) is in a BPF call on the same processor: three tries.
    """
    for _ in range(3):
        states, pid, waiter, _ = scheduled(ping_pong)
        asleep = states["state"] == "sleeping"
        length = (states["end_ns"] - states["start_ns"]) / MS
        waits_of = asleep & (states["tid"] == waiter)
        sleeps = asleep & (states["tid"] == pid) & (length > 4.9)
        if waits_of.sum() == sleeps.sum() == 23:
            break
    assert waits_of.sum() == 23
    assert set(states["by_tid"][waits_of]) == {pid} and set(states["by_comm"][waits_of]) == {"toy"}
    assert sleeps.sum() == 23, "usleep"
    for chosen in (waits_of, sleeps):
        assert 4 < np.median(length[chosen]) < 6
    # The waiter sleeps while the other one does, but for the microseconds between.
    assert length[waits_of].sum() == pytest.approx(length[sleeps].sum(), rel=0.1)
    assert (length[states["state"] == "runnable"] >= 0).all()


def test_an_interrupt_is_not_whom_it_interrupts(ping_pong: Path) -> None:
    """A timer ends 23 sleeps on a processor where somebody else is busy: that one has nothing to do with it. The futex
    waits are ended by a thread all the same."""
    spin = "print(flush=True)\nwhile True: pass"
    command = ["taskset", "-c", str(CPUS[0]), "nice", "-n", "5", sys.executable, "-c", spin]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None and busy.stdout.readline()
            for _ in range(3):  # see test_known_sleeps_and_their_waker
                states, pid, waiter, _ = scheduled(ping_pong, bound=True)
                asleep = states["state"] == "sleeping"
                length = (states["end_ns"] - states["start_ns"]) / MS
                sleeps = asleep & (states["tid"] == pid) & (length > 4.9)
                waits_of = asleep & (states["tid"] == waiter)
                if waits_of.sum() == sleeps.sum() == 23:
                    break
        finally:
            busy.kill()
    assert waits_of.sum() == sleeps.sum() == 23
    assert busy.pid in states["by_tid"][states["state"] == "runnable"], "it was on the processor when they woke"
    assert set(states["by_tid"][sleeps]) == {0}, "woken by the timer's interrupt"
    assert set(states["by_tid"][waits_of]) == {pid}
