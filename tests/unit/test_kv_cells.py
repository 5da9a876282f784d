"""Cells of the KV cache: what sequences give back, whose they are, and what happens when a batch finds none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record.requests import cell_rows
from flowprof.profiler.report import Report, build_report, timeline
from flowprof.profiler.sections.requests import RequestTable
from flowprof.viewers import html, terminal
from flowprof.viewers.json import document
from request_recordings import MS, PID, Server


def section(server: Server, path: Path) -> tuple[Report, RequestTable]:
    with server.write(path / "r.duckdb") as recording:
        report = build_report(recording)
    assert report.section("requests").status == "ok", report.section("requests").reason
    table = report.get(RequestTable)
    assert table is not None
    return report, table


def cells(server: Server, path: Path) -> list[tuple[int, int, int]]:
    """Since the recording began (ms), in use, idle."""
    (cache,) = section(server, path)[1].kv
    return [(point.at_ns // MS, point.cells, point.idle) for point in cache.points]


def test_rows() -> None:
    events = np.zeros(2, ring.EVENT)
    events["kind"], events["tid"], events["at_ns"] = [ring.CELLS_FREED, ring.NO_CELLS], 5, [10, 20]
    events["a"], events["b"] = [7 << 32 | 3, 0xFFFFFFF0], [0xFFFFFFFF << 32 | 12, 0]
    rows = cell_rows(events, PID)
    assert list(rows["what"]) == ["freed", "refused"] and list(rows["place"]) == [7, 0xFFFFFFF0]
    assert [rows[name].tolist() for name in ("sequence", "from_position", "to_position")] == [
        [3, None], [12, None], [-1, None]
    ]  # fmt: skip


def two_slots() -> Server:
    server = Server()
    server.request(1, 0, 0, 0, 25)
    server.request(2, 1, 0, 0, 90)
    server.batch(0, 10, (0, 100, 0, True))
    server.batch(10, 20, (0, 1, 100, True), (1, 50, 0, True))
    return server


@pytest.mark.parametrize(
    ("freed", "left"),
    [
        ((0, -1, -1), 0),
        ((0, 60, -1), 60),
        ((0, 20, 40), 81),
        ((0, 90, 500), 90),
        ((0, 101, -1), 101),
        ((0, 500, 400), 101),
        ((3, 0, -1), 101),
    ],
)
def test_what_a_sequence_gives_back(tmp_path: Path, freed: tuple[int, int, int], left: int) -> None:
    server = two_slots()
    server.freed(30, *freed)
    server.batch(40, 50, (1, 1, 50, True))
    points = cells(server, tmp_path)
    assert points[-1] == (40, left + 51, left)  # task 1 is over
    assert (points[:2], [at for at, _, _ in points]) == (
        [(0, 100, 0), (10, 151, 0)], [0, 10, *([30] if left != 101 else []), 40]
    )  # fmt: skip


def test_all_sequences_at_once(tmp_path: Path) -> None:
    server = two_slots()
    server.freed(30, -1, -1, -1)
    assert cells(server, tmp_path)[-1] == (30, 0, 0)


def test_given_back_twice_counts_once(tmp_path: Path) -> None:
    server = two_slots()
    for now in (30, 31):
        server.freed(now, 0, 60, -1)
    assert cells(server, tmp_path)[-1] == (30, 110, 60)


def test_of_two_caches_nothing_is_taken_back(tmp_path: Path) -> None:
    """A draft model has one of its own: which of them it was is not known."""
    server = two_slots()
    server.freed(30, 0, -1, -1)
    server.freed(31, 0, -1, -1, place=2)
    assert cells(server, tmp_path)[-1][1] == 151


def full() -> Server:
    """Tasks 1 and 2 have 600 and 300 cells, task 3's prompt finds no room from 100 ms on, twice; at 160 the server
    gives up and ends 2 and 3. Task 1 goes on at 200."""
    server = Server()
    server.batch(0, 50, (0, 600, 0, True), (1, 300, 0, True))
    server.request(1, 0, 0, 0, 300)
    server.request(2, 1, 0, 0, 160)
    server.request(3, 2, 80, 90, 160)
    server.refused(100)
    server.refused(130)
    server.batch(200, 210, (0, 1, 600, True))
    server.batch(220, 230, (0, 1, 601, True))
    return server


def test_a_full_cache(tmp_path: Path) -> None:
    report, table = section(full(), tmp_path)
    (finding,) = [one for one in report.findings if one.id == "requests.no_kv_cells"]
    assert "2 requests ended without an answer" in finding.claim
    assert "a batch found no room 2 times; 900 cells were in use then: task 1 600, task 2 300" in finding.evidence
    (blamed,) = [one for one in table.blamed if one.resource == "KV cells"]
    assert blamed.holder is not None and blamed.holder.task == 1 and blamed.share == pytest.approx(2 / 3)
    assert [(one.task, one.waiting_ns, one.waits) for one in blamed.victims] == [
        (2, 60 * MS, 1), (3, 60 * MS, 1), (1, 100 * MS, 1)
    ]  # fmt: skip
    assert blamed.waiting_ns == 220 * MS and blamed.picture is not None
    peak = max(range(len(blamed.picture.waiters)), key=blamed.picture.waiters.__getitem__)
    assert (peak + 1) * blamed.picture.step_ns >= 100 * MS and peak * blamed.picture.step_ns <= 160 * MS


def test_a_batch_that_is_computed_ends_the_wait(tmp_path: Path) -> None:
    """Nobody failed, and 6 ms of waiting are nothing."""
    server = two_slots()
    server.refused(84)
    server.batch(86, 89, (1, 1, 50, True))
    report, table = section(server, tmp_path)
    assert "requests.no_kv_cells" not in {one.id for one in report.findings} and not table.blamed


def test_another_context_s_batches_are_not_the_model_s(tmp_path: Path) -> None:
    server = full()
    server.cells = [{**one, "place": 9} for one in server.cells]
    report, _ = section(server, tmp_path)
    assert "requests.no_kv_cells" not in {one.id for one in report.findings}


def test_screen_page_and_json_say_it(tmp_path: Path) -> None:
    server = full()
    server.freed(170, 1, -1, -1)
    server.batch(180, 190, (0, 1, 600, True))
    with server.write(tmp_path / "r.duckdb") as recording:
        report = build_report(recording)
        page = html.render(report, timeline(recording))
    assert 'class="idle"' not in page and "Requests whose batch found no room" in page
    out = io.StringIO()
    terminal.show(report, out, 100)
    assert "KV cache: at most 900 cells in use" in out.getvalue()
    assert [(one["resource"], one["holder"]["task"]) for one in document(report)["resources"]] == [("KV cells", 1)]


def test_cells_without_a_request_are_told(tmp_path: Path) -> None:
    server = two_slots()
    server.batch(40, 50, (1, 1, 50, True))
    with server.write(tmp_path / "r.duckdb") as recording:
        report = build_report(recording)
        page = html.render(report, timeline(recording))
    out = io.StringIO()
    terminal.show(report, out, 100)
    assert 'class="idle"' in page and "at most 152 cells in use, up to 101 by slots without a request" in out.getvalue()
