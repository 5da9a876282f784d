"""The HTML page of a diff: its numbers are the diff's, nothing hostile gets through, nothing breaks when empty."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from diff_objects import DIFF, EMPTY, ROWS, hostile, many, phase_of, row
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import Diff, LayerShift, PhaseShift
from flowprof.profiler.diff.side import open_pair
from flowprof.profiler.diff.timelines import timelines
from flowprof.viewers import diff_flame, diff_html, diff_timeline
from flowprof.viewers.diff_charts import MAX_STEPS, steps, waterfalls
from flowprof.viewers.diff_flame import Frame, flames, trees
from flowprof.viewers.diff_variables import HALF, picture
from flowprof.viewers.diff_words import change
from flowprof.viewers.quantity import duration
from synthetic import Synthetic, write

EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&{{7*7}}"


def embedded(page: str, name: str) -> object:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found, name
    return json.loads(found.group(1))


@pytest.mark.parametrize("diff", [DIFF, EMPTY, many(260), hostile(EVIL)], ids=["full", "empty", "many", "hostile"])
def test_one_file_that_fetches_nothing_and_escapes(diff: Diff) -> None:
    page = diff_html.render(diff)
    shell = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', shell)
    assert "<img" not in page and "\x1b" not in page and "\u202e" not in page
    assert "default-src 'none'" in page and page.rstrip().endswith("</html>")
    assert isinstance(embedded(page, "charts-data"), dict) and isinstance(embedded(page, "flame-data"), dict)
    if diff.rows and diff.rows[0].name == EVIL:
        assert "&lt;img src=x onerror=alert(1)&gt;\\x1b[2J\\u202e" in shell


@pytest.mark.parametrize("phase", DIFF.phases, ids=lambda phase: str(phase.phase))
def test_waterfall_adds_up_to_the_change(phase: PhaseShift) -> None:
    drawn = steps(DIFF, phase)
    assert (drawn[0].end_ns, drawn[-1].end_ns) == (phase.a_ns_per_token, phase.b_ns_per_token)
    total = sum(one.end_ns - one.begin_ns for one in drawn if not one.is_sum)
    assert total == pytest.approx(phase.delta_ns_per_token)
    for before, after in itertools.pairwise(drawn):
        assert after.is_sum or after.begin_ns == before.end_ns
    sizes = [abs(one.end_ns - one.begin_ns) for one in drawn[1:-1]]
    assert sizes == sorted(sizes, reverse=True)
    marks = {one.name: one.mark for one in drawn if one.mark}
    if phase.phase == "decode":
        assert marks == {"FLASH_ATTN_EXT fattn": "only after", "MUL_MAT kq 64 · 32 heads f16": "only before"}


def test_waterfall_of_many_rows_has_the_largest_and_the_rest() -> None:
    diff = many(260)
    drawn = steps(diff, diff.phases[0])
    assert len(drawn) == MAX_STEPS + 3
    changed = [one for one in diff.rows if one.delta_ns_per_token]
    assert drawn[-2].name == f"{len(changed) - MAX_STEPS} other rows together"
    largest = sorted((one.delta_ns_per_token for one in changed), key=abs, reverse=True)[:MAX_STEPS]
    assert [one.end_ns - one.begin_ns for one in drawn[1:-2]] == pytest.approx(largest)
    assert drawn[-2].end_ns == diff.phases[0].b_ns_per_token


def test_rows_that_do_not_reach_the_whole_change_are_said_to() -> None:
    diff = replace(DIFF, rows=DIFF.rows[1:])
    assert [one.name for one in steps(diff, DIFF.phases[0])][-2] == "not known by operator"


def test_small_changes_are_not_drawn_from_zero_and_large_ones_are() -> None:
    small = waterfalls(DIFF)["decode"]["layout"]["xaxis"]["range"]
    assert 0 < small[0] < 10.1 and small[1] > 12.3
    rows = [row("MUL_MAT x", 1e6, 4e6)]
    large = replace(DIFF, rows=tuple(rows), phases=(phase_of(rows, "decode"),))
    assert waterfalls(large)["decode"]["layout"]["xaxis"]["range"][0] == 0


def test_every_row_and_phase_shows_its_numbers() -> None:
    page = diff_html.render(DIFF)
    table = page[page.index('id="row-table"') : page.index('id="parts"')]
    lines = table.split("<tbody>")[1].split("</tr>")
    for one, line in zip(ROWS, lines, strict=False):
        for text in (duration(one.a_ns_per_token), duration(one.b_ns_per_token), change(one.delta_ns_per_token)):
            assert f">{text}<" in line, one.name
        assert f'data-v="{one.delta_ns_per_token}"' in line
        assert ("one-sided" in line) == (one.a_ns_per_token is None or one.b_ns_per_token is None)
    assert "renamed: result_output → lm_head" in table and "shape in after: 2048x32064 q6_K" in table
    assert "only layer: 1" in table
    for phase in DIFF.phases:
        assert change(phase.delta_ns_per_token) in page
    for text in ("One thread fewer computes", "81.0\u00a0% of the change", "Start the server with -t 4.", "threads",
                 "Comparable per token", "GPU work: recorded on one side only.", "task 12 (prompt of 4 096 tokens)",
                 "worker.cpp:41", "1.20\u00a0s after the recording began"):  # fmt: skip
        assert text in page


def test_rows_beyond_the_table_are_told() -> None:
    page = diff_html.render(many(600))
    table = page[page.index('id="row-table"') :]
    assert table[: table.index("</table>")].count("<tr") == 1 + 500
    assert "The 500 first of 600." in page


def test_parts_of_rows_and_their_sum() -> None:
    page = diff_html.render(DIFF)
    parts = page[page.index('id="parts"') : page.index('id="resources"')]
    assert "2 of 7 rows have known parts" in parts
    whole = parts[parts.index("all of decode") :].split("</tr>")[0]
    assert "+1.00\u00a0ms" in whole and "1.30\u00a0ms → 2.30\u00a0ms" in whole, "barrier: 0.9 + 0.4 against 2.0 + 0.3"
    assert "Blocked" not in parts and "No processor" in parts


def test_flame_keeps_what_vanished_and_adds_up() -> None:
    root = trees(DIFF)["decode"]
    phase = DIFF.phases[0]
    assert (root.a_ns, root.b_ns) == (phase.a_ns_per_token, phase.b_ns_per_token)
    gone = root.parts["attention"].parts["MUL_MAT"].parts["kq 2048x5632 q8_0"]
    assert (gone.a_ns, gone.b_ns, gone.width_ns) == (0.7e6, None, 0.7e6)
    assert [one.width_ns for one in gone.parts.values()] == [0.3e6, 0.4e6]
    new = root.parts["attention"].parts["FLASH_ATTN_EXT"]
    assert (new.a_ns, new.b_ns) == (None, 0.9e6)
    assert "between graphs: sampling, the server's own work" in root.parts, "no block above it"

    def check(frame: Frame) -> None:
        assert frame.width_ns >= max(frame.a_ns or 0, frame.b_ns or 0)
        if frame.parts:
            for side in ("a_ns", "b_ns"):
                total = sum(getattr(part, side) or 0 for part in frame.parts.values())
                assert total == pytest.approx(getattr(frame, side) or 0), frame.name
        for part in frame.parts.values():
            check(part)

    check(root)
    assert root.parts["attention"].parts["RMS_NORM"].changed_ns == 0, "not beyond the noise: no colour"


def test_flame_of_remainders_below_zero_and_of_numbers_that_are_none() -> None:
    rows = [row("a", 1e6, float("nan")), row("b", -5.0, 2.0), row("c", 1.0, 1.0, by_layer=(LayerShift(0, 1.0, None),))]
    drawn = flames(replace(DIFF, rows=tuple(rows)))
    assert "NaN" not in json.dumps(drawn)
    parts = trees(replace(DIFF, rows=tuple(rows)))["decode"].parts["ffn"]
    assert (parts.a_ns, parts.b_ns) == (1e6 + 1.0, 3.0)


def test_flame_of_very_many_layers_keeps_those_of_the_longest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_flame, "MAX_LAYERS", 3)
    ffn = trees(DIFF)["decode"].parts["ffn"].parts["MUL_MAT"]
    assert len(ffn.parts["ffn_up 2048x5632 q8_0"].parts) == 2
    assert not trees(DIFF)["decode"].parts["attention"].parts["MUL_MAT"].parts["kq 2048x5632 q8_0"].parts


def test_torch_rows_need_no_block() -> None:
    rows = [row("aten::mm [8, 8]", 1e6, 2e6, kind="torch", phase="step", block="", op="aten::mm")]
    phase = replace(phase_of(rows, "step"), per="step", what=("one repetition", "another repetition"))
    diff = replace(DIFF, rows=tuple(rows), phases=(phase,))
    page = diff_html.render(diff)
    table = page[page.index('id="row-table"') :].split("</table>")[0]
    assert "aten::mm [8, 8]" in table and 'class="block"' not in table
    assert list(trees(diff)["step"].parts) == ["aten::mm"]
    assert "Step, per step" in page
    assert "per token" not in page[page.index('id="change"') : page.index('id="resources"')]
    assert "a step is one repetition (before); another repetition (after)" in page
    assert flames(diff)["step"]["per"] == "step"


def test_variables_picture_puts_sides_apart() -> None:
    drawn = picture(DIFF.variables[0])
    assert drawn is not None and (drawn["low"], drawn["high"], drawn["tallest"]) == ("64", "4096", "100.0\u00a0%")
    assert f"v-{HALF:.1f}" in drawn["a"] and f"v{HALF:.1f}" in drawn["b"]
    assert float(drawn["a"][1:].split()[0]) < 100 and float(drawn["b"][1:].split()[0]) > 900
    assert picture(replace(DIFF.variables[0], a_values=(), b_values=())) is None


def test_recordings_give_a_page_with_both_steps(tmp_path: Path) -> None:
    for name, slow in (("a", 1.0), ("b", 1.5)):
        write(str(tmp_path / name), Synthetic(layers=2, requests=2, slowdown=(slow, slow, slow)))
    with open_pair([str(tmp_path / "a")], str(tmp_path / "b")) as pair:
        diff, pairs = compare(pair), timelines(pair)
    page = diff_html.render(diff, pairs)
    assert '<section id="steps">' in page and diff.headline in page.replace("&gt;", ">")
    decode = next(one for one in pairs if one.phase == "decode")
    assert decode.a is not None and decode.b is not None
    description, _ = diff_timeline.packed(decode)
    assert [lane["label"] for lane in description["lanes"]] == [
        "before", "before · thread 0 · llama-server", "before · thread 1 · llama-server",
        "after", "after · thread 0 · llama-server", "after · thread 1 · llama-server",
    ]  # fmt: skip
    assert description["end"] == max(decode.a.dur_ns, decode.b.dur_ns)
    assert "at thread level" in diff_timeline.sentence(decode)
