"""FLOPs and bytes of torch operators by hand; TraceLens' own tables are in tests/integration/test_import_oracles.py."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from flowprof.probes import torch as catalogue
from flowprof.profiler.torch import costs
from flowprof.profiler.torch.costs import MAX_ELEMENTS, Cost, arguments, cost, shown

BF16, F32, F16, F8 = "c10::BFloat16", "float", "c10::Half", "c10::Float8_e4m3fn"
I8, U8 = "signed char", "unsigned char"
DEFAULT_SET = Path(__file__).resolve().parents[1] / "data" / "torch_default_set.txt"
QKV = [[2, 4, 8, 16]] * 3
FLAT = [[2, 8, 4, 16]] * 3


def of(name: str, dims: list, types: list[str], scalars: Sequence[str] = ()) -> Cost | None:
    return cost(name, arguments(json.dumps(dims), json.dumps(types), json.dumps(list(scalars))))


@pytest.mark.parametrize(
    ("name", "dims", "types", "flops", "size_bytes", "path"),
    [
        ("aten::mm", [[3, 5], [5, 7]], [F32, F32], 210, (15 + 35 + 21) * 4, "f32"),
        ("aten::addmm", [[7], [3, 5], [5, 7], [], []], [BF16] * 3, 210 + 21, (15 + 35 + 21 + 7) * 2, "bf16"),
        ("aten::linear", [[2, 3, 5], [7, 5], [7]], [F16] * 3, 420 + 42, (30 + 35 + 42 + 7) * 2, "f16"),
        ("aten::linear", [[2, 3, 5], [7, 5], []], [F16, F16, ""], 420, (30 + 35 + 42) * 2, "f16"),
        ("aten::bmm", [[4, 3, 5], [4, 5, 7]], [F32, F32], 840, 4 * (15 + 35 + 21) * 4, "f32"),
        ("aten::baddbmm", [[4, 3, 7], [4, 3, 5], [4, 5, 7]], [F32] * 3, 840 + 84, (4 * (15 + 35 + 21) + 84) * 4, "f32"),
        ("aten::add", [[2, 3], [3], []], [F32, F32, "Scalar"], 6, (6 + 3 + 6) * 4, ""),
        ("aten::mul", [[2, 3], []], [BF16, "double"], 6, 6 * 2 + 8 + 6 * 2, ""),
        ("aten::silu", [[2, 3]], [BF16], 6, 24, ""),
        ("aten::copy_", [[2, 3], [2, 3], []], [F32, BF16, "Scalar"], 0, 6 * 4 + 6 * 2, ""),
        ("aten::copy_", [[4, 3], [3], []], [F32, F32, "Scalar"], 0, 12 * 4 + 3 * 4, ""),
        ("aten::clone", [[2, 3], []], [F32, ""], 0, 48, ""),
        ("aten::matmul", [[2, 3, 5], [5, 7]], [F32, F32], 2 * 6 * 5 * 7, (30 + 35 + 42) * 4, "f32"),
        # 4·2 products of 3x5 by 5x7; neither operand is moved more than once
        ("aten::matmul", [[4, 1, 3, 5], [2, 5, 7]], [F32, F32], 8 * 210, (60 + 70 + 8 * 21) * 4, "f32"),
        ("aten::matmul", [[3, 5], [4, 5, 7]], [BF16, BF16], 4 * 210, (15 + 140 + 84) * 2, "bf16"),
        ("aten::matmul", [[5], [5, 7]], [F32, F32], 70, (5 + 35 + 7) * 4, "f32"),
        ("aten::matmul", [[5], [4, 5, 7]], [F32, F32], 280, (5 + 140 + 28) * 4, "f32"),
        ("aten::matmul", [[2, 3, 5], [5]], [F32, F32], 60, (30 + 5 + 6) * 4, "f32"),
        ("aten::mv", [[3, 5], [5]], [F32, F32], 30, (15 + 5 + 3) * 4, "f32"),
        ("aten::dot", [[5], [5]], [F32, F32], 10, (5 + 5 + 1) * 4, "f32"),
        ("aten::vdot", [[5], [5]], [F32, F32], 10, (5 + 5 + 1) * 4, "f32"),
        ("aten::addmv", [[3], [3, 5], [5]], [F32] * 3, 30 + 3, (15 + 5 + 3 + 3) * 4, "f32"),
        ("aten::addbmm", [[3, 7], [4, 3, 5], [4, 5, 7]], [F32] * 3, 840 + 21, (60 + 140 + 21 + 21) * 4, "f32"),
        ("aten::mm", [[3, 5], [5, 7], [3, 7]], [F32] * 3, 210, (15 + 35 + 21) * 4, "f32"),  # mm_out
        ("aten::mkldnn_linear", [[2, 3, 5], [7, 5], [7]], [BF16] * 3, 420 + 42, (30 + 35 + 42 + 7) * 2, "bf16"),
        ("aten::_int_mm", [[3, 5], [5, 7]], [I8, I8], 210, 15 + 35 + 21 * 4, "int8"),
        # scales of one number each, [] or [1]; without a bias the result is taken for bf16, else it is of its type
        ("aten::_scaled_mm", [[3, 5], [5, 7], [], [1], [], []], [F8, F8, F32, F32, "", ""], 210, 50 + 4 + 42, "f8"),
        (
            "aten::_scaled_mm",
            [[3, 5], [5, 7], [3, 1], [1, 7], [7], []],
            [F8, F8, F32, F32, F32, ""],
            210 + 21,
            50 + 40 + 28 + 84,
            "f8",
        ),
        ("aten::_weight_int8pack_mm", [[3, 8], [6, 8], [6]], [BF16, I8, BF16], 288, 48 + 48 + 12 + 36, "bf16"),
        # 6 rows of 8 weights in 4 bytes, 2 groups of 4 with a scale and a zero
        (
            "aten::_weight_int4pack_mm_for_cpu",
            [[3, 8], [6, 4], [], [2, 6, 2]],
            [BF16, U8, "Scalar", BF16],
            288,
            48 + 24 + 48 + 36,
            "bf16",
        ),
        # CUDA's tiles of 8 rows and 16 · 2 columns: 8x64 weights in 2 · 32 · 1 words of 8
        (
            "aten::_weight_int4pack_mm",
            [[3, 64], [1, 2, 32, 1], [], [2, 8, 2]],
            [BF16, "int", "Scalar", BF16],
            2 * 3 * 64 * 8,
            3 * 64 * 2 + 256 + 64 + 3 * 8 * 2,
            "bf16",
        ),
        (
            "aten::_weight_int4pack_mm_with_scales_and_zeros",
            [[3, 8], [6, 1], [], [2, 6], [2, 6]],
            [F16, "int", "Scalar", F16, I8],
            288,
            48 + 24 + 24 + 12 + 36,
            "f16",
        ),
        # 3 steps of 2 rows: 4 · 6 gates by 5 of input and 6 of state, two biases
        (
            "aten::mkldnn_rnn_layer",
            [[3, 2, 5], [24, 5], [24, 6], [24], [24], [2, 6], [2, 6]],
            [F32] * 7,
            2 * 6 * (120 + 144),
            (30 + 120 + 144 + 48 + 36) * 4,
            "f32",
        ),
        (
            "aten::batch_norm",
            [[2, 3, 4, 5], [3], [3], [3], [3], []],
            [BF16, F32, F32, F32, F32, "Scalar"],
            600,
            120 * 4 + 12 * 4,
            "",
        ),
        ("aten::native_batch_norm", [[2, 3], [], [], [3], [3]], [F32, "", "", F32, F32], 30, 48 + 24, ""),
        (
            "aten::_native_batch_norm_legit",
            [[2, 3], [3], [3], [], [], [], [2, 3], [3], [3]],  # no_stats_out
            [F32] * 3 + ["Scalar"] * 3 + [F32] * 3,
            30,
            48 + 24,
            "",
        ),
        ("aten::instance_norm", [[2, 3, 4], [3], [3], [], []], [F32, F32, F32, "", ""], 120, 192 + 24, ""),
        ("aten::_copy_from", [[2, 3], [2, 3], []], [F32, BF16, "Scalar"], 0, 6 * 4 + 6 * 2, ""),
        ("aten::layer_norm", [[2, 3, 4], [], [4], [4], []], [F32, "ScalarList", F32, F32, ""], 120, (48 + 8) * 4, ""),
        ("aten::native_layer_norm", [[2, 4], [], [], []], [BF16, "ScalarList", "", ""], 40, 32, ""),
        ("aten::native_group_norm", [[2, 6, 5], [6], [6]], [F32, F16, F16], 300, 120 * 4 + 12 * 2, ""),
        ("aten::_fused_rms_norm", [[2, 4], [], [4]], [F16, "ScalarList", F16], 40, (16 + 4) * 2, ""),
        ("aten::_softmax", [[8, 16], [], []], [BF16, "Scalar", "Scalar"], 640, 512, ""),
        ("aten::log_softmax", [[8], []], [F32, "Scalar"], 40, 64, ""),
        ("aten::embedding", [[100, 8], [3, 5], []], [F16, "long int", "Scalar"], 0, 15 * 8 * 2 * 2 + 15 * 8, ""),
        ("aten::embedding", [[100, 8], []], [F32, "int"], 0, 8 * 4 * 2 + 4, ""),  # one index
        ("aten::cat", [[[2, 3], [4, 3]], []], ["TensorList(c10::Half)", "Scalar"], 0, 2 * 18 * 2, ""),
        ("aten::cat", [[[5]], []], ["TensorList(long int)", "Scalar"], 0, 80, ""),
        ("aten::stack", [[[2, 3]] * 3, []], ["TensorList(float)", "Scalar"], 0, 2 * 18 * 4, ""),
    ],
)
def test_by_hand(name: str, dims: list, types: list[str], flops: int, size_bytes: int, path: str) -> None:
    found = of(name, dims, types)
    assert found is not None
    assert (found.flops, found.size_bytes, found.path) == (flops, size_bytes, path)


@pytest.mark.parametrize(
    ("name", "dims", "types", "weights"),
    [
        ("aten::mm", [[3, 5], [5, 7]], [F32, F32], 35 * 4),
        ("aten::matmul", [[3, 5], [5, 7]], [F32, F32], 35 * 4),
        ("aten::matmul", [[2, 3, 5], [5, 7]], [BF16, BF16], 35 * 2),  # one matrix for the whole batch
        ("aten::matmul", [[3, 5], [1, 5, 7]], [F32, F32], 35 * 4),
        ("aten::matmul", [[2, 3, 5], [2, 5, 7]], [F32, F32], 0),
        ("aten::matmul", [[5], [5, 7]], [F32, F32], 35 * 4),
        ("aten::matmul", [[3, 5], [5]], [F32, F32], 15 * 4),  # by a vector: the matrix
        ("aten::matmul", [[2, 3, 5], [5]], [F32, F32], 0),
        ("aten::mv", [[3, 5], [5]], [F32, F32], 15 * 4),
        ("aten::addmv", [[3], [3, 5], [5]], [F32] * 3, 15 * 4),
        ("aten::dot", [[5], [5]], [F32, F32], 0),
        ("aten::addbmm", [[3, 7], [4, 3, 5], [4, 5, 7]], [F32] * 3, 0),
        ("aten::linear", [[2, 3, 5], [7, 5], [7]], [F16] * 3, 35 * 2),
        ("aten::_scaled_mm", [[3, 5], [5, 7], [], [], [], []], [F8, F8, F32, F32, "", ""], 35),
        ("aten::_int_mm", [[3, 5], [5, 7]], [I8, I8], 35),
        ("aten::_weight_int8pack_mm", [[3, 8], [6, 8], [6]], [BF16, I8, BF16], 48 + 12),
    ],
)
def test_weights_that_two_halves_of_a_batch_read_twice(name: str, dims: list, types: list[str], weights: int) -> None:
    found = of(name, dims, types)
    assert found is not None and found.weight_bytes == weights


def test_look_ups() -> None:
    """Rows 2 and 5 of a 10x3 table as bf16 have 12 bytes; 4 rows in bags of which there are 2."""
    dims, types = [[10, 3], [], [2]], [BF16, "Scalar", "long int"]
    assert of("aten::index_select", dims, types, ["", "0", ""]) == Cost(0, 2 * 12 + 16, "", "copy")
    assert of("aten::index_select", dims, types, ["", "-1", ""]) == Cost(0, 2 * 40 + 16, "", "copy")
    assert of("aten::index_select", [[10, 3], [], []], types, ["", "1", ""]) == Cost(0, 2 * 20 + 8, "", "copy")
    for scalar in ("", "2", "x"):
        assert of("aten::index_select", dims, types, ["", scalar, ""]) is None
    bags = [[10, 3], [4], [2], [], [], [], [], []]
    kinds = [F32, "long int", "long int", "Scalar", "Scalar", "Scalar", "", "Scalar"]
    for name in ("aten::embedding_bag", "aten::_embedding_bag", "aten::_embedding_bag_forward_only"):
        assert of(name, bags, kinds, [""] * 7 + ["False"]) == Cost(12, (12 + 6) * 4 + 48, "", "elementwise")
        assert of(name, bags, kinds, [""] * 7 + ["True"]) == Cost(12, (12 + 3) * 4 + 48, "", "elementwise")
        weighted = [*bags[:6], [4], []], [*kinds[:6], F32, "Scalar"]
        assert of(name, *weighted, [""] * 7 + ["False"]) == Cost(24, (12 + 6 + 4) * 4 + 48, "", "elementwise")
        assert of(name, bags, kinds) is None, "how many bags"


# stride, padding, dilation
CONVOLUTIONS = [
    # 10+2-2 = 10 → 9//2+1 = 5 rows; 12+2-4 = 10 → 10 columns; 2·6·5·10 results of 4·9 products
    ("aten::conv2d", [[2, 8, 10, 12], [6, 4, 3, 3], [6]], ("[2, 1]", "[1, 1]", "[1, 2]"), 2 * 600 * 36,
     (1920 + 216 + 6 + 600) * 4),
    ("aten::conv2d", [[2, 8, 10, 12], [6, 4, 3, 3], []], ("[2]", "[1]", "[1]"), 2 * (2 * 6 * 5 * 6) * 36,
     (1920 + 216 + 360) * 4),  # one number for both
    ("aten::conv1d", [[1, 3, 10], [2, 3, 4], []], ("[3]", "[0]", "[1]"), 2 * 6 * 12, (30 + 24 + 6) * 4),
    ("aten::conv3d", [[1, 1, 4, 4, 4], [1, 1, 2, 2, 2], []], ("[2, 2, 2]", "[0, 0, 0]", "[1, 1, 1]"), 2 * 8 * 8,
     (64 + 8 + 8) * 4),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dims", "lists", "flops", "size_bytes"), CONVOLUTIONS)
def test_convolutions(name: str, dims: list, lists: tuple[str, ...], flops: int, size_bytes: int) -> None:
    types = [F32 if shape else "" for shape in dims]
    found = of(name, dims + [[]] * 4, types + [""] * 4, ["", "", "", *lists, "1"])
    assert found == Cost(flops, size_bytes, "f32", "convolution")
    stride, padding, dilation = lists
    for other in ("aten::convolution", "aten::_convolution"):
        plain = ["", "", "", *lists]
        assert of(other, dims + [[]] * 6, types, [*plain, "False", "[0]", "1"]) == found
        assert of(other, dims + [[]] * 6, types, [*plain, "True", "[0]", "1"]) != found, "transposed"
        assert of(other, dims + [[]] * 6, types, [*plain, "", "[0]", "1"]) is None, "perhaps"
    assert of("aten::mkldnn_convolution", dims + [[]] * 4, types, ["", "", "", padding, stride, dilation, "1"]) == found
    assert of("aten::cudnn_convolution_relu", dims + [[]] * 4, types, ["", "", "", *lists, "1"]) == found
    if not dims[2]:
        assert of("aten::cudnn_convolution", dims + [[]] * 3, types, ["", "", padding, stride, dilation, "1"]) == found
    sized, kinds = [*dims[:2], [], *dims[2:]], [*types[:2], "", *types[2:]]
    assert of("aten::_conv_depthwise2d", sized + [[]] * 3, kinds, ["", "", "", "", *lists]) == found
    added = [*dims[:2], [7], [], *dims[2:]], [*types[:2], F32, "", *types[2:]]
    with_addend = of("aten::cudnn_convolution_add_relu", [*added[0], *[[]] * 4], added[1], ["", "", "", "", "", *lists])
    assert with_addend == Cost(flops, size_bytes + 7 * 4, "f32", "convolution")


def test_a_convolution_that_has_no_dilation() -> None:
    found = of("aten::_slow_conv2d_forward", [[1, 2, 5, 5], [3, 2, 2, 2], [], [3], [], []], [F32, F32, "", F32],
               ["", "", "[2, 2]", "", "[1, 1]", "[0, 0]"])  # fmt: skip
    assert found == Cost(2 * 3 * 16 * 8, (50 + 24 + 3 + 48) * 4, "f32", "convolution")


# (5 − 1)·2 − 2·1 + 1·(3 − 1) + 1 + 1 = 10 rows; 2·4·5·5 elements of input, each by 3 channels of a group and 3·3 taps
TRANSPOSED_FLOPS, WITHOUT_OUTPUT = 2 * (2 * 4 * 25) * 3 * 9, 2 * 4 * 25 + 4 * 3 * 9
TRANSPOSED = {"stride": "[2, 2]", "padding": "[1, 1]", "more": "[1, 1]", "dilation": "[1, 1]"}
OF_TRANSPOSED = {
    "aten::conv_transpose2d": ("", "", "", "stride", "padding", "more", "groups", "dilation"),
    "aten::convolution": ("", "", "", "stride", "padding", "dilation", "True", "more", "groups"),
    "aten::_convolution": ("", "", "", "stride", "padding", "dilation", "True", "more", "groups"),
    "aten::cudnn_convolution_transpose": ("", "", "padding", "more", "stride", "dilation", "groups"),
}


@pytest.mark.parametrize(
    ("name", "bias", "groups", "channels"),
    [
        (name, bias, groups, channels)
        for name in OF_TRANSPOSED
        for bias, groups, channels in (([], "2", 6), ([6], "", 6), ([3], "", 3), ([], "", 0))
        if not bias or not name.startswith("aten::cudnn")  # it has none
    ],
)
def test_transposed_convolutions(name: str, bias: list[int], groups: str, channels: int) -> None:
    """How many channels come out: the bias says so, or the groups, which a live process does not tell."""
    given = TRANSPOSED | {"groups": groups}
    found = of(name, [[2, 4, 5, 5], [4, 3, 3, 3], bias] + [[]] * 6, [F32, F32, F32 if bias else ""] + [""] * 6,
               [given.get(word, word) for word in OF_TRANSPOSED[name]])  # fmt: skip
    size = (WITHOUT_OUTPUT + sum(bias) + 2 * channels * 100) * 4
    assert found == (Cost(TRANSPOSED_FLOPS, size, "f32", "convolution") if channels else None)


@pytest.mark.parametrize(
    ("shape", "weight", "change"),
    [
        ([2, 5, 5, 5], [4, 3, 3, 3], {}),  # another number of channels
        ([2, 4, 5], [4, 3, 3, 3], {}),
        ([2, 4, 5, 5], [4, 3, 3, 3], {"padding": "[9, 9]"}),  # nothing comes out
        ([2, 4, 5, 5], [4, 4, 3, 3], {}),  # six channels in fours
        ([2, 4, 5, 5], [4, 0, 3, 3], {}),
        ([2, 4, 5, 5], [4, 3, 3, 3], {"more": ""}),
    ],
)
def test_transposed_convolutions_that_do_not_fit(shape: list, weight: list, change: dict[str, str]) -> None:
    given = TRANSPOSED | change
    scalars = [given.get(word, word) for word in OF_TRANSPOSED["aten::conv_transpose2d"]]
    assert of("aten::conv_transpose2d", [shape, weight, [6]] + [[]] * 5, [F32] * 3 + [""] * 5, scalars) is None


@pytest.mark.parametrize(
    ("dims", "lists"),
    [
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[0, 1]", "[1, 1]", "[1, 1]")),  # no step
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[1, 1]", "", "[1, 1]")),  # padding "same" is not recorded
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[1, 1]", "same", "[1, 1]")),
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[1, 1]", "[-9, 0]", "[1, 1]")),
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[1, 1, 1]", "[1, 1]", "[1, 1]")),
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[1, 1]", "[0, 0]", "[9, 9]")),  # the kernel is larger
        ([[2, 8, 10, 12], [6, 3, 3, 3], []], ("[1, 1]", "[1, 1]", "[1, 1]")),  # 8 channels in threes
        ([[2, 8, 10, 12], [6, 0, 3, 3], []], ("[1, 1]", "[1, 1]", "[1, 1]")),
        ([[8, 10, 12], [6, 4, 3, 3], []], ("[1, 1]", "[1, 1]", "[1, 1]")),  # no batch
        ([[2, 8], [6, 4], []], ("[1, 1]", "[1, 1]", "[1, 1]")),
        ([[], [6, 4, 3, 3], []], ("[1, 1]", "[1, 1]", "[1, 1]")),
        ([[2, 8, 10, 12]], ("[1, 1]", "[1, 1]", "[1, 1]")),
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[1e3, 1]", "[1, 1]", "[1, 1]")),
        ([[2, 8, 10, 12], [6, 4, 3, 3], []], ("[[1], 1]", "[1, 1]", "[1, 1]")),
    ],
)
def test_convolutions_that_do_not_fit(dims: list, lists: tuple[str, ...]) -> None:
    types = [F32 if shape else "" for shape in dims]
    assert of("aten::conv2d", dims + [[]] * 4, types, ["", "", "", *lists]) is None


def test_attention_of_groups_and_widths() -> None:
    """8 query heads, 2 of keys; 16 tokens look at 32; products 64 wide, values 48."""
    dims = [[2, 8, 16, 64], [2, 2, 32, 64], [2, 2, 32, 48], [16, 32], [], []]
    scalars = ["", "", "", "", "0.", "False"]
    found = of("aten::scaled_dot_product_attention", dims, [F16] * 4, scalars)
    elements = 2 * 8 * 16 * 64 + 2 * 2 * 32 * 64 + 2 * 2 * 32 * 48 + 2 * 8 * 16 * 48
    assert found == Cost(2 * 2 * 8 * 16 * 32 * (64 + 48), elements * 2, "f16", "attention")
    causal = of("aten::scaled_dot_product_attention", dims, [F16] * 4, [*scalars[:5], "True"])
    assert causal is not None and causal.flops * 2 == found.flops
    for at, shape in ((1, [2, 2, 32, 63]), (2, [2, 2, 31, 48]), (0, [2, 8, 16, 0]), (0, [2, 8, 16]), (1, [])):
        other = [shape if n == at else one for n, one in enumerate(dims)]
        assert of("aten::scaled_dot_product_attention", other, [F16] * 4, scalars) is None, shape


@pytest.mark.parametrize(
    ("name", "causal"),
    [("aten::_scaled_dot_product_flash_attention_for_cpu", 4), ("aten::_scaled_dot_product_cudnn_attention", 6),
     ("aten::_scaled_dot_product_efficient_attention", 6), ("aten::scaled_dot_product_attention", 5)],
)  # fmt: skip
def test_where_the_schema_has_is_causal(name: str, causal: int) -> None:
    halves = []
    for at in range(9):
        found = of(name, QKV + [[]] * 6, [BF16] * 3, ["True" if n == at else "" for n in range(9)])
        assert found is not None
        halves.append(found.flops == 2 * 2 * 4 * 8 * 8 * 32 // 2)
    assert [at for at, halved in enumerate(halves) if halved] == [causal]


@pytest.mark.parametrize(
    ("name", "dims", "scalars", "halved"),
    [
        ("aten::_scaled_dot_product_flash_attention", QKV, ["", "", "", "0.", "True"], True),
        ("aten::_scaled_dot_product_flash_attention", QKV, ["", "", "", "0.", "False"], False),
        ("aten::_flash_attention_forward", FLAT, [""] * 8 + ["True"], True),
    ],
)
def test_attention(name: str, dims: list, scalars: list[str], halved: bool) -> None:
    found = of(name, dims + [[]] * (len(scalars) - 3), [BF16] * 3, scalars)
    assert found is not None
    assert found.flops == 2 * 2 * 4 * 8 * 8 * 32 // (2 if halved else 1)
    assert found.size_bytes == 4 * 2 * 4 * 8 * 16 * 2


def test_attention_of_quantised_matrices() -> None:
    """Their scales stand where others have is_causal, as numbers or not at all."""
    for causal, halved in (("True", 2), ("False", 1)):
        found = of("aten::_scaled_dot_product_flash_attention", QKV + [[], [1], []] + [[]] * 4, [F8] * 3 + [F32] * 3,
                   [""] * 7 + [causal, "", ""])  # fmt: skip
        assert found is not None and found.flops == 2 * 2 * 4 * 8 * 8 * 32 // halved and found.path == "f8"


def test_efficient_attention() -> None:
    for mask, halved in (("0", 1), ("1", 2), ("2", 2)):
        scalars = [""] * 9 + [mask]
        found = of("aten::_efficient_attention_forward", FLAT + [[]] * 7, [BF16] * 3 + [""] * 7, scalars)
        assert found == Cost(2 * 2 * 4 * 8 * 8 * 32 // halved, 4 * 2 * 4 * 8 * 16 * 2, "bf16", "attention")
    packed = FLAT + [[], [3], [3]] + [[]] * 4
    assert of("aten::_efficient_attention_forward", packed, [BF16] * 3 + ["", "int", "int"], scalars) is None


@pytest.mark.parametrize(
    ("kind", "causal"),
    [("flash", 11), ("flash_attention_for_cpu", 7), ("efficient", 11), ("cudnn", 14), ("fused", 13)],
)
def test_attention_backward(kind: str, causal: int) -> None:
    """2·4·8·8 pairs of tokens; sums over 16 elements: QKᵀ, dSᵀQ, dSK; over 12: dO·Vᵀ, Pᵀ·dO."""
    endings = {"flash": "flash_attention", "efficient": "efficient_attention", "cudnn": "cudnn_attention",
               "fused": "fused_attention_overrideable"}  # fmt: skip
    name = f"aten::_scaled_dot_product_{endings.get(kind, kind)}_backward"
    value, wide = [2, 4, 8, 12], [2, 4, 8, 16]
    dims, types = [value, wide, wide, value] + [[]] * 12, [F32] * 4 + [""] * 12
    flops, elements = 2 * (2 * 4 * 8 * 8) * (3 * 16 + 2 * 12), 2 * (2 * 4 * 8) * (2 * 16 + 2 * 12)
    for said, cost_is in (("False", flops), ("True", flops // 2)):
        scalars = [said if at == causal else "" for at in range(16)]
        assert of(name, dims, types, scalars) == Cost(cost_is, elements * 4, "f32", "attention")
    assert of(name, dims, types, [""] * 16) is None, "of a live GPU it is not read: there are too many tensors"


def test_attention_with_its_projections() -> None:
    """2·3 tokens of 8: 4 products by 8x8 weights each, 2·3·3 pairs twice by 8; 3 · 8 + 8 biases."""
    dims = [[2, 3, 8]] * 3 + [[], [], [24, 8], [24], [8, 8], [8]]
    found = of("aten::_native_multi_head_attention", dims, [F32] * 3 + ["", ""] + [F32] * 4)
    weights = (192 + 24 + 64 + 8) * 4
    flops = 2 * 6 * 4 * 64 + 6 * 32 + 2 * 2 * 18 * 8
    assert found == Cost(flops, 2 * 48 * 4 + weights, "f32", "attention", weights)
    for at, shape in ((1, [2, 4, 8]), (5, [16, 8]), (7, []), (0, [3, 8])):
        other = [shape if n == at else one for n, one in enumerate(dims)]
        assert of("aten::_native_multi_head_attention", other, [F32] * 3 + ["", ""] + [F32] * 4) is None


def test_every_operator_of_the_default_set_has_a_cost_or_a_reason() -> None:
    """The set as torch 2.13 has it (test_torch_arguments_real.py holds the list against the library)."""
    struct_names, names = zip(*map(str.split, DEFAULT_SET.read_text().splitlines()), strict=True)
    assert len(names) > 100 and all(re.fullmatch(catalogue.DEFAULT, name) for name in struct_names)
    assert set(names) - costs.FORMULAS.keys() == set(costs.WITHOUT)


@pytest.mark.parametrize(
    ("name", "dims", "types"),
    [
        ("aten::_int_mm", [[3, 5], [6, 7]], [I8, I8]),
        ("aten::_scaled_mm", [[3, 5], [6, 7], [], [], [], []], [F8, F8, F32, F32, "", ""]),
        ("aten::_scaled_mm", [[3, 5], [5, 7]], [F8, F8]),
        ("aten::_weight_int8pack_mm", [[3, 8], [6, 7], [6]], [BF16, I8, BF16]),
        ("aten::_weight_int4pack_mm", [[3, 8], [6, 5], [], [2, 6, 2]], [BF16, U8, "", BF16]),
        ("aten::_weight_int4pack_mm", [[3, 8], [6, 4], []], [BF16, U8, ""]),
        ("aten::mkldnn_rnn_layer", [[3, 2, 5], [24, 4], [24, 6], [], []], [F32] * 5),
        ("aten::mkldnn_rnn_layer", [[3, 2, 5], [24, 5], [12, 6], [], []], [F32] * 5),
        ("aten::addbmm", [[3, 7], [4, 3, 5], [3, 5, 7]], [F32] * 3),
        ("aten::addbmm", [[], [4, 3, 5], [4, 5, 7]], [F32] * 3),
        ("aten::addmv", [[3], [3, 5], [4]], [F32] * 3),
        ("aten::batch_norm", [[], [3]], [F32, F32]),
        ("aten::mm", [[3, 5], [6, 7]], [F32, F32]),
        ("aten::mm", [[3], [3]], [F32, F32]),
        ("aten::mm", [], []),
        ("aten::mm", [[3, 5], [5, 7]], ["quaternion", F32]),
        ("aten::mm", [[MAX_ELEMENTS, 5], [5, 7]], [F32, F32]),
        ("aten::mm", [[3, -5], [-5, 7]], [F32, F32]),
        ("aten::mm", [[True, 5], [5, 7]], [F32, F32]),
        ("aten::add", [[2], [3]], [F32, F32]),
        ("aten::add", [[], []], ["Scalar", "Scalar"]),
        ("aten::copy_", [[2, 3]], [F32]),
        ("aten::matmul", [[3, 5], [6, 7]], [F32, F32]),
        ("aten::matmul", [[4, 3, 5], [3, 5, 7]], [F32, F32]),
        ("aten::matmul", [[], [5, 7]], [F32, F32]),
        ("aten::matmul", [[5]], [F32]),
        ("aten::dot", [[5], [6]], [F32, F32]),
        ("aten::matmul", [[1 << 40, 5], [1 << 40, 5, 7]], [F32, F32]),
        ("aten::bmm", [[4, 3, 5], [3, 5, 7]], [F32, F32]),
        ("aten::linear", [[3, 5], [7, 6]], [F32, F32]),
        ("aten::linear", [[3, 5], [5]], [F32, F32]),
        ("aten::layer_norm", [[]], [F32]),
        ("aten::layer_norm", [[4], [], [4]], [F32, "", "quaternion"]),
        ("aten::embedding", [[8], [3]], [F32, "int"]),
        ("aten::embedding", [[8, 8], []], [F32, ""]),
        ("aten::softmax", [], []),
        ("aten::sort", [[2, 3]], [F32]),
        ("aten::cat", [[[2, 3], [2, 3]], []], ["TensorList", "Scalar"]),  # as from Kineto
        ("aten::cat", [[[2, 3], []], []], ["TensorList(float)", "Scalar"]),
        ("aten::cat", [[[2, 3], "x"], []], ["TensorList(float)", "Scalar"]),
        ("aten::cat", [[2, 3], []], ["TensorList(float)", "Scalar"]),
        ("aten::cat", [[[1]] * 5000, []], ["TensorList(float)", "Scalar"]),
        ("aten::cat", [[[2, 3]], []], ["TensorList(quaternion)", "Scalar"]),
        ("aten::cat", [[[2, 3], [2, 3]], []], [F32, "Scalar"]),
    ],
)
def test_what_does_not_fit_has_no_cost(name: str, dims: list, types: list[str]) -> None:
    assert of(name, dims, types) is None


@pytest.mark.parametrize("text", [None, "", "{}", "[", "7", '"x"', "[" * 5000, "null", '["a", {"b": 1}]', "[NaN]"])
def test_hostile_texts(text: str | None) -> None:
    assert cost("aten::mm", arguments(text, text, text)) is None


def test_shown() -> None:
    assert shown("aten::mm", arguments("[[3, 5], [5, 7]]", json.dumps([BF16, BF16]), None)) == "3x5 · 5x7 bf16"
    columns = arguments("[[3, 5], [5, 7], [1, 7]]", json.dumps([BF16] * 3), None, "[[5, 1], [1, 5], [1, 1]]")
    assert shown("aten::mm", columns) == "3x5 · 5x7.T · 1x7 bf16"
    assert shown("aten::mm", arguments("[[3, 5]]", json.dumps([BF16]), None, '[[1, "x"], 7]')) == "3x5.T bf16"
    assert shown("aten::mm", arguments("[[3, 5]]", json.dumps([BF16]), None, '{"a": [')) == "3x5 bf16"
    listed = arguments("[[[2, 3], [4, 3]], []]", '["TensorList(float)", "Scalar"]', None)
    assert shown("aten::cat", listed) == "2x3 · 4x3 f32"
