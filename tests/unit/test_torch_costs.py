"""FLOPs and bytes of torch operators by hand; TraceLens' own tables are in tests/integration/test_import_oracles.py."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from flowprof.profiler.torch.costs import MAX_ELEMENTS, Cost, arguments, cost, shown

BF16, F32, F16 = "c10::BFloat16", "float", "c10::Half"
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
        assert of(other, dims + [[]] * 6, types, [*plain, "True", "[0]", "1"]) is None, "transposed"
        assert of(other, dims + [[]] * 6, types, [*plain, "", "[0]", "1"]) is None, "perhaps"
    assert of("aten::mkldnn_convolution", dims + [[]] * 4, types, ["", "", "", padding, stride, dilation, "1"]) == found


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


@pytest.mark.parametrize(
    ("name", "dims", "types"),
    [
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
    listed = arguments("[[[2, 3], [4, 3]], []]", '["TensorList(float)", "Scalar"]', None)
    assert shown("aten::cat", listed) == "2x3 · 4x3 f32"
