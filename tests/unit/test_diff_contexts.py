"""What reads the cache is other work at another context: which rows those are, and how they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from diff_compared import Facts, Maker
from diff_compared import row as made
from diff_runs import Run, steps
from diffs import diff, row
from flowprof.profiler.diff.causes import context
from flowprof.profiler.diff.result import AtContext, Row
from flowprof.profiler.diff.rows.phases import phase_shifts
from flowprof.profiler.diff.rows.rows import rows
from flowprof.profiler.diff.steps import contexts, of_ggml
from flowprof.profiler.diff.steps.steps import Steps
from flowprof.profiler.store import Recording
from flowprof.viewers import diff_html, diff_markdown
from graph_recordings import PID, START_NS, Graph, Node, write_graphs
from test_diff_viewers import shown

READS = 17  # the group that reads the cache


def reading(run: Run, cells: Sequence[int], factor: float = 1.0) -> Steps:
    """The run at contexts that take turns; the time of one group is in proportion to them."""
    made_steps = steps(run)
    read = np.resize(np.repeat(cells, 10), run.steps)
    ns = made_steps.ns.copy()
    ns[:, READS] *= read / 1000 * factor
    facts = tuple(replace(one, grows=at == READS) for at, one in enumerate(made_steps.facts))
    return replace(
        made_steps, ns=ns, facts=facts, all_ns=ns.sum(axis=1), all_context=256 * (1 + read // 256), all_cells=read,
        place=np.arange(run.steps),
    )  # fmt: skip


def the_row(a: Steps, b: Steps) -> Row:
    """The row of the group that reads; no other may say anything of contexts."""
    sides = ((a,),), ((b,),)
    found = rows(*sides, phase_shifts(*sides))
    (reads,) = [one for one in found if f"tensor_{READS} " in one.name]
    assert not any(one.contexts_apart or one.equal for one in found if one is not reads)
    return reads


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_row_is_compared_where_contexts_are_equal(factor: float) -> None:
    """At twice the context it takes longer in any case; at the same ones only where it is slower."""
    a = reading(Run(1, groups=30), (100, 200, 300))
    found = the_row(a, reading(Run(2, groups=30), (300, 500, 700), factor))
    assert found.significant and found.delta_ns_per_token > found.a_ns_per_token
    assert found.contexts_apart and found.equal is not None
    assert found.equal.contexts == (512, 512) and found.equal.steps == (200, 200)
    ratio = found.equal.b_ns_per_token / found.equal.a_ns_per_token
    assert ratio == pytest.approx(factor, rel=0.02) and found.equal.significant == (factor > 1)


def test_the_same_contexts_are_not_told() -> None:
    found = the_row(reading(Run(1, groups=30), (100, 200)), reading(Run(2, groups=30), (100, 200)))
    assert not found.contexts_apart and found.equal is None


def test_contexts_without_any_in_common() -> None:
    """Both are rounded up to 256 rows, of which one side fills many more."""
    a, b = reading(Run(1, groups=30), (20, 60)), reading(Run(2, groups=30), (200, 250))
    assert set(a.all_context) == set(b.all_context) == {256}
    found = the_row(a, b)
    assert found.contexts_apart and found.equal is None
    assert not contexts.apart([replace(a, all_cells=b.all_cells[:0])], [b]), "one side's batches do not tell"


def attention(rows_read: int, executions: int, ns: int) -> Graph:
    """The mask of so many rows is copied, and the scores computed with it; the weights are what they are."""
    wide = (rows_read, 1, 1, 1)
    return Graph([
        Node("GET_ROWS", "embd", ns=1_000),
        Node("MUL_MAT", "Qcur-0", (4, 0), ns=10_000, layer=0, block="attention"),
        Node("CPY", "KQ_mask_cnv", (6, 6), ns=10 * rows_read, layer=0, block="attention", ne=wide),
        Node("MUL_MAT", "kq-0", (5, 1), ns=ns, layer=0, block="attention", ne=wide),
        Node("NONE", "blk.0.attn_q.weight", ne=(64, 64, 1, 1), leaf=True),
        Node("NONE", "cache_k_l0", ne=(64, rows_read, 1, 1), leaf=True),
        Node("NONE", "mask", ne=wide, leaf=True),
    ], executions=executions)  # fmt: skip


def test_what_grows_is_told_by_the_graphs(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    write_graphs(path, [attention(256, 4, 20_000), attention(512, 4, 40_000)])
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE graph_node SET data_bytes = 4 * list_product(ne), size_bytes = 4 * list_product(ne)")
    with Recording.open(str(path)) as recording:
        (decode,) = of_ggml.read(recording)
    grown = {group.tensor for group, facts in zip(decode.groups, decode.facts, strict=True) if facts.grows}
    assert grown == {"kq", "KQ_mask_cnv"}
    assert decode.place.tolist() == list(range(7)) and decode.all_context.tolist() == [256] * 3 + [512] * 4


def test_cells_are_those_of_the_batches(tmp_path: Path) -> None:
    """Of a graph's own batch, mean over its tokens; unknown where its tokens are not those of the graph."""
    path = tmp_path / "a.duckdb"
    prompt = replace(attention(256, 1, 20_000), phase="prefill", tokens=8)
    write_graphs(path, [prompt, attention(256, 4, 20_000)])  # the first decode step follows no other
    with Recording.open(str(path)) as recording:
        starts = [int(start) for (start,) in recording.rows("SELECT start_ns FROM graph_exec ORDER BY start_ns")]
    assert starts[0] == START_NS
    parts = [(starts[0], 0, 8, 10), (starts[2], 0, 1, 18), (starts[3], 0, 1, 19), (starts[3], 1, 1, 100)]
    with duckdb.connect(str(path)) as db:
        for at, sequence, tokens, position in parts:
            row_of_it = (PID, PID, at - 5, 0, sequence, tokens, position, True)
            db.execute("INSERT INTO batch_part VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row_of_it)
    with Recording.open(str(path)) as recording:
        cells = {one.phase: one.all_cells.tolist() for one in of_ggml.read(recording)}
    assert cells == {"prefill": [14], "decode": [19, 0, 0]}


EQUAL = AtContext((256, 512), (60, 60), 1e6, 1.5e6, 0.5e6, (0.4e6, 0.6e6), 0.001, 0.1e6, True)


@pytest.mark.parametrize(("equal", "share"), [(None, 1.0), (EQUAL, 5 / 9), (replace(EQUAL, ci95=None), 1.0)])
def test_the_context_is_not_blamed_for_what_is_slower_at_equal_ones(
    tmp_path: Path, equal: AtContext | None, share: float
) -> None:
    """1 → 10 ms at 256 → 2,048 rows; at equal ones by half longer: of the 10 ms 6.7 would have been the context's."""
    flash = replace(
        made("FLASH_ATTN_EXT", 1, 10, block="attention", op="FLASH_ATTN_EXT", shape="64 · 12 heads f16"),
        contexts_apart=True, equal=equal,
    )  # fmt: skip
    with ExitStack() as stack:
        compared = Maker(tmp_path, stack)([flash], Facts(), Facts(context=2048))
        (claim,) = context.causes(compared)
    told = sum(claim.explains.values()) / (9e6)
    assert told == pytest.approx((10 / 1.5 - 1) / 9 if equal == EQUAL else share)
    words = " ".join(claim.cause.evidence)
    assert ("at equal context (256 … 512; 60 and 60 steps)" in words) == (equal == EQUAL)
    assert ("too few steps at a context that both have" in words) == (equal != EQUAL)


def test_every_viewer_says_so() -> None:
    for equal, said in ((EQUAL, "at equal context (256 … 512) 1.00"), (None, "none of which both sides have")):
        found = diff(rows=(replace(row("FLASH_ATTN_EXT 64", 0.3), contexts_apart=True, equal=equal),))
        page = diff_html.render(found).partition("<tbody")[2].partition("<script")[0]
        for text in (diff_markdown.render(found), page):
            assert said in text
        screen = shown(found, 80)
        assert ("at equal context" if equal else "no context in common") in screen
        assert max(map(len, screen.splitlines())) <= 80
