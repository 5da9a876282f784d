"""Show the plan for a process: every site, and why a probe is not possible.

Attaches nothing. Cost classes: emulated (cheap), single-stepped (several times as dear: doctor measures it), return.
"""

from __future__ import annotations

import argparse
import sys

from flowprof.profiler.commands import recording
from flowprof.profiler.messages import printable

NAME = "list-probes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pids", metavar="PID[,PID]", nargs="?", help="the process, or several")
    parser.add_argument("-p", "--pid", metavar="PID[,PID]", help="the same")
    parser.add_argument("--debug-dir", action="append", default=[], metavar="DIR", help="where debug files lie, too")
    recording.torch_ops_argument(parser)
    recording.resources_argument(parser)
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="(default: table)")


def run(asked: argparse.Namespace) -> int:
    from pathlib import Path

    from flowprof.probes import engines
    from flowprof.profiler.commands.attach import pids_of
    from flowprof.profiler.machine import kernel
    from flowprof.profiler.planning.plan import make_plan, require_engine
    from flowprof.profiler.resources.taps import VARIABLE
    from flowprof.profiler.target import open_target
    from flowprof.viewers import rows

    targets = [open_target(pid) for pid in pids_of(asked.pids, asked.pid, NAME)]
    known, manifests = engines(recording.torch_ops(asked)), recording.manifests(asked)
    plan = make_plan(targets, kernel.version(), known, debug_dirs=tuple(asked.debug_dir), manifests=manifests)
    if not plan.sites and not plan.variables:
        require_engine(plan)
    short = asked.format == "table"
    names = ["pid", "level", "probe", "symbol", "module", "offset", "instruction", "cost", "reason"]
    found = [
        (
            site.pid, site.level, site.probe.id, site.symbol[:60] if short else site.symbol,
            Path(site.module.path).name if short else site.module.path,
            "-" if site.offset is None else f"{site.offset:#x}", site.instruction,
            site.cost_class or "not possible", site.reason,
        )
        for site in plan.sites
    ]  # fmt: skip
    found += [
        (
            one.pid, "resource", VARIABLE + one.variable.name, "", Path(one.module.path).name if short else
            one.module.path, "-", "", "read", f"every {one.variable.period_ms} ms, from outside"
            + (f"; declared in {one.way.kind.source}" if one.way.kind.source else ""),
        )
        for one in plan.variables
    ]  # fmt: skip
    {"table": rows.table, "csv": rows.csv, "json": rows.json}[asked.format](names, found, sys.stdout)
    if short:
        for ladder in plan.ladders:
            sys.stdout.write(f"\n{ladder.pid} {ladder.engine} {ladder.level}: {ladder.rung or 'not possible'}")
            sys.stdout.write(f" ({ladder.meaning})\n" if ladder.rung else "\n")
            for missing in ladder.missing:
                sys.stdout.write(f"  not: {printable(missing)}\n")
        for module, engine, build_id in plan.modules:
            sys.stdout.write(f"{engine}: {printable(module.path)} build-id {build_id or 'none'}\n")
    return 0
