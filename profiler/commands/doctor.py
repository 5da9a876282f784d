"""Can flowprof record here? Checks the host, and a process with --pid.

Every line says OK, WARN (it works, something costs more or is absent), FAIL (recording is not possible; the remedy
follows) or SKIP. The exit code is 0 when nothing fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from flowprof.profiler.messages import printable

NAME = "doctor"
SCHEMA_VERSION = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--pid", type=int, metavar="PID", help="also look at this process")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(asked: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from itertools import chain

    from flowprof.profiler import doctor
    from flowprof.profiler.errors import BpfError

    about_target: Iterable[doctor.Check] = ()
    if asked.pid is not None:
        from flowprof.profiler import doctor_target

        about_target = doctor_target.checks(asked.pid)
    checks = []
    for check in chain(doctor.host(), about_target):
        checks.append(check)
        if not asked.json:
            print_check(check.name, check.verdict, check.found, check.remedy)
    failed = bool(doctor.failures(checks))
    if asked.json:
        shown = {
            "schema_version": SCHEMA_VERSION,
            "ok": not failed,
            "checks": [asdict(check) for check in checks],
        }
        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    return BpfError.exit_code if failed else 0


def print_check(name: str, verdict: str, found: str, remedy: str) -> None:
    """One line, and the remedy below it when there is one."""

    sys.stdout.write(f"{verdict:<4}  {name:<13} {printable(found)}\n")
    if remedy:
        sys.stdout.write(f"{'':<19} -> {printable(remedy)}\n")
    sys.stdout.flush()
