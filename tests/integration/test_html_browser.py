"""The HTML report in a real browser: it paints fast, the timeline answers, and nothing hostile runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, Page
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.store import Recording
from flowprof.viewers import html
from synthetic import Synthetic, sized, write, write_empty

pytestmark = pytest.mark.browser

READY = "document.documentElement && document.documentElement.dataset.ready === 'true'"
# Draws the view at every zoom level; reading a pixel back makes the browser finish the frame.
FRAMES = """
(() => {
  const view = flowprof.timeline, times = [], span = view.end;
  for (const part of [1, .5, .2, .1, .05, .02, .01, .004, .001, .0003, .0001]) {
    for (const at of [.1, .5, .9]) {
      view.t0 = at * span * (1 - part);
      view.t1 = view.t0 + part * span;
      const begun = performance.now();
      view.draw();
      view.context.getImageData(0, 0, 1, 1);
      times.push(performance.now() - begun);
    }
  }
  return times;
})()
"""


def write_page(folder: Path, name: str, spec: Synthetic | None) -> Path:
    recorded = str(folder / f"{name}.duckdb")
    if spec is None:
        write_empty(recorded)
    else:
        write(recorded, spec)
    with Recording.open(recorded) as recording:
        page = html.render(build_report(recording), timeline(recording))
    path = folder / f"{name}.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "small", Synthetic())


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "million", sized(1_000_000))


def ready(browser: Chromium, path: Path, **how: Any) -> Page:
    page = browser.open(path, **how)
    page.wait(READY, 60)
    assert page.evaluate("flowprof.error || ''") == ""
    return page


def test_a_million_operators_paint_within_a_second_and_zoom_smoothly(browser: Chromium, million: Path) -> None:
    assert million.stat().st_size <= 20_000_000
    page = ready(browser, million, width=1600, height=1000)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint <= 1000
    page.evaluate(FRAMES)  # warm
    times = page.evaluate(FRAMES)
    assert max(times) <= 50, times
    assert page.evaluate("flowprof.timeline.find('mul_mat')") > 400_000
    assert max(page.evaluate(FRAMES)) <= 50
    assert not [text for text in page.problems() if "getImageData" not in text]


@pytest.mark.parametrize("width", [400, 900, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_readable_at_every_width(browser: Chromium, small: Path, width: int, dark: bool) -> None:
    page = ready(browser, small, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "scrolls sideways"
    assert page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 4
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 26)" if dark else "rgb(251, 250, 247)")
    assert page.problems() == []


def test_keyboard_wheel_drag_and_hover(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    page.evaluate("document.querySelector('#time').scrollIntoView({behavior: 'instant'})")
    page.evaluate("document.querySelector('canvas').focus({preventScroll: true})")
    span = "flowprof.timeline.t1 - flowprof.timeline.t0"
    whole = page.evaluate(span)
    page.key("w")
    assert page.evaluate(span) == pytest.approx(whole * 0.6)
    page.key("s")
    left, top, wide = page.evaluate(
        "(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.x, b.y, b.width]; })()"
    )
    page.mouse("mouseWheel", left + wide / 4, top + 40, deltaX=0, deltaY=-300)
    page.wait(f"{span} < {whole * 0.9}")
    start = page.evaluate("flowprof.timeline.t0")
    page.mouse("mousePressed", left + 400, top + 60, button="left", clickCount=1)
    page.mouse("mouseMoved", left + 300, top + 60, button="left", buttons=1)
    page.mouse("mouseReleased", left + 300, top + 60, button="left", clickCount=1)
    assert page.evaluate("flowprof.timeline.t0") > start
    page.evaluate("flowprof.timeline.view(0, flowprof.timeline.end * 0.01)")
    time.sleep(0.1)
    page.mouse("mouseMoved", left + wide / 2, top + 60)
    page.wait("!document.querySelector('.tip').hidden")
    assert "graph" in page.evaluate("document.querySelector('.tip').textContent")
    page.key("0")
    assert page.evaluate(span) == pytest.approx(whole)


def test_search_finds_and_jumps(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    assert page.evaluate("flowprof.timeline.find('ffn_up-3')") == 105  # 70 graphs on thread 0, 35 also on thread 1
    page.evaluate("flowprof.timeline.jump(1)")
    assert page.evaluate("document.querySelector('.tip b').textContent") == "ffn_up-3"
    first = page.evaluate("flowprof.timeline.t0")
    page.evaluate("flowprof.timeline.jump(1)")
    assert page.evaluate("flowprof.timeline.t0") > first
    assert page.evaluate("flowprof.timeline.find('no such tensor')") == 0
    assert page.evaluate("document.querySelector('.matches').textContent") == "no match"


def test_tables_sort_and_filter(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    calls = "[...document.querySelectorAll('#operator-table tbody tr')].map((row) => Number(row.cells[6].dataset.v))"
    page.evaluate("document.querySelector('#operator-table th:nth-child(7) button').click()")
    found = page.evaluate(calls)
    assert found == sorted(found, reverse=True)
    page.evaluate("document.querySelector('#operator-table th:nth-child(7) button').click()")
    assert page.evaluate(calls) == sorted(found)
    page.evaluate(
        "(() => { const f = document.querySelector('input[data-filter]'); f.value = 'prefill mul_mat';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    left = page.evaluate("document.querySelectorAll('#operator-table tbody tr:not([hidden])').length")
    assert left == 3


@pytest.mark.parametrize(
    "name",
    [
        "</script><script>window.hurt=1</script>",
        "<img src=x onerror=window.hurt=1>",
        "{{constructor.constructor('window.hurt=1')()}}",
        "<b>bold</b>\x1b[2J\u202e",
    ],
)
def test_hostile_names_do_nothing(browser: Chromium, tmp_path: Path, name: str) -> None:
    spec = Synthetic(rename={"ffn_up": name, "ffn_out": name}, meta={"host": name, "command_line": name, "rung": name})
    page = ready(browser, write_page(tmp_path, "hostile", spec))
    page.evaluate("flowprof.timeline.find('ffn_gate')")
    page.evaluate("flowprof.timeline.jump(1)")
    assert page.evaluate("window.hurt === undefined")
    assert page.evaluate("document.querySelectorAll('main img, main b:not(.tip b)').length") == 0
    assert page.problems() == []


def test_nothing_is_fetched(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    outside = "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !/^(data|blob):/.test(n))"
    assert page.evaluate(outside) == []
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in text for text in page.problems()), page.problems()


def test_empty_recording_and_old_browser(browser: Chromium, tmp_path: Path, small: Path) -> None:
    page = ready(browser, write_page(tmp_path, "empty", None))
    assert "without tokens" in page.evaluate("document.querySelector('h1').textContent")
    assert page.problems() == []
    text = small.read_text(encoding="utf-8")
    old = tmp_path / "old.html"
    old.write_text(text.replace('"use strict";', '"use strict"; delete globalThis.DecompressionStream;', 1), "utf-8")
    page = browser.open(old)
    page.wait("document.querySelector('[data-fallback]') && !document.querySelector('[data-fallback]').hidden")
    assert "tables are complete" in page.evaluate("document.querySelector('[data-fallback]').textContent")
    assert page.evaluate("document.querySelectorAll('#operator-table tbody tr').length") > 10
