"""Recordings kept under a name, to compare with later: `flowprof diff --against NAME RECORDING`.

flowprof baseline save NAME FILE [FILE…]   the repeats of one normal set-up; --add: one more, -f: in place of them
flowprof baseline list
flowprof baseline show NAME
flowprof baseline remove NAME

They are copied to $XDG_DATA_HOME or ~/.local/share, flowprof/baselines; under sudo to those of the invoking user.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from flowprof.profiler.messages import printable, say

NAME = "baseline"


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    save = verbs.add_parser("save", help="keep recordings under a name", allow_abbrev=False)
    save.add_argument("name", metavar="NAME", help="letters, digits, . _ and -")
    save.add_argument("files", nargs="+", metavar="FILE", help="recordings of the same set-up: repeats")
    there = save.add_mutually_exclusive_group()
    there.add_argument("--add", action="store_true", help="add to a baseline that is there")
    there.add_argument("-f", "--force", action="store_true", help="replace a baseline that is there")
    save.set_defaults(does=_save)
    verbs.add_parser("list", help="all baselines").set_defaults(does=_list)
    show = verbs.add_parser("show", help="the recordings of one")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(does=_show)
    remove = verbs.add_parser("remove", help="remove one")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(does=_remove)


def run(asked: argparse.Namespace) -> int:
    code: int = asked.does(asked)
    return code


def _save(asked: argparse.Namespace) -> int:
    from flowprof.profiler import baselines

    there = baselines.save(asked.name, asked.files, "add" if asked.add else "replace" if asked.force else "new")
    many = "1 recording" if len(there) == 1 else f"{len(there)} recordings"
    say(f"the baseline {asked.name}: {many} (compare: flowprof diff --against {asked.name} FILE)")
    return 0


def _list(asked: argparse.Namespace) -> int:
    from flowprof.profiler import baselines
    from flowprof.viewers import rows

    found = []
    for name in baselines.names():
        there = baselines.recordings(name)
        found.append((name, len(there), *_told(there[0])))
    if not found:
        say(f"no baselines in {printable(str(baselines.folder()))} (flowprof baseline save NAME FILE makes one)")
        return 0
    rows.table(["baseline", "recordings", "recorded", "tokens", "model", "host"], found, sys.stdout)
    return 0


def _show(asked: argparse.Namespace) -> int:
    from flowprof.profiler import baselines
    from flowprof.viewers import rows

    there = baselines.recordings(asked.name)
    table = [(path.name, *_told(path)) for path in there]
    sys.stdout.write(f"{printable(str(there[0].parent))}\n\n")
    rows.table(["file", "recorded", "tokens", "model", "host"], table, sys.stdout)
    return 0


def _remove(asked: argparse.Namespace) -> int:
    from flowprof.profiler import baselines

    many = baselines.remove(asked.name)
    say(f"removed the baseline {asked.name}: {many} recording{'' if many == 1 else 's'}")
    return 0


def _told(path: Path) -> tuple[str, int | None, str, str]:
    """When, how many tokens, which model, where; one that cannot be read does not hide the others."""
    from flowprof.profiler.errors import FlowprofError
    from flowprof.profiler.store import Recording

    try:
        with Recording.open(str(path)) as recording:
            meta = recording.meta()
            tokens = int(recording.rows("SELECT coalesce(sum(tokens), 0) FROM graph_duration")[0][0])
            models = recording.rows("SELECT coalesce(name, architecture, '') FROM model LIMIT 1")
    except FlowprofError as error:
        return f"unusable: {error.message}", None, "", ""
    began = meta.get("started_unix_ns", "")
    seconds = int(began) // 10**9 if began.isdecimal() and len(began) < 20 else None
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds is not None else ""
    return when, tokens, str(models[0][0]) if models else "", meta.get("host", "")
