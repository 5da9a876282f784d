"""The one family of errors that a user can cause or mend.

`cli.main` catches `FlowprofError` once, prints its sentence and its hint, and leaves with its exit code.

Exit codes: 0 fine · 1 an internal error (a bug; please report) · 2 wrong arguments · 3 no such process, file or table
· 4 not permitted · 5 nothing to profile in that process · 6 the recording cannot be written or read · 7 eBPF is not
usable here · 130 interrupted before anything was recorded.
"""

from __future__ import annotations


class FlowprofError(Exception):
    """A clear sentence for the user, what to do next, and the exit code. Subclasses set `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FlowprofError):
    """Arguments that make no sense."""

    exit_code = 2


class NotFoundError(FlowprofError):
    """A process, file or table that is not there."""

    exit_code = 3


class PermissionDeniedError(FlowprofError):
    """The user lacks a right; the message names it, the hint is the command that mends it."""

    exit_code = 4


class NothingToProfileError(FlowprofError):
    """The process holds no engine that flowprof knows, or none that can be probed."""

    exit_code = 5


class RecordingError(FlowprofError):
    """A recording that cannot be written or read."""

    exit_code = 6


class BpfError(FlowprofError):
    """eBPF, uprobes or bcc are not usable on this host."""

    exit_code = 7
