"""Rows on their way to the recording: collected by table, written together in one transaction."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.store import Recording

Columns = dict[str, object]


class Batch:
    """What the next transaction will hold."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Columns]] = {}
        self.rows = 0

    def put(self, table: str, columns: Columns) -> None:
        """Add rows, given as columns (see `Recording.append`)."""
        self._parts.setdefault(table, []).append(columns)
        first = next(iter(columns.values()))
        self.rows += len(first) if hasattr(first, "__len__") and not isinstance(first, str) else 1

    def write(self, recording: Recording) -> None:
        """Write everything in one transaction. Raises RecordingError; then nothing of it is written."""
        if not self._parts:
            return
        with recording.batch():
            for table, parts in self._parts.items():
                for columns in _joined(parts):
                    recording.append(table, columns)
        self._parts.clear()
        self.rows = 0


def _joined(parts: list[Columns]) -> list[Columns]:
    """Parts with the same columns as one, so that a table gets one insert."""
    if len(parts) == 1:
        return parts
    groups: dict[tuple[str, ...], list[Columns]] = {}
    for part in parts:
        groups.setdefault(tuple(part), []).append(part)
    out: list[Columns] = []
    for names, group in groups.items():
        merged: Columns = {}
        for name in names:
            values = [part[name] for part in group]
            if all(isinstance(v, np.ma.MaskedArray) for v in values):
                merged[name] = np.ma.concatenate(values)  # type: ignore[no-untyped-call]
            elif all(isinstance(v, np.ndarray) for v in values):
                merged[name] = np.concatenate(values)  # type: ignore[arg-type]
            elif all(isinstance(v, list | np.ndarray) for v in values):
                merged[name] = [x for v in values for x in v]  # type: ignore[attr-defined]
            else:
                out += group
                break
        else:
            out.append(merged)
    return out
