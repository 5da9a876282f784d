"""The page of a diff in a real browser: everything is drawn, fits, answers keys, and nothing hostile runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, Page
from diff_objects import DIFF, EMPTY, hostile, many
from flowprof.profiler.diff.result import Diff
from flowprof.profiler.diff.side import open_pair
from flowprof.profiler.diff.timelines import StepPair, timelines
from flowprof.viewers import diff_html
from synthetic import Synthetic, write

pytestmark = [pytest.mark.browser, pytest.mark.parallel]

READY = "document.documentElement && document.documentElement.dataset.ready === 'true'"
# Labels of the waterfall that leave it, or cover one another.
OVERLAPS = """
(() => {
  const notes = [...document.querySelectorAll('[data-chart=waterfall] .annotation')];
  const boxes = notes.map((one) => one.getBoundingClientRect());
  const inside = document.querySelector('[data-chart=waterfall]').getBoundingClientRect();
  const wrong = boxes.filter((one) => one.left < inside.left - 1 || one.right > inside.right + 1).map(() => 'cut off');
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
    const beside = a.left >= b.right - 1 || b.left >= a.right - 1;
    if (!beside && a.top < b.bottom - 4 && b.top < a.bottom - 4) wrong.push('overlap');
  }));
  return wrong;
})()
"""
FOCUSED = "document.activeElement.getAttribute('aria-label')"


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[StepPair, ...]:
    folder = tmp_path_factory.mktemp("recordings")
    write(str(folder / "a"), Synthetic(layers=2, requests=1))
    write(str(folder / "b"), Synthetic(layers=2, requests=1, slowdown=(1.5, 1.5, 1.5)))
    with open_pair([str(folder / "a")], str(folder / "b")) as pair:
        return timelines(pair)


def opened(browser: Chromium, path: Path, diff: Diff, steps: tuple[StepPair, ...] = (), **how: Any) -> Page:
    path.write_text(diff_html.render(diff, steps), encoding="utf-8")
    page = browser.open(path, **how)
    page.wait(READY, 60)
    assert page.evaluate("flowprof.error || ''") == ""
    return page


@pytest.mark.parametrize(("width", "dark"), [(400, True), (800, False), (1920, False)])
def test_fits_every_width(
    browser: Chromium, tmp_path: Path, steps: tuple[StepPair, ...], width: int, dark: bool
) -> None:
    page = opened(browser, tmp_path / "full.html", DIFF, steps, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "scrolls sideways"
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 1
    assert page.evaluate("flowprof.timeline.lanes.filter((lane) => lane.length > 1).length") == 4
    wide = "getComputedStyle(document.querySelector('#flame .frame')).width"
    assert page.evaluate(f"parseFloat({wide})") > 0.75 * min(width, 1400)
    assert page.problems() == []


def test_many_rows_sort_filter_and_fit(browser: Chromium, tmp_path: Path) -> None:
    between = opened(browser, tmp_path / "many.html", many(260), width=620)  # the narrowest with whole names
    assert between.evaluate(OVERLAPS) == []
    page = opened(browser, tmp_path / "many.html", many(260), width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate(OVERLAPS) == []
    page.evaluate(
        "[...document.querySelectorAll('#row-table th button')].find((b) => b.textContent === 'Change').click()"
    )
    shown = page.evaluate(
        "[...document.querySelectorAll('#row-table tbody tr')].map((r) => Number(r.cells[4].dataset.v))"
    )
    assert len(shown) == 260 and shown == sorted(shown, reverse=True)
    page.evaluate("(() => { const i = document.querySelector('[data-filter=row-table]'); i.value = 'tensor_259';"
                  " i.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert page.evaluate("document.querySelectorAll('#row-table tbody tr:not([hidden])').length") == 1
    assert page.problems() == []


def test_flame_is_worked_by_keys_and_shows_what_vanished(browser: Chromium, tmp_path: Path) -> None:
    page = opened(browser, tmp_path / "full.html", DIFF, width=1200)
    assert page.evaluate("document.querySelectorAll('#flame .frame.gone').length") == 4, "operator, tensor, its layers"
    assert page.evaluate("document.querySelectorAll('#flame .frame.new').length") == 2
    page.evaluate("document.querySelector('#flame .frame').focus()")
    for key, begin in (
        ("ArrowDown", "ffn:"), ("ArrowRight", "attention:"), ("ArrowDown", "FLASH_ATTN_EXT: only after, 900"),
        ("ArrowRight", "MUL_MAT: only before, 700"), ("ArrowUp", "attention:"),
    ):  # fmt: skip
        page.key(key)
        assert page.evaluate(FOCUSED).startswith(begin), key
    page.evaluate("flowprof.flame.draw()")  # as when the window's width changes
    assert page.evaluate(FOCUSED).startswith("attention:"), "the focus is where it was"
    page.evaluate("document.activeElement.click()")
    assert page.evaluate("flowprof.flame.path.map((one) => one[0])") == ["decode", "attention"]
    widths = page.evaluate("[...document.querySelectorAll('#flame .frame')].slice(0, 2).map((f) => f.offsetWidth)")
    assert widths[0] == pytest.approx(widths[1], abs=2)
    page.key("Escape")
    assert page.evaluate("flowprof.flame.path.length") == 1
    page.evaluate("document.querySelector('[data-choose=flame] input[value=prefill]').click()")
    assert page.evaluate("document.querySelector('#flame .detail').textContent").startswith("prefill: 400 µs → 410 µs")
    assert page.problems() == []


@pytest.mark.parametrize("name", ["</script><script>window.hurt=1</script>", "<img src=x onerror=window.hurt=1>\u202e"])
def test_hostile_names_do_nothing(browser: Chromium, tmp_path: Path, name: str) -> None:
    page = opened(browser, tmp_path / "hostile.html", hostile(name), width=900)
    assert page.evaluate("window.hurt === undefined")
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 900
    assert page.problems() == []


def test_a_diff_with_nothing_in_it(browser: Chromium, tmp_path: Path) -> None:
    page = opened(browser, tmp_path / "empty.html", EMPTY, width=400)
    assert "not enough data" in page.evaluate("document.querySelector('header').textContent")
    assert page.evaluate("document.querySelectorAll('nav a').length") == 2
    assert page.problems() == []
