"""The page's lanes of CUDA calls and GPU work in a real browser: they fit, are named, are found, say what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from chromium import FRAMES, Chromium, Page
from device_calls import Program
from html_pages import page_of, ready
from traces import SHARED, imported, kineto, step
from undisturbed import DISTURBED

pytestmark = [pytest.mark.browser, pytest.mark.parallel]

A, B = 0xA000, 0xB000
TIP = "document.querySelector('#timeline .tip')"
WITHIN = (  # the window, wholly: no edge of the stage cuts it off
    f"(() => {{ const b = {TIP}.getBoundingClientRect(); return !{TIP}.hidden && b.height > 0 && b.left >= 0 && "
    "b.top >= 0 && b.right <= innerWidth && b.bottom <= innerHeight && "
    f"getComputedStyle({TIP}).position === 'fixed'; }})()"
)
TRACES = (
    *(f"kineto/{name}/trace.json.gz" for name in ("h100_qwen05b", "vllm_decode_graph", "event_sync_multi_stream")),
    "nsys/h100_2gpu_1s.sqlite",
)
LABELS = "[...new Set(flowprof.timeline.lanes.map((lane) => lane.label))]"
LEGEND = "document.querySelector('#timeline .legend').innerText"


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of calls: 200 rounds of two kernels, a copy, a wait and an allocation."""
    program = Program()
    for number in range(200):
        at = 300.0 * number
        program.launch(at, A, name="void gemm::kernel<float, 128>(float const*, float*)", grid="[7, 5, 3]")
        program.sync(at + 8, 100, A)
        program.launch(at + 110, B, name="rms_norm(float const*, float*, int)")
        program.call("cudaMemcpyAsync", at + 120, 50, A, bytes=1 << 20, direction="HtoD", host_memory="pageable")
        program.sync(at + 180, 60, B)
        program.call("cudaMalloc", at + 250, 20, None, bytes=4096, address=0x700)
    folder = tmp_path_factory.mktemp("called")
    return page_of(program.write(folder / "called.duckdb"), folder / "called.html")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    return page_of(imported(kineto(folder / "a.json", step())), folder / "traced.html")


def timeline_in(browser: Chromium, path: Path, **how: Any) -> Page:
    """The page, scrolled to its timeline."""
    page = ready(browser, path, **how)
    page.evaluate("document.querySelector('#time').scrollIntoView({behavior: 'instant'})")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    return page


@pytest.mark.parametrize("width", [360, 900, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_calls_fit_every_width(browser: Chromium, called: Path, width: int, dark: bool) -> None:
    page = timeline_in(browser, called, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "scrolls sideways"
    assert page.evaluate(LABELS) == ["calls · thread 1"]
    legend = page.evaluate(LEGEND)
    assert all(word in legend for word in ("launches", "waits", "copies", "allocation"))
    colours = page.evaluate("flowprof.timeline.palette.operators")
    used = page.evaluate("[...new Set(flowprof.timeline.description.kinds.map((kind) => kind[2]))]")
    assert len({colours[block] for block in used}) == len(used), "each kind of call has a colour of its own"
    assert page.problems() == []


@pytest.mark.parametrize("width", [360, 1200])
def test_a_kernel_is_found_and_told(browser: Chromium, called: Path, width: int) -> None:
    """The one lane is lower than what is said of a call: nothing of that may be cut off."""
    page = timeline_in(browser, called, width=width)
    assert page.evaluate("flowprof.timeline.find('rms_norm')") == 200
    page.evaluate("flowprof.timeline.jump(1)")
    told = page.evaluate(f"{TIP}.innerText")
    assert "cudaLaunchKernel" in told and "rms_norm(float const*, float*, int) · stream 0xb000" in told
    assert page.evaluate(WITHIN)
    assert page.evaluate("flowprof.timeline.find('htod pageable')") == 200
    assert page.evaluate("flowprof.timeline.find('waits 0xa000')") == 200
    page.evaluate("window.scrollBy({top: 300, behavior: 'instant'})")
    page.wait(f"{TIP}.hidden", 5)


@DISTURBED
def test_pointing_and_zooming(browser: Chromium, called: Path) -> None:
    page = timeline_in(browser, called)
    x, y = page.evaluate(
        "(() => { const t = flowprof.timeline, l = t.lanes[0], b = t.canvas.getBoundingClientRect();"
        " t.view(l.start[1] - 50e3, l.start[1] + 150e3); return [b.x + b.width / 2, b.y + l.y + l.high / 2]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.wait(f"!{TIP}.hidden")
    assert "cudaStreamSynchronize" in page.evaluate(f"{TIP}.innerText") and page.evaluate(WITHIN)
    page.evaluate(FRAMES)  # warm
    assert max(page.evaluate(FRAMES)) <= 50
    assert not [text for text in page.problems() if "getImageData" not in text]


def test_what_overlaps_without_gpu_times_is_on_the_page(browser: Chromium, called: Path) -> None:
    page = timeline_in(browser, called, width=900)
    shown = page.evaluate("document.querySelector('#overlap').innerText")
    assert "GPU execution not observed" in shown and "not known" in shown and "cudaStreamSynchronize" in shown


def test_a_kernel_leads_to_its_launch(browser: Chromium, traced: Path) -> None:
    page = timeline_in(browser, traced)
    labels = page.evaluate(LABELS)
    assert any(label.startswith("GPU 0 · stream") for label in labels) and labels[0].startswith("calls ·")
    assert page.evaluate("flowprof.timeline.find('kernel sgemm')") == 2
    page.evaluate("flowprof.timeline.jump(1)")
    assert "launched by cudaLaunchKernel" in page.evaluate(f"{TIP}.innerText") and page.evaluate(WITHIN)
    assert "Overhead budget" not in page.evaluate("document.body.innerText"), "an import had none"


@DISTURBED
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the traces are not at {SHARED}")
@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("width", [400, 1200])
def test_others_traces_are_readable(browser: Chromium, tmp_path: Path, name: str, width: int) -> None:
    page = timeline_in(
        browser, page_of(imported(SHARED / name, tmp_path / "a.duckdb"), tmp_path / "a.html"), width=width
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    labels = page.evaluate(LABELS)
    assert any(re.match(r"GPU \d+ · stream \d+$", label) for label in labels)
    assert all(len(re.findall(r"thread \d+", label)) <= 1 for label in labels), labels
    told = page.evaluate(
        "(() => { const t = flowprof.timeline, l = t.lanes.findLast((one) => one.flowLane), i = l.length >> 1;"
        " t.view(l.start[i] - 50e3, l.start[i] + 150e3); t.hover = { lane: l, item: i }; t.tell(t.width / 2, l.y);"
        f" return {TIP}.innerText; }})()"
    )
    assert "GPU" in told and page.evaluate(WITHIN)
    page.evaluate(FRAMES)  # warm
    assert max(page.evaluate(FRAMES)) <= 50
    assert not [text for text in page.problems() if "getImageData" not in text]
