"""The analyzers, in the order of the report. A new one is one file, one line here, one example and its findings."""

from __future__ import annotations

from flowprof.profiler.analyzers import (
    blocks,
    layers,
    losses,
    operators,
    overhead,
    probes,
    requests,
    summary,
    threads,
)
from flowprof.profiler.analyzers.contract import Analyzer

ANALYZERS: tuple[Analyzer, ...] = (
    summary.ANALYZER,
    operators.ANALYZER,
    layers.ANALYZER,
    blocks.ANALYZER,
    threads.ANALYZER,
    requests.ANALYZER,
    overhead.ANALYZER,
    losses.ANALYZER,
    probes.ANALYZER,
)
