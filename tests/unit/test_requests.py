"""Requests from their events, and from written recordings: phases, tokens, who delayed whom, cells. By hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.analyzers import requests as analyzer
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record import requests as module
from flowprof.profiler.record.requests import SETTLED_NS, Requests, part_rows, token_rows
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.sections.requests import RequestRow, RequestTable
from flowprof.profiler.slo import parse
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from flowprof.viewers import requests as viewer
from flowprof.viewers.json import document
from flowprof.viewers.quantity import duration, percent
from request_recordings import MS, PID, Server, at, chats_and_prompt


def events(*rows: tuple[int, int, int, int]) -> np.ndarray:
    found = np.zeros(len(rows), ring.EVENT)
    for event, (kind, ns, a, b) in zip(found, rows, strict=True):
        event["kind"], event["at_ns"], event["a"], event["b"] = kind, ns, a, b
    return found


def rows_of(server: Server, path: Path) -> tuple[dict[int | None, RequestRow], RequestTable, dict[str, object]]:
    with server.write(path) as recording:
        report = build_report(recording)
    outcome = report.section("requests")
    assert outcome.status == "ok", outcome.reason
    table = report.get(RequestTable)
    assert table is not None
    return {row.task_id: row for row in table.rows}, table, {f.id: f for f in outcome.findings}


# ---------------------------------------------------------------------- from events


def test_a_request_on_its_slot() -> None:
    requests = Requests(PID)
    requests.add(events(
        (ring.REQUEST_POST, 10, 5, 0), (ring.SLOT_START, 30, 5, 2), (ring.REQUEST_RESULT, 40, 5, 2),
        (ring.SLOT_RELEASE, 50, 2, 0), (ring.REQUEST_RESULT, 60, 5, 2), (ring.REQUEST_DONE, 61, 5, 0),
    ))  # fmt: skip
    rows = requests.take()
    assert {name: values[0] for name, values in rows.items()} == {
        "pid": PID, "task_id": 5, "slot": 2, "posted_ns": 10, "started_ns": 30, "released_ns": 50,
        "first_result_ns": 40, "end_ns": 60, "results": 2,
    }  # fmt: skip


def test_a_slot_that_is_still_held_is_waited_for() -> None:
    """Its answer may be out before its slot is released."""
    requests = Requests(PID)
    requests.add(events((ring.SLOT_START, 30, 5, 2), (ring.REQUEST_RESULT, 60, 5, 2), (ring.REQUEST_DONE, 61, 5, 0)))
    assert requests.take()["task_id"] == []
    requests.add(events((ring.SLOT_RELEASE, 70, 2, 0)))
    assert requests.take()["released_ns"] == [70]


def test_a_request_from_before_the_recording_is_released_too() -> None:
    requests = Requests(PID)
    requests.add(events((ring.REQUEST_RESULT, 40, 5, 2), (ring.SLOT_RELEASE, 50, 2, 0), (ring.SLOT_RELEASE, 51, 2, 0)))
    rows = requests.take(everything=True)
    assert (rows["started_ns"], rows["released_ns"], rows["end_ns"]) == ([None], [50], [None])


def test_a_client_that_goes_before_its_answer_is_not_kept_for_ever() -> None:
    requests = Requests(PID)
    requests.add(events((ring.REQUEST_POST, 10, 5, 0), (ring.REQUEST_DONE, 20, 5, 0)))
    assert requests.take()["task_id"] == []  # its result may come late
    requests.add(events((ring.REQUEST_POST, 21 + SETTLED_NS, 6, 0)))
    rows = requests.take()
    assert (rows["task_id"], rows["posted_ns"], rows["end_ns"], rows["results"]) == ([5], [10], [None], [0])


def test_what_there_is_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    requests = Requests(PID)
    requests.add(events(*((ring.REQUEST_POST, n, n, 0) for n in range(5)), (ring.REQUEST_RESULT, 9, 1, 0)))
    assert (requests.dropped, len(requests.take(everything=True)["task_id"])) == (3, 2)


def test_tokens_and_parts_are_rows_as_they_come() -> None:
    tokens = token_rows(events((ring.SLOT_TOKEN, 7, 1, 0), (ring.SLOT_TOKEN, 8, 0xFFFFFFFF, 0)), PID)
    assert (list(tokens["slot"]), list(tokens["at_ns"])) == ([1], [7])  # a slot that could not be read is none
    part = events((ring.BATCH_PART, 9, 3, 512))
    part["c"], part["d"], part["tid"], part["ith"] = 1024, 1, 44, 17
    row = {name: np.asarray(value).tolist() for name, value in part_rows(part, PID).items()}
    assert row == {"pid": PID, "tid": [44], "at_ns": [9], "context": [17], "sequence": [3], "tokens": [512],
                   "position": [1024], "output": [True]}  # fmt: skip


# ---------------------------------------------------------------------- from a recording


def test_a_prompt_is_blamed_for_what_it_added(tmp_path: Path) -> None:
    rows, table, findings = rows_of(chats_and_prompt(), tmp_path / "r.duckdb")
    for chat in (3, 4):
        row = rows[chat]
        assert (row.queue_ns, row.prefill_ns, row.decode_ns) == (MS, 20 * MS, (29 * 10 + 250) * MS)
        assert (row.prompt_tokens, row.tokens, row.ttft_ns) == (8, 31, 21 * MS)
        assert (row.itl_p50_ns, row.itl_max_ns) == (10 * MS, 250 * MS)
        assert [(d.id, d.queue_ns, d.prefill_ns, d.decode_ns) for d in row.delayed_by if d.id == 9] == [
            (9, 0, 0, 240 * MS)
        ]
        assert (row.baseline_ns, row.baseline, row.disturbed_steps) == (10 * MS, "own", 1)
    long = rows[9]
    assert (long.queue_ns, long.prompt_tokens, long.tokens) == (3 * MS, 1000, 1)
    assert {d.id: d.prefill_ns for d in long.delayed_by if d.prefill_ns} == pytest.approx(
        {3: 2 * MS / 2 + 100 * MS / 502, 4: 2 * MS / 2 + 100 * MS / 502}, rel=1e-6
    )
    finding = findings["requests.delayed_by_prompt"]
    assert "task 9 " in finding.claim and "1000 tokens" in finding.claim and "480.0 ms" in finding.claim
    assert finding.cost_ns_per_token == 480 * MS / 60
    assert table.delays == ""
    (batch,) = table.blamed
    assert (batch.resource, batch.pathology, batch.waiting_ns, batch.confidence) == (
        "batch", "contention", 480 * MS, "high"
    )  # fmt: skip
    assert batch.holder is not None and (batch.holder.task, batch.share, batch.holders) == (9, 1, 1)
    assert batch.hold_ns == long.prefill_ns == 252 * MS
    assert [(victim.task, victim.waiting_ns, victim.longest_ns, victim.waits) for victim in batch.victims] == [
        (chat, 240 * MS, 240 * MS, 1) for chat in (3, 4)
    ]


def test_two_prompts_share_the_blame(tmp_path: Path) -> None:
    """One of 400 tokens, one of 200, each in a step of its own of one chat: 100 and 50 ms more."""
    server = Server()
    server.request(1, 0, 0, 0, 1000)
    server.batch(0, 10, (0, 8, 0, True))
    now = 10.0
    for step in range(40):
        slow = {10: (1, 400, 100.0), 20: (2, 200, 50.0)}.get(step)
        more = slow[2] if slow else 0.0
        server.batch(now, now + 10 + more, (0, 1, 8 + step, True), *([(slow[0], slow[1], 0, True)] if slow else []))
        if slow:
            server.request(slow[0] + 1, slow[0], now - 1, now - 1, now + 10 + more)
        now += 10 + more
    _, table, findings = rows_of(server, tmp_path / "r.duckdb")
    (batch,) = table.blamed
    assert batch.holder is not None and batch.holder.task == 2
    assert (batch.waiting_ns, batch.share, batch.holders) == (100 * MS, pytest.approx(2 / 3), 1)
    assert "prompts of 1 more request: 50 ms together" in batch.evidence[-1]
    assert findings["requests.delayed_by_prompt"].evidence[-1].startswith("prompts of 1 more")


def test_blame_never_exceeds_the_latency(tmp_path: Path) -> None:
    """Many requests on two slots, with prompts in one another's way: no victim lost more than it took."""
    chosen = np.random.default_rng(3)
    server = Server()
    now, task, position = 0.0, 0, {}
    until: dict[int, int] = {}
    for _ in range(400):
        parts = []
        for slot in (0, 1, 2):
            if slot not in until and chosen.random() < 0.2:
                server.request(task, slot, now - float(chosen.uniform(0, 80)), now, None)
                until[slot], position[slot], task = int(chosen.integers(1, 20)), 0, task + 1
            if slot in until:
                size = int(chosen.integers(1, 400)) if position[slot] == 0 else 1
                parts.append((slot, size, position[slot], True))
                position[slot] += size
                until[slot] -= 1
        took = float(chosen.uniform(1, 30))
        if parts:
            server.batch(now, now + took, *parts)
        now += took
        for slot in [slot for slot, left in until.items() if left == 0]:
            held = next(r for r in reversed(server.requests) if r["slot"] == slot)
            held["released_ns"] = held["end_ns"] = round(1e9 + now * 1e6)
            del until[slot]
    rows, _, _ = rows_of(server, tmp_path / "r.duckdb")
    assert len(rows) > 50
    assert sum(bool(row.delayed_by) for row in rows.values()) > 30
    for row in rows.values():
        for part in ("queue_ns", "prefill_ns", "decode_ns"):
            lost = sum(getattr(delay, part) for delay in row.delayed_by)
            assert lost <= (getattr(row, part) or 0) + 1, (row.task_id, part)


def test_the_holder_of_the_slot_is_blamed_for_the_queue(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, -5, -4, 100)
    server.request(2, 0, 10, 101, 300)
    server.batch(0, 50, (0, 10, 0, True))
    server.batch(50, 99, (0, 1, 10, True))
    server.batch(110, 200, (0, 10, 0, True))
    rows, table, findings = rows_of(server, tmp_path / "r.duckdb")
    assert (rows[2].queue_ns, rows[2].held_ns) == (91 * MS, 90 * MS)
    assert [(d.id, d.queue_ns) for d in rows[2].delayed_by] == [(1, 90 * MS)]
    evidence = findings["requests.no_free_slot"].evidence
    assert evidence == ("task 2 waited 91.0 ms for slot 0, which had task 1 for 90.0 ms",)
    (slot,) = table.blamed
    assert slot.holder is not None and (slot.resource, slot.holder.task, slot.waiting_ns) == ("slot", 1, 90 * MS)
    assert [(victim.task, victim.waiting_ns, victim.open) for victim in slot.victims] == [(2, 90 * MS, False)]
    server.resources = [{"resource_id": 1, "manifest": "llama-server", "name": "slot", "kind": "memory",
                         "events": "acquire,release,wait"}]  # fmt: skip
    _, known, _ = rows_of(server, tmp_path / "told.duckdb")
    assert known.blamed == (), "its own events tell it"


def test_a_wait_that_is_still_open_counts(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, 0, 1, None)
    server.batch(2, 50, (0, 10, 0, True))
    server.request(2, None, 7_000, None, None)
    rows, table, findings = rows_of(server, tmp_path / "r.duckdb")
    assert (rows[2].waiting_ns, rows[2].queue_ns, rows[1].waiting_ns) == (3_000 * MS, None, None)
    (slot,) = table.blamed
    assert slot.holder is not None and (slot.holder.task, slot.share) == (1, 1)
    assert [(victim.task, victim.waiting_ns, victim.open) for victim in slot.victims] == [(2, 3_000 * MS, True)]
    finding = findings["requests.no_free_slot"]
    assert finding.claim == "1 of 2 requests waited 3.00 s in all for one of 1 slots"
    assert finding.evidence == ("1 were still in the queue when the recording ended, for up to 3.00 s",)
    server.requests[0]["released_ns"] = at(60)
    rows, _, findings = rows_of(server, tmp_path / "free.duckdb")
    assert rows[2].waiting_ns == 3_000 * MS and not findings  # for something else: the slot is free


def test_with_a_free_slot_the_batch_under_way_is_blamed(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, -5, 0, 100)
    server.request(2, 1, 10, 90, 300)
    server.batch(0, 90, (0, 100, 0, True))
    server.batch(91, 200, (1, 10, 0, True))
    rows, _, findings = rows_of(server, tmp_path / "r.duckdb")
    assert (rows[2].held_ns, [(d.id, d.queue_ns) for d in rows[2].delayed_by]) == (0, [(1, 80 * MS)])
    assert "requests.no_free_slot" not in findings


def test_without_undisturbed_steps_there_is_no_baseline(tmp_path: Path) -> None:
    """Every step of the chat has a prompt in it, and nobody else decodes: nothing to compare with, nothing blamed."""
    server = Server()
    server.batch(0, 20, (0, 8, 0, True))
    for step in range(12):
        server.batch(20 + step * 50, 70 + step * 50, (0, 1, 8 + step, True), (1, 100, 100 * step, False))
    server.request(1, 0, -1, 0, 621)
    server.request(2, 1, 18, 19, None)
    rows, _, findings = rows_of(server, tmp_path / "r.duckdb")
    assert (rows[1].disturbed_steps, rows[1].baseline_ns, rows[1].delayed_by) == (12, None, ())
    assert rows[2].prefill_ns is None and rows[2].ttft_ns is None
    assert not findings


def test_without_batches_it_is_said(tmp_path: Path) -> None:
    server = chats_and_prompt()
    server.batches.clear()
    rows, table, findings = rows_of(server, tmp_path / "r.duckdb")
    assert table.delays == analyzer.NO_BATCHES
    assert (rows[3].decode_ns, rows[3].delayed_ns, rows[3].prompt_tokens) == (540 * MS, None, None)
    assert not findings and not table.kv


def test_batches_that_were_not_read_blame_nobody(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    for lost, found in ((10, True), (100, False)):  # of 1 078 that were read
        with chats_and_prompt().write(path) as recording:
            recording.shadow("loss", {"window_id": [1], "place": ["batch_tokens"], "events": [lost]})
            report = build_report(recording)
        ids = {finding.id for finding in report.section("requests").findings}
        assert ("requests.delayed_by_prompt" in ids) == found
        table = report.get(RequestTable)
        assert table is not None and bool(table.delays) != found
        path.unlink()


def test_a_request_that_was_there_before_the_recording(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, None, None, 60)
    for step in range(5):
        server.batch(step * 10, step * 10 + 10, (0, 1, 500 + step, True))
    rows, _, _ = rows_of(server, tmp_path / "r.duckdb")
    row = rows[1]
    assert (row.queue_ns, row.prefill_ns, row.decode_ns, row.ttft_ns, row.prompt_tokens) == (None,) * 5
    assert (row.tokens, row.itl_p50_ns, row.delayed_ns) == (5, 10 * MS, 0)


def test_a_request_that_never_answered_is_known_by_its_slot(tmp_path: Path) -> None:
    """It was there before the recording and is still there at its end: it has no number, but steps, and a delay."""
    server = chats_and_prompt()
    server.requests = [one for one in server.requests if one["task_id"] != 4]
    rows, table, findings = rows_of(server, tmp_path / "r.duckdb")
    row = rows[None]
    assert (row.slot, row.tokens, row.queue_ns, row.prefill_ns, row.decode_ns) == (1, 31, None, None, None)
    assert [(d.id, d.slot, d.decode_ns) for d in row.delayed_by] == [(9, 2, 240 * MS)]
    assert table.count == 3
    assert "480.0 ms" in findings["requests.delayed_by_prompt"].claim
    server.requests.append({**server.requests[0], "task_id": 5, "slot": 1, "started_ns": at(100), "posted_ns": at(99)})
    rows, _, _ = rows_of(server, tmp_path / "later.duckdb")  # somebody gets the slot after it
    assert (rows[None].tokens, rows[5].tokens) == (8, 23)


def test_a_step_that_the_end_cut_off_counts(tmp_path: Path) -> None:
    """The chat's last token came at 120 ms, a prompt is computed since, and the recording ends at 10 s."""
    server = Server()
    for step in range(12):
        server.batch(step * 10, step * 10 + 10, (0, 1, step, True))
    server.batch(121, 9_000, (1, 500, 0, False))
    server.request(1, 0, -1, 0, None)
    server.request(2, 1, 119, 120, None)
    rows, _, findings = rows_of(server, tmp_path / "r.duckdb")
    (delay,) = rows[1].delayed_by
    assert (delay.id, delay.decode_ns, delay.open_ns) == (2, 0, (10_000 - 120 - 10) * MS)
    assert (rows[1].disturbed_steps, rows[1].itl_max_ns) == (0, 10 * MS)
    assert "9.87 s" in findings["requests.delayed_by_prompt"].claim


def test_a_build_without_slots(tmp_path: Path) -> None:
    """As recordings had it before: posted, answered, done."""
    server = Server()
    server.request(1, None, 0, None, 100)
    server.requests[-1].update(first_result_ns=server.requests[-1]["end_ns"] - 40 * MS, results=5)
    rows, table, _ = rows_of(server, tmp_path / "r.duckdb")
    row = rows[1]
    assert (row.ttft_ns, row.dur_ns, row.queue_ns, row.tokens, row.slot) == (60 * MS, 100 * MS, None, None, None)
    assert table.delays


def test_a_draft_model_s_tokens_are_no_more_prompt(tmp_path: Path) -> None:
    """It computes the same tokens in a context of its own, before or after the model."""
    server = Server()
    server.request(1, 0, 0, 0, 70)
    server.batch(0, 50, (0, 300, 0, True))
    server.batch(51, 55, (0, 300, 0, False), context=2)
    server.batch(56, 69, (0, 1, 300, True))
    rows, table, _ = rows_of(server, tmp_path / "r.duckdb")
    assert (rows[1].prompt_tokens, rows[1].tokens) == (300, 2)
    assert table.kv[0].peak_cells == 301


def test_nothing_but_slots_at_work(tmp_path: Path) -> None:
    """All requests were there before the recording and are there after it."""
    server = chats_and_prompt()
    server.requests.clear()
    rows, table, _ = rows_of(server, tmp_path / "r.duckdb")
    assert (table.count, table.finished, table.slots) == (3, 0, 3)
    assert rows[None].delayed_ns is not None


def test_a_recording_of_version_4(tmp_path: Path) -> None:
    """It has requests, and neither slots nor batches."""
    with Recording.create(str(tmp_path / "r.duckdb")) as recording:
        recording.set_meta("schema_version", 4)
        for table in ("request", "slot_token", "batch_part", "resource", "resource_event", "stack", "variable",
                      "variable_sample"):  # fmt: skip
            recording.execute(f"DROP TABLE {table}")
        recording.execute("CREATE TABLE request (pid INTEGER, task_id INTEGER, slot INTEGER, posted_ns BIGINT, "
                          "first_result_ns BIGINT, end_ns BIGINT, results INTEGER)")  # fmt: skip
        recording.execute("INSERT INTO request VALUES (1, 9, 0, 100, 160, 300, 5)")
    with Recording.open(str(tmp_path / "r.duckdb")) as recording:
        table = build_report(recording).get(RequestTable)
    assert table is not None
    assert (table.count, table.delays) == (1, analyzer.NO_BATCHES)
    (row,) = table.rows
    assert (row.task_id, row.ttft_ns, row.dur_ns, row.tokens, row.queue_ns) == (9, 60, 200, None, None)


def test_cells_of_the_cache(tmp_path: Path) -> None:
    """A slot keeps its cells; a prompt that begins anew begins at 0."""
    server = Server()
    server.request(1, 0, 0, 0, 25)
    server.request(2, 1, 0, 0, 40)
    server.batch(0, 10, (0, 100, 0, True))
    server.batch(10, 20, (0, 1, 100, True), (1, 50, 0, True))
    server.batch(30, 40, (0, 20, 0, True), (1, 1, 50, True))
    _, table, _ = rows_of(server, tmp_path / "r.duckdb")
    (cache,) = table.kv
    assert [point.cells for point in cache.points] == [100, 151, 71]
    assert (cache.peak_cells, cache.capacity) == (151, None)


# ---------------------------------------------------------------------- on the page


def test_the_waterfall_is_to_scale(tmp_path: Path) -> None:
    _, table, _ = rows_of(chats_and_prompt(), tmp_path / "r.duckdb")
    falls = viewer.waterfall(table)
    assert (falls.begin_ns, falls.end_ns) == (-MS, 560 * MS)
    first, *_ = falls.lanes
    assert [(bar.phase, bar.ns) for bar in first.bars] == [
        ("queue", MS), ("prefill", 20 * MS), ("decode", 540 * MS),
    ]  # fmt: skip
    assert [bar.x for bar in first.bars] == pytest.approx([0, 1000 / 561, 21_000 / 561])
    assert first.bars[-1].x + first.bars[-1].width == pytest.approx(1000)
    assert falls.left_out == 0


def test_a_request_from_before_falls_from_its_first_token_on(tmp_path: Path) -> None:
    server = chats_and_prompt()
    server.requests = [one for one in server.requests if one["task_id"] != 4]
    _, table, _ = rows_of(server, tmp_path / "r.duckdb")
    lane = next(lane for lane in viewer.waterfall(table).lanes if lane.row.task_id is None)
    assert [(bar.phase, bar.ns) for bar in lane.bars] == [("decode", 540 * MS)]
    assert lane.bars[0].x == pytest.approx(21_000 / 561)
    assert viewer.called(lane) == "slot 1"


def test_page_and_screen_show_it(tmp_path: Path) -> None:
    with chats_and_prompt().write(tmp_path / "r.duckdb") as recording:
        report = build_report(recording, slos=parse(["chat:prompt=..100,ttft=1s"]))
        page = html.render(report, timeline(recording))
    assert page.count('class="fall-prefill"') == 1 + 3  # the legend, and three requests
    blame, kept = f"task 9: {duration(240 * MS)}", f"{percent(1.0)} of 2 requests"
    assert page.count(blame) >= 2
    assert kept in page
    for width in (80, 150):
        out = io.StringIO()
        terminal.show(report, out, width)
        screen = out.getvalue()
        assert max(map(len, screen.splitlines())) <= width
        assert blame in screen and f"chat: attained by {kept}" in screen
    told = document(report)
    assert [(one["resource"], one["holder"]["task"], len(one["victims"])) for one in told["resources"]] == [
        ("batch", 9, 2)
    ]
    assert "blamed" not in told["request_totals"]
    (row, *_) = [row for row in told["requests"] if row["id"] == 3]
    assert row["delayed_by"][0] == {
        "id": 9, "queue_ns": 0, "prefill_ns": 0, "decode_ns": 240 * MS, "slot": 2, "open_ns": 0, "total_ns": 240 * MS
    }  # fmt: skip
