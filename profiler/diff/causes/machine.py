"""Another machine, other settings of it, or other load beside the engine.

Fires in phases that changed all over (broad.py) when the recordings' processor model, number of processors, kernel or
one of the recorded settings (governor, highest clock, turbo, SMT, huge pages, NUMA) differs; when the machine itself
ran otherwise in a way that fits the change (clock, steal, heat, memory in huge pages or on other NUMA nodes:
machine_state.py); and, of one and the same machine, when other programs used a quarter of a processor more (or less)
than before. What no rule before it explains of the operators' own work, and of the time between graphs, is explained:
memory bandwidth, shared caches and the clock are everybody's. Where single operators changed, they are the claim, and
what differs is in its evidence (differing.py). Confidence: medium for another processor or setting, low for another
kernel and for load, whose part in this nothing measures.

What to do: record both on one machine, in the same state; `flowprof calibrate` measures what each can do at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.broad import broad, largest
from flowprof.profiler.diff.causes.change import Change, changes, grown
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.neighbours import more_used
from flowprof.profiler.diff.causes.setup import agreed
from flowprof.profiler.diff.comparability import machine_state
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
KERNEL = {"kernel": "kernel"}


def causes(compared: Compared) -> Sequence[Claim]:
    everywhere = [change for change in changes(compared) if broad(change)]
    found: list[Claim] = []
    for change in everywhere:
        found += [_claim(change, *told) for told in facts(compared.pair, change.sign)]
        found += _load(compared.pair, change)
    return found


def facts(pair: Pair, sign: float = 0.0) -> list[tuple[str, list[str], Confidence]]:
    """What differs between the machines, in words; and how sure it is that it matters. sign: of the change that it is
    to explain, where its direction is known; 0: any."""
    kinds: tuple[tuple[str, dict[str, str], Confidence], ...] = (
        ("Another machine", HARDWARE, "medium"),
        ("The machine is set otherwise", SETTINGS, "medium"),
        ("Another kernel", KERNEL, "low"),
    )
    told = [(what, _differ(pair, keys), confidence) for what, keys, confidence in kinds]
    if pair.b.name != "after":  # of the whole recording
        ran = machine_state.told((pair.a.recordings, pair.b.recordings), sign)
        told.append(("The machine ran otherwise", ran, "medium"))
    return [one for one in told if one[1]]


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


def _claim(change: Change, what: str, told: Sequence[str], confidence: Confidence) -> Claim:
    explains = grown(change.of(parts=("work", "barrier")), change.sign)
    return Claim(
        Cause(
            claim=f"{what}: {', '.join(told)}",
            kind="machine",
            share=None,
            confidence=confidence,
            evidence=(*told, *largest(change, explains)),
            next="Record both on one machine in the same state; flowprof calibrate measures what each can do at most.",
            phase=change.phase,
        ),
        explains,
    )


def _load(pair: Pair, change: Change) -> list[Claim]:
    used = more_used(pair, change.sign) if change.shift.significant else []
    if not used:
        return []
    more = "more" if change.sign > 0 else "less"
    explains = grown(change.of(parts=("work", "barrier")), change.sign)
    return [Claim(
        Cause(
            claim=f"Other programs use {more} of the machine: {used[0].name}",
            kind="machine",
            share=None,
            confidence="low",
            evidence=(
                *(one.told for one in used[:3]),
                "; ".join((
                    "how much of the engine's own work is theirs (memory, caches, clock) is not measured",
                    *largest(change, explains),
                )),
            ),
            next="Record again without them.",
            phase=change.phase,
        ),
        explains,
        measured=False,
        by=used[0].comm,
    )]  # fmt: skip
