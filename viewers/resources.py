"""The resources page: for every verdict its chain as a small graph, occupancy, waiters and holders' lanes over time.

Drawn as SVG from the section's numbers: it needs no script, and prints. Names are cleaned and cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowprof.profiler.report import Report
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.sections.resources import Blamed, Picture, ResourceTable
from flowprof.viewers.quantity import clean, count, duration, percent, three

MAX_CARDS = 8
MAX_VICTIMS = 12
WIDTH = 1000
HIGH, LOW, LANE = 72, 44, 16  # pixels of the parts
TICKS = 5
SHADES = 5


def in_order_of_blame(report: Report) -> list[Blamed]:
    """All verdicts on resources, a server's batch and slots among them, for every viewer."""
    table, requests = report.get(ResourceTable), report.get(RequestTable)
    blamed = list(table.blamed if table else ())  # their order stays: a leak may come before what is waited for
    for one in requests.blamed if requests else ():
        shorter = (at for at, other in enumerate(blamed) if other.waiting_ns < one.waiting_ns)
        blamed.insert(next(shorter, len(blamed)), one)
    return blamed


def cards(blamed: Sequence[Blamed]) -> list[dict[str, Any]]:
    """For the template, as many as it shows."""
    return [_card(one) for one in blamed[:MAX_CARDS]]


def _card(one: Blamed) -> dict[str, Any]:
    return {
        "title": f"{clean(one.resource, 60)} {clean(one.instance, 30)}".strip(),
        "pathology": one.pathology,
        "facts": _facts(one),
        "stack": [clean(frame, 200) for frame in one.holder.stack] if one.holder else [],
        "nodes": _nodes(one),
        "picture": _picture(one.picture, one) if one.picture else None,
        "victims": [
            (clean(victim.name, 60), duration(victim.waiting_ns), count(victim.waits), duration(victim.longest_ns),
             "still waiting" if victim.open else "")
            for victim in one.victims[:MAX_VICTIMS]
        ],
        "more": one.sufferers - min(len(one.victims), MAX_VICTIMS),
        "evidence": [clean(line, 300) for line in one.evidence],
        "advice": clean(one.advice, 400),
        "variables": [
            (clean(moment.name, 60), f"{moment.value:.6g}", f"{moment.low:.6g} … {moment.high:.6g}", moment.unusual,
             clean(moment.source, 120))
            for moment in one.variables
        ],
    }  # fmt: skip


def _facts(one: Blamed) -> list[tuple[str, str]]:
    facts = [
        ("Kind", clean(one.kind, 20)),
        ("Waiting", f"{duration(one.waiting_ns)} in all, {count(one.sufferers)} waiter{'s' * (one.sufferers != 1)}"),
    ]
    if one.holders > 1:
        facts.append(("Holders", f"{one.holders} take turns"))
    elif one.holder is not None:
        facts.append(("Holder", f"{clean(one.holder.name, 60)}, {percent(one.share)} of it"))
    else:
        facts.append(("Holder", "was not seen"))
    if one.holder is not None and one.holder.function:
        source = f" ({clean(one.holder.source, 120)})" if one.holder.source else ""
        facts.append(("Acquired in", f"{clean(one.holder.function, 120)}{source}"))
    facts.append(("Held for", f"{duration(one.hold_ns)}, all its holds added up"))
    if one.utilisation is not None:
        facts.append(("Utilisation", f"{three(one.utilisation)} uses per acquire"))
    facts.append(("Shows best at", duration(max(one.at_ns, 0))))
    facts.append(("Confidence", one.confidence))
    return facts


def _nodes(one: Blamed) -> list[dict[str, str]]:
    """The chain from who waits to the root; `by`: what leads from the node before."""
    nodes = []
    if one.sufferers:
        first = clean(one.victims[0].name, 40)
        more = f" and {count(one.sufferers - 1)} more" if one.sufferers > 1 else ""
        nodes.append({"kind": "victim", "name": f"{first}{more}", "note": f"wait {duration(one.waiting_ns)}", "by": ""})
    links = one.chain
    root = max((position for position, link in enumerate(links) if link.holder), default=-1)
    for position, link in enumerate(links):
        name = f"{clean(link.resource, 40)} {clean(link.instance, 24)}".strip()
        by = clean(link.why, 160) if position else "for" if nodes else ""
        nodes.append({"kind": "resource", "name": name, "note": "" if link.holder else "no holder seen", "by": by})
        if link.holder:
            note = "root" if position == root and len(links) > 1 else ""
            kind = "root" if position == root else "holder"
            nodes.append({"kind": kind, "name": clean(link.holder, 40), "note": note, "by": "held by"})
    if not links:
        nodes.append({"kind": "resource", "name": clean(one.resource, 40), "note": one.pathology,
                      "by": "for" if nodes else ""})  # fmt: skip
        who = f"{one.holders} holders in turn" if one.holders > 1 else clean(one.holder.name, 40) if one.holder else ""
        if who:
            nodes.append({"kind": "root", "name": who, "note": "", "by": "held by"})
    return nodes


def _picture(picture: Picture, one: Blamed) -> dict[str, Any]:
    most = max(picture.occupancy, default=0.0)
    top = max(most, float(one.capacity or 0), 1e-9)
    waiters = max(picture.waiters, default=0.0)
    lanes = []
    loudest = max((max(levels, default=0.0) for _, levels in picture.lanes), default=0.0) or 1.0
    for name, levels in picture.lanes:
        lanes.append({"name": clean(name, 40), "runs": _runs(levels, loudest)})
    steps = len(picture.occupancy) or 1
    return {
        "width": WIDTH, "high": HIGH, "low": LOW, "lane": LANE,
        "occupancy": _area(picture.occupancy, top, HIGH), "most": three(most), "top": top,
        "capacity": None if not one.capacity else round(HIGH * (1 - one.capacity / top), 2),
        "capacity_units": count(one.capacity) if one.capacity else "",
        "waiters": _area(picture.waiters, waiters, LOW) if waiters > 0 else "", "most_waiters": three(waiters),
        "lanes": lanes, "loudest": three(loudest),
        "units": clean(picture.units, 40), "waits": clean(picture.waits, 40), "note": clean(picture.note, 300),
        "at": round(WIDTH * min(max(one.at_ns / max(picture.step_ns * steps, 1), 0.0), 1.0), 1),
        "ticks": ["0", *(duration(picture.step_ns * steps * tick / (TICKS - 1)) for tick in range(1, TICKS))],
        "step": duration(picture.step_ns),
    }  # fmt: skip


def _area(levels: Sequence[float], top: float, height: int) -> str:
    """A stepped area as an SVG path."""
    step = WIDTH / max(len(levels), 1)
    points = [f"M0 {height}"]
    for position, level in enumerate(levels):
        y = round(height * (1 - min(level / top, 1.0)), 2) if top > 0 else height
        points.append(f"V{y}H{round((position + 1) * step, 2)}")
    return "".join([*points, f"V{height}Z"])


def _runs(levels: Sequence[float], loudest: float) -> list[tuple[float, float, int]]:
    """Neighbouring steps of one shade as (x, width, shade 1 … SHADES)."""
    step = WIDTH / max(len(levels), 1)
    shades = [0 if level <= 0 else min(SHADES, 1 + int(SHADES * level / loudest)) for level in levels]
    found: list[tuple[float, float, int]] = []
    begin = 0
    for position in range(1, len(shades) + 1):
        if position == len(shades) or shades[position] != shades[begin]:
            if shades[begin]:
                found.append((round(begin * step, 2), round((position - begin) * step, 2), shades[begin]))
            begin = position
    return found
