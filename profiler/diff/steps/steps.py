"""What is compared: the steps of each phase, each with the time of every group of like work in it.

A step is what a user counts: one execution of a decode graph (its tokens pass through together), one of a prefill
graph, one iteration of a torch program. A source (of_*.py) reads one kind of engine's steps out of a recording.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from flowprof.profiler.diff.result import Part, RowKind
from numpy.typing import NDArray

NEXT_TOKEN, FIRST_TOKEN, QUEUE = "inter-token latency", "time to first token", "queue"
REQUESTS = (NEXT_TOKEN, FIRST_TOKEN, QUEUE)  # phases of what clients wait for: no work of their own, no operators
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_OF_EVERY_STEP = ("all_start_ns", "all_tokens", "all_ns", "all_context", "all_cells", "all_level", "all_gap_ns")


@dataclass(frozen=True, slots=True)
class Group:
    """Like work: the key by which two sides are aligned. `tensor`: the name without the layer's number; "" unnamed."""

    kind: RowKind
    phase: str
    block: str
    op: str
    tensor: str
    shape: str
    layer: int | None = None  # None: all layers added up, or outside of them


@dataclass(slots=True)
class GroupFacts:
    """What is known of a group besides its time; per token of the phase, None: not known."""

    flops: float | None = None
    bytes: float | None = None
    calls: float | None = None
    context: float | None = None  # rows of the KV cache that it read, mean
    grows: bool = False  # with the context: it reads the cache, or its FLOPs or bytes differ between graphs that do
    parts: dict[Part, float] = field(default_factory=dict)
    order: int = 0  # its place in a step: where like work of the other side is looked for


@dataclass(frozen=True, slots=True)
class Steps:
    """One phase of one recording, in the order of time. Shapes: steps n, groups g.

    `ns` holds only steps whose groups were measured; `wall_ns` of a step is the sum of its row and what no group
    explains is a group of its own (kind unattributed), so groups add up to the step.
    """

    phase: str
    start_ns: Ints  # (n,)
    tokens: Ints  # (n,) at least 1
    groups: tuple[Group, ...]
    ns: Floats  # (n, g)
    facts: tuple[GroupFacts, ...]  # one per group
    layers: dict[Group, tuple[tuple[int, ...], Floats]] = field(default_factory=dict)  # → layers l, ns (n, l)
    all_start_ns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # every step, measured or not
    all_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    all_ns: Floats = field(default_factory=lambda: np.zeros(0))  # end to end
    all_context: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # rows of the KV cache; 0 unknown
    all_cells: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # of these, filled and read; 0, (0,) unknown
    place: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (n,) of measured steps in all_…; (0,) unknown
    all_level: Ints = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )  # how deeply probed: levels.py; (0,): all alike
    all_gap_ns: Floats = field(default_factory=lambda: np.zeros(0))  # of all_ns, before the graph; (0,): not in it
    pause_ns: Floats = field(default_factory=lambda: np.zeros(0))  # (k,) long gaps that were left out, and may be ours
    graphs_left_out: int = 0  # too large: their steps are not measured
    per: str = "token"  # what times are divided by: token, step (an iteration), operator (no iterations were found)
    what: str = ""  # one sentence: what was taken as a step; "" where the engine says it itself


def end_to_end(steps: Steps, which: slice | np.ndarray) -> Steps:
    """The same with some of all steps, end to end; the measured ones as they are."""
    told = {name: getattr(steps, name) for name in _OF_EVERY_STEP}
    return replace(steps, **{name: each[which] if len(each) else each for name, each in told.items()})
