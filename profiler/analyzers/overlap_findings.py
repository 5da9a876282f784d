"""What missed overlap is worth saying. Each price is an upper bound; prices of different findings do not add up."""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.findings import Finding, in_ms, part_of
from flowprof.profiler.sections.overlap import HostExposure, HostGap, Overlap, OverlapTable

MOST = 4
GAP = 0.10  # of a decode step with its gap
EXPOSED = 0.10  # of a process's time
PROBLEM = 0.10
ADVICE = {
    "same stream": "Copy on a stream of its own, from pinned memory, into a second buffer.",
    "pageable copy": "Copy from pinned memory (pin_memory, cudaHostAlloc), so that the host can launch meanwhile.",
    "synchronise": "Let an event order what depends, and drop the synchronise; check first that it is not that order.",
    "a batch of prefill alone": "Let prompts and decoding share a batch (llama-server: --kv-unified).",
    "the data loader": "Load batches ahead: DataLoader(num_workers=…, prefetch_factor=…, persistent_workers=True).",
}

OF_GAPS = {  # advice by what most of the gap is
    "choosing tokens": "Most of it is choosing tokens: simpler samplers, top-k first, no probabilities, no grammar.",
    "answers and next batch": "Most of it is the server's own loop: fewer, larger answers (no streaming).",
    "setting up the graph": "Most of it makes the graph and its inputs: builds since 2025 reuse graphs between steps.",
}


def findings(table: OverlapTable) -> tuple[Finding, ...]:
    untold = [one for one in table.overlaps if not one.told_by]
    found = [_free(one) if one.kind == "free" else _split(one) for one in untold[:MOST]]
    if table.host is not None and table.host.share >= GAP:
        found.append(_host(table.host))
    return (*found, *_comm(table.calls))


def _free(one: Overlap) -> Finding:
    cause = next((cause for cause in ADVICE if one.reason.startswith(cause) or one.culprit == cause), "")
    return Finding(
        id="overlap.free",
        claim=f"{one.what} could run at once; {one.culprit} keeps them apart ({_gain(one)})",
        confidence=one.confidence,
        evidence=(one.reason, _prices(one), *one.evidence),
        advice=ADVICE.get(cause, "Let them run side by side."),
        severity="problem" if one.share >= PROBLEM and one.confidence != "low" else "notice",
    )


def _split(one: Overlap) -> Finding:
    return Finding(
        id="overlap.split",
        claim=f"Half batches in turn would hide {one.what} ({_gain(one)})",
        confidence=one.confidence,
        evidence=(one.reason, _prices(one), *one.evidence),
        advice="It takes an engine with nano-batches (two-batch overlap); expect less than the net gain.",
    )


def _host(gap: HostGap) -> Finding:
    slept = "" if gap.asleep_ns is None else f"; the driving thread slept for {in_ms(gap.asleep_ns)} of that"
    made_of = ", ".join(f"{part.what} {in_ms(part.total_ns)}" for part in gap.parts)
    largest = max(gap.parts, key=lambda part: part.total_ns).what if gap.parts else ""
    advice = OF_GAPS.get(largest, "Sampling and the program's own work run there: simpler samplers, fewer logits.")
    return Finding(
        id="overlap.host",
        claim=f"Between decode steps the compute threads have no graph: {gap.share * 100:.0f} % of a usual step",
        phase="decode",
        cost_ns_per_token=gap.median_ns / max(gap.sequences, 1),
        confidence="high",
        evidence=(
            f"{gap.gaps} gaps, {in_ms(gap.total_ns)} together, median {in_ms(gap.median_ns)}{slept}",
            *((f"of {gap.parts_gaps} gaps: {made_of}",) if gap.parts else ()),
            "the next step needs the sampled token: how much of the gap could move is not known",
        ),
        advice=f"{advice} More sequences per step make it a smaller part.",
    )


def _comm(calls: Sequence[HostExposure]) -> list[Finding]:
    """Of PyTorch on processors: of all processes together, as each one's wait is another one's work."""
    alone = [
        (time.exposed_ns / one.span_ns, one, time)
        for one in calls if one.idle == "no operator" and one.span_ns
        for time in one.times if time.kind == "collectives" and time.exposed_ns >= EXPOSED * one.span_ns
    ]  # fmt: skip
    if not alone:
        return []
    alone.sort(key=lambda found: -found[0])
    _, worst, most = alone[0]
    return [
        Finding(
            id="overlap.exposed_comm",
            claim=f"Process {worst.pid} computes nothing beside its collectives for "
            f"{part_of(most.exposed_ns, worst.span_ns)}",
            confidence="high",
            evidence=(
                *(f"process {one.pid}: {in_ms(time.exposed_ns)} of {in_ms(time.busy_ns)} of collectives, of "
                  f"{in_ms(one.span_ns)}" for _, one, time in alone[:MOST]),
                "waiting for processes that come late is part of it",
            ),
            advice="Compute meanwhile (async_op=True, smaller buckets sent earlier); where one process waits most, "
            "divide the work better.",
            severity="problem",
        )
    ]  # fmt: skip


def _gain(one: Overlap) -> str:
    return f"≤ {in_ms(one.net_ns)}, {one.share * 100:.1f} % of {in_ms(one.base_ns)}"


def _prices(one: Overlap) -> str:
    if not one.priced:
        return f"at most {in_ms(one.ideal_ns)}: what running side by side costs is not known"
    split = f", after the split {in_ms(one.net_ns)}" if one.kind == "split-only" else ""
    return f"one saving: ideal {in_ms(one.ideal_ns)}, with interference {in_ms(one.aware_ns)}{split}"
