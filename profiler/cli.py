"""The command line: `flowprof VERB …`.

A verb is one module in `commands/` and one line in `VERBS`. It has a `NAME`, a docstring whose first line is its
help, `arguments(parser)` and `run(asked) -> exit code`; what is slow to import is imported inside `run`.
Data goes to standard output, messages to standard error. Errors that a user can cause end here: one sentence, the
next command to try, the exit code (see `errors`). Anything else is a bug: one line, and the traceback with
`FLOWPROF_DEBUG=1`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import Protocol

from flowprof.profiler.commands import (
    attach,
    baseline,
    calibrate,
    demo,
    diff,
    doctor,
    import_,
    list_probes,
    overlap,
    query,
    report,
    resources,
    run,
    whatif,
)
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.messages import printable, say

INTERRUPTED = 128 + signal.SIGINT
EXIT_CODES = """exit codes: 0 fine, 1 a bug, 2 wrong arguments, 3 no such process or file, 4 not permitted,
5 nothing to profile there, 6 unusable recording, 7 eBPF not usable here, 130 interrupted
(diff --gate: 0 within the limit, 3 a regression, 4 not comparable, 5 not enough data)"""


class Verb(Protocol):
    """What a module in `commands/` offers."""

    @property
    def NAME(self) -> str: ...  # noqa: N802 (a module constant)
    def arguments(self, parser: argparse.ArgumentParser, /) -> None: ...
    def run(self, asked: argparse.Namespace, /) -> int: ...


VERBS: tuple[Verb, ...] = (
    attach,
    run,
    list_probes,
    report,
    diff,
    baseline,
    query,
    import_,
    whatif,
    overlap,
    resources,
    doctor,
    calibrate,
    demo,
)


def parser() -> argparse.ArgumentParser:
    """The whole command line, with help for every verb."""
    root = argparse.ArgumentParser(
        prog="flowprof",
        description="Attach to a running LLM inference process and see where each token's time goes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action=_Version)
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        summary, _, more = (verb.__doc__ or "").partition("\n")
        one = verbs.add_parser(
            verb.NAME,
            help=summary,
            description=f"{summary}\n{textwrap.dedent(more)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb.arguments(one)
        one.set_defaults(run=verb.run)
    return root


class _Version(argparse.Action):
    """`--version`, without paying for importlib.metadata at every start."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"flowprof {version('flowprof')}\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; argparse's own errors leave by SystemExit(2)."""
    try:
        asked = parser().parse_args(arguments)
        code: int = asked.run(asked)
        sys.stdout.flush()  # here, so that a reader that left is noticed here
        return code
    except FlowprofError as error:
        say(f"flowprof: {printable(error.message)}")
        if error.hint:
            say(f"hint: {printable(error.hint)}")
        return error.exit_code
    except KeyboardInterrupt:
        say("flowprof: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has left (`| head`): no error of ours. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("FLOWPROF_DEBUG"):
            raise
        say(f"flowprof: internal error: {type(error).__name__}: {printable(str(error))[:300]}")
        say("hint: this is a bug; run it again with FLOWPROF_DEBUG=1 for the traceback and report it")
        return 1


def entry() -> None:
    """The console script."""
    _open_streams()
    sys.exit(main())


def _open_streams() -> None:
    """Put /dev/null where a stream was closed (`>&-`): else the next file to be opened would take its number."""
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= 2:
        opened = os.open(os.devnull, os.O_RDWR)
    os.close(opened)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 (for good)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 (for good)


if __name__ == "__main__":
    entry()
