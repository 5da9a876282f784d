"""Scheduler events whose truth is written beside them → rows of thread_state and page_fault."""

import subprocess
import sys

import numpy as np
import pytest
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record.schedule import FAULT_NS, Schedule
from flowprof.profiler.record.stacks import Stacks

NAMES = {7: "hog", 8: "http", 9: "sh"}
RUNNING, PREEMPTED, SLEEPING, DISK, KILLABLE, STOPPED = 0, 0x100, 1, 2, 0x102, 4


def away(tid, out, back, state, woken=0, runner=0, waker=0, cpu=0):
    event = np.zeros(1, ring.EVENT)
    event["kind"], event["pid"], event["tid"], event["ith"], event["at_ns"] = ring.OFF_CPU, 1, tid, cpu, back
    event["a"], event["b"], event["c"], event["d"] = state, out, woken, runner << 32 | waker
    return event


def fault(tid, at, address=4096):
    event = np.zeros(1, ring.EVENT)
    event["kind"], event["pid"], event["tid"], event["at_ns"], event["a"] = ring.MAJOR_FAULT, 1, tid, at, address
    return event


def rows(*events, final=True, schedule=None):
    decoder = schedule or Schedule(
        1, lambda tids: {tid: NAMES[tid] for tid in tids if tid in NAMES}, Stacks(lambda _: {})
    )
    states, faults = decoder.decode(np.concatenate(events) if events else np.empty(0, ring.EVENT), final)
    fields = ("tid", "start_ns", "end_ns", "state", "by_tid", "by_comm")
    return [tuple(row) for row in zip(*(states[name].tolist() for name in fields), strict=True)], faults


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (away(2, 100, 900, RUNNING, runner=7), [(2, 100, 900, "runnable", 7, "hog")]),
        (away(2, 100, 900, PREEMPTED, runner=7), [(2, 100, 900, "runnable", 7, "hog")]),
        (away(2, 100, 900, SLEEPING, woken=900, waker=8), [(2, 100, 900, "sleeping", 8, "http")]),
        (
            away(2, 100, 900, SLEEPING, woken=700, waker=8, runner=7),
            [(2, 100, 700, "sleeping", 8, "http"), (2, 700, 900, "runnable", 7, "hog")],
        ),
        (away(2, 100, 900, SLEEPING, woken=900), [(2, 100, 900, "sleeping", 0, None)]),  # by an interrupt
        (away(2, 100, 900, SLEEPING, woken=900, waker=55), [(2, 100, 900, "sleeping", 55, None)]),  # gone, nameless
        (away(2, 100, 900, DISK, woken=900), [(2, 100, 900, "disk", 0, None)]),
        (away(2, 100, 900, STOPPED, woken=900, waker=9), [(2, 100, 900, "stopped", 9, "sh")]),
    ],
)
def test_one_absence(event, expected):
    assert rows(event)[0] == expected


def states(*events, **options):
    return [(row[0], row[1], row[3]) for row in rows(*events, **options)[0]]


def test_a_major_fault_is_the_wait_before_it():
    found, faults = rows(away(2, 100, 500, KILLABLE, woken=500), fault(2, 600, 0x7F00_0000_1000))
    assert [row[3] for row in found] == ["fault"]
    assert faults["address"].tolist() == [0x7F00_0000_1000] and faults["tid"].tolist() == [2]


def test_a_fault_of_several_waits_and_what_is_none():
    second = 1_000_000_000
    assert states(
        away(2, 10, 20, DISK, woken=20), away(2, 30, 40, DISK, woken=40), fault(2, 50),  # lock the page, then read it
        away(3, 10, 20, DISK, woken=20), fault(4, 30),  # another thread's fault
        away(5, 10, 20, DISK, woken=20), fault(5, 20 + second),  # too late to be its own
        away(6, 10, 20, SLEEPING, woken=20), fault(6, 30),  # a futex
    ) == [(2, 10, "fault"), (2, 30, "fault"), (3, 10, "disk"), (5, 10, "disk"), (6, 10, "sleeping")]  # fmt: skip


def test_a_fault_that_comes_with_the_next_batch():
    schedule = Schedule(1, lambda _: {}, Stacks(lambda _: {}))
    assert (
        states(away(2, 10, 20, DISK, woken=20), away(3, 1, 2, SLEEPING, woken=2), schedule=schedule, final=False) == []
    )
    later = fault(2, 30), away(3, 50, 30 + 2 * FAULT_NS, SLEEPING, woken=60 + FAULT_NS)
    assert states(*later, schedule=schedule, final=False) == [(2, 10, "fault"), (3, 1, "sleeping")]
    assert states(schedule=schedule) == [(3, 50, "sleeping"), (3, 60 + FAULT_NS, "runnable")]


def test_nothing():
    assert rows()[0] == []


THREADED = """
import sys, threading
open("/proc/self/comm", "w").write("two-threads")
threading.Thread(target=lambda: (print(threading.get_native_id(), flush=True), sys.stdin.read())).start()
"""


def test_a_thread_of_another_program_belongs_to_its_process():
    with subprocess.Popen([sys.executable, "-c", THREADED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        tid = int(program.stdout.readline())
        schedule = Schedule(1, lambda _: {}, Stacks(lambda _: {}))
        rows(
            away(2, 100, 900, RUNNING, runner=tid), away(2, 1000, 1100, RUNNING, runner=program.pid),
            away(2, 1200, 1300, RUNNING, runner=2**22 + 1), schedule=schedule,
        )  # fmt: skip
        found = schedule.other_threads()
        program.stdin.close()
    assert tid != program.pid
    assert found == {"tid": [tid], "pid": [program.pid], "comm": ["two-threads"]}, "its first thread, a gone one: as is"
