"""Whoever called flowprof through sudo: what is kept for them belongs to them, and is written with their rights."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from flowprof.profiler.errors import NotFoundError


def invoking_user() -> tuple[int, int] | None:
    """Under sudo: the user's and the group's id."""
    try:
        return (int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])) if os.geteuid() == 0 else None
    except (KeyError, ValueError):
        return None


def data_folder() -> Path:
    """Where a user's data lies: $XDG_DATA_HOME, or ~/.local/share of whoever called. It need not be there.

    Raises NotFoundError for a user whom the host does not know.
    """
    chosen = os.environ.get("XDG_DATA_HOME", "")
    if chosen.startswith("/"):  # the specification: others are to be ignored
        return Path(chosen)
    user = invoking_user()
    if user is None:
        return Path.home() / ".local" / "share"
    return Path(_entry(user[0]).pw_dir) / ".local" / "share"


@contextlib.contextmanager
def their_rights() -> Iterator[None]:
    """Files are opened, made and removed with the rights of whoever called: root follows no link that a user laid.

    Raises NotFoundError for a user whom the host does not know.
    """
    user = invoking_user()
    if user is None:
        yield
        return
    groups = os.getgroups()
    theirs = os.getgrouplist(_entry(user[0]).pw_name, user[1])
    try:
        os.setgroups(theirs)
        os.setegid(user[1])
        os.seteuid(user[0])
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        hint = "unset SUDO_UID, or set XDG_DATA_HOME"
        raise NotFoundError(f"there is no user {uid} here (SUDO_UID)", hint) from None
