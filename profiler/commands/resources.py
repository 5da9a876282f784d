"""Resources that an application manages: shipped manifests, and a draft for a program that has none.

flowprof resources scan BINARY|SRC|PID -o draft.toml
flowprof resources list
flowprof resources show llama-server
"""

from __future__ import annotations

import argparse
import sys

from flowprof.profiler.commands import resources_scan

NAME = "resources"


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    verbs.add_parser("list", help="the manifests that come with flowprof").set_defaults(does=_list)
    show = verbs.add_parser("show", help="print a manifest")
    show.add_argument("name", metavar="NAME", help="a shipped manifest's, or a file")
    show.set_defaults(does=_show)
    scan = verbs.add_parser(
        "scan",
        help="draft a manifest for a program",
        description=resources_scan.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    resources_scan.arguments(scan)
    scan.set_defaults(does=resources_scan.run)


def run(asked: argparse.Namespace) -> int:
    code: int = asked.does(asked)
    return code


def _list(asked: argparse.Namespace) -> int:
    from flowprof.profiler.resources import manifest

    for name in manifest.shipped():
        sys.stdout.write(f"{name}\t{manifest.load(name).about}\n")
    return 0


def _show(asked: argparse.Namespace) -> int:
    from pathlib import Path

    from flowprof.profiler.messages import printable
    from flowprof.profiler.resources import manifest

    found = manifest.load(asked.name)  # what is shown can be used
    sys.stdout.write(printable(Path(found.path).read_text()))
    return 0
