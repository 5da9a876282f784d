"""What bounds PyTorch's operators, on recordings whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowprof.profiler.sections.torch_operators import TorchOperator
from torch_recordings import BF16, CAT, COPY, F32, MM, PID, SOFTMAX, TINY, Made


def test_an_operator_without_a_formula_says_why(tmp_path: Path) -> None:
    made = Made()
    made.row(("aten::to", [[4], []], [F32, "Scalar"]), 50_000)
    made.row(CAT, 40_000)
    evidence = {row.name: row.evidence for row in made.table(tmp_path).rows}
    assert "copy_ inside" in evidence["aten::to"][0] and "no formula" in evidence["aten::cat"][0]


VERDICTS = [
    ("1: no formula", CAT, {"ns": 50_000}, "unknown", "", None),
    ("1: no shapes", "aten::mm", {"ns": 50_000}, "unknown", "", None),
    ("1: no ceiling for its type", BF16, {"ns": 400_000}, "unknown", "", None),
    ("2: above its ceiling", MM, {"ns": 300_000}, "unknown", "gemm f32", 1.118),
    ("3: at 105 %", MM, {"ns": 320_000}, "compute", "gemm f32", 1.0486),
    ("3: arithmetic", MM, {"ns": 400_000}, "compute", "gemm f32", 0.8389),
    ("3: arithmetic, just", MM, {"ns": 838_000}, "compute", "gemm f32", 0.4004),
    ("3: memory", COPY, {"ns": 600_000}, "memory-dram", "dram_read", 0.7989),
    ("3: the cache", SOFTMAX, {"ns": 500}, "memory-cache", "llc_read", 0.6554),
    ("3 before 4", MM, {"ns": 700_000, "away": 300_000}, "compute", "gemm f32", 0.4793),
    ("4: it waits", MM, {"ns": 2_000_000, "away": 610_000}, "wait", "gemm f32", 0.1678),
    ("4: not long enough", MM, {"ns": 2_000_000, "away": 590_000}, "inefficient", "gemm f32", 0.1678),
    ("4 before 5", TINY, {"ns": 9_000, "away": 3_000, "state": "sleeping"}, "wait", "gemm f32", 0.0091),
    ("5: dispatch", TINY, {"ns": 9_000}, "overhead", "gemm f32", 0.0091),
    ("5: only below 10 µs", TINY, {"ns": 10_000}, "inefficient", "gemm f32", 0.0082),
    ("6: inefficient", MM, {"ns": 2_000_000, "calls": 20}, "inefficient", "gemm f32", 0.1678),
    ("6: too few calls", MM, {"ns": 2_000_000, "calls": 19}, "unknown", "gemm f32", 0.1678),
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[float, TorchOperator]:
    """All cases in one recording, each with arguments of its own; by a call's time, which differs by some ns."""
    made = Made()
    for number, (case, what, calls, *_) in enumerate(VERDICTS):
        if isinstance(what, str):
            made.row(what, calls["ns"] + number)
        else:
            made.row((what[0], what[1], what[2] + [case]), **calls | {"ns": calls["ns"] + number})
    rows = made.table(tmp_path_factory.mktemp("judged")).rows
    assert len(rows) == len(VERDICTS)
    return {row.p50_ns: row for row in rows}


@pytest.mark.parametrize("number", range(len(VERDICTS)), ids=[verdict[0] for verdict in VERDICTS])
def test_verdicts(judged: dict[float, TorchOperator], number: int) -> None:
    _, what, calls, bound, ceiling, share = VERDICTS[number]
    row = judged[calls["ns"] + number]
    assert (row.bound, row.ceiling) == (bound, ceiling), row.evidence
    share = None if share is None else share * calls["ns"] / row.p50_ns
    assert row.ceiling_share == (None if share is None else pytest.approx(share, abs=1e-3))
    assert row.confidence == ("low" if bound == "unknown" else "medium")
    if bound == "wait":
        assert row.evidence[0].endswith(calls.get("state", "runnable"))
    if what is MM:
        assert row.flops_per_s == pytest.approx(2 * 256**3 / row.p50_ns * 1e9)
        assert row.bytes_per_s == pytest.approx(3 * 256 * 256 * 4 / row.p50_ns * 1e9)
    if share is not None:
        assert row.headroom_ns == pytest.approx(max(0.0, row.total_ns * (1 - share)), rel=2e-3, abs=1)


def test_without_the_scheduler_nothing_is_inefficient(tmp_path: Path) -> None:
    made = Made(sched="no")
    made.row(MM, 2_000_000)
    table = made.table(tmp_path)
    assert table.rows[0].bound == "unknown" and "waits were not recorded" in table.rows[0].evidence
    assert table.threads[0].away_ns is None


@pytest.mark.parametrize(
    ("computing", "threads", "share"),
    [
        ({PID: 1000}, 1, 0.8389),
        ({PID: 1000, 7: 200}, 2, 0.4194),
        ({PID: 1000, 7: 199}, 1, 0.8389),
        ({PID: 1000, 7: 900, 8: 900}, 2, 0.4194),  # the process may use two processors
        ({}, 1, 0.8389),
        ({PID: 0}, 1, 0.8389),
    ],
)
def test_ceilings_are_for_the_threads_that_compute(
    tmp_path: Path, computing: dict[int, int], threads: int, share: float
) -> None:
    made = Made()
    made.computing = computing
    made.row(MM, 400_000)
    table = made.table(tmp_path)
    assert table.running_threads == threads
    assert table.rows[0].ceiling_share == pytest.approx(share, abs=1e-3)
    assert {(one.what, one.threads) for one in table.ceilings} == {("gemm", threads), ("llc_read", threads)}


def test_a_gpu_or_an_import_has_no_bounds(tmp_path: Path) -> None:
    made = Made()
    made.row(MM, 400_000)
    made.gpu = True
    table = made.table(tmp_path)
    assert [row.bound for row in table.rows] == ["unknown"] and "A GPU computes" in table.notes[0]
    assert table.rows[0].flops_per_s is None, "the host only launches"
    made = Made(imported_from="Kineto")
    made.row(MM, 400_000, calls=2)
    table = made.table(tmp_path)
    assert [row.bound for row in table.rows] == ["unknown"] and "An import has no ceilings" in table.notes[0]
    assert table.observed_ns == 800_100, "from the first call to the last"


def test_an_unknown_layout_is_said(tmp_path: Path) -> None:
    made = Made(tensor_layout="unknown: nobody could be asked: why")
    made.row("aten::mm", 400_000)
    assert "nobody could be asked: why" in made.table(tmp_path).notes[0]


# -- waits ------------------------------------------------------------------------------------------------------------
