"""Show a recording: tokens, operators, layers, threads, losses and overhead.

Works without root, without the engine and on another machine than the recorded one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a recording (.duckdb)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--html", metavar="OUT", help="write a self-contained HTML page instead, with a timeline")
    instead.add_argument("--json", action="store_true", help="print the report as JSON instead")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.store import Recording

    if asked.html is not None:
        _check(Path(asked.html), Path(asked.file))
    with Recording.open(asked.file) as recording:
        from flowprof.profiler.report import build_report, timeline

        report = build_report(recording)
        if asked.html is not None:
            from flowprof.viewers import html

            _write(Path(asked.html), html.render(report, timeline(recording)))
        elif asked.json:
            from flowprof.viewers import json

            sys.stdout.write(json.render(report))
        else:
            from flowprof.viewers import terminal

            terminal.show(report, sys.stdout)
    return 0


def _check(path: Path, recording: Path) -> None:
    """Before the work is done: what would stop the page from being written."""
    from flowprof.profiler.errors import RecordingError, UsageError

    if path.exists() and recording.exists() and path.samefile(recording):
        raise UsageError(f"the page would overwrite the recording {path}", "give --html another name")
    if path.is_dir() or not path.parent.is_dir():
        found = "is a directory" if path.is_dir() else "would lie in a directory that does not exist"
        raise RecordingError(f"{path} {found}", "give --html a file that you may write")


def _write(path: Path, text: str) -> None:
    """Write beside `path` and rename: an earlier page is replaced by a whole one or not at all."""
    import os

    from flowprof.profiler.errors import RecordingError

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RecordingError(
            f"cannot write {path}: {error.strerror}", "give --html a file that you may write"
        ) from error
