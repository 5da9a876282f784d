"""What PyTorch's operators were called with in a live process: shapes, strides and types; FLOPs and bytes by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch_engine
from flowprof.probes import torch as catalogue
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.schemas import operator_name, read_schemas, struct_name
from recorded import read
from torch_engine import recorded

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

SHAPES = """
import sys, torch
import torch.nn.functional as F
torch.set_grad_enabled(False)
print("1", flush=True)
for line in sys.stdin:
    a = torch.randn(5, 7)
    torch.mm(a, torch.randn(11, 7).t())
    torch.mm(torch.ones(3, 2, dtype=torch.float64), torch.ones(2, 9, dtype=torch.float64))
    torch.mm(torch.ones(3, 2, dtype=torch.int64), torch.ones(2, 9, dtype=torch.int64))
    torch.mm(torch.ones(3, 2, dtype=torch.bfloat16), torch.ones(2, 9, dtype=torch.bfloat16))
    F.linear(torch.randn(2, 3, 7), torch.randn(4, 7))
    F.linear(torch.randn(2, 3, 7), torch.randn(4, 7), torch.randn(4))
    F.conv2d(torch.randn(1, 3, 8, 9), torch.randn(6, 3, 3, 2), None, (2, 1), (1, 0), 1)
    q = torch.randn(1, 2, 5, 8)
    F.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.randn(1, 2, 1, 2, 1, 2).clone()
    torch.tensor(3.0).clone()
    torch.cat([torch.ones(2), torch.ones(3)])
    F.softmax(torch.randn(4, 6), -1)
    F.embedding(torch.tensor([[1, 2], [0, 1]]), torch.randn(10, 3))
    torch.randn(2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 3).clone()
    torch.cat([torch.ones(9)] * 8)
    torch.cat([torch.ones(2, 3), torch.ones(4, 3, dtype=torch.float64)])
    torch.convolution(torch.randn(1, 3, 8, 9), torch.randn(6, 3, 3, 2), None, [2, 1], [1, 0], [1, 1], False, [0, 0], 1)
    print("1", flush=True)
"""


def test_arguments_are_what_was_passed(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with torch_engine.running(SHAPES) as program, recorded(program.pid, path):
        program.ask("go")
    rows = read(
        path,
        "SELECT name, dims, types, scalars, strides FROM api_call LEFT JOIN api_args USING (args_id) "
        "WHERE parent_id IS NULL ORDER BY start_ns",
    )
    seen = [(name, *(json.loads(text) if text else None for text in texts)) for name, *texts in rows]
    mm = [row for row in seen if row[0] == "aten::mm"]
    assert [row[1] for row in mm] == [[[5, 7], [7, 11]], *[[[3, 2], [2, 9]]] * 3]
    assert [row[2][0] for row in mm] == ["float", "double", "long int", "c10::BFloat16"]
    assert mm[0][4] == [[7, 1], [1, 7]], "strides of a transposed matrix"
    linear = [row for row in seen if row[0] == "aten::linear"]
    assert [row[1] for row in linear] == [[[2, 3, 7], [4, 7], []], [[2, 3, 7], [4, 7], [4]]]
    assert [row[2] for row in linear] == [["float", "float", ""], ["float"] * 3]
    (convolution,) = (row for row in seen if row[0] == "aten::conv2d")
    assert convolution[1][:3] == [[1, 3, 8, 9], [6, 3, 3, 2], []]
    assert convolution[3][3:6] == ["[2, 1]", "[1, 0]", "[1, 1]"]
    (attention,) = (row for row in seen if row[0] == "aten::scaled_dot_product_attention")
    assert attention[1][:3] == [[1, 2, 5, 8]] * 3 and attention[3][5] == "True"
    clones = [row for row in seen if row[0] == "aten::clone"]
    assert [(row[1][0], row[2][0]) for row in clones] == [([1, 2] * 3, "float"), ([], "float"), ([], "")]
    assert [row[4][0] for row in clones] == [[], [], []], "more than five dimensions have no strides, eleven nothing"
    (softmax,) = (row for row in seen if row[0] == "aten::softmax")
    assert softmax[1][0] == [4, 6] and softmax[3][1] == "-1"
    (embedding,) = (row for row in seen if row[0] == "aten::embedding")
    assert embedding[1][:2] == [[10, 3], [2, 2]] and embedding[2][:2] == ["float", "long int"]
    cat = [row for row in seen if row[0] == "aten::cat"]
    assert [(row[1][0], row[2][0]) for row in cat] == [
        ([[2], [3]], "TensorList(float)"), ([], "TensorList"), ([], "TensorList"),
    ], "eight tensors are too many, and there is no word for two types"  # fmt: skip
    (convolution,) = (row for row in seen if row[0] == "aten::convolution")
    assert convolution[3][3:8] == ["[2, 1]", "[1, 0]", "[1, 1]", "False", "[0, 0]"]
    given = torch_costs.arguments(*(json.dumps(part) for part in convolution[1:4]))
    worked = torch_costs.cost("aten::convolution", given)
    assert worked is not None and worked.flops == 2 * 6 * 4 * 8 * 3 * 3 * 2


COSTED = """
import sys, torch
import torch.nn.functional as F
bf16, int8, f8 = torch.bfloat16, torch.int8, torch.float8_e4m3fn
lstm = torch.nn.LSTM(5, 6)
heads = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
packed = torch._convert_weight_to_int4pack_for_cpu(torch.randint(0, 15, (32, 64), dtype=torch.int32), 1)
print("1", flush=True)
for line in sys.stdin:
    q = torch.randn(2, 4, 8, 16, requires_grad=True)
    F.scaled_dot_product_attention(q, q * 1, q * 1, is_causal=True).sum().backward()
    with torch.no_grad():
        x = torch.randn(2, 3, 8)
        heads(x, x, x)
        lstm(torch.randn(3, 2, 5))
        F.conv_transpose2d(torch.randn(2, 4, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(6), 2, 1, 1, 2)
        F.batch_norm(torch.randn(2, 3, 4), torch.zeros(3), torch.ones(3))
        torch.index_select(torch.randn(10, 3), 0, torch.tensor([1, 2]))
        F.embedding_bag(torch.tensor([1, 2, 3, 4]), torch.randn(10, 3), torch.tensor([0, 2]))
        torch.addmv(torch.randn(3), torch.randn(3, 5), torch.randn(5))
        torch.addbmm(torch.randn(3, 7), torch.randn(4, 3, 5), torch.randn(4, 5, 7))
        torch._int_mm(torch.ones(3, 5, dtype=int8), torch.ones(5, 7, dtype=int8))
        wide = torch.ones(3, 64, dtype=bf16)
        torch._weight_int8pack_mm(wide, torch.ones(32, 64, dtype=int8), torch.ones(32, dtype=bf16))
        torch._weight_int4pack_mm_for_cpu(wide, packed, 32, torch.ones(2, 32, 2, dtype=bf16))
        one = torch.tensor(1.0)
        torch._scaled_mm(torch.ones(16, 32).to(f8), torch.ones(16, 32).to(f8).t(), one, one, out_dtype=bf16)
    print("1", flush=True)
"""
COSTS = {  # FLOPs, bytes
    "aten::scaled_dot_product_attention": (2 * 512 * 32 // 2, 4 * 1024 * 4),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (2 * 512 * 80 // 2, 8 * 1024 * 4),
    "aten::_native_multi_head_attention": (2 * 6 * 256 + 192 + 576, (2 * 48 + 192 + 24 + 64 + 8) * 4),
    "aten::mkldnn_rnn_layer": (2 * 6 * 264, (30 + 264 + 48 + 36) * 4),
    "aten::conv_transpose2d": (10800, (200 + 108 + 6 + 1200) * 4),
    "aten::batch_norm": (120, (2 * 24 + 6) * 4), "aten::index_select": (0, 2 * 24 + 16),
    "aten::embedding_bag": (12, (12 + 6) * 4 + 32 + 16), "aten::addmv": (33, (3 + 15 + 5 + 3) * 4),
    "aten::addbmm": (861, (21 + 60 + 140 + 21) * 4), "aten::_int_mm": (210, 15 + 35 + 84),
    "aten::_weight_int8pack_mm": (2 * 3 * 64 * 32, 384 + 2048 + 64 + 192),
    "aten::_weight_int4pack_mm_for_cpu": (2 * 3 * 64 * 32, 384 + 1024 + 256 + 192),
    "aten::_scaled_mm": (2 * 16 * 32 * 16, 2 * 512 + 512),
}  # fmt: skip


def test_costs_of_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with torch_engine.running(COSTED) as program, recorded(program.pid, path):
        program.ask("go")
    rows = read(path, "SELECT DISTINCT name, dims, types, scalars FROM api_call JOIN api_args USING (args_id)")
    found = {name: torch_costs.cost(name, torch_costs.arguments(*texts)) for name, *texts in rows}
    assert {name: one and (one.flops, one.size_bytes) for name in COSTS for one in [found.get(name)]} == COSTS


def test_the_default_set_of_this_torch() -> None:
    """Costs are tested for what is in this list."""
    torch_lib = next((torch_engine.python().parent.parent / "lib").glob("python3*/site-packages/torch/lib"))
    elf = ElfFile(str(torch_lib / "libtorch_cpu.so"))
    symbols = {one.name for one in elf.symbols().match(rf"_ZN2at4_ops\d+({catalogue.DEFAULT})4callE.*")}
    names = {symbol: str(struct_name(symbol)) for symbol in symbols}
    schemas = read_schemas(elf, names.values())
    told = sorted({f"{name} {operator_name(symbol, schemas)}" for symbol, name in names.items()})
    assert told == (Path(__file__).resolve().parents[1] / "data" / "torch_default_set.txt").read_text().splitlines()
