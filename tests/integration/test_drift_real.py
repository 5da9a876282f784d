"""Growth with the context on a live llama-server: seen where it is, as large as the server's own times say, and not
claimed where a step is all weights, nor where the context stays short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load, synthetic_model
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.synthetic_model import Shape
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.drift import Drift
from flowprof.profiler.store import Recording
from recorded import read
from undisturbed import DISTURBED, MS, recorded

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]

LONG = 1600  # tokens: some seven times the length to which llama.cpp pads the cache that attention reads
OPERATORS = ("token", "graph", "op", "sched")
# One layer with one head of cache before a wide output: a step is 33 M weights, and a token of context 256 bytes.
ALL_WEIGHTS = Shape(embedding=256, layers=1, feed_forward=98_304, heads=4, kv_heads=1, vocabulary=128_000)

StartServer = Callable[..., RunningServer]


def drift_of(path: Path) -> tuple[Drift, list[str]]:
    """The section, and the ids of its findings."""
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    assert not report.findings_withheld, "losses: the recorder was starved"
    section = report.get(Drift)
    assert section is not None
    print(section.step, section.attention, section.reason, *section.points, sep="\n")  # shown when a test fails
    return section, [finding.id for finding in report.findings if finding.id.startswith("drift.")]


def step_ms(server: RunningServer, context: int) -> float:
    """The server's own time of a decode step behind a prompt of that length: the least of three."""
    answers = [load.request(server.url, n_predict=33, prompt_tokens=context, seed=seed) for seed in range(3)]
    return min(answer.predicted_ms / (answer.predicted_n - 1) for answer in answers)


@pytest.mark.parametrize(("kind", "tokens"), [("tiny", LONG), ("dense-150m", 900)])
def test_a_long_answer_grows_as_the_server_says(server: StartServer, tmp_path: Path, kind: str, tokens: int) -> None:
    engine, path = server(kind), tmp_path / "x.duckdb"
    short, long = step_ms(engine, 64), step_ms(engine, tokens)
    with recorded(engine, path, levels=OPERATORS, level="op"):
        load.request(engine.url, n_predict=tokens, prompt_tokens=64)
    section, found = drift_of(path)
    assert section.step is not None and section.attention is not None, section.reason
    assert section.points[0].context <= 256 and section.points[-1].context >= tokens
    assert section.step.ci95[0] > 0 and section.attention.ci95[0] > 0
    grown = (section.step.at_most_ns - section.step.at_least_ns) / MS
    print(f"fit {grown:.2f} ms, the server {short:.2f} -> {long:.2f}")
    assert grown == pytest.approx(long - short, rel=0.4)
    assert (grown > 0.1 * short) == (found == ["drift.context"])
    assert section.attention_share is not None and section.attention_share > 0.5, "nothing else reads the cache"
    # What reads the cache, asked of the raw rows: the last tenth of the answer against the first.
    first, last = read(path, KV_TIME)[0]
    assert last > 1.5 * first


KV_TIME = """
WITH reads AS (
    SELECT exec_id, sum(dur_ns) AS ns, ntile(10) OVER (ORDER BY exec_id) AS tenth FROM measured_operator
    WHERE phase = 'decode' AND (op IN ('FLASH_ATTN_EXT', 'SOFT_MAX') OR regexp_matches(name, '^kqv?(-[0-9]+)?$'))
    GROUP BY exec_id
)
SELECT median(ns) FILTER (tenth = 1), median(ns) FILTER (tenth = 10) FROM reads
"""


def test_steps_that_are_all_weights_do_not_grow(
    server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(synthetic_model.KINDS, "all-weights", ALL_WEIGHTS)
    engine = server(synthetic_model.write("all-weights", tmp_path / "all-weights.gguf"))
    path = tmp_path / "x.duckdb"
    short, long = step_ms(engine, 64), step_ms(engine, LONG)
    with recorded(engine, path, levels=OPERATORS, level="op"):
        load.request(engine.url, n_predict=LONG, prompt_tokens=64)
    section, found = drift_of(path)
    assert section.points[-1].context >= LONG, "it was looked at"
    assert long < 1.1 * short, "the model is not what the test takes it for"
    assert found == []


def test_a_context_that_stays_short_is_not_judged(server: StartServer, tmp_path: Path) -> None:
    engine, path = server("tiny"), tmp_path / "x.duckdb"
    with recorded(engine, path, levels=OPERATORS, level="op"):
        for seed in range(6):
            load.request(engine.url, n_predict=100, prompt_tokens=64, seed=seed)
    section, found = drift_of(path)
    assert found == [] and section.step is None
    assert section.reason.startswith("The context hardly varies") and "stays at 256 tokens" in section.reason
