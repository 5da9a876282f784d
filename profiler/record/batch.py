"""Rows on their way to the recording: collected by table, written together in one transaction."""

from __future__ import annotations

from typing import Any

import numpy as np
from flowprof.profiler.columns import Array, Columns, as_arrays
from flowprof.profiler.store import Recording


class Batch:
    """What the next transaction will hold."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[tuple[str, ...], list[dict[str, Array]]]] = {}  # table → columns' names → parts
        self.rows = 0

    def put(self, table: str, columns: Columns) -> None:
        """Add rows, given as columns (see `Recording.append`)."""
        arrays = as_arrays(columns)
        self._parts.setdefault(table, {}).setdefault(tuple(arrays), []).append(arrays)
        self.rows += len(next(iter(arrays.values())))

    def write(self, recording: Recording) -> None:
        """Write everything in one transaction, one insert per table. Raises RecordingError; then nothing is written."""
        if not self._parts:
            return
        with recording.batch():
            for table, groups in self._parts.items():
                for names, parts in groups.items():
                    recording.append(table, {name: _joined([part[name] for part in parts]) for name in names})
        self._parts.clear()
        self.rows = 0


def _joined(parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    joined: Any = np.ma if any(isinstance(part, np.ma.MaskedArray) for part in parts) else np
    whole: Array = joined.concatenate(parts)
    return whole
