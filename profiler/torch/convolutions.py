"""Convolutions of torch, whichever library does them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowprof.profiler.torch.call import Arg, Cost, each, same, tensor

NONE = Arg((), "")


def convolution(args: Sequence[Arg], stride: int, padding: int, dilation: int) -> Cost:
    """Input [B, C, …], weight [N, C / groups, …], perhaps a bias; stride, padding, dilation: places of these lists."""
    put_in, weight = tensor(args[0]), tensor(args[1])
    kernel, extent = weight.shape[2:], put_in.shape[2:]
    same(len(kernel), len(extent))
    if put_in.shape[1] % weight.shape[1]:
        raise ValueError("the channels do not divide")
    steps, pads, gaps = (each(args[at].scalar, len(kernel)) for at in (stride, padding, dilation))
    out = [
        (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, pad, gap in zip(extent, kernel, steps, pads, gaps, strict=True)
    ]
    elements = put_in.shape[0] * weight.shape[0] * _all(out)
    return _cost(put_in, weight, args[2], elements, 2 * elements * weight.shape[1] * math.prod(kernel))


def transposed(
    args: Sequence[Arg], stride: int, padding: int, more: int, groups: int, dilation: int, bias: int | None = 2
) -> Cost:
    """Input [B, C, …], weight [C, N / groups, …]; more: the padding of what comes out. N is the bias's where there is
    one: the groups are not recorded on a live process."""
    put_in, weight = tensor(args[0]), tensor(args[1])
    kernel, extent = weight.shape[2:], put_in.shape[2:]
    same(len(kernel), len(extent))
    same(put_in.shape[1], weight.shape[0])
    steps, pads, ends, gaps = (each(args[at].scalar, len(kernel)) for at in (stride, padding, more, dilation))
    out = [
        (size - 1) * step - 2 * pad + gap * (taps - 1) + end + 1
        for size, taps, step, pad, end, gap in zip(extent, kernel, steps, pads, ends, gaps, strict=True)
    ]
    added = NONE if bias is None else args[bias]
    channels = added.elements if added.tensor else weight.shape[1] * int(args[groups].scalar)
    if channels % weight.shape[1]:
        raise ValueError("the channels do not divide")
    elements = put_in.shape[0] * channels * _all(out)
    return _cost(put_in, weight, added, elements, 2 * put_in.elements * weight.shape[1] * math.prod(kernel))


def either(args: Sequence[Arg]) -> Cost:
    """aten::convolution, where it is known whether it is transposed."""
    if args[6].scalar == "True":
        return transposed(args, 3, 4, 7, 8, 5)
    if args[6].scalar != "False":
        raise ValueError("perhaps transposed")
    return convolution(args, 3, 4, 5)


def with_kernel_size(args: Sequence[Arg]) -> Cost:
    """Of CUDA and the slow one: the kernel's size is told, too, before the bias; the slow one has no dilation."""
    dilation = args[6] if len(args) > 6 else Arg((), "", "[1]")
    return convolution([args[0], args[1], *args[3:6], dilation], 3, 4, 5)


def with_addend(args: Sequence[Arg]) -> Cost:
    """cudnn_convolution_add_relu: a tensor like the result is read, too."""
    found = convolution([args[0], args[1], *args[4:8]], 3, 4, 5)
    return Cost(found.flops, found.size_bytes + tensor(args[2]).size_bytes, found.path, found.kind)


def _cost(put_in: Arg, weight: Arg, bias: Arg, elements: int, flops: int) -> Cost:
    moved = put_in.size_bytes + weight.size_bytes + bias.size_bytes + elements * put_in.item
    return Cost(flops, moved, put_in.path, "convolution")


def _all(out: Sequence[int]) -> int:
    if min(out, default=0) <= 0:
        raise ValueError("nothing comes out")
    return math.prod(out)
