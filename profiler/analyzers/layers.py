"""Time by layer, per graph execution and in all, by phase. Measured and scaled as in operators.py."""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import GRAPHS, OPERATORS, Analyzer, Result
from flowprof.profiler.analyzers.groups import group_rows
from flowprof.profiler.sections.groups import LayerTable
from flowprof.profiler.store import Recording


def analyze(recording: Recording) -> Result:
    rows, covered = group_rows(recording, "layers.sql", nothing="outside the layers")
    return Result(LayerTable(rows, covered))


ANALYZER = Analyzer("layers", "Layers", (GRAPHS, OPERATORS), analyze)
