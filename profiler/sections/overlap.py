"""What the overlap analyzer hands to the viewers: frozen dataclasses as in sections.py, units in the field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.findings import Confidence

OverlapKind = Literal["free", "split-only"]
Resource = Literal["compute", "memory", "network", "copy", "other"]
RESOURCES: tuple[Resource, ...] = ("compute", "memory", "network", "copy", "other")
HostKind = Literal[
    "operators", "launches", "copies", "collectives", "allocation", "waits", "data loading", "elsewhere"
]  # what the threads were in
GapWork = Literal["choosing tokens", "answers and next batch", "up to the next batch", "setting up the graph"]


@dataclass(frozen=True, slots=True)
class ResourceTime:
    """One class of a device's work. other: bound by neither arithmetic nor memory, or not known which."""

    resource: Resource
    busy_ns: int  # union of its slices
    exposed_ns: int  # of it, while neither compute nor other work runs; 0 for those two


@dataclass(frozen=True, slots=True)
class Exposure:
    """One device's time."""

    device: int
    span_ns: int  # from the first to the last slice of any device
    idle_ns: int
    host_ns: int  # of idle: the next work was launched after the device had drained
    times: tuple[ResourceTime, ...]


@dataclass(frozen=True, slots=True)
class HostTime:
    """Calls of one kind by the threads of a process. How long a GPU worked is in none of them."""

    kind: HostKind
    busy_ns: int  # union over threads
    exposed_ns: int  # of it, while the process has nothing else going on: see HostExposure.idle


@dataclass(frozen=True, slots=True)
class HostExposure:
    """One process's time as its own calls tell it."""

    pid: int
    span_ns: int  # observed, from its first call to its last
    idle: Literal["streams empty", "no operator"]  # what idle_ns is; exposed: in it, or beside no arithmetic
    idle_ns: int  # streams empty: at least, all that were used; no operator: on no thread
    times: tuple[HostTime, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A bar of the before/after picture."""

    lane: str
    name: str
    resource: Resource
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A stretch of the timeline as it ran, and as the list scheduler would order it with interference."""

    before: tuple[Step, ...]
    after: tuple[Step, ...]
    before_ns: int
    after_ns: int
    list_ns: int  # the same tasks without interference, by the list scheduler
    exact_ns: int | None  # and the least that is possible; None: too many tasks, or not found in time


@dataclass(frozen=True, slots=True)
class Overlap:
    """Work that ran one after the other. The three gains are one and the same saving counted three ways."""

    kind: OverlapKind
    what: str
    culprit: str  # what serialised it
    device: int | None  # None: processors
    count: int  # places
    exposed_ns: int  # of what would be hidden
    room_ns: int  # of what it would be hidden behind
    ideal_ns: int
    aware_ns: int  # with interference
    split_ns: int  # what nano-batches cost
    net_ns: int
    share: float  # net of base_ns
    base_ns: int  # the timeline; of llama.cpp the time inside graphs
    reason: str
    confidence: Confidence
    evidence: tuple[str, ...]
    picture: Picture | None = None
    priced: bool = True  # False: which resource the work takes was not observed, so that no interference is taken off
    told_by: str = ""  # the finding of another analyzer that says it already


@dataclass(frozen=True, slots=True)
class GapPart:
    """What the thread that drives the graphs is about, from one mark in a gap to the next."""

    what: GapWork
    total_ns: int


@dataclass(frozen=True, slots=True)
class HostGap:
    """Between one decode step of llama.cpp and the next: its compute threads have no graph."""

    gaps: int
    median_ns: float
    total_ns: int
    share: float  # of a decode step with its gap, by medians: who took the processors meanwhile is another matter
    asleep_ns: int | None  # of the gaps: the thread that drives the graphs slept; None: not recorded
    sequences: int  # decoded together, median
    parts: tuple[GapPart, ...] = ()  # of the gaps in which all marks were seen, in order; none: the build shows none
    parts_gaps: int = 0  # how many gaps these are


@dataclass(frozen=True, slots=True)
class OverlapTable:
    devices: tuple[Exposure, ...]
    overlaps: tuple[Overlap, ...]  # most net gain first
    host: HostGap | None
    refused: tuple[str, ...]  # what was looked at and is not advised, and why
    interference: str  # source of the table
    calls: tuple[HostExposure, ...] = ()  # by process, of recordings without GPU times
