"""Counts per thread, against work whose counts are known."""

import os
import threading
import time

from flowprof.profiler.record.counters import NAMES, ThreadCounters


def test_this_process():
    counters = ThreadCounters(os.getpid())
    tids = []

    def sleepy():
        tids.append(threading.get_native_id())
        for _ in range(23):
            time.sleep(0.001)
        counters.look()

    thread = threading.Thread(target=sleepy)
    thread.start()
    thread.join()
    columns = counters.columns()
    of = {(tid, name): value for _, tid, name, value in zip(*columns.values(), strict=True)}
    assert {name for _, name in of} == set(NAMES)
    assert of[tids[0], "voluntary_switches"] >= 23
    assert of[tids[0], "task_clock_ns"] > 0 and of[tids[0], "major_faults"] == 0


def test_a_process_that_is_gone():
    counters = ThreadCounters(2**22 + 1)
    counters.look()
    assert counters.columns() == {"pid": [], "tid": [], "name": [], "value": []}
