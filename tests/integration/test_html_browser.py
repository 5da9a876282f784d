"""The HTML report in a real browser: it paints fast, the timeline answers, and nothing hostile runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from chromium import FRAMES, Chromium
from flowprof.profiler.slo import parse
from html_pages import page_of, ready, write_page
from request_recordings import chats_and_prompt
from synthetic import CEILINGS, Synthetic, sized

pytestmark = [pytest.mark.browser, pytest.mark.parallel]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "small", Synthetic())


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "million", sized(1_000_000), "hog", 300_000)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "judged", Synthetic(ceilings=CEILINGS), "hog")


def test_a_million_operators_paint_within_a_second_and_zoom_smoothly(browser: Chromium, million: Path) -> None:
    assert million.stat().st_size <= 20_000_000
    page = ready(browser, million, width=1600, height=1000)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint <= 1000
    page.evaluate(FRAMES)  # warm
    times = page.evaluate(FRAMES)
    assert max(times) <= 50, times
    assert page.evaluate("flowprof.timeline.find('mul_mat')") > 400_000
    shown = page.evaluate("flowprof.timeline.lanes.filter((l) => l.type === 'states').map((l) => l.length)")
    assert sum(shown) == 200_000
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
    page.wait("!document.querySelector('#timeline .tip').hidden")
    assert "graph" in page.evaluate("document.querySelector('#timeline .tip').textContent")
    page.key("0")
    assert page.evaluate(span) == pytest.approx(whole)


def test_search_finds_and_jumps(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    assert page.evaluate("flowprof.timeline.find('ffn_up-3')") == 105  # 70 graphs on thread 0, 35 also on thread 1
    page.evaluate("flowprof.timeline.jump(1)")
    assert page.evaluate("document.querySelector('#timeline .tip b').textContent") == "ffn_up-3"
    first = page.evaluate("flowprof.timeline.t0")
    page.evaluate("flowprof.timeline.jump(1)")
    assert page.evaluate("flowprof.timeline.t0") > first
    assert page.evaluate("flowprof.timeline.find('no such tensor')") == 0
    assert page.evaluate("document.querySelector('#timeline .matches').textContent") == "no match"


def test_tables_sort_and_filter(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    calls = "[...document.querySelectorAll('#operator-table tbody tr')].map((row) => Number(row.cells[6].dataset.v))"
    page.evaluate("document.querySelector('#operator-table th:nth-child(7) button').click()")
    found = page.evaluate(calls)
    assert found == sorted(found, reverse=True)
    page.evaluate("document.querySelector('#operator-table th:nth-child(7) button').click()")
    assert page.evaluate(calls) == sorted(found)
    page.evaluate(
        "(() => { const f = document.querySelector('input[data-filter=operator-table]'); f.value = 'prefill mul_mat';"
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


MARKED = "[...document.querySelectorAll('#graph-view .node.marked .name')].map((t) => t.textContent)"

CLICK = "(selector, text) => [...document.querySelectorAll(selector)].find((e) => e.textContent.includes(text))"


@pytest.mark.parametrize("width", [400, 900, 1400])
def test_the_whole_page_at_every_width(browser: Chromium, judged: Path, width: int) -> None:
    page = ready(browser, judged, width=width, dark=width == 900)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 6
    labels = page.evaluate(
        "[...document.querySelectorAll('[data-chart=roofline] .annotation')].map((a) => {"
        " const b = a.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; })"
    )
    assert len(labels) == 5
    inside = page.evaluate(
        "(() => { const b = document.querySelector('[data-chart=roofline]').getBoundingClientRect();"
        " return [b.left, b.right]; })()"
    )
    for number, (left, right, top, bottom) in enumerate(labels):
        assert left >= inside[0] and right <= inside[1] + 1, "a roof's label is cut off"
        for other in labels[number + 1 :]:
            apart = right <= other[0] + 1 or other[1] <= left + 1 or bottom <= other[2] + 4 or other[3] <= top + 4
            assert apart, "labels of roofs overlap"
    assert page.problems() == []


def test_phase_of_the_roofline_is_chosen_by_keys(browser: Chromium, judged: Path) -> None:
    page = ready(browser, judged)
    places = "document.querySelector('[data-chart=roofline]').data.at(-1).y.length"
    before = page.evaluate(places), page.evaluate("document.querySelector('[data-chart=roofline]').data.at(-1).text[0]")
    assert "decode" in before[1]
    page.evaluate("document.querySelector('input[name=roofline-phase]').focus()")
    page.key("ArrowRight")
    page.wait("document.querySelector('[data-chart=roofline]').data.at(-1).text[0].includes('prefill')")
    assert "decode" in page.evaluate("document.querySelector('[data-chart=waits]').layout ? 'decode' : ''")
    colours = page.evaluate("document.querySelector('[data-chart=roofline]').data.at(-1).marker.color")
    assert all(colour.startswith("#") for colour in colours)


def test_states_of_threads_show_and_are_found(browser: Chromium, judged: Path) -> None:
    page = ready(browser, judged)
    lanes = page.evaluate("flowprof.timeline.lanes.map((lane) => lane.type).join()")
    assert lanes == "graphs,operators,states,operators,states"
    graphs = page.evaluate("flowprof.timeline.lanes[2].length") // 2
    assert page.evaluate("flowprof.timeline.find('hog runnable')") == graphs
    page.evaluate("flowprof.timeline.jump(1)")
    tip = page.evaluate("document.querySelector('#timeline .tip').textContent")
    assert "200 µs" in tip and "without a processor" in tip and "in its place ran hog (99)" in tip
    assert page.evaluate("flowprof.timeline.find('reads a page')") == graphs
    page.evaluate("flowprof.timeline.jump(1)")
    assert "woken by an interrupt" in page.evaluate("document.querySelector('#timeline .tip').textContent")
    page.evaluate("flowprof.timeline.find('')")
    page.evaluate("document.querySelector('#time').scrollIntoView({behavior: 'instant'})")
    x, y = page.evaluate(
        "(() => { const t = flowprof.timeline, l = t.lanes[4], b = t.canvas.getBoundingClientRect();"
        " t.view(l.start[0] - 50e3, l.start[0] + 150e3); return [b.x + b.width / 2, b.y + l.y + l.high / 2]; })()"
    )
    time.sleep(0.1)
    page.mouse("mouseMoved", x, y)
    page.wait("!document.querySelector('#timeline .tip').hidden")
    assert "woken by thread 0 of the pool" in page.evaluate("document.querySelector('#timeline .tip').textContent")


@pytest.mark.parametrize(
    "name",
    ["</script><script>window.hurt=1</script>", "<img src=x onerror=window.hurt=1>", "<b>x</b>\x1b[2J\u202e", "--ink"],
)
def test_hostile_neighbours_and_tensors_do_nothing(browser: Chromium, tmp_path: Path, name: str) -> None:
    spec = Synthetic(ceilings=CEILINGS, rename={"ffn_up": name})
    page = ready(browser, write_page(tmp_path, "hostile", spec, name))
    page.evaluate("flowprof.timeline.find('99')")
    page.evaluate("flowprof.timeline.jump(1)")
    x, y = page.evaluate(
        "(() => { const p = document.querySelector('[data-chart=roofline]'); p.scrollIntoView({block: 'center',"
        " behavior: 'instant'}); const b = p.querySelector('.scatterlayer .point').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.wait("document.querySelector('[data-chart=roofline] .hovertext')")
    assert page.evaluate("window.hurt === undefined")
    assert (
        page.evaluate("document.querySelectorAll('main img, main b:not(.tip b, .detail b), main script').length") == 0
    )
    assert not any(sign in page.evaluate("document.body.innerText") for sign in "\x1b\u202e")
    assert page.problems() == []


def test_prints_in_light_colours_and_within_the_page(browser: Chromium, judged: Path) -> None:
    page = ready(browser, judged, width=720, dark=True)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.call("Emulation.setEmulatedMedia", media="print")
    time.sleep(0.3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tick = "getComputedStyle(document.querySelector('[data-chart=roofline] .xtick text')).fill"
    assert page.evaluate(tick) == "rgb(68, 68, 68)"
    assert page.evaluate("document.querySelector('details.more').open")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("document.querySelector('details.more').open")


@pytest.mark.parametrize("width", [360, 800, 1440])
def test_requests_fall_at_every_width(browser: Chromium, tmp_path: Path, width: int) -> None:
    """The waterfall's bars stand in order and proportion, and nothing makes the page wider than the screen."""
    recording = chats_and_prompt().write(tmp_path / "requests.duckdb")
    slos = parse(["chat:ttft=1s,tpot=50ms"])
    shown = ready(browser, page_of(recording, tmp_path / "requests.html", slos), width=width)
    bars = shown.evaluate("""[...document.querySelectorAll('.fall svg')].map(lane =>
        [...lane.querySelectorAll('rect')].map(bar => {
            const r = bar.getBoundingClientRect(), l = lane.getBoundingClientRect();
            return [bar.getAttribute('class'), (r.left - l.left) / l.width, r.width / l.width];
        }))""")
    assert [name for name, _, _ in bars[0]] == ["fall-queue", "fall-prefill", "fall-decode"]
    assert bars[0][2][1] == pytest.approx(21 / 561, abs=0.01)
    assert bars[0][2][2] == pytest.approx(540 / 561, abs=0.01)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert not shown.problems()


def test_evidence_stays_under_its_verdict_and_is_readable(browser: Chromium, judged: Path) -> None:
    page = ready(browser, judged, width=400)
    page.evaluate("document.querySelector('#verdict-table th:nth-child(2) button').click()")
    kinds = page.evaluate("[...document.querySelectorAll('#verdict-table tbody tr')].map((r) => r.className)")
    assert len(kinds) > 10
    assert all(("under" in kind) == bool(at % 2) for at, kind in enumerate(kinds))
    page.evaluate("document.querySelectorAll('#verdict-table details').forEach((d) => { d.open = true; })")
    page.evaluate("document.querySelector('#verdict-table').closest('.scroll').scrollLeft = 300")
    left, right, inside = page.evaluate(
        "(() => { const a = document.querySelector('#verdict-table details').getBoundingClientRect(),"
        " b = document.querySelector('#verdict-table').closest('.scroll').getBoundingClientRect();"
        " return [a.left - b.left, b.right - a.right, a.width]; })()"
    )
    assert left >= 0 and right >= 0 and inside > 280
    page.evaluate(
        "(() => { const f = document.querySelector('input[data-filter=verdict-table]'); f.value = 'prefill';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    shown = page.evaluate("[...document.querySelectorAll('#verdict-table tbody tr:not([hidden])')].length")
    assert 0 < shown < len(kinds) and shown % 2 == 0
