"""Resources that the application itself hands out: who holds them, who waits, and why.

From the events of a resource manifest (WAIT, ACQUIRE, USE, RELEASE). An acquire is joined with its release by
instance and unit; a unit that is acquired again is another lifetime; a wait that nothing ended counts to the end of
the recording. What is said of one instance is counted there. Waiting is shared among those who held units meanwhile,
and followed: a holder that waits for another resource passes the blame on, to the root. Thresholds:
profiler/data/resource_thresholds.toml, or `report --thresholds FILE`. Everything is withheld where too many events were
lost, and a resource whose events contradict each other gets no verdict.

* `resources.contention`: tasks wait for 10 % of the time or more while others hold the resource. The holder is who
  held most of it while they waited; where none did, the holders take turns. Hold it for shorter, or split it. Where
  holders wait for each other in a circle to the end of the recording the claim says deadlock: take both in one order.
* `resources.inefficient_policy`: as contention, but the holder hardly uses what it holds. Acquire later, release
  earlier.
* `resources.insufficient_allocation`: memory is asked for in tiny portions, thousands of times a second. Ask for
  larger portions, or keep some.
* `resources.leak`: a few units never come back though those of the same kind do, all along the recording. The call
  that acquired them is named: look at its ways out, errors first. Where tasks wait mostly because of these, as in a
  pool that has run empty, they are the leak's victims.
* `resources.unbounded_growth`: what is held keeps growing, as steadily at the end as at the beginning (a cache that
  warms up slows down, and is left alone). Bound it, or see to it that whoever keeps it from shrinking ends.
* `resources.over_synchronisation`: a lock is taken tens of thousands of times a second, and hardly anybody waits for
  it. Its price is paid for nothing: take it once for several steps, or do without.
* `resources.variance`: a few waits are ten times as long as the others, and behind one holder. The mean hides them.
  See what that holder does then.
* `resources.bottleneck`: threads wait for each other, and most of it ends at one place (wPerf): often not where the
  longest wait is. Speed that up first: elsewhere only the waiting moves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from flowprof.profiler.analyzers import losses, resource_findings
from flowprof.profiler.analyzers.contract import Analyzer, Need, Result
from flowprof.profiler.blame import scene, thresholds, wakers
from flowprof.profiler.blame.events import Actor, Events, Resource
from flowprof.profiler.blame.judge import verdicts
from flowprof.profiler.blame.metrics import MAX_GROUPS, Totals, totals
from flowprof.profiler.blame.reading import read
from flowprof.profiler.blame.study import Study, study
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.blame.verdict import Verdict, Victims
from flowprof.profiler.resources.manifest import EVENTS
from flowprof.profiler.root_causes import DEPTH
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.resources import (
    Blamed,
    ChainLink,
    Holder,
    ResourceRow,
    ResourceTable,
    Victim,
    WakerEdge,
    WakerGraph,
)
from flowprof.profiler.store import Recording

MAX_ROWS = 200
MAX_VICTIMS = 100
MAX_EDGES = 40
MAX_UNSEEN = 6
_REFUSED_SQL = """
SELECT probe, any_value(coalesce(reason, '')) FROM probe_site WHERE status = 'refused' AND level = 'resource'
GROUP BY probe ORDER BY probe LIMIT 200
"""
_THREADS_SQL = "SELECT tid, any_value(comm) FROM thread WHERE tid > 0 GROUP BY tid ORDER BY tid"
RESOURCES = Need("SELECT count(*) > 0 FROM resource", "no resources; record with --resources MANIFEST")


def analyze(recording: Recording) -> Result:
    limits = thresholds.of(recording)
    lost = losses.analyze(recording).value
    withheld = isinstance(lost, Losses) and lost.events_withheld
    found = study(read(recording), limits)
    judged = () if withheld else verdicts(found)
    frames = scene.stacks(recording, sorted({scene.acquire_stack(found.events, one) for one in judged}))
    blamed = tuple(_blamed(recording, found, one, frames) for one in judged)
    graph, untold = (None, ()) if withheld else _wakers(recording, found, limits)
    by_resource, by_task = totals(found, False), totals(found, True)
    table = ResourceTable(
        blamed=blamed, resources=_rows(found, by_resource, False),
        tasks=_rows(found, by_task, True), wakers=graph, span_ns=found.events.span_ns,
        events=len(found.events.at_ns), withheld=withheld, thresholds=limits.source,
        notes=(*_notes(found.events, withheld, lost), *_unseen(recording, found.events),
               *_cut(by_resource, by_task), *untold),
    )  # fmt: skip
    return Result(table, () if withheld else resource_findings.of_table(table, _tokens(recording)))


def _tokens(recording: Recording) -> int:
    return int(recording.rows("SELECT coalesce(sum(tokens), 0) FROM graph_duration")[0][0])


def _notes(events: Events, withheld: bool, lost: object) -> tuple[str, ...]:
    notes = []
    if not len(events.at_ns):
        notes.append("no event of any resource was recorded: nothing used them, or their functions were not called")
    if withheld and isinstance(lost, Losses):
        notes.append(f"withheld: {lost.share * 100:.1f} % of the events lost, the limit is {lost.limit * 100:.0f} %")
    if events.cut:
        notes.append(f"only the first {len(events.at_ns)} events are analysed, {events.cut} are left out")
    notes += [
        f"{one.name}: observed for {int(span_ns) / 1e9:.3g} s only: its events took too much of a thread's time; "
        "--full keeps them"
        for one, span_ns in zip(events.resources, events.spans_ns, strict=True)
        if one.until_ns is not None
    ]
    return tuple(notes)


def _unseen(recording: Recording, events: Events) -> tuple[str, ...]:
    """Events that the manifest names and that could not be probed anywhere: a mistyped name, or another version."""
    refused = dict(recording.rows(_REFUSED_SQL))
    wanted = [(one, event) for one in events.resources for event in EVENTS if event not in one.events]
    return tuple(
        f"{one.name}: its {event} cannot be seen: {refused[id]}"
        for one, event in wanted
        if (id := f"{one.name}.{event}") in refused
    )[:MAX_UNSEEN]


def _cut(by_resource: Totals, by_task: Totals) -> tuple[str, ...]:
    """What of the totals is not listed."""
    notes = []
    for sums, what in ((by_resource, "resources"), (by_task, "tasks and resources")):
        if len(sums.group) > MAX_ROWS:
            notes.append(f"the {MAX_ROWS} {what} with most waiting are listed, of {len(sums.group)}")
    if len(by_resource.group) and not len(by_task.group):
        notes.append(f"nothing is listed by task: resources times tasks are more than {MAX_GROUPS}")
    return tuple(notes)


def _blamed(recording: Recording, found: Study, one: Verdict, frames: dict[int, list[tuple[str, str]]]) -> Blamed:
    events = found.events
    resource = events.resources[one.resource]
    held = found.held
    mine = held.actor == one.holder if one.holder is not None else held.actor < 0
    mine &= held.place == one.place if one.place >= 0 else events.resource[held.place] == one.resource
    victims = tuple(
        Victim(actor.name, actor.tid, actor.task, round(waiting_ns), waits, round(longest_ns), still)
        for actor, waiting_ns, waits, longest_ns, still in _victims(events, one)
    )  # fmt: skip
    instance = _instance(found, one.place)
    blamed = Blamed(
        resource=resource.name, kind=resource.kind, pathology=one.pathology,
        holder=_holder(events, one, frames.get(scene.acquire_stack(events, one), [])),
        waiting_ns=round(one.waiting_ns), hold_ns=int((held.end_ns[mine] - held.start_ns[mine]).sum()),
        utilisation=one.utilisation, victims=victims, chain=_chain(found, one), confidence=one.confidence,
        manifest=resource.manifest, instance=instance, capacity=resource.capacity, share=one.share,
        holders=one.holders, sufferers=len(one.victims),
        at_ns=one.at_ns - events.begin_ns, variables=scene.moments(recording, found, one),
        evidence=(*one.evidence, *_about(resource, instance)), advice="", picture=scene.picture(found, one),
        deadlock=tuple(events.actors[step.holder].name for step in one.deadlock if step.holder is not None),
    )  # fmt: skip
    return resource_findings.advised(blamed)


def _victims(events: Events, one: Verdict) -> Iterator[tuple[Actor, float, int, float, bool]]:
    """Who waited, waiting, waits, the longest one, and whether it still lasts: as many as are listed."""
    rows = (getattr(one.victims, name)[:MAX_VICTIMS].tolist() for name in Victims.__slots__)
    for number, *figures in zip(*rows, strict=True):
        yield events.actors[number], *figures


def _holder(events: Events, one: Verdict, frames: list[tuple[str, str]]) -> Holder | None:
    if one.holder is None:
        return None
    actor = events.actors[one.holder]
    tid = actor.tid or (events.actors[int(events.thread[one.event])].tid if one.event >= 0 else 0)
    # The first frame is the resource's own function: its caller is who wanted it.
    function, source = frames[min(1, len(frames) - 1)] if frames else ("", "")
    said = tuple(f"{name} ({where})" if where else name for name, where in frames)
    return Holder(actor.name, actor.pid, tid, actor.task, function, source, said)


def _instance(found: Study, place: int) -> str:
    """How one of several instances is called: an address, or a small number."""
    if place < 0 or not found.where(place).instance:
        return ""
    number = found.where(place).instance
    return hex(number & 0xFFFFFFFFFFFFFFFF) if not 0 < number < 1 << 16 else str(number)


def _about(resource: Resource, instance: str) -> tuple[str, ...]:
    """What the manifest says of it: how a number that tells instances apart is to be read."""
    return (f"{resource.name} {instance}: {resource.about}",) if instance and resource.about else ()


def _chain(found: Study, one: Verdict) -> tuple[ChainLink, ...]:
    events = found.events
    if not one.steps and one.holder is not None and one.holders == 1 and len(one.victims):
        return (ChainLink(events.resources[one.resource].name, _instance(found, one.place),
                          events.actors[one.holder].name, ""),)  # fmt: skip
    return tuple(
        ChainLink(events.resources[step.resource].name, _instance(found, step.place),
                  "" if step.holder is None else events.actors[step.holder].name, step.why)
        for step in one.steps
    )  # fmt: skip


def _rows(found: Study, sums: Totals, by_task: bool) -> tuple[ResourceRow, ...]:
    events = found.events
    many = len(events.actors) if by_task else 1
    order = np.lexsort((-sums.hold_ns, -sums.waiting_ns))  # stable
    rows = []
    for row in order[:MAX_ROWS].tolist():
        resource = events.resources[int(sums.group[row]) // many]
        acquires, uses = int(sums.acquires[row]), int(sums.uses[row])
        observed_ns = int(events.spans_ns[int(sums.group[row]) // many])
        rows.append(
            ResourceRow(
                resource=resource.name, kind=resource.kind,
                task=events.actors[int(sums.group[row]) % many].name if by_task else "",
                waits=int(sums.waits[row]), waiting_ns=int(sums.waiting_ns[row]), longest_ns=int(sums.longest_ns[row]),
                open_waits=int(sums.open_waits[row]), acquires=acquires, uses=uses, releases=int(sums.releases[row]),
                hold_ns=int(sums.hold_ns[row]), open_holds=int(sums.open_holds[row]),
                utilisation=uses / acquires if acquires and ("use" in resource.events or uses) else None,
                acquires_per_s=acquires / observed_ns * 1e9, capacity=resource.capacity, observed_ns=observed_ns,
                broken_share=float(found.held.broken[int(sums.group[row]) // many]),
            )
        )  # fmt: skip
    return tuple(rows)


def _wakers(recording: Recording, found: Study, limits: Thresholds) -> tuple[WakerGraph | None, tuple[str, ...]]:
    """Who waited for whom, and what has to be said of it."""
    events = found.events
    threads = {int(tid): f"{comm} ({tid})" if comm else f"thread {tid}" for tid, comm in recording.rows(_THREADS_SQL)}
    stretches, of = scene.stretches(recording, found)
    if not len(stretches.tid):
        return None, ()
    graph = wakers.waker_graph(stretches, of, threads, tuple(resource.name for resource in events.resources))
    if graph is None:
        most = f"{len(threads)} threads, {wakers.MAX_NODES} nodes at the most"
        return None, (f"who waits for whom is not followed: {most}",)
    cut = f"who waits for whom is followed over {graph.followed} wakers, not to the end: waits fall into too many parts"
    least = limits.of("wakers", "edge_share") * events.span_ns
    end = wakers.bottleneck(graph, least, limits.of("wakers", "minor_share"))
    if end is not None and end.ns < limits.of("wakers", "bottleneck_share") * events.span_ns:
        end = None
    edges = sorted(
        (WakerEdge(graph.nodes[i], graph.nodes[j], round(float(graph.passed[i, j])))
         for i, j in zip(*(graph.passed >= max(least, 1)).nonzero(), strict=True)),
        key=lambda edge: -edge.waiting_ns,
    )  # fmt: skip
    direct = graph.direct.sum(axis=0)
    ends = sorted(zip(graph.nodes, graph.ends.tolist(), strict=True), key=lambda pair: -pair[1])
    return WakerGraph(
        tuple(edges[:MAX_EDGES]), end.nodes[:20] if end else (), end.ns if end else 0,
        graph.nodes[int(direct.argmax())] if direct.any() else "",
        tuple((name, round(ns)) for name, ns in ends[:10] if ns > 0),
    ), (cut,) * (graph.followed < DEPTH)  # fmt: skip


ANALYZER = Analyzer("resources", "Resources", (RESOURCES,), analyze)
