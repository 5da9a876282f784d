"""What was not recorded, counted where it happened, and what helps.

* `losses.withheld`: more than 1 % of all events (`LIMIT`) were lost, and the report's verdicts are withheld: what is
  missing is rarely missing evenly. Ids of experts and events of the scheduler are listed but do not count in it: no
  operator is missing with them; nor do single values and stacks of resources, whose events are there. Graphs that
  were not described, and operators outside of known graphs, are no request's and no resource's events: these keep
  their verdicts unless other losses alone reach the limit. What is lost of the scheduler withholds findings on waits,
  at a limit of its own (scheduler_losses.py). Record again as the place of the loss advises, with fewer levels or a
  lower budget.
"""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import Analyzer, Result
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.store import Recording

LIMIT = 0.01
HELP = {
    "ring": "the reader was too slow: a lower --overhead-budget, fewer --levels, or a free processor",
    "thread_table": "more threads than the probes keep state for: record fewer processes at a time",
    "undescribed_graph": "a graph was freed before it was read: it is counted, its operators are not known",
    "unmatched_op": "an operator outside a known graph execution, whose begin was lost or which nobody described",
    "expert_ids": "the experts of some tokens were not read (batches above 4 096 tokens, a full ring): see the experts",
    "batch_tokens": "whose tokens a batch held was not read (over 4 224 parts, an unknown struct): see the requests",
    "requests": "more than 100 000 requests were open at once: those after them are missing from the requests",
    "passed_over": "the kernel skipped probes while one of ours was at work on that processor: waits may be incomplete",
    "unseen_return": "the kernel did not tell when a thread got a processor again: that wait is missing from the waits",
    "counters": "counters of some operators were thrown away: a switch of threads was not seen in them",
    "calls": "calls more than 32 deep in one another, or of more than 4 096 threads",
    "resource_value": "an expression of a manifest could not be read: look at its variables, unit, task and holder",
    "resource_instance": "of which resource an event is could not be read: look at its instance in the manifest",
    "resource_frame": "a function of a manifest more than 16 deep, or of over 4 096 threads: returns are missing",
    "stack": "more than 4 096 different stacks: events of the others have none; `stack = false` at some of them helps",
    "malformed_event": "events of the imported trace that could not be read: export it again",
    "max_events": "the recording reached --max-events: raise it or record a shorter time",
}
NO_OPERATORS = ("expert_ids", "batch_tokens", "passed_over", "unseen_return", "counters", "resource_value", "stack")
OPERATORS_ONLY = ("undescribed_graph", "unmatched_op")
PLACE_SQL = "SELECT place, events FROM loss_by_place WHERE events > 0 ORDER BY events DESC, place LIMIT 50"
COUNT_SQL = """
SELECT (SELECT count(*) FROM op_exec) + (SELECT count(*) FROM graph_exec)
       + (SELECT count(*) FROM api_call) + (SELECT count(*) FROM gpu_slice)
       + (SELECT count(*) FROM resource_event),
       (SELECT count(*) FROM probe_window WHERE losses > 0)
"""


def analyze(recording: Recording) -> Result:
    places = tuple((str(place), int(events), HELP.get(place, "")) for place, events in recording.rows(PLACE_SQL))
    recorded, windows = recording.rows(COUNT_SQL)[0]
    total = sum(events for _, events, _ in places)
    lost = total - sum(events for place, events, _ in places if place in NO_OPERATORS)
    other = lost - sum(events for place, events, _ in places if place in OPERATORS_ONLY)
    share, events_share = (some / (some + recorded) if some else 0.0 for some in (lost, other))
    losses = Losses(total, recorded, share, LIMIT, share > LIMIT, events_share > LIMIT, places, windows)
    return Result(losses, (_withheld(losses),) if losses.withheld else ())


def _withheld(losses: Losses) -> Finding:
    return Finding(
        id="losses.withheld",
        claim=f"{losses.share * 100:.1f} % of the events were lost: verdicts "
        f"{'' if losses.events_withheld else 'on operators '}are withheld",
        confidence="high",
        evidence=tuple(f"{events} at {place}" for place, events, _ in losses.by_place[:5]),
        advice=next((text for _, _, text in losses.by_place if text), "Record again with fewer levels."),
        severity="problem",
    )


ANALYZER = Analyzer("losses", "Losses", (), analyze)
