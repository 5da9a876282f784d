"""What `attach` and `run` share: their flags, the progress line, signals, and the report at the end. Not a verb."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowprof.profiler.plan import Plan
    from flowprof.profiler.recorder import Options, Progress, Recorder

DEFAULT_BUDGET = "1%"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of both verbs."""
    parser.add_argument("-o", "--output", metavar="FILE", help="the recording (default: flowprof-PID.duckdb)")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")
    parser.add_argument("-d", "--duration", metavar="TIME", help="stop after this long: 30s, 2m (default: at Ctrl-C)")
    parser.add_argument("--max-events", type=int, metavar="N", help="stop after N events")
    parser.add_argument(
        "--levels",
        default="token,graph,op,thread",
        metavar="LIST",
        help="what may be recorded: token, graph, op, thread (default: all)",
    )
    cost = parser.add_mutually_exclusive_group()
    cost.add_argument(
        "--overhead-budget",
        default=DEFAULT_BUDGET,
        metavar="PERCENT",
        help="how much slower the target may become; deep probes are attached as seldom as that needs "
        "(default: 1%%)",
    )
    cost.add_argument("--full", action="store_true", help="the deepest level all the time, whatever it costs")
    parser.add_argument("--debug-dir", action="append", default=[], metavar="DIR", help="where debug files lie, too")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no report: only the recording")


def options(asked: argparse.Namespace) -> Options:
    """The recorder's options. Raises UsageError."""
    from flowprof.profiler import durations
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.plan import LEVELS
    from flowprof.profiler.recorder import Options
    from flowprof.profiler.target import shown

    levels = tuple(name.strip() for name in asked.levels.split(",") if name.strip())
    unknown = [name for name in levels if name not in LEVELS]
    if unknown or not levels:
        raise UsageError(f"--levels: {', '.join(unknown) or 'nothing'} is no level", f"levels are {', '.join(LEVELS)}")
    if asked.max_events is not None and asked.max_events <= 0:
        raise UsageError(f"--max-events {asked.max_events} records nothing", "give a positive number")
    return Options(
        levels=levels,
        budget=None if asked.full else _budget(asked.overhead_budget),
        duration_s=durations.seconds(asked.duration) if asked.duration is not None else None,
        max_events=asked.max_events,
        debug_dirs=tuple(asked.debug_dir),
        command_line=shown(" ".join(sys.argv)),
    )


def _budget(text: str) -> float:
    from flowprof.profiler.errors import UsageError

    try:
        value = float(text.rstrip("% "))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"--overhead-budget {text!r} is no percentage", "write it like 1% or 0.5%; or use --full")
    return value / 100


def record(plan: Plan, asked: argparse.Namespace, options: Options, output: str) -> int:
    """Record `plan` into `output` and show the report. Returns the exit code."""
    from flowprof.profiler.recorder import Recorder
    from flowprof.profiler.store import Recording

    show = _ProgressLine(asked.quiet)

    def in_place() -> None:
        show.begin()
        options.release()

    kept = _Replaced(output if asked.force else "")
    created, recorder = False, None
    try:
        with _Signals() as signals, Recording.create(output, asked.force, _invoking_user()) as recording:
            created = True
            recorder = Recorder(plan, recording, replace(options, release=in_place), show)
            signals.recorder = recorder
            progress = recorder.run()
    except BaseException:
        if created and (recorder is None or not recorder.progress.events):
            for name in (output, f"{output}.wal"):  # nothing was recorded: leave no empty recording
                Path(name).unlink(missing_ok=True)
            kept.restore()
        raise
    finally:
        kept.drop()
        show.end()
    asked.ended_by = signals.number
    if not asked.quiet:
        _say(f"{progress.ended_because}: {progress.events} events, {progress.tokens} tokens, {progress.lost} lost")
        _say(f"the recording: {output} (again: flowprof report {output}; a page: --html OUT)")
        return _report(output, asked.json)
    return 0


class _Replaced:
    """The recording that `-f` replaces: it can be had back until the new one holds something."""

    def __init__(self, path: str) -> None:
        self._kept: dict[str, str] = {}
        for name in (path, f"{path}.wal") if path else ():
            aside = f"{name}.{os.getpid()}.old"
            with contextlib.suppress(OSError):  # not there, or a file system without hard links
                os.link(name, aside, follow_symlinks=False)
                self._kept[name] = aside

    def restore(self) -> None:
        """Put it back."""
        for name, aside in self._kept.items():
            with contextlib.suppress(OSError):
                Path(aside).replace(name)
        self._kept.clear()

    def drop(self) -> None:
        """It is not needed any more."""
        for aside in self._kept.values():
            Path(aside).unlink(missing_ok=True)
        self._kept.clear()


class _Signals:
    """From here on Ctrl-C, SIGTERM and SIGHUP end the recording, not flowprof; again is no more than once."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: object) -> None:
        self.number = number
        if self.recorder is None:
            raise KeyboardInterrupt
        self.recorder.stop("stopped by the user")


def _report(path: str, as_json: bool) -> int:
    from flowprof.profiler.report import build_report
    from flowprof.profiler.store import Recording

    with Recording.open(path) as recording:
        report = build_report(recording)
    if as_json:
        from flowprof.viewers import json

        sys.stdout.write(json.render(report))
    else:
        from flowprof.viewers import terminal

        terminal.show(report, sys.stdout)
    return 0


def _invoking_user() -> tuple[int, int] | None:
    """Under sudo: who the recording belongs to."""
    try:
        return (int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])) if os.geteuid() == 0 else None
    except (KeyError, ValueError):
        return None


class _ProgressLine:
    """One line on a terminal, rewritten; nothing where standard error is a file."""

    def __init__(self, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._shown = False
        self._quiet = quiet

    def begin(self) -> None:
        """The probes are in place."""
        if not self._quiet:
            _say("recording; Ctrl-C ends it")

    def __call__(self, progress: Progress) -> None:
        if self._on:
            line = (
                f"{progress.elapsed_s:6.1f} s   {progress.events:,} events   {progress.tokens:,} tokens   "
                f"{progress.tokens_per_s:.0f} tokens/s   {progress.lost:,} lost   {progress.level} level "
            )
            try:
                columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            except OSError:
                columns = 80
            sys.stderr.write(f"\r\x1b[K{line[: columns - 1]}")  # a line that wraps would not be rewritten
            sys.stderr.flush()
            self._shown = True

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
