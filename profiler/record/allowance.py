"""How much of a thread's time the events of resources may take, and what is given up where they take more.

Whoever asks for a resource wants all of its events: they are recorded all the time, without windows. But a lock that a
thread takes a million times a second would make it half as fast, and nobody asked for that. So every two seconds the
hits at functions of resources are priced, those of a function divided among threads as a sample of its events is.
Where a thread spends more than SHARE on them, the dearest resource of that thread is given up, then the next, until no
thread does. What was recorded until then stays, and says since when there is no more. A larger `--overhead-budget`
allows as much; with `--full` nothing is given up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from flowprof.profiler.planning.probe_cost import CostClass
from flowprof.profiler.record.intake import Intake
from flowprof.profiler.record.session import Session, now_ns
from flowprof.profiler.record.writer import Writer
from flowprof.profiler.resources.events import Subject, Unit

SHARE = 0.15  # of a thread's time: 100 000 events a second stay below where a probe hit takes 0.6 µs or so
LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Excess:
    """A subject that is given up. share: of the time of `tid` that all of them took, before; hits_per_s: its own."""

    subject: Subject
    tid: int
    share: float
    hits_per_s: float


def too_dear(
    hits: Mapping[Unit, tuple[int, float]], events: Mapping[tuple[Unit, int], int], passed_s: float, limit: float
) -> list[Excess]:
    """What to give up, the dearest first.

    hits: of each unit how many, and their cost in ns; events: of each unit and thread, a sample: where there is none,
    all hits are taken for those of one thread, the same for all such units (tid 0); limit: share of a thread's time.
    """
    seen: dict[Unit, int] = {}
    for (unit, _), count in events.items():
        seen[unit] = seen.get(unit, 0) + count
    spent: dict[int, dict[Unit, float]] = {}  # ns, by thread
    for unit, (_, cost_ns) in hits.items():
        if unit not in seen:
            spent.setdefault(0, {})[unit] = cost_ns
    for (unit, tid), count in events.items():
        if unit in hits:
            spent.setdefault(tid, {})[unit] = hits[unit][1] * count / seen[unit]
    found: list[Excess] = []
    given_up: Unit = frozenset()
    while True:
        left = {
            tid: {unit: ns for unit, ns in by_unit.items() if not unit <= given_up} for tid, by_unit in spent.items()
        }
        tid, dearest = max(left.items(), key=lambda item: sum(item[1].values()), default=(0, {}))
        share = sum(dearest.values()) / 1e9 / passed_s
        if share <= limit:
            return found
        of_subject: dict[Subject, float] = {}
        for unit, ns in dearest.items():
            for one in unit - given_up:
                of_subject[one] = of_subject.get(one, 0.0) + ns
        subject = max(of_subject, key=lambda one: (of_subject[one], str(one)))
        own = sum(count for unit, (count, _) in hits.items() if subject in unit)
        found.append(Excess(subject, tid, share, own / passed_s))
        given_up |= {subject}


class Allowance:
    """Looks after the cost of a session's resources."""

    def __init__(self, session: Session, intake: Intake, writer: Writer) -> None:
        self._session = session
        self._intake = intake
        self._writer = writer
        self._hits = session.probes.site_hits(session.next_site())
        self._looked = time.monotonic()
        self._limit = max(SHARE, session.options.budget or 0.0)

    def look(self, now: float) -> None:
        """Give up what has cost too much since the last look, if that was LOOK_S ago. now: time.monotonic()."""
        session, resources = self._session, self._session.resources
        passed_s = now - self._looked
        if session.options.budget is None or not resources.units or passed_s < LOOK_S:
            return
        self._looked = now
        fresh = session.hits_since(self._hits)
        self._hits = session.probes.site_hits(session.next_site())
        self._intake.decode()  # else nobody knows whose they are
        priced: dict[Unit, tuple[int, float]] = {}
        emulated_ns = session.cost_ns.get(CostClass.EMULATED, 0.0)  # a system call's event counts as such
        for site in session.sites:
            unit = resources.units.get(site.site_id)
            count = int(fresh[site.site_id]) if unit else 0
            if unit and count:
                before, cost_ns = priced.get(unit, (0, 0.0))
                priced[unit] = before + count, cost_ns + count * (session.hit_cost_ns(site) or emulated_ns)
        for one in too_dear(priced, resources.sampled(), passed_s, self._limit):
            self._give_up(one)

    def _give_up(self, one: Excess) -> None:
        session, resources = self._session, self._session.resources
        at_ns = now_ns()
        session.probes.detach_sites(resources.give_up(one.subject, at_ns))
        if isinstance(one.subject, int):
            self._writer.write_until(one.subject, at_ns)
        whose = f"thread {one.tid}" if one.tid else "a thread"
        session.note(
            0, "given up",
            f"{resources.name_of(one.subject)}: {one.hits_per_s:,.0f} probe hits a second; with all others they took "
            f"{100 * one.share:.0f} % of the time of {whose}, more than {100 * self._limit:.0f} %",
        )  # fmt: skip
