"""Pictures of a server's slots and batches: occupancy, waiters and lanes over time, worked out by hand; in all viewers.

The recordings last 10 s, so that a step of a picture is 125/3 ms: `steps` has three cells a millisecond.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.analyzers.requests import all_requests
from flowprof.profiler.blame.over_time import LANES, STEPS, level
from flowprof.profiler.report import Report, build_report, timeline
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.sections.resources import Blamed, Picture
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from flowprof.viewers.json import document
from request_recordings import MS, Server, at, chats_and_prompt

EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&{{7*7}}"


def steps(*levels: tuple[int, int, float]) -> np.ndarray:
    """(from, to, value) in ms, added up, as means of the steps."""
    cells = np.zeros(30_000)
    for begin, end, value in levels:
        cells[3 * begin : 3 * end] += value
    return cells.reshape(STEPS, 125).mean(axis=1)


def same(drawn: tuple[float, ...], expected: np.ndarray) -> bool:
    return len(drawn) == STEPS and bool(np.allclose(drawn, expected, atol=1e-6))


def reported(server: Server, path: Path) -> Report:
    with server.write(path) as recording:
        report = build_report(recording)
    assert report.section("requests").status == "ok", report.section("requests").reason
    return report


def page_of(report: Report, path: Path) -> str:
    with Recording.open(str(path)) as recording:
        return html.render(report, timeline(recording))


def blamed(report: Report) -> dict[str, Blamed]:
    table = report.get(RequestTable)
    assert table is not None
    return {one.resource: one for one in table.blamed}


def picture(one: Blamed) -> Picture:
    assert one.picture is not None
    assert one.picture.step_ns == 10_000 * MS / STEPS
    return one.picture


def crowd() -> Server:
    """Two slots. Tasks 2 and 4 wait for those of 1 and 3; task 5 still waits at the end, as 6 and 7 have both."""
    server = Server()
    server.request(1, 0, -5, -4, 1000)
    server.request(2, 0, 250, 1000, 3000)
    server.request(3, 1, 0, 0, 2000)
    server.request(4, 1, 500, 2000, 2500)
    server.request(5, None, 9000, None, None)
    server.request(6, 0, 8000, 8000, None)
    server.request(7, 1, 8500, 8500, None)
    return server


def test_slots_over_time(tmp_path: Path) -> None:
    slot = blamed(reported(crowd(), tmp_path / "r.duckdb"))["slot"]
    drawn = picture(slot)
    assert same(drawn.occupancy, steps((0, 2500, 2), (2500, 3000, 1), (8000, 8500, 1), (8500, 10_000, 2)))
    assert same(drawn.waiters, steps((250, 1000, 1), (500, 2000, 1), (9000, 10_000, 1)))
    assert sum(drawn.waiters) * drawn.step_ns == pytest.approx(slot.waiting_ns) == 3250 * MS
    assert slot.at_ns == 500 * MS, "from then on two waited"
    assert [name for name, _ in drawn.lanes] == ["task 3", "task 1", "task 6", "task 7"], (
        "by what others waited for them"
    )
    for (_, lane), (begin, end) in zip(
        drawn.lanes, [(0, 2000), (0, 1000), (8000, 10_000), (8500, 10_000)], strict=True
    ):
        assert same(lane, steps((begin, end, 1)))
    assert (slot.holder.task if slot.holder else None, slot.holders, slot.share) == (3, 4, pytest.approx(1500 / 3250))


def test_who_only_shared_a_batch_did_not_have_the_slot(tmp_path: Path) -> None:
    """Task 3 computes beside those on slot 0, and is no holder of what they wait for."""
    server = Server()
    server.request(1, 0, 0, 0, 1000)
    server.request(2, 0, 250, 1000, 3000)
    server.request(3, 1, 0, 0, 3000)
    server.batch(1000, 1500, (0, 100, 0, True), (1, 100, 0, True))
    slot = blamed(reported(server, tmp_path / "r.duckdb"))["slot"]
    assert slot.holders == 1 and [name for name, _ in picture(slot).lanes] == ["task 1"]


def test_a_slot_has_one_holder_at_a_time(tmp_path: Path) -> None:
    """The release of task 1 was lost: the next one's start ends it. One from before has its slot from the begin."""
    server = Server()
    server.request(1, 0, 0, 500, None)
    server.request(2, 0, 1000, 2000, 3000)
    server.request(3, 1, None, None, 4000)
    server.request(4, 1, 1000, 4000, 4500)
    slot = blamed(reported(server, tmp_path / "r.duckdb"))["slot"]
    assert same(picture(slot).occupancy, steps((500, 3000, 1), (0, 4500, 1)))
    assert same(picture(slot).waiters, steps((1000, 2000, 1), (1000, 4000, 1)))
    assert slot.waiting_ns == 4000 * MS


def test_batches_over_time(tmp_path: Path) -> None:
    """Both chats' tokens are overdue from 10 ms after their last ones, at 170 ms, until the prompt is over at 420."""
    batch = blamed(reported(chats_and_prompt(), tmp_path / "r.duckdb"))["batch"]
    drawn = picture(batch)
    assert same(drawn.waiters, steps((180, 420, 2)))
    assert sum(drawn.waiters) * drawn.step_ns == pytest.approx(batch.waiting_ns) == 480 * MS
    decode = [(20, 170, 2.0), (420, 560, 2.0)]
    assert same(drawn.occupancy, steps((0, 20, 16), *decode, (170, 270, 502), (270, 420, 500)))
    ((name, lane),) = drawn.lanes
    assert name == "task 9" and same(lane, steps((170, 420, 500)))
    assert batch.at_ns == 180 * MS


def test_the_longest_of_the_worst_moments_is_shown(tmp_path: Path) -> None:
    """Prompts of 200 and of 400 tokens make a chat wait 50 and 100 ms, one after the other: lanes in order of blame."""
    server = Server()
    server.request(1, 0, 0, 0, 1000)
    server.batch(0, 10, (0, 8, 0, True))
    now = 10.0
    for step in range(40):
        slow = {10: (1, 200, 50.0), 20: (2, 400, 100.0)}.get(step)
        more = slow[2] if slow else 0.0
        server.batch(now, now + 10 + more, (0, 1, 8 + step, True), *([(slow[0], slow[1], 0, True)] if slow else []))
        if slow:
            server.request(slow[0] + 1, slow[0], now - 1, now - 1, now + 10 + more)
        now += 10 + more
    batch = blamed(reported(server, tmp_path / "r.duckdb"))["batch"]
    drawn = picture(batch)
    assert same(drawn.waiters, steps((120, 170, 1), (270, 370, 1)))
    assert sum(drawn.waiters) * drawn.step_ns == pytest.approx(150 * MS), "of all prompts"
    assert (batch.waiting_ns, batch.at_ns) == (100 * MS, 270 * MS)
    assert [name for name, _ in drawn.lanes] == ["task 3", "task 2"]
    assert same(drawn.lanes[0][1], steps((260, 370, 400))) and same(drawn.lanes[1][1], steps((110, 170, 200)))


def test_a_draft_model_s_tokens_are_no_more_tokens(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, 0, 0, 70)
    server.batch(0, 50, (0, 300, 0, True))
    server.batch(51, 55, (0, 300, 0, False), context=2)
    server.batch(56, 69, (0, 1, 300, True))
    with server.write(tmp_path / "r.duckdb") as recording:
        scene = all_requests(recording).scene
    times, tokens = level(scene.batches.start_ns, scene.batches.end_ns, scene.batches.units)
    assert [(int(time), int(n)) for time, n in zip(times, tokens, strict=True) if n] == [(at(0), 300), (at(56), 1)]
    assert (scene.prompts.who.tolist(), scene.prompts.units.tolist()) == ([0], [300])


def test_many_holders_are_a_few_lanes(tmp_path: Path) -> None:
    server = Server()
    for task in range(60):
        server.request(task, 0, 0, task * 100, task * 100 + 100)
    slot = blamed(reported(server, tmp_path / "r.duckdb"))["slot"]
    drawn = picture(slot)
    assert len(drawn.lanes) == LANES
    assert sum(drawn.waiters) * drawn.step_ns == pytest.approx(slot.waiting_ns) == sum(range(60)) * 100 * MS


@pytest.mark.parametrize("extreme", [-(2**62), 2**62, 0])
def test_times_that_cannot_be(tmp_path: Path, extreme: int) -> None:
    server = crowd()
    for name in ("posted_ns", "started_ns", "released_ns"):
        server.request(100, 0, 100, 200, 300)
        server.requests[-1][name] = extreme
    page = page_of(report := reported(server, tmp_path / "r.duckdb"), tmp_path / "r.duckdb")
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', page))
    for one in blamed(report).values():
        assert np.isfinite([*picture(one).occupancy, *picture(one).waiters]).all()
        assert max(picture(one).occupancy) <= 2 + 1e-6


def test_nothing_is_blamed_where_too_much_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    with chats_and_prompt().write(path) as recording:
        recording.shadow("loss", {"window_id": [1], "place": ["ring"], "events": [1000]})
        report = build_report(recording)
    assert blamed(report) == {} and document(report)["resources"] == []


def test_graphs_that_nobody_described_take_no_blame_away(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    with chats_and_prompt().write(path) as recording:
        whole = build_report(recording)
        recording.shadow("loss", {"window_id": [1], "place": ["undescribed_graph"], "events": [1000]})
        report = build_report(recording)
    assert blamed(report) == blamed(whole) != {}
    of_events = [finding for finding in whole.findings if finding.id.startswith(("requests.", "resources."))]
    assert of_events and [finding for finding in report.findings if finding.id != "losses.withheld"] == of_events
    assert len(report.findings) == len(of_events) + 1


# ---------------------------------------------------------------------- on the page


def section_of(page: str) -> str:
    return page.split('<section id="resources">', 1)[-1].split("</section>", 1)[0] if 'id="resources"' in page else ""


def both() -> Server:
    """A prompt in the way of chats, and a request that waits for the slot of one of them."""
    server = chats_and_prompt()
    server.request(20, 1, 100, 561, 700)
    return server


def test_page_and_screen_without_a_manifest(tmp_path: Path) -> None:
    report = reported(both(), tmp_path / "r.duckdb")
    told = [(one["resource"], one["waiting_ns"]) for one in document(report)["resources"]]
    assert told == [("batch", 480 * MS), ("slot", 460 * MS)]
    assert all("picture" not in one for one in document(report)["resources"])
    page = page_of(report, tmp_path / "r.duckdb")
    section = section_of(page)
    assert '<a href="#resources">' in page
    assert re.findall(r'<div class="card blame"><h3>(\w+): (\w+)', section) == [
        ("batch", "contention"), ("slot", "contention")
    ]  # fmt: skip
    assert section.count('class="over-time"') == 2
    for words in ("Tokens in batches", "Tokens overdue", "Slots held", "Requests waiting", "Overdue: the token"):
        assert words in section
    assert "No resource is found wanting" not in section and "events in" not in section
    for width in (80, 150):
        out = io.StringIO()
        terminal.show(report, out, width)
        rows = out.getvalue().split("Resources  the server", 1)[1].splitlines()
        assert max(map(len, rows)) <= width
        assert [row.split()[:4] for row in rows[2:4]] == [
            ["batch", "contention", "task", "9"], ["slot", "contention", "task", "4"]
        ]  # fmt: skip


def test_without_verdicts_there_is_no_section(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, 0, 0, 100)
    report = reported(server, tmp_path / "r.duckdb")
    assert section_of(page_of(report, tmp_path / "r.duckdb")) == ""
    terminal.show(report, out := io.StringIO(), 80)
    assert "Resources" not in out.getvalue()


def test_with_a_manifest_they_stand_beside_its_resources(tmp_path: Path) -> None:
    server = both()
    server.resources = [{"resource_id": 1, "manifest": "mine", "name": "pool", "kind": "memory", "events": "acquire"}]
    report = reported(server, tmp_path / "r.duckdb")
    section = section_of(page_of(report, tmp_path / "r.duckdb"))
    assert section.count('<div class="card blame">') == 2 and "from 0 events" in section
    terminal.show(report, out := io.StringIO(), 80)
    assert "0 events" in out.getvalue() and re.search(r"batch +contention +task 9", out.getvalue())


def test_names_stay_text(tmp_path: Path) -> None:
    report = reported(chats_and_prompt(), tmp_path / "r.duckdb")
    batch = blamed(report)["batch"]
    assert batch.holder is not None
    evil = replace(
        batch, resource=EVIL, holder=replace(batch.holder, name=EVIL), evidence=(EVIL,), chain=(),
        victims=(replace(batch.victims[0], name=EVIL),),
        picture=replace(picture(batch), units=EVIL, waits=EVIL, note=EVIL, lanes=((EVIL, picture(batch).occupancy),)),
    )  # fmt: skip
    table = report.get(RequestTable)
    assert table is not None
    sections = tuple(
        replace(one, value=replace(table, blamed=(evil,))) if one.value is table else one for one in report.sections
    )
    page = page_of(replace(report, sections=sections), tmp_path / "r.duckdb")
    assert "<img" not in page and "\x1b" not in page and "\u202e" not in page
    assert section_of(page).count("&lt;/script&gt;") >= 6 and "{{7*7}}" in section_of(page)
    assert page.count("<script") == page.count("</script>") == 6
    terminal.show(replace(report, sections=sections), out := io.StringIO(), 80)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out.getvalue())
