"""Measure what this machine can do at most: memory and cache bandwidth, GEMM peaks.

Takes up to 15 s, needs no root, and is kept: recordings made here state these ceilings. Best done on an idle machine.
`--json` prints a file for `--ceilings FILE`, by which figures of yours replace the measured ones.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flowprof.profiler.messages import printable, say

if TYPE_CHECKING:
    from flowprof.profiler.machine.ceilings import Ceilings

NAME = "calibrate"
MAX_COUNTS = 32


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--threads", metavar="N[,N]", help="numbers of threads (default: powers of two, the cores, all)"
    )
    parser.add_argument("--force", action="store_true", help="measure again what is known already and undisturbed")
    parser.add_argument("--json", action="store_true", help="print the ceilings as JSON")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.machine import calibrate, ceilings_file, processor

    here = processor.read()
    threads = _threads(asked.threads) or processor.thread_counts(len(here.cpus), here.cores)
    known = ceilings_file.valid()
    if known is None and (old := ceilings_file.cached()) is not None:
        say(f"what is known was measured before: {ceilings_file.doubts(old)}")
    wanted = threads if asked.force else calibrate.open_counts(known, threads)
    if wanted:
        measured = calibrate.measure(wanted, say=say)
        known = measured if known is None else known.merged(measured)
        ceilings_file.save(known, ceilings_file.cache_file())
    assert known is not None
    if asked.json:
        sys.stdout.write(ceilings_file.as_json(known))
    else:
        _show(known, known=not wanted)
    if any(item.disturbed for item in known.items):
        say("others used the processors meanwhile: run `flowprof calibrate` again on an idle machine")
    return 0


def _threads(text: str | None) -> tuple[int, ...]:
    from flowprof.profiler.errors import UsageError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MAX_COUNTS or not all(part.isascii() and part.isdigit() and 0 < len(part) < 7 for part in parts):
        raise UsageError(f"--threads {text[:60]!r} is no list of numbers", "write it like 1,2,8")
    return tuple(dict.fromkeys(map(int, parts)))


def _show(shown: Ceilings, known: bool) -> None:
    from flowprof.profiler.machine import ceilings_file
    from flowprof.viewers import rows
    from flowprof.viewers.quantity import three

    out = sys.stdout
    out.write(f"{printable(shown.machine)}\n\n")
    sources = list(dict.fromkeys(item.source for item in shown.items))
    lines = [
        (
            f"{item.what} {item.dtype}".strip(), item.threads, three(item.value / 1e9),
            "GOP/s" if item.what == "gemm" else "GB/s", f"{three(item.low / 1e9)} … {three(item.high / 1e9)}",
            f"[{sources.index(item.source) + 1}]" + (" disturbed" if item.disturbed else ""),
        )
        for item in shown.items
    ]  # fmt: skip
    rows.table(["ceiling", "threads", "best", "unit", "repeats", "source"], lines, out)
    out.write("\n")
    for number, source in enumerate(sources, 1):
        out.write(f"[{number}] {printable(source)}\n")
    for what, why in shown.missing:
        out.write(f"{what}: {printable(why)}\n")
    out.write(f"\n{'known from' if known else 'kept in'} {printable(str(ceilings_file.cache_file()))}\n")
