"""FLOPs, instruction path and bytes of one operator from its shapes and types: a formula per ggml operator.

Shapes are ggml's: ne[0] is the fastest dimension, a MUL_MAT of a weight [K, M] and activations [K, N] gives [M, N].
Sources stand in ggml's order with null sources left out. A multiply-add is 2 FLOPs. What is written below as "elt" is
an element of the result unless a source is named. The ids, and what they mean:

none          a view or nothing: no work, no bytes
copy          bytes only. GET_ROWS reads the rows looked up, SET_ROWS writes the rows given, CPY does not read its
              destination, IM2COL and FILL read only the shape of the source that gives it. SET and ACC (elementwise)
              are counted as if not in place, which the shapes do not tell: an upper bound
elementwise   a constant per elt, see _PER_ELEMENT, _UNARY and _GLU
norm          NORM, GROUP_NORM 5 (mean, subtract, square and sum, scale), RMS_NORM, L2_NORM 3 (square and sum, scale)
softmax       5 per elt: maximum, subtract, exponential, sum, divide
rope          6 per rotated pair, 3 per elt: 4 multiplications, 2 additions; all of ne[0] taken as rotated
reduce        1 per source element; COUNT_EQUAL 2
sort          n·log2 n comparisons per row of n; TOP_K n·log2 k
gemm          2·K·elt, K = ne[0] of both sources (OUT_PROD: their ne[1])
gemm_experts  2·K·elt over all k·T rows; the weights of the experts that occur, see distinct_experts
attention     2·Dk·n_kv·n_q·heads + 2·Dv·n_kv·n_q·heads + softmax on n_kv·n_q·heads. The masked part is not
              subtracted, though ggml's kernel skips masked cells: an upper bound, for prefill up to twice the work
recurrence    per cell of the state matrix and token: RWKV_WKV6 7, RWKV_WKV7 9, GATED_LINEAR_ATTN 5, GATED_DELTA_NET 7,
              SSM_SCAN 7 (Mamba 1: a decay per state element) or 5 (Mamba 2: per head). The state is read and written
              once per call; between its tokens it stays in the cache
conv          2 per kernel element that meets an elt; transposed: that meets a source element
solve         (n+1) per elt: forward substitution with an n·n triangle
unknown       the function or its iterations are not in the shapes: bytes only

Sources. GEMM: FLOPs 2·M·N·K and bytes (M·K + K·N + M·N)·size, as TraceLens counts them for CuPTI traces and NanoFlow
(arXiv 2408.12757) in its Table 2. Softmax 5, layer norm 5, GELU 8: the constants of ELECTRA's flops_computation.py.
Everything else: the arithmetic that ggml-cpu's kernels do (ops.cpp, ggml-cpu.c), an exponential, root, logarithm or
division counted as 1. Except for products, attention, convolutions and recurrences these are conventions that matter
little: such operators are bound by memory.

Path: ggml-cpu quantises the activations to q8_0, q8_1 or q8_K for every quantised weight (vec_dot_type) and multiplies
int8; f16 and bf16 weights meet activations of their own type. OUT_PROD, LIGHTNING_INDEXER convert to f32 first. Recent
builds compute a long prompt's attention over an f16 cache in f32 tiles: "f16" then names the cache, not the arithmetic.

Not counted: the scratch buffer of quantised activations (as a rule in cache), second passes over a row, bytes of cache
lines that are only partly used, interpolation in UPSCALE, sines and cosines of ROPE. A rotation by a Hadamard matrix
is counted as the product that it is written as, though recent builds compute it by a fast transform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, log2, prod

from flowprof.profiler.roofline.cost_bytes import (
    Reads,
    Sources,
    Tensor,
    Writes,
    read_all,
    read_attention,
    read_experts,
    read_only,
    read_rows,
    read_state,
    write_first,
    write_result,
)

Flops = Callable[[Tensor, Sources], float | None]

_FLOAT_PATHS = {"f32": "f32", "f16": "f16", "bf16": "bf16", "f64": "f32",
                "i8": "f32", "i16": "f32", "i32": "f32", "i64": "f32"}  # fmt: skip


def product_path(kind: str) -> str:
    """The instruction path on which ggml-cpu multiplies a matrix of this type: int8, bf16, f16 or f32."""
    return _FLOAT_PATHS.get(kind, "int8")


@dataclass(frozen=True, slots=True)
class Formula:
    """How one operator is counted."""

    name: str
    sources: int  # with fewer the shapes were lost and nothing is known
    flops: Flops
    reads: Reads = read_all  # bytes per source
    writes: Writes = write_result
    path: Callable[[Sources], str] = lambda sources: ""


def _zero(result: Tensor, sources: Sources) -> float | None:
    return 0.0


def _uncountable(result: Tensor, sources: Sources) -> float | None:
    return None


def _elementwise(count: int, sources: int = 1, name: str = "elementwise") -> Formula:
    return Formula(name, sources, lambda result, s: float(count * result.elements))


def _of_source(count: int, slot: int = 0, name: str = "reduce", sources: int = 1, reads: Reads = read_all) -> Formula:
    return Formula(name, sources, lambda result, s: float(count * s[slot].elements), reads)


def _copy(sources: int = 1, reads: Reads = read_all) -> Formula:
    return Formula("copy", sources, _zero, reads)


def _product(name: str, sources: int, flops: Flops, reads: Reads = read_all, path_of: int | None = 0) -> Formula:
    """`path_of`: the source whose type decides the path; None: f32 whatever the types."""
    path = (lambda s: "f32") if path_of is None else lambda s: product_path(s[path_of].type)
    return Formula(name, sources, flops, reads, path=path)


def _recurrence(count: int, sources: int, slot: int) -> Formula:
    """Head size × elements of the source [head size, heads, tokens, …] at `slot` = cells × tokens."""
    return Formula("recurrence", sources, lambda r, s: float(count * s[slot].ne[0] * s[slot].elements))


def _attention(result: Tensor, sources: Sources) -> float | None:
    q, k, v = sources[:3]
    pairs = k.ne[1] * q.ne[1] * q.ne[2] * q.ne[3]
    return float(pairs * (2 * q.ne[0] + 2 * v.ne[0] + 5))


def _attention_back(result: Tensor, sources: Sources) -> float | None:
    """Five products (scores again, and the gradients of V, P, Q, K) and two softmaxes' worth."""
    q, k = sources[:2]
    return float(k.ne[1] * q.ne[1] * q.ne[2] * q.ne[3] * (10 * q.ne[0] + 10))


def _ssm_scan(result: Tensor, sources: Sources) -> float | None:
    """states [N, head size, heads, …], x [head size, heads, T, sequences], dt, A [N or 1, heads], B, C."""
    states, x, _, decay = sources[:4]
    return float((7 if decay.ne[0] > 1 else 5) * states.ne[0] * x.elements)


def _conv_3d(result: Tensor, sources: Sources) -> float | None:
    """kernel [KW, KH, KD, IC·OC], input [W, H, D, IC·N], result [OW, OH, OD, OC·N]: IC² = the first two / the third."""
    kernel, image = sources[:2]
    channels = isqrt(kernel.ne[3] * image.ne[3] // max(result.ne[3], 1))
    return float(2 * prod(kernel.ne[:3]) * channels * result.elements)


def _sort(result: Tensor, sources: Sources) -> float | None:
    """result [k, …] of source [n, …]; ARGSORT: k = n."""
    return sources[0].elements * log2(max(result.ne[0], 2))


NO_WORK = frozenset({"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"})

_UNARY = {
    "ABS": 1, "SGN": 1, "NEG": 1, "STEP": 1, "RELU": 1, "FLOOR": 1, "CEIL": 1, "ROUND": 1, "TRUNC": 1,
    "EXP": 1, "TANH": 1, "EXPM1": 2, "ELU": 3, "SOFTPLUS": 3, "SIGMOID": 4, "SILU": 4, "GELU_QUICK": 4,
    "HARDSIGMOID": 4, "HARDSWISH": 5, "GELU_ERF": 5, "XIELU": 6, "GELU": 8,
}  # fmt: skip
_GLU = {"REGLU": 2, "SWIGLU": 5, "GEGLU_QUICK": 5, "GEGLU_ERF": 6, "SWIGLU_CLAMP": 8, "GEGLU": 9, "SWIGLU_OAI": 9}
_PER_ELEMENT = {  # operator → FLOPs per element of the result, sources needed
    "ADD": (1, 2), "ADD1": (1, 2), "SUB": (1, 2), "MUL": (1, 2), "DIV": (1, 2), "SCALE": (1, 1), "SQR": (1, 1),
    "SQRT": (1, 1), "LOG": (1, 1), "SIN": (1, 1), "COS": (1, 1), "CLAMP": (2, 1), "LEAKY_RELU": (2, 1),
    "SILU_BACK": (9, 2), "ADD_REL_POS": (2, 3), "ARANGE": (1, 0), "TIMESTEP_EMBEDDING": (3, 1),
}  # fmt: skip

FORMULAS: dict[str, Formula] = {
    **{op: Formula("none", 0, _zero, read_only(), lambda result, sources: 0) for op in sorted(NO_WORK)},
    **{op: _elementwise(count, sources) for op, (count, sources) in _PER_ELEMENT.items()},
    **{op: _copy() for op in ("DUP", "CONT", "DIAG", "DIAG_MASK_INF", "DIAG_MASK_ZERO", "TRI", "PAD", "PAD_REFLECT_1D",
                              "ROLL", "UPSCALE", "WIN_PART", "WIN_UNPART")},
    **{op: Formula("unknown", 1, _uncountable) for op in ("MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3")},
    "CUSTOM": Formula("unknown", 0, _uncountable),
    "UNARY": Formula("elementwise", 1, _uncountable),  # a function that is not in the name, or not in our list
    "GLU": Formula("elementwise", 1, _uncountable),
    "ADD_ID": Formula("elementwise", 3, lambda r, s: float(r.elements), read_experts(1, 1)),
    # copies
    "CPY": Formula("copy", 1, _zero, read_only(0), write_first),
    "SET_ROWS": Formula("copy", 2, _zero, read_only(0, 1), write_first),
    "SET": _copy(2),  # as if not in place: the first source is copied, then the second written into it
    "ACC": _of_source(1, slot=1, name="elementwise", sources=2),
    "GET_ROWS": _copy(2, read_rows),
    "GET_REL_POS": _copy(1, read_rows),
    "REPEAT": _copy(1, read_only(0)),
    "CONCAT": _copy(2),
    "FILL": _copy(0, read_only()),
    "IM2COL": _copy(2, read_only(1)),
    "IM2COL_3D": _copy(2, read_only(1)),
    # rows
    "NORM": _elementwise(5, name="norm"),
    "GROUP_NORM": _elementwise(5, name="norm"),
    "RMS_NORM": _elementwise(3, name="norm"),
    "L2_NORM": _elementwise(3, name="norm"),
    "RMS_NORM_BACK": _elementwise(7, 2, "norm"),
    "SOFT_MAX": _elementwise(5, name="softmax"),
    "SOFT_MAX_BACK": _elementwise(5, 2, "softmax"),
    "ROPE": _elementwise(3, 2, "rope"),
    "ROPE_BACK": _elementwise(3, 2, "rope"),
    "SUM": _of_source(1),
    "SUM_ROWS": _of_source(1),
    "CUMSUM": _of_source(1),
    "MEAN": _of_source(1),
    "ARGMAX": _of_source(1),
    "COUNT_EQUAL": _of_source(2, sources=2),
    "REPEAT_BACK": _of_source(1),
    "GET_ROWS_BACK": _of_source(1, sources=2, reads=read_only(0, 1)),
    "POOL_1D": _of_source(1),  # windows that do not overlap; their size is no shape
    "POOL_2D": _of_source(1),
    "POOL_2D_BACK": _of_source(1),
    "COL2IM_1D": _of_source(1),
    "IM2COL_BACK": _of_source(1, sources=2, reads=read_only(0)),
    "CROSS_ENTROPY_LOSS": _of_source(7, name="softmax", sources=2),
    "CROSS_ENTROPY_LOSS_BACK": _elementwise(8, 3, "softmax"),
    "ARGSORT": Formula("sort", 1, _sort),
    "TOP_K": Formula("sort", 1, _sort),
    # products
    "MUL_MAT": _product("gemm", 2, lambda r, s: float(2 * s[0].ne[0] * r.elements)),
    "OUT_PROD": _product("gemm", 2, lambda r, s: float(2 * s[0].ne[1] * r.elements), path_of=None),
    "MUL_MAT_ID": _product(
        "gemm_experts", 3, lambda r, s: float(2 * s[0].ne[0] * r.elements), read_experts(0, 2)
    ),
    "FLASH_ATTN_EXT": _product("attention", 3, _attention, read_attention, path_of=1),
    "FLASH_ATTN_BACK": _product("attention", 4, _attention_back, path_of=None),
    "LIGHTNING_INDEXER": _product(  # q [D, heads, T, …]: Σ over heads of weight · relu(q·k), and the mask
        "attention", 3, lambda r, s: float(r.elements * (s[0].ne[1] * (2 * s[0].ne[0] + 3) + 1)), path_of=None
    ),
    # convolutions: kernel [KW, KH, IC, OC], transposed [KW, KH, OC, IC] or [K, OC, IC], depthwise [KW, KH, 1, C]
    "CONV_2D": _product("conv", 2, lambda r, s: float(2 * prod(s[0].ne[:3]) * r.elements)),
    "CONV_3D": _product("conv", 2, _conv_3d),
    "CONV_2D_DW": Formula("conv", 2, lambda r, s: float(2 * prod(s[0].ne[:2]) * r.elements)),
    "CONV_TRANSPOSE_1D": _product("conv", 2, lambda r, s: float(2 * prod(s[0].ne[:2]) * s[1].elements)),
    "CONV_TRANSPOSE_2D": _product("conv", 2, lambda r, s: float(2 * prod(s[0].ne[:3]) * s[1].elements)),
    "SSM_CONV": Formula("conv", 2, lambda r, s: float(2 * s[1].ne[0] * r.elements)),
    # recurrences
    "SSM_SCAN": Formula("recurrence", 6, _ssm_scan, read_state),
    "RWKV_WKV6": _recurrence(7, 6, 0),
    "RWKV_WKV7": _recurrence(9, 7, 0),
    "GATED_LINEAR_ATTN": _recurrence(5, 5, 0),
    "GATED_DELTA_NET": _recurrence(7, 6, 2),
    "SOLVE_TRI": Formula("solve", 2, lambda r, s: float((s[0].ne[0] + 1) * r.elements)),
    # DeepSeek V4's hyper-connections: COMB iterates (how often is no shape), PRE sums streams, POST mixes them
    "DSV4_HC_COMB": Formula("unknown", 3, _uncountable),
    "DSV4_HC_PRE": _of_source(2, sources=2),
    "DSV4_HC_POST": Formula("elementwise", 4, lambda r, s: float((1 + 2 * r.ne[1]) * r.elements)),
    # training: AdamW reads and writes the weight and two moments
    "OPT_STEP_ADAMW": Formula(
        "elementwise", 4, lambda r, s: float(14 * r.elements), writes=lambda r, s: 3 * r.data_bytes
    ),
    "OPT_STEP_SGD": _elementwise(3, 2),
}  # fmt: skip


@lru_cache(maxsize=1024)
def formula_of(op: str) -> Formula | None:
    """The formula of an operator as the recording names it: `MUL_MAT`, `UNARY(SILU)`. None: never heard of it."""
    family, _, function = op.partition("(")
    count = {"UNARY": _UNARY, "GLU": _GLU}.get(family, {}).get(function.removesuffix(")"))
    return _elementwise(count) if count is not None else FORMULAS.get(family)
