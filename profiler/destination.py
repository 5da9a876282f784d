"""Whether a recording can be written where the user wants it, as far as the file system tells."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from flowprof.profiler.errors import PermissionDeniedError, RecordingError, UsageError


def check_name(path: str) -> None:
    """Raises UsageError where DuckDB could not take it."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the file name {path!r} is not UTF-8", "name another file") from error


def check(path: str, overwrite: bool) -> bool:
    """What would stop a recording from being created. True: a file is there already, and may be overwritten.

    Raises RecordingError, PermissionDeniedError, UsageError.
    """
    check_name(path)
    directory = Path(path).parent
    if not directory.is_dir():
        raise RecordingError(f"no directory {directory}", f"mkdir -p {directory}")
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise RecordingError(f"cannot write the recording {path}: {error.strerror}", "name another with -o") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise RecordingError(f"{path} is not a plain file", "name another file with -o FILE")
    if mode is not None and not overwrite:
        raise RecordingError(f"{path} exists", "overwrite it with -f, or name another file with -o FILE")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionDeniedError(f"cannot write in {directory}", "name another file with -o FILE")
    return mode is not None
