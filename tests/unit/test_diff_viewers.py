"""The three shapes of a diff: the screen, JSON for scripts, Markdown for a pull request. On diffs made by hand."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from diffs import EVIL, diff, difference, everything, phase, row
from flowprof.profiler.diff import gate, statistics
from flowprof.profiler.diff.result import Comparability, Diff, PartShift, ThreadShift
from flowprof.viewers import diff_json, diff_markdown, diff_words
from flowprof.viewers.terminal import diff as terminal

REFUSED = diff(
    verdict="not comparable", headline="These recordings cannot be compared: another model.",
    comparability=Comparability("not comparable", 0.0, (difference("model", weight=1.0),), "per token"),
)  # fmt: skip
CASES: dict[str, Diff] = {
    "slower": diff(),
    "everything": everything(),
    "hostile": everything(EVIL),
    "long": everything("x" * 5000),
    "the same": diff(verdict="same", headline="nothing", rows=(row(significant=False),), phases=(phase(delta=0.0),)),
    "refused": REFUSED,
    "no phases": diff(verdict="not enough data", phases=(), rows=()),
    "not tested": diff(
        verdict="not enough data",
        phases=(phase(q=None, ci95=None, noise_ns_per_token=None, a_tail_ns=None, b_tail_ns=None, significant=False),),
        rows=(row(q=None, ci95=None, significant=False, parts=()),),
    ),
    "tiny and huge": diff(
        phases=(phase(a_ns_per_token=1e-6, b_ns_per_token=4e-6), phase("prefill", a_ns_per_token=9e9)),
        rows=(row(a_ns_per_token=1.0, b_ns_per_token=5e15, delta_ns_per_token=5e15),),
    ),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Diff:
    return CASES[request.param]


def shown(found: Diff, width: int = 80, encoding: str = "utf-8", at: float | None = None) -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    terminal.show(found, None if at is None else gate.judge(found, at), out, width)
    out.flush()
    return raw.getvalue().decode(encoding)


# ---------------------------------------------------------------------- terminal


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_it_fits_its_width_and_sends_no_control_characters(case: Diff, width: int) -> None:
    text = shown(case, width, at=0.05)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize("width", [80, 120])
def test_figures_are_never_cut(width: int) -> None:
    """At 80 columns the name gives way, not the figures: no line of a table ends in the middle of a number."""
    for line in shown(everything(), width).splitlines():
        if "more 1 " in line or "FLASH" in line or line.startswith(" ● decode"):
            assert line.count("…") == line.count(" … "), line


def test_it_is_one_screen(case: Diff) -> None:
    more = 3 * (case is CASES["long"])  # names of 5 000 signs in every place
    for width in (80, 120):
        assert len(shown(case, width, at=0.05).splitlines()) <= terminal.SCREEN + more
    assert len(shown(CASES["slower"], 80).splitlines()) <= 35


def test_what_finds_no_room_is_named() -> None:
    notes = tuple(f"note {number}: {'word ' * 60}" for number in range(9))
    threads = (ThreadShift("decode", 0, (PartShift("work", 1e6, 2e6),)),)
    text = shown(replace(everything(), notes=notes, threads=threads), 80)
    (last,) = [line for line in text.splitlines() if "no room for" in line]
    gone = last.partition("no room for ")[2].partition(":")[0].split(", ")
    assert "threads" in gone
    for name, words in (("threads", "Threads  "), ("resources", "Resources"), ("variables", "Variables")):
        assert (name in gone) != (words in text), name
    assert "no room" not in shown(CASES["slower"], 80)


def test_in_ascii(case: Diff) -> None:
    assert shown(case, 80, "ascii").isascii()


def test_it_says_what_matters() -> None:
    whole = everything()
    facts = replace(whole.comparability, differences=whole.comparability.differences[:1])
    less = replace(whole, comparability=facts, rows=whole.rows[:6], causes=whole.causes[:1], notes=whole.notes[:1])
    for one, said in (
        (whole, ["decode became slower", "comparable per token (score 0.30", "limit: 6.12.0 → 6.1.0 (limit)", "17 more",
                 "not known: open 0", "per token, limit", "+0.500 ms", "+10.0 %", "+0.400 … +0.600", "What changed",
                 "+0.390 … +0.410", "80 %", "<.001", "barrier +0.400", "renamed: limit → x", "its 95th percentile",
                 "1. limit is why", "(80 % of the change)", "confidence high", "start it with limit", "q < 0.01"]),
        (less, ["Resources", "64.0 → 64.0 … 4 096", "since 2.00 s after the recording began", "limit.c:12",
                "the note of limit"]),
    ):  # fmt: skip
        text = " ".join(shown(one, 120).split()).replace("\u00a0", " ")
        for words in said:
            assert words in text, words


def test_rows_add_up_to_the_change() -> None:
    """What is not shown is there as one line, so that the column's sum is that of all rows."""
    rows = (*(row(f"r{number}", 0.04) for number in range(10)), row("rest", 0.1, significant=False))
    text = shown(diff(rows=rows, phases=(phase(delta=0.5),)), 120)
    changes = [float(one) for one in re.findall(r"^ ●? +(?:r\d|\d+ more)\b.*?([+−]\d\.\d+)", text, re.M)]
    assert len(changes) == 6 and sum(changes) == pytest.approx(0.5)


def test_what_is_on_one_side_only_is_shown_though_it_is_not_significant() -> None:
    lines = shown(CASES["everything"], 120).splitlines()
    (gone,) = [line for line in lines if " gone " in line]
    (new,) = [line for line in lines if " new " in line]
    assert re.match(r" -  gone .* 1\.000 +– +−0\.200", gone) and re.match(r" \+  new .* – +1\.200 +\+0\.200", new)


def test_what_cannot_be_compared_shows_no_figures() -> None:
    for text in (shown(REFUSED), diff_markdown.render(REFUSED)):
        assert "cannot be compared" in text and "it matters" in text
        assert "MUL_MAT" not in text and "Phases" not in text and "Mann" not in text


def test_a_recording_in_which_nothing_changed() -> None:
    same = diff(verdict="same", headline="Nothing changed.", phases=(), rows=(), comparability=Comparability(
        "comparable", 1.0, (), ""))  # fmt: skip
    text = shown(replace(same, b=same.a))
    assert text.count("a.duckdb") == 1 and "score" not in text


@pytest.mark.parametrize(
    ("limit", "words"), [(0.05, "regression (exit code 3)"), (0.5, "within (exit code 0)"), (0.11, "not enough data")]
)
def test_the_gate_is_said(limit: float, words: str) -> None:
    assert words in shown(diff(), at=limit)


@pytest.mark.parametrize(
    ("ns", "unit", "text"),
    [(5e6, "ms", "5.000"), (5.5e7, "ms", "55.00"), (1.234e9, "s", "1.234"), (9e5, "µs", "900.0"), (12.0, "ns", "12.00"),
     (0.0, "ns", "0.000"), (None, "ns", "–"), (4e14, "s", "400000")],
)  # fmt: skip
def test_scales(ns: float | None, unit: str, text: str) -> None:
    scale = diff_words.scale(ns)
    assert (scale.unit, scale.value(ns)) == (unit, text)


def test_signs() -> None:
    scale = diff_words.scale(5e6)
    assert (scale.change(5e5), scale.change(-5e5), scale.change(None)) == ("+0.500", "−0.500", "–")
    assert (diff_words.change(-1.5e6), diff_words.change(None)) == ("−1.50\u00a0ms", "–")
    assert diff_words.relative(1.0, 0.0) == "new" and diff_words.relative(-1.0, 10.0) == "−10.0\u00a0%"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("1 043 cells of the cache, mean", "62.5 cells of the cache, mean", "x: 1 043 → 62.5 cells of the cache, mean"),
        ("0.05 processors used", "1 threads", "x: 0.05 processors used → 1 threads"),
        ("2", "1", "x: 2 → 1"),
        ("", "3 GB/s", "x: unknown → 3 GB/s"),
        ("q8_0 99 % (8.5 bits)", "q4_0 99 % (8.5 bits)", "x: q8_0 99 % (8.5 bits) → q4_0 99 % (8.5 bits)"),
        ("0.1 % of it", "20.0 % of it", "x: 0.1 → 20.0 % of it"),
    ],
)
def test_a_unit_that_both_have_is_said_once(a: str, b: str, words: str) -> None:
    assert diff_words.fact(difference("x", a=a, b=b)) == words


def test_how_significance_is_decided_is_said_as_it_is() -> None:
    """The footnote holds the figures of the code."""
    assert f"q < {statistics.LEVEL:g} " in diff_words.SIGNIFICANCE
    assert "three of four pairs" in diff_words.SIGNIFICANCE and statistics.SUPERIORITY == 3 / 4
    assert f"{statistics.TAIL * 100:g}th percentile" in diff_words.SIGNIFICANCE


# ---------------------------------------------------------------------- JSON

KEYS = {
    "schema_version": int, "verdict": str, "headline": str, "comparable": bool, "comparability": dict,
    "differences": list, "same": list, "total_ns_per_token": (float, type(None)), "ci95": (list, type(None)),
    "phases": list, "rows": list, "threads": list, "resources": list, "variables": list, "causes": list,
    "gate": (dict, type(None)), "a": dict, "b": dict, "changed_at_ns": (int, type(None)), "notes": list,
    "halves": list,
}  # fmt: skip


def test_json_has_its_schema(case: Diff) -> None:
    text = diff_json.render(case, gate.judge(case, 0.05))
    assert text.isascii() and "NaN" not in text and "Infinity" not in text
    document = json.loads(text)
    assert document.keys() == KEYS.keys()
    for key, kind in KEYS.items():
        assert isinstance(document[key], kind), key
    for one in document["rows"]:
        assert {"kind", "name", "phase", "a_ns_per_token", "b_ns_per_token", "delta_ns_per_token", "ci95", "q"} <= set(
            one
        )
    for one in document["causes"]:
        assert {"claim", "kind", "share", "confidence", "evidence", "next"} <= set(one)
    for one in document["differences"]:
        assert one["sameness"] in ("different", "unknown")
    assert {"limit", "outcome", "exit_code", "sentence"} == set(document["gate"])


def test_json_says_it() -> None:
    document = json.loads(diff_json.render(diff()))
    assert (document["comparable"], document["comparability"]["verdict"]) == (True, "comparable")
    assert (document["total_ns_per_token"], document["ci95"]) == (5e5, [4e5, 6e5])
    assert [one["what"] for one in document["differences"]] == ["kernel", "model file"]
    assert (document["same"], document["gate"]) == (["threads"], None)
    assert json.loads(diff_json.render(REFUSED))["comparable"] is False


def test_json_knows_no_infinity() -> None:
    odd = diff(phases=(phase(delta=float("nan")), phase("prefill", float("inf"))))
    document = json.loads(diff_json.render(odd))
    assert document["total_ns_per_token"] is None and document["phases"][1]["delta_ns_per_token"] is None


# ---------------------------------------------------------------------- Markdown


def test_markdown_is_short(case: Diff) -> None:
    text = diff_markdown.render(case, gate.judge(case, 0.05))
    assert len(text.splitlines()) <= 70 and len(text) < 30_000
    assert text.startswith("### flowprof: ") and text.endswith("\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_markdown_tables_are_whole(case: Diff) -> None:
    """Every line of a table has as many cells as its head: a name ends none."""
    cells: int | None = None
    for line in diff_markdown.render(case).splitlines():
        if not line.startswith("|"):
            cells = None
            continue
        bars = len(re.findall(r"(?<!\\)\|", line))
        cells = cells or bars
        assert bars == cells, line


@pytest.mark.parametrize("render", [diff_markdown.prose, diff_markdown.code])
def test_names_are_harmless(render: Callable[[str], str]) -> None:
    text = render(EVIL)
    assert "\n" not in text and "\x1b" not in text and "\u202e" not in text
    if text.startswith("`"):  # within a code span only its end and a table's matter
        assert text.count("`") == 2 and not re.search(r"(?<!\\)\|", text)
    else:
        assert "<" not in text and "@org" not in text and "://" not in text
        assert not re.search(r"(?<!\\)[|`*\[\]#]", text)


def test_a_name_in_markdown_cannot_mention_link_or_tag() -> None:
    """Outside of code spans."""
    text = re.sub(r"`[^`]*`", "", diff_markdown.render(CASES["hostile"], gate.judge(CASES["hostile"], 0.05)))
    for harm in ("<script", "@org", "http://"):
        assert harm not in text.replace("\\", "")
    assert not re.search(r"(?<!\\)[\[\]]", text)


def test_markdown_says_it() -> None:
    text = diff_markdown.render(diff(), gate.judge(diff(), 0.05)).replace("\u00a0", " ")
    for words in ["❌ regression, the limit is 5.0 %**: decode is 10.0 % slower", "`a.duckdb` → `b.duckdb`",
                  "**kernel**: `6.12.0` → `6.1.0`: it matters", "not known: model file", "| `decode` | 5.00 ms |",
                  "`MUL_MAT ffn_up 768x2048 q8_0` | `decode` | 1.000 | 1.300 | +0.300 | +0.290 … +0.310"]:  # fmt: skip
        assert words in text, words
