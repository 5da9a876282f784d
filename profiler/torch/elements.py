"""What torch does element by element, in rows, or not at all: norms, softmax, functions, sums, copies, look-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowprof.profiler.torch.call import Arg, Cost, broadcast, has_size, tensor


def norm(args: Sequence[Arg]) -> Cost:
    """The tensor first, then its scales and, of batch and instance norms, running averages."""
    one = tensor(args[0])
    scales = sum(arg.size_bytes for arg in args[1:5])
    return Cost(5 * one.elements, 2 * one.size_bytes + scales, "", "elementwise")


def embedding(args: Sequence[Arg]) -> Cost:
    table, indices = args[0], args[1]
    rows, width = indices.elements, table.shape[1]
    return Cost(0, 2 * rows * width * table.item + rows * indices.item, "", "copy")


def embedding_bag(args: Sequence[Arg]) -> Cost:
    """Rows of a table, added up (or compared) in bags; offsets: where each begins, perhaps with the end behind."""
    table, indices, offsets, weights = args[0], tensor(args[1]), tensor(args[2]), args[6]
    if args[7].scalar not in ("True", "False"):
        raise ValueError("how many bags there are is not recorded")
    rows, width = indices.elements, table.shape[1]
    bags = offsets.elements - (args[7].scalar == "True")
    moved = (rows + bags) * width * table.item + indices.size_bytes + offsets.size_bytes + weights.size_bytes
    return Cost(rows * width * (2 if weights.tensor else 1), moved, "", "elementwise")


def index_select(args: Sequence[Arg]) -> Cost:
    """Of a dimension those that an index names; a number that is no list has one."""
    one, index = tensor(args[0]), args[2]
    chosen = one.elements // one.shape[int(args[1].scalar)] * index.elements
    return Cost(0, 2 * chosen * one.item + index.elements * index.item, "", "copy")


def unary(args: Sequence[Arg]) -> Cost:
    one = tensor(args[0])
    return Cost(one.elements, 2 * one.size_bytes, "", "elementwise")


def binary(args: Sequence[Arg]) -> Cost:
    left, right = args[0], args[1]
    if not left.tensor and not right.tensor:
        raise ValueError("no tensor")
    elements = math.prod(broadcast(left.shape, right.shape))
    result = max(arg.item for arg in (left, right) if arg.tensor)
    moved = sum(arg.elements * arg.item for arg in (left, right) if has_size(arg))
    return Cost(elements, moved + elements * result, "", "elementwise")


def copy(into: Arg, out_of: Arg) -> Cost:
    elements = min(tensor(out_of).elements, tensor(into).elements)
    return Cost(0, into.size_bytes + elements * out_of.item, "", "copy")


def clone(args: Sequence[Arg]) -> Cost:
    return Cost(0, 2 * tensor(args[0]).size_bytes, "", "copy")


def cat(args: Sequence[Arg]) -> Cost:
    listed = args[0]
    if not listed.shapes or not all(listed.shapes):
        raise ValueError("a tensor of the list is not known")
    return Cost(0, 2 * sum(map(math.prod, listed.shapes)) * listed.item, "", "copy")
