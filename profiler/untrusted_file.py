"""Open a file that somebody else wrote or named: a plain file, and without waiting for a pipe's writer."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError


def open_plain(path: str | Path) -> int:
    """A descriptor to read from, for the caller to close. Raises OSError, also for what is no plain file or no path."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL, or what is no UTF-8, in the name
        raise OSError(errno.EINVAL, str(error)) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a plain file")
    return file


def open_named(path: str | Path, wrong: type[FlowprofError], absent: str, hint: str = "") -> int:
    """`open_plain` for a file that the user named; `absent` is the hint for a file that is not there.

    Raises NotFoundError, PermissionDeniedError, or `wrong` with `hint` for what cannot be read otherwise.
    """
    try:
        return open_plain(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}", absent) from error
    except PermissionError as error:
        raise PermissionDeniedError(f"cannot read {path}", f"sudo chown $USER {path}") from error
    except OSError as error:
        raise wrong(f"cannot read {path}: {error.strerror}", hint) from error


def content(path: str | Path, limit_bytes: int, wrong: type[FlowprofError], absent: str, hint: str) -> bytes:
    """The whole of a small file. Raises as `open_named`; `wrong` also for more than `limit_bytes`."""
    with open(open_named(path, wrong, absent, hint), "rb") as file:
        try:
            found = file.read(limit_bytes + 1)
        except OSError as error:
            raise wrong(f"cannot read {path}: {error.strerror}", hint) from error
    if len(found) > limit_bytes:
        raise wrong(f"{path} is larger than {limit_bytes >> 20} MiB", hint)
    return found
