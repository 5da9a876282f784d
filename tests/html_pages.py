"""Reports as HTML pages, made of recordings and opened in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chromium import READY, Chromium, Page
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.slo import Slo
from flowprof.profiler.store import Recording
from flowprof.viewers import html
from planted import plant
from synthetic import Synthetic, write, write_empty


def page_of(recording: Recording, path: Path, slos: Sequence[Slo] = ()) -> Path:
    """Write the report of `recording` as the page `path`, and close the recording."""
    with recording:
        page = html.render(build_report(recording, slos=slos), timeline(recording))
    path.write_text(page, encoding="utf-8")
    return path


def write_page(folder: Path, name: str, spec: Synthetic | None, by: str = "", states: int = 0) -> Path:
    """`by`: who keeps the threads from running; "": nobody."""
    recorded = str(folder / f"{name}.duckdb")
    if spec is None:
        write_empty(recorded)
    else:
        write(recorded, spec)
    if by:
        plant(recorded, by, states)
    return page_of(Recording.open(recorded), folder / f"{name}.html")


def ready(browser: Chromium, path: Path, **how: Any) -> Page:
    page = browser.open(path, **how)
    page.wait(READY, 60)
    assert page.evaluate("flowprof.error || ''") == ""
    return page
