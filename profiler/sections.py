"""What the analyzers hand to the viewers: frozen dataclasses, nothing else. Units are in the field names.

Operator-level figures are measured on the graph executions that lay wholly inside op or thread windows and scaled to
the whole recording, phase by phase; `Coverage` says from how much. An analyzer that lacks its input, or fails, yields
an `Outcome` that says so instead of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flowprof.profiler.findings import Finding


@dataclass(frozen=True, slots=True)
class Outcome:
    """One analyzer's result: its section when `status` is "ok", else the reason why there is none."""

    name: str
    title: str
    status: Literal["ok", "skipped", "failed"]
    reason: str = ""
    value: Any = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """From how much of a phase its operator-level figures were made, and the factors that scale them up."""

    phase: str
    graphs: int
    graphs_measured: int
    tokens: int
    tokens_measured: int
    total_ns: int  # time inside all graph executions of the phase
    measured_ns: int  # inside the measured ones
    time_weight: float  # total_ns / measured_ns: times are scaled by it
    count_weight: float  # graphs / graphs_measured: calls are scaled by it


# ---------------------------------------------------------------------- summary


@dataclass(frozen=True, slots=True)
class Module:
    path: str
    engine: str
    engine_version: str
    build_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Model:
    architecture: str
    parameters: int | None
    layers: int | None
    embedding: int | None
    vocabulary: int | None
    experts: int | None
    weight_bytes: int | None
    weight_types: str


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    exe: str
    cmdline: str
    cpus_allowed: int | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """All graph executions of one phase. Latency figures are None where they have no meaning."""

    phase: str
    tokens: int
    graphs: int
    total_ns: int  # inside graph executions
    tokens_per_s: float | None  # tokens / total_ns: the engine's own speed, without the waits between graphs
    graph_p50_ns: float | None
    graph_p99_ns: float | None
    share: float  # of the time inside all graph executions


@dataclass(frozen=True, slots=True)
class Latency:
    """What a user of the model sees. TTFT from the server's requests, or else from prefill graphs (`ttft_source`)."""

    tpot_p50_ns: float | None  # end of one decode step to the end of the next, without pauses between requests
    tpot_p99_ns: float | None
    tpot_count: int
    ttft_p50_ns: float | None
    ttft_p99_ns: float | None
    ttft_count: int
    ttft_source: Literal["requests", "graphs", ""]


@dataclass(frozen=True, slots=True)
class Summary:
    duration_ns: int
    busy_ns: int  # inside graph executions
    graphs: int
    tokens: int
    operators_recorded: int
    unfinished_graphs: int  # seen to begin, not to end
    phases: tuple[Phase, ...]
    latency: Latency
    modules: tuple[Module, ...]
    models: tuple[Model, ...]
    processes: tuple[Process, ...]
    notes: tuple[str, ...]  # what happened to the target or the recorder


# ---------------------------------------------------------------------- operators, layers, blocks


@dataclass(frozen=True, slots=True)
class OperatorRow:
    op: str
    block: str
    phase: str
    calls: int  # scaled to the whole recording
    total_ns: int  # scaled
    share: float  # of the phase's time inside graphs
    p50_ns: float  # of one call, wall time on the first thread, measured
    p99_ns: float
    measured_calls: int
    measured_ns: int
    ns_per_token: float | None
    top_tensor: str  # the slowest tensor of the group
    top_tensor_ns: float  # its mean call


@dataclass(frozen=True, slots=True)
class OperatorTable:
    rows: tuple[OperatorRow, ...]  # by phase, then by time
    coverage: tuple[Coverage, ...]
    unattributed: tuple[tuple[str, float], ...]  # phase, share of the measured graphs' time outside operators


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The time of a layer or block, per graph execution and in all."""

    group: str  # layer number or block
    phase: str
    total_ns: int  # scaled
    share: float  # of the phase's time inside graphs
    p50_ns: float  # per graph execution, measured
    p99_ns: float
    ns_per_token: float | None


@dataclass(frozen=True, slots=True)
class LayerTable:
    rows: tuple[GroupRow, ...]  # by phase, then by layer
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True, slots=True)
class BlockTable:
    rows: tuple[GroupRow, ...]
    coverage: tuple[Coverage, ...]


# ---------------------------------------------------------------------- threads


@dataclass(frozen=True, slots=True)
class ThreadRow:
    tid: int
    ith: int
    comm: str
    phase: str
    operators: int  # measured
    compute_ns: int  # measured, in thread windows
    wait_ns: int  # at barriers, measured
    wait_share: float  # of compute + wait
    compute_ns_per_token: float | None
    wait_ns_per_token: float | None


@dataclass(frozen=True, slots=True)
class ThreadTable:
    rows: tuple[ThreadRow, ...]
    coverage: tuple[Coverage, ...]  # thread windows only


# ---------------------------------------------------------------------- honesty


@dataclass(frozen=True, slots=True)
class LevelCost:
    """A level's slow-down of decode, measured against the token windows around its own."""

    level: str
    ratio: float | None  # 1.01: one per cent slower; None: not measurable
    ci95: tuple[float, float] | None
    windows: int  # deep windows with a shallow neighbour
    tokens: int  # decode steps in them
    time_share: float  # of the recorded windows' time
    reason: str  # why not measurable


@dataclass(frozen=True, slots=True)
class Overhead:
    ratio: float | None  # of the whole recording: 1 + sum over levels of (ratio - 1) × time_share
    ci95: tuple[float, float] | None
    windows: int
    reason: str
    levels: tuple[LevelCost, ...]
    modelled_cpu_ns: float | None  # hits × measured cost of one hit, over all threads; never mixed with the measured
    modelled_ratio: float | None  # 1 + modelled_cpu_ns / (time inside graphs × threads)
    hits: int
    cost_per_hit_ns: tuple[tuple[str, float], ...]  # by cost class


@dataclass(frozen=True, slots=True)
class Losses:
    total: int
    recorded: int  # operator and graph events that are there
    share: float  # total / (total + recorded)
    limit: float  # above it verdicts are withheld
    withheld: bool
    by_place: tuple[tuple[str, int, str], ...]  # place, events, what helps
    windows: int  # windows in which something was lost


# ---------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class RequestRow:
    task_id: int
    slot: int | None
    posted_ns: int | None  # since the recording began
    ttft_ns: int | None
    dur_ns: int | None
    results: int


@dataclass(frozen=True, slots=True)
class RequestTable:
    rows: tuple[RequestRow, ...]  # the first MAX_ROWS by time
    count: int
    finished: int
    ttft_p50_ns: float | None
    ttft_p99_ns: float | None
    dur_p50_ns: float | None
    dur_p99_ns: float | None
    most_at_once: int  # requests posted and not yet answered


# ---------------------------------------------------------------------- the way the recording was made


@dataclass(frozen=True, slots=True)
class Site:
    probe: str
    level: str
    kind: str
    symbol: str
    instruction: str
    cost_class: str
    status: str
    reason: str
    hits: int | None
    cost_ns: float | None


@dataclass(frozen=True, slots=True)
class Window:
    window_id: int
    level: str
    start_ns: int  # since the recording began
    dur_ns: int
    graphs: int
    tokens: int
    losses: int


@dataclass(frozen=True, slots=True)
class Probes:
    sites: tuple[Site, ...]
    windows: tuple[Window, ...]  # the first MAX_WINDOWS
    window_count: int
    time_ns_by_level: tuple[tuple[str, int], ...]
