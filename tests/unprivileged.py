"""Run a command as `nobody`, wherever the checkout lies: below /root, say, which nobody else may enter."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
NOBODY = 65534
DROP = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
# In a mount namespace of its own the closed folder is another one, open, that holds the checkout alone.
OPENED = """
set -e
kept=$(mktemp -d)
mount --bind "$1" "$kept"
mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir -p "$1"
mount --bind "$kept" "$1"
umount "$kept"
rmdir "$kept"
shift 2
exec "$@"
"""


def as_nobody(*command: object) -> list[str]:
    """The command line that runs `command` without rights: as it is when we have none ourselves."""
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    closed = next((folder for folder in reversed(CHECKOUT.parents) if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return [*DROP, *words]
    return ["unshare", "--mount", "sh", "-c", OPENED, "sh", str(CHECKOUT), str(closed), *DROP, *words]
