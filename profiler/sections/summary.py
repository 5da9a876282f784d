"""What was recorded: engines, models, processes, phases and latencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
