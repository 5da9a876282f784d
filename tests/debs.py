"""Programs of Debian packages, unpacked into a cache: nothing is installed, no service is started.

root = unpacked("postgresql-15")
subprocess.Popen([root / "usr/lib/postgresql/15/bin/postgres", …], env=environment(root))
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flowprof" / "debs"
_UNPRIVILEGED = "nobody"


def unpacked(*packages: str) -> Path:
    """A folder with the files of these packages and of what they need and this machine lacks. Skips the test."""
    root = CACHE / "+".join(packages)
    if root.is_dir():
        return root
    if not shutil.which("apt-get") or os.geteuid() != 0:
        pytest.skip(f"{', '.join(packages)}: needs root, and apt-get to fetch packages with")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "partial").mkdir()
        fetch = ["apt-get", "install", "-qq", "-y", "--download-only", "--no-install-recommends",
                 "-o", f"Dir::Cache::archives={folder}", *packages]  # fmt: skip
        done = subprocess.run(fetch, capture_output=True, text=True)
        if done.returncode:  # a machine whose lists are old, or not there yet
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
            done = subprocess.run(fetch, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"apt-get has no {', '.join(packages)}: {done.stderr.strip()[:200]}")
        draft = Path(tempfile.mkdtemp(dir=CACHE))
        draft.chmod(0o755)
        for archive in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, draft], check=True)
        draft.rename(root)
    return root


def environment(root: Path) -> dict[str, str]:
    """For a program from there: where its libraries are."""
    libraries = [str(path) for path in (root / "usr/lib").glob("*-linux-gnu*")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries), "LC_ALL": "C"}


def as_nobody(*command: str | Path) -> list[str]:
    """Database servers refuse to run as root."""
    return ["setpriv", f"--reuid={_UNPRIVILEGED}", "--clear-groups", *map(str, command)]
