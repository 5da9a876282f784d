"""Start a command and record it from its first instruction.

Under sudo the command runs as the invoking user. Libraries that it loads later are probed when they appear. The
recording ends with the command; Ctrl-C goes to both. The exit code is the command's own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from flowprof.profiler.commands import recording
from flowprof.profiler.messages import printable, say

if TYPE_CHECKING:
    from flowprof.profiler.record.child import Child

NAME = "run"


def arguments(parser: argparse.ArgumentParser) -> None:
    recording.arguments(parser)
    parser.add_argument("command", metavar="-- CMD ARG…", nargs=argparse.REMAINDER, help="the command")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.errors import FlowprofError, UsageError

    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not command:
        raise UsageError("no command is given", "flowprof run -- CMD ARG…")
    from dataclasses import replace

    options = replace(recording.options(asked), look_s=0.01)
    from flowprof.probes import engines
    from flowprof.profiler.machine import kernel, rights
    from flowprof.profiler.planning.plan import make_plan, unwatched
    from flowprof.profiler.record.child import Child

    rights.require()
    user = os.environ.get("SUDO_UID") if os.geteuid() == 0 else None
    child = Child(command, int(user) if user and user.isdecimal() else None)
    try:
        known = engines(options.torch_ops)
        # Libraries will come, nobody knows which: compiled when they do, their first calls would be missed.
        with recording.compiling(options, [engine.name for engine in known]) as probes:
            plan = make_plan([child.target()], kernel.version(), known, options.debug_dirs, manifests=options.manifests)
            for name, reason in unwatched(plan).items():  # it may come with a library
                say(printable(f"--watch {name}: {reason}"))
            output = asked.output or f"flowprof-{child.pid}.duckdb"
            code = recording.record(plan, asked, replace(options, release=child.release), output, probes)
    except FlowprofError as error:
        child.abandon()
        if child.exit_code is None:  # it runs: our trouble is not to end it
            sys.stderr.write(f"flowprof: the command goes on without being recorded: {error.message}\n")
            _wait(child)
        raise
    except BaseException:
        child.abandon()
        raise
    if asked.ended_by in (signal.SIGTERM, signal.SIGHUP):  # sent to us only, or it has ended by now
        os.kill(child.pid, asked.ended_by)
    return _wait(child) or code


def _wait(child: Child) -> int:
    """Wait for the command. Ctrl-C is for it now; what asks flowprof itself to end is handed on to it."""

    def hand_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    previous = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, hand_on)
    try:
        return child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
