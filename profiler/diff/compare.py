"""From two sides to what is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flowprof.profiler.diff import beside_phases, request_waits, resources, statistics, variables
from flowprof.profiler.diff.causes import ranking
from flowprof.profiler.diff.changepoint import change_point, points
from flowprof.profiler.diff.comparability import known, same_work
from flowprof.profiler.diff.comparability.comparability import comparability
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Comparability, Diff, PhaseShift, SideFacts, Verdict
from flowprof.profiler.diff.rows import threads
from flowprof.profiler.diff.rows.phases import (
    SUBJECTS,
    Recordings,
    at_common_context,
    at_worst,
    named,
    of_phase,
    phase_shifts,
    subject,
    tail_growth,
)
from flowprof.profiler.diff.rows.rows import rows
from flowprof.profiler.diff.side import Pair, Side, began, open_parts
from flowprof.profiler.diff.steps import gaps, of_requests, sources
from flowprof.profiler.diff.steps.levels import at_same_levels
from flowprof.profiler.diff.steps.steps import REQUESTS, Steps, end_to_end
from flowprof.profiler.store import COUNTED, Recording

TELLS = 0.5  # of a phase's time: above such noise it is not called the same
COUNTED_WORDS = {
    "counter": "processor time and switches of the threads",
    "op_counter": "counters of operators",
    "neighbour": "what other programs used",
}


def compare(pair: Pair) -> Diff:
    """The whole diff. Never raises for what recordings hold or lack: it is said in the notes."""
    a = tuple(sources.with_waits(recording) for recording in pair.a.recordings)
    b = tuple(sources.with_waits(recording) for recording in pair.b.recordings)
    a, b, gap_notes = gaps.alike(a, b)
    comparable = comparability(pair, a, b)
    prompts = next((one.sameness for one in comparable.differences if one.what == same_work.PROMPTS), "")
    phases = _subject_first(of_requests.telling(phase_shifts(a, b), prompts != "different"))
    found = rows(a, b, phases)
    waiting = request_waits.agreeing(resources.shifts(pair), phases)
    compared = Compared(
        pair=pair,
        a_steps=a,
        b_steps=b,
        comparability=comparable,
        phases=phases,
        rows=found,
        resources=waiting,
        variables=variables.shifts(pair, found, waiting),
    )
    causes = ranking.ranked(compared)
    verdict, headline = beside_phases.judged(judged(comparable, phases), phases, waiting, causes)
    said = (*_repeats(pair, a, phases), *gap_notes, *gaps.pauses(a, b), *notes(a, b, phases), *variables.notes(pair))
    return Diff(
        verdict=verdict,
        headline=headline,
        a=_facts(pair.a, a),
        b=_facts(pair.b, b),
        comparability=comparable,
        phases=phases,
        rows=found,
        resources=compared.resources,
        variables=compared.variables,
        causes=causes,
        notes=said,
        threads=threads.shifts(pair),
    )


def compare_self(path: str) -> Diff:
    """Before and after the point at which a recording changed; where none did, what the likeliest leaves open.

    Raises what Recording.open raises.
    """
    with Recording.open(path) as recording:
        steps = sources.read(recording)
        found = change_point(steps)
        facts = _facts(Side("normal", (recording,)), (steps,))
        if found is None:
            return _unchanged(facts, _halves(steps))
        since = found.at_ns - began(recording)
        counted = _counted(recording)
    with open_parts(path, found.at_ns) as pair:
        note = (
            f"{found.phase} changed {since / 1e9:.1f} s after the recording began (Pettitt's test, p = {found.p:.1g}, "
            f"{found.blocks} blocks); the point was chosen where the two sides differ most, so their difference is "
            "rather too large than too small"
        )
        diff = compare(pair)
        if diff.verdict == "same":
            return _unchanged(facts, diff.phases)
        return replace(diff, notes=(note, *counted, *diff.notes), changed_at_ns=since)


def _halves(steps: Sequence[Steps]) -> tuple[PhaseShift, ...]:
    """Before and after the likeliest point of the phase that users mean; () where no phase has steps enough.

    That they differ significantly says nothing: it is where they differ most.
    """
    found = points(steps)
    if not found:
        return ()
    point = min(found, key=lambda one: (one.phase not in SUBJECTS, one.p))
    before, after = (
        tuple(end_to_end(one, (one.all_start_ns < point.middle_ns) == first) for one in steps)
        for first in (True, False)
    )
    shifts = phase_shifts((before,), (after,))
    return tuple(replace(one, significant=False, tail_significant=False) for one in shifts)


def _counted(recording: Recording) -> tuple[str, ...]:
    """What is known of the whole recording only, and so of neither side."""
    there = [table for table in COUNTED if recording.rows(f"SELECT count(*) FROM {table}")[0][0]]
    said = ", ".join(COUNTED_WORDS[table] for table in there)
    return (f"{said}: counted over the whole recording, so that they are no causes here",) if there else ()


def _unchanged(facts: SideFacts, halves: tuple[PhaseShift, ...]) -> Diff:
    first = at_common_context(subject(halves)) if halves else None
    worst = at_worst(first) if first is not None else None
    headline = "There are too few steps to tell a change from noise."
    if first is not None and worst is not None:
        headline = (
            f"Nothing changed while this was recorded, beyond the noise: {named(first)} became at most "
            f"{max(worst, 0.0) * 100:.1f} % slower."
        )
    return Diff(
        verdict="not enough data" if worst is None else "same",
        headline=headline,
        a=facts,
        b=facts,
        comparability=Comparability("comparable", 1.0, (), ""),
        phases=(),
        rows=(),
        resources=(),
        variables=(),
        causes=(),
        notes=(),
        halves=halves,
    )


def judged(comparable: Comparability, phases: tuple[PhaseShift, ...]) -> tuple[Verdict, str]:
    """The verdict, and the sentence that a user reads first."""
    if comparable.verdict == "not comparable":
        why = next((f": {one.why}" for one in comparable.differences if one.sameness == "different"), "")
        return "not comparable", f"These recordings cannot be compared{why}."
    tested = [phase for phase in phases if phase.q is not None]
    if not tested:
        return "not enough data", "There are too few steps on both sides to tell a change from noise."
    if any(phase.significant for phase in tested):
        worst = _subject_first(phases)[0]
        word: Verdict = "slower" if worst.delta_ns_per_token > 0 else "faster"
        low, high = worst.ci95 or (float("nan"), float("nan"))
        return word, (
            f"{worst.phase} became {abs(_relative(worst)) * 100:.1f} % {word}: {_ms(worst.a_ns_per_token)} → "
            f"{_ms(worst.b_ns_per_token)} ms per {worst.per} ({_ms(worst.delta_ns_per_token, '+')} ms, 95 %: "
            f"{_ms(low, '+')} … {_ms(high, '+')} ms)"
        )
    if any(phase.tail_significant for phase in tested):
        one = _subject_first(phases)[0]
        return "slower" if tail_growth(one) > 0 else "faster", (
            f"{one.phase} takes as long on average, but its slowest steps changed: the 95th percentile went from "
            f"{(one.a_tail_ns or 0) / 1e6:.3g} to {(one.b_tail_ns or 0) / 1e6:.3g} ms per {one.per}, the time above it "
            f"by {(one.tail_delta_ns or 0) / 1e6:+.3g} ms"
        )
    first = tested[0]
    noise = first.noise_ns_per_token or 0.0
    times = f"{_ms(first.a_ns_per_token)} → {_ms(first.b_ns_per_token)} ms per {first.per} (noise {_ms(noise)} ms)"
    if noise > TELLS * first.a_ns_per_token:
        return "not enough data", f"{first.phase} is too noisy to tell a change from noise: {times}"
    return "same", f"{first.phase} did not change beyond the noise: {times}"


def _ms(ns: float, sign: str = "") -> str:
    """Three figures, as in the tables; sign "+": always with one."""
    size = abs(ns) / 1e6
    return f"{'-' if ns < 0 else sign}{known.figure(size) if size >= 999.5 else f'{size:#.3g}'.rstrip('.')}"


def _subject_first(phases: tuple[PhaseShift, ...]) -> tuple[PhaseShift, ...]:
    """The phase that the headline is about before the others: one that became slower, faster, or has slower tails."""
    changed = [phase for phase in phases if phase.significant]
    tails = [phase for phase in phases if phase.tail_significant]
    if changed:
        first = max(changed, key=lambda one: (one.delta_ns_per_token > 0, _weight(one)))
    elif tails:
        first = max(tails, key=tail_growth)
    else:
        return phases
    return first, *(phase for phase in phases if phase is not first)


def _weight(phase: PhaseShift) -> float:
    """Relative change; what clients wait for comes first where it is more than its work says, by twice as much."""
    return abs(_relative(phase)) * (0.5 if phase.phase in REQUESTS else 1.0)


def _repeats(pair: Pair, a: Recordings, phases: tuple[PhaseShift, ...]) -> tuple[str, ...]:
    """What too few normal recordings cannot tell, where something changed; of two, how far they are apart."""
    runs = len(pair.a.recordings)
    if pair.a.name != "normal" or runs >= statistics.ENOUGH_RUNS or not any(phase.significant for phase in phases):
        return ()
    said = "one normal recording does"
    if runs == 2:
        said = f"two normal recordings{_distance(of_phase(a, phases[0].phase), phases[0].phase)} do"
    return (
        f"{said} not tell how much the machine itself changes from run to run (one that others share by "
        "10 to 20 %): give five or more, made at different times (--normal A B C D E)",
    )


def _distance(steps: Sequence[Steps], phase: str) -> str:
    """Of two recordings, at one mix of probe levels; "" where one has no such steps."""
    if len(steps) != 2 or not all(len(one.all_ns) for one in steps):
        return ""
    (first,), (second,) = at_same_levels(steps[:1], steps[1:])
    means = [float(ns.sum() / tokens.sum()) for ns, tokens in (first, second)]
    return f", {abs(means[1] / means[0] - 1) * 100:.1f} % apart in {phase}," if means[0] > 0 else ""


def notes(a: Recordings, b: Recordings, phases: tuple[PhaseShift, ...]) -> tuple[str, ...]:
    """What could not be compared, and what the same context makes of a phase."""
    found = []
    for phase in phases:
        equal = phase.equal
        if equal is not None:
            told = "too few steps to be tested"
            if equal.ci95 is not None:
                told = f"95 %: {_ms(equal.ci95[0], '+')} … {_ms(equal.ci95[1], '+')} ms"
            found.append(
                f"{phase.phase} read contexts of different lengths; at those that both sides have, as many of each, it "
                f"takes {_ms(equal.a_ns_per_token)} → {_ms(equal.b_ns_per_token)} ms per token "
                f"({_ms(equal.delta_ns_per_token, '+')} ms; {told})"
            )
    for side, name in ((a, "normal"), (b, "other")):
        common = {phase.phase for phase in phases}
        ran = {steps.phase for recording in side for steps in recording if len(steps.all_ns)}
        only = sorted(ran - common - set(REQUESTS))
        if only:
            found.append(f"only the {name} side has steps of {', '.join(only)}")
        left_out = sum(steps.graphs_left_out for recording in side for steps in recording)
        if left_out:
            found.append(
                f"{left_out} graphs of the {name} side were not looked into, for they hold too many operators: their "
                "steps count end to end"
            )
    return tuple(found)


def _relative(phase: PhaseShift) -> float:
    return phase.delta_ns_per_token / phase.a_ns_per_token if phase.a_ns_per_token else 0.0


def _facts(side: Side, steps: tuple[tuple[Steps, ...], ...]) -> SideFacts:
    first = side.recordings[0]
    engines = first.rows(
        "SELECT DISTINCT engine, engine_version FROM module WHERE engine IS NOT NULL ORDER BY ALL LIMIT 5"
    )
    models = first.rows("SELECT coalesce(name, architecture) FROM model LIMIT 1")
    duration = 0
    for recording in side.recordings:
        meta = recording.meta()
        if meta.get("stopped_ns", "").isdigit() and meta.get("started_ns", "").isdigit():
            duration += int(meta["stopped_ns"]) - int(meta["started_ns"])
    return SideFacts(
        files=side.files,
        engine=", ".join(" ".join(filter(None, (str(name), version))) for name, version in engines),
        model=str(models[0][0]) if models and models[0][0] is not None else "",
        tokens=sum(
            int(phase.all_tokens.sum())
            for recording in steps
            for phase in recording
            if phase.phase not in REQUESTS
            and (phase.per == "token" or phase is recording[0])  # phases of a program are of the same iterations
        ),
        duration_ns=duration,
    )
