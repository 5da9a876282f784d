"""Show a recording: tokens, operators, layers, threads, losses and overhead.

Works without root, without the engine and on another machine than the recorded one.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowprof.profiler.report import Report

NAME = "report"
KEPT = 100_000  # objects made before the collector looks for cycles: a report keeps millions, and makes hardly a cycle


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a recording (.duckdb)")
    parser.add_argument(
        "--ceilings", metavar="FILE", help="compare with these ceilings (JSON or TOML), not with the recorded machine's"
    )
    parser.add_argument(
        "--slo", metavar="[NAME:]LIMITS", action="append", default=[],
        help="hold the requests against this: ttft=1s,tpot=50ms; again for more tiers, chat:prompt=..1000,ttft=1s",
    )  # fmt: skip
    parser.add_argument(
        "--thresholds", metavar="FILE", help="judge resources by these thresholds (TOML), not by flowprof's own"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--html", metavar="OUT", help="write a self-contained HTML page instead, with a timeline")
    instead.add_argument("--json", action="store_true", help="print the report as JSON instead")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.store import Recording

    gc.set_threshold(KEPT)
    if asked.html is not None:
        check_page(Path(asked.html), Path(asked.file))
    from flowprof.profiler.slo import parse

    slos, ceilings, thresholds = parse(asked.slo), None, None
    if asked.ceilings is not None:
        from flowprof.profiler.machine.ceilings_file import load

        ceilings = load(asked.ceilings)
    if asked.thresholds is not None:
        from flowprof.profiler.blame.thresholds import load as load_thresholds

        thresholds = load_thresholds(asked.thresholds)
    with Recording.open(asked.file) as recording:
        from flowprof.profiler.report import build_report, timeline

        report = build_report(recording, ceilings, slos, thresholds)
        if asked.html is not None:
            from flowprof.profiler.whole_file import write_whole
            from flowprof.viewers import html

            page = html.render(report, timeline(recording))
            write_whole(Path(asked.html), page, "give --html a file that you may write")
        else:
            show(report, asked.json)
    return 0


def show(report: Report, as_json: bool) -> None:
    """To standard output."""
    if as_json:
        from flowprof.viewers import json

        sys.stdout.write(json.render(report))
    else:
        from flowprof.viewers import terminal

        terminal.show(report, sys.stdout)


def check_page(path: Path, recording: Path) -> None:
    """Before the work is done: what would stop the page from being written. Raises UsageError, RecordingError."""
    from flowprof.profiler.errors import RecordingError, UsageError

    if path.exists() and recording.exists() and path.samefile(recording):
        raise UsageError(f"the page would overwrite the recording {path}", "give --html another name")
    if path.is_dir() or not path.parent.is_dir():
        found = "is a directory" if path.is_dir() else "would lie in a directory that does not exist"
        raise RecordingError(f"{path} {found}", "give --html a file that you may write")
