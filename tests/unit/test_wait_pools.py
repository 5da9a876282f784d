"""Several pools in one recording: two processes, or two threads of one that drive graphs. Each has times of its own."""

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import thread_count, threads, waits
from flowprof.profiler.analyzers.absence import splits
from flowprof.profiler.report import build_report
from flowprof.profiler.store import Recording
from flowprof.profiler.timeline import timeline
from flowprof.viewers import html, json, terminal

MS = 1_000_000
GRAPHS, EVERY = 20, 20 * MS  # a graph begins every 20 ms and takes 10
HOG = 99


@dataclass(frozen=True)
class Pool:
    """A pool of one thread or two: `work`, by thread, ms of each of the two operators of a graph, which take 5."""

    pid: int
    driver: int
    worker: int
    work: tuple[float, float] = (4.0, 4.0)


A = Pool(10, 10, 11)
B = Pool(20, 20, 21)
DRAFT = Pool(10, 12, 13)


def write(path: Path, *pools: Pool, states=(), processors=2, graphs=None) -> Path:
    """All pools at the same time. graphs: how many each has run."""
    with Recording.create(str(path), overwrite=True) as recording:
        for key, value in (("started_ns", 0), ("sched", "yes"), ("recorder_pid", 77)):
            recording.set_meta(key, value)
        recording.append("probe_window", {"window_id": [1], "level": "thread", "start_ns": 0, "end_ns": GRAPHS * EVERY})
        for pid in {pool.pid for pool in pools}:
            recording.append("process", {"pid": [pid], "cpus_allowed": processors})
        exec_id = 0
        for graph_id, (pool, count) in enumerate(zip(pools, graphs or [GRAPHS] * len(pools), strict=True)):
            pid, tids = pool.pid, [pool.driver, pool.worker]
            recording.append("thread", {"pid": pid, "tid": tids, "comm": f"server{pid}", "ith": [0, 1], "cpus": "0-1"})
            recording.append("graph", {"graph_id": [graph_id], "pid": pid, "nodes": 2, "operators": 2, "tokens": 1,
                                       "outputs": 1, "phase": "decode", "described": True})  # fmt: skip
            recording.append("graph_node", {"graph_id": graph_id, "node_index": [0, 1], "leaf": False, "op": "MUL_MAT",
                                            "name": "ffn_up-0", "type": "f32", "layer": 0, "block": "ffn",
                                            "executes": True})  # fmt: skip
            for graph in range(count):
                begin = graph * EVERY
                recording.append("graph_exec", {"exec_id": [exec_id], "pid": pid, "tid": pool.driver,
                                                "graph_id": graph_id, "window_id": 1, "start_ns": begin,
                                                "end_ns": begin + 10 * MS, "level": "thread"})  # fmt: skip
                starts = [begin, begin + 5 * MS]
                for ith, (tid, work) in enumerate(zip(tids, pool.work, strict=True)):
                    recording.append("op_exec", {
                        "exec_id": exec_id, "node_index": [0, 1], "tid": tid, "ith": ith, "start_ns": starts,
                        "compute_end_ns": [start + int(work * MS) for start in starts],
                        "end_ns": [start + 5 * MS for start in starts],
                    })  # fmt: skip
                exec_id += 1
        for tid, pid, start, dur, state, by in states:
            recording.append("thread_state", {"pid": [pid], "tid": tid, "cpu": 0, "start_ns": int(start * MS),
                                              "end_ns": int((start + dur) * MS), "state": state, "by_tid": by,
                                              "by_comm": {HOG: "hog"}.get(by, "server")})  # fmt: skip
    return path


def every_graph(pool, tid, start, dur, state="runnable", by=HOG):
    return [(tid, pool.pid, start + graph * EVERY / MS, dur, state, by) for graph in range(GRAPHS)]


@pytest.mark.parametrize("pools", [(A, B), (A, DRAFT), (A, B, DRAFT)])
def test_parts_add_up_to_the_wall_time_of_every_thread(tmp_path, pools):
    path = write(tmp_path / "x.duckdb", *pools, states=every_graph(A, A.worker, 1, 2))
    with Recording.open(str(path)) as recording:
        rows = splits(recording)
    assert [(row.pid, row.driver_tid, row.ith, row.tid) for row in rows] == sorted(
        (pool.pid, pool.driver, ith, tid) for pool in pools for ith, tid in enumerate((pool.driver, pool.worker))
    )
    for row in rows:
        parts = row.work_ns + row.barrier_ns + row.runnable_ns + row.blocked_ns + row.fault_ns
        assert parts == row.wall_ns == GRAPHS * 10 * MS
        assert row.runnable_ns == (GRAPHS * 2 * MS if row.tid == A.worker else 0)


def test_a_thread_is_measured_by_the_graphs_that_it_was_in(tmp_path):
    with Recording.open(str(write(tmp_path / "x.duckdb", A, B, graphs=[20, 5]))) as recording:
        assert [row.wall_ns // MS for row in splits(recording)] == [200, 200, 50, 50]


def advised(path):
    with Recording.open(str(path)) as recording:
        outcome = thread_count.ANALYZER.run(recording)
    return [(one.pid, one.threads, one.processors, one.direction) for one in outcome.value.rows], outcome.findings


def test_two_servers_are_not_one_with_twice_the_threads(tmp_path):
    rows, findings = advised(write(tmp_path / "x.duckdb", A, B))
    assert rows == [(10, 2, 2, "unknown"), (20, 2, 2, "unknown")] and not findings


def test_a_pool_beside_that_of_a_draft_model_is_not_twice_as_large(tmp_path):
    rows, findings = advised(write(tmp_path / "x.duckdb", A, DRAFT))
    assert rows == [(10, 2, 2, "unknown")] and not findings


def test_advice_names_the_process(tmp_path):
    rows, findings = advised(write(tmp_path / "x.duckdb", A, B, processors=1))
    assert [row[3] for row in rows] == ["fewer", "fewer"]
    assert [one.claim for one in findings] == [
        f"Fewer threads may help decode in process {pid}: 1 instead of 2" for pid in (10, 20)
    ]


def imbalances(path):
    with Recording.open(str(path)) as recording:
        return [(one.claim, one.cost_ns_per_token) for one in threads.ANALYZER.run(recording).findings]


def test_imbalance_is_of_one_pool(tmp_path):
    """The other process hides none, and has none: work of threads in the same place is not mixed."""
    uneven = Pool(20, 20, 21, (1.0, 4.5))
    ((claim, cost),) = imbalances(write(tmp_path / "x.duckdb", A, uneven))
    assert claim == "The other threads wait for thread 1, which has more work: 35 % of decode in process 20"
    assert cost == 3.5 * MS
    assert imbalances(write(tmp_path / "x.duckdb", A, Pool(20, 20, 21, (2.0, 2.0)))) == []
    ((claim, _),) = imbalances(write(tmp_path / "x.duckdb", A, Pool(10, 12, 13, (1.0, 4.5))))
    assert claim.endswith("35 % of decode")


def test_waits_are_priced_by_the_process_that_pays(tmp_path):
    """8 % of one of two processes is no 4 % of both."""
    path = write(tmp_path / "x.duckdb", A, B, states=every_graph(B, B.worker, 1, 3))
    with Recording.open(str(path)) as recording:
        outcome = waits.ANALYZER.run(recording)
    (one,) = outcome.findings
    assert one.claim == "hog (99) takes the processor from the engine's threads: 30 % of decode in process 20 is lost"
    assert one.cost_ns_per_token == 3 * MS
    assert [(cause.pid, cause.ith) for cause in outcome.value.causes] == [(20, 1)]


def test_another_recorded_process_is_no_sibling(tmp_path):
    states = every_graph(B, B.worker, 1, 3, by=A.worker)
    with Recording.open(str(write(tmp_path / "x.duckdb", A, B, states=states))) as recording:
        outcome = waits.ANALYZER.run(recording)
    assert [one.id for one in outcome.findings] == ["waits.preempted"]
    (cause,) = outcome.value.causes
    assert (cause.by_tid, cause.by_ith, cause.by_own_process) == (A.pid, None, False)


def test_waits_end_with_threads_of_their_own_process(tmp_path):
    """Both workers wait for the thread that drives their graphs, at the same places of the pools."""
    pools = [Pool(10, 10, 11, (4.0, 1.0)), Pool(20, 20, 21, (4.0, 2.0))]
    with Recording.open(str(write(tmp_path / "x.duckdb", *pools))) as recording:
        table = waits.ANALYZER.run(recording).value
    assert {(root.pid, root.ith, root.by_tid, root.by_ith, root.total_ns // MS) for root in table.roots} == {
        (10, 1, 10, 0, 2 * GRAPHS * 3), (20, 1, 20, 0, 2 * GRAPHS * 2)
    }  # fmt: skip


def test_absences_of_one_pool_are_no_losses_of_the_other(tmp_path):
    """Two pools of one process run at the same time; only one has its worker kept off."""
    path = write(tmp_path / "x.duckdb", A, DRAFT, states=every_graph(A, A.worker, 1, 3))
    with Recording.open(str(path)) as recording:
        (one,) = waits.ANALYZER.run(recording).findings
        assert "15 % of decode is lost" in one.claim


def test_viewers_say_which_process(tmp_path):
    with Recording.open(str(write(tmp_path / "x.duckdb", A, B, states=every_graph(B, B.worker, 1, 3)))) as recording:
        report, drawn = build_report(recording), timeline(recording)
    rows = json.document(report)["threads"]
    assert [(row["pid"], row["driver_tid"], row["ith"]) for row in rows] == [
        (10, 10, 0), (10, 10, 1), (20, 20, 0), (20, 20, 1)
    ]  # fmt: skip
    assert all(row["compute_ns"] and row["wall_ns"] for row in rows)
    shown = io.StringIO()
    terminal.show(report, shown, 120)
    page, text = html.render(report, drawn), shown.getvalue()
    for pid in (10, 20):
        assert f"{pid}: 1" in text and f">{pid}: 1<" in page and f"Decode in process {pid}, 2 threads" in page
        assert f"decode in process {pid} with" in text
