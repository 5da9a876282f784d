"""The resources section in every viewer: planted, healthy, withheld and hostile runs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import resource_runs as runs
from flowprof.profiler.report import Report, Timeline, build_report, timeline
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.store import Recording
from flowprof.viewers import html, resources, terminal
from flowprof.viewers import json as json_viewer

EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&{{7*7}}"
RUNS = {
    "chain": lambda: runs.g5(1),
    "hang": lambda: runs.g2(1, cut=4000.0),
    "healthy": lambda: runs.g8(1),
    "withheld": lambda: runs.g12(1),
    "hostile": lambda: runs.hostile(EVIL),
    "none": lambda: runs.Run(threads={1: "a"}),
}
FIELDS = {"resource", "kind", "pathology", "holder", "waiting_ns", "hold_ns", "utilisation", "victims", "chain",
          "confidence"}  # fmt: skip


@pytest.fixture(scope="module", params=RUNS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Report, Timeline]:
    path = str(tmp_path_factory.mktemp("resources") / "a.duckdb")
    RUNS[request.param]().write(path)
    with Recording.open(path) as recording:
        return request.param, build_report(recording), timeline(recording)


def shown(report: Report, width: int) -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8")
    terminal.show(report, out, width)
    out.flush()
    return raw.getvalue().decode()


def test_json_has_its_fields_in_order_of_blame(seen: tuple[str, Report, Timeline]) -> None:
    name, report, _ = seen
    document = json.loads(json_viewer.render(report))
    for one in document["resources"]:
        assert set(one) >= FIELDS
    told = [(one["resource"], one["pathology"]) for one in document["resources"]]
    if name in ("chain", "hang"):
        assert told == {"chain": [("undo log", "unbounded growth"), ("page", "contention")],
                        "hang": [("table", "contention")]}[name]  # fmt: skip
        assert document["resources"][0]["holder"]["function"] == {"chain": "open_view", "hang": "alter_table"}[name]
    elif name != "hostile":
        assert told == []
    assert document["resource_totals"].get("withheld", False) == (name == "withheld")
    assert bool(document["resource_totals"].get("resources")) == (name != "none")


@pytest.mark.parametrize("width", [40, 80, 140])
def test_terminal(seen: tuple[str, Report, Timeline], width: int) -> None:
    name, report, _ = seen
    text = shown(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    words = {"chain": ["chain: page (purge (60)) → undo log (report (50))"], "hang": ["contention", "alter (20)"],
             "healthy": ["no resource is found wanting"], "withheld": ["withheld: 20."]}  # fmt: skip
    for said in words.get(name, []) if width >= 80 else []:
        assert said in text
    assert ("Resources" in text) == (name != "none")


def test_page(seen: tuple[str, Report, Timeline]) -> None:
    name, report, drawn = seen
    page = html.render(report, drawn)
    assert len(page) < 4_000_000 and "<img" not in page and "\x1b" not in page and "\u202e" not in page
    assert page.count("<script") == page.count("</script>") == 6
    assert ('<section id="resources">' in page) == (name != "none")
    section = page.split('<section id="resources">', 1)[-1].split("</section>", 1)[0]
    assert section.count('class="over-time"') == {"chain": 2, "hang": 1, "hostile": 2}.get(name, 0)
    assert "nan" not in re.findall(r' d="([^"]*)"', section) and "inf" not in "".join(
        re.findall(r' d="([^"]*)"', section)
    )
    if name == "chain":
        nodes = re.findall(r'class="node (\w+)">([^<]+)<', section)
        assert nodes[:5] == [("victim", "reader (11) and 5 more"), ("resource", "page"), ("holder", "purge (60)"),
                             ("resource", "undo log"), ("root", "report (50)")]  # fmt: skip
    if name == "hang":
        assert "still waiting" in section
    if name == "healthy":
        assert "No resource is found wanting" in section
    if name == "hostile":
        assert "&lt;/script&gt;" in section and "{{7*7}}" in section


def test_variables_at_the_moment(tmp_path: Path) -> None:
    run = runs.g2(1)
    run.variables = [
        {"variable_id": 1, "resource_id": 1, "name": "waiters", "expression": "x", "source": "table.c:7"},
        {"variable_id": 2, "resource_id": 2, "name": "foreign", "expression": "x", "source": None},
    ]
    run.samples = [(at * 100.0, number, 9.0 if 600 < at * 100 < 6500 and number == 1 else 2.0 + at % 2)
                   for at in range(100) for number in (1, 2)]  # fmt: skip
    run.write(str(tmp_path / "a.duckdb"))
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        report = build_report(recording)
    one = json.loads(json_viewer.render(report))["resources"][0]
    assert [(moment["name"], moment["value"], moment["high"], moment["unusual"]) for moment in one["variables"]] == [
        ("waiters", 9.0, 3.0, True)
    ]
    assert any(line == "waiters was 9, usually 2 … 3 (table.c:7)" for line in report.findings[0].evidence)


def test_the_order_of_blame_is_one_for_all_viewers() -> None:
    """A leak, which nobody waits for, comes before a lock taken too often; a server's batch where it belongs."""

    @dataclass
    class One:
        resource: str
        waiting_ns: int

    def order(*sections: object) -> list[str]:
        report = SimpleNamespace(get=lambda kind: next((one for one in sections if one.of is kind), None))
        return [one.resource for one in resources.in_order_of_blame(cast("Report", report))]

    table = SimpleNamespace(of=ResourceTable, blamed=(One("leak", 0), One("lock", 5)))
    server = SimpleNamespace(of=RequestTable, blamed=(One("slot", 9), One("batch", 3)))
    assert order(table) == ["leak", "lock"]
    assert order(server) == ["slot", "batch"]
    assert set(both := order(table, server)) == {"leak", "lock", "slot", "batch"}
    assert both.index("leak") < both.index("lock") and both.index("slot") < both.index("lock")
    assert order() == []
