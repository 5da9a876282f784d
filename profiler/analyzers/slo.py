"""Service level objectives (`report --slo`): attainment, goodput and slack of every tier.

A request attains a tier when all that the tier asks for is known and kept. What is not known never counts as kept:
requests posted before the recording have no time to first token, those with one token, and those that still run at the
end, have no time per token; what still waits for its first token at the end has missed it when that is too late
already, and is unknown else. Attainment is of all
requests of the tier, goodput is what attained it by the recording's duration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.analyzers.contract import REQUESTS, Analyzer, Result
from flowprof.profiler.analyzers.requests import all_requests
from flowprof.profiler.sections.requests import RequestRow
from flowprof.profiler.sections.slo import Objective, SloTable, Tier
from flowprof.profiler.slo import Slo
from flowprof.profiler.store import Recording

SPAN_SQL = "SELECT min(start_ns), max(end_ns) FROM probe_window"
Verdict = bool | None  # kept, missed, unknown


def analyzer(tiers: Sequence[Slo]) -> Analyzer:
    """The analyzer of these tiers."""
    return Analyzer("slo", "Service level objectives", (REQUESTS,), lambda recording: _analyze(recording, tiers))


def _analyze(recording: Recording, tiers: Sequence[Slo]) -> Result:
    start, end = recording.rows(SPAN_SQL)[0]
    duration = int(end - start) if start is not None and end is not None and end > start else None
    rows = all_requests(recording).rows
    return Result(SloTable(tuple(_tier(tier, rows, duration) for tier in tiers), duration))


def _tier(tier: Slo, rows: Sequence[RequestRow], duration_ns: int | None) -> Tier:
    bounded = tier.prompt_min is not None or tier.prompt_max is not None
    mine = [row for row in rows if not bounded or (row.prompt_tokens is not None and _within(tier, row.prompt_tokens))]
    unplaced = sum(row.prompt_tokens is None for row in rows) if bounded else 0
    judged: list[list[Verdict]] = [[] for _ in mine]
    objectives = []
    for name, limit in (("ttft", tier.ttft_ns), ("tpot", tier.tpot_ns)):
        if limit is not None:
            values = [_ttft(row, duration_ns) if name == "ttft" else _tpot(row) for row in mine]
            verdicts = [_verdict(value, final, limit) for value, final in values]
            for verdict, so_far in zip(verdicts, judged, strict=True):
                so_far.append(verdict)
            slack = np.array([limit - value for value, final in values if value is not None and final])
            objectives.append(Objective(
                name, limit, verdicts.count(True), verdicts.count(False), verdicts.count(None),
                float(np.median(slack)) if len(slack) else None, float(slack.min()) if len(slack) else None,
            ))  # fmt: skip
    attained = [row for row, verdicts in zip(mine, judged, strict=True) if all(verdicts)]
    missed = sum(False in verdicts for verdicts in judged)
    seconds = duration_ns / 1e9 if duration_ns else None
    return Tier(
        tier.name, tier.text, len(mine), len(attained), missed, len(mine) - len(attained) - missed, unplaced,
        len(attained) / len(mine) if mine else None,
        len(attained) / seconds if seconds else None,
        sum(row.tokens or 0 for row in attained) / seconds if seconds else None,
        tuple(objectives),
    )  # fmt: skip


def _within(tier: Slo, tokens: int) -> bool:
    return (tier.prompt_min is None or tokens >= tier.prompt_min) and (
        tier.prompt_max is None or tokens <= tier.prompt_max
    )


def _ttft(row: RequestRow, duration_ns: int | None) -> tuple[float | None, bool]:
    """The value, and whether it is final or only what has passed so far."""
    if row.ttft_ns is not None:
        return row.ttft_ns, True
    if row.posted_ns is None or row.dur_ns is not None or row.tokens or duration_ns is None:
        return None, False  # it has an answer, but not when the first token came
    return duration_ns - row.posted_ns, False


def _tpot(row: RequestRow) -> tuple[float | None, bool]:
    """The same. The mean of one that still runs can yet fall, and of one that ran before us it is of a part."""
    return (row.itl_mean_ns, True) if row.finished and row.posted_ns is not None else (None, False)


def _verdict(value: float | None, final: bool, limit: float) -> Verdict:
    if value is None:
        return None
    if final:
        return value <= limit
    return None if value <= limit else False
