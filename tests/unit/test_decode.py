"""Events made by hand → exact rows, wherever the batches are cut and whatever got lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flowprof.profiler.ggml.graphs import EMPTY_NODE, KnownGraph
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record import decode
from flowprof.profiler.record.decode import Decoded, Decoder, Window
from numpy.typing import NDArray

A, B, C, VIEW = 0x1000, 0x1200, 0x1100, 0x1300  # nodes 0, 1, 2 and an empty one; not in order of address
KEY, OTHER, UNKNOWN = 7, 8, 9
NODES = {KEY: {A: 0, B: 1, C: 2, VIEW: EMPTY_NODE}, OTHER: {A + 8: 0, B + 8: 1}}
MAIN, SECOND = 50, 51

Row = tuple[Any, ...]


def graph(key: int) -> KnownGraph:
    nodes = sorted(NODES.get(key, {}).items())
    addresses = np.array([address for address, _ in nodes], np.uint64)
    numbers = np.array([number for _, number in nodes], np.int32)
    return KnownGraph(key, key in NODES, addresses, numbers, tokens=1, outputs=1)


def decoder() -> Decoder:
    reserved = [0]

    def next_exec(count: int) -> int:
        reserved[0] += count
        return reserved[0] - count

    return Decoder(graph, next_exec)


def event(kind: int, at: int, tid: int = MAIN, a: int = 0, b: int = 0, ith: int = 0) -> NDArray[np.void]:
    made = np.zeros(1, ring.EVENT)
    made["kind"], made["at_ns"], made["tid"], made["a"], made["b"], made["ith"] = kind, at, tid, a, b, ith
    return made


def begin(at: int, key: int = KEY, tid: int = MAIN) -> NDArray[np.void]:
    return event(ring.GRAPH_BEGIN, at, tid, 0xC0, key)


def end(at: int, tid: int = MAIN) -> NDArray[np.void]:
    return event(ring.GRAPH_END, at, tid)


def op(at: int, node: int, tid: int = MAIN, ith: int = 0) -> NDArray[np.void]:
    return event(ring.OP, at, tid, node, 0, ith)


def work(start: int, until: int, node: int, tid: int = MAIN, ith: int = 0) -> NDArray[np.void]:
    return event(ring.OP_WORK, until, tid, node, start, ith)


def together(*events: NDArray[np.void]) -> NDArray[np.void]:
    return np.concatenate(events) if events else np.empty(0, ring.EVENT)


def windows(level: str) -> list[Window]:
    return [Window(1, level, 0)]


def op_rows(out: Decoded) -> list[Row]:
    """(exec, node, tid, ith, start, compute end, end), by execution, thread and time."""
    if not out.op_exec:
        return []
    columns = ("exec_id", "node_index", "tid", "ith", "start_ns", "compute_end_ns", "end_ns")
    return sorted(zip(*(np.ma.asarray(out.op_exec[name]).tolist() for name in columns), strict=True))


def graph_rows(out: Decoded) -> list[Row]:
    """(exec, graph, tid, start, end, level)."""
    if not out.graph_exec:
        return []
    columns = ("exec_id", "graph_id", "tid", "start_ns", "end_ns")
    parts = [np.ma.asarray(out.graph_exec[name]).tolist() for name in columns]
    return list(zip(*parts, out.graph_exec["level"], strict=True))


# -- what one execution becomes ---------------------------------------------------------------------------------------

OP_LEVEL = together(begin(100), op(110, A), op(130, B), op(160, C), end(200))
THREADS = together(
    begin(100),
    *(work(110, 125, A), work(130, 150, B), work(160, 190, C)),
    *(work(111, 118, A, SECOND, 1), work(132, 157, B, SECOND, 1), work(161, 195, C, SECOND, 1)),
    end(200),
)
FIRST = [(0, 0, MAIN, 0, 110, None, 130), (0, 1, MAIN, 0, 130, None, 160), (0, 2, MAIN, 0, 160, None, 200)]


def test_operators_follow_each_other() -> None:
    out = decoder().decode(OP_LEVEL, windows("op"))
    assert graph_rows(out) == [(0, KEY, MAIN, 100, 200, "op")]
    assert op_rows(out) == FIRST
    assert (out.graphs, out.tokens, out.outputs, out.unmatched, out.undescribed) == (1, 1, 1, 0, 0)


def test_every_thread_has_its_work_and_its_wait() -> None:
    out = decoder().decode(THREADS, windows("thread"))
    assert op_rows(out) == [
        (0, 0, MAIN, 0, 110, 125, 130),
        (0, 0, SECOND, 1, 111, 118, 132),
        (0, 1, MAIN, 0, 130, 150, 160),
        (0, 1, SECOND, 1, 132, 157, 161),
        (0, 2, MAIN, 0, 160, 190, 200),
        (0, 2, SECOND, 1, 161, 195, 200),
    ]
    assert out.thread_index == {MAIN: 0, SECOND: 1}


def test_later_barriers_of_an_operator_move_its_end() -> None:
    inner = together(work(110, 113, A), work(110, 119, A), work(160, 165, C))
    assert op_rows(decoder().decode(together(THREADS, inner), windows("thread"))) == op_rows(
        decoder().decode(THREADS, windows("thread"))
    )


def test_work_does_not_end_after_its_operator() -> None:
    (first, *_) = op_rows(decoder().decode(together(THREADS, work(110, 140, A)), windows("thread")))
    assert first == (0, 0, MAIN, 0, 110, 130, 130)


def test_nested_functions_of_a_node_are_one_operator() -> None:
    assert op_rows(decoder().decode(together(OP_LEVEL, op(112, A), op(115, A)), windows("op"))) == FIRST


def test_visits_of_empty_nodes_are_no_operators() -> None:
    out = decoder().decode(together(OP_LEVEL, op(128, VIEW), op(199, VIEW)), windows("op"))
    assert op_rows(out) == FIRST
    assert (out.unmatched, out.strangers) == (0, 0)


def test_only_empty_nodes() -> None:
    out = decoder().decode(together(begin(100), op(128, VIEW), end(200)), windows("op"))
    assert op_rows(out) == [] and len(graph_rows(out)) == 1


def test_the_first_thread_may_change() -> None:
    """Builds of 2023: whoever ends a node last prepares the next one, as number 0."""
    changed = together(begin(100), op(110, A), op(130, B, SECOND), op(133, B), op(160, C, SECOND), end(200))
    rows = op_rows(decoder().decode(changed, windows("op")))
    assert [(row[1], row[4], row[6]) for row in rows] == [(row[1], row[4], row[6]) for row in FIRST]


def test_the_token_level_keeps_no_operators() -> None:
    out = decoder().decode(OP_LEVEL, windows("token"))
    assert graph_rows(out) == [(0, KEY, MAIN, 100, 200, "token")] and op_rows(out) == []


def test_nothing() -> None:
    one = decoder()
    for final in (False, True):
        out = one.decode(together(), windows("op"), final)
        assert graph_rows(out) == op_rows(out) == []
    assert one.horizon() == np.iinfo(np.int64).max


def test_an_undescribed_graph_has_no_operators() -> None:
    out = decoder().decode(together(begin(100, UNKNOWN), op(110, A), end(200)), windows("op"))
    assert graph_rows(out) == [(0, UNKNOWN, MAIN, 100, 200, "op")]
    assert (op_rows(out), out.undescribed) == ([], 1)


# -- batches ----------------------------------------------------------------------------------------------------------


def session() -> NDArray[np.void]:
    """Six executions of two graphs, two threads, in the order of publication; a pause; operators at once with ends."""
    parts = []
    for at in (0, 1000, 2000):
        shifted = THREADS.copy()
        shifted["at_ns"] += at
        shifted["b"] += np.where(shifted["kind"] == ring.OP_WORK, at, 0).astype(np.uint64)
        parts.append(shifted)
        parts.append(together(begin(at + 300, OTHER), work(at + 310, at + 390, A + 8), work(at + 400, at + 450, B + 8)))
        parts.append(end(at + 450))
    events = together(*parts)
    return events[np.argsort(events["at_ns"], kind="stable")]


def run_in(batches: list[NDArray[np.void]], level: str = "thread") -> tuple[list[Row], list[Row]]:
    one, shared = decoder(), windows(level)
    outs = [one.decode(batch, shared) for batch in batches] + [one.decode(together(), shared, final=True)]
    assert sum(out.unmatched for out in outs) == 0
    assert shared[0].graphs == shared[0].tokens == 6 and shared[0].busy_ns == 3 * (100 + 150)
    return [row for out in outs for row in graph_rows(out)], sorted(row for out in outs for row in op_rows(out))


def test_batches_may_be_cut_anywhere() -> None:
    events = session()
    whole = run_in([events])
    assert (len(whole[0]), len(whole[1])) == (6, 3 * 6 + 3 * 2)
    for cut in range(len(events) + 1):
        assert run_in([events[:cut], events[cut:]]) == whole, cut
    assert run_in([events[at : at + 1] for at in range(len(events))]) == whole


def test_order_within_a_batch_does_not_matter() -> None:
    events = session()
    assert run_in([np.random.default_rng(1).permutation(events)]) == run_in([events])


def test_a_running_graph_waits() -> None:
    one = decoder()
    out = one.decode(OP_LEVEL[:-1], windows("op"))
    assert graph_rows(out) == [] and one.horizon() == 100
    assert op_rows(one.decode(end(200), windows("op"))) == FIRST


def test_a_graph_that_never_ends_is_kept_at_the_end() -> None:
    one = decoder()
    one.decode(OP_LEVEL[:-1], windows("op"))
    out = one.decode(together(), windows("op"), final=True)
    assert graph_rows(out) == [(0, KEY, MAIN, 100, None, "token")]
    assert op_rows(out) == [] and len(one.waiting) == 0


# -- losses -----------------------------------------------------------------------------------------------------------


def test_a_lost_end() -> None:
    """The next graph is right; the operators of the one that was lost are counted."""
    out = decoder().decode(together(begin(10), op(20, A), begin(100), *np.split(OP_LEVEL[1:], 4)), windows("op"))
    assert graph_rows(out) == [(0, KEY, MAIN, 100, 200, "op")]
    assert op_rows(out) == FIRST and out.unmatched == 1


def moved(events: NDArray[np.void], by_ns: int) -> NDArray[np.void]:
    later = events.copy()
    later["at_ns"] += by_ns
    return later


def test_a_lost_begin() -> None:
    out = decoder().decode(together(OP_LEVEL, op(220, A), op(230, B), end(250), moved(OP_LEVEL, 300)), windows("op"))
    assert [row[3] for row in graph_rows(out)] == [100, 400] and len(op_rows(out)) == 6 and out.unmatched == 2


def test_the_graph_that_runs_when_recording_ends_is_no_loss() -> None:
    cut = together(OP_LEVEL, begin(300), op(310, A), op(330, B))
    assert decoder().decode(cut, windows("op"), final=True).unmatched == 0
    one = decoder()
    assert one.decode(cut, windows("op")).unmatched == 0 and len(one.waiting) == 3
    assert one.decode(op(340, C), windows("op"), final=True).unmatched == 0


def test_the_graph_that_ran_when_recording_began_is_no_loss() -> None:
    out = decoder().decode(together(op(20, A), op(30, B), end(50), OP_LEVEL), windows("op"))
    assert op_rows(out) == FIRST and out.unmatched == 0
    one = decoder()
    assert one.decode(together(op(1, A), op(2, B)), windows("op")).unmatched == 0
    assert one.decode(together(op(3, C), end(50), OP_LEVEL), windows("op")).unmatched == 0
    assert one.decode(op(250, A), windows("op")).unmatched == 1


def test_a_lost_end_does_not_hold_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_WAITING", 5)
    one = decoder()
    out = one.decode(together(begin(10, tid=SECOND), OP_LEVEL), windows("op"))
    assert (MAIN, 100, 200) in [(row[2], row[3], row[4]) for row in graph_rows(out)]
    assert len(one.waiting) == 0


def test_operators_outside_of_graphs_are_counted() -> None:
    one = decoder()
    assert one.decode(together(OP_LEVEL, op(250, A)), windows("op")).unmatched == 1
    assert one.decode(together(op(301, A), op(302, B)), windows("op")).unmatched == 2


def test_strangers_are_counted() -> None:
    out = decoder().decode(together(OP_LEVEL, op(150, 0xDEAD)), windows("op"))
    assert (out.strangers, out.unmatched) == (1, 1)
    assert [row[1] for row in op_rows(out)] == [0, 1, 2]


def test_an_execution_with_lost_operators_does_not_count() -> None:
    one = decoder()
    later = OP_LEVEL[OP_LEVEL["a"] != B].copy()
    later["at_ns"] += 1000
    out = one.decode(together(OP_LEVEL, later), windows("op"))
    assert [row[5] for row in graph_rows(out)] == ["op", "token"]
    assert op_rows(out) == FIRST and out.incomplete == 1


# -- several graphs at a time, and windows ----------------------------------------------------------------------------


def test_two_graphs_at_a_time() -> None:
    """Only the thread that began a graph is sure to work on it: what others did is counted, not guessed."""
    other = together(begin(150, OTHER, SECOND), op(155, A + 8, SECOND), op(170, B + 8, SECOND), end(260, SECOND))
    out = decoder().decode(together(OP_LEVEL, other, op(180, C, tid=52)), windows("op"))
    assert [row[:5] for row in graph_rows(out)] == [(0, KEY, MAIN, 100, 200), (1, OTHER, SECOND, 150, 260)]
    assert op_rows(out) == [*FIRST, (1, 0, SECOND, 0, 155, None, 170), (1, 1, SECOND, 0, 170, None, 260)]
    assert (out.unmatched, out.strangers) == (1, 0)


CUTS = [
    ([("op", 0, None)], "op"),
    ([("op", 0, 200)], "op"),
    ([("op", 0, 199)], "token"),
    ([("op", 101, None)], "token"),
    ([("token", 0, 150), ("op", 150, None)], "token"),
    ([("op", 0, 150), ("token", 150, None)], "token"),
    ([("op", 0, 150), ("op", 150, None)], "op"),  # nothing was detached in between
    ([("op", 0, 120), ("op", 120, 170), ("op", 170, 300)], "op"),
    ([("op", 0, 150), ("op", 160, None)], "token"),
    ([("op", 0, 150), ("thread", 150, None)], "token"),
    ([("token", 0, 90), ("op", 95, 300), ("token", 300, None)], "op"),
]


@pytest.mark.parametrize(("cuts", "level"), CUTS)
def test_only_whole_executions_have_a_deep_level(cuts: list[tuple[str, int, int | None]], level: str) -> None:
    cut = [replace(Window(at, name, start), end_ns=stop) for at, (name, start, stop) in enumerate(cuts)]
    out = decoder().decode(OP_LEVEL, cut)
    assert [row[5] for row in graph_rows(out)] == [level]
    assert op_rows(out) == (FIRST if level == "op" else [])
    assert sum(window.graphs for window in cut) == 1


# -- counters per operator --------------------------------------------------------------------------------------------


def counts(start: int, figures: list[int], tid: int = MAIN, ith: int = 0) -> NDArray[np.void]:
    made = event(ring.COUNTS, start, tid, ith=ith)
    packed = np.array(figures + [0] * (8 - len(figures)), np.uint32).view(np.uint64)
    for name, value in zip("abcd", packed, strict=True):
        made[name] = value
    return made


def counter_rows(out: Decoded) -> list[Row]:
    """(graph, node, ith, level, calls, task clock, switches, page faults)."""
    columns = ("graph_id", "node_index", "ith", "level", "calls", "task_clock_ns", "context_switches", "page_faults")
    return sorted(zip(*(out.op_counter[name].tolist() for name in columns), strict=True)) if out.op_counter else []


def test_counters_add_up_by_node_thread_and_level() -> None:
    again = replace_time(THREADS, 1000)
    figures = together(
        counts(110, [15, 1, 2]), counts(130, [12, 0, 0]), counts(130, [8, 0, 5]),  # two barriers in one operator
        counts(132, [2**32 - 1], SECOND, 1), counts(1110, [20]),
        counts(131, [99]), counts(5000, [99]),  # of no operator that is known
    )  # fmt: skip
    out = decoder().decode(together(THREADS, again, figures), windows("thread"))
    assert counter_rows(out) == [
        (KEY, 0, 0, "thread", 2, 35, 1, 2),
        (KEY, 1, 0, "thread", 1, 20, 0, 5),
        (KEY, 1, 1, "thread", 1, 2**32 - 1, 0, 0),
    ]


def replace_time(events: NDArray[np.void], later: int) -> NDArray[np.void]:
    moved = events.copy()
    moved["at_ns"] += later
    moved["b"][moved["kind"] == ring.OP_WORK] += later
    return moved


def test_counters_of_operators_that_do_not_count_are_left_out() -> None:
    out = decoder().decode(together(OP_LEVEL, counts(110, [15])), windows("token"))
    assert counter_rows(out) == []
