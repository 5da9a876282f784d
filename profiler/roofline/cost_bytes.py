"""Bytes that one operator reads of each source and writes, from shapes and types.

The rule: every source whole and once, the result once. The functions here are the exceptions; cost_formulas.py says
which operator is which. None of them looks at data: which rows and experts a batch names is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class Tensor:
    """A result or a source. `key`: index of the underlying tensor; equal for all views of one tensor."""

    type: str
    ne: tuple[int, int, int, int]  # fastest first
    data_bytes: int  # its elements' own, without gaps between the rows of a view
    weight: bool
    key: int

    @property
    def elements(self) -> int:
        return prod(self.ne)

    @property
    def rows(self) -> int:
        return max(prod(self.ne[1:]), 1)


Sources = Sequence[Tensor]
Reads = Callable[[Tensor, Sources, float | None], tuple[int, ...]]
Writes = Callable[[Tensor, Sources], int]


def distinct_experts(experts: int, used: int, tokens: int) -> float:
    """Expected number of experts read by a batch of which each token uses `used` of `experts`, under uniform routing.

    E·(1 − (1 − k/E)^T), a token's k experts being different ones: exactly k for one token. Trained routers are not
    uniform and a text repeats its experts, so the truth is usually lower.
    """
    experts = max(experts, 1)
    used = min(used, experts)
    return float(used) if tokens <= 1 else experts * (1.0 - (1.0 - used / experts) ** tokens)


def read_all(result: Tensor, sources: Sources, experts_used: float | None) -> tuple[int, ...]:
    return tuple(source.data_bytes for source in sources)


def read_only(*slots: int) -> Reads:
    def reads(result: Tensor, sources: Sources, experts_used: float | None) -> tuple[int, ...]:
        return tuple(source.data_bytes if slot in slots else 0 for slot, source in enumerate(sources))

    return reads


def read_rows(result: Tensor, sources: Sources, experts_used: float | None) -> tuple[int, ...]:
    """Of the first source the rows looked up (each once at most: the ids are not known), of the others everything."""
    table = sources[0]
    share = min(result.rows / table.rows, 1.0)
    return (round(table.data_bytes * share), *(source.data_bytes for source in sources[1:]))


def read_experts(slot: int, dimension: int) -> Reads:
    """Of the source at `slot` the experts (rows of `dimension`) named by the ids, the last source [k, T]."""

    def reads(result: Tensor, sources: Sources, experts_used: float | None) -> tuple[int, ...]:
        experts, ids = max(sources[slot].ne[dimension], 1), sources[2]
        seen = distinct_experts(experts, ids.ne[0], ids.rows) if experts_used is None else experts_used
        share = min(seen / experts, 1.0)
        return tuple(
            round(source.data_bytes * share) if at == slot else source.data_bytes for at, source in enumerate(sources)
        )

    return reads


def read_attention(result: Tensor, sources: Sources, experts_used: float | None) -> tuple[int, ...]:
    """K, V once each, however many query heads share them; V not at all where it is a part of K's rows (MLA)."""
    k, v = sources[1], sources[2]
    inside = k.key == v.key and v.ne[0] < k.ne[0]
    return tuple(0 if inside and slot == 2 else source.data_bytes for slot, source in enumerate(sources))


def read_state(result: Tensor, sources: Sources, experts_used: float | None) -> tuple[int, ...]:
    """SSM_SCAN picks its sequences' states out of all."""
    state, sequences = sources[0], sources[1].ne[3]
    share = min(sequences / max(state.ne[3], 1), 1.0)
    return (round(state.data_bytes * share), *(source.data_bytes for source in sources[1:]))


def write_result(result: Tensor, sources: Sources) -> int:
    return result.data_bytes


def write_first(result: Tensor, sources: Sources) -> int:
    """The first source's elements, in the result's type: the result is a view of the whole destination."""
    return result.data_bytes * sources[0].elements // max(result.elements, 1)
