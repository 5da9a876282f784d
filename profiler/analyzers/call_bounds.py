"""What calls of one operator reach of their ceilings: the part that is the same on processors and on GPUs.

The floor of a call is the larger of FLOPs / GEMM peak of the data type and bytes / memory bandwidth. First yes wins:

 1. no shapes, no formula or no ceiling: unknown
 2. above 105 % of the ceiling: unknown, for the ceiling (or the data type's path, such as TF32) is wrong
 3. 40 % of it or more: bound by compute or memory, whichever term is larger (tuned GEMMs reach 60–80 %, streams
    80–95 %)
 4. less: not bound by either; what else it is depends on where it ran
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.machine.ceilings import Ceiling, Ceilings, What
from flowprof.profiler.torch.costs import Cost

REACHED, WRONG = 0.4, 1.05


@dataclass(frozen=True, slots=True)
class Held:
    """bound: "" when neither ceiling bounds it; share: floor / time; used: the ceilings that it was held against."""

    bound: Literal["compute", "memory", "unknown", ""]
    ceiling: str = ""  # "gemm f32", "dram_read", or "" where there is none
    share: float | None = None
    evidence: tuple[str, ...] = ()
    used: tuple[Ceiling, ...] = ()


def held_against(
    ceilings: Ceilings | None, threads: int, memory: What, cost: Cost | None, calls: int, total_ns: int
) -> Held:
    """`calls` calls that took `total_ns`, with `cost` each. memory: the ceiling of what serves the bytes."""
    if cost is None:
        return Held("unknown", evidence=("no shapes, or no formula for this operator",))
    if ceilings is None or total_ns <= 0:
        return Held("unknown", evidence=("no ceiling to compare with",))
    bandwidth = ceilings.get(memory, threads)
    peak = ceilings.get("gemm", threads, cost.path) if cost.path else None
    if bandwidth is None or (cost.path and peak is None):
        return Held("unknown", evidence=(f"no ceiling for {cost.path or 'memory'}",))
    moving = cost.size_bytes / bandwidth.value * 1e9 * calls
    computing = cost.flops / peak.value * 1e9 * calls if peak else 0.0
    share = max(moving, computing) / total_ns
    limit: Literal["compute", "memory"] = "compute" if computing > moving else "memory"
    ceiling = f"gemm {cost.path}" if limit == "compute" else memory
    on = f" ({threads} thread{'' if threads == 1 else 's'})" if threads else ""
    said = (f"{share * 100:.0f} % of {ceiling}{on}", f"{calls} calls, {total_ns / calls / 1e3:.1f} µs a call")
    used = (bandwidth,) if peak is None else (bandwidth, peak)
    if share > WRONG:
        why = f"above the ceiling: served by a nearer cache, or another arithmetic path than {cost.path or 'DRAM'}"
        return Held("unknown", ceiling, share, (*said, why), used)
    return Held(limit if share >= REACHED else "", ceiling, share, said, used)
