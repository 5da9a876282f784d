"""Scaled dot products of torch, there and back, and a layer of them with its projections."""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.torch.call import Arg, Cost, same


def attention(args: Sequence[Arg], heads: int, tokens: int, causal: int, values: tuple[str, ...] = ("True",)) -> Cost:
    """heads, tokens: their dimensions. causal: the argument that says so, and the values with which it does."""
    q, k, v = args[:3]
    pairs = _pairs(q, k, v, heads, tokens)
    flops = 2 * pairs * (q.shape[3] + v.shape[3])
    if len(args) > causal and args[causal].scalar in values:
        flops //= 2
    result = q.elements // q.shape[3] * v.shape[3] * q.item
    return Cost(flops, q.size_bytes + k.size_bytes + v.size_bytes + result, q.path, "attention")


def efficient(args: Sequence[Arg]) -> Cost:
    """_efficient_attention_forward; masks 1 and 2 are causal. Sequences of several lengths are packed, and refused."""
    if args[4].tensor or args[5].tensor:
        raise ValueError("the sequences' lengths are not recorded")
    return attention(args, 2, 1, 9, ("1", "2"))


def backward(args: Sequence[Arg], causal: int) -> Cost:
    """The result's gradient first, then Q, K, V. Five products: the scores again, and a gradient for each operand."""
    grad, q, k, v = args[:4]
    if args[causal].scalar not in ("True", "False"):
        raise ValueError("whether it is causal is not recorded")
    flops = 2 * _pairs(q, k, v, 1, 2) * (3 * q.shape[3] + 2 * v.shape[3])
    if args[causal].scalar == "True":
        flops //= 2
    return Cost(flops, 2 * (q.size_bytes + k.size_bytes + v.size_bytes + grad.size_bytes), q.path, "attention")


def multi_head(args: Sequence[Arg]) -> Cost:
    """_native_multi_head_attention of a sequence with itself, [B, T, E]; weights [3E, E] and [E, E], biases."""
    put_in, weights = args[0], args[5:9]
    batch, tokens, size = put_in.shape
    if args[1].shape != put_in.shape or args[2].shape != put_in.shape:
        raise ValueError("not of a sequence with itself")
    for one, rows in zip(weights, (3, 3, 1, 1), strict=True):
        same(one.shape[0], rows * size)
    rows = batch * tokens
    flops = 2 * rows * 4 * size * size + rows * 4 * size + 2 * rows * tokens * 2 * size
    read = sum(one.size_bytes for one in weights)
    return Cost(flops, 2 * put_in.size_bytes + read, put_in.path, "attention", read)


def _pairs(q: Arg, k: Arg, v: Arg, heads: int, tokens: int) -> int:
    """Pairs of a token that looks and one that is looked at, of all heads."""
    if len(q.shape) != 4 or len(k.shape) != 4 or len(v.shape) != 4:
        raise ValueError("four dimensions are needed")
    same(q.shape[3], k.shape[3])
    same(k.shape[tokens], v.shape[tokens])
    return q.shape[0] * q.shape[heads] * q.shape[tokens] * k.shape[tokens]
