"""What clients wait for, compared: a server's requests on both sides, written down by the millisecond."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.diff import beside_phases
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.gate import judge
from flowprof.profiler.diff.result import Cause, Diff
from flowprof.profiler.diff.side import open_pair
from flowprof.profiler.diff.steps import of_requests
from flowprof.profiler.diff.steps.sources import with_waits
from flowprof.profiler.diff.steps.steps import FIRST_TOKEN, NEXT_TOKEN, QUEUE, REQUESTS
from flowprof.profiler.store import Recording
from request_recordings import MS, PID, Server

GRAPHS = f"""
INSERT INTO graph (graph_id, pid, phase, tokens) VALUES (1, {PID}, 'decode', 2), (2, {PID}, 'mixed', 202);
UPDATE graph_exec SET graph_id = 2 WHERE end_ns - start_ns > 30000000
"""


def chats(path: Path, prompt_every: int = 0, seed: int = 0) -> str:
    """Two chats of 600 steps of about 10 ms; now and then a prompt of 200 tokens makes one of about 60 ms."""
    draw, server, now = random.Random(seed), Server(), 20.0
    server.batch(0, now, (0, 8, 0, True), (1, 8, 0, True))
    for step in range(600):
        prompt = prompt_every and step % prompt_every == 5
        took = draw.gauss(60, 2) if prompt else draw.gauss(10, 0.1)
        chat = (0, 1, 8 + step, True), (1, 1, 8 + step, True)
        server.batch(now, now + took, *chat, *([(2, 200, 0, True)] if prompt else []))
        if prompt:
            server.request(100 + step, 2, now - 5, now - 2, now + took + 1)
        now += took
    server.request(3, 0, -1, 0, now, results=600)
    server.request(4, 1, -1, 0, now, results=600)
    return written(server, path)


def queued(path: Path, wait_ms: float, prompt: int = 8, seed: int = 0) -> str:
    """80 requests one after the other on one slot, each with five tokens; each waits so long for the one before."""
    draw, server, now = random.Random(seed), Server(), 50.0
    for task in range(80):
        posted, started = now - wait_ms * draw.uniform(0.9, 1.1), now
        now += 0.2
        server.batch(now, now + 20 + prompt / 10, (0, prompt, 0, True))
        now += 20 + prompt / 10
        for step in range(4):
            took = draw.gauss(10, 0.1)
            server.batch(now, now + took, (0, 1, prompt + step, True))
            now += took
        server.request(task, 0, posted, started, now + 0.1, results=5)
        now += 0.2
    return written(server, path)


def written(server: Server, path: Path) -> str:
    server.write(path, boot_id=path.name).close()
    with duckdb.connect(str(path)) as db:
        db.execute(GRAPHS)
    return str(path)


def diffed(a: str, b: str) -> Diff:
    with open_pair([a], b) as pair:
        found = compare(pair)
    print(found.headline, *found.phases, *found.causes, *found.resources, sep="\n")  # shown when a test fails
    return found


def test_another_client_s_prompts_are_a_regression(tmp_path: Path) -> None:
    """No decode step is slower: those with a prompt in them are none."""
    found = diffed(chats(tmp_path / "a"), chats(tmp_path / "b", 12, 1))
    first, decode = found.phases[:2]
    assert (first.phase, first.per, first.significant) == (NEXT_TOKEN, "token", True)
    assert first.a_ns_per_token == pytest.approx(10 * MS, rel=0.01)
    assert first.b_ns_per_token == pytest.approx(14.2 * MS, rel=0.01)
    assert decode.phase == "decode" and not decode.significant
    assert found.verdict == "slower" and found.headline.startswith("inter-token latency became 4")
    (cause,) = found.causes
    assert (cause.kind, cause.phase, cause.share) == ("client", NEXT_TOKEN, pytest.approx(1.0, abs=0.02))
    assert "at least 8 prompts delayed others" in cause.evidence[1], "a request names the worst of them"
    (batch,) = found.resources
    assert (batch.resource, batch.a_waiting_ns, batch.significant) == ("batch", 0, True)
    assert batch.holder.startswith("task 1") and (batch.b_waiting_ns or 0) > 0.3 * MS
    assert judge(found, 0.05).exit_code == 3
    back = diffed(str(tmp_path / "b"), str(tmp_path / "a"))
    assert back.verdict == "faster" and judge(back, 0.05).exit_code == 0


def test_two_runs_of_one_load_are_the_same(tmp_path: Path) -> None:
    found = diffed(chats(tmp_path / "a", 12, 1), chats(tmp_path / "b", 12, 2))
    assert (found.verdict, found.causes) == ("same", ())
    assert {phase.phase for phase in found.phases} == {NEXT_TOKEN, "decode", "mixed", FIRST_TOKEN, QUEUE}
    assert judge(found, 0.05).exit_code == 0
    assert found.a.tokens == sum(one.a_tokens for one in found.phases if one.phase not in REQUESTS), "counted once"


def test_requests_wait_for_a_slot(tmp_path: Path) -> None:
    found = diffed(queued(tmp_path / "a", 4), queued(tmp_path / "b", 40, seed=1))
    by_phase = {phase.phase: phase for phase in found.phases}
    assert by_phase[QUEUE].significant and by_phase[QUEUE].b_ns_per_token == pytest.approx(40 * MS, rel=0.05)
    assert by_phase[FIRST_TOKEN].significant and not by_phase[NEXT_TOKEN].significant
    assert found.verdict == "slower" and found.phases[0].phase == QUEUE
    (slot,) = found.resources
    assert (slot.resource, slot.significant) == ("slot", True) and slot.holder.startswith("task ")
    first = found.causes[0]
    assert first.kind == "resource" and first.claim.startswith("slot is waited for longer, behind task ")
    assert "unexplained" not in {cause.kind for cause in found.causes}


def test_a_longer_prompt_is_no_regression(tmp_path: Path) -> None:
    """Its first token comes later, which is said and not judged."""
    found = diffed(queued(tmp_path / "a", 4, 8), queued(tmp_path / "b", 4, 400, 1))
    by_phase = {phase.phase: phase for phase in found.phases}
    assert by_phase[FIRST_TOKEN].b_ns_per_token > 2 * by_phase[FIRST_TOKEN].a_ns_per_token
    assert not by_phase[FIRST_TOKEN].significant and not by_phase[QUEUE].significant
    assert [one.significant for one in found.resources] == [False], "less waiting per token, and not per request"
    (fact,) = [one for one in found.comparability.differences if one.what == "prompts of requests"]
    assert (fact.sameness, fact.a, fact.b) == ("different", "8 tokens computed, mean", "400 tokens computed, mean")


def test_trifles_are_no_change(tmp_path: Path) -> None:
    """Twice as long in the queue, of 0.2 ms; and what takes a millisecond more is one."""
    with Recording.open(queued(tmp_path / "a", 4)) as recording:
        steps = {one.phase: one for one in with_waits(recording)}
    (shift, *_) = diffed(str(tmp_path / "a"), queued(tmp_path / "b", 40, seed=1)).phases
    assert len(steps[QUEUE].all_ns) == 80 and shift.phase == QUEUE
    small = replace(shift, a_ns_per_token=0.2 * MS, b_ns_per_token=0.4 * MS, delta_ns_per_token=0.2 * MS)
    less = replace(shift, a_ns_per_token=4 * MS, b_ns_per_token=4.5 * MS, delta_ns_per_token=0.5 * MS)
    assert of_requests.telling([small], True) == ()
    assert [one.significant for one in of_requests.telling([less, shift], True)] == [False, True]
    for phase in ("decode", NEXT_TOKEN):  # a token of a small model takes no longer
        assert of_requests.telling([replace(small, phase=phase)], True)[0].significant


def test_few_requests_are_no_phase(tmp_path: Path) -> None:
    server = Server()
    for step in range(of_requests.MIN_STEPS - 1):
        server.batch(step * 10.0, step * 10.0 + 10, (0, 1, step, True))
    server.request(3, 0, -1, 0, 400)
    with server.write(tmp_path / "a") as recording:
        assert of_requests.read(recording) == []
    with Recording.create(str(tmp_path / "b")) as recording:
        assert of_requests.read(recording) == []


def test_a_claim_about_clients_without_a_phase(tmp_path: Path) -> None:
    """Then it is not the same, and a gate does not pass."""
    cause = Cause("Prompts of another client share the batches", "client", 0.5, "high", (), "")
    assert beside_phases.judged(("same", "decode did not change"), (), (), [cause]) == (
        "not enough data",
        "decode did not change; but this differs, and no phase tells by how much all wait: Prompts of another client "
        "share the batches",
    )
    assert beside_phases.judged(("slower", "x"), (), (), [cause]) == ("slower", "x")
    found = diffed(chats(tmp_path / "a"), chats(tmp_path / "b", seed=1))
    assert judge(found, 0.05).exit_code == 0
    assert judge(replace(found, verdict="not enough data", headline="who knows"), 0.05).sentence == "who knows"
    assert judge(replace(found, verdict="not enough data"), 0.05).exit_code == 5
