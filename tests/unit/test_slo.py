"""Objectives: what people type, and what is kept, missed or not known of written recordings."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from flowprof.profiler.errors import UsageError
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.slo import SloTable, Tier
from flowprof.profiler.slo import Slo, parse
from flowprof.viewers import terminal
from request_recordings import MS, Server, chats_and_prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft=1s,tpot=50ms", Slo("tier 1", "ttft=1s,tpot=50ms", 1e9, 50e6)),
        ("chat:ttft=1s", Slo("chat", "ttft=1s", 1e9)),
        ("batch: tpot=0.5s , prompt=1000..", Slo("batch", " tpot=0.5s , prompt=1000..", None, 5e8, 1000, None)),
        ("chat:prompt=..1000,ttft=1s", Slo("chat", "prompt=..1000,ttft=1s", 1e9, None, None, 1000)),
    ],
)
def test_tiers(text: str, expected: Slo) -> None:
    assert parse([text]) == (expected,)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["ttft"], "is not ttft=, tpot= or prompt="),
        ([""], "is not ttft="),
        (["ttft=1s,ttft=2s"], "each once"),
        (["ttft=soon"], "not a duration"),
        (["ttft=-1s"], "not a duration"),
        (["prompt=..5"], "neither ttft nor tpot"),
        (["ttft=1s,prompt=5"], "no range of tokens"),
        (["ttft=1s,prompt=9..5"], "no range of tokens"),
        (["ttft=1s,prompt=.."], "no range of tokens"),
        (["a:ttft=1s", "a:tpot=1s"], "two tiers are called 'a'"),
        (["\x1b[2J:ttft=1s"], "is no name of a tier"),
        ([f"{n}:ttft=1s" for n in range(21)], "more than 20"),
    ],
)
def test_what_is_no_tier(texts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(texts)


def tiers(server: Server, path: Path, *texts: str) -> dict[str, Tier]:
    with server.write(path) as recording:
        table = build_report(recording, slos=parse(texts)).get(SloTable)
    assert table is not None
    return {tier.name: tier for tier in table.tiers}


def test_each_tier_has_its_own_attainment(tmp_path: Path) -> None:
    """Chats: TTFT 21 ms, 18 ms a token on average. The long prompt: TTFT 255 ms, one token."""
    found = tiers(
        chats_and_prompt(), tmp_path / "r.duckdb",
        "all:ttft=100ms", "chat:prompt=..100,ttft=21ms,tpot=18ms", "strict:prompt=..100,tpot=17ms",
        "long:prompt=999..,ttft=1s",
    )  # fmt: skip
    assert [(t.requests, t.attained, t.missed, t.unknown, t.attainment) for t in found.values()] == [
        (3, 2, 1, 0, 2 / 3), (2, 2, 0, 0, 1.0), (2, 0, 2, 0, 0.0), (1, 1, 0, 0, 1.0),
    ]  # fmt: skip
    everyone, chat, strict = found["all"].objectives[0], found["chat"], found["strict"].objectives[0]
    assert (everyone.slack_p50_ns, everyone.slack_min_ns) == (79 * MS, -155 * MS)
    assert chat.goodput_rps == pytest.approx(2 / 10)  # in a recording of 10 s
    assert chat.goodput_tps == pytest.approx(62 / 10)
    assert (strict.name, strict.kept, strict.missed, strict.slack_p50_ns) == ("tpot", 0, 2, -MS)


def test_what_is_not_known_is_never_kept(tmp_path: Path) -> None:
    server = Server()
    server.request(1, 0, None, None, 60)  # posted before the recording
    server.batch(0, 20, (0, 1, 500, True))
    server.batch(20, 30, (0, 1, 501, True))
    server.request(2, 1, 0, 0, None)  # one token, and still running
    server.batch(40, 50, (1, 8, 0, True))
    server.request(3, None, 9_000, None, None)  # still in the queue, for a second
    server.request(4, 2, 0, 60, 80)  # one token in all
    server.batch(60, 80, (2, 8, 0, True))
    found = tiers(server, tmp_path / "r.duckdb", "a:ttft=500ms", "b:ttft=2s", "c:tpot=1s", "d:prompt=1..,ttft=1s")
    assert [(t.requests, t.attained, t.missed, t.unknown, t.unplaced) for t in found.values()] == [
        (4, 2, 1, 1, 0),  # 3 has waited for 1 s without a token: too late already
        (4, 2, 0, 2, 0),
        (4, 0, 0, 4, 0),
        (2, 2, 0, 0, 2),
    ]  # fmt: skip
    assert found["c"].attainment == 0
    assert found["c"].objectives[0].slack_p50_ns is None


def test_no_request_has_no_attainment(tmp_path: Path) -> None:
    tier = tiers(chats_and_prompt(), tmp_path / "r.duckdb", "none:prompt=5000..,ttft=1s")["none"]
    assert (tier.requests, tier.attainment) == (0, None)


def test_without_requests_it_is_said(tmp_path: Path) -> None:
    server = chats_and_prompt()
    server.requests.clear()
    server.tokens.clear()
    with server.write(tmp_path / "r.duckdb") as recording:
        report = build_report(recording, slos=parse(["ttft=1s"]))
    out = io.StringIO()
    terminal.show(report, out, 80)
    assert "Objectives skipped: no requests" in out.getvalue()


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    chats_and_prompt().write(path).close()
    command = [sys.executable, "-m", "flowprof.profiler.cli", "report", str(path), "--slo", "chat:ttft=100ms"]
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert [(tier["name"], tier["attained"], tier["requests"]) for tier in told["slo"]["tiers"]] == [("chat", 2, 3)]
    assert {"id", "slot", "queue_ns", "prefill_ns", "decode_ns", "tokens", "delayed_by"} <= set(told["requests"][0])
    wrong = subprocess.run([*command[:-1], "ttft=never"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "not a duration" in wrong.stderr
