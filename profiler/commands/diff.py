"""What changed: a normal run against a slow one, place by place, with how sure that is, and why.

flowprof diff NORMAL BUGGY
flowprof diff --normal A B C --buggy D     several normal runs, best five, tell what is noise
flowprof diff --against NAME BUGGY         against a baseline (flowprof baseline save NAME FILE)
flowprof diff --self REC                   before and after the point at which one recording changed

With --gate 5% the exit code is for CI: 0 within, 3 a regression, 4 not comparable, 5 not enough data to say. So here,
unlike elsewhere, a recording that is missing, may not be read or is broken, and an unknown baseline, leave with 6, and
wrong arguments with 2. Without --gate a diff leaves with 0 whatever it finds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowprof.profiler.diff.gate import Gate
    from flowprof.profiler.diff.result import Diff
    from flowprof.profiler.diff.timelines import StepPair

NAME = "diff"
HINT = "flowprof diff NORMAL BUGGY, or --normal A B C --buggy D, or --against NAME BUGGY, or --self REC"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="the normal recording, then the slow one")
    parser.add_argument("--normal", nargs="+", default=[], metavar="FILE", help="normal recordings: repeats")
    parser.add_argument("--buggy", metavar="FILE", help="the slow recording")
    parser.add_argument("--against", metavar="NAME", help="the normal ones are those of this baseline")
    parser.add_argument("--self", metavar="REC", dest="alone", help="when did this one change, and what then?")
    parser.add_argument("--gate", metavar="PERCENT", help="fail when it is slower by this much or more, like 5%%")
    parser.add_argument("--html", metavar="OUT", help="write a self-contained HTML page, too")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--json", action="store_true", help="print JSON instead")
    instead.add_argument("--markdown", action="store_true", help="print a comment for a pull request instead")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.commands.report import check_page
    from flowprof.profiler.diff import gate

    limit = gate.limit(asked.gate) if asked.gate is not None else None
    with _no_verdict():
        normal, buggy = _sides(asked)
        if asked.html is not None:
            for recording in (*normal, buggy):
                check_page(Path(asked.html), Path(recording))
        found, judged = _compared(normal, buggy, limit, asked.html)
    _show(found, judged, asked)
    return judged.exit_code if judged is not None else 0


def _sides(asked: argparse.Namespace) -> tuple[list[str], str]:
    """The files of both; none is normal with --self. Raises UsageError, and what baselines raise."""
    from flowprof.profiler import baselines
    from flowprof.profiler.errors import UsageError

    normal, files = list(asked.normal), list(asked.files)
    if asked.alone is not None:
        if files or normal or asked.buggy is not None or asked.against is not None:
            raise UsageError("--self compares a recording with itself: there is nothing beside it", HINT)
        return [], asked.alone
    if bool(normal) + (asked.against is not None) > 1:
        raise UsageError("--normal and --against both name the normal side", HINT)
    if asked.against is not None:
        normal = [str(path) for path in baselines.recordings(asked.against)]
    if not normal and files:
        normal = [files.pop(0)]
    if asked.buggy is not None:
        files.append(asked.buggy)
    if not normal or len(files) != 1:
        raise UsageError("diff takes a normal recording, or several, and one to compare with", HINT)
    return normal, files[0]


def _compared(normal: list[str], buggy: str, limit: float | None, page: str | None) -> tuple[Diff, Gate | None]:
    """The diff, and what a limit says of it; `page` is written while the recordings are open.

    Raises what Recording.open raises, RecordingError.
    """
    from flowprof.profiler.diff import gate
    from flowprof.profiler.diff.compare import compare, compare_self
    from flowprof.profiler.diff.side import open_pair
    from flowprof.profiler.diff.timelines import timelines

    with _as_written():
        if not normal:
            found = compare_self(buggy)
            judged = gate.judge(found, limit) if limit is not None else None
            if page is not None:
                _write(page, found, judged, _halves(buggy, found))
            return found, judged
        with open_pair(normal, buggy) as pair:
            found = compare(pair)
            judged = gate.judge(found, limit) if limit is not None else None
            if page is not None:
                _write(page, found, judged, timelines(pair))
            return found, judged


def _halves(path: str, found: Diff) -> Sequence[StepPair]:
    """Steps from before and after the point at which a recording changed; () where it did not."""
    from flowprof.profiler.diff.side import began, open_parts
    from flowprof.profiler.diff.timelines import timelines
    from flowprof.profiler.store import Recording

    if found.changed_at_ns is None:
        return ()
    with Recording.open(path) as recording:
        at_ns = began(recording) + found.changed_at_ns
    with open_parts(path, at_ns) as pair:
        return timelines(pair)


def _write(page: str, found: Diff, judged: Gate | None, steps: Sequence[StepPair]) -> None:
    """Raises RecordingError when it cannot be written."""
    from flowprof.profiler.whole_file import write_whole
    from flowprof.viewers import diff_html

    write_whole(Path(page), diff_html.render(found, steps, judged), "give --html a file that you may write")


@contextmanager
def _as_written() -> Iterator[None]:
    """A query of ours that does not fit a file is the file's fault: it lacks what its schema says."""
    from flowprof.profiler.errors import RecordingError, UsageError

    try:
        yield
    except UsageError as error:
        claim = f"a recording does not hold what its schema says: {error.message}"
        raise RecordingError(claim, "flowprof report FILE says which; record again") from error


@contextmanager
def _no_verdict() -> Iterator[None]:
    """The codes 3, 4 and 5 are verdicts here: what else would leave with them leaves with 6."""
    from flowprof.profiler.errors import FlowprofError, RecordingError, UsageError

    try:
        yield
    except (UsageError, RecordingError):
        raise
    except FlowprofError as error:
        raise RecordingError(error.message, error.hint) from error


def _show(found: Diff, judged: Gate | None, asked: argparse.Namespace) -> None:
    if asked.json:
        from flowprof.viewers import diff_json

        sys.stdout.write(diff_json.render(found, judged))
    elif asked.markdown:
        from flowprof.viewers import diff_markdown

        sys.stdout.write(diff_markdown.render(found, judged))
    else:
        from flowprof.viewers.terminal import diff

        diff.show(found, judged, sys.stdout)
