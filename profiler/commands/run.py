"""Start a command and record it from its first instruction.

Under sudo the command runs as the invoking user. Libraries that it loads later are probed when they appear. The
recording ends with the command; Ctrl-C goes to both. The exit code is the command's own.
"""

from __future__ import annotations

import argparse
import os

from flowprof.profiler.commands import recording

NAME = "run"


def arguments(parser: argparse.ArgumentParser) -> None:
    recording.arguments(parser)
    parser.add_argument("command", metavar="-- CMD ARG…", nargs=argparse.REMAINDER, help="the command")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.errors import UsageError

    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not command:
        raise UsageError("no command is given", "flowprof run -- CMD ARG…")
    from dataclasses import replace

    options = replace(recording.options(asked), look_s=0.01)
    from flowprof.profiler import kernel, rights
    from flowprof.profiler.child import Child
    from flowprof.profiler.plan import make_plan

    rights.require()
    user = os.environ.get("SUDO_UID") if os.geteuid() == 0 else None
    child = Child(command, int(user) if user and user.isdigit() else None)
    try:
        plan = make_plan([child.target()], kernel.version(), debug_dirs=options.debug_dirs)
        output = asked.output or f"flowprof-{child.pid}.duckdb"
        code = recording.record(plan, asked, replace(options, release=child.release), output)
    except BaseException:
        child.abandon()
        raise
    return child.wait() or code
