"""A language model's opinion: what is sent, what of the answers holds, and what a faulty endpoint costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.errors import UsageError
from flowprof.profiler.resources.manifest import parse
from flowprof.profiler.scan import candidates, draft, endpoint, opinion, source
from scan_endpoint import Endpoint
from scan_truth import DATA

EXAMPLE = str(DATA / "resource_program.c")
Start = Callable[..., Endpoint]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """`start(answer, fault)`: an endpoint of the test's own; what is kept is kept in the test's folder."""
    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(endpoint.KEY, raising=False)
    running: list[Endpoint] = []

    def begin(answer: Callable[[str], Any] = lambda question: {}, fault: str = "") -> Endpoint:
        running.append(Endpoint(answer, fault))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def model(question: str) -> dict[str, Any]:
    """Right about the table and the queue; wrong in every way that is validated about the rest."""
    if question.startswith(opinion._FIRST):
        return {
            "types": [
                {"type": "page_pool", "managed": True, "kind": "memory", "why": "pages"},
                {"type": "table", "managed": True, "kind": "state", "why": "a lock"},
                {"type": "task_queue", "managed": True, "kind": "stack", "why": "of an unknown kind"},
                {"type": "database", "managed": True, "kind": "memory", "why": "invented"},
                {"type": "table", "managed": False, "why": "twice"},
            ]
        }
    if '"page_pool"' in question:
        return {
            "wait": ["page_pool_get", "page_pool_put"],  # put waits for nothing
            "acquire": ["page_pool_get", "page_pool_take", "page_pool_new"],  # one invented, one makes the whole
            "use": [],
            "release": ["page_pool_put", "page_pool_get", 7],  # get is said to do both
        }
    return {"acquire": ["table_unlock"], "release": ["table_unlock"], "wait": ["table_lock"], "use": "table_get_rows"}


def asked(server: Endpoint) -> tuple[list[candidates.Candidate], list[str], list[str], source.Material]:
    material = source.read(EXAMPLE)
    said: list[str] = []
    found, remarks = opinion.asked(candidates.find(material), server.url, "stub", said.append)
    return found, list(remarks), said, material


def test_wrong_answers_are_rejected_with_the_reason(start: Start) -> None:
    found, remarks, said, material = asked(start(model))
    told = "\n".join(remarks)
    for why in (
        "database is no type that was asked about",
        "task_queue: stack is no kind of resource",
        "table was answered twice",
        "page_pool: wait page_pool_put: its code waits for nothing",
        "page_pool: page_pool_take is no function that was asked about",
        "page_pool: acquire page_pool_new: it makes or ends the whole",
        "page_pool: acquire page_pool_get: said to acquire and to release",
        "page_pool: release page_pool_get: said to acquire and to release",
        "table: acquire table_unlock: ",
        "table: release table_unlock: ",
    ):
        assert why in told, f"not rejected: {why}"
    assert len([line for line in remarks if line.startswith("rejected")]) == 10
    assert said[1].endswith("10 rejected by the static checks")
    pool = next(candidate for candidate in found if candidate.name == "page_pool")
    assert {(role.event, role.function.base) for role in pool.drafted} == {
        ("wait", "page_pool_get"), ("acquire", "page_pool_get"), ("release", "page_pool_put"),
    }, "the static roles stand, and nothing wrong was added"  # fmt: skip
    text = draft.as_toml(material, found, remarks)
    assert "the model says a memory resource: pages (stub at http://127.0.0.1" in text
    assert {one.name for one in parse(text, "draft.toml").resources} == {"page_pool", "table", "task_queue"}


def test_what_a_no_costs_and_a_yes_about_what_was_not_asked(start: Start) -> None:
    def judge(question: str) -> dict[str, Any]:
        yes = [{"type": "parser", "managed": True, "kind": "state", "why": "wrong"},
               {"type": "table", "managed": False, "why": "wrong, too"}]  # fmt: skip
        return {"types": yes} if question.startswith(opinion._FIRST) else {"release": ["parser_release"]}

    material = source.read(EXAMPLE)
    before = {one.name: one.score for one in candidates.find(material)}
    found, _, _, _ = asked(start(judge))
    after = {one.name: one.score for one in found}
    assert after["table"] == before["table"] + opinion.NO
    assert after["parser"] == before["parser"], "nothing speaks for it: it was not asked about, the answer is refused"


def test_a_resource_by_its_name_alone_is_refused() -> None:
    named = candidates.Candidate("buffer", "memory", 2.0, ((2.0, "its name says buffer"),), ())
    said = {"types": [{"type": "buffer", "managed": True, "kind": "memory"}]}
    assert opinion._types(said, [named]) == ({}, ["buffer is a resource by its name alone"])
    more = replace(named, evidence=(*named.evidence, (1.0, "takes a lock: f")))
    assert opinion._types(said, [more])[0] == {"buffer": (True, "memory", "")}


def test_answers_are_kept(start: Start) -> None:
    server = start(model)
    first, remarks, _, _ = asked(server)
    questions = len(server.asked)
    again, same, _, _ = asked(server)
    assert len(server.asked) == questions == 3, "the types, and two of them"
    assert [one.score for one in again] == [one.score for one in first] and len(same) == len(remarks)
    assert any(", kept)" in what for one in again for _, what in one.evidence)


def test_what_is_sent(start: Start, monkeypatch: pytest.MonkeyPatch, flowprof) -> None:
    monkeypatch.setenv(endpoint.KEY, "secret")
    server = start(model)
    shown = flowprof("resources", "scan", EXAMPLE, "--llm", server.url, "--model", "m", "--dry-run")
    assert shown.returncode == 0 and not server.asked, "nothing is sent"
    decoder, bodies, at = json.JSONDecoder(), [], 0
    while (at := shown.stdout.find("{\n", at)) >= 0:
        body, at = decoder.raw_decode(shown.stdout, at)
        bodies.append(body)
    done = flowprof("resources", "scan", EXAMPLE, "--llm", server.url, "--model", "m")
    assert done.returncode == 0, done.stderr
    assert [one.pop("path") for one in server.asked] == ["/v1/chat/completions"] * 3
    assert all(one in bodies for one in server.asked), "what is sent was shown"
    assert server.headers[0]["Authorization"] == "Bearer secret" and "secret" not in shown.stdout
    assert "pthread_cond_wait(&pool" not in shown.stdout, "no code is sent"


def test_without_the_flag_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(endpoint, "ask", refuse)
    monkeypatch.setattr(opinion, "ask", refuse)
    from flowprof.profiler import cli

    assert cli.main(["resources", "scan", EXAMPLE]) == 0
    assert cli.main(["resources", "scan", EXAMPLE, "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("fault", "words", "tries"),
    [
        ("broken", "answered 500", 3), ("refused", "answered 401", 1), ("elsewhere", "answered 307", 1),
        ("silent", "no answer within", 1), ("drip", "no answer within", 1), ("huge", "larger than 1 MiB", 1),
        ("no http", "", 1),
    ],
)  # fmt: skip
def test_a_faulty_endpoint_leaves_the_static_draft(
    start: Start, monkeypatch: pytest.MonkeyPatch, fault: str, words: str, tries: int
) -> None:
    server = start(model, fault)
    hurried = {"timeout_s": 1.0, "pause_s": 0.01}
    monkeypatch.setattr(opinion, "ask", lambda url, body, **more: endpoint.ask(url, body, **more, **hurried))
    found, remarks, said, material = asked(server)
    assert words in said[1] and "the draft is what the static analysis found" in said[1]
    assert [one.score for one in found] == [one.score for one in candidates.find(material)]
    assert len(remarks) == 1, "nothing more is asked of it"
    assert len(server.asked) == tries or fault == "no http"
    assert {one.name for one in parse(draft.as_toml(material, found, remarks), "x").resources} >= {"page_pool"}


def test_all_questions_have_an_end(start: Start) -> None:
    """One question is answered in time; a slow endpoint is left at once when the time for all of them is over."""

    def slow(question: str) -> dict[str, Any]:
        if question.startswith(opinion._FIRST):
            return model(question)
        time.sleep(5)
        return {}

    server, said = start(slow), list[str]()
    began = time.monotonic()
    material = source.read(EXAMPLE)
    found, remarks = opinion.asked(candidates.find(material), server.url, "stub", said.append, began + 1.5)
    assert time.monotonic() - began < 4
    assert any("the model says a memory resource" in what for one in found for _, what in one.evidence), (
        "it was in time"
    )
    assert any("was asked and failed: no answer within" in line for line in remarks)
    assert "all of them 20 min" in said[0] and "no answer within" in said[1]
    server.asked.clear()
    _, remarks = opinion.asked(candidates.find(material), server.url, "stub", said.append, began)
    assert not server.asked, "the first question's answer was kept, and no other is asked"
    assert any("the time for all questions is over" in line for line in remarks)


@pytest.mark.parametrize("said", ["", "I would say yes.", "{", "[1]", "null", {"types": 3}, {"types": [1, None, {}]},
                                  {"types": [{"type": [], "managed": 1}]}, "{" * 5000])  # fmt: skip
def test_nonsense_is_passed_over(start: Start, said: object) -> None:
    found, _, _, material = asked(start(lambda question: said))
    assert [one.score for one in found] == [one.score for one in candidates.find(material)]


@pytest.mark.parametrize("fault", ["no completion", "no json"])
def test_an_answer_of_another_form_is_no_opinion(start: Start, fault: str) -> None:
    found, remarks, _, material = asked(start(model, fault))
    assert [one.score for one in found] == [one.score for one in candidates.find(material)]
    assert "none of a chat completion" in remarks[0]


def test_words_around_the_json_and_a_busy_endpoint(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(lambda question: f"Sure!\n```json\n{json.dumps(model(question))}\n```", "busy once")
    monkeypatch.setattr(opinion, "ask", lambda url, body, **more: endpoint.ask(url, body, **more, pause_s=0.01))
    said = asked(server)[2]
    assert "10 rejected" in said[1] and len(server.asked) == 4


def test_nobody_listens(start: Start, flowprof) -> None:
    server = start(model)
    server.stop()
    done = flowprof("resources", "scan", EXAMPLE, "--llm", server.url)
    assert done.returncode == 0 and "cannot be reached" in done.stderr
    assert {one.name for one in parse(done.stdout, "x").resources} == {"page_pool", "table", "task_queue"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/chat/completions"),
        ("http://localhost:1/v1/", "http://localhost:1/v1/chat/completions"),
        ("http://[::1]:1/v1/chat/completions", "http://[::1]:1/v1/chat/completions"),
        ("https://example.org/openai/v1", "https://example.org/openai/v1/chat/completions"),
    ],
)
def test_where_it_is_sent(url: str, address: str) -> None:
    assert endpoint.checked(url) == address


@pytest.mark.parametrize("url", ["http://example.org", "ftp://127.0.0.1", "127.0.0.1:8080", "", "http://", "http://[::1",
                                 "http://127.0.0.1:99999", "https://me:secret@example.org", "https://x/?a=b",
                                 "http://127.0.0.1.example.org", "file:///etc/passwd"])  # fmt: skip
def test_where_nothing_is_sent(url: str) -> None:
    with pytest.raises(UsageError):
        endpoint.checked(url)
