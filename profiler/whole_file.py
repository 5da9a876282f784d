"""Write a text file whole or not at all: beside its name, then renamed onto it."""

from __future__ import annotations

import os
from pathlib import Path

from flowprof.profiler.errors import RecordingError


def write_whole(path: Path, text: str, hint: str) -> None:
    """An earlier file stays until it is replaced. Raises RecordingError with `hint`."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}", hint) from error
