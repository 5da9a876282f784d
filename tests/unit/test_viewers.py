"""Every viewer on the same reports: full, empty, hostile, lossy, cut off."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from flowprof.profiler import timeline as timeline_module
from flowprof.profiler.machine.ceilings import Ceiling, What
from flowprof.profiler.report import Report, Timeline, build_report, timeline
from flowprof.profiler.sections.experts import ExpertLayer, ExpertTable
from flowprof.profiler.sections.verdicts import Verdict, VerdictTable
from flowprof.profiler.store import Recording
from flowprof.viewers import charts as charts_module
from flowprof.viewers import html, quantity, roofline, terminal
from flowprof.viewers import json as json_viewer
from flowprof.viewers.charts import charts
from flowprof.viewers.charts import experts as experts_charts
from flowprof.viewers.packing import pack
from planted import plant, plant_counters
from synthetic import CEILINGS, Synthetic, write, write_empty

EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&{{7*7}}"
SPECS = {
    "full": Synthetic(),
    "hostile": Synthetic(
        rename={"ffn_up": EVIL, "kq": EVIL},
        meta={"host": EVIL, "rung": EVIL, "rung_reason": EVIL, "command_line": EVIL, "cpu_model": EVIL},
    ),
    "lossy": Synthetic(losses=50_000),
    "cut off": Synthetic(meta={"clean_end": "false"}),
    "token level": Synthetic(cycle=("token",)),
    "judged": Synthetic(ceilings=CEILINGS),
    "judged, hostile": Synthetic(ceilings=CEILINGS, rename={"ffn_up": EVIL}),
    "many threads": Synthetic(threads=40, requests=1, tokens=10, cycle=("thread",)),
    "verdicts": Synthetic(ceilings=CEILINGS),
    "counted": Synthetic(layers=22),
    "empty": None,
}


@pytest.fixture(scope="module", params=SPECS, ids=list(SPECS))
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Report, Timeline]:
    path = str(tmp_path_factory.mktemp("viewers") / "a.duckdb")
    spec = SPECS[request.param]
    if spec is None:
        write_empty(path)
    else:
        write(path, spec)
    if request.param.startswith("judged"):
        plant(path, EVIL if "hostile" in request.param else "hog")
    if request.param == "counted":
        plant_counters(path)
    with Recording.open(path) as recording:
        return request.param, build_report(recording), timeline(recording)


def shown(report: Report, width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    terminal.show(report, out, width)
    out.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [40, 80, 140, 200])
def test_terminal_fits_its_width_and_sends_no_control_characters(
    seen: tuple[str, Report, Timeline], width: int
) -> None:
    text = shown(seen[1], width)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_terminal_in_ascii(seen: tuple[str, Report, Timeline]) -> None:
    text = shown(seen[1], 80, "ascii")
    assert text.isascii()
    if seen[0] == "full":
        assert " us" in text and "…" not in text


def test_terminal_says_what_matters(seen: tuple[str, Report, Timeline]) -> None:
    case, report, _ = seen
    text = shown(report, 80)
    expected = {
        "full": ["441 tokens", "TTFT 139\u00a0ms", "TPOT 3.56\u00a0ms", "MUL_MAT", "58.3\u00a0%", "operator site",
                 "none", "barrier wait", "of decode,"],
        "empty": ["No graph was executed"],
        "lossy": ["verdicts are withheld", "ring"],
        "cut off": ["cut off"],
        "token level": ["skipped: no operators"],
        "many threads": ["32 more"],
        "counted": ["from memory", "of weights by the model: less", "not counted: stalled_cycles"],
        "judged": ["What bounds each operator"],
        "judged, hostile": ["What bounds each operator"],
        "hostile": ["\\x1b"],
        "verdicts": ["What bounds each operator", "of what memory allows", "2048x5632 q8_0 n=1", "DRAM"],
    }[case]  # fmt: skip
    for words in expected:
        assert words in text, words


def test_terminal_is_one_screen(seen: tuple[str, Report, Timeline]) -> None:
    more = 15 if seen[0] == "counted" else 0  # a section that was asked for, and its findings
    assert len(shown(seen[1], 80).splitlines()) <= 75 + more
    assert len(shown(seen[1], 140).splitlines()) <= 55 + more


def test_no_color_when_piped_or_asked(seen: tuple[str, Report, Timeline], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(seen[1], 80)


# ---------------------------------------------------------------------- JSON

JUDGED = ("verdicts", "judged", "judged, hostile")
KEYS = {
    "schema_version": int, "recording": dict, "engine": dict, "phases": list, "latency": dict, "operators": list,
    "layers": list, "blocks": list, "verdicts": dict, "threads": list, "waits": dict, "blocked": dict,
    "thread_count": dict, "counters": dict, "operator_counters": dict, "coverage": dict, "requests": list,
    "request_totals": dict, "slo": dict, "processes": dict,
    "resources": list, "resource_totals": dict,
    "losses": dict, "overhead": dict, "graph": list, "drift": dict, "experts": dict, "gpu": dict,
    "torch_operators": dict, "cuda_host": dict,
    "overlap": list, "exposure": dict, "findings": list,
    "findings_withheld": int, "sections": list, "notes": list,
}  # fmt: skip


def test_json_has_its_schema(seen: tuple[str, Report, Timeline]) -> None:
    text = json_viewer.render(seen[1])
    assert text.isascii() and "NaN" not in text and "Infinity" not in text
    document = json.loads(text)
    assert {key: type(value) for key, value in document.items()} == KEYS
    assert {"ratio", "ci95", "windows"} <= set(document["overhead"])
    for phase in document["phases"]:
        assert {"phase", "tokens", "graphs", "total_ns", "tokens_per_s"} <= set(phase)
    for row in document["operators"]:
        assert {"op", "block", "phase", "calls", "total_ns", "share", "p50_ns", "p99_ns"} <= set(row)
    assert (seen[0] in JUDGED) == bool(document["verdicts"]["phases"])
    for row in document["verdicts"]["groups"]:
        assert {"op", "shape", "bound", "gflops", "gbps", "ceiling", "floor_ns", "confidence"} <= set(row)
    for finding in document["findings"]:
        assert {"id", "claim", "cost_ns_per_token", "confidence", "evidence", "advice"} <= set(finding)
    if seen[0] == "full":
        assert document["operators"][0] | {"share": 0} == document["operators"][0] | {
            "op": "MUL_MAT", "block": "ffn", "phase": "decode", "calls": 1692, "p50_ns": 160_000.0, "p99_ns": 170_000.0,
            "share": 0,
        }  # fmt: skip


# ---------------------------------------------------------------------- HTML


def test_html_is_self_contained_and_escaped(seen: tuple[str, Report, Timeline]) -> None:
    page = html.render(seen[1], seen[2])
    assert page.startswith("<!doctype html>") or page.lstrip().startswith("<!doctype html>")
    assert len(page) < 4_000_000
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", page.split("<script", 1)[0]), "a reference to elsewhere"
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 6
    assert "\x1b" not in page and "\u202e" not in page
    if seen[0] == "hostile":
        assert "&lt;/script&gt;" in page
        assert "\\u003c/script\\u003e" in page.split('id="graph-data">', 1)[1].split("</script>", 1)[0]
        assert "49" not in re.findall(r"&amp;(..)", page)


def test_findings_come_first_with_their_price_and_lead_on(seen: tuple[str, Report, Timeline]) -> None:
    case, report, drawn = seen
    page = html.render(report, drawn)
    assert page.count('<li class="finding ') == len(report.findings)
    kinds = re.findall(r'<li class="finding (problem|notice)">', page)
    assert kinds == sorted(kinds, reverse=True)
    if report.findings:
        sections = re.findall(r'<section id="(\w+)">', page)
        assert sections[0] == "findings"
        assert set(re.findall(r'<p class="to"><a href="#(\w+)">', page)) <= set(sections)
    if case == "judged":
        assert re.search(r'class="cost">≤ [\d.]+\u00a0.?s per decode token, [\d.]+\u00a0% of it<', page)


def test_html_shows_verdicts_and_waits(seen: tuple[str, Report, Timeline]) -> None:
    case, report, drawn = seen
    page = html.render(report, drawn)
    if case != "judged":
        if not case.startswith("judged"):
            assert "Waits skipped" in page
        if case not in JUDGED:
            assert "What bounds each operator skipped" in page or '<p class="warn">no ceilings; flowprof' in page
        return
    for words in ("% of what this machine&#39;s memory allows", "% of what this machine&#39;s arithmetic allows",
                  "hog (99)", "3 major page faults", "DRAM 90.0 GB/s", "synthetic", "no processor"):  # fmt: skip
        assert words in page, words
    verdicts = report.get(VerdictTable)
    assert verdicts is not None
    assert page.split('id="verdict-table"', 1)[1].split("</table>", 1)[0].count("<details>") == len(verdicts.rows)
    figures = charts(report, drawn)
    assert list(figures["roofline"]["by"]) == ["decode", "prefill"] == list(figures["waits"]["by"])
    roofs = [line for line in figures["roofline"]["by"]["decode"]["data"] if line["mode"] == "lines"]
    assert len(roofs) == len(verdicts.ceilings)
    for share in zip(*(bar["x"] for bar in figures["waits"]["by"]["decode"]["data"]), strict=True):
        assert sum(share) == pytest.approx(100, abs=0.1)


def test_chart_texts_are_escaped_for_plotly(seen: tuple[str, Report, Timeline]) -> None:
    if seen[0] == "judged, hostile":
        figures = charts(seen[1], seen[2])["roofline"]["by"]
        words = " ".join(figures["decode"]["data"][-1]["text"] + figures["prefill"]["data"][-1]["text"])
        assert "&lt;img" in words
        assert set(re.findall(r"<[^>]*>", words)) == {"<br>"}


def test_roof_labels_keep_apart() -> None:
    figure = roofline.rooflines(_table((1.00e9, 1.01e9, 1.02e9), (4e11, 4.01e11)))["decode"]
    left = [note["yshift"] for note in figure["layout"]["annotations"] if note["xanchor"] == "right"]
    assert left[0] == 0 and left[1] > 10 and left[2] > 25


def _table(bandwidths: tuple[float, ...], peaks: tuple[float, ...]) -> VerdictTable:
    names: tuple[What, ...] = ("dram_read", "llc_read", "l2_read")
    ceilings = [Ceiling(what, "", 2, value, value, value, "s") for what, value in zip(names, bandwidths, strict=True)]
    ceilings += [Ceiling("gemm", "f32", number, value, value, value, "s") for number, value in enumerate(peaks)]
    row = Verdict("decode", "ffn", "MUL_MAT", "8x8", None, ("a",), 1, 9, 9, 900, 1.0, 100.0, 100.0, "memory-dram",
                  "high", "DRAM", 2.0, 1.0, 2.0, "dram_read", 1e9, 0.9, 90.0, 10.0, "", None, ("said",), (), None,
                  None)  # fmt: skip
    return VerdictTable((row,), (), tuple(ceilings), (), None, None, True, False, (), (), ())


def test_charts_say_what_they_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(ceilings=CEILINGS, layers=5, experts=(8, 2)))
    plant(path)
    with Recording.open(path) as recording:
        report, drawn = build_report(recording), timeline(recording, 100)
    assert {figure.get("note", "") for figure in charts(report, drawn).values()} == {""}
    for name, most in (("MAX_THREADS", 1), ("MAX_LAYERS", 2), ("MAX_CELLS", 24)):
        monkeypatch.setattr(charts_module, name, most)
    monkeypatch.setattr(roofline, "MAX_POINTS", 3)
    figures, page = charts(report, drawn), html.render(report, drawn)
    assert figures["threads"]["note"] == "The first 1 of 2 threads; the others are in the table."
    assert figures["waits"]["note"].startswith("decode: The first 1 of 2 threads; the others are in the table.")
    assert figures["layers"]["note"] == "The first 2 of 5 layers; the others are in the table."
    assert "The first 3 of 5 layers" in figures["experts"]["note"]
    assert re.match(r"decode: The 3 of \d+ with most time\.", figures["roofline"]["note"])
    assert len(figures["waits"]["by"]["decode"]["data"][0]["y"]) == 1
    for name in ("threads", "waits", "layers", "experts", "roofline"):
        assert f'<p class="keys">{figures[name]["note"]}</p>' in page, name


def test_heat_map_of_experts() -> None:
    layer = ExpertLayer(1, "decode", 3, 4, 2, 9, 9, (1, 1, 2, 0), 1.5, 0.75, 2.0, 0.5, None, 2.0, 2.0, 3, 9.0, 18.0,
                        1.0, 2.0, 0.5)  # fmt: skip
    rows = (
        layer,
        replace(layer, layer=4, counts=(0, 0, 0, 0)),
        replace(layer, layer=None),
        replace(layer, phase="prefill"),
    )
    figures = experts_charts(ExpertTable((), rows, 0))
    assert list(figures) == ["decode", "prefill"]
    assert figures["decode"]["data"][0]["y"] == ["3", "–"], "a layer without uses has no row"
    assert figures["decode"]["data"][0]["z"][0] == [25, 25, 50, 0]
    assert figures["decode"]["data"][1]["x"] == [75, 75]
    assert experts_charts(None) == {}


def test_the_longest_states_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic())
    plant(path, many=500)
    monkeypatch.setattr(timeline_module, "MAX_STATES", 60)
    with Recording.open(path) as recording:
        drawn = timeline(recording)
    assert drawn.states_shown == 60 < drawn.states_total
    assert min(int(lane.dur_ns.min()) for lane in drawn.states) >= 50_000
    assert {other.tid for other in drawn.others} <= {99, 4242, 0, None}
    page = html.render(build_report_of(path), drawn)
    assert "the 60 longest of" in page


def build_report_of(path: str) -> Report:
    with Recording.open(path) as recording:
        return build_report(recording)


def test_html_names_what_is_missing(seen: tuple[str, Report, Timeline]) -> None:
    page = html.render(seen[1], seen[2])
    if seen[0] in ("empty", "token level"):
        assert "Operators skipped" in page
    if seen[0] == "empty":
        assert "A recording without tokens" in page and "<canvas" not in page


def test_html_bounds_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "layers.duckdb")
    write(path, Synthetic(layers=5, experts=(8, 2), cycle=("op", "thread")))
    with Recording.open(path) as recording:
        report, drawn = build_report(recording), timeline(recording, 100)
    assert "more rows are left out" not in html.render(report, drawn)
    monkeypatch.setattr(html, "MAX_ROWS", 2)
    page = html.render(report, drawn)
    rows = [report.section(name).value.rows for name in ("layers", "blocks", "threads")]
    left_out = [len(some) - 2 for some in (*rows, report.section("experts").value.layers)]
    assert min(left_out) > 0
    assert re.findall(r"(\d+) more rows are left out", page) == [str(number) for number in left_out]
    assert page.count('data-layer="') < 20


def test_packed_arrays_unpack_to_the_timeline(seen: tuple[str, Report, Timeline]) -> None:
    drawn = seen[2]
    description, text = pack(drawn)
    data = np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype=np.uint8)
    assert description["size"] == len(data)

    def array(place: list[int]) -> np.ndarray:
        offset, length, width = place
        planes = data[offset : offset + length * width].reshape(width, length)
        return sum(planes[i].astype(np.int64) << (8 * i) for i in range(width))

    packed = description["lanes"]
    for lane, original in zip(packed, [*drawn.graphs, *drawn.operators, *drawn.states], strict=True):
        gap, duration = array(lane["gap"]), array(lane["dur"])
        for item, more in lane["jumps"]:
            gap[item] += more
        start = np.cumsum(gap + np.concatenate(([0], duration[:-1]))) if len(gap) else gap
        assert np.array_equal(start * description["unit"], original.start_ns)
        assert np.array_equal(duration * description["unit"], original.dur_ns)
        if lane["type"] == "states":
            assert np.array_equal(array(lane["kind"]), original.state)
            assert np.array_equal(array(lane["by"]), original.by)


def test_packing_survives_gaps_and_durations_beyond_32_bits(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(requests=2, tokens=3, pause_ns=30_000_000_000, cycle=("op",)))
    with Recording.open(path) as recording:
        drawn = timeline(recording)
    description, _ = pack(drawn)
    assert description["unit"] == 1
    assert description["lanes"][0]["jumps"] and description["lanes"][0]["jumps"][0][0] == 4


# ---------------------------------------------------------------------- quantities


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, "–"), (0, "0 ns"), (999, "999 ns"), (1000, "1.00 µs"), (12_345, "12.3 µs"), (999_600, "1.00 ms"),
     (3_563_000, "3.56 ms"), (123_456_789, "123 ms"), (2.5e9, "2.50 s"), (720e9, "12.0 min"), (-1e6, "-1.00 ms")],
)  # fmt: skip
def test_durations(ns: float | None, text: str) -> None:
    assert quantity.duration(ns).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("ffn_up-3", "ffn_up-3"), ("a\x1b[2J", "a\\x1b[2J"), ("\u202eevil", "\\u202eevil"), ("a\nb\tc", "a\\x0ab\\x09c"),
     ("é中", "é中"), ("x" * 300, "x" * 199 + "…"), ("\ud800", "\\ud800")],
)  # fmt: skip
def test_names_are_harmless(name: str, text: str) -> None:
    assert quantity.clean(name) == text


def test_counters_in_every_viewer(seen: tuple[str, Report, Timeline]) -> None:
    report = seen[1]
    pages = (shown(report, 80), html.render(report, seen[2]))
    assert all(("Counters" in page and "from memory" in page) == (seen[0] == "counted") for page in pages)
    rows = json.loads(json_viewer.render(report))["operator_counters"].get("rows", [])
    assert bool(rows) == (seen[0] == "counted")
    if rows:
        assert rows[0]["ipc"] == pytest.approx(4 / 3) and rows[0]["stalled_share"] is None
        assert "1.33" in pages[0]


def test_html_of_graphs_without_layers(tmp_path: Path) -> None:
    """Tables that have no chart to go with."""
    path = str(tmp_path / "x.duckdb")
    write(path, Synthetic(layers=1))
    with duckdb.connect(path) as db:
        db.execute("UPDATE graph_node SET layer = NULL")
    with Recording.open(path) as recording:
        report, drawn = build_report(recording), timeline(recording)
    assert "layers" not in charts(report, drawn)
    assert 'data-chart="layers"' not in html.render(report, drawn)
