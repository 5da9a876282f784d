"""Every viewer on the same reports: full, empty, hostile, lossy, cut off."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.report import Report, Timeline, build_report, timeline
from flowprof.profiler.store import Recording
from flowprof.viewers import html, quantity, terminal
from flowprof.viewers import json as json_viewer
from flowprof.viewers.packing import pack
from synthetic import Synthetic, write, write_empty

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
    "many threads": Synthetic(threads=40, requests=1, tokens=10, cycle=("thread",)),
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
                 "none", "barrier wait", "of decode, from"],
        "empty": ["No graph was executed"],
        "lossy": ["verdicts are withheld", "ring"],
        "cut off": ["cut off"],
        "token level": ["skipped: no operators"],
        "many threads": ["32 more"],
        "hostile": ["\\x1b"],
    }[case]  # fmt: skip
    for words in expected:
        assert words in text, words


def test_terminal_is_one_screen(seen: tuple[str, Report, Timeline]) -> None:
    assert len(shown(seen[1], 80).splitlines()) <= 75
    assert len(shown(seen[1], 140).splitlines()) <= 55


def test_no_color_when_piped_or_asked(seen: tuple[str, Report, Timeline], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(seen[1], 80)


# ---------------------------------------------------------------------- JSON

KEYS = {
    "schema_version": int, "recording": dict, "engine": dict, "phases": list, "latency": dict, "operators": list,
    "layers": list, "blocks": list, "threads": list, "coverage": dict, "requests": dict, "losses": dict,
    "overhead": dict, "findings": list, "findings_withheld": int, "sections": list, "notes": list,
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
    assert page.count("<script") == page.count("</script>") == 5
    assert "\x1b" not in page and "\u202e" not in page
    if seen[0] == "hostile":
        assert "&lt;/script&gt;" in page
        assert "49" not in re.findall(r"&amp;(..)", page)


def test_html_names_what_is_missing(seen: tuple[str, Report, Timeline]) -> None:
    page = html.render(seen[1], seen[2])
    if seen[0] in ("empty", "token level"):
        assert "Operators skipped" in page
    if seen[0] == "empty":
        assert "A recording without tokens" in page and "<canvas" not in page


def test_packed_arrays_unpack_to_the_timeline(seen: tuple[str, Report, Timeline]) -> None:
    drawn = seen[2]
    description, text = pack(drawn)
    data = np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype=np.uint8)
    assert description["size"] == len(data)

    def array(place: list[int]) -> np.ndarray:
        offset, length, width = place
        planes = data[offset : offset + length * width].reshape(width, length)
        return sum(planes[i].astype(np.int64) << (8 * i) for i in range(width))  # type: ignore[return-value]

    packed = description["lanes"]
    assert len(packed) == len(drawn.graphs) + len(drawn.operators)
    for lane, original in zip(packed, [*drawn.graphs, *drawn.operators], strict=True):
        gap, duration = array(lane["gap"]), array(lane["dur"])
        for item, more in lane["jumps"]:
            gap[item] += more
        start = np.cumsum(gap + np.concatenate(([0], duration[:-1]))) if len(gap) else gap
        assert np.array_equal(start * description["unit"], original.start_ns)
        assert np.array_equal(duration * description["unit"], original.dur_ns)


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
