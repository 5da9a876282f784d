"""From when on a resource has a problem: data/resource_thresholds.toml, or a user's file over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flowprof.profiler.errors import UsageError
from flowprof.profiler.store import Recording
from flowprof.profiler.untrusted_file import content

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "resource_thresholds.toml"
MAX_BYTES = 1 << 18
_HINT = "profiler/data/resource_thresholds.toml shows every table and field"
_SHARES = ("share", "spread", "utilisation", "steadiness", "late", "broken")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Figures by table and field. source: the file that they are of, as people call it."""

    figures: Mapping[str, Mapping[str, float]]
    source: str

    def of(self, table: str, field: str) -> float:
        """One figure; raises KeyError."""
        return self.figures[table][field]


_used: WeakKeyDictionary[Recording, Thresholds] = WeakKeyDictionary()


def use(recording: Recording, thresholds: Thresholds) -> None:
    """Judge this recording by them from now on."""
    _used[recording] = thresholds


def of(recording: Recording) -> Thresholds:
    """Those that a recording is judged by."""
    return _used.get(recording) or shipped()


def shipped() -> Thresholds:
    """flowprof's own."""
    return Thresholds(tomllib.loads(SHIPPED.read_text(encoding="utf-8")), "flowprof's thresholds")


def load(path: str | Path) -> Thresholds:
    """A user's file over our own. Raises NotFoundError, PermissionDeniedError, or UsageError that names the mistake."""
    written = content(path, MAX_BYTES, UsageError, _HINT, "give --thresholds a TOML file")
    try:
        read = tomllib.loads(written.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {str(error)[:200] or type(error).__name__}", _HINT) from error
    ours = shipped().figures
    figures = {table: dict(fields) for table, fields in ours.items()}
    for table, fields in read.items():
        if table not in figures or not isinstance(fields, dict):
            raise UsageError(f"{path}: [{table[:40]!s}] is no table of thresholds; there are {', '.join(ours)}", _HINT)
        for field, value in fields.items():
            figures[table][field] = _figure(f"{path}: [{table}] {field[:40]}", field, value, figures[table])
    return Thresholds(figures, f"the thresholds of {Path(path).name}")


def _figure(where: str, field: str, value: Any, known: Mapping[str, float]) -> float:
    if field not in known:
        raise UsageError(f"{where} is no threshold; there are {', '.join(known)}", _HINT)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise UsageError(f"{where} is {value!r:.40}, not a number of 0 or more", _HINT)
    if value > 1 and any(part in field for part in _SHARES):
        raise UsageError(f"{where} is {value!r:.40}, not a share of 0 … 1", _HINT)
    return value
