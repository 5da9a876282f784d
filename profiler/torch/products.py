"""Matrix products of torch, plain, batched and quantised, and layers of recurrent networks, which are some."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowprof.profiler.torch.call import Arg, Cost, broadcast, same, tensor

_NARROW = 2  # bytes of an element of what FP8 products return, where it is not recorded: bf16, as layers ask for


def _matrices(batch: int, m: int, k: int, n: int, left: Arg, right: Arg, bias: Arg | None = None) -> Cost:
    item, out = (left.item + right.item) / 2, max(left.item, right.item)
    size = batch * ((m * k + k * n) * item + m * n * out)
    flops = 2 * batch * m * n * k
    if bias is not None:
        flops += batch * m * n
        size += bias.elements * bias.item
    return Cost(flops, round(size), left.path, "gemm", k * n * right.item if batch == 1 else 0)


def mm(left: Arg, right: Arg, bias: Arg | None = None) -> Cost:
    (m, k), (inner, n) = left.shape, right.shape
    same(k, inner)
    return _matrices(1, m, k, n, left, right, bias)


def bmm(left: Arg, right: Arg, bias: Arg | None = None) -> Cost:
    (batch, m, k), (other, inner, n) = left.shape, right.shape
    same(batch, other)
    same(k, inner)
    return _matrices(batch, m, k, n, left, right, bias)


def addbmm(args: Sequence[Arg]) -> Cost:
    """All products of a batch, added up, and [M, N] beside them."""
    beside, left, right = args[:3]
    (batch, m, k), (other, inner, n) = left.shape, right.shape
    same(batch, other)
    same(k, inner)
    size = left.size_bytes + right.size_bytes + tensor(beside).size_bytes + m * n * left.item
    return Cost(2 * batch * m * n * k + m * n, size, left.path, "gemm")


def linear(args: Sequence[Arg]) -> Cost:
    """Input […, K], weight [N, K], perhaps a bias [N]."""
    left, right = args[0], args[1]
    n, inner = right.shape
    same(left.shape[-1], inner)
    bias = args[2] if len(args) > 2 and args[2].tensor else None
    return _matrices(1, math.prod(left.shape[:-1]), inner, n, left, right, bias)


def matmul(args: Sequence[Arg]) -> Cost:
    """[…, M, K] by [K, N], or by […, K, N] with batches that broadcast; a vector is a matrix of one row or column."""
    left, right = tensor(args[0]), tensor(args[1])
    one = left.shape if len(left.shape) > 1 else (1, *left.shape)
    other = right.shape if len(right.shape) > 1 else (*right.shape, 1)
    same(one[-1], other[-2])
    batch, (m, k), n = math.prod(broadcast(one[:-2], other[:-2])), one[-2:], other[-1]
    result = batch * m * n * max(left.item, right.item)
    moved = left.size_bytes + right.size_bytes + result  # what broadcasts is moved once
    weights = right if len(right.shape) > 1 else left  # by a vector: the matrix, of two vectors neither
    alone = len(weights.shape) > 1 and math.prod(weights.shape[:-2]) == 1
    return Cost(2 * batch * m * n * k, moved, left.path, "gemm", weights.size_bytes if alone else 0)


def addmv(args: Sequence[Arg]) -> Cost:
    """A vector [M], the matrix [M, K], the vector [K]."""
    found, m = matmul(args[1:3]), args[1].shape[0]
    beside = tensor(args[0]).size_bytes
    return Cost(found.flops + m, found.size_bytes + beside, found.path, "gemm", found.weight_bytes)


def scaled_mm(args: Sequence[Arg]) -> Cost:
    """[M, K] by [K, N] with their scales, perhaps a bias, of whose type the result is."""
    left, right, bias = args[0], args[1], args[4]
    (m, k), (inner, n) = left.shape, right.shape
    same(k, inner)
    scales = sum(args[at].size_bytes for at in (2, 3))
    moved = left.size_bytes + right.size_bytes + scales + bias.size_bytes
    flops = 2 * m * n * k + (m * n if bias.tensor else 0)
    return Cost(flops, moved + m * n * (bias.item if bias.tensor else _NARROW), left.path, "gemm", right.size_bytes)


def int_mm(args: Sequence[Arg]) -> Cost:
    """int8 by int8; the result is int32."""
    left, right = args[0], args[1]
    (m, k), (inner, n) = left.shape, right.shape
    same(k, inner)
    return Cost(2 * m * n * k, left.size_bytes + right.size_bytes + m * n * 4, left.path, "gemm", right.size_bytes)


def int8_weights(args: Sequence[Arg]) -> Cost:
    """[M, K] by int8 weights [N, K] with a scale each row."""
    n, inner = args[1].shape
    same(args[0].shape[1], inner)
    return _by_weights(args[0], n, args[1].size_bytes + args[2].size_bytes)


def int4_weights(args: Sequence[Arg]) -> Cost:
    """[M, K] by packed weights, two to a byte, however the device packs them; scales [groups, N, …] last."""
    packed, scales = args[1].size_bytes, args[3:]
    n = scales[0].shape[1]
    same(2 * packed, n * args[0].shape[1])
    return _by_weights(args[0], n, packed + sum(one.size_bytes for one in scales))


def _by_weights(left: Arg, n: int, weights: int) -> Cost:
    """Weights are unpacked into the type of `left`, which is that of the products and of the result."""
    m, k = left.shape
    return Cost(2 * m * n * k, left.size_bytes + weights + m * n * left.item, left.path, "gemm", weights)


def rnn_layer(args: Sequence[Arg]) -> Cost:
    """One direction of a layer: input [T, B, I], weights [gates · H, I] and [gates · H, H], their biases."""
    put_in, of_input, of_state = args[:3]
    steps, batch, size = put_in.shape
    same(of_input.shape[1], size)
    same(of_input.shape[0], of_state.shape[0])
    rows = steps * batch
    weights = sum(tensor(one).size_bytes for one in args[1:3]) + sum(one.size_bytes for one in args[3:5])
    moved = put_in.size_bytes + weights + rows * of_state.shape[1] * put_in.item
    flops = 2 * rows * (of_input.elements + of_state.elements)
    return Cost(flops, moved, put_in.path, "gemm", weights)
