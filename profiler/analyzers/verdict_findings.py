"""What verdicts.py claims: the phases' bounds, and the groups worth a look. See there."""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.findings import Confidence, Finding
from flowprof.profiler.roofline.judgement import COMPUTE, MEMORY
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.verdicts import PhaseBound, Verdict, VerdictTable

PART = 0.05  # of a phase's time that the groups of one verdict could gain together, to be worth a finding
OVERHEAD_PART = 0.20  # likewise for overhead, which is nobody's mistake
MOST = 0.5  # of a phase's time with the verdict, for the phase to have it
NAMED = 4  # groups listed as evidence
INT8_PEAK = "gemm int8"
FUNCTIONS = "ggml_cpu_has_…"

_LIMIT = {
    "memory-dram": ("memory bandwidth", "this machine's memory allows"),
    "memory-cache": ("the bandwidth of the last-level cache", "this machine's last-level cache allows"),
    "compute": ("arithmetic", "this machine's arithmetic allows"),
}
_ADVICE = {
    "memory-dram": "Fewer bytes per token help: a smaller quantisation, or several sequences in one step; more threads "
    "help only until the memory is saturated.",
    "memory-cache": "The weights fit the cache: bandwidth grows with the cores that share the work.",
    "compute": "More cores, or a build for this processor's instructions, help; a smaller quantisation does not.",
}


def findings(table: VerdictTable) -> tuple[Finding, ...]:
    """None when the verdicts are withheld."""
    if table.withheld:
        return ()
    found = [_bound(phase) for phase in table.phases if phase.limit in _LIMIT]
    for item in table.coverage:
        rows = [row for row in table.rows if row.phase == item.phase]
        outdated = _outdated(rows) if table.left_unused else []
        others = [row for row in rows if row not in outdated]
        slow = _inefficient(others, table.left_unused)
        for group in (_instructions(table, outdated), slow, _waiting(rows), _overhead(rows)):
            found += group
    return tuple(found)


def _bound(phase: PhaseBound) -> Finding:
    by, allows = _LIMIT[phase.limit]
    reached = f"{phase.fraction * 100:.0f} % of what {allows}"
    figures = f"(bound {phase.bound_tokens_per_s:.1f} tokens/s, reached {phase.tokens_per_s:.1f})"
    name = phase.phase.capitalize()
    share = dict(phase.by_bound).get(phase.limit, 0.0)
    held = share >= MOST and phase.fraction >= (COMPUTE if phase.limit == "compute" else MEMORY)
    if phase.fraction > 1:
        claim = f"{name} reaches {reached}: a ceiling is wrong {figures}"
    elif held:
        claim = f"{name} is bound by {by}: it reaches {reached} {figures}"
    else:
        claim = f"{name} reaches {reached} {figures}: most of its time goes elsewhere"
    spent = ", ".join(f"{bound} {share * 100:.0f} %" for bound, share in phase.by_bound if share >= 0.005)
    return Finding(
        id="verdicts.bound",
        claim=claim,
        phase=phase.phase,
        cost_ns_per_token=max(0.0, phase.headroom_ns_per_token),
        confidence=phase.confidence,
        evidence=(*phase.evidence, f"time by verdict: {spent}"),
        advice=_ADVICE[phase.limit] if held else "Look at the operators that are far from their ceilings first.",
    )


def _outdated(rows: Sequence[Verdict]) -> list[Verdict]:
    """Products far below the int8 peak, where that is what the whole lot could gain by."""
    chosen, _, share = _worth([row for row in rows if row.ceiling == INT8_PEAK], "inefficient")
    return chosen if share >= PART else []


def _instructions(table: VerdictTable, chosen: Sequence[Verdict]) -> list[Finding]:
    if not chosen:
        return []
    top, share = chosen[0], sum(row.share for row in chosen)
    unused, built_for = ", ".join(table.left_unused), " ".join(table.built_for) or "any processor"
    return [
        Finding(
            id="verdicts.instructions",
            claim=f"The engine's build leaves {unused} of this processor unused: {share * 100:.0f} % of {top.phase} "
            "are products far below what they allow",
            phase=top.phase,
            cost_ns_per_token=sum(row.headroom_ns_per_token or 0.0 for row in chosen),
            confidence="medium" if _least(chosen) == "high" else "low",
            evidence=(
                f"its own functions ({FUNCTIONS}) say that it was built for {built_for}",
                *map(_described, chosen[: NAMED - 1]),
            ),
            advice="Build the engine on this machine (-DGGML_NATIVE=ON), or take a build that chooses its kernels when "
            "it starts (-DGGML_CPU_ALL_VARIANTS=ON with -DGGML_BACKEND_DL=ON).",
        )
    ]


def _inefficient(rows: Sequence[Verdict], unused: Sequence[str]) -> list[Finding]:
    """unused: instructions that another build could use, whether or not that is the cause here."""
    chosen, cost, share = _worth(rows, "inefficient")
    if not chosen or share < PART:
        return []
    confidence = _least(chosen)
    top = chosen[0]
    return [
        Finding(
            id="verdicts.inefficient",
            claim=f"{_named(top)} is far below what memory and arithmetic allow in {top.phase}, and no wait "
            "explains it",
            phase=top.phase,
            cost_ns_per_token=cost,
            confidence=confidence,
            evidence=(
                *((f"the engine's build leaves {', '.join(unused)} unused",) if unused else ()),
                *map(_described, chosen[:NAMED]),
            ),
            advice="Another kernel would gain most here: a build for this processor's instructions, another type of "
            "weights or cache, flash attention on or off.",
        )
    ]


def _waiting(rows: Sequence[Verdict]) -> list[Finding]:
    chosen = [row for row in rows if row.bound == "wait"]
    price = sum((row.ns_per_token or 0.0) * (row.wait_share or 0.0) for row in chosen)
    waited = sum(row.share * (row.wait_share or 0.0) for row in chosen)
    if waited < PART:
        return []
    chosen.sort(key=lambda row: -row.share * (row.wait_share or 0.0))
    top = chosen[0]
    causes = list(dict.fromkeys(row.wait for row in chosen if row.wait))
    return [
        Finding(
            id="verdicts.wait",
            claim=f"{waited * 100:.0f} % of {top.phase} is waiting, most of it {_named(top)}{_more(chosen)}: "
            f"{causes[0] if causes else 'cause unknown'}",
            phase=top.phase,
            cost_ns_per_token=price,
            confidence=_least(chosen),
            evidence=tuple(
                f"{_named(row)}: {row.share * 100:.1f} % of the time, "
                f"{100 * (row.wait_share or 0):.0f} % of it waiting ({row.wait})"
                for row in chosen[:NAMED]
            ),
            advice="Remove what is waited for before the kernels are looked at: other load on these processors, more "
            "threads than processors, weights that are read from disk.",
        )  # a notice: the cause itself is a finding of `waits` or `threads`
    ]


def _overhead(rows: Sequence[Verdict]) -> list[Finding]:
    chosen, cost, share = _worth(rows, "overhead")
    if not chosen or share < OVERHEAD_PART:
        return []
    top = chosen[0]
    calls = sum(row.measured_calls for row in chosen)
    return [
        Finding(
            id="verdicts.overhead",
            claim=f"{share * 100:.0f} % of {top.phase} is launch and barrier of operators too small for it",
            phase=top.phase,
            cost_ns_per_token=cost,
            confidence=_least(chosen),
            evidence=(f"{calls} calls measured of {len(chosen)} kinds", *map(_described, chosen[:NAMED])),
            advice="Fewer threads, fused operators or larger batches make up for it; the probes' own cost is part of "
            "it.",
        )
    ]


def _worth(rows: Sequence[Verdict], bound: Bound) -> tuple[list[Verdict], float, float]:
    """Groups of a verdict by headroom, what they could gain per token, and as a share of the phase's time."""
    chosen = [row for row in rows if row.bound == bound]
    chosen.sort(key=lambda row: -(row.headroom_ns_per_token or 0.0))
    cost = sum(row.headroom_ns_per_token or 0.0 for row in chosen)
    share = sum(row.share * (row.headroom_ns_per_token or 0.0) / row.ns_per_token for row in chosen if row.ns_per_token)
    return chosen, cost, share


def _least(rows: Sequence[Verdict]) -> Confidence:
    """Of the group that matters most: small ones do not take the confidence from it."""
    return rows[0].confidence


def _more(rows: Sequence[Verdict]) -> str:
    return f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""


def _named(row: Verdict) -> str:
    name = "/".join(row.tensors[:2])
    return f"{row.op} {name} [{row.shape}]" if name else f"{row.op} [{row.shape}]"


def _described(row: Verdict) -> str:
    gain = f", up to {row.headroom_ns_per_token / 1e6:.3g} ms a token" if row.headroom_ns_per_token is not None else ""
    return f"{_named(row)}: {row.share * 100:.1f} % of the time{gain}; {'; '.join(row.evidence[:3])}"
