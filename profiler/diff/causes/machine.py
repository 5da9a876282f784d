"""Another machine, other settings of it, or other load beside the engine.

Fires in phases that changed when the recordings' processor model, number of processors, kernel or one of the recorded
settings (governor, highest clock, turbo, SMT, huge pages, NUMA) differs; and, of one and the same machine, when other
programs used a quarter of a processor more (or less) than before. What no rule before it explains of the operators' own
work, and of the time between graphs, is explained: memory bandwidth, shared caches and the clock are everybody's.
Confidence: medium for another processor or setting, low for another kernel and for load, whose part in this nothing
measures.

What to do: record both on one machine, in the same state; `flowprof calibrate` measures what each can do at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import Change, changes, grown
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.neighbours import more_used
from flowprof.profiler.diff.causes.setup import agreed
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.findings import Confidence
from flowprof.profiler.store import Recording

# keys of meta (host.py), in words; the first are facts of the hardware
HARDWARE = {"cpu_model": "processor", "cpus": "processors", "arch": "architecture", "gpu_model": "GPU"}
SETTINGS = {
    "cpu_governor": "governor", "cpu_max_khz": "highest clock in kHz", "cpu_boost": "boost", "no_turbo": "turbo off",
    "smt": "SMT", "transparent_hugepage": "transparent huge pages", "numa_nodes": "NUMA nodes",
    "numa_balancing": "NUMA balancing",
}  # fmt: skip


def causes(compared: Compared) -> Sequence[Claim]:
    changed = changes(compared)
    if not changed:
        return []
    hardware, settings = _differ(compared.pair, HARDWARE), _differ(compared.pair, SETTINGS)
    kernel = _differ(compared.pair, {"kernel": "kernel"})
    found: list[Claim] = []
    for change in changed:
        for facts, what, confidence in (
            (hardware, "Another machine", "medium"),
            (settings, "The machine is set otherwise", "medium"),
            (kernel, "Another kernel", "low"),
        ):
            if facts:
                found.append(_claim(change, what, facts, "medium" if confidence == "medium" else "low"))
        found += _load(compared.pair, change)
    return found


def _differ(pair: Pair, keys: dict[str, str]) -> list[str]:
    found = []
    for key, words in keys.items():
        a, b = (_value(side, key) for side in (pair.a, pair.b))
        if a and b and a != b:
            found.append(f"{words}: {a} → {b}")
    return found


def _value(side: Side, key: str) -> str:
    def read(recording: Recording) -> str:
        return recording.meta().get(key, "")

    return agreed(side, read) or ""


def _claim(change: Change, what: str, facts: Sequence[str], confidence: Confidence) -> Claim:
    return Claim(
        Cause(
            claim=f"{what}: {', '.join(facts)}",
            kind="machine",
            share=None,
            confidence=confidence,
            evidence=tuple(facts),
            next="Record both on one machine in the same state; flowprof calibrate measures what each can do at most.",
            phase=change.phase,
        ),
        grown(change.of(parts=("work", "barrier")), change.sign),
    )


def _load(pair: Pair, change: Change) -> list[Claim]:
    used = more_used(pair, change.sign) if change.shift.significant else []
    if not used:
        return []
    more = "more" if change.sign > 0 else "less"
    return [Claim(
        Cause(
            claim=f"Other programs use {more} of the machine: {used[0].name}",
            kind="machine",
            share=None,
            confidence="low",
            evidence=(
                *(one.told for one in used[:3]),
                "how much they slow the engine's own work (memory, caches, clock) is not measured",
            ),
            next="Record again without them.",
            phase=change.phase,
        ),
        grown(change.of(parts=("work", "barrier")), change.sign),
        measured=False,
    )]  # fmt: skip
