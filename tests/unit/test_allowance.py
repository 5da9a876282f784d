"""What is given up when the events of resources take too much of a thread's time."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import resource_runs as runs
from flowprof.profiler.record.allowance import Allowance, Excess, too_dear
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.store import Recording

MUTEX, POOL, BOTH = frozenset({1}), frozenset({2}), frozenset({1, 2})


def test_nothing_below_the_limit_of_any_thread() -> None:
    """Two threads share what would be too much for one."""
    hits = {MUTEX: (300_000, 0.18e9)}
    assert too_dear(hits, {(MUTEX, 11): 50, (MUTEX, 12): 50}, 1.0, 0.1) == []
    assert too_dear(hits, {(MUTEX, 11): 60, (MUTEX, 12): 40}, 1.0, 0.1) == [
        Excess(1, 11, pytest.approx(0.108), 300_000)
    ]
    assert too_dear(hits, {(MUTEX, 11): 60, (MUTEX, 12): 40}, 2.0, 0.1) == [], "in twice the time"


def test_the_dearest_goes_first_and_the_rest_stays_if_it_may() -> None:
    hits = {MUTEX: (1_000_000, 0.6e9), POOL: (90_000, 0.05e9)}
    events = {(MUTEX, 11): 2000, (POOL, 11): 100}
    assert too_dear(hits, events, 1.0, 0.1) == [Excess(1, 11, pytest.approx(0.65), 1_000_000)]
    found = too_dear(hits, events, 1.0, 0.04)
    assert [one.subject for one in found] == [1, 2] and found[1].share == pytest.approx(0.05)


def test_hits_without_events_are_taken_for_those_of_one_thread() -> None:
    hits = {MUTEX: (100_000, 0.06e9), frozenset({"lookup"}): (100_000, 0.06e9)}
    (one,) = too_dear(hits, {}, 1.0, 0.1)
    assert (one.tid, one.share, one.hits_per_s) == (0, pytest.approx(0.12), 100_000)


def test_what_two_share_goes_when_both_have_gone() -> None:
    """The site of a condition's wait gives its mutex up, too."""
    hits = {BOTH: (500_000, 0.3e9), MUTEX: (100_000, 0.06e9)}
    found = too_dear(hits, {(BOTH, 11): 500, (MUTEX, 11): 100}, 1.0, 0.1)
    assert [(one.subject, one.hits_per_s) for one in found] == [(1, 600_000), (2, 500_000)]
    assert [one.share for one in found] == [pytest.approx(0.36), pytest.approx(0.3)]


@pytest.mark.parametrize(("threads", "given_up"), [(1, True), (3, False)])
def test_whose_hits_they_are_is_found_out_first(threads: int, given_up: bool) -> None:
    """Events wait to be decoded: before, nobody knows that three threads share what is too much for one."""
    hits = np.array([0, 1000])
    resources = SimpleNamespace(units={1: MUTEX}, seen={}, sampled=lambda: resources.seen, name_of=str)
    resources.give_up = Mock(return_value=[1])
    session = SimpleNamespace(
        options=SimpleNamespace(budget=0.01), resources=resources, sites=[SimpleNamespace(site_id=1)], cost_ns={},
        probes=Mock(site_hits=lambda _: hits), hits_since=lambda before: hits - before, next_site=lambda: 2,
        hit_cost_ns=lambda _: 600.0, note=Mock(),
    )  # fmt: skip

    def decode() -> None:
        resources.seen = {(MUTEX, 11 + thread): 100 for thread in range(threads)}

    allowance = Allowance(session, SimpleNamespace(decode=decode), Mock())
    hits = hits + np.array([0, 900_000])  # 0.54 s
    allowance.look(time.monotonic() + 2.5)
    assert resources.give_up.called == session.note.called == given_up


@pytest.mark.parametrize("until", [None, 500])
def test_what_was_given_up_is_judged_by_the_time_that_it_was_observed(tmp_path: Path, until: int | None) -> None:
    """Of 2 s: a lock held from 100 ms on, another thread waiting from 200 ms on, and neither ever ends."""
    run = runs.Run(end=2000, threads={11: "holder", 12: "waiter"})
    lock, other = (run.resource(name, "state", events="wait,acquire,release") for name in ("lock", "other"))
    for run.now, tid, kind, resource in (
        (10, 11, "acquire", other), (100, 11, "acquire", lock), (200, 12, "wait", lock), (1900, 11, "release", other)
    ):  # fmt: skip
        run.event(kind, tid, resource, "taken")
    for one in run.resources:
        given_up = one["name"] == "lock" and until is not None
        one["until_ns"] = runs.START_NS + 500_000_000 if given_up else None
    path = str(tmp_path / "run.duckdb")
    run.write(path)
    with Recording.open(path) as recording:
        table = build_report(recording).get(ResourceTable)
    assert table is not None
    rows = {row.resource: row for row in table.resources}
    end = until or 2000
    assert rows["lock"].waiting_ns == pytest.approx((end - 200) * 1e6)
    assert rows["lock"].hold_ns == pytest.approx((end - 100) * 1e6)
    assert rows["lock"].observed_ns == pytest.approx(end * 1e6)
    assert rows["lock"].acquires_per_s == pytest.approx(1000 / end)
    assert (rows["other"].hold_ns, rows["other"].observed_ns) == (pytest.approx(1890e6), pytest.approx(2000e6))
    (blamed,) = [one for one in table.blamed if one.resource == "lock"]
    assert f"{(end - 200) / end * 100:.0f} % of {end / 1000:.3g} s" in " ".join(blamed.evidence)
    assert [note for note in table.notes if "observed for" in note] == (
        [] if until is None
        else ["lock: observed for 0.5 s only: its events took too much of a thread's time; --full keeps them"]
    )  # fmt: skip
