"""An application's resources: who is to blame, what each was used for, and who waited for whom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A thread, or a task (request, transaction). function, source: where it acquired; "" not known."""

    name: str
    pid: int
    tid: int  # 0: a task that several threads worked for
    task: int | None
    function: str
    source: str  # file:line
    stack: tuple[str, ...]  # from the innermost call outwards


@dataclass(frozen=True, slots=True)
class Victim:
    name: str
    tid: int
    task: int | None
    waiting_ns: int  # its added latency, all its waits together
    waits: int
    longest_ns: int
    open: bool  # it still waited when the recording ended


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One step of the chain of blame, from what was waited for to its root."""

    resource: str
    instance: str  # "": the only one, or all
    holder: str  # "": nobody that was seen
    why: str  # how the step before leads here


@dataclass(frozen=True, slots=True)
class Moment:
    """A variable when it was worst, beside its usual values (those of times without waiting, where there are any)."""

    name: str
    value: float
    usual: float
    low: float
    high: float
    source: str  # file:line of its declaration
    unusual: bool  # outside of 0.95 · low … 1.05 · high


@dataclass(frozen=True, slots=True)
class Picture:
    """What happened over time, in equal steps from the recording's begin. Lanes: who held units, the blamed first."""

    step_ns: float
    occupancy: tuple[float, ...]  # units held, mean of the step
    waiters: tuple[float, ...]  # mean
    lanes: tuple[tuple[str, tuple[float, ...]], ...]  # name, units held
    units: str = "units held"  # what the occupancy counts
    waits: str = "waiting"  # what the waiters do
    note: str = ""  # what else is to be known of the numbers


@dataclass(frozen=True, slots=True)
class Blamed:
    """One verdict, in order of blame."""

    resource: str
    kind: str  # memory, state, queue
    pathology: str
    holder: Holder | None
    waiting_ns: int  # that counts: of all who waited because of it
    hold_ns: int  # of the holder, all its holds together
    utilisation: float | None  # uses per acquire of the holder; None: uses cannot be seen
    victims: tuple[Victim, ...]  # the first MAX_VICTIMS, the most waiting first
    chain: tuple[ChainLink, ...]
    confidence: str
    manifest: str
    instance: str
    capacity: int | None
    share: float  # of the waiting (of the units, of the leak) that is this holder's
    holders: int  # 1: one dominates; else so many take turns
    sufferers: int  # how many victims there are in all
    at_ns: int  # when it shows best, since the recording began
    variables: tuple[Moment, ...]
    evidence: tuple[str, ...]
    advice: str
    picture: Picture | None
    deadlock: tuple[str, ...] = ()  # holders in a circle, each of which waits for what the next one has, to the end


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """A resource's totals; by task where `task` is not empty."""

    resource: str
    kind: str
    task: str
    waits: int
    waiting_ns: int
    longest_ns: int
    open_waits: int
    acquires: int
    uses: int
    releases: int
    hold_ns: int
    open_holds: int
    utilisation: float | None
    acquires_per_s: float
    capacity: int | None
    observed_ns: int  # for how long: less than the recording where its events took too much time
    broken_share: float  # acquires and releases without a partner


@dataclass(frozen=True, slots=True)
class WakerEdge:
    """`source` waited for `target`, so long in all; waits of those that it waits for included."""

    source: str
    target: str
    waiting_ns: int


@dataclass(frozen=True, slots=True)
class WakerGraph:
    """Who waited for whom; bottleneck: the component at which waits end, ns: of threads' waits for others, so much."""

    edges: tuple[WakerEdge, ...]  # of at least 1 % of the time, the largest first
    bottleneck: tuple[str, ...]
    bottleneck_ns: int
    longest: str  # where most waiting is at first sight
    ends: tuple[tuple[str, int], ...]  # where waits end, the most first


@dataclass(frozen=True, slots=True)
class ResourceTable:
    blamed: tuple[Blamed, ...]
    resources: tuple[ResourceRow, ...]
    tasks: tuple[ResourceRow, ...]
    wakers: WakerGraph | None
    span_ns: int
    events: int
    withheld: bool  # too many events were lost: no verdicts
    thresholds: str  # whose
    notes: tuple[str, ...]
