"""Where what can be remade is kept, and this machine's ceilings: `$FLOWPROF_CACHE` or ~/.cache/flowprof."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """The cache folder, which need not be there."""
    chosen = os.environ.get("FLOWPROF_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "flowprof"


def made() -> Path:
    """The cache folder, made when missing. Raises OSError when it cannot be."""
    path = folder()
    path.mkdir(parents=True, exist_ok=True)
    return path
