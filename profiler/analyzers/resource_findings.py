"""What resources are worth saying: one finding per verdict, in order of blame. Part of resources.py."""

from __future__ import annotations

from dataclasses import replace

from flowprof.profiler.findings import Confidence, Finding, in_ms
from flowprof.profiler.sections.resources import Blamed, ResourceTable, WakerGraph

NOTICES = ("over-synchronisation", "variance")
ADVICE = {
    "contention": "Hold it for shorter, split it, or move that work to a time without these tasks.",
    "inefficient policy": "Acquire it only when it is needed, and release it before waiting for anything else.",
    "insufficient allocation": "Ask for larger portions at a time, or keep some for the next request.",
    "leak": "Look at the ways out of that function on which nothing is released: errors and early returns first.",
    "unbounded growth": "Bound it, or end whoever keeps it from shrinking.",
    "over-synchronisation": "Take the lock once for several steps, keep a copy per thread, or do without the lock.",
    "variance": "Look at what that holder does at these times: the mean hides it.",
}
SHOWN_VICTIMS = 3
MAX_NAME = 60  # of a name in the claim: those of C++ fill a screen


def advised(one: Blamed) -> Blamed:
    """With what to do about it."""
    text = ADVICE.get(one.pathology, "")
    if one.pathology == "contention" and one.holders > 1:
        text = "They take turns: shorten what is done while it is held, or split it (shards, a lock per part)."
    if one.deadlock:
        return replace(one, advice="Acquire them in one order everywhere, or give up what is held before waiting.")
    if one.chain and one.chain[-1].resource != one.resource and one.chain[-1].holder:
        text = f"Begin at the root: {one.chain[-1].holder} at {one.chain[-1].resource}. {text}"
    return replace(one, advice=text)


def of_table(table: ResourceTable, tokens: int) -> tuple[Finding, ...]:
    """tokens: that passed through meanwhile; 0: none, and there is no price per token."""
    found = [_finding(one, tokens) for one in table.blamed]
    named = any(one.severity == "problem" for one in found)
    if table.wakers is not None and table.wakers.bottleneck and not named:
        found.append(_bottleneck(table.wakers, table.wakers.bottleneck_ns / max(table.span_ns, 1), tokens))
    return tuple(found)


def _finding(one: Blamed, tokens: int) -> Finding:
    ids = {
        "contention": "resources.contention", "inefficient policy": "resources.inefficient_policy",
        "insufficient allocation": "resources.insufficient_allocation", "leak": "resources.leak",
        "unbounded growth": "resources.unbounded_growth",
        "over-synchronisation": "resources.over_synchronisation", "variance": "resources.variance",
    }  # fmt: skip
    confidence: Confidence = "high" if one.confidence == "high" else "medium" if one.confidence == "medium" else "low"
    id = ids[one.pathology]
    cost = one.waiting_ns / tokens if tokens and one.waiting_ns else None
    notice = one.pathology in NOTICES or _cheap(one)
    return Finding(
        id=id, claim=_claim(one), cost_ns_per_token=cost, confidence=confidence, evidence=_evidence(one),
        advice=one.advice, severity="notice" if notice else "problem",
    )  # fmt: skip


def _cheap(one: Blamed) -> bool:
    """Small portions that hardly cost any time."""
    return one.pathology == "insufficient allocation" and not one.waiting_ns


def _claim(one: Blamed) -> str:
    what = f"{one.resource[:MAX_NAME]} {one.instance}".strip()
    who = one.holder.name[:MAX_NAME] if one.holder else "somebody who was not seen"
    where = f" in {one.holder.function[:MAX_NAME]}" if one.holder and one.holder.function else ""
    if one.pathology == "leak":
        starved = f", and {one.sufferers} {_tasks(one)} waited {in_ms(one.waiting_ns)} for the others"
        return f"{what}: units acquired{where or ' there'} are never released{starved * bool(one.victims)}"
    if one.pathology == "unbounded growth":
        pinned = one.holder is not None and any(line.startswith(f"{one.holder.name} holds ") for line in one.evidence)
        told = f": {who}{where} keeps it from shrinking" if pinned else f", by {who}"
        return f"{what} grows without bound{told}" + (", and others wait because of it" if one.victims else "")
    if one.pathology == "insufficient allocation":
        return f"{what}: {who}{where} asks for tiny portions, again and again"
    if one.pathology == "over-synchronisation":
        return f"{what} is taken very often, mostly by {who}{where}, and hardly anybody waits for it"
    if one.pathology == "variance":
        return f"{what}: the longest waits are behind {who}{where}"
    if one.deadlock:
        return f"{what}: deadlock of {', '.join(name[:MAX_NAME] for name in one.deadlock)}: each waits for the next"
    waiting = f"{one.sufferers} {_tasks(one)} waited {in_ms(one.waiting_ns)}"
    if one.holders > 1:
        return f"{what}: {waiting} for each other, {one.holders} holders take turns{where}"
    if one.pathology == "inefficient policy":
        return f"{what}: {waiting} for {who}{where}, who hardly uses it"
    return f"{what}: {waiting} while {who}{where} held it"


def _tasks(one: Blamed) -> str:
    return "task" if one.sufferers == 1 else "tasks"


def _evidence(one: Blamed) -> tuple[str, ...]:
    lines = list(one.evidence)
    if one.holder is not None:
        source = f", {one.holder.source}" if one.holder.source else ""
        share = f" ({one.share * 100:.0f} % of it)" if one.waiting_ns and one.holders == 1 else ""
        held = f"; held it for {in_ms(one.hold_ns)} in all" if one.hold_ns else ""
        lines.insert(0, f"holder: {one.holder.name}{share}, {one.holder.function or 'no stack'}{source}{held}")
    if one.victims:
        said = ", ".join(
            f"{victim.name} {in_ms(victim.waiting_ns)}{' (still waiting)' if victim.open else ''}"
            for victim in one.victims[:SHOWN_VICTIMS]
        )
        more = one.sufferers - SHOWN_VICTIMS
        lines.append(f"added latency: {said}" + (f" and {more} more" if more > 0 else ""))
    if len(one.chain) > 1:
        lines.append("chain: " + " → ".join(
            f"{link.resource} ({link.holder or 'no holder seen'})" for link in one.chain))  # fmt: skip
    for moment in one.variables:
        if moment.unusual:
            lines.append(f"{moment.name} was {moment.value:g}, usually {moment.low:g} … {moment.high:g}"
                         + (f" ({moment.source})" if moment.source else ""))  # fmt: skip
    return tuple(lines)


def _bottleneck(graph: WakerGraph, share: float, tokens: int) -> Finding:
    named = " and ".join(graph.bottleneck[:3])
    elsewhere = graph.longest and graph.longest not in graph.bottleneck
    evidence = [
        f"{in_ms(graph.bottleneck_ns)} of threads' waiting for each other end there "
        f"({share * 100:.0f} % of the observed time, all threads added up)"
    ]
    if elsewhere:
        evidence.append(f"the most waiting at first sight is for {graph.longest}")
    return Finding(
        id="resources.bottleneck", claim=f"Threads wait for each other, and in the end for {named}",
        cost_ns_per_token=graph.bottleneck_ns / tokens if tokens else None, confidence="medium",
        evidence=tuple(evidence), advice="Speed that up first: elsewhere only the waiting moves.",
    )  # fmt: skip
