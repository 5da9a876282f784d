"""What is known of both sides when causes are looked for."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.diff.result import Comparability, PhaseShift, ResourceShift, Row, VariableShift
from flowprof.profiler.diff.side import Pair
from flowprof.profiler.diff.steps.steps import Steps


@dataclass(frozen=True, slots=True)
class Compared:
    """Everything but the causes. `a_steps`, `b_steps`: one list of phases for each recording of the side."""

    pair: Pair
    a_steps: tuple[tuple[Steps, ...], ...]
    b_steps: tuple[tuple[Steps, ...], ...]
    comparability: Comparability
    phases: tuple[PhaseShift, ...]
    rows: tuple[Row, ...]
    resources: tuple[ResourceShift, ...]
    variables: tuple[VariableShift, ...]
