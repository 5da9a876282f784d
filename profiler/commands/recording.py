"""What `attach` and `run` share: their flags, the progress line, signals, and the report at the end. Not a verb."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowprof.profiler.messages import say

if TYPE_CHECKING:
    from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
    from flowprof.profiler.planning.plan import Plan
    from flowprof.profiler.record.options import Options
    from flowprof.profiler.record.recorder import Progress, Recorder
    from flowprof.profiler.resources.manifest import Manifest

DEFAULT_BUDGET = "1%"
JUDGED = frozenset({"ggml", "torch"})  # engines whose operators are held against ceilings
MAX_UNSEEN = 5  # events of manifests that are told one by one


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of both verbs."""
    parser.add_argument("-o", "--output", metavar="FILE", help="the recording (default: flowprof-PID.duckdb)")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")
    parser.add_argument("-d", "--duration", metavar="TIME", help="stop after this long: 30s, 2m (default: at Ctrl-C)")
    parser.add_argument("--max-events", type=int, metavar="N", help="stop after N events")
    parser.add_argument(
        "--levels",
        default="token,graph,op,thread,sched",
        metavar="LIST",
        help="what may be recorded: token, graph, op, thread, sched (default: all)",
    )
    cost = parser.add_mutually_exclusive_group()
    cost.add_argument(
        "--overhead-budget",
        default=DEFAULT_BUDGET,
        metavar="PERCENT",
        help="how much slower the target may become; deep probes are attached as seldom as that needs (default: 1%%)",
    )
    cost.add_argument("--full", action="store_true", help="the deepest level all the time, whatever it costs")
    parser.add_argument(
        "--counters",
        choices=("software", "all"),
        help="count per operator: page faults and context switches, or all, with cycles, instructions and cache misses "
        "where this machine has them; makes every probe hit dearer (the recording measures by how much)",
    )
    torch_ops_argument(parser)
    resources_argument(parser)
    parser.add_argument("--debug-dir", action="append", default=[], metavar="DIR", help="where debug files lie, too")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no report: only the recording")


def torch_ops_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--torch-ops",
        default="",
        metavar="all|REGEX",
        help="which of PyTorch's operators: all 3 100, or those whose name (add_Tensor) matches (default: matrix "
        "products, attention, convolutions, norms, softmax, embedding, copies, collectives)",
    )


def resources_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="FILE|NAME[,…]",
        help="record who holds and who waits for the resources that these manifests name (flowprof resources list)",
    )

    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        metavar="SYMBOL|EXPR",
        help="record a variable's values: a global one (limit, pool.used), an argument of a function whenever that is "
        "entered ('lookup(arg1->size)', 'lookup(n)'), or what it returns ('lookup(ret)'); repeatable",
    )


def manifests(asked: argparse.Namespace) -> tuple[Manifest, ...]:
    """What --resources names, each manifest once, and --watch. Raises ManifestError, NotFoundError, UsageError."""
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.resources import watch
    from flowprof.profiler.resources.manifest import load

    names = [name.strip() for text in asked.resources for name in text.split(",") if name.strip()]
    read = tuple(load(name) for name in dict.fromkeys(names))
    called = [manifest.name for manifest in read]
    for name in called:
        if called.count(name) > 1:
            raise UsageError(f"--resources: two manifests are named {name[:80]!r}", "give one of them another name")
    watched = watch.manifest(asked.watch)
    return read if watched is None else (*read, watched)


def torch_ops(asked: argparse.Namespace) -> str:
    """What --torch-ops says. Raises UsageError."""
    from flowprof.probes.torch import engine
    from flowprof.profiler.errors import UsageError

    try:
        engine(asked.torch_ops)
    except ValueError as error:
        claim = f"--torch-ops {asked.torch_ops[:80]!r} is no regular expression: {error}"
        raise UsageError(claim, "write names: 'mm|linear'") from error
    return str(asked.torch_ops)


def options(asked: argparse.Namespace) -> Options:
    """The recorder's options. Raises UsageError."""
    from flowprof.profiler import durations
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.record.options import LEVELS, Options
    from flowprof.profiler.target import shown

    levels = tuple(name.strip() for name in asked.levels.split(",") if name.strip())
    unknown = [name for name in levels if name not in LEVELS]
    if unknown or not levels:
        raise UsageError(f"--levels: {', '.join(unknown) or 'nothing'} is no level", f"levels are {', '.join(LEVELS)}")
    if asked.counters and "sched" not in levels:
        raise UsageError("--counters needs the level sched", "it tells a thread's own counts from those of others")
    if asked.max_events is not None and asked.max_events <= 0:
        raise UsageError(f"--max-events {asked.max_events} records nothing", "give a positive number")
    return Options(
        levels=levels,
        budget=None if asked.full else _budget(asked.overhead_budget),
        duration_s=durations.seconds(asked.duration) if asked.duration is not None else None,
        max_events=asked.max_events,
        debug_dirs=tuple(asked.debug_dir),
        torch_ops=torch_ops(asked),
        counters=asked.counters or "",
        manifests=manifests(asked),
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


@contextlib.contextmanager
def compiling(options: Options, engines: Iterable[str] = ()) -> Iterator[Future[ProbesInPlace]]:
    """Compile the kernel side on a thread of its own: it takes longest. Until it is done standard error is bcc's.

    engines: that may be met; what others need is compiled when they are.
    """
    from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace

    with ThreadPoolExecutor(1, initializer=_own_folder) as compiler:
        yield compiler.submit(ProbesInPlace.of, options, engines)


def _own_folder() -> None:
    """bcc changes the working directory while it compiles: from here on this thread has one of its own."""
    clone_fs = 0x200
    ctypes.CDLL(None).unshare(clone_fs)


def ceilings_note() -> str:
    """What keeps verdicts from being as good as they could be, in one line with the remedy; "": nothing."""
    from flowprof.profiler.machine import ceilings_file

    known = ceilings_file.cached()
    if known is None:
        return (
            "this machine's ceilings are not known, so no verdict will say what bounds an operator: flowprof calibrate"
        )
    if changed := ceilings_file.doubts(known):
        return f"this machine's ceilings may not hold any more ({changed}): flowprof calibrate"
    return ""


def record(plan: Plan, asked: argparse.Namespace, options: Options, output: str, probes: Future[ProbesInPlace]) -> int:
    """Record `plan` into `output` and show the report. Returns the exit code."""
    from flowprof.profiler.destination import check as check_destination
    from flowprof.profiler.ggml.graphs import read_ahead
    from flowprof.profiler.invoking_user import invoking_user
    from flowprof.profiler.planning.plan import unseen
    from flowprof.profiler.record.recorder import Recorder
    from flowprof.profiler.store import Recording

    read_ahead((module for module, _, _ in plan.modules), options.debug_dirs)
    show = _ProgressLine(asked.quiet)

    def in_place() -> None:
        if not asked.quiet:
            for line in (missing := unseen(plan))[:MAX_UNSEEN]:
                say(line)
            if len(missing) > MAX_UNSEEN:
                say(f"and {len(missing) - MAX_UNSEEN} more: flowprof list-probes shows them")
        show.begin()
        options.release()
        if not asked.quiet and plan.engines() & JUDGED and (words := ceilings_note()):
            say(words)

    check_destination(output, asked.force)  # from here on nobody else's file lies there, but for one that -f replaces
    kept = _Replaced(output if asked.force else "")
    created, recorder = False, None
    try:
        with _Signals() as signals, Recording.create(output, asked.force, invoking_user()) as recording:
            created = True
            compiled = probes.result()
            recorder = Recorder(plan, recording, replace(options, release=in_place), show, compiled)
            signals.recorder = recorder
            progress = recorder.run()
    except BaseException as error:
        begun = created or (isinstance(error, KeyboardInterrupt) and kept.whole)  # it may come before `created` says so
        if begun and (recorder is None or not recorder.progress.events):
            for name in (output, f"{output}.wal"):  # nothing was recorded: leave no empty recording
                Path(name).unlink(missing_ok=True)
            kept.restore()
        raise
    finally:
        kept.drop()
        show.end()
    asked.ended_by = signals.number
    if not asked.quiet:
        say(f"{progress.ended_because}: {progress.events} events, {progress.tokens} tokens, {progress.lost} lost")
        say(f"the recording: {output} (again: flowprof report {output}; a page: --html OUT)")
        return _report(output, asked.json)
    return 0


class _Replaced:
    """The recording that `-f` replaces: it can be had back until the new one holds something."""

    def __init__(self, path: str) -> None:
        self._kept: dict[str, str] = {}
        self.whole = True  # all that was there can be had back
        for name in (path, f"{path}.wal") if path else ():
            aside = f"{name}.{os.getpid()}.old"
            try:
                os.link(name, aside, follow_symlinks=False)
                self._kept[name] = aside
            except FileNotFoundError:
                continue
            except OSError:  # a file system without hard links
                self.whole = False

    def restore(self) -> None:
        """Put it back."""
        for name, aside in self._kept.items():
            with contextlib.suppress(OSError):
                Path(aside).replace(name)
                Path(aside).unlink(missing_ok=True)  # still there where `name` had not been replaced yet
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
    from flowprof.profiler.commands.report import show
    from flowprof.profiler.report import build_report
    from flowprof.profiler.store import Recording

    with Recording.open(path) as recording:
        report = build_report(recording)
    show(report, as_json)
    return 0


class _ProgressLine:
    """One line on a terminal, rewritten; nothing where standard error is a file."""

    def __init__(self, quiet: bool) -> None:
        self._on = False
        self._shown = False
        self._quiet = quiet

    def begin(self) -> None:
        """The probes are in place, and standard error is ours again, not the compiler's."""
        self._on = not self._quiet and sys.stderr.isatty()
        if not self._quiet:
            say("recording; Ctrl-C ends it")

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
