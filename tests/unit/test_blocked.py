"""Where threads waited, in a recording written here: sums by stack, who is first, and what had not come back."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.profiler.report import Report, build_report, timeline
from flowprof.profiler.sections.blocked import BlockedTable
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from flowprof.viewers import json as json_viewer

MS = 1_000_000
PID, DRIVER, WORKER, IDLE, STUCK = 100, 100, 101, 102, 103
EVIL = "take</script><b>\x1b[31m(int)"
LIBC = "/usr/lib/libc.so.6"
FRAMES = {  # stack → (module, function, source), from the innermost outwards
    1: ((LIBC, "futex_wait", ""), ("/opt/engine", "wait_for_work", "pool.c:12"), ("/opt/engine", "work", "")),
    2: ((LIBC, "futex_wait", ""), ("/opt/engine", "wait_for_work", "pool.c:12"), ("/opt/engine", "work", "")),
    3: ((LIBC, "read", ""), ("/opt/engine", EVIL, "")),
    4: (("/usr/lib/libc-2.31.so", "nanosleep", ""),),
    5: (("/opt/engine", None, ""), (LIBC, "start_thread", "")),
}  # fmt: skip


def report(path: Path, with_stacks: bool = True) -> Report:
    with Recording.create(str(path)) as recording:
        for key, value in (("sched", "yes"), ("started_ns", 0), ("stopped_ns", 1000 * MS)):
            recording.set_meta(key, value)
        tids, names = [DRIVER, WORKER, IDLE, STUCK], ["engine", "worker", "http", "hangs"]
        recording.append("thread", {"pid": [PID] * 4, "tid": tids, "comm": names, "ith": [0, 1, None, None]})
        states = [  # thread, start, ms, state, by, its name, stack
            (WORKER, 0, 100, "sleeping", DRIVER, "engine", 1), (WORKER, 200, 50, "sleeping", DRIVER, "engine", 2),
            (WORKER, 300, 20, "runnable", 900, "hog", None), (IDLE, 0, 900, "sleeping", 0, None, 4),
            (DRIVER, 400, 30, "disk", 0, None, 3), (IDLE, 905, 10, "sleeping", 0, None, None),
            (DRIVER, 500, 20, "fault", 0, None, 5),
        ]  # fmt: skip
        for tid, start, ms, state, by, name, stack in states:
            recording.append("thread_state", {
                "pid": [PID], "tid": [tid], "cpu": [0], "start_ns": [start * MS], "end_ns": [(start + ms) * MS],
                "state": [state], "by_tid": [by], "by_comm": [name], "stack_id": [stack if with_stacks else None],
            })  # fmt: skip
        if with_stacks:
            recording.append("open_wait", {
                "pid": [PID] * 4, "tid": [STUCK, IDLE, WORKER, DRIVER], "state": ["sleeping"] * 4,
                "since_ns": [None, 950 * MS, 980 * MS, 1001 * MS], "stack_id": [3, 4, 2, 2],  # the last: after the end
            })  # fmt: skip
            rows = [(stack, i, *frame) for stack, frames in FRAMES.items() for i, frame in enumerate(frames)]
            recording.append("stack", {
                "stack_id": [row[0] for row in rows], "frame": [row[1] for row in rows],
                "module": [row[2] for row in rows], "address": [64 + row[1] for row in rows],
                "function": [row[3] for row in rows], "source": [row[4] or None for row in rows],
                "how": ["exact"] * len(rows),
            })  # fmt: skip
    with Recording.open(str(path)) as recording:
        return build_report(recording)


def shown(made: Report, width: int = 100) -> str:
    out = io.StringIO()
    terminal.show(made, out, width)
    return out.getvalue()


def test_waits_are_summed_by_stack_and_threads_that_compute_come_first(tmp_path: Path) -> None:
    table = report(tmp_path / "r.duckdb").get(BlockedTable)
    assert table is not None
    said = [(r.comm, r.state, r.by_comm, r.total_ns // MS, r.times, r.longest_ns // MS, r.share) for r in table.rows]
    assert said == [
        ("worker", "sleeping", "engine", 150, 2, 100, 0.15),  # two equal stacks
        ("engine", "disk", "", 30, 1, 30, 0.03),
        ("engine", "fault", "", 20, 1, 20, 0.02),
        ("http", "sleeping", "", 900, 1, 900, 0.9),
    ]
    assert [(row.place, row.caller) for row in table.rows] == [
        ("wait_for_work", "work"), (EVIL, ""), ("", ""), ("", ""),
    ]  # fmt: skip
    assert table.rows[0].stack == ("futex_wait", "wait_for_work (pool.c:12)", "work")
    assert table.rows[2].stack == ("/opt/engine+0x40", "start_thread")
    assert (table.total_ns, table.shown_ns, table.no_stack_ns) == (1110 * MS, 1100 * MS, 10 * MS)


def test_who_had_not_come_back(tmp_path: Path) -> None:
    table = report(tmp_path / "r.duckdb").get(BlockedTable)
    assert table is not None
    assert [(row.comm, row.place, row.longest_ns) for row in table.open] == [
        ("worker", "wait_for_work", 20 * MS), ("hangs", EVIL, None), ("http", "", 50 * MS),
    ]  # fmt: skip


def test_views_show_it_and_escape_it(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    made = report(path)
    text = shown(made)
    assert "Where threads waited" in text and "wait_for_work ← work" in text and "page from disk" in text
    assert "Where threads wait  that had not come back" in text and "all along" in text  # nothing else happened
    assert "\x1b[31m" not in text
    narrow = shown(made, 60)
    assert "all along" in narrow and "900\xa0ms" in narrow and "of theirs" not in narrow
    assert "wait_for_work     worker   engine" in narrow
    with Recording.open(str(path)) as recording:
        page = html.render(made, timeline(recording))
    assert 'id="blocked-table"' in page and 'id="open-wait-table"' in page and "</script><b>" not in page
    found = json.loads(json_viewer.render(made))["blocked"]
    assert found["rows"][0]["place"] == "wait_for_work" and found["open"][1]["longest_ns"] is None


@pytest.mark.parametrize(("width", "place"), [(80, "ggml_compute_forward_mul_mat_one"), (130, "← libgomp.so.1+0x4")])
def test_places_have_the_room_that_figures_leave(tmp_path: Path, width: int, place: str) -> None:
    """Figures are never cut; of the caller, which may be a file, there is what fits."""
    made = report(tmp_path / "r.duckdb")
    table = made.get(BlockedTable)
    assert table is not None
    long = replace(table.rows[0], place="ggml_compute_forward_mul_mat_one_chunk", caller="/usr/lib/libgomp.so.1+0x4")
    sections = [
        replace(one, value=replace(table, rows=(long,))) if one.value is table else one for one in made.sections
    ]
    text = shown(replace(made, sections=tuple(sections)), width)
    head, row = text.split("Where threads waited")[1].splitlines()[1:3]
    assert "…" not in head and "longest" in head and ("of theirs" in head) == (width > 99)
    assert place in row and "150\u00a0ms" in row and "100\u00a0ms" in row


def test_without_stacks_it_says_what_to_record(tmp_path: Path) -> None:
    outcome = report(tmp_path / "r.duckdb", with_stacks=False).section("blocked")
    assert outcome.status == "skipped" and "sched" in outcome.reason
