"""Splits, bounds and ceilings → more threads, fewer, or neither: a row each."""

import duckdb
import pytest
from flowprof.profiler.analyzers import thread_count
from flowprof.profiler.analyzers.thread_count import Split, _finding, advise
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings
from flowprof.profiler.store import Recording
from synthetic import CEILINGS, PID, Synthetic, write


def ceilings(**figures):
    """dram_read={1: 30, 2: 45}, gemm={...} in 1e9."""
    return Ceilings("test", tuple(
        Ceiling(what, "int8" if what == "gemm" else "", threads, value * 1e9, value * 1e9, value * 1e9, "test")
        for what, by_threads in figures.items() for threads, value in by_threads.items()
    ), ())  # fmt: skip


SATURATED = {1: 30, 2: 44, 4: 45, 8: 45}
GROWING = {1: 100, 2: 200, 4: 390, 8: 700}


@pytest.mark.parametrize(
    ("threads", "processors", "limit", "runnable", "barrier", "figures", "direction", "wanted"),
    [
        (4, 2, "memory-dram", 0.4, 0.3, SATURATED, "fewer", 2),
        (2, 2, "memory-dram", 0.3, 0.1, SATURATED, "keep", None),  # somebody takes the processors: that comes first
        (1, 8, "memory-dram", 0.0, 0.0, SATURATED, "more", 4),
        (2, 8, "memory-dram", 0.0, 0.1, SATURATED, "keep", None),  # 45 is not worth it over 44
        (8, 8, "memory-dram", 0.0, 0.1, SATURATED, "keep", None),
        (2, 8, "compute", 0.0, 0.1, GROWING, "more", 8),
        (2, 4, "compute", 0.0, 0.1, GROWING, "more", 4),  # no more than there are processors
        (8, 8, "compute", 0.0, 0.1, GROWING, "keep", None),
        (3, 8, "memory-dram", 0.0, 0.1, SATURATED, "unknown", None),  # not measured with three
        (2, 8, "memory-dram", 0.0, 0.1, {}, "unknown", None),
        (2, 2, "unknown", 0.0, 0.4, SATURATED, "keep", None),
        (2, 2, "unknown", 0.0, 0.1, SATURATED, "unknown", None),
        (2, 0, "memory-dram", 0.0, 0.1, SATURATED, "keep", None),
    ],
)
def test_advice(threads, processors, limit, runnable, barrier, figures, direction, wanted):
    known = ceilings(**{"gemm" if limit == "compute" else "dram_read": figures})
    split = Split(threads, processors, 1 - runnable - barrier, barrier, runnable)
    one = advise("decode", split, limit, known, "int8")
    assert (one.direction, one.wanted) == (direction, wanted), one.reason
    assert one.reason and one.settle
    if wanted:
        assert f"--threads {wanted}" in one.settle


def test_the_gain_is_the_ceilings_ratio():
    split = Split(1, 8, 1.0, 0.0, 0.0)
    assert advise("prefill", split, "compute", ceilings(gemm=GROWING), "int8").gain == 7.0
    assert advise("prefill", split, "compute", ceilings(gemm=GROWING), "int8").settle.startswith(
        "record again with --threads-batch"
    )


def test_eight_threads_where_two_suffice():
    one = advise("decode", Split(8, 8, 0.9, 0.1, 0.0), "memory-dram", ceilings(dram_read=SATURATED))
    assert "2 threads reach the same memory bandwidth" in one.reason
    assert (one.direction, one.settle) == ("keep", "record again with --threads 2 and compare tokens/s")
    assert one.evidence == ("45 GB/s DRAM (8 threads): test", "44 GB/s DRAM (2 threads): test")


@pytest.mark.parametrize(
    ("threads", "limit", "split", "settle"),
    [
        (2, "memory-dram", {}, "record again with --threads 4 and compare tokens/s"),  # the next that was measured
        (8, "compute", {}, "record again with --threads 7 and compare tokens/s"),  # none above
        (2, "unknown", {"barrier": 0.4}, "record again with --threads 1 and compare tokens/s"),
        (2, "unknown", {"runnable": 0.4}, "record again without whoever takes the processors (see the waits)"),
        (3, "memory-dram", {}, "measure it (flowprof calibrate --threads 3) and record again"),
    ],
)
def test_what_settles_that_the_number_is_kept(threads, limit, split, settle):
    """Ceilings alone do not."""
    shares = {"work": 0.6, "barrier": 0.0, "runnable": 0.0} | split
    one = advise("decode", Split(threads, 8, **shares), limit, ceilings(dram_read=SATURATED, gemm=GROWING), "int8")
    assert (one.direction, one.settle) == ("unknown" if threads == 3 else "keep", settle)
    assert bool(one.evidence) == (limit != "unknown" and threads != 3)


def test_one_thread_on_one_processor_has_nothing_to_settle():
    one = advise("decode", Split(1, 1, 1.0, 0.0, 0.0), "memory-dram", ceilings(dram_read=SATURATED))
    assert (one.direction, one.settle, one.evidence) == ("keep", "", ("30 GB/s DRAM (1 thread): test",))


def test_a_finding_names_the_ceilings_and_their_source():
    one = advise("decode", Split(1, 8, 1.0, 0.0, 0.0), "memory-dram", ceilings(dram_read=SATURATED))
    (finding,) = _finding(one, 50e6, "")
    assert {"30 GB/s DRAM (1 thread): test", "45 GB/s DRAM (4 threads): test"} <= set(finding.evidence)


def test_as_fast_with_fewer_is_no_finding():
    one = advise("decode", Split(8, 8, 0.9, 0.1, 0.0), "memory-dram", ceilings(dram_read=SATURATED))
    assert _finding(one, 50e6, "") == []


def test_the_ceiling_is_of_the_type_that_is_computed_with():
    """Whatever other ceilings there are: an f32 model is not held against int8."""
    known = Ceilings("test", (*ceilings(gemm=GROWING).items, *(
        Ceiling("gemm", "f32", threads, 50e9, 50e9, 50e9, "test") for threads in GROWING
    )), ())  # fmt: skip
    split = Split(2, 8, 1.0, 0.0, 0.0)
    assert advise("prefill", split, "compute", known, "f32").direction == "keep"
    assert advise("prefill", split, "compute", known, "int8").direction == "more"
    assert advise("prefill", split, "compute", known).direction == "unknown"


SECOND = """
INSERT INTO process SELECT * REPLACE (pid + 1000 AS pid) FROM process;
INSERT INTO thread SELECT * REPLACE (pid + 1000 AS pid, tid + 1000 AS tid) FROM thread;
INSERT INTO graph SELECT * REPLACE (graph_id + 10 AS graph_id, pid + 1000 AS pid) FROM graph;
INSERT INTO graph_node SELECT * REPLACE (graph_id + 10 AS graph_id) FROM graph_node;
INSERT INTO graph_exec SELECT * REPLACE (exec_id + 100_000 AS exec_id, graph_id + 10 AS graph_id, pid + 1000 AS pid,
    tid + 1000 AS tid, 2 * start_ns AS start_ns, 2 * end_ns AS end_ns) FROM graph_exec;
INSERT INTO op_exec SELECT * REPLACE (exec_id + 100_000 AS exec_id, tid + 1000 AS tid, 2 * start_ns AS start_ns,
    2 * compute_end_ns AS compute_end_ns, 2 * end_ns AS end_ns) FROM op_exec;
"""


def test_of_two_processes_each_has_the_price_of_its_own_tokens(tmp_path):
    """The second one takes twice as long for the same."""
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(ceilings=(*CEILINGS, ("dram_read", "", 4, 180e9)), meta={"sched": "yes"}))
    with duckdb.connect(path) as db:
        db.execute("UPDATE process SET cpus_allowed = 4")
        db.execute(SECOND)
    with Recording.open(path) as recording:
        found = thread_count.ANALYZER.run(recording).findings
        own = recording.rows(
            "SELECT sum(dur_ns) / sum(tokens) FROM measured_graph WHERE phase = 'decode' AND pid = ?", [PID]
        )
    costs = [one.cost_ns_per_token for one in found if one.phase == "decode"]
    assert [f"process {pid}" in one.claim for one, pid in zip(found, (PID, PID + 1000), strict=False)] == [True, True]
    assert costs[0] == pytest.approx(own[0][0] / 2)  # 180 GB/s for 90
    assert costs[1] == pytest.approx(2 * costs[0])


SECOND_COMPUTES = """
DELETE FROM graph_exec WHERE graph_id IN (SELECT graph_id FROM graph WHERE pid = $pid AND phase = 'decode');
UPDATE graph SET phase = 'decode' WHERE pid = $pid AND phase = 'prefill';
"""


def test_of_two_processes_each_is_held_against_its_own_limit(tmp_path):
    """The second one's batches are all as large as a prompt's: arithmetic, beside a process that reads its weights."""
    path = str(tmp_path / "a.duckdb")
    figures = (*CEILINGS, ("dram_read", "", 4, 90e9), *(
        (what, dtype, 4, 3 * value) for what, dtype, threads, value in CEILINGS if (what, threads) == ("gemm", 2)
    ))  # fmt: skip
    write(path, Synthetic(layers=22, ceilings=figures, meta={"sched": "yes"}))
    with duckdb.connect(path) as db:
        db.execute("UPDATE process SET cpus_allowed = 4")
        db.execute(SECOND)
        for statement in SECOND_COMPUTES.split(";")[:-1]:
            db.execute(statement, {"pid": PID + 1000})
    with Recording.open(path) as recording:
        table = thread_count.ANALYZER.run(recording).value
    told = {one.pid: (one.limit, one.direction) for one in table.rows if one.phase == "decode"}
    assert told == {PID: ("memory-dram", "keep"), PID + 1000: ("compute", "more")}
