"""Known truth in, exact numbers out; every analyzer on the empty recording and on broken input."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb
import numpy as np
import pytest
from flowprof.profiler.analyzers import ANALYZERS
from flowprof.profiler.analyzers.contract import Analyzer, Result
from flowprof.profiler.analyzers.overhead import level_cost, student_t
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.sections.groups import BlockTable, LayerTable
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.operators import OperatorTable
from flowprof.profiler.sections.overhead import Overhead
from flowprof.profiler.sections.probes import Probes
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.threads import ThreadTable
from flowprof.profiler.store import Recording
from synthetic import LAYER_OPS, PID, Synthetic, Truth, write, write_empty

NAMES = (
    "summary", "operators", "layers", "blocks", "verdicts", "threads", "waits", "blocked", "torch_operators", "gpu",
    "cuda_host", "overlap", "experts", "thread_count", "counters", "operator_counters", "requests", "processes",
    "resources", "overhead",
    "losses", "dag", "drift", "probes",
)  # fmt: skip
TESTED_ELSEWHERE = {
    "waits",
    "blocked",
    "torch_operators",
    "gpu",
    "cuda_host",
    "thread_count",
    "experts",
    "counters",
    "operator_counters",
    "processes",
    "resources",
}


def made(path: Path, spec: Synthetic) -> tuple[Report, Truth]:
    truth = write(str(path / "a.duckdb"), spec)
    with Recording.open(str(path / "a.duckdb")) as recording:
        return build_report(recording), truth


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Truth]:
    return made(tmp_path_factory.mktemp("known"), Synthetic())


def test_every_analyzer_has_its_file_and_documentation() -> None:
    assert tuple(analyzer.name for analyzer in ANALYZERS) == NAMES
    for analyzer in ANALYZERS:
        module = __import__(f"flowprof.profiler.analyzers.{analyzer.name}", fromlist=["ANALYZER"])
        assert module.ANALYZER is analyzer
        assert module.__doc__


@pytest.mark.parametrize("analyzer", ANALYZERS, ids=NAMES)
def test_the_empty_recording(tmp_path: Path, analyzer: Analyzer) -> None:
    write_empty(str(tmp_path / "empty.duckdb"))
    with Recording.open(str(tmp_path / "empty.duckdb")) as recording:
        outcome = analyzer.run(recording)
    assert outcome.status == ("skipped" if analyzer.needs else "ok"), outcome.reason
    assert bool(outcome.reason) == bool(analyzer.needs)
    assert outcome.findings == ()


def test_a_crash_is_that_analyzers_outcome(tmp_path: Path) -> None:
    def crash(_: Recording) -> Result:
        raise ValueError("broken")

    write_empty(str(tmp_path / "empty.duckdb"))
    with Recording.open(str(tmp_path / "empty.duckdb")) as recording:
        outcome = Analyzer("a", "A", (), crash).run(recording)
    assert (outcome.status, outcome.reason, outcome.value) == ("failed", "ValueError: broken", None)


def test_all_sections_are_there(known: tuple[Report, Truth]) -> None:
    assert {outcome.name: outcome.status for outcome in known[0].sections} == {
        name: "skipped" if name in TESTED_ELSEWHERE else "ok" for name in NAMES
    }


def test_phases(known: tuple[Report, Truth]) -> None:
    report, truth = known
    summary = report.get(Summary)
    assert summary
    assert {phase.phase for phase in summary.phases} == {"prefill", "decode"}
    for phase in summary.phases:
        assert phase.graphs == truth.graphs[phase.phase]
        assert phase.tokens == truth.tokens[phase.phase]
        assert phase.total_ns == truth.total_ns[phase.phase]
        assert phase.tokens_per_s == pytest.approx(phase.tokens / phase.total_ns * 1e9)
    assert summary.operators_recorded == truth.op_rows
    assert summary.models[0].layers == 4


def test_latency(known: tuple[Report, Truth]) -> None:
    report, truth = known
    summary = report.get(Summary)
    assert summary
    step = truth.total_ns["decode"] / truth.graphs["decode"] + Synthetic().gap_ns
    assert summary.latency.tpot_p50_ns == step
    assert summary.latency.tpot_count == Synthetic().requests * (Synthetic().tokens - 1), "not across requests"
    assert (summary.latency.ttft_source, summary.latency.ttft_count) == ("requests", 3)
    prompt = truth.total_ns["prefill"] / truth.graphs["prefill"]
    decode = truth.total_ns["decode"] / truth.graphs["decode"]
    assert summary.latency.ttft_p50_ns == prompt + Synthetic().gap_ns + decode + 1_100_000  # posted before, sent after


def test_ttft_without_requests_comes_from_prefill_graphs(tmp_path: Path) -> None:
    report, truth = made(tmp_path, Synthetic(with_requests=False))
    summary = report.get(Summary)
    assert summary
    assert (summary.latency.ttft_source, summary.latency.ttft_count) == ("graphs", 3)
    assert summary.latency.ttft_p50_ns == truth.total_ns["prefill"] / truth.graphs["prefill"]
    assert report.section("requests").status == "skipped"


def test_operators_are_scaled_by_phase(known: tuple[Report, Truth]) -> None:
    report, truth = known
    table = report.get(OperatorTable)
    assert table
    found = {(row.op, row.block, row.phase): row for row in table.rows}
    assert {key for key, (calls, _) in truth.operators.items() if calls} == set(found)
    for key, row in found.items():
        calls, ns = truth.operators[key]
        assert (row.measured_calls, row.measured_ns) == (calls, ns)
        weight = truth.total_ns[row.phase] / truth.measured_ns[row.phase]
        assert row.total_ns == round(ns * weight)
        assert row.calls == round(calls * truth.graphs[row.phase] / truth.measured_graphs[row.phase])
        assert row.share == pytest.approx(ns / truth.measured_ns[row.phase])
    for phase in ("prefill", "decode"):
        assert sum(row.share for row in table.rows if row.phase == phase) == pytest.approx(1)
        assert sum(row.total_ns for row in table.rows if row.phase == phase) == pytest.approx(
            truth.total_ns[phase], abs=20
        )
    for item in table.coverage:
        assert (item.graphs, item.graphs_measured) == (truth.graphs[item.phase], truth.measured_graphs[item.phase])
    glu = found["GLU", "ffn", "decode"]
    assert (glu.p50_ns, glu.p99_ns) == (9_000, 9_000)
    assert found["MUL_MAT", "ffn", "decode"].top_tensor.startswith("ffn_out-")
    assert table.rows[0].phase == table.coverage[0].phase


def test_of_tensors_that_take_as_long_the_first_by_name_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(layers=12, requests=4, cycle=("op",)))  # no jitter: all layers take the same
    with Recording.open(path) as recording:
        table = build_report(recording).get(OperatorTable)
    assert table is not None
    found = {row.top_tensor for row in table.rows if row.op == "GLU"}
    assert found == {"ffn_swiglu-0"}


def test_everything_measured_needs_no_weights(tmp_path: Path) -> None:
    report, truth = made(tmp_path, Synthetic(cycle=("op",)))
    table = report.get(OperatorTable)
    assert table
    assert {(item.time_weight, item.count_weight) for item in table.coverage} == {(1.0, 1.0)}
    for row in table.rows:
        assert (row.calls, row.total_ns) == tuple(truth.operators[row.op, row.block, row.phase])


def test_time_outside_operators_is_said(tmp_path: Path) -> None:
    import duckdb

    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(cycle=("op",)))
    with duckdb.connect(path) as db:
        db.execute("DELETE FROM op_exec WHERE node_index < 23")
    with Recording.open(path) as recording:
        table = build_report(recording).get(OperatorTable)
    assert table
    outside = dict(table.unattributed)
    assert 0.1 < outside["decode"] < 0.3


def test_layers_and_blocks(known: tuple[Report, Truth]) -> None:
    report, truth = known
    layers, blocks = report.get(LayerTable), report.get(BlockTable)
    assert layers and blocks
    per_layer = sum(op[3] for op in LAYER_OPS)
    decode = [row for row in layers.rows if row.phase == "decode"]
    assert [row.group for row in decode] == ["0", "1", "2", "3", "outside the layers"]
    for row in decode[:-1]:
        assert (row.p50_ns, row.p99_ns) == (per_layer, per_layer)
        assert row.share == pytest.approx(truth.layers[int(row.group), "decode"] / truth.measured_ns["decode"])
    ffn = 4 * sum(op[3] for op in LAYER_OPS if op[2] == "ffn")
    row = next(row for row in blocks.rows if (row.group, row.phase) == ("ffn", "decode"))
    assert (row.p50_ns, row.p99_ns, row.ns_per_token) == (ffn, ffn, ffn)


def test_threads(known: tuple[Report, Truth]) -> None:
    report, truth = known
    table = report.get(ThreadTable)
    assert table
    for ith in (0, 1):
        rows = [row for row in table.rows if row.ith == ith]
        assert sum(row.compute_ns for row in rows) == truth.compute_ns[ith]
        assert sum(row.wait_ns for row in rows) == truth.wait_ns[ith]
        assert {row.tid for row in rows} == {PID + ith}
    assert [finding.id for finding in report.findings] == ["operators.largest"], "12.5 % wait is under the threshold"


def test_imbalance_fires_with_its_price(tmp_path: Path) -> None:
    report, truth = made(tmp_path, Synthetic(imbalance=0.5, cycle=("thread",)))
    finding = next(finding for finding in report.findings if finding.id == "threads.imbalance")
    assert "25 %" in finding.claim
    assert finding.cost_ns_per_token == pytest.approx(0.25 * truth.total_ns["decode"] / truth.tokens["decode"])
    assert report.findings[0] is finding, "problems first"


def test_oversubscription_fires(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(threads=4, cycle=("thread",), imbalance=0.0))
    with Recording.open(path) as recording:
        assert not any(finding.id == "threads.oversubscribed" for finding in build_report(recording).findings)
    # The same recording of a process that may use three processors.
    import duckdb

    with duckdb.connect(path) as db:
        db.execute("UPDATE process SET cpus_allowed = 3")
    with Recording.open(path) as recording:
        finding = next(f for f in build_report(recording).findings if f.id == "threads.oversubscribed")
    assert "4 threads" in finding.claim and "3 processors" in finding.claim


def test_requests(known: tuple[Report, Truth]) -> None:
    table = known[0].get(RequestTable)
    assert table
    assert (table.count, table.finished, table.most_at_once) == (3, 3, 1)
    assert [row.results for row in table.rows] == [47, 47, 47]


def test_losses_under_and_over_the_limit(tmp_path: Path) -> None:
    for events, withheld in ((0, False), (50, False), (5000, True)):
        report, truth = made(tmp_path, Synthetic(losses=events))
        losses = report.get(Losses)
        assert losses
        recorded = truth.op_rows + sum(truth.graphs.values())
        assert (losses.total, losses.recorded, losses.withheld) == (events, recorded, withheld)
        assert losses.share == pytest.approx(events / (events + recorded))
        if withheld:
            assert [finding.id for finding in report.findings] == ["losses.withheld"]
            assert report.findings_withheld == 1 and losses.events_withheld


@pytest.mark.parametrize("place", ["undescribed_graph", "unmatched_op"])
def test_what_only_operators_lack(tmp_path: Path, place: str) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(losses=5000))
    with Recording.open(path) as recording:
        recording.shadow("loss", {"window_id": [1], "place": [place], "events": [5000]})
        report = build_report(recording)
    losses = report.get(Losses)
    assert losses and losses.withheld and not losses.events_withheld
    (finding,) = report.findings
    assert finding.id == "losses.withheld" and finding.claim.endswith("verdicts on operators are withheld")
    assert report.findings_withheld == 1, "what it says of operators"


# ---------------------------------------------------------------------- overhead


def test_overhead_is_found_where_it_is(tmp_path: Path) -> None:
    spec = Synthetic(requests=20, tokens=99, jitter=0.02, slowdown=(1.0, 1.02, 1.05), graphs_per_window=5, seed=2)
    report, _ = made(tmp_path, spec)
    overhead = report.get(Overhead)
    assert overhead and overhead.ratio and overhead.ci95
    by_level = {level.level: level for level in overhead.levels}
    for level, truth in (("op", 1.02), ("thread", 1.05)):
        cost = by_level[level]
        assert cost.ratio == pytest.approx(truth, abs=0.003)
        assert cost.ci95 and cost.ci95[0] < truth < cost.ci95[1]
    shares = sum((level.ratio - 1) * level.time_share for level in overhead.levels if level.ratio)
    assert overhead.ratio == pytest.approx(1 + shares)
    assert overhead.ci95[0] < overhead.ratio < overhead.ci95[1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Synthetic(requests=1, tokens=20), "not measurable: "),
        (Synthetic(cycle=("op",)), "no token windows to compare with"),
        (Synthetic(cycle=("token",)), "token level only"),
    ],
)
def test_overhead_that_cannot_be_measured_is_not_guessed(tmp_path: Path, spec: Synthetic, words: str) -> None:
    overhead = made(tmp_path, spec)[0].get(Overhead)
    assert overhead
    assert words in overhead.reason
    assert overhead.ratio in (None, 1.0)


def test_what_switching_probes_and_the_recorder_cost_is_part_of_it(tmp_path: Path) -> None:
    """The steps between a deep window and its neighbours are its own; the recorder's time widens the interval."""
    spec = Synthetic(requests=20, tokens=99, slowdown=(1.0, 1.0, 1.0), cycle=("token", "op"), graphs_per_window=5)
    write(str(tmp_path / "a.duckdb"), spec)
    with duckdb.connect(str(tmp_path / "a.duckdb")) as db:
        # each deep window loses its first and its last graph to the switching; both take 20 % longer
        db.execute("""
        CREATE TEMP TABLE edge AS SELECT window_id, min(end_ns) AS first_ns, max(start_ns) AS last_ns
        FROM graph_exec WHERE level = 'op' GROUP BY window_id""")
        db.execute("""
        UPDATE graph_exec SET end_ns = end_ns + (end_ns - start_ns) // 5, level = 'token' FROM edge e
        WHERE graph_exec.window_id = e.window_id AND graph_exec.level = 'op'
          AND (graph_exec.end_ns = e.first_ns OR graph_exec.start_ns = e.last_ns)""")
        db.execute("""
        UPDATE probe_window SET start_ns = first_ns, end_ns = last_ns FROM edge e
        WHERE probe_window.window_id = e.window_id AND level = 'op'""")
        db.execute("UPDATE probe_window SET recorder_ns = 2e6, displaced_ns = 1e6")
        (count,) = db.execute("SELECT count(*) FROM probe_window WHERE level = 'token'").fetchall()[0]
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        overhead = build_report(recording).get(Overhead)
    assert overhead and overhead.ratio and overhead.ci95 and overhead.displaced
    (level,) = overhead.levels
    assert level.ratio == pytest.approx(1 + 0.2 * 2 / 5, abs=0.01)
    measured = (level.ratio - 1) * level.time_share
    assert overhead.ratio == pytest.approx(1 + measured + overhead.displaced)
    assert overhead.ci95[0] <= 1 + measured and overhead.ci95[1] >= overhead.ratio
    whole_ns = count * 1e6 / overhead.displaced
    assert overhead.recorder_share == pytest.approx(2 * 2 * count * 1e6 / whole_ns, rel=0.03), "as many deep ones"


def windows(relative: np.ndarray, levels: list[str]) -> dict[str, np.ndarray]:
    at = np.arange(len(relative)) * 200_000_000
    return {"level": np.array(levels, dtype=object), "start_ns": at, "end_ns": at + 200_000_000,
            "steps": np.full(len(relative), 10), "relative": relative}  # fmt: skip


def test_few_windows_of_one_level_are_pooled(tmp_path: Path) -> None:
    spec = Synthetic(requests=2, tokens=99, cycle=("token", "op") * 8 + ("token", "thread"), slowdown=(1.0, 1.02, 1.02))
    overhead = made(tmp_path, spec)[0].get(Overhead)
    assert overhead and overhead.ratio
    assert [level.ratio is None for level in overhead.levels] == [False, True]
    deep = sum(level.time_share for level in overhead.levels)
    assert overhead.ratio == pytest.approx(1 + 0.02 * deep, abs=1e-3)


def test_a_drifting_target_does_not_count_as_overhead() -> None:
    drift = np.exp(np.linspace(0, 0.5, 60))  # 65 % slower in the end
    cost = level_cost(windows(drift, ["token", "op", "token"] * 20), "op", 1 / 3)
    assert cost.ratio == pytest.approx(1.0, abs=1e-3)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        noise = np.exp(random.normal(0, 0.02, 41))
        noise[1::2] *= 1.03
        cost = level_cost(windows(noise, ["token", "op"] * 20 + ["token"]), "op", 0.5)
        assert cost.ci95
        held += cost.ci95[0] <= 1.03 <= cost.ci95[1]
    assert held >= 0.93 * 400


def test_the_same_at_both_levels_is_no_overhead() -> None:
    random = np.random.default_rng(3)
    clear = 0
    for _ in range(200):
        cost = level_cost(windows(np.exp(random.normal(0, 0.02, 41)), ["token", "op"] * 20 + ["token"]), "op", 0.5)
        assert cost.ci95
        clear += not cost.ci95[0] <= 1 <= cost.ci95[1]
    assert clear <= 0.08 * 200


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)])
def test_student_t(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, rel=0.01)


# ---------------------------------------------------------------------- odd recordings


def test_probes(known: tuple[Report, Truth]) -> None:
    report, truth = known
    probes = report.get(Probes)
    assert probes
    assert probes.window_count == sum(truth.windows.values())
    assert {site.probe for site in probes.sites} == {"ggml.graph", "ggml.op", "ggml.barrier"}


def test_graphs_without_operators_or_ends_or_descriptions(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    with Recording.create(path) as recording:
        recording.append("graph", {"graph_id": [1, 2], "pid": 1, "nodes": 3, "phase": ["decode", "other"],
                                   "tokens": [1, None], "described": [True, False]})  # fmt: skip
        recording.append("graph_exec", {"exec_id": [1, 2, 3], "pid": 1, "tid": 1, "graph_id": [1, 2, 9],
                                        "window_id": 1, "start_ns": [10, 20, 30], "end_ns": [15, None, 35],
                                        "level": "op"})  # fmt: skip
        recording.append("op_exec", {"exec_id": [2, 77], "node_index": 0, "ith": 0, "start_ns": 1, "end_ns": 2})
    with Recording.open(path) as recording:
        report = build_report(recording)
    summary = report.get(Summary)
    assert summary
    assert (summary.graphs, summary.unfinished_graphs) == (3, 1)
    assert {outcome.status for outcome in report.sections} <= {"ok", "skipped"}, report.sections
    assert all(math.isfinite(phase.share) for phase in summary.phases)
