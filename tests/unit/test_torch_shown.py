"""PyTorch's operators in every viewer: texts and numbers that are hostile, or many."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.analyzers.torch_operators import ANALYZER
from flowprof.profiler.report import Report, Timeline, build_report, timeline
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from flowprof.viewers import json as json_viewer
from synthetic import CEILINGS
from torch_recordings import COPY, EVIL, MM, PID, Made
from traces import imported, kineto, slice_


def hostile() -> Made:
    made = Made(cpu_model=EVIL, tensor_layout=f"unknown: {EVIL}")
    made.row((EVIL, [[3, 5]], [EVIL]), 400_000)
    made.row(("aten::mm" + EVIL, *MM[1:]), 100_000)
    made.row(MM, 2_000_000, away=900_000, state=EVIL)
    made.row(COPY, 500_000)
    made.row("", 400)
    made.call(EVIL, 5, None)
    made.comms[PID] = EVIL
    made.source = EVIL
    return made


def several() -> Made:
    made = Made()
    for n in range(30):
        made.row((f"aten::{'long_' * 8}{n}", *MM[1:]), 50_000 + n)
    made.row(MM, 400_000)
    for tid in range(100, 130):
        made.call("aten::mm", 0, 50, tid=tid)
    return made


@pytest.fixture(scope="module", params=[hostile, several], ids=["hostile", "several"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Report, Timeline]:
    path = request.param().write(tmp_path_factory.mktemp("viewers") / "a.duckdb")
    with Recording.open(path) as recording:
        return request.param, build_report(recording), timeline(recording)


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_terminal(seen: tuple[Any, Report, Timeline], width: int, encoding: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    terminal.show(seen[1], out, width)
    out.flush()
    text = raw.getvalue().decode(encoding)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    section = text.split("PyTorch operators", 1)[1]
    assert "mm" in section and "thread 4242" in section
    if seen[0] is several:
        assert "20 more" in section
    if width >= 80:  # names may be cut, numbers not
        heads, *rows = section.splitlines()[1:] if "operator" in section.splitlines()[1] else section.splitlines()[2:]
        assert heads.rstrip().endswith("of max")
        for line in rows[:4]:
            numbers = line[heads.index("bound") + 12 :]
            assert "…" not in numbers and ".." not in numbers and re.search(r"\d.% +[\d.]+", numbers), line


def test_html(seen: tuple[Any, Report, Timeline]) -> None:
    page = html.render(seen[1], seen[2])
    assert "<img" not in page and "\x1b" not in page and "\u202e" not in page
    section = page.split('<section id="torch">', 1)[1].split("</section>", 1)[0]
    assert page.count("<script") == page.count("</script>") == 6
    if seen[0] is hostile:
        assert "&lt;/script&gt;" in section and "{{7*7}}" in section and "1 calls were left by an exception" in section
        assert "\\x1b" in section
    else:
        rows = section.split("</tbody>")[0].count("<tr><td")
        assert rows == 32
        assert "GFLOP/s (synthetic)" in section


def finite(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_json(seen: tuple[Any, Report, Timeline]) -> None:
    report = seen[1]
    told = finite(json_viewer.render(report))["torch_operators"]
    table = report.get(TorchOperators)
    assert table is not None
    assert [row["self_ns"] for row in told["rows"]] == [row.self_ns for row in table.rows]
    assert {"name", "shape", "calls", "left", "total_ns", "self_ns", "share", "bound", "ceiling_share", "headroom_ns",
            "evidence"} <= set(told["rows"][0])  # fmt: skip
    assert set(told) >= {"threads", "calls", "self_ns", "observed_ns", "probe_share", "running_threads", "ceilings"}


HUGE = (1 << 62) - 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-300, None])
def test_hostile_ceilings(tmp_path: Path, value: float | None) -> None:
    made = Made()
    made.row(MM, 400_000)
    made.row(COPY, 400_000)
    made.ceilings = [(what, dtype, threads, value) for what, dtype, threads, _ in CEILINGS]
    table = made.table(tmp_path)
    assert {row.bound for row in table.rows} == {"unknown"}
    assert table.ceilings == ()


@pytest.mark.parametrize(
    "calls",
    [
        [(0, HUGE, None), (HUGE - 1, HUGE, None)],
        [(-HUGE, HUGE, None)],
        [(100, 0, None)],  # ends before it begins
        [(0, 0, None)],
        [(0, None, None)],
        [(0, 100, 0), (10, None, 0), (20, 90, 1)],  # in itself
        [(0, None, 1), (0, None, 0), (5, 10, 1)],  # in one another, and left
        [(0, 100, 1), (0, 100, 0)],
        [(0, 100, 77)],  # in none
    ],
)
def test_hostile_calls(tmp_path: Path, calls: list[tuple[int, int | None, int | None]]) -> None:
    made = Made()
    for start, end, parent in calls:
        made.call(MM, start, end, None if parent is None else PID << 32 | parent)
    made.away(5, 50)
    made.away(-HUGE, HUGE, "")
    with Recording.open(made.write(tmp_path / "a.duckdb")) as recording:
        outcome = ANALYZER.run(recording)
    assert outcome.status == "ok" or "out of range" in outcome.reason.lower() or "overflow" in outcome.reason.lower()


def test_hostile_calls_in_every_viewer(tmp_path: Path) -> None:
    made = Made()
    for start, end, parent in [(100, 0, 0), (0, None, 2), (0, None, 1), (5, 10, 1), (0, 0, 77), (0, 0, None)]:
        made.call(MM, start, end, None if parent is None else PID << 32 | parent)
    with Recording.open(made.write(tmp_path / "a.duckdb")) as recording:
        report, drawn = build_report(recording), timeline(recording)
    assert report.section("torch_operators").status == "ok"
    assert '<section id="torch">' in html.render(report, drawn)
    finite(json_viewer.render(report))
    for width in (80, 160):
        terminal.show(report, io.StringIO(), width)


def test_a_trace_that_does_not_say_which_thread(tmp_path: Path) -> None:
    events = [slice_("cpu_op", "aten::mm", n, 1, pid="x", tid=1 << 64) for n in range(3)]
    with imported(kineto(tmp_path / "a.json", events)) as recording:
        report = build_report(recording)
        page = html.render(report, timeline(recording))
    table = report.get(TorchOperators)
    assert table is not None and [(one.pid, one.tid, one.role) for one in table.threads] == [(None, None, "other")]
    out = io.StringIO()
    terminal.show(report, out, 80)
    assert "thread of no known number: 3 calls" in out.getvalue() and "None" not in out.getvalue()
    assert ">not known</td>" in page
