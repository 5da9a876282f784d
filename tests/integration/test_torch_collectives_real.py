"""Collectives of two live processes that compute together (torch.distributed with Gloo)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch_engine
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.store import Recording
from recorded import read
from torch_engine import recorded
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

DISTRIBUTED = """
import os, sys, time, torch
import torch.distributed as dist
rank, values, square = int(os.environ["RANK"]), torch.ones(1000), torch.ones(300, 300)
torch.set_num_threads(1)
print("1", flush=True)
for line in sys.stdin:
    asked, computed, waited = 0, 0, 0
    how, *count = line.split()
    if how.startswith("file:"):
        dist.init_process_group("gloo", init_method=how, rank=rank, world_size=2)
    elif how == "all":
        for _ in range(int(*count)):
            dist.all_reduce(values), dist.all_reduce(values), dist.all_reduce(values, async_op=True).wait()
            dist.broadcast(values, 0), dist.broadcast(values, 1)
            dist.all_gather([torch.ones(1000), torch.ones(1000)], values)
            dist.send(values, 1) if rank == 0 else dist.recv(values, 0)
            dist.barrier()
    else:  # the first process comes late, and the other one waits, or computes meanwhile
        for _ in range(int(*count)):
            if rank == 0:
                time.sleep(0.05)
            begun = time.monotonic()
            work = dist.all_reduce(values, async_op=True)
            queued = time.monotonic()
            while rank == 1 and how == "beside" and time.monotonic() < queued + 0.03:
                torch.mm(square, square)
            done = time.monotonic()
            work.wait()
            asked, computed, waited = asked + queued - begun, computed + done - queued, waited + time.monotonic() - done
    print([asked, computed, waited], flush=True)
"""


class Both:
    """Two processes of one group, on loopback."""

    def __init__(self, programs: list[torch_engine.Program], threads: ThreadPoolExecutor) -> None:
        self._programs, self._threads = programs, threads
        self.pids = [program.pid for program in programs]

    def ask(self, line: str) -> list[Any]:
        return list(self._threads.map(lambda program: program.ask(line), self._programs))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        programs = [
            stack.enter_context(torch_engine.running(DISTRIBUTED, RANK=str(rank), GLOO_SOCKET_IFNAME="lo"))
            for rank in (0, 1)
        ]
        found = Both(programs, threads)
        found.ask(f"file://{tmp_path_factory.mktemp('group')}/meeting")
        found.ask("all 2")
        yield found


def test_collectives_of_two_processes(tmp_path: Path, both: Both) -> None:
    """Every call, every wait for it, and every run on a thread of Gloo's: sends and receives have none."""
    path, count = tmp_path / "x.duckdb", 25
    with recorded(both.pids, path):
        both.ask(f"all {count}")
    outermost = "FROM api_call c WHERE name LIKE 'c10d::%' AND parent_id IS NULL"  # a barrier's run may wait for others
    rows = read(path, f"SELECT pid, name, count(*), count(end_ns) {outermost} GROUP BY ALL")
    assert all(calls == ended for *_, calls, ended in rows)
    expected = {"c10d::allreduce": 3, "c10d::broadcast": 2, "c10d::allgather": 1, "c10d::barrier": 1,
                "c10d::wait": 8, "c10d::execute": 7}  # fmt: skip
    for rank, pid in enumerate(both.pids):
        found = {name: calls / count for process, name, calls, _ in rows if process == pid}
        assert found == expected | {("c10d::send", "c10d::recv")[rank]: 1}
    told = f"SELECT DISTINCT kind, name = 'c10d::execute', tid <> pid {outermost} ORDER BY 1"
    assert read(path, told) == [("collective", True, True), ("operator", False, False)]


@DISTURBED
@pytest.mark.parametrize("how", ["at once", "beside"])
def test_exposed_communication(tmp_path: Path, both: Both, how: str) -> None:
    """The time in which the second process waits for the first, which comes late, by the second one's own clock."""
    path = tmp_path / "x.duckdb"
    with recorded(both.pids, path, levels=("op", "sched")):
        _, (asked, computed, waited) = both.ask(f"{'now' if how == 'at once' else how} 20")
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    overlap, operators = report.get(OverlapTable), report.get(TorchOperators)
    assert overlap is not None and operators is not None
    of_pid = {one.pid: {time.kind: time for time in one.times} for one in overlap.calls}
    late, other = (of_pid[pid]["collectives"] for pid in both.pids)
    assert 0.2 < waited < 1.6 and other.exposed_ns / 1e9 == pytest.approx(asked + waited, rel=0.1)
    assert other.busy_ns / 1e9 == pytest.approx(asked + computed + waited, rel=0.1)
    assert late.exposed_ns < 0.3 * other.exposed_ns
    assert (of_pid[both.pids[1]].get("operators") is not None) == (how == "beside")
    assert any(f"process {both.pids[1]}: collectives: " in why for why in overlap.refused)
    assert not any("behind the call" in why for why in overlap.refused)
    [finding] = (one for one in report.findings if one.id == "overlap.exposed_comm")
    assert finding.claim.startswith(f"Process {both.pids[1]} computes nothing beside its collectives for ")
    [wait] = (row for row in operators.rows if row.name == "c10d::wait")
    assert wait.calls == 40 and wait.bound == "wait" and "off the processor: sleeping" in wait.evidence[0]
    assert wait.total_ns / 1e9 >= 0.9 * waited
