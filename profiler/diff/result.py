"""What a diff says: the types that viewers and `--json` read. `a` is the normal side, `b` the other one.

Times are ns per token of the phase unless a name says otherwise (torch: per step). A delta is b - a: positive is
slower. `ci95` is a 95 % interval of the delta; `q` the p of a Mann-Whitney test over blocks of neighbouring steps,
adjusted as Benjamini and Hochberg do; None: not tested, too few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from flowprof.profiler.findings import Confidence

Interval = tuple[float, float]
Verdict = Literal["slower", "faster", "same", "not comparable", "not enough data"]
Sameness = Literal["same", "different", "unknown"]
Comparable = Literal["comparable", "comparable per token", "not comparable"]
RowKind = Literal["operator", "between", "torch", "kernel", "unattributed"]
Part = Literal["work", "barrier", "runnable", "blocked", "fault"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact about the two sides. `weight`: 0 tells nothing about speed … 1 forbids a comparison."""

    what: str  # model, quantisation, engine build, threads, machine, phase mix …
    sameness: Sameness
    a: str  # in words; "" unknown
    b: str
    weight: float
    why: str  # what follows from it; "" where it is the same


@dataclass(frozen=True, slots=True)
class Comparability:
    verdict: Comparable
    score: float  # 1: nothing differs; 1 - the weights of what does, not below 0
    differences: tuple[Difference, ...]  # those that differ first, then unknown, then the same
    normalisation: str  # the sentence that says what times are divided by, and why


@dataclass(frozen=True, slots=True)
class PhaseShift:
    """A whole phase, end to end."""

    phase: str
    a_tokens: int
    b_tokens: int
    a_ns_per_token: float
    b_ns_per_token: float
    delta_ns_per_token: float
    ci95: Interval | None
    q: float | None
    noise_ns_per_token: float | None  # a delta below this is noise; None: too few steps to know
    significant: bool
    a_tail_ns: float | None  # p95 of a step per token
    b_tail_ns: float | None
    tail_q: float | None
    tail_significant: bool
    tail_delta_ns: float | None = None  # more time per token in steps above a's p95; None: not tested
    contexts_apart: bool = False  # the sides read contexts of different lengths
    equal: PhaseShift | None = None  # then: at contexts that both have, as many steps of each; None: they have none
    per: str = "token"  # what ns_per_token is per: token; step (an iteration of a torch program); operator
    what: tuple[str, str] = (
        "",
        "",
    )  # what was taken as a step in a and b, one sentence; "" as the engine says it itself


@dataclass(frozen=True, slots=True)
class PartShift:
    """How much of a row's time is one part of it, in ns per token; None: not recorded on that side."""

    part: Part
    a_ns: float | None
    b_ns: float | None


@dataclass(frozen=True, slots=True)
class LayerShift:
    """A row's time in one layer, in ns per token; None: that side's group is not in the layer."""

    layer: int
    a_ns: float | None
    b_ns: float | None


@dataclass(frozen=True, slots=True)
class AtContext:
    """A row at contexts that both sides have, as many steps of each; times as those of Row."""

    contexts: tuple[int, int]  # rows of the KV cache, from … to
    steps: tuple[int, int]  # so many on either side
    a_ns_per_token: float
    b_ns_per_token: float
    delta_ns_per_token: float
    ci95: Interval | None
    q: float | None
    noise_ns_per_token: float | None
    significant: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A group of like work on both sides, or on one (the other's time is None). A phase's rows add up to its change."""

    kind: RowKind
    name: str  # as shown: block op tensor shape, in the words of the field
    phase: str
    block: str
    op: str
    shape: str  # of a; of b where a has none
    b_shape: str  # where it differs, else ""
    a_ns_per_token: float | None
    b_ns_per_token: float | None
    delta_ns_per_token: float  # its contribution to the phase's change
    ci95: Interval | None
    shift_ns_per_token: float | None  # Hodges-Lehmann over blocks of steps
    shift_ci95: Interval | None
    q: float | None
    noise_ns_per_token: float | None
    significant: bool
    a_tail_ns: float | None  # p95 over steps, per token
    b_tail_ns: float | None
    tail_q: float | None
    tail_significant: bool
    layers: tuple[int, ...]  # those that changed, where not all did
    matched: str  # how the two were matched when not by name: "renamed: x → y", "fused: …"; "" by all of its key
    parts: tuple[PartShift, ...]
    flops: tuple[float | None, float | None]  # per token, a and b
    bytes: tuple[float | None, float | None]  # likewise
    calls_per_token: tuple[float | None, float | None]
    tensor: str = ""  # of a; of b where a has none; "" unnamed
    by_layer: tuple[LayerShift, ...] = ()  # each layer by itself, where there are several
    contexts_apart: bool = False  # its work grows with the context, and the sides read contexts of other lengths
    equal: AtContext | None = None  # then: at those that both have; None: they have none in common


@dataclass(frozen=True, slots=True)
class ResourceShift:
    """Waiting for a resource of the application, per token (or per second where there are no tokens: `per`)."""

    resource: str
    per: str  # token, s
    a_waiting_ns: float | None
    b_waiting_ns: float | None
    a_hold_ns: float | None
    b_hold_ns: float | None
    holder: str  # who held it in b while others waited; "" not known
    significant: bool


@dataclass(frozen=True, slots=True)
class VariableShift:
    """A sampled variable whose values differ."""

    name: str
    function: str  # where it was sampled, or which resource it belongs to
    source: str  # file:line; "" not known
    view: str  # value, delta, duration
    a_range: tuple[float, float]  # seen in the normal runs
    b_range: tuple[float, float]
    a_median: float
    b_median: float
    distance: float  # Hellinger, 0 alike … 1 nothing in common
    q: float
    since_ns: int | None  # since the recording began: first value outside of the normal range; None: not known
    cost_ns_per_token: float | None  # by which its function grew
    a_values: tuple[tuple[float, float], ...]  # value (a bin's middle), share; for the picture
    b_values: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ThreadShift:
    """A thread of the pool in thread windows, ns per token; None: that side has no such thread."""

    phase: str
    role: int  # its place in the pool; 0 drives the graph
    parts: tuple[PartShift, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """A claim about why."""

    claim: str
    kind: str  # threads, processors, context, quantisation, batch, paging, attention, resource, variable, machine …
    share: float | None  # of the change that it explains: 0 … 1 (it may be above 1 where another change hides part)
    confidence: Confidence
    evidence: tuple[str, ...]
    next: str  # what to check or do
    phase: str = ""


@dataclass(frozen=True, slots=True)
class SideFacts:
    """What a side is made of."""

    files: tuple[str, ...]
    engine: str
    model: str
    tokens: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Diff:
    verdict: Verdict
    headline: str  # one sentence
    a: SideFacts
    b: SideFacts
    comparability: Comparability
    phases: tuple[PhaseShift, ...]  # the first is the one that the headline is about
    rows: tuple[Row, ...]  # by phase as above, those that changed first, the largest contribution first
    resources: tuple[ResourceShift, ...]
    variables: tuple[VariableShift, ...]
    causes: tuple[Cause, ...]  # the likeliest first
    notes: tuple[str, ...]  # what could not be compared, and why
    changed_at_ns: int | None = None  # --self: since the recording began
    threads: tuple[ThreadShift, ...] = ()  # by phase and role
    halves: tuple[PhaseShift, ...] = ()  # --self, where nothing changed: before and after the likeliest point
