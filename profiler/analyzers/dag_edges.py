"""Which executing operator reads what of which other: through views, and into nodes that were fused. Part of dag.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flowprof.profiler.analyzers.dag_tensors import Tensor, canonical, leaf_kind

MAX_REACH = 24  # operators that a chain of views leads to; more only in graphs made to hurt
VIEWS = frozenset({"VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "NONE"})
CACHE_WRITERS = frozenset({"SET_ROWS", "CPY", "SET", "ACC"})

Kind = Literal["data", "cache"]


@dataclass(slots=True)
class Resolved:
    """What an executing tensor reads and computes."""

    edges: dict[int, Kind] = field(default_factory=dict)
    leaves: dict[int, None] = field(default_factory=dict)  # positions of leaf tensors, in order
    fused: list[int] = field(default_factory=list)
    alias: str = ""  # the name of a view on it, when it has none itself


def resolve(tensors: Mapping[int, Tensor], keep: Collection[int]) -> dict[int, Resolved]:
    """For every tensor in `keep` (its indexes, of those that execute): what it reads, through all others.

    Sources that do not come before their reader (only a broken recording has them) are not followed.
    """
    found: dict[int, Resolved] = {index: Resolved() for index in sorted(keep)}
    reach: dict[int, tuple[int, ...]] = {}  # tensor → kept tensors whose data it is
    backing: dict[int, tuple[int, ...]] = {}  # view → leaves it looks at
    writers: dict[int, int] = {}  # cache leaf → who wrote it last
    for index in sorted(tensors):
        tensor = tensors[index]
        if tensor.leaf:
            continue
        producers: dict[int, None] = {}
        leaves: dict[int, None] = {}
        for source in tensor.sources:
            other = tensors.get(source)
            if other is None:
                continue
            if other.leaf:
                leaves[source] = None
            elif source < index:
                producers.update(dict.fromkeys(reach.get(source, ())))
                leaves.update(dict.fromkeys(backing.get(source, ())))
        ordered = tuple(sorted(producers)[-MAX_REACH:])
        if index in found:
            _executing(tensor, ordered, leaves, found[index], tensors, writers)
            reach[index] = (index,)
        elif tensor.executes or tensor.op in VIEWS or not ordered:
            reach[index] = ordered
            if tensor.op in VIEWS:
                backing[index] = tuple(leaves)[:MAX_REACH]
                if len(ordered) == 1:
                    found[ordered[0]].alias = found[ordered[0]].alias or canonical(tensor.name)
        else:  # fused: the last of its producers computes it
            owner = ordered[-1]
            own = found[owner]
            own.fused.append(index)
            own.leaves.update(leaves)
            own.edges.update({one: "data" for one in ordered[:-1] if one not in own.edges})
            reach[index] = (owner,)
    return found


def _executing(
    tensor: Tensor, producers: Sequence[int], leaves: Mapping[int, None], own: Resolved,
    tensors: Mapping[int, Tensor], writers: dict[int, int],
) -> None:  # fmt: skip
    own.edges.update(dict.fromkeys(producers, "data"))
    own.leaves.update(leaves)
    for leaf in leaves:
        if leaf_kind(tensors[leaf]) != "cache":
            continue
        if tensor.op in CACHE_WRITERS:
            writers[leaf] = tensor.index
        elif leaf in writers:
            own.edges.setdefault(writers[leaf], "cache")
