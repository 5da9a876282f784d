"""From how much of a recording a section's figures were made."""

from __future__ import annotations

from dataclasses import dataclass


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
