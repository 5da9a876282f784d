"""Somebody takes processors from the engine's threads: they could run, and did not.

Fires when the time without a processor (the scheduler's, laid over the operators) grew in a phase that changed, by 2 %
of the phase or more. Who ran instead comes from the scheduler, too: per phase and program, ns per token of both sides;
the one who grew most is named. Where mostly the engine's own threads stood in each other's way while another program
used a good part of a processor (`neighbour`) that it did not use before, that program is named: it sits on one
processor, and the threads crowd on the rest. Where mostly nobody ran instead, threads were kept off idle processors (a
quota of which there is no account: quota.py has the others), or, if for less than a millisecond at a time, were woken
before an idle processor had come back. Explained is what grew of the rows' time without a processor, and of the
imbalance at barriers as much as threads can have waited for the one that is away (behind.py).

What to do: move that program to other processors (taskset, cpusets), lower its priority, or leave it a processor
(--threads one less). Against late wake-ups: let threads spin at barriers (--poll 100, OMP_WAIT_POLICY=active).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers.absence import losses
from flowprof.profiler.analyzers.wait_findings import RAISE_QUOTA, SPIN, THROTTLED_NS
from flowprof.profiler.diff.causes.behind import behind
from flowprof.profiler.diff.causes.change import Change, changes, grown, total
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.causes.neighbours import more_used
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.findings import Confidence, in_ms
from flowprof.profiler.sections.waits import WaitCause

MIN_SHARE = 0.02  # of the phase: healthy servers lose about as much to their own HTTP threads and to the kernel's
TRIFLE = 0.05  # of whose time changed most: who changed less is not told
OTHERS = "Another program"
OWN = "the engine's own threads"
HELD_OFF, WOKEN = "nobody (1 ms or longer at a time)", "nobody (less than 1 ms at a time)"
CLAIMS = {  # of who is no program: it became more, it became less
    OWN: ("The engine's own threads stand in each other's way on the processors",
          "The engine's own threads stand less in each other's way on the processors"),
    HELD_OFF: ("The engine's threads are kept off idle processors, as if a quota were used up",
               "The engine's threads are kept off idle processors less than before"),
    WOKEN: ("Woken threads wait longer until an idle processor has come back for them",
            "Woken threads wait less until an idle processor has come back for them"),
}  # fmt: skip
OTHERS_NEXT = (
    "Move it to other processors (taskset, cgroup cpusets), lower its priority, or leave it a processor: --threads one "
    "less."
)
NEXT = {
    OWN: "See on which processors its threads may run (taskset, cgroup cpusets), and what else runs there; --threads "
    "one less leaves room for its other threads.",
    HELD_OFF: RAISE_QUOTA,
    WOKEN: SPIN,
}


@dataclass(frozen=True, slots=True)
class Taken:
    """Processor time that somebody took from pool threads in graphs of a phase; ns per token."""

    who: str
    a_ns: float
    b_ns: float

    @property
    def grew(self) -> float:
        return self.b_ns - self.a_ns


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        runnable = change.of(parts=("runnable",))
        if abs(total(runnable)) < MIN_SHARE * max(change.shift.a_ns_per_token, 1.0):
            continue
        sign = 1.0 if total(runnable) > 0 else -1.0
        taken = sorted(_taken(compared, change), key=lambda one: -sign * one.grew)
        if taken and sign * sum(one.grew for one in taken) <= 0:
            continue  # in the measured graphs, but not in all
        explains = {**grown(runnable, sign), **behind(compared, change, total(runnable))}
        found.append(_claim(compared, change, taken, sign, explains))
    return found


def _claim(
    compared: Compared, change: Change, taken: Sequence[Taken], sign: float, explains: Mapping[Cell, float]
) -> Claim:
    """taken: whoever's time changed most first."""
    a_ns, b_ns = (sum(side) for side in ([one.a_ns for one in taken], [one.b_ns for one in taken]))
    evidence = [
        f"pool threads without a processor in {change.phase} graphs: {in_ms(a_ns)} → {in_ms(b_ns)} per {change.per}"
    ]
    evidence += [
        f"{one.who} ran instead: {in_ms(one.a_ns)} → {in_ms(one.b_ns)} per {change.per}"
        for one in taken[:3] if abs(one.grew) >= TRIFLE * abs(taken[0].grew)
    ]  # fmt: skip
    who = taken[0].who if taken else ""
    confidence: Confidence = "low" if not who else "medium" if who in (HELD_OFF, WOKEN) else "high"
    by = who if who not in CLAIMS else ""
    neighbours = more_used(compared.pair, sign)
    if neighbours and who in ("", OWN):
        direct = {one.who: sign * one.grew for one in taken}
        named = max(neighbours, key=lambda one: (direct.get(one.comm, 0.0), sign * (one.b - one.a)))
        who, by, confidence = named.name, named.comm, "medium"
    evidence += [one.told for one in neighbours[:2]]
    verb = "takes the engine's processors" if sign > 0 else "takes less of the engine's processors"
    claim = CLAIMS[who][sign < 0] if who in CLAIMS else f"{who or OTHERS} {verb}"
    return Claim(
        Cause(
            claim=claim,
            kind="preemption",
            share=None,
            confidence=confidence,
            evidence=tuple(evidence),
            next=NEXT.get(who, OTHERS_NEXT),
            phase=change.phase,
        ),
        explains,
        by=by,
    )


def _taken(compared: Compared, change: Change) -> list[Taken]:
    a, b = _by_whom(compared.pair.a, change.phase), _by_whom(compared.pair.b, change.phase)
    tokens = max(change.shift.a_tokens, 1), max(change.shift.b_tokens, 1)
    return [Taken(who, a.get(who, 0) / tokens[0], b.get(who, 0) / tokens[1]) for who in {**a, **b}]


def _by_whom(side: Side, phase: str) -> dict[str, int]:
    """ns that pool threads could have run in graphs of the phase; programs by their name, for ids are of one run."""
    found: dict[str, int] = defaultdict(int)
    for recording in side.recordings:
        for loss in losses(recording):
            if loss.phase == phase and loss.state == "runnable":
                for cause in loss.causes:
                    found[_who(cause)] += cause.total_ns
    return found


def _who(cause: WaitCause) -> str:
    if cause.by_own_process:
        return OWN
    if cause.by_tid:
        return cause.by_comm or "a thread that is gone"
    return HELD_OFF if cause.total_ns >= THROTTLED_NS * cause.times else WOKEN
