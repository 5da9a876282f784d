"""Where waits end: the bottleneck is the component that others' waiting ends at, not the longest wait."""

from __future__ import annotations

import numpy as np
import pytest
from flowprof.profiler import root_causes
from flowprof.profiler.blame.thresholds import shipped
from flowprof.profiler.blame.wakers import Graph, bottleneck, waker_graph
from flowprof.profiler.root_causes import DEPTH, Stretches

MINOR = shipped().of("wakers", "minor_share")
IO, COMPUTE, THIRD, FOURTH = 1, 2, 3, 4
NAMES = {IO: "io", COMPUTE: "compute", THIRD: "third", FOURTH: "fourth"}
ROUNDS = 10
Row = tuple[int, float, float, str, int]  # tid, start, end (ms in a round of 100), state, by


def graph(rows: list[Row], of: list[int] | None = None, resources: tuple[str, ...] = (), rounds: int = ROUNDS) -> Graph:
    """Rounds of 100 ms, each of these rows; of: the resource of each row."""
    every = [
        (tid, start + 100 * n, end + 100 * n, state, by) for n in range(rounds) for tid, start, end, state, by in rows
    ]
    tid, start, end, state, by = zip(*every, strict=True) if every else ((), (), (), (), ())
    stretches = Stretches(
        np.array(tid, np.int64), np.array(start, np.int64) * 10**6, np.array(end, np.int64) * 10**6,
        np.array(state, np.str_), np.array(by, np.int64),
    )  # fmt: skip
    labels = np.array((of or [-1] * len(rows)) * rounds, np.int64)
    found = waker_graph(stretches, labels, {one: NAMES[one] for one in NAMES}, resources)
    assert found is not None
    return found


def end_of(found: Graph) -> tuple[str, float] | None:
    """(the component's first node, ms); edges of less than 1 % of the second are dropped."""
    component = bottleneck(found, 10e6, MINOR)
    return None if component is None else (component.nodes[0], component.ns / 1e6)


def longest(found: Graph) -> str:
    return found.nodes[int(found.direct.sum(axis=0).argmax())]


def test_w1_the_compute_thread_is_heavier() -> None:
    found = graph([(IO, 0, 60, "disk", 0), (IO, 65, 100, "sleeping", COMPUTE)])
    assert end_of(found) == ("compute", 350)
    assert longest(found) == "disk", "the longest wait is another one"


def test_w2_the_io_thread_is_heavier() -> None:
    found = graph([(IO, 0, 90, "disk", 0), (COMPUTE, 40, 98, "sleeping", IO)])
    assert end_of(found) == ("disk", 500)


def test_w3_four_threads_in_one_lock() -> None:
    rows: list[Row] = []
    for turn in range(4):
        rows += [(tid, 25 * turn + 1, 25 * turn + 25, "sleeping", turn + 1) for tid in NAMES if tid != turn + 1]
    found = graph(rows, [0] * len(rows), ("lock",))
    component = bottleneck(found, 10e6, MINOR)
    assert component is not None and component.nodes[0] == "lock" and set(component.nodes[1:]) == set(NAMES.values())
    assert component.ns == 12 * 24 * ROUNDS * 1e6


def test_w5_the_disk_behind_the_chain_not_the_timer() -> None:
    found = graph([(IO, 0, 40, "sleeping", COMPUTE), (COMPUTE, 0, 38, "disk", 0), (THIRD, 0, 99, "sleeping", 0)])
    assert end_of(found) == ("disk", 380)
    assert longest(found) == "interrupt"


@pytest.mark.parametrize(("without_ms", "node"), [(0.5, "compute"), (12, "compute"), (60, "no processor")])
def test_a_thread_that_at_times_has_no_processor_is_still_who_is_waited_for(without_ms: float, node: str) -> None:
    """As long as most of the waiting for it is for what it does."""
    found = graph([(IO, 0, 90, "sleeping", COMPUTE), (COMPUTE, 0, without_ms, "runnable", 0)])
    assert (end_of(found) or ("",))[0] == node


@pytest.mark.parametrize(("by", "node"), [(0, "interrupt"), (THIRD, "third"), (99, "another program")])
def test_w6_woken_by_an_interrupt_by_a_thread_or_from_outside(by: int, node: str) -> None:
    found = graph([(COMPUTE, 0, 60, "sleeping", IO), (IO, 0, 90, "sleeping", by)])
    assert found.direct[found.nodes.index("io"), found.nodes.index(node)] == 900e6
    assert end_of(found) == (node, 1500 if by == THIRD else 600)


@pytest.mark.parametrize("rows", [[], [(IO, 0, 99, "sleeping", 0)], [(IO, 0, 0.5, "sleeping", COMPUTE)]])
def test_nobody_waits_for_anybody(rows: list[Row]) -> None:
    assert end_of(graph(rows)) is None


@pytest.mark.parametrize(
    ("rows", "of", "end"),
    [
        ([(IO, 0, 900, "sleeping", COMPUTE)], [-1], None),  # main joins it
        ([(IO, 0, 500, "sleeping", COMPUTE), (IO, 501, 900, "sleeping", THIRD)], [-1, -1], None),  # one after the other
        ([(IO, 0, 500, "sleeping", COMPUTE), (IO, 501, 900, "sleeping", COMPUTE)], [-1, -1], "compute"),  # twice
        ([(IO, 0, 900, "sleeping", COMPUTE)], [0], "compute"),  # for a lock, which that one has
        # it goes on: to sleep itself, and to wake another one
        ([(IO, 0, 800, "sleeping", COMPUTE), (COMPUTE, 850, 900, "sleeping", 0)], [-1, -1], "compute"),
        ([(IO, 0, 800, "sleeping", COMPUTE), (THIRD, 850, 900, "sleeping", COMPUTE)], [-1, -1], "compute"),
        # what the joined thread waits for itself nobody else waits for
        ([(IO, 0, 900, "sleeping", COMPUTE), *((COMPUTE, at, at + 50, "disk", 0) for at in range(0, 800, 100))],
         [-1] * 9, None),
    ],
)  # fmt: skip
def test_whoever_only_joins_is_not_held_up(rows: list[Row], of: list[int], end: str | None) -> None:
    found = end_of(graph(rows, of, ("lock",), 1))
    assert (found and found[0]) == end


def test_parts_passed_on_add_up() -> None:
    found = graph([(IO, 0, 80, "sleeping", COMPUTE), (COMPUTE, 10, 70, "sleeping", THIRD), (THIRD, 20, 50, "disk", 0)])
    ends = {name: ns / 1e6 for name, ns in zip(found.nodes, found.ends, strict=True) if ns}
    # io's 80 ms: 20 compute itself, 30 third itself, 30 the disk; compute's own 60: 30 and 30
    assert ends == {"compute": 200, "third": 600, "disk": 600}
    assert found.passed[0, 1] == 800e6 and found.passed[1, 2] == 1200e6


def test_waits_that_fall_into_too_many_parts_end_at_who_woke_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Row] = [(IO, 0, 90, "sleeping", COMPUTE), (COMPUTE, 10, 80, "sleeping", THIRD)]
    assert (graph(rows).followed, end_of(graph(rows))) == (DEPTH, ("third", 1400))
    monkeypatch.setattr(root_causes, "MAX_PARTS", ROUNDS - 1)
    cut = graph(rows)
    assert cut.followed == 1 and cut.ends.sum() == pytest.approx(1600e6)
    assert cut.passed[cut.nodes.index("io"), cut.nodes.index("third")] == 0
