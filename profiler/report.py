"""The report: what the analyzers say about one recording, as one frozen object that every viewer reads.

`build_report(recording)` runs the analyzers, on request against other ceilings than the recorded machine's;
`timeline(recording, limit)` (timeline.py) gives the arrays for the HTML page's canvas. Nothing here prints or draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flowprof.profiler.analyzers import ANALYZERS, slo
from flowprof.profiler.blame import thresholds as resource_thresholds
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.findings import Finding
from flowprof.profiler.machine.ceilings import Ceilings, rows
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.slo import Slo
from flowprof.profiler.store import Recording
from flowprof.profiler.timeline import Timeline, timeline

__all__ = ["Report", "Source", "Timeline", "build_report", "timeline"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """Where and how the recording was made. Texts are "" and numbers None when the recording does not say."""

    file: str
    flowprof_version: str
    host: str
    kernel: str
    arch: str
    cpu_model: str
    cpus: int | None
    gpu_model: str
    command_line: str
    started_unix_ns: int | None
    started_ns: int | None
    stopped_ns: int | None
    levels: str
    budget: str
    full: bool
    rung: str
    rung_reason: str
    layout: str
    clean_end: bool  # False: the recorder was cut off; all but the last batch is there
    imported_from: str = ""  # the format of another profiler's trace; "": recorded by flowprof


@dataclass(frozen=True, slots=True)
class Report:
    """One recording, analysed. `sections` in the order of analyzers.ANALYZERS."""

    source: Source
    sections: tuple[Outcome, ...]
    findings: tuple[Finding, ...]
    findings_withheld: int  # verdicts that losses above the limit took away

    def section(self, name: str) -> Outcome:
        """The outcome of one analyzer by its name; raises KeyError."""
        for outcome in self.sections:
            if outcome.name == name:
                return outcome
        raise KeyError(name)

    def get(self, kind: type[T]) -> T | None:
        """The section of a type, e.g. `report.get(Summary)`; None when its analyzer was skipped or failed."""
        for outcome in self.sections:
            if isinstance(outcome.value, kind):
                return outcome.value
        return None


OF_EVENTS = ("requests.", "resources.", "processes.")  # findings that need neither operators nor graphs


def build_report(
    recording: Recording,
    ceilings: Ceilings | None = None,
    slos: Sequence[Slo] = (),
    thresholds: Thresholds | None = None,
) -> Report:
    """Run every analyzer. Never raises for what a recording holds or lacks: that is in the outcomes.

    `ceilings` take the place of those in the recording, `thresholds` that of flowprof's own for resources; `slos`:
    objectives to hold the requests against.
    """
    if thresholds is not None:
        resource_thresholds.use(recording, thresholds)
    if ceilings is not None:
        recording.shadow("ceiling", rows(ceilings))
    analyzers = (*ANALYZERS, slo.analyzer(slos)) if slos else ANALYZERS
    outcomes = tuple(analyzer.run(recording) for analyzer in analyzers)
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    withheld = 0
    lost = next((outcome.value for outcome in outcomes if isinstance(outcome.value, Losses)), None)
    if lost is not None and lost.withheld:
        stand = ("losses.",) if lost.events_withheld else ("losses.", *OF_EVENTS)
        kept = [finding for finding in findings if finding.id.startswith(stand)]
        withheld = len(findings) - len(kept)
        findings = kept
    findings.sort(key=lambda finding: (finding.severity != "problem", -(finding.cost_ns_per_token or 0)))
    return Report(source(recording), outcomes, tuple(findings), withheld)


def source(recording: Recording) -> Source:
    """The facts of the meta table."""
    facts = recording.meta()
    return Source(
        file=Path(recording.path).name,
        flowprof_version=facts.get("flowprof_version", ""),
        host=facts.get("host", ""),
        kernel=facts.get("kernel", ""),
        arch=facts.get("arch", ""),
        cpu_model=facts.get("cpu_model", ""),
        cpus=_int(facts, "cpus"),
        gpu_model=facts.get("gpu_model", ""),
        command_line=facts.get("command_line", ""),
        started_unix_ns=_int(facts, "started_unix_ns"),
        started_ns=_int(facts, "started_ns"),
        stopped_ns=_int(facts, "stopped_ns"),
        levels=facts.get("levels", ""),
        budget=facts.get("budget", ""),
        full=_true(facts, "full"),
        rung=facts.get("rung", ""),
        rung_reason=facts.get("rung_reason", ""),
        layout=facts.get("layout", ""),
        clean_end=_true(facts, "clean_end"),
        imported_from=facts.get("imported_from", ""),
    )


def _int(facts: dict[str, str], key: str) -> int | None:
    try:
        return int(facts[key])
    except (KeyError, ValueError):
        return None


def _true(facts: dict[str, str], key: str) -> bool:
    return facts.get(key, "").lower() in ("true", "1", "yes")
