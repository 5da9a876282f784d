"""Waits for the server's batches and slots, as for any resource: from requests alone, without a manifest.

`batch`: a request's next token is overdue, while others' prompts are computed in the batches in which it decodes.
`slot`: a request is in the queue while others have the slots; a recording with the slots' own events (--resources
llama-server) has that from those. Both are those of the report (profiler/analyzers/request_blame.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from flowprof.profiler.analyzers.request_blame import ENGINE, named
from flowprof.profiler.analyzers.request_scene import Spans
from flowprof.profiler.analyzers.requests import SLOT_EVENTS_SQL, all_requests
from flowprof.profiler.diff.result import PhaseShift, ResourceShift
from flowprof.profiler.diff.steps.steps import NEXT_TOKEN, QUEUE, Ints
from flowprof.profiler.store import Recording

MIN_NS = 10e6  # of waiting: less is not worth a row
BATCH, SLOT = (ENGINE, "batch"), (ENGINE, "slot")  # manifest, resource
Stretches = tuple[Ints, Ints]  # from when, until when, ns


@dataclass(frozen=True, slots=True)
class Waited:
    """One resource in one recording. blamed: who had it while others waited → ns."""

    waits: Stretches
    held: Stretches
    blamed: dict[str, float] = field(default_factory=dict)

    @property
    def long(self) -> bool:
        """Whether there is waiting to speak of."""
        return bool((self.waits[1] - self.waits[0]).sum() >= MIN_NS)


def read(recording: Recording) -> dict[tuple[str, str], Waited]:
    """Empty without requests."""
    found = all_requests(recording)
    if not found.rows:
        return {}
    batch: dict[str, float] = defaultdict(float)
    slot: dict[str, float] = defaultdict(float)
    for row in found.rows:
        for delay in row.delayed_by:
            batch[named(delay.id, delay.slot)] += delay.decode_ns + delay.open_ns
            slot[named(delay.id, delay.slot)] += delay.queue_ns if row.held_ns else 0
    never = [row for row in found.rows if row.waiting_ns and row.posted_ns is not None]
    posted = np.array([found.scene.begin_ns + (row.posted_ns or 0) for row in never], np.int64)
    waiting = np.array([row.waiting_ns or 0 for row in never], np.int64)
    told = {
        BATCH: Waited(_of(found.scene.late), _of(found.scene.prompts, each=True), dict(batch)),
        SLOT: Waited(
            _joined((_of(found.scene.kept_out), (posted, posted + waiting))), _of(found.scene.slots), dict(slot)
        ),
    }
    if recording.rows(SLOT_EVENTS_SQL)[0][0]:
        del told[SLOT]
    return told


def agreeing(shifts: Sequence[ResourceShift], phases: Sequence[PhaseShift]) -> tuple[ResourceShift, ...]:
    """Batches and slots count as changed only where what requests wait for changed likewise: per token of all that is
    computed there is less waiting with longer prompts, and no request has less of it."""
    by_phase = {shift.phase: shift for shift in phases}
    found = []
    for one in shifts:
        phase = by_phase.get({BATCH[1]: NEXT_TOKEN, SLOT[1]: QUEUE}.get(one.resource, ""))
        more = (one.b_waiting_ns or 0.0) - (one.a_waiting_ns or 0.0)
        if phase is not None and not (phase.significant and phase.delta_ns_per_token * more > 0):
            one = replace(one, significant=False)
        found.append(one)
    return tuple(found)


def _of(spans: Spans, each: bool = False) -> Stretches:
    """As often as there are units; `each`: once, however many."""
    times = np.ones(len(spans.units), np.int64) if each else spans.units
    return np.repeat(spans.start_ns, times), np.repeat(spans.end_ns, times)


def _joined(parts: Sequence[Stretches]) -> Stretches:
    return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])
