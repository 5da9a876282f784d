"""What bounds an operator: the decision as a table, abstention, and whole recordings with a known answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from flowprof.profiler.analyzers import verdict_waits, verdicts
from flowprof.profiler.analyzers.verdict_findings import findings
from flowprof.profiler.analyzers.verdict_waits import cause
from flowprof.profiler.machine import ceilings_file
from flowprof.profiler.machine.ceilings import DISTURBED, Ceiling, Ceilings
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.roofline.costs import Cost
from flowprof.profiler.roofline.judgement import (
    AT,
    BARRIER,
    COMPUTE,
    ENOUGH_CALLS,
    FEW_CALLS,
    FIXED,
    MEMORY,
    WAIT,
    Known,
    Seen,
    fixed_cost,
    judge,
)
from flowprof.profiler.roofline.least_time import FITS, SPILLS, Roof, added, last_level, served, terms
from flowprof.profiler.sections.verdicts import Verdict, VerdictTable
from flowprof.profiler.stalls import lost, overlaps
from flowprof.profiler.store import Recording
from flowprof.viewers import json as json_viewer
from synthetic import CEILINGS, EMBEDDING, FEED_FORWARD, KV_WIDTH, PID, VOCABULARY, Synthetic, write

LLC = 32 << 20
MODEL = 1_100_000_000  # working set far larger than the cache


def ceilings(*left_out: str, note: str = "") -> Ceilings:
    figures = (("dram_read", "", 50e9), ("llc_read", "", 200e9), ("l2_read", "", 400e9), ("gemm", "f32", 100e9),
               ("gemm", "int8", 400e9))  # fmt: skip
    return Ceilings("test", tuple(
        Ceiling(what, dtype, 2, value, value, value, f"test{note}")
        for what, dtype, value in figures if f"{what} {dtype}".strip() not in left_out
    ))  # fmt: skip


def roof(working_set: int = MODEL, llc: int | None = LLC, have: Ceilings | None = None) -> Roof:
    return Roof(have or ceilings(), 2, llc, working_set)


# A GEMV of 10 MB of weights: 200 µs from DRAM, 50 µs from the cache, 50 µs of arithmetic.
GEMV = Cost(flops=20e6, path="int8", weight_bytes=10_000_000, read_bytes=0, write_bytes=0, formula="gemm")
# The same weights for 512 rows: 25.6 ms of arithmetic.
GEMM = Cost(flops=20e6 * 512, path="int8", weight_bytes=10_000_000, read_bytes=0, write_bytes=0, formula="gemm")
# 120 ns in the cache.
TINY = Cost(flops=2048.0, path="", weight_bytes=0, read_bytes=16_000, write_bytes=8_000, formula="elementwise")
CALLS = 100


def verdict(
    cost: Cost | None, us: float, where: Roof | None = None, known: Known | None = None, calls: int = CALLS, **seen: Any
) -> tuple[str, str]:
    """Bound and confidence of `calls` calls of `us` microseconds; waits are shares of the time."""
    where = where or roof()
    total = us * 1e3 * calls
    for name in ("off_ns", "barrier_ns"):
        if seen.get(name) is not None:
            seen[name] *= total
    work = None if cost is None else added([(float(calls), terms(cost, where))])
    found = judge(work, Seen(calls, total, **seen), where, "" if cost is None else cost.path, known or Known(3_000.0))
    assert found.evidence
    return found.bound, found.confidence


@pytest.mark.parametrize(
    ("name", "cost", "us", "more", "expected"),
    [
        ("at the DRAM ceiling", GEMV, 210, {}, ("memory-dram", "high")),
        ("near it", GEMV, 200 / 0.71, {}, ("memory-dram", "high")),
        ("not near, but bound", GEMV, 200 / 0.6, {}, ("memory-dram", "medium")),
        ("just bound", GEMV, 200 / (MEMORY + 0.01), {}, ("memory-dram", "medium")),
        ("just not", GEMV, 200 / (MEMORY - 0.01), {}, ("inefficient", "high")),
        ("compute", GEMM, 25_600 / 0.8, {}, ("compute", "high")),
        ("just compute", GEMM, 25_600 / (COMPUTE + 0.01), {}, ("compute", "medium")),
        ("far below the peak", GEMM, 25_600 / (COMPUTE - 0.01), {}, ("inefficient", "high")),
        ("tiny", TINY, 4, {}, ("overhead", "high")),
        ("tiny, some work", TINY, 3 / (FIXED + 0.01), {}, ("overhead", "medium")),
        ("small and slow", TINY, 3 / (FIXED - 0.01), {}, ("inefficient", "high")),
        ("off the processor", GEMV, 500, {"off_ns": WAIT + 0.01, "off_cause": "x"}, ("wait", "high")),
        ("hardly off", GEMV, 600, {"off_ns": WAIT - 0.01}, ("inefficient", "high")),
        ("at the ceiling all the same", GEMV, 200 / (AT + 0.01), {"off_ns": 0.4}, ("memory-dram", "high")),
        ("a tiny one that a hog hit", TINY, 40, {"off_ns": 0.9, "off_cause": "x"}, ("wait", "high")),
        ("threads uneven", GEMV, 400, {"barrier_ns": BARRIER + 0.01}, ("wait", "high")),
        ("threads a little uneven", GEMV, 400, {"barrier_ns": BARRIER - 0.01}, ("memory-dram", "medium")),
        ("a tiny one has a barrier", TINY, 4, {"barrier_ns": 0.5}, ("overhead", "high")),
        ("no scheduler", GEMV, 900, {"scheduler": False}, ("inefficient", "low")),
        ("no barriers", GEMV, 900, {"barrier_ns": None}, ("inefficient", "low")),
        ("neither", GEMV, 900, {"scheduler": False, "barrier_ns": None}, ("unknown", "low")),
        ("bound needs no waits", GEMV, 210, {"scheduler": False, "barrier_ns": None}, ("memory-dram", "high")),
        ("above the ceiling", GEMV, 190, {}, ("memory-dram", "low")),
        ("arithmetic above the peak", GEMM, 20_000, {}, ("compute", "low")),
        ("no shapes", None, 200, {}, ("unknown", "low")),
        ("no shapes, but waits", None, 200, {"off_ns": 0.5, "off_cause": "x"}, ("wait", "low")),
        ("few calls", GEMV, 210, {"calls": ENOUGH_CALLS - 1}, ("memory-dram", "medium")),
        ("very few", GEMV, 210, {"calls": FEW_CALLS - 1}, ("memory-dram", "low")),
        ("very few blame no kernel", GEMV, 900, {"calls": FEW_CALLS - 1}, ("unknown", "low")),
        ("nothing measured", GEMV, 0, {}, ("unknown", "low")),
        ("losses", GEMV, 210, {"known": Known(3_000.0, lost=0.005)}, ("memory-dram", "medium")),
        ("too many losses", GEMV, 210, {"known": Known(3_000.0, 0.02, withheld=True)}, ("unknown", "low")),
        ("estimated work", GEMV, 210, {"known": Known(3_000.0, hedges=("guess",))}, ("memory-dram", "medium")),
        ("disturbed", GEMV, 210, {"where": roof(have=ceilings(note=f"{DISTURBED}x"))}, ("memory-dram", "medium")),
        ("no fixed cost known", TINY, 4, {"known": Known(None)}, ("inefficient", "high")),
    ],
)  # fmt: skip
def test_verdicts(name: str, cost: Cost | None, us: float, more: dict[str, Any], expected: tuple[str, str]) -> None:
    assert verdict(cost, us, **more) == expected


@pytest.mark.parametrize(
    ("name", "left_out", "cost", "us", "expected"),
    [
        ("no int8 peak, memory shows", ("gemm int8",), GEMV, 210, ("memory-dram", "medium")),
        ("no int8 peak, nothing shows", ("gemm int8",), GEMM, 30_000, ("unknown", "low")),
        ("no DRAM, arithmetic shows", ("dram_read",), GEMM, 30_000, ("compute", "medium")),
        ("no DRAM, nothing shows", ("dram_read",), GEMV, 900, ("unknown", "low")),
        ("neither", ("dram_read", "gemm int8"), GEMV, 210, ("unknown", "low")),
    ],
)
def test_a_missing_ceiling_is_not_invented(
    name: str, left_out: tuple[str, ...], cost: Cost, us: float, expected: tuple[str, str]
) -> None:
    assert verdict(cost, us, roof(have=ceilings(*left_out))) == expected


@pytest.mark.parametrize(
    ("working_set", "llc", "place"),
    [(int(FITS * LLC), LLC, "cache"), (int(FITS * LLC) + 1, LLC, "cache or DRAM"), (int(SPILLS * LLC), LLC, "DRAM"),
     (int(SPILLS * LLC) - 1, LLC, "cache or DRAM"), (1, None, "cache or DRAM"), (0, LLC, "cache")],
)  # fmt: skip
def test_what_serves_the_weights(working_set: int, llc: int | None, place: str) -> None:
    assert served(working_set, llc) == place


@pytest.mark.parametrize(
    ("name", "where", "us", "expected"),
    [
        ("fits the cache, fast", roof(20_000_000), 60, ("memory-cache", "high")),
        ("fits the cache, as slow as DRAM: not DRAM-bound", roof(20_000_000), 210, ("inefficient", "high")),
        ("about as large: faster than DRAM proves the cache", roof(40_000_000), 60, ("memory-cache", "high")),
        ("about as large: open", roof(40_000_000), 210, ("memory-dram", "low")),
        ("size of the cache unknown", roof(MODEL, None), 210, ("memory-dram", "low")),
        ("served by L2", roof(20_000_000), 40, ("compute", "low")),
    ],
)
def test_the_cache(name: str, where: Roof, us: float, expected: tuple[str, str]) -> None:
    assert verdict(replace(GEMV, flops=19e6), us, where) == expected


def test_faster_than_the_last_level_cache_is_l2() -> None:
    copy = Cost(flops=0.0, path="", weight_bytes=0, read_bytes=500_000, write_bytes=500_000, formula="copy")
    where = roof()
    found = judge(added([(100.0, terms(copy, where))]), Seen(100, 100 * 3_000.0), where, "", Known(None))
    assert (found.bound, found.share) == ("memory-cache", pytest.approx(5 / 6))
    assert found.ceiling and found.ceiling.what == "l2_read"


def test_a_share_above_one_is_not_clamped() -> None:
    where = roof()
    found = judge(added([(100.0, terms(GEMM, where))]), Seen(100, 100 * 20e6), where, "int8", Known(3_000.0))
    assert found.share == pytest.approx(1.28)
    assert any("128 %" in words and "ceiling" in words for words in found.evidence)


def test_the_peak_fits_the_instruction_path() -> None:
    where = roof()
    assert [where.peak(path) and where.peak(path).dtype for path in ("int8", "f32", "f16", "bf16", "")] == [
        "int8", "f32", "f32", "f32", "f32"]  # fmt: skip
    assert roof(have=ceilings("gemm int8")).peak("int8") is None


def test_fixed_cost_is_the_recordings_own() -> None:
    tiny = [(3_000.0, 100.0, 1000), (3_200.0, 200.0, 1000), (5_000.0, 400.0, 1000), (470_000.0, 310_000.0, 5000)]
    assert fixed_cost(tiny) == 3_000.0
    assert fixed_cost([(3_000.0, 100.0, 49)]) is None, "too few calls"
    assert fixed_cost([(470_000.0, 310_000.0, 5000)]) is None, "no tiny operator"


# ---------------------------------------------------------------------- stretches off the processor


def test_stretches_lie_over_operators() -> None:
    starts, ends = np.array([0, 100, 200, 400]), np.array([100, 200, 300, 500])
    begin, end = np.array([50, 90, 320, 380, 250]), np.array([60, 210, 380, 1000, 250])
    operator, stretch, ns = overlaps(starts, ends, begin, end)
    assert list(zip(operator.tolist(), stretch.tolist(), ns.tolist(), strict=True)) == [
        (0, 0, 10), (0, 1, 10), (1, 1, 100), (2, 1, 10), (3, 3, 100)]  # fmt: skip
    loser, lost_ns = lost(operator, np.array([1, 1, 1, 1, 2]), ns)
    assert (loser.tolist(), lost_ns.tolist()) == ([0, 1, 2, 3], [20, 100, 10, 100])
    loser, lost_ns = lost(np.array([7, 7, 7]), np.array([1, 2, 1]), np.array([5, 8, 6]))
    assert (loser.tolist(), lost_ns.tolist()) == ([7], [11]), "the most of any thread, each thread's added"


@pytest.mark.parametrize(
    ("causes", "words"),
    [({}, ""), ({"no processor: a ran instead": 5, "stopped": 1}, "no processor: a ran instead"),
     ({"no processor: its own threads ran instead": 9, "no processor: hog ran instead": 1},
      "no processor: hog and its own threads ran instead"),
     ({"no processor: its own threads ran instead": 90, "no processor: hog ran instead": 1},
      "no processor: its own threads ran instead")],
)  # fmt: skip
def test_a_cause_in_words(causes: dict[str, float], words: str) -> None:
    assert cause(causes) == words


# ---------------------------------------------------------------------- whole recordings

Change = Callable[[duckdb.DuckDBPyConnection], object]


def made(path: Path, spec: Synthetic, change: Change | None = None, extra: Ceilings | None = None) -> Report:
    file = str(path / "a.duckdb")
    write(file, spec)
    if change is not None:
        with duckdb.connect(file) as db:
            change(db)
    with Recording.open(file) as recording:
        return build_report(recording, extra)


def table(report: Report) -> VerdictTable:
    found = report.get(VerdictTable)
    assert found is not None, report.section("verdicts")
    return found


def row(report: Report, phase: str, op: str, shape: str) -> Verdict:
    return next(one for one in table(report).rows if (one.phase, one.op) == (phase, op) and one.shape.startswith(shape))


GATE = "2048x5632 q8_0"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return made(tmp_path_factory.mktemp("verdicts"), Synthetic(layers=22, ceilings=CEILINGS))


@pytest.mark.parametrize(
    ("phase", "op", "shape", "bound"),
    [("decode", "MUL_MAT", GATE, "memory-dram"), ("decode", "MUL_MAT", "5632x2048", "memory-dram"),
     ("prefill", "MUL_MAT", GATE, "compute"), ("decode", "RMS_NORM", "2048", "overhead"),
     ("decode", "ADD", "2048", "overhead"), ("decode", "SET_ROWS", "256 f16", "overhead"),
     ("prefill", "RMS_NORM", "2048x100", "inefficient")],
)  # fmt: skip
def test_known_operators(known: Report, phase: str, op: str, shape: str, bound: str) -> None:
    assert row(known, phase, op, shape).bound == bound


def test_figures_of_a_group(known: Report) -> None:
    gate = row(known, "decode", "MUL_MAT", GATE)
    size = EMBEDDING * FEED_FORWARD * 34 / 32 + 4 * (EMBEDDING + FEED_FORWARD)
    assert (gate.layers, gate.tensors, gate.served, gate.ceiling) == (22, ("ffn_gate", "ffn_up"), "DRAM", "dram_read")
    assert gate.ns_per_call == 160_000
    assert gate.gbps == pytest.approx(size / 160_000)
    assert gate.gflops == pytest.approx(2 * EMBEDDING * FEED_FORWARD / 160_000)
    assert gate.intensity == pytest.approx(2 * EMBEDDING * FEED_FORWARD / size)
    far, near = EMBEDDING * FEED_FORWARD * 34 / 32, 4 * (EMBEDDING + FEED_FORWARD)
    assert gate.floor_ns == pytest.approx(far / 90 + near / 200), "activations come from the cache"
    assert gate.ceiling_share == pytest.approx(gate.floor_ns / 160_000)
    assert gate.headroom_ns_per_token == pytest.approx(44 * (160_000 - gate.floor_ns))


def test_the_phases_bound(known: Report) -> None:
    decode, prefill = (next(one for one in table(known).phases if one.phase == name) for name in ("decode", "prefill"))
    per_layer = 2 * EMBEDDING * EMBEDDING + 2 * EMBEDDING * KV_WIDTH + 3 * EMBEDDING * FEED_FORWARD
    weights = (22 * per_layer + EMBEDDING * VOCABULARY + EMBEDDING) * 34 / 32  # and one row of the embedding
    assert decode.weight_bytes == pytest.approx(weights)
    assert decode.limit == "memory-dram" and prefill.limit == "compute"
    assert decode.memory_tokens_per_s == pytest.approx(90e9 / (decode.weight_bytes + decode.kv_bytes))
    assert decode.bound_tokens_per_s < decode.memory_tokens_per_s < 1.05 * decode.bound_tokens_per_s
    assert decode.fraction == pytest.approx(decode.tokens_per_s / decode.bound_tokens_per_s)
    assert 0.7 < decode.fraction < 0.85
    assert decode.confidence == "high" and prefill.confidence == "medium", "two prefill graphs are few"
    assert sum(share for _, share in decode.by_bound) == pytest.approx(1)
    finding = next(one for one in known.findings if one.id == "verdicts.bound" and one.phase == "decode")
    assert "Decode is bound by memory bandwidth: it reaches 75 %" in finding.claim
    assert finding.cost_ns_per_token == pytest.approx(decode.headroom_ns_per_token)


TODAY = "amx_int8 avx2 avx512_vnni avx512bw fma"


def built(path: Path, build: str, processor: str = TODAY, peak: float = 4500e9) -> Report:
    """build: as table `module` has it. The int8 peak of CEILINGS is what the products of prefill reach."""
    ceilings = tuple((what, dtype, n, peak if dtype == "int8" else value) for what, dtype, n, value in CEILINGS)
    spec = Synthetic(layers=22, ceilings=ceilings, meta={"cpu_instructions": processor})
    return made(path, spec, lambda db: db.execute(f"UPDATE module SET instructions = {build}"))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ("'avx2 fma'", "leaves amx_int8, avx512_vnni, avx512bw of this processor unused"),
        ("'avx2 avx512_vnni avx512bw fma'", "leaves amx_int8 of this"),
        ("''", "leaves amx_int8, avx512_vnni, avx512bw, avx2 of this"),
    ],
)
def test_an_engine_built_for_an_older_processor(tmp_path: Path, build: str, words: str) -> None:
    report = built(tmp_path, build)
    found = next(one for one in report.findings if one.id == "verdicts.instructions")
    assert found.phase == "prefill" and words in found.claim
    assert ("any processor" if build == "''" else build.strip("'")) in found.evidence[0]
    rows = [row for row in table(report).rows if row.phase == "prefill" and row.ceiling == "gemm int8"]
    slow = [row for row in rows if row.bound == "inefficient"]
    assert slow and found.cost_ns_per_token == pytest.approx(sum(row.headroom_ns_per_token or 0 for row in slow))
    assert f"{sum(row.share for row in slow) * 100:.0f} % of prefill" in found.claim
    said = json.loads(json_viewer.render(report))["verdicts"]
    assert said["built_for"] == build.strip("'").split()
    assert said["left_unused"] == list(table(report).left_unused) != []
    others = [one for one in report.findings if one.id == "verdicts.inefficient" and one.phase == "prefill"]
    assert not any(row.shape in line for one in others for line in one.evidence for row in slow), "said once"


def test_other_slow_kernels_may_have_the_same_cause(known: Report) -> None:
    rows = tuple(replace(one, bound="inefficient") if one.ceiling == "dram_read" else one for one in table(known).rows)
    for unused, said in ((("avx512_vnni", "avx_vnni"), True), ((), False)):
        found = findings(replace(table(known), rows=rows, left_unused=unused))
        slow = next(one for one in found if one.id == "verdicts.inefficient" and one.phase == "decode")
        assert ("the engine's build leaves avx512_vnni, avx_vnni unused" in slow.evidence) == said


@pytest.mark.parametrize(
    ("build", "processor", "peak"),
    [
        ("'amx_int8 avx2'", TODAY, 4500e9),  # it uses the best there is
        ("'avx2 fma'", "avx2 fma", 4500e9),  # there is nothing better
        ("NULL", TODAY, 4500e9),  # it does not say
        ("'avx2 fma'", "", 4500e9),  # an older recording
        ("'avx2 fma'", TODAY, 450e9),  # the products reach the peak all the same
    ],
)
def test_no_word_of_instructions(tmp_path: Path, build: str, processor: str, peak: float) -> None:
    report = built(tmp_path, build, processor, peak)
    assert "verdicts.instructions" not in {one.id for one in report.findings}
    assert ("verdicts.inefficient" in {one.id for one in report.findings if one.phase == "prefill"}) == (peak > 1e12)


def test_without_ceilings_rates_are_told_and_no_verdict(tmp_path: Path, known: Report) -> None:
    report = made(tmp_path, Synthetic(layers=22))
    found, judged = table(report), table(known)
    assert found.notes[0] == "no ceilings; flowprof calibrate, then record again, or report --ceilings FILE"
    assert (found.phases, found.ceilings, found.fixed_ns) == ((), (), None)
    assert not [one for one in report.findings if one.id.startswith("verdicts.")]
    assert {(one.bound, one.confidence) for one in found.rows} == {("unknown", "low")}
    assert {(one.floor_ns, one.headroom_ns_per_token, one.ceiling_share) for one in found.rows} == {(None, None, None)}
    rates = [(one.op, one.shape, one.gflops, one.gbps, one.intensity, one.threads) for one in found.rows]
    assert rates == [(one.op, one.shape, one.gflops, one.gbps, one.intensity, one.threads) for one in judged.rows]
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        assert verdicts.node_bounds(recording) == {}


def test_without_ceilings_waits_are_verdicts_all_the_same(tmp_path: Path) -> None:
    """Of medium confidence: that the operators were not at a ceiling meanwhile is not known."""
    report = made(tmp_path, Synthetic(layers=22), _hog)
    gate = row(report, "decode", "MUL_MAT", GATE)
    assert (gate.bound, gate.confidence, gate.wait) == ("wait", "medium", "no processor: hog ran instead")
    assert gate.threads and any(one.runnable_ns for one in gate.threads)
    assert "verdicts.wait" in {one.id for one in report.findings}


def test_skipped_without_operators(tmp_path: Path) -> None:
    assert made(tmp_path, Synthetic(cycle=("token",), ceilings=CEILINGS)).section("verdicts").status == "skipped"


def test_other_ceilings_take_the_recordings_place(tmp_path: Path) -> None:
    slow = Ceilings("other", (Ceiling("dram_read", "", 2, 45e9, 45e9, 45e9, "file"),))
    report = made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS), extra=slow)
    gate = row(report, "decode", "MUL_MAT", GATE)
    assert (gate.bound, gate.confidence) == ("memory-dram", "low"), "170 % of that ceiling"
    assert gate.ceiling_share and gate.ceiling_share > 1.6
    assert [one.value for one in table(report).ceilings] == [45e9]
    with duckdb.connect(str(tmp_path / "a.duckdb"), read_only=True) as db:
        assert db.execute("SELECT count(*) FROM ceiling").fetchone() == (len(CEILINGS),), "the file is not touched"


def test_losses_above_the_limit_withhold_everything(tmp_path: Path) -> None:
    report = made(tmp_path, Synthetic(ceilings=CEILINGS, losses=50_000))
    assert table(report).withheld and table(report).phases == ()
    assert {one.bound for one in table(report).rows} == {"unknown"}
    assert {finding.id for finding in report.findings} == {"losses.withheld"}


@pytest.mark.parametrize(
    "change",
    ["UPDATE graph_node SET ne = NULL WHERE leaf", "UPDATE graph_node SET ne = [1, 2]",
     "UPDATE graph_node SET sources = [99999]", "UPDATE graph_node SET data_bytes = NULL",
     "DELETE FROM graph_node WHERE node_index = 3",
     "UPDATE graph_node SET sources = NULL WHERE node_index % 2 = 0"],
)  # fmt: skip
def test_lost_shapes_are_unknown(tmp_path: Path, change: str) -> None:
    report = made(tmp_path, Synthetic(ceilings=CEILINGS), lambda db: db.execute(change))
    assert {one.bound for one in table(report).rows} == {"unknown"}
    assert table(report).phases == ()
    assert not [finding for finding in report.findings if finding.id.startswith("verdicts.")]


@pytest.mark.parametrize("column", ["ne", "sources"])
def test_a_recording_without_shapes(tmp_path: Path, column: str) -> None:
    lost = f"UPDATE graph_node SET {column} = NULL"
    report = made(tmp_path, Synthetic(ceilings=CEILINGS), lambda db: db.execute(lost))
    outcome = report.section("verdicts")
    assert outcome.status == "skipped" and outcome.reason.startswith("no shapes; ") and "record again" in outcome.reason


def faster(one: Ceiling) -> Ceiling:
    return replace(one, value=one.value * 50, low=one.low * 50, high=one.high * 50, source="measured here")


def test_a_recording_from_another_machine_keeps_its_ceilings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = table(made(tmp_path, Synthetic(ceilings=CEILINGS)))
    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path / "cache"))
    here = Ceilings("here", tuple(faster(one) for one in own.ceilings))
    (tmp_path / "cache").mkdir()
    ceilings_file.save(here, tmp_path / "cache" / ceilings_file.cache_name())
    assert ceilings_file.cached() == here
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        again = table(build_report(recording))
    assert again == own and not any("measured here" in one.source for one in again.ceilings)


def test_a_model_that_fits_the_cache_is_not_bound_by_dram(tmp_path: Path) -> None:
    report = made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS, meta={"llc_bytes": str(4 << 30)}))
    assert not [one for one in table(report).rows if one.bound == "memory-dram"]
    assert {one.limit for one in table(report).phases} == {"compute", "memory-cache"}


@pytest.mark.parametrize(
    ("facts", "threads", "expected"),
    [
        ({"llc_bytes": "32", "llc_count": "8"}, 4, 128), ({"llc_bytes": "32", "llc_count": "8"}, 64, 256),
        ({"llc_bytes": "32", "llc_count": "1"}, 4, 32), ({"llc_bytes": "32"}, 4, 32), ({"llc_count": "8"}, 4, None),
        ({"llc_bytes": "32", "llc_count": "8"}, 0, 32),
    ],
)  # fmt: skip
def test_threads_on_several_caches_have_all_of_them(facts: dict[str, str], threads: int, expected: int | None) -> None:
    assert last_level(facts).of(threads) == expected


def test_a_model_in_several_caches_is_not_read_from_memory(tmp_path: Path) -> None:
    """Two threads, each on a cache as large as the model."""
    whole = table(made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS)))
    size = {"llc_bytes": str(round(next(one.weight_bytes for one in whole.phases if one.phase == "decode")))}
    one = made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS, meta={**size, "llc_count": "1"}))
    two = made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS, meta={**size, "llc_count": "2"}))
    served = [row(report, "decode", "MUL_MAT", GATE).served for report in (one, two)]
    assert served == ["cache or DRAM", "cache"]


def test_an_unknown_cache_is_said(tmp_path: Path) -> None:
    report = made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS, meta={"llc_bytes": ""}))
    gate = row(report, "decode", "MUL_MAT", GATE)
    assert (gate.bound, gate.confidence, gate.served) == ("memory-dram", "low", "cache or DRAM")
    assert any("last-level cache was not recorded" in note for note in table(report).notes)


@pytest.mark.parametrize(
    ("clocks", "threads"),
    [([], 1), ([900, 850, 20], 2), ([900, 400, 20], 1), ([0, 0, 0], 1)],
    ids=["no counters", "two that spin", "one that sleeps", "none ran"],
)
def test_the_pool_without_thread_windows(tmp_path: Path, clocks: list[int], threads: int) -> None:
    """The ceilings are those of the threads that ran, not of the one that was seen."""

    def op_level(db: duckdb.DuckDBPyConnection) -> None:
        (driver,) = db.execute("SELECT tid FROM thread WHERE ith = 0").fetchone() or (0,)
        for sql in ("DELETE FROM op_exec WHERE ith > 0", "UPDATE op_exec SET compute_end_ns = NULL",
                    "UPDATE graph_exec SET level = 'op' WHERE level = 'thread'", "DELETE FROM counter",
                    "UPDATE thread SET ith = NULL WHERE ith > 0"):  # fmt: skip
            db.execute(sql)
        for number, clock in enumerate(clocks):
            db.execute("INSERT INTO counter VALUES (?, ?, 'task_clock_ns', ?)", [PID, driver + number, clock])

    report = made(tmp_path, Synthetic(layers=4, ceilings=CEILINGS), op_level)
    assert {item.threads for item in table(report).ceilings if item.what == "dram_read"} == {threads}


def _hog(db: duckdb.DuckDBPyConnection) -> None:
    """A hog takes the second thread's processor for 40 % of every large product of the threads' windows."""
    db.execute("INSERT INTO meta VALUES ('sched', 'yes')")
    db.execute(f"""
        INSERT INTO thread_state (pid, tid, start_ns, end_ns, state, by_tid, by_comm)
        SELECT {PID}, {PID + 1}, o.start_ns, o.start_ns + (o.end_ns - o.start_ns) * 4 // 10, 'runnable', 777, 'hog'
        FROM op_exec o WHERE o.ith = 0 AND o.end_ns - o.start_ns > 50000""")


def test_a_hog_makes_operators_wait(tmp_path: Path) -> None:
    slow = tuple((what, dtype, threads, 2 * value) for what, dtype, threads, value in CEILINGS)  # or they are at it
    report = made(tmp_path, Synthetic(layers=22, ceilings=slow), _hog)
    gate = row(report, "decode", "MUL_MAT", GATE)
    assert (gate.bound, gate.wait) == ("wait", "no processor: hog ran instead")
    assert gate.wait_share == pytest.approx(0.4, abs=0.001)
    finding = next(one for one in report.findings if one.id == "verdicts.wait" and one.phase == "decode")
    assert "hog" in finding.claim and finding.severity == "notice"
    assert row(report, "decode", "ADD", "2048").bound == "overhead"


def test_no_more_than_all_of_the_time_is_waiting() -> None:
    """Barriers are estimated from thread windows, the time from others: few of either may disagree."""
    where = roof()
    seen = Seen(100, 100 * 4e5, barrier_ns=118 * 4e5)
    found = judge(added([(100.0, terms(GEMV, where))]), seen, where, "int8", Known(3_000.0))
    assert (found.bound, found.wait_share) == ("wait", 1.0)


def test_a_thread_that_sleeps_at_a_barrier_waits_for_no_one_else(tmp_path: Path) -> None:
    change = f"""
        INSERT INTO thread_state (pid, tid, start_ns, end_ns, state, by_tid, by_comm)
        SELECT {PID}, {PID + 1}, start_ns, end_ns, 'sleeping', {PID}, 'x' FROM op_exec WHERE ith = 0"""

    def asleep(db: duckdb.DuckDBPyConnection) -> None:
        db.execute("INSERT INTO meta VALUES ('sched', 'yes')")
        db.execute(change)

    report = made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS), asleep)
    assert table(report).scheduler
    assert row(report, "decode", "MUL_MAT", GATE).bound == "memory-dram"
    assert row(report, "prefill", "RMS_NORM", "2048x100").confidence == "high", "waits are known"


def test_a_slow_thread_is_imbalance(tmp_path: Path) -> None:
    slow = tuple((what, dtype, threads, 2 * value) for what, dtype, threads, value in CEILINGS)
    report = made(tmp_path, Synthetic(layers=22, ceilings=slow, imbalance=0.6, cycle=("thread",)))
    gate = row(report, "decode", "MUL_MAT", GATE)
    assert (gate.bound, gate.wait_share) == ("wait", pytest.approx(0.3, abs=0.01))
    assert gate.wait.startswith("barrier")


def test_bounds_of_nodes(tmp_path: Path) -> None:
    file = str(tmp_path / "a.duckdb")
    write(file, Synthetic(ceilings=CEILINGS))
    with Recording.open(file) as recording:
        bounds = verdicts.node_bounds(recording)
        ran = recording.rows("SELECT DISTINCT graph_id, node_index FROM measured_operator")
    assert set(bounds) == set(ran)
    assert {"memory-dram", "compute", "overhead"} <= set(bounds.values())


def test_json(known: Report) -> None:
    document = json.loads(json_viewer.render(known))["verdicts"]
    keys = {"phase", "block", "op", "shape", "bound", "gflops", "gbps", "ceiling", "floor_ns", "confidence"}
    assert keys <= set(document["groups"][0])
    assert {"phase", "limit", "bound_tokens_per_s", "tokens_per_s", "fraction"} <= set(document["phases"][0])
    assert document["fixed_ns"] == 2_000.0 and len(document["ceilings"]) == 5


@pytest.mark.parametrize("state", ["runnable", "fault", "disk", "stopped", "sleeping"])
def test_words_of_a_cause_tell_its_state(state: str) -> None:
    assert verdict_waits.state(verdict_waits._words(state, "hog")) == state
    assert verdict_waits.state("something else") == ""


@pytest.mark.parametrize(("events", "told", "scheduler"), [(1, False, True), (100, True, True), (10_000, True, False)])
def test_lost_events_of_the_scheduler(tmp_path: Path, events: int, told: bool, scheduler: bool) -> None:
    """Above a tenth waits are not known, so no kernel is surely inefficient."""

    def lossy(db: duckdb.DuckDBPyConnection) -> None:
        _hog(db)
        db.execute("INSERT INTO loss VALUES (0, 'unseen_return', ?)", [events])

    found = table(made(tmp_path, Synthetic(layers=22, ceilings=CEILINGS), lossy))
    assert found.scheduler == scheduler and not found.withheld
    assert any("of the scheduler's events were lost" in note for note in found.notes) == told
