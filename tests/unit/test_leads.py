"""Rows of threads and of waits in, the operators that they lead to in the graph view out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.blocked import BlockedTable
from flowprof.profiler.sections.processes import Starved
from flowprof.profiler.sections.requests import RequestOperator, RequestRow
from flowprof.profiler.sections.threads import ThreadRow
from flowprof.profiler.sections.verdicts import OperatorThread, Verdict, VerdictTable
from flowprof.profiler.sections.waits import WaitCause, WaitRoot, WaitTable
from flowprof.profiler.store import Recording
from flowprof.viewers.leads import MOST, Leads, of_operators
from planted import STACKS, plant, plant_stacks
from synthetic import CEILINGS, Synthetic, grow_context, write

PID, DRIVER = 7, 70
Figures = tuple[tuple[str, str, int, float], ...]


def verdict(name: str, *threads: OperatorThread, phase: str = "decode") -> Verdict:
    return Verdict(phase, "ffn", "MUL_MAT", "8x8", None, (name,), 1, 9, 9, 900, 1.0, 100.0, 100.0, "wait", "high",
                   "DRAM", 2.0, 1.0, 2.0, "dram_read", 1e9, 0.9, 90.0, 10.0, "", None, ("said",), threads, None,
                   None)  # fmt: skip


def thread(ith: int, barrier: int = 0, runnable: int = 0, blocked: int = 0, driver: int = DRIVER) -> OperatorThread:
    return OperatorThread(PID, driver, ith, 1000, 1000 - barrier - runnable - blocked, barrier, 0, runnable, blocked, 0)


def table(*rows: Verdict) -> VerdictTable:
    return VerdictTable(rows, (), (), (), None, None, True, False, (), (), ())


def names(found: str) -> list[str]:
    return [name for one in json.loads(found) for name in one["tensors"]] if found else []


def cause(state: str, ith: int, phase: str = "decode") -> WaitCause:
    return WaitCause(PID, phase, state, 99, "hog", None, False, "", ith, "", 1, 1, 1, 0)


def root(wait: str, ith: int) -> WaitRoot:
    return WaitRoot("decode", PID, wait, ith, 1, "x", 0, "work", 1, "x", 0, 1)


LEADS = Leads(
    table(
        verdict("a", thread(0, runnable=500), thread(1, barrier=490)),
        verdict("b", thread(0, barrier=300, runnable=20), thread(1, blocked=100)),
        verdict("c", thread(0, barrier=600, driver=71)),
        verdict("p", thread(0, runnable=900), phase="prefill"),
    )
)


def test_a_cause_leads_to_where_its_thread_was_in_that_state() -> None:
    assert names(LEADS(cause("runnable", 0))) == ["a"], "what is left of the time is too little"
    assert names(LEADS(cause("runnable", 0, "prefill"))) == ["p"]
    assert names(LEADS(cause("stopped", 1))) == ["b"]


def test_a_root_leads_to_barriers_or_to_sleep() -> None:
    assert names(LEADS(root("barrier", 1))) == ["a"]
    assert names(LEADS(root("sleeping", 1))) == ["b"]


def test_what_no_thread_window_saw_leads_nowhere() -> None:
    assert LEADS(cause("fault", 0)) == "" and LEADS(cause("runnable", 5)) == ""
    assert Leads(None)(cause("runnable", 0)) == ""


def test_without_thread_windows_a_cause_leads_to_what_was_held_up_so() -> None:
    held, less, other = (
        replace(verdict(name), wait_share=share, wait_state=state)
        for name, share, state in (("h", 0.9, "runnable"), ("l", 0.05, "runnable"), ("o", 0.5, "fault"))
    )
    leads = Leads(table(held, less, other, verdict("n")))
    assert names(leads(cause("runnable", 1))) == ["h"] and names(leads(cause("fault", 0))) == ["o"]
    assert leads(cause("stopped", 0)) == leads(cause("runnable", 0, "prefill")) == leads(root("barrier", 0)) == ""


def test_a_thread_leads_to_its_own_pool_only() -> None:
    row = ThreadRow(PID, DRIVER, 700, 0, "llama", "decode", 9, 1, 1, 0.5, 1.0, 1.0)
    assert names(LEADS(row)) == ["b"]
    assert names(LEADS(replace(row, driver_tid=71))) == ["c"]


def test_at_most_so_many_groups() -> None:
    many = Leads(table(*[verdict(str(at), thread(0, runnable=100 + at)) for at in range(20)]))
    assert names(many(cause("runnable", 0))) == [str(19 - at) for at in range(MOST)]


def test_a_request_leads_to_the_phase_that_took_most() -> None:
    operators = (
        RequestOperator("prefill", "MUL_MAT", "ffn", 10.0, 0.5, 1, 1),
        RequestOperator("decode", "MUL_MAT", "ffn", 30.0, 0.5, 9, 9),
        RequestOperator("decode", "ROPE", "attention", 10.0, 0.2, 9, 9),
    )
    phase, nodes = of_operators(RequestRow(1, 0, 0, 1, 1, 1, operators=operators))
    assert phase == "decode" and [one["op"] for one in json.loads(nodes)] == ["MUL_MAT", "ROPE"]
    assert of_operators(RequestRow(1, 0, 0, 1, 1, 1)) == ("", "")


@pytest.mark.parametrize("ceilings", [CEILINGS, ()])
def test_growth_leads_to_what_reads_the_cache_in_decode(tmp_path: Path, ceilings: Figures) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(ceilings=ceilings, requests=2, cycle=("op",)))
    grow_context(path, graphs=4)
    with Recording.open(path) as recording:
        report = build_report(recording)
    assert set(names(Leads(report.get(VerdictTable)).growth())) == {"kq", "kq_soft_max", "kqv"}
    assert Leads(None).growth() == ""


def test_a_process_leads_to_where_another_is_in_its_way() -> None:
    beside = replace(thread(0, runnable=900), pid=PID + 1)
    mine = verdict("m", thread(0, runnable=10), beside)
    copied = replace(verdict("n", thread(0, runnable=900)), op="CPY")
    leads = Leads(table(mine, verdict("o", beside), copied, verdict("p", thread(0, runnable=20), phase="prefill")))
    phase, nodes = leads.starved(Starved(PID, 9, "processor", 1, 0.1, 1))
    assert (phase, names(nodes)) == ("decode", ["n"])
    assert names(leads.lacking(PID + 1, 0)[1]) == ["m", "o"] and leads.lacking(PID, 5)[1] == ""
    phase, nodes = leads.starved(Starved(PID, 9, "memory", 1, 0.1, 1, phase="decode"))
    assert (phase, names(nodes)) == ("decode", ["m"]), "its own products"
    for other in (Starved(PID, 9, "GPU", 1, 0.1, 1), Starved(3, 9, "processor", 1, 0.1, 1)):
        assert leads.starved(other)[1] == Leads(None).starved(other)[1] == "", "nothing is known of it"


def test_a_wait_without_an_end_leads_to_where_its_stack_was_before(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    write(str(path), Synthetic())
    plant(path)
    plant_stacks(path)
    with duckdb.connect(str(path)) as db:
        db.execute("INSERT INTO stack BY NAME SELECT * REPLACE (99 AS stack_id) FROM stack WHERE stack_id = 7")
        db.execute("INSERT INTO stack BY NAME SELECT * REPLACE (98 AS stack_id, 'new' AS function, 5 AS address) "
                   "FROM stack WHERE stack_id = 7")  # fmt: skip
        db.execute("INSERT INTO open_wait SELECT pid, tid, 'sleeping', NULL, 99 FROM thread WHERE ith = 1")
        db.execute("INSERT INTO open_wait SELECT pid, tid, 'sleeping', NULL, 98 FROM thread WHERE ith = 0")
    with Recording.open(str(path)) as recording:
        blocked = build_report(recording).get(BlockedTable)
    assert blocked is not None
    before = next(row for row in blocked.rows if row.place == "lock")
    open_now = {row.place: row for row in blocked.open}
    assert before.operators and open_now["lock"].operators == before.operators
    assert of_operators(open_now["lock"])[1] and of_operators(open_now["new"]) == ("", "")


def test_stacks_lead_to_the_operators_in_which_their_waits_began(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    write(str(path), Synthetic(ceilings=CEILINGS))
    plant(path)
    plant_stacks(path)
    with Recording.open(str(path)) as recording:
        rows = recording.rows(
            "SELECT s.stack_id, m.phase, n.op, n.block, s.end_ns - s.start_ns FROM thread_state s, op_exec o "
            "JOIN measured_graph m USING (exec_id) JOIN graph_node n ON n.graph_id = m.graph_id "
            "AND n.node_index = o.node_index WHERE s.stack_id IS NOT NULL AND s.tid = o.tid "
            "AND s.start_ns >= o.start_ns AND s.start_ns < o.end_ns"
        )
        blocked = build_report(recording).get(BlockedTable)
    assert blocked is not None and len(blocked.rows) == len(STACKS)
    for row in blocked.rows:
        stack = next(stack for stack, _, function in STACKS if function == row.place)
        met = {one[1:4] for one in rows if one[0] == stack}
        assert met and {(one.phase, one.op, one.block) for one in row.operators} == met
        phase, nodes = of_operators(row)
        assert phase and {one["op"] for one in json.loads(nodes)} == {op for its, op, _ in met if its == phase}


@pytest.mark.parametrize("ceilings", [CEILINGS, ()])
def test_planted_waits_lead_to_the_operators_that_they_fell_into(tmp_path: Path, ceilings: Figures) -> None:
    path = tmp_path / "a.duckdb"
    write(str(path), Synthetic(ceilings=ceilings))
    plant(path)
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    waits, verdicts = report.get(WaitTable), report.get(VerdictTable)
    assert waits is not None and verdicts is not None
    leads = Leads(verdicts)
    hogs = [one for one in waits.causes if one.state == "runnable"]
    assert hogs
    for one in hogs:
        reached = set(names(leads(one)))
        met = {
            name for row in verdicts.rows for name in row.tensors
            if row.phase == one.phase and any(place.runnable_ns and place.ith == one.ith for place in row.threads)
        }  # fmt: skip
        assert reached and reached <= met
