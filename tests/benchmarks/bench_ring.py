"""From the kernel's rings into the DuckDB file: how many events a second one core takes, what is lost, what memory.

    python tests/benchmarks/bench_ring.py [--seconds 60]

No engine and no kernel: a producer on processor 1 writes events into a memory of the layout of the kernel's ring maps
(graph begin and end, and every operator of a synthetic graph on two threads, as at thread level), and the real
recorder on processor 0 reads, decodes and stores them: Recorder, Rings, Decoder, Recording as they are. Only what
touches the kernel (ProbesInPlace) and the target's memory (GraphBook) is replaced.

* sustained: the producer keeps a steady rate as real probes do; what finds its ring full is lost and counted;
* highest rate: the producer is never idle and waits for room instead.

The recorder's memory is read from outside, twice a second.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flowprof.profiler.ggml.graphs import KnownGraph
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.kernel_side.bpf import event_ring_shift
from flowprof.profiler.kernel_side.hitcost import HitCost
from flowprof.profiler.planning.plan import Plan
from flowprof.profiler.record import follow
from flowprof.profiler.record.options import LEVELS, Options
from flowprof.profiler.record.probe_windows import ProbeWindows
from flowprof.profiler.record.recorder import Progress, Recorder
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target
from row import Row

CPUS = THREADS = 2
OPERATORS = 309  # as many as a dense model of 22 layers has
GRAPH = 2 + THREADS * OPERATORS  # events of one execution
GRAPHS_PER_WRITE = 8
KEY, FIRST_NODE, NODE_BYTES = 77, 0x7F00_0000_0000, 400
RATE = 1_500_000  # events a second that are asked of the path
PRODUCED = 1_550_000  # a little more, as the first and the last moments are not full ones
SHIFT = event_ring_shift(CPUS)  # the rings of a machine of two processors


def measured(seconds: float = 60) -> Iterator[Row]:
    """The rows, as they are measured."""
    if len(os.sched_getaffinity(0)) < 2:
        yield Row("ring to DuckDB", None, "M events/s", RATE / 1e6, True, note="needs two processors")
        return
    steady = run(PRODUCED, seconds)
    free = run(0, min(seconds, 15))
    memory = steady["rss_mb"]
    third = max(1, len(memory) // 3)
    drift = float(np.mean(memory[-third:]) - np.mean(memory[third : 2 * third]))
    yield Row(f"ring to DuckDB: kept up, {seconds:.0f} s", steady["events"] / steady["seconds"] / 1e6, "M events/s",
              RATE / 1e6, True, note=f"recorder {steady['cpu']:.0%} of its core")  # fmt: skip
    yield Row("ring to DuckDB: lost", float(steady["lost"]), "events", 0,
              note=f"of {steady['events'] / 1e6:.1f} M; {steady['rows'] / 1e6:.1f} M operators stored, "
              f"{steady['bytes'] / max(steady['rows'], 1):.1f} B each")  # fmt: skip
    yield Row("ring to DuckDB: highest rate", free["events"] / free["seconds"] / 1e6, "M events/s",
              RATE / 1e6, True, note="the producer waits for room")  # fmt: skip
    yield Row("ring to DuckDB: memory, largest", max(memory), "MB", 400,
              note=f"start {memory[0]:.0f}, end {memory[-1]:.0f}")  # fmt: skip
    yield Row("ring to DuckDB: memory, last third less the one before", drift, "MB", 20)


def run(rate: int, seconds: float) -> dict[str, Any]:
    """Record for so long in processes of their own. rate 0: as fast as it goes."""
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as folder:
        command = [sys.executable, __file__, "--record", folder, "--rate", str(rate), "--seconds", str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            memory = []
            while process.poll() is None:
                time.sleep(0.5)
                if rss := resident_mb(process.pid):
                    memory.append(rss)
            assert process.stdout is not None
            said = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"the recorder ended with {process.returncode}")
        result: dict[str, Any] = json.loads(said)
        settled = [m for m in memory if m > 0.5 * max(memory)]  # not while python starts
        result["rss_mb"] = settled
        return result


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 when it has ended."""
    try:
        words = Path(f"/proc/{pid}/status").read_text().split()
        return int(words[words.index("VmRSS:") + 1]) / 1024
    except (OSError, ValueError):
        return 0.0


# ---------------------------------------------------------------------- the recorder's process


class SyntheticProbes:
    """Stands where ProbesInPlace stands: rings in memory that another process fills, and nothing attached."""

    heads_fd = events_fd = -1

    def __init__(self, *_: object) -> None:
        self.multi = True
        self.rings = ring.Rings(self.heads_fd, self.events_fd, CPUS, SHIFT)
        self.doorbell = SimpleNamespace(wait=self._wait, wake=self._nothing)
        self.thread_table_full = 0
        self.expert_ids_left = self.batch_tokens_left = self.calls_not_kept = self.passed_over = self.unseen_returns = 0
        self.resource_losses = 0, 0
        self.counters = None

    @staticmethod
    def _wait(seconds: float) -> bool:
        time.sleep(max(0.0, seconds))
        return False

    def measure_hit_cost(self, **_: object) -> HitCost:
        return HitCost(1000.0, 10000.0, 1)

    def site_hits(self, count: int) -> np.ndarray:
        return np.zeros(count, np.int64)

    def _nothing(self, *_: object) -> None:
        pass

    def thread_names(self, _: object) -> dict[int, str]:
        return {}

    stacks = away_since = arguments = thread_names
    compile = load = place_taps = set_layout = set_known = forget_known = close = _nothing
    attach_always = attach_deep = detach_deep = detach = _nothing


class SyntheticBook:
    """Stands where GraphBook stands: one graph, described from the start."""

    def __init__(self, pid: int, _: object, next_id: Callable[[], int]) -> None:
        self.pid = pid
        self.layouts = SimpleNamespace(version="synthetic")
        self.trouble, self.version, self.model_written, self.watched = "", None, True, 0
        order = np.arange(OPERATORS)
        addresses = (FIRST_NODE + order * NODE_BYTES).astype(np.uint64)
        self._graph = KnownGraph(next_id(), True, addresses, order.astype(np.int32), tokens=1, outputs=1)

    def get(self, _: int) -> KnownGraph:
        return self._graph

    def is_described(self, _: int) -> bool:
        return True

    def undescribed_key(self, _: int) -> None:
        return None

    def expected(self) -> None:
        return None

    def prepare(self) -> None:
        pass


def record(folder: str, rate: int, seconds: float) -> None:
    """Record what a producer writes; print what came of it as JSON."""
    heads_fd, events_fd = os.memfd_create("heads"), os.memfd_create("events")
    os.ftruncate(heads_fd, mmap.PAGESIZE)
    os.ftruncate(events_fd, (CPUS << SHIFT) * ring.EVENT.itemsize)
    command = [sys.executable, __file__, "--produce", str(heads_fd), str(events_fd), "--rate", str(rate)]
    SyntheticProbes.heads_fd, SyntheticProbes.events_fd = heads_fd, events_fd
    follow.GraphBook = SyntheticBook
    ProbeWindows.deep_levels = lambda _: ("op", "thread")
    path = f"{folder}/ring.duckdb"
    clock: dict[str, float] = {}
    producer: list[subprocess.Popen[bytes]] = []

    def produce() -> None:
        clock["wall"], clock["cpu"] = time.monotonic(), time.process_time()
        producer[0].stdin.write(b"go")
        producer[0].stdin.close()

    def progress(_: Progress) -> None:
        clock["wall_end"], clock["cpu_end"] = time.monotonic(), time.process_time()

    producer.append(subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(heads_fd, events_fd)))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})  # all of the recorder on one core
    try:
        plan = Plan((open_target(producer[0].pid),), (), (), ())
        levels = tuple(level for level in LEVELS if level != "sched")  # the real scheduler knows nothing of it
        options = Options(levels=levels, budget=None, duration_s=seconds, release=produce)
        with Recording.create(path) as recording:
            work = Recorder(plan, recording, options, progress, SyntheticProbes())
            done = work.run()
    finally:
        producer[0].kill()
        producer[0].wait()
    elapsed = clock["wall_end"] - clock["wall"]
    with Recording.open(path) as recording:
        rows = recording.rows("SELECT count(*) FROM op_exec")[0][0]
        executions = recording.rows("SELECT count(*), sum(level = 'thread') FROM graph_exec")[0]
        stated = recording.rows("SELECT place, sum(events)::BIGINT FROM loss GROUP BY place")
    json.dump({
        "events": done.events, "lost": done.lost, "seconds": elapsed, "rows": rows, "executions": executions,
        "stated_losses": dict(stated), "cpu": (clock["cpu_end"] - clock["cpu"]) / elapsed,
        "bytes": os.stat(path).st_size,
    }, sys.stdout, default=int)  # fmt: skip


# ---------------------------------------------------------------------- the producer's process


def template(thread: int) -> np.ndarray:
    """One thread's events of GRAPHS_PER_WRITE executions; times in units of one operator."""
    per_graph = OPERATORS + 2
    parts = []
    for graph in range(GRAPHS_PER_WRITE):
        begin = graph * per_graph
        ops = np.zeros(OPERATORS, ring.EVENT)
        start = begin + 1 + np.arange(OPERATORS)
        ops["kind"], ops["ith"], ops["tid"], ops["site"] = ring.OP_WORK, thread, 1000 + thread, 1
        ops["a"] = FIRST_NODE + np.arange(OPERATORS) * NODE_BYTES
        ops["b"], ops["at_ns"] = start * 10, start * 10 + 8 - thread
        if thread == 0:
            marks = np.zeros(2, ring.EVENT)
            marks["kind"], marks["tid"], marks["site"] = (ring.GRAPH_BEGIN, ring.GRAPH_END), 1000, 1
            marks["b"], marks["at_ns"] = (KEY, 0), (begin * 10, (begin + OPERATORS + 1) * 10)
            ops = np.concatenate([marks[:1], ops, marks[1:]])
        parts.append(ops)
    return np.concatenate(parts)


def produce(heads_fd: int, events_fd: int, rate: int) -> None:
    """Write events for ever. With a rate: that many a second, and those that find their ring full are dropped."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[1]})
    size = 1 << SHIFT
    heads = np.frombuffer(mmap.mmap(heads_fd, mmap.PAGESIZE), ring.HEAD, CPUS)
    events = np.frombuffer(mmap.mmap(events_fd, 0), ring.EVENT).reshape(CPUS, size)
    blocks = [template(thread) for thread in range(THREADS)]
    fresh = [block.copy() for block in blocks]
    count = sum(map(len, blocks))
    unit_ns = int(1e9 * count / (rate or 20_000_000)) / (10 * GRAPHS_PER_WRITE * (OPERATORS + 2))
    length_ns = int(unit_ns * 10 * GRAPHS_PER_WRITE * (OPERATORS + 2)) + 1
    scaled = [((b["at_ns"] * unit_ns).astype(np.int64), (b["b"] * unit_ns).astype(np.uint64)) for b in blocks]
    works = [block["kind"] == ring.OP_WORK for block in blocks]
    sys.stdin.buffer.read()  # until the recorder is ready
    at = time.monotonic_ns()
    while True:
        now = time.monotonic_ns()
        if rate and now < at + length_ns:
            time.sleep((at + length_ns - now) / 1e9)
        if not rate:
            at = max(at, now)
        room = min(size - int(heads["head"][cpu] - heads["tail"][cpu]) for cpu in range(CPUS))
        if room < max(map(len, blocks)):
            if not rate:
                time.sleep(0.0005)
                continue
            for cpu in range(CPUS):
                heads["drops"][cpu] += len(blocks[cpu])
        else:
            for cpu in reversed(range(CPUS)):  # thread 0, which ends the graph, last
                block, head = fresh[cpu], int(heads["head"][cpu])
                block["seq"] = np.arange(head + 1, head + 1 + len(block), dtype=np.uint64)
                block["at_ns"] = scaled[cpu][0] + at
                block["b"] = np.where(works[cpu], scaled[cpu][1] + np.uint64(at), blocks[cpu]["b"])
                start = head % size
                fits = min(len(block), size - start)
                events[cpu, start : start + fits] = block[:fits]
                events[cpu, : len(block) - fits] = block[fits:]
                heads["head"][cpu] = head + len(block)
        at += length_ns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=PRODUCED, help=argparse.SUPPRESS)
    parser.add_argument("--record", help=argparse.SUPPRESS)
    parser.add_argument("--produce", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.produce:
        produce(*asked.produce, asked.rate)
    elif asked.record:
        record(asked.record, asked.rate, asked.seconds)
    else:
        for row in measured(asked.seconds):
            print(row)


if __name__ == "__main__":
    main()
