"""A limit for CI: did it get slower than that?

* regression: a phase, any phase, became slower: significantly, and the estimate is at least the limit. Its slowest
  steps did, where the mean did not change: what is called slower, and by so much, does not pass.
* not comparable: as `comparability` says; two models of processor, for a slower machine is no regression; and programs
  with few operators in common, whose steps are not the same work.
* not enough data: no regression was seen, but one of the subject cannot be excluded: its interval, or its change and
  the noise together, reach the limit. The subject is decode, or a torch program's step, whatever the headline is about;
  without them the headline's phase. Or nothing could be tested, or the diff itself says so.
* A longer context is no regression. Where the sides read contexts of different lengths, a phase is what it is at those
  that both have; where they have none in common nothing is known of it.
* within: the subject is known well enough, and is below the limit. Other phases that are not known well enough are
  named, and do not fail the gate: a recording of 1 000 tokens often holds few prompts.

Of one recording (`--self`) in which no point was found the sides are before and after the likeliest one: if they may
differ by the limit, that is not enough data, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.comparability.same_work import COMMON
from flowprof.profiler.diff.comparability.set_up import PROCESSOR
from flowprof.profiler.diff.result import Diff, PhaseShift
from flowprof.profiler.diff.rows.phases import at_common_context, at_worst, named, subject, tail_growth
from flowprof.profiler.errors import UsageError

Outcome = Literal["within", "regression", "not comparable", "not enough data"]
EXIT_CODES: dict[Outcome, int] = {"within": 0, "regression": 3, "not comparable": 4, "not enough data": 5}
MOST = 10.0  # a limit of 1000 %


@dataclass(frozen=True, slots=True)
class Gate:
    """`limit`: 0.05 is 5 %. `sentence`: why, in one."""

    limit: float
    outcome: Outcome
    exit_code: int
    sentence: str


def limit(text: str) -> float:
    """5% → 0.05. Raises UsageError."""
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 < share <= MOST:
        raise UsageError(f"--gate {text[:40]!r} is no percentage above 0", "write it like 5% or 2.5%")
    return share


def judge(diff: Diff, at: float) -> Gate:
    """What a limit of `at` says of a diff."""
    outcome, sentence = _judged(diff, at)
    return Gate(at, outcome, EXIT_CODES[outcome], sentence)


def _judged(diff: Diff, at: float) -> tuple[Outcome, str]:
    refused = _refused(diff)
    if refused:
        return "not comparable", refused
    measured = diff.phases or diff.halves
    phases = [at_common_context(phase) for phase in measured]
    slower = [told for phase in phases if (told := _slower(phase, at))]
    if slower:
        return "regression", "; ".join(slower)
    if not phases:
        return "not enough data", "no phase ran on both sides"
    if diff.verdict == "not enough data" and any(phase.q is not None for phase in phases):
        return "not enough data", diff.headline
    first = phases[measured.index(subject(measured))]
    others = [one for one in phases if one is not first]
    worst = at_worst(first)
    if worst is None and first.contexts_apart and first.equal is None:
        return "not enough data", (
            f"{first.phase} read contexts of different lengths, of which the sides have none in common: compare runs "
            "of the same prompts"
        )
    if worst is None:
        return "not enough data", f"{named(first)} has too few steps to be tested: record longer"
    if worst >= at:
        alone = bool(diff.halves) or diff.changed_at_ns is not None
        enough = alone or len(diff.a.files) >= statistics.WANTED_RUNS
        return "not enough data", f"{named(first)} may be up to {_shown(worst)} slower: record longer" + (
            "" if enough else f", or give {statistics.WANTED_RUNS} normal recordings"
        )
    open_ones = [phase.phase for phase in others if (reach := at_worst(phase)) is None or reach >= at]
    and_else = f"; nothing is said of {', '.join(open_ones)}, which is not known well enough" if open_ones else ""
    return "within", f"{named(first)} is at most {_shown(max(worst, 0.0))} slower{and_else}"


def _slower(phase: PhaseShift, at: float) -> str:
    """What became slower by the limit, in words; "" nothing did."""
    if phase.significant:
        return f"{named(phase)} is {_shown(_relative(phase))} slower" if _relative(phase) >= at else ""
    grown = tail_growth(phase)
    if not phase.tail_significant or grown < at:
        return ""
    return f"the slowest steps of {named(phase)} are {_shown(grown)} slower, though its mean is not"


def _refused(diff: Diff) -> str:
    told = diff.comparability.differences
    if diff.comparability.verdict == "not comparable":
        return next((one.why for one in told if one.sameness == "different"), diff.headline)
    processors = next((one for one in told if one.what == PROCESSOR and one.sameness == "different"), None)
    if processors is not None:
        return f"the sides ran on two models of processor ({processors.a}; {processors.b}): that is no regression"
    apart = next((one for one in told if one.what == COMMON and one.sameness == "different"), None)
    return apart.why if apart is not None else ""


def _relative(phase: PhaseShift) -> float:
    return phase.delta_ns_per_token / phase.a_ns_per_token if phase.a_ns_per_token > 0 else 0.0


def _shown(share: float) -> str:
    return f"{share * 100:.1f} %"
