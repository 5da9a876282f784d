"""Record a running process: attach, press Ctrl-C, and see where each token's time went.

Nothing is rebuilt, restarted, injected or stopped. Needs root (or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE).
"""

from __future__ import annotations

import argparse

from flowprof.profiler.commands import recording

NAME = "attach"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pids", metavar="PID[,PID]", nargs="?", help="the process, or several")
    parser.add_argument("-p", "--pid", metavar="PID[,PID]", help="the same, as perf and py-spy take it")
    recording.arguments(parser)


def run(asked: argparse.Namespace) -> int:
    pids = pids_of(asked.pids, asked.pid, "attach")
    options = recording.options(asked)
    from flowprof.probes import engines
    from flowprof.profiler import destination
    from flowprof.profiler.errors import NotFoundError
    from flowprof.profiler.machine import kernel, rights
    from flowprof.profiler.target import has_ended, open_target

    targets = [open_target(pid) for pid in pids]
    rights.require()
    output = asked.output or f"flowprof-{'-'.join(map(str, pids))}.duckdb"
    destination.check(output, asked.force)  # before the compiler is started, for which even an error would have to wait
    with recording.compiling(options) as probes:
        from flowprof.profiler.planning.plan import (  # takes long
            make_plan,
            require_engine,
            require_room,
            require_watched,
        )

        known = engines(options.torch_ops)
        plan = make_plan(targets, kernel.version(), known, debug_dirs=options.debug_dirs, manifests=options.manifests)
        if any(has_ended(pid) for pid in pids):
            raise NotFoundError(f"process {', '.join(map(str, filter(has_ended, pids)))} has ended meanwhile")
        require_watched(plan)
        require_engine(plan)
        require_room(plan)
        return recording.record(plan, asked, options, output, probes)


def pids_of(positional: str | None, flag: str | None, verb: str) -> list[int]:
    """The pids given either way. Raises UsageError."""
    from flowprof.profiler.errors import UsageError

    text = ",".join(part for part in (positional, flag) if part)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("no process is given", f"flowprof {verb} PID")
    try:
        pids = [int(part) for part in parts]
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of process ids", f"flowprof {verb} 1234,5678") from error
    return list(dict.fromkeys(pids))
