"""Where threads wait, by their stacks: of a live program that measures its own waits."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.profiler.kernel_side import bpf
from flowprof.profiler.report import build_report
from flowprof.profiler.resources.manifest import load
from flowprof.profiler.sections.blocked import BlockedRow, BlockedTable
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from resource_programs import built, started, work
from undisturbed import DISTURBED

pytestmark = pytest.mark.bpf

TIMES = 20  # as blocked_program.c
PER_WAIT_NS = 300_000  # from the program's call to its way into the kernel, and back: on a busy machine


@DISTURBED
def test_times_and_stacks_are_those_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "blocked.duckdb"
    with (
        started(built(tmp_path, "blocked_program.c", "-g")) as running,
        recording_of([running.pid], path, manifests=(load("futex"),), levels=("token", "sched")) as run,
    ):
        words = work(running).split()
    assert run.progress.lost == 0
    truth = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(BlockedTable)
    assert table is not None and table.no_stack_ns == 0
    found: dict[str, list[BlockedRow]] = defaultdict(list)
    for row in table.rows:
        for frame in row.stack:
            if (name := frame.partition(" ")[0]) in truth:
                found[name].append(row)
    assert set(found) == set(truth)
    for name, ns in truth.items():
        (row,) = found[name]  # one stack each, also where two share a wrapper
        assert ns - TIMES * PER_WAIT_NS <= row.total_ns <= ns, name
        assert row.state == "sleeping" and row.threads == 1 and not row.computes
        assert row.times == (1 if name == "locks" else TIMES)
        assert row.place == ("rests" if "rest" in name else name)
        assert "clone" in row.stack[-1] and f"{name} (" in " ".join(row.stack)  # with file and line
        assert row.share is not None and 0 < row.share <= 1
    assert {row.by_comm for name in ("reads", "locks") for row in found[name]} == {"program"}
    assert [row.by_comm for row in found["naps"]] == [""]  # a timer


def test_equal_stacks_are_one_row_and_few_are_copied(tmp_path: Path) -> None:
    """They are told apart by what is on their top, not by data that lies there."""
    path = tmp_path / "blocked.duckdb"
    with (
        started(built(tmp_path, "blocked_program.c")) as running,
        recording_of([running.pid], path, manifests=(load("futex"),), levels=("token", "sched")),
    ):
        work(running)
    assert read(path, "SELECT count(DISTINCT stack_id) < 20 FROM stack") == [(True,)]
    places = "SELECT count(DISTINCT first_id), count(DISTINCT frames) FROM equal_stack JOIN ({}) USING (stack_id)"
    frames = "SELECT stack_id, list((module, address, function) ORDER BY frame) AS frames FROM stack GROUP BY stack_id"
    ((numbers, different),) = read(path, places.format(frames))
    assert numbers == different > 4


@pytest.mark.parametrize("works", [False, True], ids=["all along", "since it was done"])
def test_a_thread_that_does_not_come_back_is_seen(tmp_path: Path, works: bool) -> None:
    """Its stack is that of the end, which no event tells."""
    path = tmp_path / "open.duckdb"
    with (
        started(built(tmp_path, "blocked_program.c", "-g")) as running,
        recording_of([running.pid], path, manifests=(load("futex"),), levels=("token", "sched")),
    ):
        if works:
            work(running)
        time.sleep(0.2)
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(BlockedTable)
    assert table is not None
    (waits,) = table.open
    assert (waits.place, waits.state, waits.threads, waits.comm) == ("main", "sleeping", 1, "program")
    assert "read" in waits.stack[0] and any(frame.startswith("main (") for frame in waits.stack)
    if works:
        assert waits.longest_ns is not None and waits.longest_ns > 100_000_000
    else:
        assert waits.longest_ns is None and not table.rows


def test_a_kernel_without_btf_takes_no_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would refuse the programs that ask for them: the scheduler is recorded all the same."""
    monkeypatch.setattr(bpf, "BTF", tmp_path / "absent")
    path = tmp_path / "none.duckdb"
    with (
        started(built(tmp_path, "blocked_program.c")) as running,
        recording_of([running.pid], path, manifests=(load("futex"),), levels=("token", "sched")),
    ):
        work(running)
    assert read(path, "SELECT value FROM meta WHERE key = 'sched'") == [("yes",)]
    assert read(path, "SELECT count(*) > 80, count(stack_id) FROM thread_state WHERE state = 'sleeping'") == [(True, 0)]
    assert read(path, "SELECT count(stack_id) FROM open_wait") == [(1,)]


def test_the_command_takes_them(flowprof: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    program, path = built(tmp_path, "blocked_program.c"), tmp_path / "run.duckdb"
    options = ("--resources", "futex", "--levels", "token,sched", "-o", path)
    done = flowprof("run", *options, "--", program)
    assert done.returncode == 0 and "naps" in done.stdout
    where = "WHERE state = 'sleeping' AND end_ns - start_ns > 5_000_000"
    assert read(path, f"SELECT count(*) > 20, count(*) - count(stack_id) FROM thread_state {where}") == [(True, 0)]
