"""Events of resources: numbers for taps, resources and variables; events → rows. numpy, in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from flowprof.profiler.columns import Columns
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.planning.planned_site import MAX_TAPS, PlannedSite
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.resources.expression import Way
from flowprof.profiler.resources.manifest import EVENTS, Manifest
from flowprof.profiler.resources.taps import SAMPLE, WAYS, Tap
from numpy.typing import NDArray

KINDS = (ring.RESOURCE, ring.RESOURCE_HOLDER, ring.RESOURCE_VARIABLES)
HOLDER = "holder"  # beside events that are probed: waits tell it
SAVES, SHARED, TAKES_STACK = 1 << 48, 1 << 49, 1 << 50  # in a site's cookie
_EVENTS = np.array([*EVENTS, "give-up"], object)
_GAVE_UP = 1 << 31  # in `ith`
_INSTANCE, _UNIT, _UNITS, _TASK, _HOLDER = range(len(WAYS))
_READ = 18  # bits of `ith` say which ways could be read: from here on, behind the conditions'
_VARIABLES = _READ + len(WAYS)
_SAMPLE = 2048  # events whose thread is looked at, of those that are decoded together
_NEVER = np.iinfo(np.int64).max

Subject = int | str  # a resource's number; the function at which variables of no resource are read
Unit = frozenset[Subject]  # what one site is probed for


class ResourceEvents:
    """The resources of a session, and what happened to them."""

    def __init__(self, manifests: Sequence[Manifest], stacks: Stacks) -> None:
        self._manifests = manifests
        self._stacks = stacks
        self._taps: list[Tap] = []
        names = [(manifest.name, resource.name) for manifest in manifests for resource in manifest.resources]
        self._resources = {name: number for number, name in enumerate(names, 1)}
        self._variables: dict[tuple[int, str, str], tuple[str, str, str]] = {}  # (resource, name, expression) →
        # (function, type, source); numbered in their order, from 1
        self._numbers: dict[tuple[int, str, str], int] = {}
        self._written_variables = 0
        self.capacities: dict[tuple[str, str], int] = {}  # (manifest, resource) → what was read
        self.units: dict[int, Unit] = {}  # by site
        self._until: dict[Subject, int] = {}  # what was given up, and when (ns)
        self._sampled: Counter[tuple[Unit, int]] = Counter()  # events by what they are of and by thread
        self.unknown = 0  # events that are not recorded: of which resource they are could not be read

    def know(self, sites: Iterable[PlannedSite]) -> tuple[dict[int, bytes], dict[int, int], dict[int, Unit]]:
        """Sites that will be attached → their taps for the kernel, by number; upper parts of their cookies; units."""
        packed: dict[int, bytes] = {}
        cookies: dict[int, int] = {}
        for site in sites:
            if site.taps:
                unit = frozenset(self._resource(tap) or tap.function for tap in site.taps)
                for number in (site.site_id, site.entry_id) if site.entry_id else (site.site_id,):
                    self.units[number] = self.units.get(number, frozenset()) | unit
            if site.refused or not (site.taps or site.saves or site.entry_id):
                continue
            first = len(self._taps)
            taps = site.taps if first + len(site.taps) <= MAX_TAPS else ()
            for i, tap in enumerate(taps):
                self._taps.append(tap)
                packed[first + i] = tap.packed(first + i + 2 if i + 1 < len(taps) else 0)
                resource = self._resource(tap)
                for name, text, way in tap.variables:
                    self._number(resource, name, text, tap.function, way)
            flags = (SAVES if site.saves else 0) | (SHARED if site.shared else 0)
            flags |= TAKES_STACK if any(tap.stack for tap in taps) else 0
            cookies[site.site_id] = (first + 1 if taps else 0) << 32 | flags
        return packed, cookies, self.units

    def resource_columns(self) -> Columns:
        """Table `resource`."""
        rows = [(manifest, resource) for manifest in self._manifests for resource in manifest.resources]
        return {
            "resource_id": [self._resources[manifest.name, resource.name] for manifest, resource in rows],
            "manifest": [manifest.name for manifest, _ in rows],
            "name": [resource.name for _, resource in rows], "kind": [resource.kind for _, resource in rows],
            "capacity": [self.capacities.get((manifest.name, one.name), one.capacity) for manifest, one in rows],
            "about": [resource.about for _, resource in rows],
            "events": list(self.events_seen().values()),
            "shared": [resource.shared for _, resource in rows],
        }  # fmt: skip

    def number_of(self, name: str, expression: str, way: Way) -> int:
        """The number of a variable that belongs to no resource and no function."""
        return self._number(0, name, expression, "", way)

    def events_seen(self) -> dict[int, str]:
        """Resource's number → the events that are probed: a function that the target does not have tells nothing. And
        `holder` where a wait says who has it."""
        found: dict[int, set[str]] = {number: set() for number in self._resources.values()}
        for tap in self._taps:
            if tap.event != SAMPLE:
                found[self._resource(tap)].add(tap.event)
                if tap.ways[_HOLDER] is not None and tap.event == "wait":
                    found[self._resource(tap)].add(HOLDER)
        return {number: ",".join(sorted(events)) for number, events in found.items()}

    def give_up(self, subject: Subject, at_ns: int) -> list[int]:
        """From now on it is not recorded. Returns the sites that are of no use any more."""
        self._until[subject] = at_ns
        return [site for site, unit in self.units.items() if self._is_vain(unit)]

    def is_given_up(self, site: PlannedSite) -> bool:
        """Whether everything that this site is probed for has been given up."""
        return self._is_vain(self.units.get(site.site_id, frozenset()))

    def _is_vain(self, unit: Unit) -> bool:
        return bool(unit) and unit <= self._until.keys()

    def name_of(self, subject: Subject) -> str:
        """For people."""
        if isinstance(subject, str):
            return f"variables at {subject}"
        return next(f"{manifest}: {name}" for (manifest, name), number in self._resources.items() if number == subject)

    def sampled(self) -> dict[tuple[Unit, int], int]:
        """How many events of what happened in which thread since this was asked last, of a sample."""
        found, self._sampled = dict(self._sampled), Counter()
        return found

    def new_variables(self) -> Columns:
        """Rows of table `variable` that were not asked for yet."""
        rows = list(self._variables.items())[self._written_variables :]
        self._written_variables += len(rows)
        return {
            "variable_id": [self._numbers[key] for key, _ in rows], "resource_id": [key[0] or None for key, _ in rows],
            "name": [key[1] for key, _ in rows], "expression": [key[2] for key, _ in rows],
            "function": [said[0] or None for _, said in rows], "type": [said[1] or None for _, said in rows],
            "source": [said[2] or None for _, said in rows],
        }  # fmt: skip

    def decode(self, events: NDArray[np.void]) -> tuple[Columns, Columns]:
        """Columns of resource_event and of variable_sample. events: of KINDS, any order."""
        tap = (events["ith"] & 0xFFFF).astype(np.int64)
        known = tap < len(self._taps)
        if not known.all():
            events, tap = events[known], tap[known]
        placed = ((events["ith"] >> _READ >> _INSTANCE) & 1 == 1) | (events["kind"] != ring.RESOURCE)
        self.unknown += int(np.count_nonzero(~placed & (events["ith"] & _GAVE_UP == 0)))
        events, tap = events[placed], tap[placed]
        self._sample(events)
        if self._until:
            until = np.array(
                [self._until.get(self._resource(one) or one.function, _NEVER) for one in self._taps], np.int64
            )
            kept = events["at_ns"] < until[tap]
            events, tap = events[kept], tap[kept]
        main = events["kind"] == ring.RESOURCE
        rows = self._rows(events[main], tap[main])
        holders = events["kind"] == ring.RESOURCE_HOLDER
        if holders.any():
            rows["holder"] = _beside(events[main], events[holders])
        sampled = events["kind"] == ring.RESOURCE_VARIABLES
        return rows, self._samples(events[sampled], tap[sampled])

    def _sample(self, events: NDArray[np.void]) -> None:
        step = len(events) // _SAMPLE + 1
        chosen = events[::step]
        pairs, counts = np.unique(chosen["site"].astype(np.int64) << 32 | chosen["tid"], return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self._sampled[self.units.get(pair >> 32, frozenset()), pair & 0xFFFFFFFF] += count * step

    def _rows(self, events: NDArray[np.void], tap: NDArray[np.int64]) -> dict[str, object]:
        read = events["ith"] >> _READ
        tells = {way: np.array([one.ways[way] is not None for one in self._taps], bool) for way in range(len(WAYS))}
        number = np.array([self._resource(one) for one in self._taps], np.int32)
        what = np.array([0 if one.event == SAMPLE else EVENTS.index(one.event) for one in self._taps], np.int64)

        every = np.array([one.every_instance for one in self._taps], bool)

        def unknown(way: int) -> NDArray[np.bool_]:
            absent: NDArray[np.bool_] = ((read >> way) & 1 == 0) | ~tells[way][tap]
            return absent

        units = (events["c"] & 0xFFFFFFFF).astype(np.int64)
        units = np.where(units >> 31, (units & 0x7FFFFFFF) << 12, units)  # as packed_units() of resources.bpf.c
        stacks = self._stacks.numbers(events["c"] >> 32, events)
        return {
            "at_ns": events["at_ns"], "pid": events["pid"], "tid": events["tid"],
            "resource_id": number[tap],
            "event": _EVENTS[np.where(events["ith"] & _GAVE_UP, len(EVENTS), what[tap])],
            "instance": np.ma.masked_array(events["a"].view(np.int64), every[tap]),
            "unit": np.ma.masked_array(events["b"].view(np.int64), unknown(_UNIT)),
            "units": np.where(unknown(_UNITS), 1, units),
            "task": np.ma.masked_array(events["d"].view(np.int64), unknown(_TASK)),
            "stack_id": np.ma.masked_array(stacks, stacks == 0), "site_id": events["site"].astype(np.int32),
        }  # fmt: skip

    def _resource(self, tap: Tap) -> int:
        """Its resource's number; 0: none."""
        return 0 if tap.event == SAMPLE else self._resources[tap.manifest, tap.resource]

    def _number(self, resource: int, name: str, expression: str, function: str, way: Way) -> int:
        key = (resource, name, expression)
        self._variables.setdefault(key, (function, way.kind.type, way.kind.source))
        return self._numbers.setdefault(key, len(self._numbers) + 1)

    def _samples(self, events: NDArray[np.void], tap: NDArray[np.int64]) -> Columns:
        numbers, spare = np.zeros((len(self._taps), 4), np.int32), np.zeros((len(self._taps), 4), np.int64)
        unsigned, real = np.zeros((len(self._taps), 4), bool), np.zeros((len(self._taps), 4), bool)
        for i, one in enumerate(self._taps):
            for j, (name, text, way) in enumerate(one.variables):
                numbers[i, j] = self._numbers[self._resource(one), name, text]
                spare[i, j], unsigned[i, j], real[i, j] = 64 - 8 * way.kind.size, not way.kind.signed, way.kind.real
        number = numbers[tap]  # (n, 4)
        row, column = np.nonzero(number)
        words = np.stack([events[name] for name in "abcd"], axis=1) if len(events) else np.zeros((0, 4), np.uint64)
        unread = (events["ith"][row] >> _VARIABLES) >> column & 1 == 0
        # Of a register only the bytes of the argument's type mean anything.
        up, word = spare[tap[row], column], words[row, column].view(np.int64) << spare[tap[row], column]
        plain = word.view(np.uint64) >> up.astype(np.uint64)
        value = np.where(unsigned[tap[row], column], plain.astype(np.float64), (word >> up).astype(np.float64))
        value = np.where(real[tap[row], column], _real(plain, up == 0), value)
        unread |= ~np.isfinite(value)
        return {
            "at_ns": events["at_ns"][row], "pid": events["pid"][row], "tid": events["tid"][row],
            "variable_id": number[row, column], "value": np.ma.masked_array(value, unread),
        }  # fmt: skip


def _real(words: NDArray[np.uint64], double: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Words as the floating-point numbers that their bytes are: of 8, or of the lower 4."""
    single = words.astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(double, words.view(np.float64), single)


def _beside(events: NDArray[np.void], holders: NDArray[np.void]) -> NDArray[np.int32]:
    """For each event the thread that a report at the same time of the same thread and tap names; masked: none."""

    def key(of: NDArray[np.void]) -> NDArray[np.void]:
        joined = np.zeros(len(of), [("at", "<i8"), ("tid", "<i4"), ("tap", "<u4")])
        joined["at"], joined["tid"], joined["tap"] = of["at_ns"], of["tid"], of["ith"] & 0xFFFF
        return joined

    wanted, there = key(events), key(holders)
    order = np.argsort(there, order=("at", "tid", "tap"))
    at = np.clip(np.searchsorted(there[order], wanted), 0, len(there) - 1)
    found = order[at]
    holder = holders["a"][found].astype(np.int64)
    # A word that is no thread (0: free) tells nothing; thread ids are below 2^22.
    absent = (there[found] != wanted) | (holder <= 0) | (holder >= 1 << 22)
    return np.ma.masked_array(holder.astype(np.int32), absent)
