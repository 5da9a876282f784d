"""The report's graph of operators in a real browser: it folds, is searched, is worked by keys, and rows lead to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chromium import Chromium
from flowprof.profiler.analyzers import dag
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.store import Recording
from flowprof.viewers import html
from graph_recordings import Graph, Node, write_graphs
from html_pages import page_of, ready, write_page
from planted import plant, plant_stacks
from synthetic import CEILINGS, Synthetic, grow_context, write

pytestmark = [pytest.mark.browser, pytest.mark.parallel]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "small", Synthetic())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "judged", Synthetic(ceilings=CEILINGS), "hog")


MARKED = "[...document.querySelectorAll('#graph-view .node.marked .name')].map((t) => t.textContent)"

CLICK = "(selector, text) => [...document.querySelectorAll(selector)].find((e) => e.textContent.includes(text))"


def test_graph_folds_opens_and_is_worked_by_keys(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    nodes = "document.querySelectorAll('#graph-view .node').length"
    inside = page.evaluate(nodes)
    assert inside > 15, "the costliest group is open"
    page.evaluate("document.querySelector('#graph-view [data-do=close]').click()")
    outside = page.evaluate(nodes)
    assert 0 < outside < 10
    assert "×4" in page.evaluate("document.querySelector('#graph-view .group').textContent")
    page.evaluate("document.querySelector('#graph-view .group').focus()")
    page.key("Enter")
    assert page.evaluate(nodes) == inside
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.evaluate("document.querySelector('#graph-view .node').focus()")
    page.key("Enter")
    assert "GET_ROWS" in page.evaluate("document.querySelector('#graph-view .detail').textContent")
    assert page.evaluate("document.querySelectorAll('#graph-view .node.chosen').length") == 1
    wide = page.evaluate("document.querySelector('#graph-view svg').clientWidth")
    page.key("+")
    assert page.evaluate("document.querySelector('#graph-view svg').clientWidth") > wide
    page.key("Escape")
    assert "Most time" in page.evaluate("document.querySelector('#graph-view .detail').textContent")
    lines = page.evaluate("[...document.querySelectorAll('#graph-view path')].map((p) => p.getAttribute('d')).join()")
    assert "NaN" not in lines and "undefined" not in lines
    assert page.problems() == []


def test_rows_lead_to_the_graph_and_back(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    row = "#operator-table tr[data-op=MUL_MAT][data-block=ffn][data-phase=prefill]"
    page.evaluate(f"document.querySelector('{row} button').click()")
    assert page.evaluate("document.querySelector('[data-phases]').value") == "prefill"
    assert page.evaluate(MARKED) == ["ffn_gate", "ffn_up", "ffn_out"]
    assert page.evaluate("document.querySelector('#graph-view .matches').textContent") == "12 operators"
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "ffn_gate"
    page.evaluate(
        "(() => { const f = document.querySelector('input[data-filter=operator-table]'); f.value = 'rope';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    page.evaluate(f"({CLICK})('#graph-view .links button', 'row').click()")
    assert page.evaluate(f"document.querySelector('{row}').matches('.hit:not([hidden])')")
    page.evaluate("document.querySelector('tr[data-layer=\"2\"][data-phase=decode]').click()")
    assert page.evaluate("document.querySelector('[data-phases]').value") == "decode"
    assert page.evaluate("document.querySelectorAll('#graph-view .group.marked').length") == 1
    page.evaluate("document.querySelector('tr[data-block=output]:not([data-op])').click()")
    assert "result_output" in page.evaluate(MARKED)
    assert page.problems() == []


def test_graph_search_hover_and_drag(browser: Chromium, small: Path) -> None:
    page = ready(browser, small, width=900)
    page.evaluate("flowprof.graph.find('rope')")
    assert page.evaluate(MARKED) == ["Qcur", "Kcur"]
    page.evaluate("flowprof.graph.find('no such')")
    assert page.evaluate("document.querySelector('#graph-view .matches').textContent") == "no match"
    page.evaluate("flowprof.graph.find('')")
    page.evaluate("document.querySelector('#graph-view .stage').scrollTo(0, 0)")
    page.evaluate("document.querySelector('#graph').scrollIntoView({behavior: 'instant'})")
    x, y = page.evaluate(
        "(() => { const b = document.querySelector('#graph-view .node').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.wait("!document.querySelector('#graph-view .tip').hidden")
    assert "GET_ROWS" in page.evaluate("document.querySelector('#graph-view .tip').textContent")
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x, y - 80, button="left", buttons=1)
    page.mouse("mouseReleased", x, y - 80, button="left", clickCount=1)
    assert page.evaluate("document.querySelector('#graph-view .stage').scrollTop") == pytest.approx(80, abs=2)
    assert page.evaluate("document.querySelectorAll('#graph-view .chosen').length") == 0, "a drag is no click"


@pytest.mark.parametrize(
    "name", ["</script><img src=x onerror=alert(1)>", "<svg onload=window.hurt=1>", "a\x1b[2J\u202e" * 30]
)
def test_hostile_names_in_the_graph(browser: Chromium, tmp_path: Path, name: str) -> None:
    page = ready(browser, write_page(tmp_path, "hostile", Synthetic(rename={"ffn_up": name, "kq": name})))
    page.evaluate("flowprof.graph.open(true)")
    for key in page.evaluate("[...flowprof.graph.places.keys()]"):
        page.evaluate(f"flowprof.graph.choose('{key}')")
    strange = "#graph-view img, #graph-view svg svg, #graph-view script"
    assert page.evaluate(f"document.querySelectorAll('{strange}').length") == 0
    assert page.evaluate("window.hurt === undefined")
    assert not any(sign in page.evaluate("document.querySelector('#graph-view').textContent") for sign in "\x1b\u202e")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    assert page.problems() == []


@pytest.mark.parametrize("dark", [False, True])
def test_graph_texts_stand_out_in_both_schemes(browser: Chromium, small: Path, dark: bool) -> None:
    page = ready(browser, small, dark=dark)
    worst = page.evaluate("""
    (() => {
      const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      const parts = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((value) => linear(value / 255));
      const light = (text) => { const [r, g, b] = parts(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ratios = [];
      for (const heat of [0, 1, 2, 3, 4, 5, 6]) {
        const swatch = document.querySelector(`.legend .swatch.heat${heat}`), style = getComputedStyle(swatch);
        const a = light(style.color), b = light(style.backgroundColor);
        ratios.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
      }
      return Math.min(...ratios);
    })()
    """)
    assert worst >= 4.5


def test_graph_prints_whole(browser: Chromium, small: Path) -> None:
    page = ready(browser, small)
    page.call("Emulation.setEmulatedMedia", media="print")
    shown, drawn = page.evaluate(
        "(() => { const s = document.querySelector('#graph-view .stage'); return [s.clientHeight, s.scrollHeight]; })()"
    )
    assert drawn <= shown + 1 and shown > 200
    assert page.evaluate("getComputedStyle(document.querySelector('#graph-view .detail')).display") == "none"


def test_graph_coloured_by_verdict(browser: Chromium, tmp_path: Path) -> None:
    write(str(tmp_path / "a.duckdb"), Synthetic())
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        report, drawn = build_report(recording), timeline(recording)
        bounds = {(graph, node): "memory-dram" for graph in (1, 2) for node in range(19, 200)}
        table = dag.graphs(recording, bounds)
    sections = tuple(replace(one, value=table) if one.name == "dag" else one for one in report.sections)
    path = tmp_path / "a.html"
    path.write_text(html.render(replace(report, sections=sections), drawn), encoding="utf-8")
    page = ready(browser, path)
    assert not page.evaluate("document.querySelector('[data-colours]').closest('label').hidden")
    page.evaluate(
        "(() => { const s = document.querySelector('[data-colours]'); s.value = 'bound';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert page.evaluate("document.querySelectorAll('#graph-view .node.bound-memory-dram').length") > 10
    assert page.evaluate("document.querySelectorAll('#graph-view .node.bound-unknown').length") > 0
    legend = page.evaluate("document.querySelector('#graph-view .legend').textContent")
    assert "memory-dram" in legend and "inefficient" in legend


def test_verdicts_lead_to_the_graph_and_back(browser: Chromium, judged: Path) -> None:
    page = ready(browser, judged)
    row = "#verdict-table tr[data-op=MUL_MAT][data-block=ffn][data-phase=decode]"
    page.evaluate(f"document.querySelector('{row} + .under summary').click()")
    assert page.evaluate(f"document.querySelector('{row} + .under details').open")
    assert page.evaluate("document.querySelectorAll('#graph-view .marked').length") == 0, "evidence is no link"
    page.evaluate(f"document.querySelector('{row} button').click()")
    named = set(page.evaluate(f"JSON.parse(document.querySelector('{row}').dataset.tensors)"))
    assert set(page.evaluate(MARKED)) == named
    assert page.evaluate("document.querySelector('[data-colours]').value") == "bound"
    assert page.evaluate("document.querySelectorAll('#graph-view .node.bound-memory-dram').length") > 3
    page.evaluate("document.querySelectorAll('tr.hit').forEach((r) => r.classList.remove('hit'))")
    page.evaluate(f"({CLICK})('#graph-view .links button', 'verdict').click()")
    assert page.evaluate(f"document.querySelector('{row}').matches('.hit')")
    assert page.problems() == []


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("pages"), "uncalibrated", Synthetic(), "hog")


@pytest.mark.parametrize("table", ["wait-table", "cause-table", "root-table"])
@pytest.mark.parametrize("pages", ["judged", "uncalibrated"])
def test_rows_of_waits_lead_to_the_graph(
    browser: Chromium, request: pytest.FixtureRequest, pages: str, table: str
) -> None:
    page = ready(browser, request.getfixturevalue(pages))
    row = f"#{table} tr.leads"
    nodes, phase = page.evaluate(
        f"(() => {{ const d = document.querySelector('{row}').dataset; return [JSON.parse(d.nodes), d.phase]; }})()"
    )
    page.evaluate(f"document.querySelector('{row} button').click()")
    assert page.evaluate("document.querySelector('[data-phases]').value") == phase
    named = {name for one in nodes for name in one["tensors"]}
    assert named and set(page.evaluate(MARKED)) == named
    assert page.problems() == []


def test_other_graphs_of_a_phase_are_chosen(browser: Chromium, tmp_path: Path) -> None:
    one = Node("MUL_MAT", "ffn_up-0", (), 50, 0, "ffn")
    graphs = [Graph([one, Node("ADD", "l_out-0", (0,), 10, 0, "ffn")], 9), Graph([Node("ROPE", "Qcur-0", (), 5)], 3)]
    write_graphs(tmp_path / "a.duckdb", graphs)
    page = ready(browser, page_of(Recording.open(str(tmp_path / "a.duckdb")), tmp_path / "a.html"))
    names = "[...document.querySelectorAll('#graph-view .node .name')].map((t) => t.textContent)"
    assert page.evaluate(names) == ["ffn_up", "l_out"]
    assert page.evaluate("document.querySelector('[data-graphs]').length") == 2
    page.evaluate(
        "(() => { const s = document.querySelector('[data-graphs]'); s.selectedIndex = 1;"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert page.evaluate(names) == ["Qcur"]
    page.evaluate("document.querySelector('#operator-table tr[data-op=ADD] button').click()")
    assert page.evaluate(MARKED) == ["l_out"], "a row leads to the graph that holds its operator"
    assert page.evaluate("document.querySelector('[data-graphs]').selectedIndex") == 0
    assert page.problems() == []


@pytest.mark.parametrize("table", ["blocked-table", "growth-table"])
def test_rows_of_stacks_and_of_growth_lead_to_the_graph(browser: Chromium, tmp_path: Path, table: str) -> None:
    recorded = str(tmp_path / "a.duckdb")
    write(recorded, Synthetic(ceilings=CEILINGS))
    plant(recorded)
    plant_stacks(recorded)
    grow_context(recorded, 4)
    page = ready(browser, page_of(Recording.open(recorded), tmp_path / "a.html"))
    row = f"#{table} tr.leads"
    ops = page.evaluate(f"JSON.parse(document.querySelector('{row}').dataset.nodes).map((one) => one.op)")
    page.evaluate(f"document.querySelector('{row} button').click()")
    phase = page.evaluate(f"document.querySelector('{row}').dataset.phase")
    assert page.evaluate("document.querySelector('[data-phases]').value") == phase
    assert page.evaluate("document.querySelectorAll('#graph-view .node.marked').length") >= len(set(ops)) > 0
    if table == "blocked-table":  # its stack unfolds as before
        page.evaluate(f"document.querySelector('{row} summary').click()")
        assert page.evaluate(f"document.querySelector('{row} details').open")
    assert page.problems() == []
