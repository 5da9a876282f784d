"""Request → slot → batch → graph → operators: whose a graph's time is, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.store import Recording
from flowprof.viewers.json import document
from flowprof.viewers.requests import operators
from request_recordings import MS, PID, Server, at

OPS = (("MUL_MAT", "ffn", 5), ("MUL_MAT", "attention", 2), ("SOFT_MAX", "attention", 2), ("ADD", "output", 1))


def recording(path: Path, measured: tuple[int, ...] = (0, 1)) -> Recording:
    """Task 3's prompt of 30 tokens beside one token of task 4; then one token of each; a graph of nobody that is known;
    one of the next request on slot 0. measured: executions whose operators are known: 5, 2, 2 and 1 tenths of them."""
    server = Server()
    server.batch(0, 20, (0, 30, 0, True), (1, 1, 8, True))
    server.batch(30, 40, (0, 1, 30, True), (1, 1, 9, True))
    server.batch(50, 60, (5, 7, 0, True))
    server.batch(100, 110, (0, 4, 0, True))
    server.request(3, 0, -2, -1, 45)
    server.request(4, 1, -20, None, 90)
    server.request(6, 0, 94, 95, 120)
    server.write(path).close()
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE graph_exec SET level = 'op', graph_id = CASE WHEN exec_id IN (0, 3) THEN 1 ELSE 2 END")
        db.executemany(
            "INSERT INTO graph (graph_id, pid, tokens, phase, described) VALUES (?, ?, ?, ?, true)",
            [(1, PID, 31, "mixed"), (2, PID, 2, "decode")],
        )
        db.executemany(
            "UPDATE graph_exec SET level = 'token' WHERE exec_id = ?", [(n,) for n in range(4) if n not in measured]
        )
        for graph in (1, 2):
            db.executemany(
                "INSERT INTO graph_node (graph_id, node_index, leaf, op, name, block, executes) "
                "VALUES (?, ?, false, ?, '', ?, true)",
                [(graph, i, op, block) for i, (op, block, _) in enumerate(OPS)],
            )
        for number, begin, length in ((0, 0.0, 20.0), (1, 30.0, 10.0)):
            for i, (_, _, tenths) in enumerate(OPS):
                row = (number, i, PID, 0, at(begin), at(begin + length * tenths / 10))
                db.execute(
                    "INSERT INTO op_exec (exec_id, node_index, tid, ith, start_ns, end_ns) VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
    return Recording.open(str(path))


def test_whose_graphs_they_are(tmp_path: Path) -> None:
    with recording(tmp_path / "a.duckdb") as found:
        rows = found.rows("SELECT pid, task, exec_id, tokens, share FROM request_graph ORDER BY exec_id, task")
    assert rows == [
        (PID, 3, 0, 30, pytest.approx(30 / 31)), (PID, 4, 0, 1, pytest.approx(1 / 31)), (PID, 3, 1, 1, 0.5),
        (PID, 4, 1, 1, 0.5), (PID, None, 2, 7, 1), (PID, 6, 3, 4, 1),
    ]  # fmt: skip


def test_a_graph_that_was_not_recorded_is_not_the_next_ones(tmp_path: Path) -> None:
    recording(tmp_path / "a.duckdb").close()
    with duckdb.connect(str(tmp_path / "a.duckdb")) as db:
        db.execute("DELETE FROM graph_exec WHERE exec_id = 0")
    with Recording.open(str(tmp_path / "a.duckdb")) as found:
        assert found.rows("SELECT DISTINCT exec_id FROM request_graph ORDER BY 1") == [(1,), (2,), (3,)]
        assert found.rows("SELECT tokens FROM request_graph WHERE exec_id = 1") == [(1,), (1,)]


def test_the_operators_of_a_request(tmp_path: Path) -> None:
    with recording(tmp_path / "a.duckdb") as found:
        report = build_report(found)
    table = report.get(RequestTable)
    assert table is not None
    by_task = {row.task_id: row for row in table.rows}
    mine = by_task[3].operators
    assert [(one.phase, one.op, one.block) for one in mine] == [
        (phase, op, block) for phase in ("mixed", "decode")
        for op, block in (("MUL_MAT", "ffn"), ("MUL_MAT", "attention"), ("SOFT_MAX", "attention"))
    ]  # fmt: skip
    assert [one.ns / MS for one in mine] == pytest.approx([20 * 30 / 31 * x for x in (0.5, 0.2, 0.2)] + [2.5, 1, 1])
    assert [one.share for one in mine] == pytest.approx([0.5, 0.2, 0.2] * 2)
    assert {(one.graphs, one.of_graphs) for one in mine} == {(1, 1)}
    assert by_task[4].operators[0].ns / MS == pytest.approx(20 / 31 / 2) and by_task[6].operators == ()
    listed = {row["id"]: row["operators"] for row in document(report)["requests"]}
    assert listed[3][0]["op"] == "MUL_MAT" and not listed[6]
    assert operators(by_task[3]).startswith("mixed (1 of 1): MUL_MAT ffn 50")
    assert operators(by_task[6]) == "–"


def test_how_many_graphs_that_is_known_of(tmp_path: Path) -> None:
    with recording(tmp_path / "a.duckdb", measured=(1,)) as found:
        table = build_report(found).get(RequestTable)
    assert table is not None
    assert [(one.phase, one.graphs, one.of_graphs) for one in table.rows[0].operators] == [("decode", 1, 1)] * 3
