"""What was read of experts, added up once for all that ask: their uses are many. Part of experts.py and verdicts.py."""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.store import Recording


@once
def keep_reads(recording: Recording) -> None:
    """The view expert_read, a row per graph execution and layer, is read from memory from now on."""
    recording.keep("expert_read")
