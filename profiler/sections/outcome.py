"""One analyzer's result, of whatever kind its section is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flowprof.profiler.findings import Finding


@dataclass(frozen=True, slots=True)
class Outcome:
    """One analyzer's result: its section when `status` is "ok", else the reason why there is none."""

    name: str
    title: str
    status: Literal["ok", "skipped", "failed"]
    reason: str = ""
    value: Any = None
    findings: tuple[Finding, ...] = ()
