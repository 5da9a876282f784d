"""Waits that follow their waker: chains worked out by hand, and that no nanosecond is lost or counted twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from flowprof.profiler import root_causes as module
from flowprof.profiler.root_causes import DEPTH, Stretches, met, root_causes, slept

A, B, C, D, HOG, STRANGER = 1, 2, 3, 4, 90, 91
OWN = np.array([A, B, C, D])
Row = tuple[int, int, int, str, int]  # tid, start, end, state, by


def stretches(rows: list[Row]) -> Stretches:
    tid, start, end, state, by = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Stretches(
        np.array(tid, np.int64), np.array(start, np.int64), np.array(end, np.int64), np.array(state, np.str_),
        np.array(by, np.int64),
    )  # fmt: skip


def causes(wait: Row, others: list[Row]) -> dict[tuple[str, int], int]:
    """(cause, by) → ns of one wait."""
    found = root_causes(stretches([wait]), stretches([*others, wait][::-1]), OWN)
    total: Counter[tuple[str, int]] = Counter()
    for cause, by, ns in zip(found.cause.tolist(), found.by_tid.tolist(), found.ns.tolist(), strict=True):
        total[cause, by] += ns
    return dict(total)


@pytest.mark.parametrize(
    ("wait", "others", "expected"),
    [
        # A waits for B, which works all the time
        ((A, 0, 100, "sleeping", B), [], {("work", B): 100}),
        # what needs no waker, and wakers that nobody can look behind
        ((A, 0, 100, "runnable", HOG), [], {("runnable", HOG): 100}),
        ((A, 0, 100, "fault", 0), [], {("fault", 0): 100}),
        ((A, 0, 100, "sleeping", 0), [], {("interrupt", 0): 100}),
        ((A, 0, 100, "sleeping", STRANGER), [(STRANGER, 0, 50, "disk", 0)], {("outside", STRANGER): 100}),
        # B was kept off its processor in the middle
        ((A, 0, 100, "sleeping", B), [(B, 20, 50, "runnable", HOG)], {("work", B): 70, ("runnable", HOG): 30}),
        # stretches of B that begin before and end after A's wait count only where they overlap
        (
            (A, 100, 200, "sleeping", B),
            [
                (B, 50, 120, "disk", 0), (B, 150, 160, "sleeping", 0), (B, 190, 400, "stopped", HOG),
                (B, 20, 40, "fault", 0),
            ],
            {("disk", 0): 20, ("work", B): 60, ("interrupt", 0): 10, ("stopped", HOG): 10},
        ),
        # a chain: A for B, B for C (10 to 90), C for the disk (30 to 60) and then for a processor (60 to 70)
        (
            (A, 0, 100, "sleeping", B),
            [(B, 10, 90, "sleeping", C), (C, 30, 60, "disk", 0), (C, 60, 70, "runnable", HOG)],
            {("work", B): 20, ("work", C): 40, ("disk", 0): 30, ("runnable", HOG): 10},
        ),
        # the longest wait (on B) is not what matters: D, at the end of the chain, is all of it
        (
            (A, 0, 100, "sleeping", B),
            [(B, 0, 100, "sleeping", C), (C, 0, 100, "sleeping", D)],
            {("work", D): 100},
        ),
        # only the stretch of C inside B's counts, not the one beside it
        (
            (A, 0, 100, "sleeping", B),
            [(B, 40, 60, "sleeping", C), (C, 0, 50, "disk", 0), (C, 70, 90, "fault", 0)],
            {("work", B): 80, ("disk", 0): 10, ("work", C): 10},
        ),
        # circles are cut: B says that it waited for A, which slept
        ((A, 0, 100, "sleeping", B), [(B, 30, 70, "sleeping", A)], {("work", B): 60, ("unknown", A): 40}),
        ((A, 0, 100, "sleeping", A), [], {("unknown", A): 100}),
        # an empty wait costs nothing
        ((A, 5, 5, "sleeping", B), [], {}),
    ],
)  # fmt: skip
def test_one_wait(wait: Row, others: list[Row], expected: dict[tuple[str, int], int]) -> None:
    assert causes(wait, others) == expected
    assert sum(expected.values()) == wait[2] - wait[1]


def test_a_long_chain_is_cut() -> None:
    chain: list[Row] = [(tid, 0, 100, "sleeping", tid + 1) for tid in range(101, 101 + 2 * DEPTH)]
    found = root_causes(stretches(chain[:1]), stretches(chain), np.arange(101, 200))
    assert found.cause.tolist() == ["unknown"] and found.ns.tolist() == [100]


def test_nothing_at_all() -> None:
    found = root_causes(stretches([]), stretches([]), OWN)
    assert len(found.ns) == 0


def brute(waits: Stretches, known: Stretches, own: set[int], at: int, wait: int) -> tuple[str, int]:
    """What wait number `wait` goes to at one instant, step by step."""
    state, by, seen = str(waits.state[wait]), int(waits.by_tid[wait]), [int(waits.tid[wait])]
    while True:
        if state != "sleeping":
            return state, by
        if by == 0:
            return "interrupt", 0
        if by not in own:
            return "outside", by
        if by in seen or len(seen) == DEPTH:
            return "unknown", by
        here = (known.tid == by) & (known.start_ns <= at) & (at < known.end_ns)
        if not here.any():
            return "work", by
        seen.append(by)
        state, by = str(known.state[here][0]), int(known.by_tid[here][0])


def test_random_schedules_against_a_step_by_step_search() -> None:
    rng = np.random.default_rng(5)
    rows: list[Row] = []
    for tid in range(1, 9):
        edges = np.sort(rng.choice(400, 24, replace=False)).tolist()
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            state = str(rng.choice(["sleeping", "sleeping", "sleeping", "runnable", "disk"]))
            by = int(rng.integers(0, 11)) if state == "sleeping" else HOG
            rows.append((tid, start, end, state, by))
    known = stretches(rows)
    found = root_causes(known, known, np.arange(1, 9))
    got: Counter[tuple[int, str, int]] = Counter()
    for wait, cause, by, ns in zip(
        found.wait.tolist(), found.cause.tolist(), found.by_tid.tolist(), found.ns.tolist(), strict=True
    ):
        got[wait, cause, by] += ns
    truth: Counter[tuple[int, str, int]] = Counter()
    for wait, (_, start, end, _, _) in enumerate(rows):
        for at in range(start, end):
            truth[(wait, *brute(known, known, set(range(1, 9)), at, wait))] += 1
    assert got == truth
    assert {cause for _, cause, _ in truth} == {"work", "runnable", "disk", "interrupt", "outside", "unknown"}


def test_waits_of_too_many_parts_are_followed_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the waker itself waited for is not known then; no nanosecond is lost."""
    others: list[Row] = [(B, 10 * n, 10 * n + 5, "disk", 0) for n in range(10)]
    assert causes((A, 0, 100, "sleeping", B), others) == {("work", B): 50, ("disk", 0): 50}
    monkeypatch.setattr(module, "MAX_PARTS", 9)
    assert causes((A, 0, 100, "sleeping", B), others) == {("unknown", B): 100}


@pytest.mark.parametrize("seed", range(5))
def test_how_long_wakers_slept(seed: int) -> None:
    """As added up from the parts."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for tid in (A, B, C):
        edges = np.sort(rng.choice(1000, 40, replace=False)).reshape(-1, 2).tolist()
        rows += [(tid, a, b, str(rng.choice(["sleeping", "disk"])), int(rng.choice([A, B, C, D]))) for a, b in edges]
    known = stretches(rows).sorted()
    which = rng.random(len(rows)) < 0.7
    parts = met(known, known, which)
    assert parts is not None
    stretch, part, ns = parts
    expected = np.bincount(part, np.where(known.state[stretch] == "sleeping", ns, 0), len(rows))
    assert slept(known, known, which).tolist() == expected.tolist() and expected.sum() > 0
