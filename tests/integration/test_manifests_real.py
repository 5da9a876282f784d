"""Shipped manifests on the programs that they are about: what they report is what the program was made to do.

Databases, which have more to tell, are in test_databases_real.py; the C library's locks in test_locks_real.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch_engine
from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.report import build_report
from flowprof.profiler.resources import manifest
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from resource_programs import recorded
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, DISTURBED]

LEVELS = ("token", "graph")
EVENTS = """
SELECT event, task, at_ns, unit, units, tid, instance FROM resource_event JOIN resource USING (resource_id)
WHERE name = ? ORDER BY at_ns
"""


def resources(path: Path) -> ResourceTable:
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    table = report.get(ResourceTable)
    assert table is not None, report.section("resources").reason
    assert not table.withheld
    return table


@pytest.mark.engine
def test_llama_server_and_its_pool(tmp_path: Path, own_server: Callable[..., RunningServer]) -> None:
    """One slot: a long request has it, two short ones stand in line. Each client knows how long."""
    server, path = own_server("tiny", slots=1), tmp_path / "server.duckdb"
    load.request(server.url, n_predict=4, prompt_tokens=8)
    manifests = (manifest.load("llama-server"), manifest.load("ggml-pool"))
    with recording_of([server.pid], path, manifests=manifests, levels=LEVELS) as run, ThreadPoolExecutor(3) as clients:
        assert [(site.symbol, site.reason) for site in run.plan.sites if site.refused and site.taps] == []
        pending = [clients.submit(load.request, server.url, n_predict=1500, prompt_tokens=8)]
        for _ in range(2):
            time.sleep(0.2)
            pending.append(clients.submit(load.request, server.url, n_predict=4, prompt_tokens=8))
        answers = [one.result() for one in pending]
        time.sleep(0.2)  # the last slot is given back
    assert run.progress.lost == 0
    tasks = [task for (task,) in read(path, "SELECT task_id FROM request ORDER BY posted_ns")]
    keeper, *short = tasks
    slot = read(path, EVENTS, "slot")
    assert [task for event, task, *_ in slot if event == "acquire"] == tasks
    assert [event for event, *_ in slot if event != "wait"] == ["acquire", "release"] * 3
    assert len({unit for event, _, _, unit, *_ in slot if event != "wait"}) == 1, "it is one slot"
    numbers = (
        "SELECT value, count(*) FROM variable_sample JOIN variable USING (variable_id) WHERE name = 'slot' GROUP BY 1"
    )
    assert read(path, numbers) == [(0.0, 6)], "its number, at each acquire and release"
    queue = read(path, EVENTS, "task queue")
    posted = [task for event, task, *_ in queue if event == "wait"]
    taken = Counter(task for event, task, *_ in queue if event == "acquire")
    assert {*tasks} <= {*posted} and {*taken.values()} == {1, 2}, "twice: what was put off once"
    assert {task for task, count in taken.items() if count > 1} == {*short}
    assert [task for event, task, *_ in queue if event == "use"] == short, "put off"
    since = {task: at for event, task, at, *_ in queue if event == "wait"}
    got = {task: at for event, task, at, *_ in slot if event == "acquire"}
    for task, answer in zip(short, answers[1:], strict=True):
        in_line_ns = answer.done_ns - answer.sent_ns - (answer.prompt_ms + answer.predicted_ms) * 1e6
        print(f"{in_line_ns / 1e6:.1f} ms in line by the client, {(got[task] - since[task]) / 1e6:.1f} ms found")
        assert in_line_ns > 100e6, "the long request was over too early"
        assert got[task] - since[task] == pytest.approx(in_line_ns, rel=0.05, abs=50e6)
    sent = Counter(event for event, *_ in read(path, EVENTS, "result"))
    assert sent["release"] == 3 and sent["wait"] == sent["acquire"] >= 3

    pool = read(path, EVENTS, "thread pool")
    graphs = read(path, "SELECT start_ns, end_ns FROM graph_exec ORDER BY start_ns")
    assert len(graphs) > 200 and [event for event, *_ in pool] == ["acquire", "release"] * len(graphs)
    assert {units for _, _, _, _, units, *_ in pool} == {2}, "threads"
    for (start, end), taken_up, given_back in zip(graphs, pool[::2], pool[1::2], strict=True):
        assert abs(taken_up[2] - start) < 5e6 and abs(given_back[2] - end) < 5e6

    batch = read(path, EVENTS, "batch budget")
    assert [event for event, *_ in batch] == ["acquire", "release"] * len(graphs)
    tokens = read(path, "SELECT tokens FROM graph_exec JOIN graph USING (graph_id) ORDER BY start_ns")
    for (known,), taken_up in zip(tokens, batch[::2], strict=True):
        assert known in (None, taken_up[4])
    said = read(path, "SELECT DISTINCT name, value FROM variable_sample JOIN variable USING (variable_id) "
                      "WHERE name <> 'slot' AND value IS NOT NULL ORDER BY name")  # fmt: skip
    assert dict(said) == {"capacity": 512, "cells": 4096, "n_batch": 2048, "slots": 1, "threads": 2}
    assert {one.resource: one.capacity for one in resources(path).resources}["batch budget"] == 512

    first = resources(path).blamed[0]
    assert (first.resource, first.pathology) == ("slot", "contention")
    assert first.holder is not None and first.holder.task == keeper
    assert {victim.task for victim in first.victims} == {*short}
    asked = {task: next(at for event, who, at, *_ in slot if (event, who) == ("wait", task)) for task in short}
    assert first.waiting_ns == pytest.approx(sum(got[task] - asked[task] for task in short), rel=0.05)


GIL = """
import ctypes, json, sys, threading, time
usleep = ctypes.PyDLL(None).usleep  # a call that keeps the lock
TIMES, KEPT_US = 5, 150_000
over, told = threading.Event(), {}

def keeper():
    for _ in range(TIMES):
        time.sleep(0.1)
        usleep(KEPT_US)
    over.set()

def asker(name):
    times, waited = 0, 0
    while not over.is_set():
        begin = time.monotonic_ns()
        time.sleep(0.002)
        longer = time.monotonic_ns() - begin - 2_000_000
        times, waited = times + 1, waited + (longer if longer > 20_000_000 else 0)  # what is less is the timer's
    told[threading.get_native_id()] = times, waited

threads = [threading.Thread(target=keeper), *(threading.Thread(target=asker, args=(n,)) for n in "ab")]
print(1, flush=True)
for line in sys.stdin:
    for thread in threads:
        thread.start()
    ids = [thread.native_id for thread in threads]
    for thread in threads:
        thread.join()
    print(json.dumps({"keeper": ids[0], "told": told}), flush=True)
"""


def test_cpython_gil(tmp_path: Path) -> None:
    """A thread keeps the lock through a call of C; two others have slept, and want it back."""
    path = tmp_path / "gil.duckdb"
    with torch_engine.running(GIL, executable=Path(sys.executable)) as program:
        with recording_of([program.pid], path, manifests=(manifest.load("cpython-gil"),), levels=LEVELS) as run:
            truth = program.ask("go")
        assert run.progress.lost == 0
    told = {int(tid): (times, waited) for tid, (times, waited) in truth["told"].items()}
    events = Counter((event, tid) for event, _, _, _, _, tid, _ in read(path, EVENTS, "gil"))
    for tid, (times, _) in told.items():
        assert events["wait", tid] == pytest.approx(events["acquire", tid], abs=1)
        assert events["release", tid] >= times <= events["acquire", tid], "each sleep gives it up, and gets it back"
    first = resources(path).blamed[0]
    assert (first.resource, first.pathology, first.holder and first.holder.tid) == (
        "gil",
        "contention",
        truth["keeper"],
    )
    victims = {victim.tid: victim.waiting_ns for victim in first.victims}
    for tid, (_, waited) in told.items():
        assert waited > 0.5e9 and victims[tid] == pytest.approx(waited, rel=0.1)


COMPUTING = """
import json, sys, threading, time

def compute():
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        sum(range(1000))

print(1, flush=True)
for line in sys.stdin:
    threads = [threading.Thread(target=compute) for _ in "abc"]
    for thread in threads:
        thread.start()
    ids = [thread.native_id for thread in threads]
    for thread in threads:
        thread.join()
    print(json.dumps(ids), flush=True)
"""


def test_cpython_gil_of_threads_that_compute(tmp_path: Path) -> None:
    """Nobody gives it up: the interpreter takes it away after 5 ms, in functions that Debian's build does not name."""
    path = tmp_path / "computing.duckdb"
    with torch_engine.running(COMPUTING, executable=Path(sys.executable)) as program:
        with recording_of([program.pid], path, manifests=(manifest.load("cpython-gil"),), levels=LEVELS) as run:
            computing = program.ask("go")
        assert run.progress.lost == 0
    events = Counter((event, tid) for event, _, _, _, _, tid, _ in read(path, EVENTS, "gil"))
    for tid in computing:
        assert min(events["wait", tid], events["acquire", tid], events["release", tid]) > 10
        assert events["acquire", tid] == pytest.approx(events["release", tid], abs=2)
    first = resources(path).blamed[0]
    assert (first.resource, first.pathology, first.holders) == ("gil", "contention", 3)
    victims = {victim.tid: victim.waiting_ns for victim in first.victims}
    assert {*computing} <= {*victims}
    longest = 1.1 * 2 * 1.5e9  # one computes at a time; who lacks a processor does not ask yet
    assert 1e9 < sum(victims[tid] for tid in computing) < longest


TORCH = """
import sys, torch
torch.set_num_threads(1)
kept = []
print(1, flush=True)
for line in sys.stdin:
    first, count = map(int, line.split())
    for size in range(first, first + count):
        one = torch.empty(size, dtype=torch.uint8)
        if size % 10 == 0:
            kept.append(one)
    del one
    print(1, flush=True)
"""


@pytest.mark.engine
def test_torch_allocator(tmp_path: Path) -> None:
    """Five hundred tensors of as many different sizes, of which every tenth is kept."""
    path, first, count = tmp_path / "torch.duckdb", 100_000, 500
    with torch_engine.running(TORCH) as program:
        with recording_of(
            [program.pid], path, manifests=(manifest.load("torch-allocator"),), torch_ops="empty_strided"
        ) as run:
            program.ask(f"{first} {count}")
        assert run.progress.lost == 0
    owner: dict[int, int] = {}  # address → size
    sizes = []
    for event, _, _, unit, units, *_ in read(path, EVENTS, "host memory"):
        if event == "acquire":
            assert unit not in owner, "an address is had once at a time"
            owner[unit] = units
            sizes.append(units)
        else:
            owner.pop(unit, None)
    assert sizes == [*range(first, first + count)]
    assert sorted(owner.values()) == [*range(first, first + count, 10)]


def test_torch_cuda_allocator(tmp_path: Path) -> None:
    """On a library of its names: blocks of 300 sizes on two GPUs, given back in three ways; every tenth is kept."""
    source, library, program = Path(__file__).with_name("caching_allocator.cc"), "libc10_cuda.so", tmp_path / "program"
    for command in (["-shared", "-fPIC", "-o", tmp_path / library, source],
                    ["-DPROGRAM", "-o", program, source, tmp_path / library, f"-Wl,-rpath,{tmp_path}"]):  # fmt: skip
        subprocess.run(["g++", "-O2", "-std=c++17", *command], check=True)
    path = tmp_path / "allocator.duckdb"
    with recorded(program, path, manifest.load("torch-cuda-allocator")) as (run, line):
        assert line == "done\n"
        assert [(site.symbol, site.reason) for site in run.plan.sites if site.refused] == []
    assert run.progress.lost == 0
    events = read(path, EVENTS, "GPU memory")
    owner: dict[int, int] = {}
    for event, _, _, unit, units, *_ in events:
        if event == "acquire":
            assert unit not in owner
            owner[unit] = units
        elif event == "release":
            del owner[unit]
    count = Counter(event for event, *_ in events)
    assert count == {"acquire": 300, "release": 270, "use": 3 + 1}
    assert [*owner.values()] == [512 + i for i in range(0, 300, 10)]
    devices = (
        "SELECT value, count(*) FROM variable_sample JOIN variable USING (variable_id) WHERE name = 'device' GROUP BY 1"
    )
    assert sorted(read(path, devices)) == [(0.0, 150), (1.0, 150)]
