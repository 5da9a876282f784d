"""`make bench`: run the benchmarks, print one table, write it to build/bench.md.

    python tests/benchmarks/bench.py [PART,…] [--quick]

Without names all parts run. Every part's rows are kept under build/bench/, so a part that is run again replaces its
own rows in the table and the others stay; the last column says when each was measured, and of which commit. Leaves
with 1 when a limit is missed beyond its interval. `--quick` shows that everything works: its figures mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import bench_calibrate
import bench_diff
import bench_import
import bench_overhead
import bench_overlap
import bench_report
import bench_resource_events
import bench_resource_examples
import bench_resources
import bench_ring
import bench_scan
import bench_start
import bench_torch
import bench_waits
from row import Row

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "bench"
TABLE = ROOT / "build" / "bench.md"

PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "overhead": lambda quick: bench_overhead.measured(rounds=2, seconds=0.5) if quick else bench_overhead.measured(),
    "ring": lambda quick: bench_ring.measured(8 if quick else 60),
    "start": bench_start.measured,
    "report": bench_report.measured,
    "import": bench_import.measured,
    "overlap": bench_overlap.measured,
    "resources": bench_resources.measured,
    "events": bench_resource_events.measured,
    "examples": bench_resource_examples.measured,
    "waits": bench_waits.measured,
    "torch": bench_torch.measured,
    "diff": bench_diff.measured,
    "scan": lambda quick: bench_scan.measured(),
    "calibrate": lambda quick: bench_calibrate.measured(),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that they work")
    asked = parser.parse_args()
    chosen = [name for part in asked.parts for name in part.replace(",", " ").split()] or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)} (there are {', '.join(PARTS)})")
    if os.geteuid() != 0 and {"overhead", "start", "torch"} & set(chosen):
        parser.error("attaching needs root: sudo make bench")
    KEPT.mkdir(parents=True, exist_ok=True)
    if os.getloadavg()[0] > 0.5:
        say(f"the machine is not idle (load {os.getloadavg()[0]:.1f}): figures will be worse than they are")
    began = time.monotonic()
    for name in chosen:
        run(name, asked.quick)
    table, missed = assemble()
    TABLE.write_text(table)
    print(table)
    say(f"{time.monotonic() - began:.0f} s; the table is in {TABLE.relative_to(ROOT)}")
    return int(bool(missed))


def run(name: str, quick: bool) -> None:
    """Run one part and keep its rows."""
    say(f"{name} …")
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + f", {commit()}" + (", quick" if quick else "")
    rows = []
    for row in PARTS[name](quick):
        say(f"  {row.what}: {figure(row)}  {row.note}")
        rows.append(asdict(row))
    (KEPT / f"{name}.json").write_text(json.dumps({"run": stamp, "rows": rows}, indent=1))


def assemble() -> tuple[str, list[str]]:
    """The table of all rows that are kept, and what is missed."""
    lines = [
        "| what | target | measured | 95 % interval, or × target | | run |",
        "|---|--:|--:|--:|---|---|",
    ]
    runs: list[str] = []
    missed = []
    for name in PARTS:
        path = KEPT / f"{name}.json"
        if not path.exists():
            continue
        kept = json.loads(path.read_text())
        if kept["run"] not in runs:
            runs.append(kept["run"])
        for fields in kept["rows"]:
            interval = tuple(fields.pop("interval")) if fields["interval"] else fields.pop("interval")
            row = Row(**fields, interval=interval)
            missed += [row.what] if row.verdict == "missed" else []
            number = runs.index(kept["run"]) + 1
            said = f"**missed** {row.note}" if row.verdict == "missed" else row.note
            lines.append(f"| {row.what} | {limit(row)} | {figure(row)} | {relation(row)} | {said} | {number} |")
    host = f"{os.cpu_count()} × {processor()}, Linux {platform.release()}"
    numbered = "; ".join(f"{number}: {run}" for number, run in enumerate(runs, 1))
    return "\n".join([*lines, "", f"`make bench` on {host}. Runs: {numbered}."]) + "\n", missed


def number(value: float) -> str:
    """Three digits or so."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 or value == int(value) else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def figure(row: Row) -> str:
    return "not measurable" if row.value is None else f"{number(row.value)} {row.unit}"


def limit(row: Row) -> str:
    return "" if row.limit is None else f"{'≥' if row.at_least else '≤'} {number(row.limit)} {row.unit}"


def relation(row: Row) -> str:
    if row.interval:
        return f"{number(row.interval[0])} … {number(row.interval[1])} {row.unit}"
    return f"× {row.value / row.limit:.2f}" if row.limit and row.value is not None else ""


def commit() -> str:
    """The commit that is measured, with a + when files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "no git"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
