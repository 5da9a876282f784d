"""Steps with a known growth in, that growth out; too little in, a sentence out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.analyzers import drift
from flowprof.profiler.report import Report, build_report, timeline
from flowprof.profiler.sections.drift import Drift
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from graph_recordings import Graph, Node, write_graphs

BASE_NS, ATTENTION_NS = 900_000, 100_000


def graphs(contexts: Sequence[int], steps: int = 20, per_token: int = 200, flash: bool = True, level: str = "op",
           other: int = 0) -> list[Graph]:  # fmt: skip
    """One graph per context; attention grows by `per_token` ns per token of context, the rest by `other`."""
    rng = np.random.default_rng(3)
    made = []
    for context in contexts:
        growth = per_token * context
        base = BASE_NS + other * context
        if flash:
            nodes = [
                Node("MUL_MAT", "Qcur-0", (), base, 0, "attention"),
                Node("VIEW", "cache_k_l0 (view)", (3,), None, 0, "attention", (64, context, 4, 1)),
                Node("FLASH_ATTN_EXT", "node_2", (0, 1), ATTENTION_NS + growth, 0, "attention"),
                Node("NONE", "cache_k_l0", leaf=True, ne=(256, 4096, 1, 1)),
            ]
        else:
            nodes = [
                Node("MUL_MAT", "Qcur-0", (), base, 0, "attention"),
                Node("MUL_MAT", "kq-0", (0,), ATTENTION_NS // 2 + growth, 0, "attention", (context, 1, 4, 1)),
                Node("SOFT_MAX", "kq_soft_max-0", (1,), ATTENTION_NS // 4, 0, "attention", (context, 1, 4, 1)),
                Node("MUL_MAT", "kqv-0", (2,), ATTENTION_NS // 4, 0, "attention"),
            ]
        whole = BASE_NS + other * context + ATTENTION_NS + growth
        steps_ns = [int(whole * factor) for factor in rng.normal(1.02, 0.01, steps)]
        made.append(Graph(nodes, steps, level=level, step_ns=steps_ns))
    return made


def report(path: Path, made: Sequence[Graph]) -> Report:
    write_graphs(path / "a.duckdb", made)
    with Recording.open(str(path / "a.duckdb")) as recording:
        return build_report(recording)


def section(found: Report) -> Drift:
    value = found.get(Drift)
    assert value is not None, found.section("drift").reason
    return value


@pytest.mark.parametrize("flash", [True, False], ids=["flash attention", "kq and kqv"])
def test_a_known_growth_is_found(tmp_path: Path, flash: bool) -> None:
    found = section(report(tmp_path, graphs(range(256, 4097, 256), flash=flash)))
    assert found.step and found.attention
    assert found.step.ns_per_1000 == pytest.approx(204_000, rel=0.03)
    assert found.step.ci95[0] < 204_000 < found.step.ci95[1]
    assert found.attention.ns_per_1000 == pytest.approx(200_000, rel=0.001)
    assert found.attention_share == pytest.approx(0.98, abs=0.03)
    assert [point.context for point in found.points] == list(range(256, 4097, 256))
    assert {(point.steps, point.measured) for point in found.points} == {(20, 20)}


def test_the_finding_has_cost_evidence_and_advice(tmp_path: Path) -> None:
    found = report(tmp_path, graphs(range(256, 4097, 256)))
    (finding,) = [finding for finding in found.findings if finding.id == "drift.context"]
    assert finding.cost_ns_per_token == pytest.approx(0.204 * 1920 * 1000, rel=0.03)
    assert "flash attention" in finding.advice and finding.confidence == "high"
    assert any("of the growth" in line for line in finding.evidence)
    other = report(tmp_path, graphs(range(256, 4097, 256), per_token=5, other=195))
    (finding,) = [finding for finding in other.findings if finding.id == "drift.context"]
    assert "not attention" in finding.advice


def test_small_growth_is_stated_without_a_finding(tmp_path: Path) -> None:
    found = report(tmp_path, graphs(range(256, 4097, 256), per_token=10))
    assert section(found).step is not None
    assert not [finding for finding in found.findings if finding.id == "drift.context"]


@pytest.mark.parametrize(
    ("contexts", "steps", "words"),
    [([256], 100, "stays at 256"), ([256, 512], 100, "goes from 256 to 512"), ([256, 4096], 4, "Too few")],
)
def test_it_abstains_and_says_why(tmp_path: Path, contexts: list[int], steps: int, words: str) -> None:
    found = section(report(tmp_path, graphs(contexts, steps)))
    assert found.step is None and found.attention_share is None and words in found.reason


def test_a_graph_without_attention_says_so(tmp_path: Path) -> None:
    found = section(report(tmp_path, [Graph([Node("MUL_MAT", "x", (), 5)], 50)]))
    assert found.step is None and "not known" in found.reason


def test_without_operators_the_steps_still_count(tmp_path: Path) -> None:
    found = report(tmp_path, graphs(range(256, 2049, 256), level="token"))
    drifted = section(found)
    assert drifted.step and drifted.attention is None and drifted.levels == "token"
    (finding,) = [finding for finding in found.findings if finding.id == "drift.context"]
    assert finding.confidence == "medium" and "Record with operators" in finding.advice


def test_theil_sen_bears_outliers_and_ties() -> None:
    rng = np.random.default_rng(1)
    x = np.repeat(np.arange(1.0, 11.0), 6)
    y = 3 * x + 5 + rng.normal(0, 0.2, len(x))
    y[::9] += 500
    fitted = drift.theil_sen(x, y)
    assert fitted is not None
    slope, _, (low, high) = fitted
    assert slope == pytest.approx(3, abs=0.3) and low <= slope <= high
    assert drift.theil_sen(np.ones(5), np.arange(5.0)) is None
    # scipy.stats.theilslopes([1, 2, 4, 3, 6, 5, 9, 8], range(8)): slope 1.1666…, interval as below
    slope, intercept, interval = drift.theil_sen(np.arange(8.0), np.array([1.0, 2, 4, 3, 6, 5, 9, 8])) or (0, 0, (0, 0))
    assert slope == pytest.approx(np.median([(b - a) / (j - i) for i, a in enumerate([1, 2, 4, 3, 6, 5, 9, 8])
                                             for j, b in enumerate([1, 2, 4, 3, 6, 5, 9, 8]) if j > i]))  # fmt: skip
    assert interval[0] <= slope <= interval[1] and intercept == pytest.approx(4.5 - slope * 3.5)


def test_thousands_of_steps_stay_bounded() -> None:
    rng = np.random.default_rng(2)
    context = np.repeat(np.arange(256.0, 8193.0, 256.0), 2_000)
    x, _ = drift.blocked(context, context + rng.normal(0, 1, len(context)))
    assert len(x) == drift.MAX_POINTS and x[0] == 256 and x[-1] == 8192


def test_viewers_show_it(tmp_path: Path) -> None:
    found = report(tmp_path, graphs(range(256, 4097, 256)))
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        page = html.render(found, timeline(recording))
    assert 'data-chart="drift"' in page and "longer per 1 000 tokens of context" in page
    out = io.StringIO()
    terminal.show(found, out, 100)
    assert "per 1 000 tokens" in out.getvalue().replace("\u00a0", " ")
