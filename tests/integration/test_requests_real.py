"""A real llama-server's requests: phases as the server tells them itself, delays as its streaming clients saw them.

Four slots, three chats, and one prompt of 8 000 tokens in the middle of them. The clients note when each token came;
the server tells `prompt_ms` and `predicted_ms`.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.sections.requests import RequestRow, RequestTable
from flowprof.profiler.store import Recording
from flowprof.viewers.json import document
from recorded import read, recording_of
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, pytest.mark.engine, DISTURBED]

LONG, CHAT_TOKENS, CHAT_PROMPT, CHATS = 8_000, 2_500, 24, 3
BEFORE = 100  # tokens of each chat before the long prompt comes; and there must be enough left for after it
LEVELS = ("token", "graph")


@dataclass
class Stream:
    """What a streaming client knows."""

    slot: int
    token_ns: list[int]
    timings: dict[str, float]


@dataclass
class Case:
    chats: list[Stream]
    long: load.Answer
    report: Report
    rows: dict[int, RequestRow]  # by slot: the chats and the long prompt
    path: Path


def stream(url: str, seed: int, ready: threading.Semaphore) -> Stream:
    body = {"prompt": [1, *range(300 + seed, 300 + seed + CHAT_PROMPT - 1)], "n_predict": CHAT_TOKENS,
            "ignore_eos": True, "cache_prompt": False, "stream": True, "seed": seed}  # fmt: skip
    asked = urllib.request.Request(f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    came, last = [], {}
    with urllib.request.urlopen(asked, timeout=300) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                last = json.loads(line[6:])
                if last.get("tokens"):  # the last event says that it is the last, and has none
                    came.append(time.monotonic_ns())
                    if len(came) == BEFORE:
                        ready.release()
    return Stream(last["id_slot"], came, last["timings"])


@pytest.fixture(scope="module", params=[False, True], ids=["kv-per-slot", "kv-unified"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quiet_server: Callable[..., RunningServer]
) -> Iterator[Case]:
    path = tmp_path_factory.mktemp("requests") / "requests.duckdb"
    server = quiet_server("tiny", slots=CHATS + 1, ctx=36_864, unified=request.param)
    ready = threading.Semaphore(0)
    with recording_of([server.pid], path, levels=LEVELS) as run:
        run.warm_up("token", lambda: load.request(server.url, n_predict=8, prompt_tokens=64))
        with ThreadPoolExecutor(CHATS) as clients:
            pending = [clients.submit(stream, server.url, seed, ready) for seed in range(CHATS)]
            for _ in range(CHATS):
                assert ready.acquire(timeout=60)
            long = load.request(server.url, n_predict=1, prompt_tokens=LONG, seed=7)
            chats = [one.result() for one in pending]
        time.sleep(0.3)  # the last answers are sent
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    table = report.get(RequestTable)
    assert table is not None
    rows = {row.slot: row for row in table.rows if row.tokens == CHAT_TOKENS or row.prompt_tokens == LONG}
    assert set(rows) == set(range(CHATS + 1)), table.rows
    yield Case(chats, long, report, rows, path)


def test_every_token_is_somebody_s(case: Case) -> None:
    """Token counts are exact, and the parts of the batches add up to what the graphs computed."""
    for chat in case.chats:
        assert (case.rows[chat.slot].tokens, case.rows[chat.slot].prompt_tokens) == (CHAT_TOKENS, CHAT_PROMPT)
    assert case.rows[case.long.id_slot].prompt_tokens == case.long.prompt_n == LONG
    ((wrong, seen),) = read(case.path, """
        SELECT count(*) FILTER (parts <> g.tokens), count(*) FROM
        (SELECT tid, at_ns, sum(tokens) AS parts FROM batch_part GROUP BY ALL) b
        ASOF JOIN graph_exec e ON e.tid = b.tid AND e.start_ns >= b.at_ns JOIN graph g ON g.graph_id = e.graph_id
        WHERE g.tokens IS NOT NULL
    """)  # fmt: skip
    assert wrong == 0 and seen > 100  # of those that were described
    assert not read(case.path, "SELECT * FROM loss_by_place WHERE place = 'batch_tokens'")


def test_phases_are_the_server_s_own(case: Case) -> None:
    """The server's clock of a prompt begins when it takes it up, ours when the slot is given: some ms before."""
    for chat in case.chats:
        row = case.rows[chat.slot]
        assert row.decode_ns == pytest.approx(chat.timings["predicted_ms"] * 1e6, rel=0.02)
        assert row.prefill_ns is not None and row.prefill_ns > 0.97e6 * chat.timings["prompt_ms"]
    long = case.rows[case.long.id_slot]
    assert long.prefill_ns == pytest.approx(case.long.prompt_ms * 1e6, rel=0.03)
    print(f"prompt {long.prefill_ns / 1e6:.1f} ms, by the server {case.long.prompt_ms:.1f} ms")


def test_the_long_prompt_is_blamed_for_what_the_clients_saw(case: Case) -> None:
    """A client's own account: from its last token before the prompt was sent to the first after it was answered, less
    as many of its median steps outside. (In sum: a token read late makes one step longer and the next shorter.)
    """
    culprit = case.rows[case.long.id_slot]
    for chat in case.chats:
        times = np.array(chat.token_ns)
        steps = np.diff(times)
        last, first = np.searchsorted(times, case.long.sent_ns) - 1, np.searchsorted(times, case.long.done_ns)
        assert 0 <= last < first < len(times), "the chat was over before the prompt"
        usual = np.median(np.append(steps[:last], steps[first:]))
        waited = float(times[first] - times[last] - (first - last) * usual)
        delay = next(one for one in case.rows[chat.slot].delayed_by if one.id == culprit.task_id)
        print(f"slot {chat.slot}: its client waited {waited / 1e6:.1f} ms longer, {delay.decode_ns / 1e6:.1f} ms found")
        assert delay.decode_ns == pytest.approx(waited, rel=0.1)
        row = case.rows[chat.slot]
        assert row.decode_ns is not None and sum(one.decode_ns for one in row.delayed_by) <= row.decode_ns
    finding = next(one for one in case.report.section("requests").findings if one.id == "requests.delayed_by_prompt")
    assert f"of {LONG} tokens of task {culprit.task_id} " in finding.claim
    assert "3 other requests" in finding.claim
    first = document(case.report)["resources"][0]
    assert (first["resource"], first["pathology"]) == ("batch", "contention")
    assert first["holder"]["task"] == culprit.task_id
    added = {row.task_id: row.delayed_by for slot, row in case.rows.items() if slot != case.long.id_slot}
    assert {victim["task"] for victim in first["victims"]} == set(added)
    for victim in first["victims"]:
        assert victim["waiting_ns"] == next(one.decode_ns for one in added[victim["task"]] if one.id == culprit.task_id)


def test_every_prompt_of_one_request_is_a_task(tmp_path: Path, quiet_server: Callable[..., RunningServer]) -> None:
    """One HTTP request with more prompts than slots: each has its own row, from the same moment, to its own end."""
    server, path, prompts = quiet_server("tiny", slots=2), tmp_path / "several.duckdb", 5
    body = {"prompt": [[1, *range(300 + n, 320 + n)] for n in range(prompts)], "n_predict": 10, "ignore_eos": True,
            "cache_prompt": False}  # fmt: skip
    asked = urllib.request.Request(
        f"{server.url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with recording_of([server.pid], path, levels=LEVELS) as run:
        run.warm_up("token", lambda: load.request(server.url, n_predict=8, prompt_tokens=64))
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert len(json.load(reply)) == prompts
        time.sleep(0.3)
    rows = read(
        path, "SELECT posted_ns, started_ns, end_ns, results FROM request ORDER BY task_id DESC LIMIT ?", prompts
    )
    assert len({posted for posted, *_ in rows}) == 1
    assert all(posted <= started < end and results == 1 for posted, started, end, results in rows)
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(RequestTable)
    assert table is not None and table.finished == len(table.rows) and table.most_at_once == prompts


def test_cells_are_counted(case: Case) -> None:
    table = case.report.get(RequestTable)
    assert table is not None
    (cache,) = table.kv
    assert cache.capacity is not None and cache.capacity >= 36_864
    assert LONG + CHATS * CHAT_PROMPT < cache.peak_cells <= LONG + CHATS * (CHAT_PROMPT + CHAT_TOKENS) + 80


@pytest.mark.parametrize("levels", [("token",), LEVELS], ids=["token", "graph"])
def test_a_full_cache_ends_requests(
    tmp_path: Path, own_server: Callable[..., RunningServer], levels: tuple[str, ...]
) -> None:
    """Three answers need more cells than there are: as often as the server says, and the requests that it says."""
    server = own_server("tiny", slots=4, ctx=1_024, unified=True)
    path, log = tmp_path / "cells.duckdb", tmp_path / "server-0.log"
    with recording_of([server.pid], path, levels=levels) as run:
        run.warm_up("token", lambda: load.request(server.url, n_predict=8, prompt_tokens=64))
        answers = load.run(server.url, requests=3, concurrency=3, n_predict=300, prompt_tokens=300, go_on=True)
        time.sleep(0.3)
    said = log.read_text(errors="replace")
    refused, ended = said.count("failed to find a memory slot"), said.count("error: Context size has been exceeded")
    assert ended and len(answers) == 3 - ended
    assert read(path, "SELECT count(*) FROM kv_event WHERE what = 'refused'") == [(refused,)]
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    (finding,) = [one for one in report.findings if one.id == "requests.no_kv_cells"]
    assert f"{ended} requests ended without an answer" in finding.claim
    assert f"{refused} times; 1024" in finding.evidence[0]
    table = report.get(RequestTable)
    assert table is not None and table.kv[0].peak_cells == 1_024
    (blamed,) = [one for one in table.blamed if one.resource == "KV cells"]
    assert len(blamed.victims) == 3
