"""Counters per operator on a real engine, against what the kernel and the scheduler's events say of its threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flowprof.examples import llama_server, load, synthetic_model
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.read_from_disk import evict
from flowprof.profiler.analyzers import operator_counters
from flowprof.profiler.sections.operator_counters import OperatorCounterTable
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from undisturbed import DISTURBED

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]

FULL = ("token", "graph", "op", "thread", "sched")
SLICES_NS = 20_000_000  # a few of the scheduler's
CPUS = sorted(os.sched_getaffinity(0))[:2]
PRODUCTS = """
SELECT sum(c.instructions) / sum(c.calls), sum(c.context_switches)
FROM op_counter c JOIN graph g USING (graph_id)
JOIN graph_node n ON n.graph_id = c.graph_id AND n.node_index = c.node_index
WHERE n.op = 'MUL_MAT' AND g.phase = 'decode'
"""
AWAY = """
SELECT sum(least(s.end_ns, o.compute_end_ns) - s.start_ns)
FROM thread_state s ASOF JOIN op_exec o ON s.tid = o.tid AND s.start_ns >= o.start_ns
WHERE s.start_ns < o.compute_end_ns AND o.ith = ?
"""


@contextmanager
def busy_processors() -> Iterator[None]:
    """A program that spins on each processor, at the usual priority."""
    spin = "print(flush=True)\nwhile True: pass"
    running = [
        subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", spin], stdout=subprocess.PIPE)
        for cpu in CPUS
    ]
    try:
        for process in running:
            assert process.stdout is not None and process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


def preempted(pid: int) -> int:
    """How often any thread of a process was made to leave its processor so far."""
    statuses = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return sum(int(text.partition("nonvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)


def counted(
    server: RunningServer, path: Path, choice: str, level: str = "thread", work: int = 20, switches: int = 0
) -> None:
    """A recording of a request for `work` tokens; of more of them, until the server was preempted so often."""
    levels = FULL if level == "thread" else ("token", "graph", "op", "sched")
    with recording_of([server.pid], path, levels=levels, budget=None, counters=choice) as run:
        run.warm_up(level, lambda: load.request(server.url, n_predict=4, prompt_tokens=8))
        enough = preempted(server.pid) + switches
        load.request(server.url, n_predict=work, prompt_tokens=16)
        while preempted(server.pid) < enough:
            load.request(server.url, n_predict=work, prompt_tokens=16)


def facts(path: Path) -> dict[str, str]:
    return dict(read(path, "SELECT key, value FROM meta"))


def faults(server: RunningServer) -> int:
    """Minor and major ones of the process so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])


@pytest.mark.parametrize("level", ["op", "thread"])
def test_every_operator_is_counted(shared_server: Callable[..., RunningServer], tmp_path: Path, level: str) -> None:
    path = tmp_path / "x.duckdb"
    counted(shared_server("tiny"), path, "software", level)
    (operators,) = read(path, "SELECT count(*) FROM op_exec")[0]
    (calls,) = read(path, "SELECT sum(calls) FROM op_counter")[0]
    lost = dict(read(path, "SELECT place, events FROM loss_by_place")).get("counters", 0)
    assert operators and calls + lost >= 0.99 * operators and calls <= operators
    assert set(read(path, "SELECT DISTINCT level FROM op_counter")) == {(level,)}
    assert "cycles: not asked for" in facts(path)["counters_missing"]
    assert read(path, "SELECT count(cycles), count(page_faults) = count(*) FROM op_counter") == [(0, True)]


def test_time_on_a_processor_is_the_schedulers(own_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """Beside busy programs: an operator's task clock is its wall time less what the scheduler says it was away."""
    server, path = own_server("tiny"), tmp_path / "x.duckdb"
    with busy_processors():
        counted(server, path, "software", work=60)
    assert read(path, "SELECT sum(context_switches) FROM op_counter")[0][0] > 0, "nothing was planted"
    clock = dict(read(path, "SELECT ith, sum(task_clock_ns) FROM op_counter GROUP BY ith"))
    lost = dict(read(path, "SELECT place, events FROM loss_by_place"))
    # The kernel passes over a switch now and then: an absence is then missing there, and its operator's counters here.
    missing = (lost.get("counters", 0) + lost.get("passed_over", 0)) * SLICES_NS
    for ith, wall in read(path, "SELECT ith, sum(compute_end_ns - start_ns) FROM op_exec GROUP BY ith ORDER BY ith"):
        (away,) = read(path, AWAY, ith)[0]
        print(ith, int(wall) / 1e6, int(away) / 1e6, int(clock[ith]) / 1e6, missing / 1e6)
        assert away > 0.1 * wall
        ran = int(wall - away)
        assert 0.95 * ran - missing <= int(clock[ith]) <= 1.02 * ran


def test_instructions_are_the_operators_own(own_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """Products take the same instructions whoever else runs on the processor, and are preempted in the middle. One
    thread: two would wait for each other, in more instructions or fewer."""
    server = own_server("tiny", threads=1)
    quiet, busy = tmp_path / "quiet.duckdb", tmp_path / "busy.duckdb"
    counted(server, quiet, "all")
    if "instructions:" in facts(quiet)["counters_missing"]:
        assert read(quiet, "SELECT count(instructions) FROM op_counter") == [(0,)]
        return  # no PMU here, and the recording says so
    with busy_processors():
        counted(server, busy, "all", work=60, switches=100)
    (alone, _), (beside, switches) = read(quiet, PRODUCTS)[0], read(busy, PRODUCTS)[0]
    print(alone, beside, switches)
    assert switches > 0, "nothing was planted"
    assert 10_000 < alone < 10_000_000, "a time slice of the others has more than that"
    assert beside == pytest.approx(alone, rel=0.01)


def test_page_faults_are_the_kernels(tmp_path: Path) -> None:
    own = Path(shutil.copy(synthetic_model.write("tiny"), tmp_path))  # pages that others have mapped would stay
    path = tmp_path / "x.duckdb"
    options = {"levels": FULL, "budget": None, "counters": "software"}
    with llama_server.start(own) as server:
        load.request(server.url, n_predict=4, prompt_tokens=8)  # the first one touches every page
        before = faults(server)
        with recording_of([server.pid], path, **options) as run:
            run.warm_up("thread", lambda: load.request(server.url, n_predict=4, prompt_tokens=8))
            for _ in range(3):
                evict(server)
                load.request(server.url, n_predict=4, prompt_tokens=8)
        truth = faults(server) - before
    (found,) = read(path, "SELECT sum(page_faults) FROM op_counter")[0]
    print(truth, found)
    assert truth > 50, "nothing was planted"
    assert 0.5 * truth < found <= 1.1 * truth, "most are in operators, which read the weights"


def test_lines_from_memory_confirm_the_byte_model(own_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """Decode reads every weight once: 131 MB in matrix products, more than a cache holds."""
    server, path = own_server("dense-150m"), tmp_path / "x.duckdb"
    counted(server, path, "all", work=10)
    with Recording.open(str(path)) as recording:
        outcome = operator_counters.ANALYZER.run(recording)
        llc = int(recording.meta().get("llc_bytes", "0"))
    table = outcome.value
    assert isinstance(table, OperatorCounterTable), outcome.reason
    print(table.unchecked, table.stream_share, table.checks)
    if table.unchecked or not 0 < llc <= 64 << 20:
        return  # this machine does not count what is needed, and the report says so
    decode = next(check for check in table.checks if check.phase == "decode")
    assert decode.model == "confirmed" and 0.75 < decode.ratio < 1.25
