"""Make a recording of another profiler's trace: Kineto JSON, Nsight Systems SQLite or Perfetto protobuf.

The format is told by the content; JSON may be in gzip. Every verb that reads recordings works on the result, which says
what it was imported from. Needs no root.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "import"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the trace: .json, .json.gz, .sqlite, .pftrace")
    parser.add_argument("-o", "--output", metavar="REC", help="the recording (default: FILE's name with .duckdb, here)")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite REC")
    parser.add_argument("--json", action="store_true", help="print what was imported as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing when it went well")


def run(asked: argparse.Namespace) -> int:
    import json
    from importlib.metadata import version

    from flowprof.profiler import importers
    from flowprof.profiler.importers.writing import write
    from flowprof.profiler.invoking_user import invoking_user
    from flowprof.profiler.store import check_destination

    output = asked.output or f"{_stem(Path(asked.file).name)}.duckdb"
    _check(Path(output), Path(asked.file))
    check_destination(output, asked.force)  # before the work, not after it
    trace = importers.read(asked.file)
    counts = write(trace, output, asked.file, asked.force, invoking_user(), version("flowprof"), " ".join(sys.argv))
    if asked.json:
        sys.stdout.write(
            json.dumps({"schema_version": 1, "format": trace.format, "recording": output, **counts}) + "\n"
        )
    elif not asked.quiet:
        sys.stderr.write(
            f"{trace.format}: {counts['calls']} calls and {counts['slices']} GPU slices"
            + (f", {counts['malformed']} malformed events left out" if counts["malformed"] else "")
            + f"\n{output}: flowprof report {output}\n"
        )
    return 0


def _stem(name: str) -> str:
    for ending in (".gz", ".json", ".sqlite", ".pftrace", ".perfetto-trace"):
        name = name.removesuffix(ending)
    return name or "import"


def _check(output: Path, source: Path) -> None:
    from flowprof.profiler.errors import UsageError

    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"the recording would overwrite {source}", "give -o another name")
