"""What was not recorded, counted where it happened, and what helps.

Above 1 % of all events (`LIMIT`) the report's verdicts are withheld: what is missing is rarely missing evenly.
"""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import Analyzer, Result
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections import Losses
from flowprof.profiler.store import Recording

LIMIT = 0.01
HELP = {
    "ring": "the reader was too slow: a lower --overhead-budget, fewer --levels, or a free processor",
    "thread_table": "more threads than the probes keep state for: record fewer processes at a time",
    "undescribed_graph": "a graph was freed before it was read: it is counted, its operators are not known",
    "unmatched_op": "an operator outside a known graph execution: normal at the edges of a window",
    "max_events": "the recording reached --max-events: raise it or record a shorter time",
}
PLACE_SQL = "SELECT place, events FROM loss_by_place WHERE events > 0 ORDER BY events DESC, place LIMIT 50"
COUNT_SQL = """
SELECT (SELECT count(*) FROM op_exec) + (SELECT count(*) FROM graph_exec),
       (SELECT count(*) FROM probe_window WHERE losses > 0)
"""


def analyze(recording: Recording) -> Result:
    places = tuple((str(place), int(events), HELP.get(place, "")) for place, events in recording.rows(PLACE_SQL))
    recorded, windows = recording.rows(COUNT_SQL)[0]
    total = sum(events for _, events, _ in places)
    share = total / (total + recorded) if total else 0.0
    losses = Losses(total, recorded, share, LIMIT, share > LIMIT, places, windows)
    return Result(losses, (_withheld(losses),) if losses.withheld else ())


def _withheld(losses: Losses) -> Finding:
    return Finding(
        id="losses.withheld",
        claim=f"{losses.share * 100:.1f} % of the events were lost: verdicts are withheld",
        phase="",
        cost_ns_per_token=None,
        confidence="high",
        evidence=tuple(f"{events} at {place}" for place, events, _ in losses.by_place[:5]),
        advice=next((text for _, _, text in losses.by_place if text), "Record again with fewer levels."),
        severity="problem",
    )


ANALYZER = Analyzer("losses", "Losses", (), analyze)
