"""Requests of a server."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.sections.resources import Blamed


@dataclass(frozen=True, slots=True)
class Delay:
    """What one request lost to another one, ns."""

    id: int | None  # the other's task id; None: it had its slot before the recording, and until its end
    queue_ns: int  # its slot was taken, or the loop was busy with the other's tokens
    prefill_ns: int  # the other's tokens in the batches of its prompt
    decode_ns: int  # the other's prompt between its tokens
    slot: int | None = None  # the other's
    open_ns: int = 0  # the same in a step that was under way when the recording ended: at least

    @property
    def total_ns(self) -> int:
        """Of all phases."""
        return self.queue_ns + self.prefill_ns + self.decode_ns + self.open_ns


@dataclass(frozen=True, slots=True)
class RequestOperator:
    """An operator's part of a request's graphs of a phase, as far as their operators were measured."""

    phase: str  # of the graphs: prefill, decode, mixed, other
    op: str
    block: str  # attention, ffn, moe, output, other
    ns: float  # of a graph that several share, the request's share of the tokens
    share: float  # of the operators' time in these graphs
    graphs: int  # measured ones
    of_graphs: int  # of so many of the request in that phase


@dataclass(frozen=True, slots=True)
class RequestRow:
    """Times in ns. None: not known, as it lies outside the recording or the build does not show it."""

    task_id: int | None  # None: see Delay.id
    slot: int | None
    posted_ns: int | None  # since the recording began
    ttft_ns: int | None
    dur_ns: int | None
    results: int
    pid: int = 0
    queue_ns: int | None = None  # until it had a slot
    prefill_ns: int | None = None  # from there to its first token
    decode_ns: int | None = None  # from the first to the last token
    prompt_tokens: int | None = None  # that were computed: what the cache held is not among them
    tokens: int | None = None  # generated
    first_seen_ns: int | None = None  # when the first of these came, since the recording began
    itl_mean_ns: float | None = None  # inter-token latency
    itl_p50_ns: float | None = None
    itl_p95_ns: float | None = None
    itl_max_ns: int | None = None
    delayed_ns: int | None = None  # by all others together; None: no batches were recorded
    delayed_by: tuple[Delay, ...] = ()  # the worst MAX_DELAYS
    held_ns: int = 0  # of the queue: no slot was free for it
    disturbed_steps: int = 0  # between its tokens, with another's prompt in a batch
    longest_delay_ns: int = 0  # that such a step took longer
    baseline_ns: float | None = None  # what a step would have taken without; None: no step to compare with
    baseline: str = ""  # whose steps that is the median of: own, others'
    waiting_ns: int | None = None  # still in the queue when the recording ended: since when; None: it is not
    finished: bool = False  # answered, or its slot was released
    operators: tuple[RequestOperator, ...] = ()  # those with most time, three of a phase; none: no graph was measured


@dataclass(frozen=True, slots=True)
class KvPoint:
    at_ns: int  # since the recording began
    cells: int
    idle: int = 0  # of them: of slots that no request has


@dataclass(frozen=True, slots=True)
class KvCache:
    """Cells in use, by the positions of the tokens in the batches. A slot may keep them when its request is over."""

    pid: int
    points: tuple[KvPoint, ...]  # at most MAX_POINTS, each the highest of its stretch
    peak_cells: int
    capacity: int | None  # cells of all slots; None: no graph with a cache was described


@dataclass(frozen=True, slots=True)
class RequestTable:
    rows: tuple[RequestRow, ...]  # the first MAX_ROWS by time
    count: int
    finished: int
    ttft_p50_ns: float | None
    ttft_p99_ns: float | None
    dur_p50_ns: float | None
    dur_p99_ns: float | None
    most_at_once: int  # requests posted and not yet answered
    queue_p50_ns: float | None = None
    queue_p99_ns: float | None = None
    slots: int = 0  # different ones that were seen at work
    delays: str = ""  # why it is not known who delayed whom; "" when it is
    kv: tuple[KvCache, ...] = ()
    blamed: tuple[Blamed, ...] = ()  # the batch and the slots, as resources
