"""What a program with a planted trouble knows of itself beside what the report says of it, and where they differ.

The program's truth is one line of JSON (resources/planted.h): who waited for which resource how long, by its own clock.
What it cannot tell, which trouble that makes, the example states. Compared are resource, kind of trouble, instance,
holder, chain of blame, and for how long each thread waited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGE = 0.1  # of the program's time: who waited for so long is a victim
# Of a victim's waiting, the larger of both: once a unit is free it is not waited for any more, but the program's clock
# goes on until its thread has a processor.
TOLERANCE, TOLERANCE_NS = 0.1, 5_000_000
WAITED_FOR = ("contention", "inefficient policy")
NOTHING = "nothing"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trouble:
    """The first verdict as the program or the report has it. waited_ns: by thread."""

    what: str = NOTHING
    instance: str = ""
    by: str = ""
    chain: tuple[str, ...] = ()
    waited_ns: Mapping[str, int] | None = None

    def __str__(self) -> str:
        place = f"{self.what} {self.instance}".strip()
        said = [f"{place} by {self.by}" if self.by else place]
        said += [f"chain {' → '.join(self.chain)}"] if len(self.chain) > 1 else []
        waited = sorted((self.waited_ns or {}).items(), key=lambda one: -one[1])
        said += ["waited: " + ", ".join(f"{who} {ns / 1e6:.0f} ms" for who, ns in waited)] if waited else []
        return "; ".join(said)


def planted(truth: Json, pathology: str, chain: tuple[str, ...]) -> Trouble:
    """As the program knows it. chain: resources from what is waited for to the root."""
    if not pathology:
        return Trouble()
    culprits = [thread for thread in truth["threads"] if thread["name"] == truth["culprit"]]
    tallies = [thread["resources"][chain[0]] for thread in truth["threads"]]
    if pathology == "leak":
        by = f"{sum(one['acquire'] - one['release'] for one in tallies)} units of {truth['culprit']}"
    else:
        by = _name(culprits[0]) if len(culprits) == 1 else f"{len(culprits)} in turns"
    waited = {
        _name(thread): int(tally["wait_ns"])
        for thread, tally in zip(truth["threads"], tallies, strict=True)
        if tally["wait"] and (len(culprits) > 1 or thread not in culprits)
    }
    instance = hex(truth["address"]) if pathology in WAITED_FOR else ""
    return Trouble(f"{chain[-1]}, {pathology}", instance, by, chain, waited)


def reported(report: Json, truth: Json) -> Trouble:
    """As `report --json` says it, threads by their names in the program."""
    if not report["resources"]:
        problems = [one["claim"] for one in report["findings"] if one["severity"] == "problem"]
        return Trouble(problems[0]) if problems else Trouble()
    first = report["resources"][0]
    holder, many = first["holder"], first["holders"]
    if first["pathology"] == "leak":
        by = f"{many} units of {holder['function']}"
    elif many > 1:
        by = f"{many} in turns"
    else:
        by = _actor(holder, truth) if holder else "nobody that was seen"
    chain = tuple(link["resource"] for link in first["chain"]) or (first["resource"],)
    waited = {_actor(victim, truth): int(victim["waiting_ns"]) for victim in first["victims"]}
    return Trouble(f"{first['resource']}, {first['pathology']}", first["instance"], by, chain, waited)


def differences(true: Trouble, said: Trouble, seconds: float) -> list[str]:
    """Where the report is wrong; seconds: the program's time."""
    found = [
        f"{getattr(said, part) or NOTHING} for {getattr(true, part) or NOTHING}"
        for part in ("what", "instance", "by", "chain")
        if getattr(said, part) != getattr(true, part)
    ]
    own, theirs = true.waited_ns or {}, said.waited_ns or {}
    for who in sorted({*own, *theirs}):
        ns, told = own.get(who, 0), theirs.get(who, 0)
        tolerance = max(TOLERANCE * ns, TOLERANCE_NS)
        if who not in own:
            found.append(f"{who} is no victim")
        elif told > ns + tolerance or (ns >= LARGE * seconds * 1e9 and told < ns - tolerance):
            found.append(f"{who} waited for {told / 1e6:.1f} ms for {ns / 1e6:.1f} ms")
    return found


def ends_differ(end: str, report: Json, truth: Json, resource: str) -> list[str]:
    """Where threads' waits for each other must end, and do not: most of the waiting of who waited most, and no more."""
    if report["resources"]:
        return [f"{reported(report, truth)} for {NOTHING}"]
    wakers = report["resource_totals"].get("wakers") or {}
    ends = wakers.get("bottleneck") or []
    if not any(one.startswith(end) for one in ends):
        return [f"waits end at {', '.join(ends) or NOTHING} for {end}"]
    most = max(thread["resources"][resource]["wait_ns"] for thread in truth["threads"])
    if not 0.5 * most <= wakers["bottleneck_ns"] <= (1 + TOLERANCE) * most:
        return [f"{wakers['bottleneck_ns'] / 1e6:.0f} ms of waiting end at {end} for {most / 1e6:.0f} ms"]
    return []


def _name(thread: Json) -> str:
    return f"{thread['name']} ({thread['tid']})"


def _actor(actor: Json, truth: Json) -> str:
    """A holder or victim of the report as the program calls it: by thread; by task where it has no thread."""
    for thread in truth["threads"]:
        same = actor["tid"] == thread["tid"] if actor["tid"] else actor["task"] == thread["task"]
        if same and actor["task"] in (None, thread["task"]):
            return _name(thread)
    return str(actor["name"])
