"""What the parts of a recorder share: what was asked for, who is recorded, and what is queued for the recording.

Data only. Who does what with it: recorder.py is the loop; probe_windows.py opens and closes windows; intake.py takes
and decodes events; live_graphs.py describes graphs; follow.py looks after the targets; writer.py writes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.cuda.device_calls import DeviceCalls
from flowprof.profiler.ggml.graphs import GraphBook
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.planning.plan import Plan
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.record.batch import Batch
from flowprof.profiler.record.calls import Calls
from flowprof.profiler.record.counters import ThreadCounters
from flowprof.profiler.record.decode import Decoder, Window
from flowprof.profiler.record.options import Options
from flowprof.profiler.record.quota import QuotaCounts
from flowprof.profiler.record.requests import Requests
from flowprof.profiler.record.schedule import Schedule
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.resources.events import ResourceEvents
from flowprof.profiler.store import Recording
from flowprof.profiler.target import Target

ARGUMENTS_FACTOR = 2.0  # a hit of torch's probes, which read arguments, against the plain hit that is measured at the
# start: a call, which is two hits, took 4.5 to 5.5 µs where a plain hit took 1.2 µs (tests/benchmarks/bench_torch.py)
BATCH_FACTOR = 7.0  # the same of llama.cpp's batches, whose parts are read: the kernel counted 7 µs a run with four
# sequences in it, where a plain hit takes 1.1 µs; and 0.2 µs per token of a prompt where all slots share one KV cache


_FACTORS = {"torch": ARGUMENTS_FACTOR, "llama.cpp": BATCH_FACTOR}


@dataclass(slots=True)
class Progress:
    """Where the recording stands. tokens: rows of logits computed, that is tokens generated."""

    elapsed_s: float = 0.0
    events: int = 0
    tokens: int = 0
    graphs: int = 0
    lost: int = 0
    tokens_per_s: float = 0.0
    level: str = ""
    ended_because: str = ""
    first_event_s: float | None = None


@dataclass(slots=True)
class Process:
    """One target while it is recorded."""

    target: Target
    pidfd: int
    book: GraphBook
    decoder: Decoder
    requests: Requests
    calls: Calls
    device: DeviceCalls
    schedule: Schedule
    counters: ThreadCounters
    quota: QuotaCounts
    seen: set[tuple[int, int]]  # (inode, start) of every executable mapping looked at
    sites: list[PlannedSite]
    pending: list[np.ndarray] = field(default_factory=list)
    pending_calls: list[np.ndarray] = field(default_factory=list)
    engine_versions: dict[str, str] = field(default_factory=dict)
    threads: dict[int, int] = field(default_factory=dict)
    placed: int = 0  # operators that are nodes of a described graph
    strangers: int = 0  # operators that are not
    distrusted: bool = False
    experts: tuple[int, ...] | None = None  # where its programs find the ids of the experts
    experts_refused: bool = False
    code: bytes = b""  # its executable mappings when they were looked at last
    code_size: bytes = b""  # likewise, and when that was: time.monotonic()
    code_read: float = 0.0
    ended_ns: int | None = None


@dataclass(slots=True)
class Session:
    """One recording under way."""

    options: Options
    plan: Plan
    recording: Recording
    probes: ProbesInPlace
    sites: list[PlannedSite]
    resources: ResourceEvents
    stacks: Stacks
    pending_resources: list[np.ndarray] = field(default_factory=list)
    sched_sites: dict[str, int] = field(default_factory=dict)  # id of a kernel event → site number
    processes: dict[int, Process] = field(default_factory=dict)  # by pid
    windows: list[Window] = field(default_factory=list)  # by start, gapless; the last one may be open
    batch: Batch = field(default_factory=Batch)
    known_args: dict[int, int] = field(default_factory=dict)  # args_id of what is in api_args, by its hash
    cost_ns: dict[str, float] = field(default_factory=dict)  # of a probe hit, by cost class
    progress: Progress = field(default_factory=Progress)
    began: float = 0.0  # time.monotonic()
    end_ns: int | None = None  # when the probes were about to be detached
    stopped: str = ""  # why the recording ends

    def stop(self, why: str) -> None:
        """End the recording at the next turn of the loop."""
        self.stopped = self.stopped or why

    def hit_cost_ns(self, site: PlannedSite) -> float | None:
        """What a hit of this site costs; None: not measured."""
        cost = self.cost_ns.get(site.cost_class)
        return None if cost is None else _FACTORS.get(site.engine, 1.0) * cost

    def next_site(self) -> int:
        """The first number that no probe site has."""
        return max((*(s.site_id for s in self.sites), *self.sched_sites.values()), default=0) + 1

    def hits_since(self, before: np.ndarray) -> np.ndarray:
        """Hits per site since they were `before`; sites of libraries that were loaded since had none then."""
        hits = self.probes.site_hits(self.next_site())
        hits[: len(before)] -= before
        return hits

    def note(self, pid: int, what: str, detail: str) -> None:
        """Table `event_note`: something happened to a target or to the recorder."""
        self.batch.put("event_note", {"at_ns": [now_ns()], "pid": [pid], "what": [what], "detail": [detail]})


def now_ns() -> int:
    """The clock of all events."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
