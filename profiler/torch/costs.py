"""FLOPs and bytes of a torch operator from the shapes and types of its arguments.

Shapes are torch's: the slowest dimension first. A multiply-add is 2 FLOPs. Bytes are what a perfect cache moves: every
operand once, the result once; TraceLens counts so, too (its "MB" are MiB). What has no formula here has no cost.

gemm         2·B·M·N·K; bytes (M·K + K·N + M·N)·size a matrix. With a bias (addmm, linear): M·N more FLOPs, the bias's
             bytes. `linear`, aiter's and vLLM's products take the weights as [N, K]. beta and alpha are not counted.
attention    scaled dot products [B, H, N, D], flash's own layout [B, N, H, D]: 2·B·H·Nq·Nkv·(Dqk + Dv), half of it when
             causal (TraceLens's convention: exact for Nq = Nkv but for the diagonal); bytes Q + K + V + O. The softmax
             is not counted.
elementwise  1 FLOP per element of the result, however hard the function; bytes operands + result. Operands are
             broadcast; scalars have 8 bytes at most and count as one element. The result has the type that the operands
             promote to: the widest tensor's.
convolution  2·(output elements)·(input channels / groups)·(kernel elements), with padding, stride and dilation; bytes
             input + weights + bias + output. Transposed ones have none.
norm         layer, group and RMS norms, softmax: 5 FLOPs per element, as ggml's are counted (cost_formulas.py); bytes
             operands + result.
copy         no FLOPs; bytes read + written. copy_ has the destination first; an embedding reads what it writes.

             cat and stack read and write every tensor of their list, where the recording has them all, with their type
             (Kineto has no type; at most seven tensors are read on a live process).

Source of the GEMM's figures: 2·M·N·K, CuPTI/TraceLens convention for bytes; compared exactly with TraceLens' tables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_ELEMENTS = 1 << 50
MAX_LIST = 1024  # tensors
_SIZES = {
    "float": 4, "double": 8, "c10::half": 2, "c10::bfloat16": 2, "half": 2, "bfloat16": 2, "int": 4, "long int": 8,
    "long": 8, "short": 2, "signed char": 1, "unsigned char": 1, "char": 1, "bool": 1, "c10::float8_e4m3fn": 1,
    "c10::float8_e5m2": 1, "c10::float8_e4m3fnuz": 1, "c10::float8_e5m2fnuz": 1,
}  # fmt: skip
_PATHS = {"float": "f32", "c10::half": "f16", "half": "f16", "c10::bfloat16": "bf16", "bfloat16": "bf16",
          "signed char": "int8", "char": "int8", "c10::float8_e4m3fn": "f8", "c10::float8_e5m2": "f8",
          "c10::float8_e4m3fnuz": "f8", "c10::float8_e5m2fnuz": "f8"}  # fmt: skip

_LIST_OF = re.compile(r"TensorList(?:\(([\w: ]{1,40})\))?")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """path: the data type of the products, as ceilings name it (f32, f16, bf16, int8, f8); "" where there are none.

    weight_bytes: of size_bytes, those that do not shrink with the batch: the second matrix of a product of two."""

    flops: int
    size_bytes: int
    path: str
    kind: str  # gemm, attention, convolution, elementwise, copy
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Arg:
    """shape () of what is no tensor, or a list of tensors; shapes: of a list's tensors, which have one type."""

    shape: Shape
    type: str
    scalar: str = ""
    shapes: tuple[Shape, ...] = ()

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def item(self) -> int:
        """Bytes of an element; raises KeyError for types that are not known."""
        return _SIZES[self.type.casefold()]

    @property
    def tensor(self) -> bool:
        return bool(self.shape)


def cost(name: str, args: Sequence[Arg]) -> Cost | None:
    """The cost of one call; None where there is no formula, or shapes and types that it does not fit."""
    formula = _FORMULAS.get(name)
    if formula is None:
        return None
    try:
        found = formula(args)
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        return None
    return found if found.flops >= 0 and 0 <= found.size_bytes < MAX_ELEMENTS * 8 else None


def arguments(dims: str | None, types: str | None, scalars: str | None) -> tuple[Arg, ...]:
    """A row of api_args; empty when its JSON is none or not what it should be."""
    shapes, kinds, values = _list(dims), _list(types), _list(scalars)
    found = []
    for place, shape in enumerate(shapes):
        kind = kinds[place] if place < len(kinds) and isinstance(kinds[place], str) else ""
        value = values[place] if place < len(values) and isinstance(values[place], str) else ""
        several = _LIST_OF.fullmatch(kind)
        if several is None:
            found.append(Arg(_shape(shape), kind, value))
        else:
            inside = shape if isinstance(shape, list) and len(shape) <= MAX_LIST else []
            found.append(Arg((), several[1] or "", value, tuple(_shape(one) for one in inside)))
    return tuple(found)


def shown(name: str, args: Sequence[Arg]) -> str:
    """Shapes and type in a word: "8944x1024 · 1024x2816 bf16"."""
    tensors = [(shape, arg.type) for arg in args for shape in (arg.shapes or (arg.shape,)) if shape][:3]
    shapes = " · ".join("x".join(map(str, shape)) for shape, _ in tensors)
    kind = next((kind for _, kind in tensors), "")
    return f"{shapes} {_PATHS.get(kind.casefold(), kind)}".strip()


# ---------------------------------------------------------------------- formulas


def _matrices(batch: int, m: int, k: int, n: int, left: Arg, right: Arg, bias: Arg | None = None) -> Cost:
    item, out = (left.item + right.item) / 2, max(left.item, right.item)
    size = batch * ((m * k + k * n) * item + m * n * out)
    flops = 2 * batch * m * n * k
    if bias is not None:
        flops += batch * m * n
        size += bias.elements * bias.item
    weights = k * n * right.item if batch == 1 else 0
    return Cost(flops, round(size), _PATHS.get(left.type.casefold(), ""), "gemm", weights)


def _mm(left: Arg, right: Arg, bias: Arg | None = None) -> Cost:
    (m, k), (inner, n) = left.shape, right.shape
    _same(k, inner)
    return _matrices(1, m, k, n, left, right, bias)


def _bmm(left: Arg, right: Arg, bias: Arg | None = None) -> Cost:
    (batch, m, k), (other, inner, n) = left.shape, right.shape
    _same(batch, other)
    _same(k, inner)
    return _matrices(batch, m, k, n, left, right, bias)


def _linear(args: Sequence[Arg]) -> Cost:
    """Input […, K], weight [N, K], perhaps a bias [N]."""
    left, right = args[0], args[1]
    n, inner = right.shape
    _same(left.shape[-1], inner)
    bias = args[2] if len(args) > 2 and args[2].tensor else None
    return _matrices(1, math.prod(left.shape[:-1]), inner, n, left, right, bias)


def _attention(args: Sequence[Arg], heads: int, tokens: int, causal: int) -> Cost:
    q, k, v = args[:3]
    if len(q.shape) != 4 or len(k.shape) != 4 or len(v.shape) != 4:
        raise ValueError("four dimensions are needed")
    _same(q.shape[3], k.shape[3])
    _same(k.shape[tokens], v.shape[tokens])
    flops = 2 * q.shape[0] * q.shape[heads] * q.shape[tokens] * k.shape[tokens] * (q.shape[3] + v.shape[3])
    if len(args) > causal and args[causal].scalar == "True":
        flops //= 2
    result = q.elements // q.shape[3] * v.shape[3] * q.item
    moved = q.elements * q.item + k.elements * k.item + v.elements * v.item + result
    return Cost(flops, moved, _PATHS.get(q.type.casefold(), ""), "attention")


def _matmul(args: Sequence[Arg]) -> Cost:
    """[…, M, K] by [K, N], or by […, K, N] with batches that broadcast; a vector is a matrix of one row or column."""
    left, right = _tensor(args[0]), _tensor(args[1])
    one = left.shape if len(left.shape) > 1 else (1, *left.shape)
    other = right.shape if len(right.shape) > 1 else (*right.shape, 1)
    _same(one[-1], other[-2])
    batch, (m, k), n = math.prod(_broadcast(one[:-2], other[:-2])), one[-2:], other[-1]
    result = batch * m * n * max(left.item, right.item)
    moved = left.elements * left.item + right.elements * right.item + result  # what broadcasts is moved once
    return Cost(2 * batch * m * n * k, moved, _PATHS.get(left.type.casefold(), ""), "gemm")


def _convolution(args: Sequence[Arg], stride: int, padding: int, dilation: int) -> Cost:
    """Input [B, C, …], weight [N, C / groups, …]; stride, padding, dilation: places of these lists."""
    put_in, weight = _tensor(args[0]), _tensor(args[1])
    kernel, extent = weight.shape[2:], put_in.shape[2:]
    _same(len(kernel), len(extent))
    if put_in.shape[1] % weight.shape[1]:
        raise ValueError("the channels do not divide")
    steps, pads, gaps = (_each(args[at].scalar, len(kernel)) for at in (stride, padding, dilation))
    out = [
        (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, pad, gap in zip(extent, kernel, steps, pads, gaps, strict=True)
    ]
    if min(out, default=0) <= 0:
        raise ValueError("nothing comes out")
    elements = put_in.shape[0] * weight.shape[0] * math.prod(out)
    bias = args[2].elements * args[2].item if args[2].tensor else 0
    moved = put_in.elements * put_in.item + weight.elements * weight.item + bias + elements * put_in.item
    flops = 2 * elements * weight.shape[1] * math.prod(kernel)
    return Cost(flops, moved, _PATHS.get(put_in.type.casefold(), ""), "convolution")


def _plain_convolution(args: Sequence[Arg]) -> Cost:
    """aten::convolution, where it is known not to be transposed."""
    if args[6].scalar != "False":
        raise ValueError("perhaps transposed")
    return _convolution(args, 3, 4, 5)


def _norm(args: Sequence[Arg]) -> Cost:
    one = _tensor(args[0])
    scales = sum(arg.elements * arg.item for arg in args[1:] if arg.tensor)
    return Cost(5 * one.elements, 2 * one.elements * one.item + scales, "", "elementwise")


def _embedding(args: Sequence[Arg]) -> Cost:
    table, indices = args[0], args[1]
    rows, width = indices.elements, table.shape[1]
    return Cost(0, 2 * rows * width * table.item + rows * indices.item, "", "copy")


def _unary(args: Sequence[Arg]) -> Cost:
    one = _tensor(args[0])
    return Cost(one.elements, 2 * one.elements * one.item, "", "elementwise")


def _binary(args: Sequence[Arg]) -> Cost:
    left, right = args[0], args[1]
    if not left.tensor and not right.tensor:
        raise ValueError("no tensor")
    elements = math.prod(_broadcast(left.shape, right.shape))
    result = max(arg.item for arg in (left, right) if arg.tensor)
    moved = sum(arg.elements * arg.item for arg in (left, right) if arg.type.casefold() in _SIZES)
    return Cost(elements, moved + elements * result, "", "elementwise")


def _copy(args: Sequence[Arg]) -> Cost:
    into, out_of = _tensor(args[0]), _tensor(args[1])
    return Cost(0, into.elements * into.item + min(out_of.elements, into.elements) * out_of.item, "", "copy")


def _clone(args: Sequence[Arg]) -> Cost:
    one = _tensor(args[0])
    return Cost(0, 2 * one.elements * one.item, "", "copy")


def _cat(args: Sequence[Arg]) -> Cost:
    listed = args[0]
    if not listed.shapes or not all(listed.shapes):
        raise ValueError("a tensor of the list is not known")
    return Cost(0, 2 * sum(map(math.prod, listed.shapes)) * listed.item, "", "copy")


def _each(text: str, count: int) -> tuple[int, ...]:
    """ "[1, 2]" as numbers, one for each of `count` dimensions."""
    found = _shape(_list(text))
    if not found:
        raise ValueError("not recorded")
    return found * count if len(found) == 1 else found


def _same(one: int, other: int) -> None:
    if one != other:
        raise ValueError("dimensions differ that must not")


def _tensor(arg: Arg) -> Arg:
    if not arg.tensor:
        raise ValueError("no tensor")
    return arg


def _broadcast(left: Shape, right: Shape) -> Shape:
    longest = max(len(left), len(right))
    pairs = zip((1,) * (longest - len(left)) + left, (1,) * (longest - len(right)) + right, strict=True)
    found = []
    for one, other in pairs:
        if one != other and 1 not in (one, other):
            raise ValueError("the shapes do not broadcast")
        found.append(other if one == 1 else one)
    return tuple(found)


def _shape(value: Any) -> Shape:
    """A list of plain numbers within limits; () for anything else."""
    if not isinstance(value, list) or len(value) > 64:
        return ()
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < MAX_ELEMENTS for one in value):
        return ()
    return tuple(value) if math.prod(value) < MAX_ELEMENTS else ()


def _list(text: str | None) -> list[Any]:
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


_UNARY = ("abs", "ceil", "clamp", "cos", "erf", "exp", "floor", "gelu", "log", "neg", "pow", "reciprocal", "relu",
          "round", "rsqrt", "sigmoid", "sign", "silu", "sin", "sqrt", "tanh")  # fmt: skip
_BINARY = ("add", "div", "mul", "sub", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")

_FORMULAS: dict[str, Callable[[Sequence[Arg]], Cost]] = {
    "aten::mm": lambda args: _mm(args[0], args[1]),
    "aten::addmm": lambda args: _mm(args[1], args[2], args[0]),
    "aten::_addmm_activation": lambda args: _mm(args[1], args[2], args[0]),
    "aten::matmul": _matmul,
    "aten::mv": _matmul,
    "aten::dot": _matmul,
    "aten::bmm": lambda args: _bmm(args[0], args[1]),
    "aten::baddbmm": lambda args: _bmm(args[1], args[2], args[0]),
    "aten::linear": _linear,
    "aiter::gemm_a16w16": _linear,
    "vllm::rocm_unquantized_gemm": _linear,
    "aten::conv1d": lambda args: _convolution(args, 3, 4, 5),
    "aten::conv2d": lambda args: _convolution(args, 3, 4, 5),
    "aten::conv3d": lambda args: _convolution(args, 3, 4, 5),
    "aten::convolution": _plain_convolution,
    "aten::_convolution": _plain_convolution,
    "aten::mkldnn_convolution": lambda args: _convolution(args, 4, 3, 5),
    "aten::scaled_dot_product_attention": lambda args: _attention(args, 1, 2, 5),
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda args: _attention(args, 1, 2, 4),
    "aten::_scaled_dot_product_flash_attention": lambda args: _attention(args, 1, 2, 4),
    "aten::_scaled_dot_product_efficient_attention": lambda args: _attention(args, 1, 2, 6),
    "aten::_scaled_dot_product_cudnn_attention": lambda args: _attention(args, 1, 2, 6),
    "aten::_flash_attention_forward": lambda args: _attention(args, 2, 1, 8),
    "aten::layer_norm": _norm,
    "aten::native_layer_norm": _norm,
    "aten::group_norm": _norm,
    "aten::native_group_norm": _norm,
    "aten::rms_norm": _norm,
    "aten::_fused_rms_norm": _norm,
    "aten::softmax": _norm,
    "aten::_softmax": _norm,
    "aten::log_softmax": _norm,
    "aten::_log_softmax": _norm,
    "aten::embedding": _embedding,
    "aten::copy_": _copy,
    "aten::clone": _clone,
    "aten::cat": _cat,
    "aten::stack": _cat,
    **{f"aten::{name}{ending}": _unary for name in _UNARY for ending in ("", "_")},
    **{f"aten::{name}{ending}": _binary for name in _BINARY for ending in ("", "_")},
}
