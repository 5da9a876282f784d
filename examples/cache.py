"""Where examples and tests keep large files that can be remade: `$FLOWPROF_CACHE` or `~/.cache/flowprof`."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """The cache folder, made when missing. Raises OSError when it cannot be."""
    chosen = os.environ.get("FLOWPROF_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(chosen) if chosen else base / "flowprof"
    path.mkdir(parents=True, exist_ok=True)
    return path
