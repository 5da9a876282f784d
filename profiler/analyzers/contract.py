"""What an analyzer is: a name, the events it needs, and a function from a recording to a section and findings.

`run` never raises: a missing input or a crash becomes that analyzer's outcome, and the report goes on without it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from flowprof.profiler.findings import Finding
from flowprof.profiler.machine.ceilings import COLUMNS, Ceilings, from_rows
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.store import Recording, read_sql

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Need:
    """A condition on the recording (a query that yields true or false) and what to say when it does not hold."""

    sql: str
    missing: str

    def met(self, recording: Recording) -> bool:
        """Whether the recording holds what is needed."""
        return bool(recording.rows(self.sql)[0][0])

    def why(self, recording: Recording) -> str:
        """What to say; of an import that which another recording would help with is left out."""
        imported = recording.meta().get("imported_from")
        return f"{self.missing.split(';', 1)[0]}: imported from {imported}" if imported else self.missing


GRAPHS = Need("SELECT count(*) > 0 FROM graph_duration", "no graph was executed; record while tokens are generated")
OPERATORS = Need(
    "SELECT count(*) > 0 FROM (SELECT 1 FROM measured_operator LIMIT 1)",
    "no operators; record longer, or with --full --levels op",
)
THREADS = Need(
    "SELECT count(*) > 0 FROM (SELECT 1 FROM measured_thread LIMIT 1)",
    "no thread windows; record longer, or with --full --levels thread",
)
WINDOWS = Need("SELECT count(*) > 0 FROM probe_window", "no windows; the recording was cut off at its start")
SCHED = Need(  # the level may have been asked for and the tracepoints refused
    "SELECT count(*) > 0 FROM meta WHERE key = 'sched' AND value = 'yes'",
    "no scheduler data; record with --levels token,graph,op,thread,sched (as root; flowprof doctor says what lacks)",
)
REQUESTS = Need(
    "SELECT count(*) > 0 FROM (SELECT pid FROM request UNION ALL SELECT pid FROM slot_token)",
    "no requests; they need a llama-server with symbols (flowprof list-probes PID says what was found)",
)


@dataclass(frozen=True, slots=True)
class Result:
    """An analyzer's section, with its findings."""

    value: object
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Analyzer:
    """One analyzer. `name` is its file's name and its section's id."""

    name: str
    title: str
    needs: tuple[Need, ...]
    analyze: Callable[[Recording], Result]

    def run(self, recording: Recording) -> Outcome:
        """The outcome: "ok" with a section, "skipped" with what to record, or "failed" with why."""
        try:
            for need in self.needs:
                if not need.met(recording):
                    return Outcome(self.name, self.title, "skipped", need.why(recording))
            result = self.analyze(recording)
        except Exception as error:  # one analyzer's bug must not take the report with it
            log.debug("analyzer %s", self.name, exc_info=True)
            return Outcome(self.name, self.title, "failed", f"{type(error).__name__}: {error}")
        return Outcome(self.name, self.title, "ok", "", result.value, result.findings)


def once(compute: Callable[[Recording], T]) -> Callable[[Recording], T]:
    """Remember what `compute` found in a recording: several analyzers ask for the same."""
    found: WeakKeyDictionary[Recording, T] = WeakKeyDictionary()

    @functools.wraps(compute)
    def remembered(recording: Recording) -> T:
        if recording not in found:
            found[recording] = compute(recording)
        return found[recording]

    return remembered


def recorded_ceilings(recording: Recording) -> Ceilings:
    """The recorded machine's, or those that the report was asked to compare with."""
    machine = recording.meta().get("cpu_model", "")
    return from_rows(machine, recording.rows(f"SELECT {', '.join(COLUMNS)} FROM ceiling"))


def coverage(recording: Recording, *levels: str, pid: int | None = None) -> tuple[Coverage, ...]:
    """Per phase, how much was measured at one of `levels`; phases by their time. pid: of one process."""
    found = []
    for phase, graphs, measured, tokens, tokens_measured, total, measured_ns in recording.rows(
        read_sql("coverage.sql"), {"levels": list(levels), "pid": pid}
    ):
        found.append(
            Coverage(
                phase=phase,
                graphs=graphs,
                graphs_measured=measured,
                tokens=int(tokens),
                tokens_measured=int(tokens_measured),
                total_ns=int(total),
                measured_ns=int(measured_ns),
                time_weight=float(total / measured_ns) if measured_ns else 0.0,
                count_weight=graphs / measured if measured else 0.0,
            )
        )
    return tuple(found)


def ratio(part: Any, whole: Any) -> float | None:
    """part / whole, or None where there is no whole or no part."""
    return float(part) / float(whole) if whole and part is not None else None


def number(value: Any) -> float | None:
    """A float, or None for NULL."""
    return None if value is None else float(value)
