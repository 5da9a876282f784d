"""Waiting for resources on both sides of a diff: by token and by second, who held it, and what is only noise."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.gate import judge
from flowprof.profiler.diff.resources import shifts
from flowprof.profiler.diff.result import ResourceShift
from flowprof.profiler.diff.side import open_pair
from flowprof.profiler.store import Recording

MS = 1_000_000
START_NS = 1_000_000_000_000
TURNS = 200
SLOW, QUICK = 11, 12


def write(path: Path, held_ms: float, tokens: int = 2, seed: int = 0, resources: tuple[str, ...] = ("table",)) -> str:
    """200 turns of 10 ms: the slow thread holds the table for about `held_ms`, the quick one waits for it from the
    beginning on. In every turn a graph of so many tokens runs; 0: none does."""
    draw = np.random.default_rng(seed)
    turns = START_NS + 10 * MS * np.arange(TURNS)
    held = turns + (held_ms * MS * draw.normal(1, 0.1, TURNS)).astype(np.int64)
    events = [("acquire", SLOW, turns), ("wait", QUICK, turns + 1000), ("release", SLOW, held),
              ("acquire", QUICK, held + 1000), ("release", QUICK, held + 501_000)]  # fmt: skip
    with Recording.create(str(path), overwrite=True) as recording:
        recording.set_meta("started_ns", START_NS)
        recording.set_meta("stopped_ns", START_NS + 10 * MS * TURNS)
        recording.append("process", {"pid": [5], "ppid": 1, "exe": "/usr/bin/app", "cmdline": "app"})
        recording.append("thread", {"pid": 5, "tid": [SLOW, QUICK], "comm": ["slow", "quick"]})
        for number, name in enumerate(resources, 1):
            recording.append("resource", {"resource_id": [number], "manifest": ["m"], "name": [name], "kind": ["state"],
                                          "events": ["wait,acquire,release"]})  # fmt: skip
            for event, tid, at in events:
                recording.append("resource_event", {"at_ns": at, "pid": 5, "tid": tid, "resource_id": number,
                                                    "event": event, "instance": 0, "units": 1})  # fmt: skip
        if tokens:
            recording.append("graph", {"graph_id": [1], "pid": [5], "phase": ["decode"], "tokens": [tokens]})
            recording.append("graph_exec", {"exec_id": np.arange(TURNS) + 1, "graph_id": 1, "pid": 5, "window_id": 1,
                                            "level": "token", "start_ns": turns, "end_ns": turns + 9 * MS})  # fmt: skip
    return str(path)


def found(normal: str | list[str], buggy: str) -> list[ResourceShift]:
    with open_pair([normal] if isinstance(normal, str) else normal, buggy) as pair:
        return list(shifts(pair))


@pytest.mark.parametrize(("tokens", "per", "share"), [(2, "token", 1 / 2), (0, "s", 100)])
def test_longer_waits(tmp_path: Path, tokens: int, per: str, share: float) -> None:
    """A wait of 2 ms in every turn becomes one of 6 ms, behind the same thread."""
    (one,) = found(write(tmp_path / "a", 2, tokens), write(tmp_path / "b", 6, tokens, 1))
    assert (one.resource, one.per, one.holder, one.significant) == ("table", per, "slow (11)", True)
    assert one.a_waiting_ns == pytest.approx(2 * MS * share, rel=0.05)
    assert one.b_waiting_ns == pytest.approx(6 * MS * share, rel=0.05)
    assert one.a_hold_ns == pytest.approx(2.5 * MS * share, rel=0.05)
    assert one.b_hold_ns == pytest.approx(6.5 * MS * share, rel=0.05)


def test_twice_the_tokens_need_not_wait_more(tmp_path: Path) -> None:
    """As long for each: the same, though a second holds more of it."""
    (one,) = found(write(tmp_path / "a", 2, 2), write(tmp_path / "b", 4, 4, 1))
    assert not one.significant and one.a_waiting_ns == pytest.approx(one.b_waiting_ns or 0, rel=0.05)


def test_normal_runs_differ(tmp_path: Path) -> None:
    """What normal runs differ by among themselves is no change; alike ones are silent."""
    a, b = (write(tmp_path / name, 2, seed=seed) for seed, name in enumerate("ab"))
    assert [one.significant for one in found(a, b)] == [False]
    apart = write(tmp_path / "c", 5, seed=2)
    assert [one.significant for one in found([a, apart], write(tmp_path / "d", 4, seed=3))] == [False]


def test_what_one_side_lacks(tmp_path: Path) -> None:
    """A resource that only one side recorded is shown, and nothing is said of it; none at all is nothing."""
    a, b = write(tmp_path / "a", 2), write(tmp_path / "b", 6, resources=("table", "pool"))
    table, pool = sorted(found(a, b), key=lambda one: one.resource, reverse=True)
    assert table.significant and (pool.a_waiting_ns, pool.significant) == (None, False) and pool.b_waiting_ns
    empty = write(tmp_path / "c", 2, resources=())
    assert found(a, empty) == [] and found(empty, empty) == []


def test_too_many_losses(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 2), tmp_path / "b"
    write(b, 6)
    with duckdb.connect(str(b)) as db:
        db.execute("INSERT INTO loss (window_id, place, events) VALUES (1, 'ring', 1000000)")
    (one,) = found(a, str(b))
    assert not one.significant and (one.b_waiting_ns or 0) > (one.a_waiting_ns or 0)


def test_without_steps_a_resource_makes_the_verdict(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 2, 0), write(tmp_path / "b", 6, 0, 1)
    for name in (a, b):
        with duckdb.connect(name) as db:
            db.execute("INSERT INTO meta VALUES ('boot_id', ?)", [name])
    for normal, buggy, verdict, words in ((a, b, "slower", "longer: 200 ms → 5"), (b, a, "faster", "less: 5")):
        with open_pair([normal], buggy) as pair:
            diff = compare(pair)
        assert diff.verdict == verdict and f"table is waited for {words}" in diff.headline
        assert ("behind slow (11)" in diff.headline) == (verdict == "slower")
        assert diff.causes[0].kind == "resource" and judge(diff, 0.05).exit_code == 5
    again = write(tmp_path / "c", 2, 0, 2)
    with open_pair([a], again) as pair:
        assert compare(pair).verdict in ("not enough data", "not comparable")
