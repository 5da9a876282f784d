"""Which experts tokens used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """One layer's experts in one phase, from the graph executions whose ids were read."""

    pid: int
    phase: str
    layer: int | None
    experts: int  # that there are
    used: int  # by one token
    executions: int
    tokens: int
    counts: tuple[int, ...]  # uses of expert 0, 1, …: the heat map's row
    entropy_bits: float
    entropy_share: float  # of log2(experts): 1 is uniform
    imbalance: float  # uses of the busiest / mean
    top_share: float  # of the uses, by the busiest quarter of the experts
    p_uniform: float | None  # of such counts if every expert were as likely; None: too few tokens to say
    distinct: float | None  # different experts per execution; None: of no execution were all ids read
    distinct_uniform: float | None  # expected of the same executions under uniform routing
    touched: int  # different experts over the recording
    expert_bytes: float  # one expert, all its matrices
    bytes_per_token: float | None  # distinct × expert_bytes, over the tokens of an execution
    reuse_p50: float | None  # tokens until the same expert is used again
    reuse_p90: float | None
    hold_share: float | None  # of the experts: those used in the last reuse_p90 tokens, on average; uniform: about 0.9


@dataclass(frozen=True, slots=True)
class ExpertPhase:
    """A phase's layers together; shares are means over the layers."""

    phase: str
    layers: int
    executions: int  # with experts read
    graphs: int  # of the phase
    tokens: int
    entropy_share: float
    imbalance: float  # median of the layers
    uneven_layers: int  # few experts take most, and not by chance
    distinct: float | None  # per execution and layer
    distinct_uniform: float | None
    touched_share: float  # of the experts' bytes, over the recording
    read_share: float | None  # of the experts' bytes, per execution
    bytes_per_token: float | None  # all layers
    reuse_p50: float | None  # median of the layers
    reuse_p90: float | None
    hold_share: float | None


@dataclass(frozen=True, slots=True)
class ExpertTable:
    phases: tuple[ExpertPhase, ...]  # by the phase's time
    layers: tuple[ExpertLayer, ...]  # by phase, then by layer
    lost_ids: int  # not read
