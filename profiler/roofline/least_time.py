"""The least time of an operator: its counted work over the ceilings of the machine (pure).

FLOPs over the GEMM peak of their instruction path, bytes over the read bandwidth of what serves them. The floor of a
call is the larger of the two; the larger term names the class. What is made of it: judgement.py.

What serves weights and the KV cache is decided by what a graph touches (the working set) against the last-level cache:
up to FITS of it the cache, from SPILLS times it DRAM, between them either; a rate above DRAM's then proves the cache.
Activations are the result of an operator just before: the cache, while they fit. Graphs of several models that take
turns evict each other's weights, which is not seen here.

Sources: floor and class as argmax, NanoFlow (arXiv 2408.12757); roofline: Williams, Waterman, Patterson, CACM 52(4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.machine.ceilings import Ceiling, Ceilings, What
from flowprof.profiler.roofline.costs import Cost

Served = Literal["DRAM", "cache", "cache or DRAM"]

FITS, SPILLS = 0.75, 2.0  # of the last-level cache
SMALL_BYTES = 1 << 20  # fits every last-level cache, when its size is not known
_CONVERTED = {"f16": "f32", "bf16": "f32", "": "f32"}  # without a peak of their own: multiplied as f32


@dataclass(frozen=True, slots=True)
class LastLevel:
    """The last-level caches of a machine. size: of one, bytes; None: not recorded. count: those in reach."""

    size: int | None
    count: int = 1

    def of(self, threads: int) -> int | None:
        """What so many threads have together, each working on its own part of the data, on a cache of its own first."""
        return None if self.size is None else self.size * max(1, min(self.count, threads))


def last_level(facts: Mapping[str, str]) -> LastLevel:
    """As a recording's meta table has it."""
    size, count = facts.get("llc_bytes", ""), facts.get("llc_count", "")
    known = size.isdecimal() and int(size) > 0
    return LastLevel(int(size) if known else None, int(count) if count.isdecimal() and int(count) > 0 else 1)


@dataclass(frozen=True, slots=True)
class Roof:
    """The ceilings for one graph: its number of threads, and what serves its weights."""

    ceilings: Ceilings
    threads: int
    llc_bytes: int | None  # of the last-level caches that the threads reach
    working_set: int  # weights and KV cache that one execution, or several in turn, touch

    def bandwidth(self, what: What) -> Ceiling | None:
        return self.ceilings.get(what, self.threads)

    def peak(self, path: str) -> Ceiling | None:
        """Of an instruction path; f16, bf16 and plain f32 vectors fall back on f32, int8 on nothing."""
        found = self.ceilings.get("gemm", self.threads, path) if path else None
        return found or self.ceilings.get("gemm", self.threads, _CONVERTED.get(path, path))

    def weights_from(self) -> Served:
        return served(self.working_set, self.llc_bytes)

    def activations_from(self, size: int) -> Served:
        if self.llc_bytes is None and size <= SMALL_BYTES:
            return "cache"
        return served(size, self.llc_bytes)


def served(working_set: int, llc_bytes: int | None) -> Served:
    """What serves data of which so much is touched between two uses."""
    if llc_bytes is None:
        return "cache or DRAM"
    if working_set <= FITS * llc_bytes:
        return "cache"
    return "DRAM" if working_set >= SPILLS * llc_bytes else "cache or DRAM"


@dataclass(frozen=True, slots=True)
class Terms:
    """Least times of one call (or of many, added), ns; None: no ceiling, or the work is not counted."""

    flops: float | None
    bytes: float
    compute_ns: float | None
    fast_ns: float | None  # memory, where unsure from the cache
    slow_ns: float | None  # memory, where unsure from DRAM
    near_ns: float | None  # memory, were all cached bytes in L2
    dram_ns: float  # part of slow_ns that comes from DRAM
    unsure: bool

    @property
    def floor_ns(self) -> float | None:
        """The larger of what is known: still a lower bound when one is not; that nothing is computed is no bound."""
        if self.fast_ns is None and not self.compute_ns:
            return None
        known = [term for term in (self.compute_ns, self.fast_ns) if term is not None]
        return max(known) if known else None


def terms(cost: Cost, roof: Roof) -> Terms:
    """The least times of one call."""
    peak = roof.peak(cost.path)
    compute = None
    if cost.flops is not None:
        compute = 0.0 if not cost.flops else cost.flops / peak.value * 1e9 if peak is not None else None
    far = cost.weight_bytes + from_cache(cost)
    near = cost.weight_bytes + cost.read_bytes + cost.write_bytes - far
    parts = [(far, roof.weights_from()), (near, roof.activations_from(near))]
    dram, llc, l2 = (roof.bandwidth(what) for what in ("dram_read", "llc_read", "l2_read"))
    fast = _memory(parts, dram, llc, unsure_from=llc)
    slow = _memory(parts, dram, llc, unsure_from=dram)
    nearest = _memory(parts, dram, l2, unsure_from=l2)
    from_dram = sum(size for size, place in parts if place != "cache")
    return Terms(
        flops=cost.flops,
        bytes=far + near,
        compute_ns=compute,
        fast_ns=fast,
        slow_ns=slow,
        near_ns=nearest,
        dram_ns=from_dram / dram.value * 1e9 if dram is not None else 0.0,
        unsure=any(size and place == "cache or DRAM" for size, place in parts),
    )


def from_cache(cost: Cost) -> int:
    """Bytes of the KV cache and of recurrent states, which are as far away as the weights.

    Of an operator by itself: all that attention reads.
    """
    if cost.cache_bytes is not None:
        return cost.cache_bytes
    attention = cost.formula == "attention" or (cost.formula == "gemm" and not cost.weight_bytes)
    return cost.read_bytes if attention else 0


def _memory(
    parts: Sequence[tuple[int, Served]], dram: Ceiling | None, cache: Ceiling | None, unsure_from: Ceiling | None
) -> float | None:
    """None when the greater part has no ceiling; a smaller part without one takes no time: a floor stays a floor."""
    total, left_out = 0.0, 0
    for size, place in parts:
        ceiling = {"DRAM": dram, "cache": cache, "cache or DRAM": unsure_from}[place]
        if ceiling is None:
            left_out += size
        else:
            total += size / ceiling.value * 1e9
    return None if left_out * 2 > sum(size for size, _ in parts) else total


def added(calls_and_terms: Sequence[tuple[float, Terms]]) -> Terms:
    """Σ calls × terms; a term that one of them lacks is unknown."""

    def total(name: str) -> float | None:
        values = [(calls, getattr(one, name)) for calls, one in calls_and_terms]
        return None if any(value is None for _, value in values) else sum(calls * value for calls, value in values)

    return Terms(
        flops=total("flops"),
        bytes=total("bytes") or 0.0,
        compute_ns=total("compute_ns"),
        fast_ns=total("fast_ns"),
        slow_ns=total("slow_ns"),
        near_ns=total("near_ns"),
        dram_ns=total("dram_ns") or 0.0,
        unsure=any(one.unsure for _, one in calls_and_terms),
    )


def describe(ceiling: Ceiling) -> str:
    """45.2 GB/s DRAM (2 threads), 380 GOP/s int8 (2 threads)."""
    places = {"dram_read": "GB/s DRAM", "llc_read": "GB/s last-level cache", "l2_read": "GB/s L2"}
    unit = places.get(ceiling.what) or f"{'GOP/s' if ceiling.dtype == 'int8' else 'GFLOP/s'} {ceiling.dtype}"
    threads = f" ({ceiling.threads} thread{'' if ceiling.threads == 1 else 's'})" if ceiling.threads else ""
    return f"{ceiling.value / 1e9:.3g} {unit}{threads}"
