"""What the live examples compare: a report that is right passes, and each way of being wrong is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from flowprof.examples.resource_truth import Trouble, differences, ends_differ, planted, reported

Json = dict[str, Any]
MS = 1_000_000
SECONDS = 2.0


def thread(name: str, tid: int, task: int, wait_ms: float, acquire: int = 5, release: int = 5) -> Json:
    tally = {"wait": acquire, "acquire": acquire, "release": release, "wait_ns": int(wait_ms * MS)}
    return {"name": name, "tid": tid, "task": task, "resources": {"page": tally, "record": tally}}


TRUTH: Json = {
    "culprit": "scan", "address": 0x5500, "start_ns": 0, "end_ns": SECONDS * 1e9,
    "threads": [thread("scan", 20, 9, 300), thread("reader", 11, 1, 800), thread("reader", 12, 2, 40),
                thread("checksum", 30, 0, 0, 0, 0)],
}  # fmt: skip


def actor(name: str, tid: int, task: int | None = None, waiting_ms: float = 0) -> Json:
    return {"name": name, "tid": tid, "task": task, "function": "get", "waiting_ns": int(waiting_ms * MS)}


def verdict(**changed: Any) -> Json:
    one = {
        "resource": "page", "pathology": "contention", "instance": "0x5500", "holder": actor("scan (20)", 20),
        "holders": 1, "victims": [actor("reader (11)", 11, None, 790)], "chain": [{"resource": "page"}],
    }  # fmt: skip
    return {"resources": [one | changed], "findings": []}


def compared(report: Json, pathology: str = "contention", chain: tuple[str, ...] = ("page",)) -> list[str]:
    return differences(planted(TRUTH, pathology, chain), reported(report, TRUTH), SECONDS)


def test_a_right_report_agrees() -> None:
    assert compared(verdict()) == []
    assert str(reported(verdict(), TRUTH)) == "page, contention 0x5500 by scan (20); waited: reader (11) 790 ms"
    assert compared(verdict(holder=actor("task 9", 20, 9), victims=[actor("task 1", 0, 1, 790)])) == []
    links = [{"resource": "page"}, {"resource": "record"}]
    grown = verdict(resource="record", pathology="unbounded growth", instance="", chain=links)
    assert compared(grown, "unbounded growth", ("page", "record")) == []
    assert compared({"resources": [], "findings": [{"claim": "a", "severity": "notice"}]}, "") == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"resource": "table", "chain": [{"resource": "table"}]}, "table, contention for page, contention"),
        ({"pathology": "leak"}, "page, leak for page, contention"),
        ({"instance": "0x5580"}, "0x5580 for 0x5500"),
        ({"holder": actor("reader (12)", 12)}, "reader (12) for scan (20)"),
        ({"holder": actor("task 8", 20, 8)}, "task 8 for scan (20)"),
        ({"holder": None}, "nobody that was seen for scan (20)"),
        ({"holders": 3}, "3 in turns for scan (20)"),
        ({"chain": [{"resource": "page"}, {"resource": "record"}]}, "('page', 'record') for ('page',)"),
        ({"victims": []}, "reader (11) waited for 0.0 ms for 800.0 ms"),
        ({"victims": [actor("reader (11)", 11, None, 710)]}, "reader (11) waited for 710.0 ms for 800.0 ms"),
        ({"victims": [actor("reader (11)", 11, None, 890)]}, "reader (11) waited for 890.0 ms for 800.0 ms"),
        ({"victims": [actor("a", 11, None, 800), actor("b", 12, None, 60)]}, "reader (12) waited for 60.0 ms for 40.0"),
        ({"victims": [actor("a", 11, None, 800), actor("scan (20)", 20, None, 1)]}, "scan (20) is no victim"),
        ({"victims": [actor("a", 11, None, 800), actor("checksum", 30, None, 1)]}, "checksum (30) is no victim"),
        ({"victims": [actor("a", 11, None, 800), actor("other (99)", 99, None, 1)]}, "other (99) is no victim"),
    ],
)
def test_what_is_wrong_is_told(changed: Json, told: str) -> None:
    assert any(told in one for one in compared(verdict(**changed)))


def test_several_culprits_take_turns_and_wait_for_each_other() -> None:
    truth = TRUTH | {"culprit": "reader"}
    own = planted(truth, "contention", ("page",))
    assert own.by == "2 in turns" and set(own.waited_ns or {}) == {"scan (20)", "reader (11)", "reader (12)"}
    waited = [actor("a", 11, None, 800), actor("b", 20, None, 300)]
    assert differences(own, reported(verdict(holders=2, victims=waited, chain=[]), truth), SECONDS) == []
    assert differences(own, reported(verdict(victims=waited), truth), SECONDS) == ["scan (20) for 2 in turns"]


def test_a_leak_is_a_functions_and_counted() -> None:
    truth = copy.deepcopy(TRUTH) | {"culprit": "fail"}
    truth["threads"][0] = thread("scan", 20, 9, 0, 100, 93)
    own = planted(truth, "leak", ("page",))
    said = verdict(pathology="leak", instance="", holders=7, holder=actor("task 3", 20, 3) | {"function": "fail"},
                   victims=[], chain=[])  # fmt: skip
    assert own.by == "7 units of fail" and reported(said, truth).by == own.by
    said["resources"][0]["holders"] = 6
    assert reported(said, truth).by != own.by


@pytest.mark.parametrize(
    "report",
    [verdict(), {"resources": [], "findings": [{"claim": "Threads wait for each other", "severity": "problem"}]}],
)
def test_nothing_must_be_nothing(report: Json) -> None:
    assert planted(TRUTH, "", ("page",)) == Trouble()
    assert len(compared(report, "")) >= 1


def ends(nodes: list[str], ms: float) -> Callable[[], Json]:
    graph = {"bottleneck": nodes, "bottleneck_ns": ms * MS}
    return lambda: {"resources": [], "findings": [], "resource_totals": {"wakers": graph}}


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (ends(["disk"], 700), ""),
        (ends(["interrupt"], 700), "waits end at interrupt for disk"),
        (ends(["disk"], 300), "300 ms of waiting end at disk for 800 ms"),
        (ends(["disk"], 900), "900 ms of waiting end at disk for 800 ms"),
        (verdict, "page, contention 0x5500 by scan (20); waited: reader (11) 790 ms for nothing"),
        (lambda: {"resources": [], "resource_totals": {"wakers": None}}, "waits end at nothing for disk"),
    ],
)
def test_where_waits_end(report: Callable[[], Json], told: str) -> None:
    assert ends_differ("disk", report(), TRUTH, "page") == ([told] if told else [])
