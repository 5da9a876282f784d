"""Show a recording: tokens, operators, layers, threads, losses and overhead.

Works without root, without the engine and on another machine than the recorded one.
"""

from __future__ import annotations

import argparse
import sys

NAME = "report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a recording (.duckdb)")
    parser.add_argument("--html", metavar="OUT", help="write a self-contained HTML page instead, with a timeline")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.store import Recording

    with Recording.open(asked.file) as recording:
        from flowprof.profiler.report import build_report

        report = build_report(recording)
    sys.stdout.write(f"{report}\n")
    return 0
