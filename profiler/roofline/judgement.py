"""What bounds an operator: the decision, from its least times (roofline.py), measured time, waits and ceilings (pure).

Time above the floor is overhead, waiting, or the kernel's own. The order of the questions, first yes wins:

 1. reaches AT of its ceiling: bound by it, whatever else was seen, for no wait is left to remove
 2. off the processor for WAIT of the time: wait-bound, with the name of the cause
 3. the floor is below the fixed cost of an operator, and that cost is FIXED of the time: overhead-bound
 4. threads wait for each other for BARRIER of the time: wait-bound
 5. reaches MEMORY of the bandwidth or COMPUTE of the peak: bound by it
 6. a term is missing, calls are few, or waits were not recorded: unknown
 7. nothing explains the time: an inefficient kernel

The thresholds, in one place, with reasons, are the constants below. A share above 1 means that the ceiling is wrong (or
the operator was served by a nearer cache): it is reported as it is, with low confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.findings import Confidence
from flowprof.profiler.machine.ceilings import Ceiling, What
from flowprof.profiler.roofline.least_time import Roof, Served, Terms, describe
from flowprof.profiler.sections.bound import Bound

AT = 0.8  # of a ceiling: at it. Real kernels stream at 85–97 % of the read bandwidth and multiply at 80 % of the peak
WAIT = 0.25  # of the time off the processor: more than noise, and the gain is worth a change
BARRIER = 0.20  # of the time in imbalance: two threads can lose half at most, so a quarter would hide a slow thread
FIXED = 0.4  # of the time that the fixed cost takes: launch, barrier and probes matter as much as the work
MEMORY = 0.4  # of the bandwidth: below it prefetchers have room and something else is in the way
COMPUTE = 0.2  # of the peak: a tuned library's square product; quantised kernels that unpack and scale reach 30–80 %
CLEAR = 0.7  # of a ceiling from which a class may be of high confidence: not much else fits beside it
TINY_NS = 500.0  # floor of the operators from which the fixed cost is taken
TINY_CALLS = 50  # so many of them are needed
ENOUGH_CALLS = 30  # for high confidence
FEW_CALLS = 5  # below: low, and no kernel is called inefficient
LOSSES = 0.001  # share of lost events from which no confidence is high
_CONFIDENCE: tuple[Confidence, ...] = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured of a group of like operators. Times are sums over its calls, ns."""

    calls: int
    total_ns: float  # wall time on the first thread
    off_ns: float = 0.0  # of it while one of the pool's threads was off the processor
    off_cause: str = ""  # in words
    barrier_ns: float | None = 0.0  # of it in imbalance; None: no barriers recorded
    slowest: str = ""  # the thread that came last to the barriers, if one did
    scheduler: bool = True  # off_ns is known


@dataclass(frozen=True, slots=True)
class Known:
    """What the recording as a whole lends to a verdict."""

    fixed_ns: float | None = None  # cost of an operator that does next to nothing: launch, barrier, probes
    lost: float = 0.0  # share of events lost
    withheld: bool = False  # more than the limit
    hedges: tuple[str, ...] = ()  # why the count of work is an estimate: at most medium confidence


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict. `share` is the term's least time over the measured time: 1 is at the ceiling."""

    bound: Bound
    confidence: Confidence
    served: Served | Literal[""]
    ceiling: Ceiling | None  # the nearer one
    share: float | None
    wait_share: float | None
    wait: str
    evidence: tuple[str, ...]


def fixed_cost(operators: Sequence[tuple[float, float, int]]) -> float | None:
    """What an operator costs that does next to nothing, from (median ns, floor ns, calls) of this recording.

    The lower quartile by calls of those with a floor of at most TINY_NS: some of them do have work to do. None when
    fewer than TINY_CALLS calls were seen. The probes' own cost is part of it.
    """
    tiny = sorted((median, calls) for median, floor, calls in operators if floor <= TINY_NS)
    total = sum(calls for _, calls in tiny)
    if total < TINY_CALLS:
        return None
    below = 0
    for median, calls in tiny:
        below += calls
        if below >= total / 4:
            return median
    return None


def judge(work: Terms | None, seen: Seen, roof: Roof, path: str, known: Known) -> Judgement:
    """The verdict on a group. `work` is the sum over its calls, None when it could not be counted."""
    wait_share, wait = _wait(seen)
    if known.withheld:
        return Judgement("unknown", "low", "", None, None, wait_share, wait,
                         (f"withheld: {known.lost * 100:.1f} % of the events were lost",))  # fmt: skip
    if not seen.calls or seen.total_ns <= 0:
        return Judgement("unknown", "low", "", None, None, wait_share, wait, ("no time was measured",))
    off = seen.off_ns / seen.total_ns
    if work is None:
        bound: Bound = "wait" if off >= WAIT else "unknown"
        why = "what it has to do is not known: its shapes were not recorded, or flowprof does not know the operator"
        return Judgement(bound, "low", "", None, None, wait_share, wait, (_waits(seen), why))
    term = _term(work, seen, roof, path)
    bound, evidence, steps = _decide(work, seen, roof, term, known)
    evidence += [*term.evidence, *known.hedges]
    sure = 2 - steps
    sure = min(sure, 1 if term.cautious or known.hedges or known.lost > LOSSES or seen.calls < ENOUGH_CALLS else 2)
    if seen.calls < ENOUGH_CALLS:
        evidence.append(f"{seen.calls} calls measured")
    doubtful = term.doubtful and bound in ("compute", "memory-dram", "memory-cache", "inefficient")
    if doubtful or seen.calls < FEW_CALLS or bound == "unknown":
        sure = 0
    return Judgement(bound, _CONFIDENCE[max(sure, 0)], term.served, term.ceiling, term.share, wait_share, wait,
                     tuple(evidence))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Term:
    """The larger of the two terms."""

    bound: Bound  # compute, memory-dram, memory-cache; unknown: neither can be worked out
    ns: float | None
    ceiling: Ceiling | None
    share: float | None
    served: Served | Literal[""]
    other: bool  # both terms are known
    cautious: bool  # at most medium
    doubtful: bool  # low
    evidence: tuple[str, ...]


def _term(work: Terms, seen: Seen, roof: Roof, path: str) -> _Term:
    evidence: list[str] = []
    memory: float | None = work.slow_ns
    place, proven = _place(work), False
    if work.unsure and memory is not None and work.fast_ns is not None and memory > seen.total_ns:
        memory, place, proven = work.fast_ns, "cache", True
        evidence.append("faster than DRAM allows: served by the cache")
    elif work.unsure and memory is None:
        memory = work.fast_ns
    level: What = "dram_read" if place != "cache" else "llc_read"
    if level == "llc_read" and memory is not None and memory > seen.total_ns and _better(work.near_ns, memory):
        memory, level = work.near_ns, "l2_read"
        evidence.append("faster than the last-level cache allows: served by L2")
    compute = work.compute_ns
    if memory is None and not compute:
        return _Term("unknown", None, None, None, place, False, True, False, ("no ceiling fits this operator",))
    if compute is not None and (memory is None or compute > memory):
        bound: Bound = "compute"
        ceiling, ns = roof.peak(path), compute
    else:
        assert memory is not None
        bound = "memory-cache" if place == "cache" else "memory-dram"
        ceiling, ns = roof.bandwidth(level), memory
    share = ns / seen.total_ns
    doubtful = cautious = False
    if share > 1:
        doubtful = True
        evidence.append(f"{share * 100:.0f} % of the ceiling: the ceiling is too low for this operator, or wrong")
    if bound != "compute" and work.unsure and not proven:
        doubtful = True
        why = "the size of the cache is not known" if roof.llc_bytes is None else "the working set is about as large"
        evidence.append(f"memory-bound by cache or DRAM, which of them is open: {why}")
    if ceiling is not None and ceiling.disturbed:
        cautious = True
        evidence.append("the ceiling was measured while others used the processors")
    if ceiling is not None and bound == "compute" and path and ceiling.dtype != path:
        cautious = True
        evidence.append(f"no {path} peak: compared with {ceiling.dtype}")
    other = memory is not None and compute is not None
    if not other:
        cautious = True
        lacks = "memory" if memory is None else path or "arithmetic"
        counted = memory is None or work.flops is not None
        evidence.append(f"no ceiling for its {lacks} term" if counted else "how much it computes is not known")
    return _Term(bound, ns, ceiling, share, place, other, cautious, doubtful, tuple(evidence))


def _better(term: float | None, than: float) -> bool:
    return term is not None and term < than


def _place(work: Terms) -> Served:
    """What serves most of the memory term."""
    if work.slow_ns is None or work.dram_ns < work.slow_ns / 2:
        return "cache"
    return "cache or DRAM" if work.unsure else "DRAM"


def _decide(work: Terms, seen: Seen, roof: Roof, term: _Term, known: Known) -> tuple[Bound, list[str], int]:
    """The verdict, its evidence, and steps down from high confidence."""
    per_call, share = seen.total_ns / seen.calls, term.share
    reached = [] if share is None else [f"{share * 100:.0f} % of {_words(term.ceiling)}"]
    if share is not None and share >= AT:
        return term.bound, reached, 0
    off = seen.off_ns / seen.total_ns
    if off >= WAIT:
        return "wait", [_waits(seen), *reached], 0
    floor, fixed = work.floor_ns, known.fixed_ns
    own = per_call - seen.off_ns / seen.calls
    if fixed is not None and floor is not None and floor / seen.calls <= fixed and fixed >= FIXED * own:
        words = f"an operator costs {fixed / 1e3:.1f} µs here whatever it does; "
        words += f"the work needs {floor / seen.calls / 1e3:.2f} µs"
        return "overhead", [words, f"{per_call / 1e3:.1f} µs a call"], 0 if fixed >= own / 2 else 1
    if seen.barrier_ns is not None and seen.barrier_ns / seen.total_ns >= BARRIER:
        return "wait", [_waits(seen), *reached], 0 if seen.scheduler else 1
    if share is not None and share >= (COMPUTE if term.bound == "compute" else MEMORY):
        return term.bound, reached, 0 if share >= CLEAR else 1
    if share is None or not term.other:
        return "unknown", reached, 2
    if seen.calls < FEW_CALLS:
        return "unknown", [*reached, "too few calls to blame the kernel"], 2
    barrier = seen.barrier_ns is not None or roof.threads == 1
    if seen.scheduler and barrier:
        return "inefficient", [*reached, f"waits explain {100 * (_wait(seen)[0] or 0):.0f} % of the time"], 0
    if seen.scheduler or barrier:
        missing = "barriers" if seen.scheduler else "scheduler data"
        return "inefficient", [*reached, f"no {missing} in this recording: a wait there would not show"], 2
    return "unknown", [*reached, "far below both ceilings; neither barriers nor scheduler data were recorded"], 2


def _wait(seen: Seen) -> tuple[float | None, str]:
    """Share of the time, and the larger wait by name."""
    if seen.total_ns <= 0 or (seen.barrier_ns is None and not seen.scheduler):
        return None, ""
    off, barrier = seen.off_ns, seen.barrier_ns or 0.0
    share = min(max(off, barrier) / seen.total_ns, 1.0)  # barriers are estimated from other windows than the time
    if off >= barrier / 2 and off > 0:
        return share, seen.off_cause
    uneven = "barrier: threads unevenly loaded"
    return share, (f"{uneven}, {seen.slowest} is the slowest" if seen.slowest else uneven) if barrier > 0 else ""


def _waits(seen: Seen) -> str:
    share, cause = _wait(seen)
    if share is None:
        return "no waits were recorded"
    return f"{share * 100:.0f} % of the time: {cause}" if cause else "no waits"


def _words(ceiling: Ceiling | None) -> str:
    return "the ceiling" if ceiling is None else describe(ceiling)
