"""PyTorch's operators in a live process: counts, nesting, shapes, times, exceptions and threads against the truth."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch_engine
from flowprof.probes import torch as catalogue
from flowprof.profiler import cache
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.record.windows import INITIAL_CREDIT_S
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.store import Recording
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.schemas import operator_name, read_schemas, struct_name
from recorded import read, recording_of
from torch_engine import recorded
from undisturbed import DISTURBED, first_in_line

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

LAYER = """
import json, sys, time, torch
import torch.nn.functional as F
torch.manual_seed(0)
torch.set_num_threads(1)
torch.set_grad_enabled(False)
D, H, T = 256, 4, 96
x = torch.randn(T, D)
W = [torch.randn(D, D) / 16 for _ in range(4)]
b = torch.randn(D)
up, down = torch.randn(4 * D, D) / 16, torch.randn(D, 4 * D) / 32
def layer(x):
    h = F.layer_norm(x, (D,))
    q, k, v = (F.linear(h, w, b).view(T, H, D // H).transpose(0, 1) for w in W[:3])
    s = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / 8, -1)
    a = torch.bmm(s, v).transpose(0, 1).contiguous().view(T, D)
    x = x + F.linear(a, W[3], b)
    return x + F.linear(F.gelu(F.linear(F.layer_norm(x, (D,)), up)), down)
layer(x)
print("1", flush=True)
for line in sys.stdin:
    how, count = line.split()
    if how in ("cpu_time_total", "self_cpu_time_total"):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            for _ in range(int(count)):
                layer(x)
        found = {}
        for e in seen.events():
            if e.name.startswith("aten::"):
                found.setdefault(e.name, []).append(getattr(e, how))
        print(json.dumps(found), flush=True)
    else:
        for _ in range(int(count)):
            layer(x)
        print("1", flush=True)
"""
HOOKS_US = 20  # of a call: half of each probe's hit and what torch.profiler does before it looks at the clock
PER_LAYER = {  # by the code above: operators that the default set holds
    "aten::layer_norm": 2, "aten::native_layer_norm": 2, "aten::linear": 6, "aten::addmm": 4, "aten::matmul": 2,
    "aten::mm": 2, "aten::bmm": 2, "aten::softmax": 1, "aten::_softmax": 1, "aten::contiguous": 1, "aten::clone": 1,
}  # fmt: skip


def test_every_call_of_a_layer_is_there(tmp_path: Path) -> None:
    path, count = tmp_path / "x.duckdb", 40
    with torch_engine.running(LAYER) as program, recorded(program.pid, path):
        program.ask(f"run {count}")
    found = dict(read(path, "SELECT name, count(*) FROM api_call GROUP BY name"))
    assert {name: found.get(name, 0) / count for name in PER_LAYER} == PER_LAYER
    assert set(found) - set(PER_LAYER) <= {"aten::copy_", "aten::_to_copy", "aten::to"}
    parents = Counter(
        read(path, "SELECT c.name, p.name FROM api_call c LEFT JOIN api_call p ON c.parent_id = p.call_id")
    )
    assert parents["aten::linear", None] == 6 * count
    assert parents["aten::addmm", "aten::linear"] == 4 * count
    assert parents["aten::mm", "aten::matmul"] == parents["aten::matmul", "aten::linear"] == 2 * count
    assert parents["aten::native_layer_norm", "aten::layer_norm"] == 2 * count
    assert read(path, "SELECT count(*) FROM api_call WHERE end_ns IS NULL OR end_ns < start_ns") == [(0,)]
    assert read(
        path,
        "SELECT count(*) FROM api_call c JOIN api_call p ON c.parent_id = p.call_id "
        "WHERE c.start_ns < p.start_ns OR c.end_ns > p.end_ns OR c.depth <> p.depth + 1 OR c.tid <> p.tid",
    ) == [(0,)]
    assert dict(read(path, "SELECT place, events FROM loss_by_place")) == {}


def test_shapes_make_flops(tmp_path: Path) -> None:
    path, count = tmp_path / "x.duckdb", 10
    with torch_engine.running(LAYER) as program, recorded(program.pid, path):
        program.ask(f"run {count}")
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    table = report.get(TorchOperators)
    assert table is not None, report.section("torch_operators").reason
    counted = {
        row.name: round(row.flops_per_s * row.total_ns / 1e9 / row.calls)
        for row in table.rows
        if row.flops_per_s and row.name in ("aten::mm", "aten::bmm")
    }
    assert counted["aten::mm"] == 2 * 96 * 256 * 1024  # both have as many
    assert counted["aten::bmm"] == 2 * 4 * 96 * 64 * 96
    assert report.source.rung == "torch op: dispatch"


def test_times_are_torchs_own_profilers(tmp_path: Path) -> None:
    """The same calls seen by flowprof and by torch.profiler: as many, as dear, and each as long, but for the probes."""
    path, count = tmp_path / "x.duckdb", 240
    with torch_engine.running(LAYER, "taskset", "-c", "0") as program, recorded(program.pid, path, torch_ops="all"):
        program.ask("run 20")  # warm
        theirs: dict[str, list[float]] = program.ask(f"cpu_time_total {count}")
    ours: dict[str, list[float]] = {}
    for name, us in read(path, "SELECT name, (end_ns - start_ns) / 1e3 FROM api_call ORDER BY start_ns"):
        ours.setdefault(name, []).append(float(us))
    assert len(theirs) > 15
    assert {name: len(times) * (20 + count) // count for name, times in theirs.items()} == {
        name: len(times) for name, times in ours.items()
    }
    mine_first, theirs_first = (sorted(of, key=lambda name: -sum(of[name])) for of in (ours, theirs))
    assert set(mine_first[:3]) <= set(theirs_first[:5]) and set(theirs_first[:3]) <= set(mine_first[:5])
    large = [name for name, times in theirs.items() if statistics.median(times) >= 50]
    assert len(large) > 3
    for name in large:
        pairs = zip(ours[name][-len(theirs[name]) :], theirs[name], strict=True)
        longer = statistics.median(mine - other for mine, other in pairs)
        assert 0 < longer < HOOKS_US, name


OWN_SQL = """
SELECT name, median(ns) / 1e3 FROM (
    SELECT any_value(c.name) AS name,
           any_value(c.end_ns - c.start_ns) - coalesce(sum(inside.end_ns - inside.start_ns), 0) AS ns
    FROM api_call c LEFT JOIN api_call inside ON inside.parent_id = c.call_id GROUP BY c.call_id
) GROUP BY name
"""


@DISTURBED
def test_own_times_are_those_of_torchs_own_profiler_alone(tmp_path: Path) -> None:
    """The same loop in a second run, with torch.profiler in flowprof's place: seven pairs of runs."""
    count, larger = 40, LAYER.replace("D, H, T = 256, 4, 96", "D, H, T = 256, 4, 512")
    assert larger != LAYER
    turns: list[tuple[dict[str, float], dict[str, float]]] = []  # µs of a call: flowprof's, torch.profiler's
    with torch_engine.running(larger, "setsid", "taskset", "-c", "0") as program:
        first_in_line(program.pid)
        program.ask("run 20")  # warm
        for turn in range(7):
            path = tmp_path / f"{turn}.duckdb"
            with recorded(program.pid, path):
                program.ask(f"run {count}")
            theirs: dict[str, list[float]] = program.ask(f"self_cpu_time_total {count}")
            turns.append((dict(read(path, OWN_SQL)), {name: statistics.median(us) for name, us in theirs.items()}))
    both = PER_LAYER.keys() & turns[0][0].keys() & turns[0][1].keys()
    assert both == PER_LAYER.keys()
    ours, alone = ({name: statistics.median(turn[side][name] for turn in turns) for name in both} for side in (0, 1))
    first = [sorted(both, key=lambda name: -of[name] * PER_LAYER[name])[:3] for of in (ours, alone)]
    assert first[0] == first[1]
    large = {name for name in both if alone[name] >= 50}
    assert large == {"aten::mm", "aten::addmm", "aten::bmm", "aten::_softmax", "aten::native_layer_norm"}
    ratios = {name: statistics.median(mine[name] / other[name] for mine, other in turns) for name in large}
    assert ratios == {name: pytest.approx(1, abs=0.1) for name in large}


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


THROWS = """
import sys, threading, torch
import torch.nn.functional as F
torch.set_grad_enabled(False)
good, bad = torch.randn(4, 4), torch.randn(5, 5)
print("1", flush=True)
for line in sys.stdin:
    def work(count):
        caught = 0
        for _ in range(count):
            torch.mm(good, good)
            for wrong in (lambda: torch.mm(good, bad), lambda: F.linear(good, bad)):
                try:
                    wrong()
                except RuntimeError:
                    caught += 1
            torch.mm(good, good)
        return caught
    count = int(line)
    threads = [threading.Thread(target=work, args=(count,)) for _ in range(3)]
    [one.start() for one in threads], [one.join() for one in threads]
    print(work(count), flush=True)
"""


def test_exceptions_leave_operators(tmp_path: Path) -> None:
    """They pass frames that are probed; the program catches them, and the frames stay balanced on every thread."""
    path, count = tmp_path / "x.duckdb", 50
    with torch_engine.running(THROWS) as program:
        with recorded(program.pid, path):
            assert program.ask(str(count)) == 2 * count, "the target runs on"
        assert program.ask("1") == 2
    by_thread = read(
        path,
        "SELECT tid, name, count(*), count(end_ns) FROM api_call WHERE parent_id IS NULL GROUP BY ALL ORDER BY 1, 2",
    )
    assert len({tid for tid, *_ in by_thread}) == 4
    for _, name, calls, ended in by_thread:
        if name == "aten::mm":
            assert (calls, ended) == (3 * count, 2 * count)
        else:
            assert (name, calls, ended) == ("aten::linear", count, 0)
    assert read(path, "SELECT max(depth) FROM api_call WHERE name = 'aten::mm' AND end_ns IS NOT NULL") == [(0,)]
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(TorchOperators)
    assert table is not None and sum(row.left for row in table.rows if row.name == "aten::linear") == 4 * count
    assert len(table.threads) == 4


TRAINS = """
import pathlib, sys, tempfile, torch
w, x = torch.randn(64, 64, requires_grad=True), torch.randn(64, 64)
with tempfile.TemporaryDirectory() as folder:  # TorchScript wants sources
    pathlib.Path(folder, "scripted.py").write_text('''
import torch
@torch.jit.script
def products(x):
    for i in range(5):
        x = torch.matmul(x, x)  # TorchScript's own call does not come by at::_ops, that of mm in it does
    return x
@torch.jit.script
def beside(x):
    one, other = torch.jit.fork(products, x), torch.jit.fork(products, x)
    return torch.jit.wait(one), torch.jit.wait(other)
''')
    sys.path.insert(0, folder)
    from scripted import beside
    beside(x)
print("1", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        torch.mm(torch.mm(x, w), w).sum().backward()  # two products forward, three backward: x needs none
        with torch.no_grad():
            beside(x)
    print("1", flush=True)
"""


def test_threads_and_backward_passes_are_told_apart(tmp_path: Path) -> None:
    path, count = tmp_path / "x.duckdb", 20
    with torch_engine.running(TRAINS) as program, recorded(program.pid, path):
        program.ask(str(count))
    names = read(
        path,
        "SELECT c.tid = c.pid, p.name, count(*), count(c.end_ns) FROM api_call c LEFT JOIN api_call p "
        "ON p.call_id = c.parent_id WHERE c.name = 'aten::mm' GROUP BY ALL ORDER BY 1, 2 NULLS LAST",
    )
    backward = "autograd::engine::execute"
    assert [row for row in names if row[0]] == [
        (True, backward, 3 * count, 3 * count), (True, None, 2 * count, 2 * count)
    ]  # fmt: skip
    assert [row[1:] for row in names if not row[0]] == [("TorchScript", 10 * count, 10 * count)]
    assert read(path, f"SELECT kind, count(*), count(end_ns) FROM api_call WHERE name = '{backward}' GROUP BY 1") == [
        ("annotation", count, count)
    ]
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(TorchOperators)
    assert table is not None
    calls = Counter({"main": 0})
    for thread in table.threads:
        calls[thread.role] += thread.calls
        assert (thread.backward_ns > 0) == (thread.role == "main")
        assert thread.script_ns == (0 if thread.role == "main" else thread.top_ns) and thread.compiled_ns == 0
    assert set(calls) == {"main", "inter-op"} and calls["inter-op"] == 10 * count


SCRIPTED = """
import pathlib, sys, tempfile, torch
x, w = torch.randn(64, 64), torch.randn(64, 64, requires_grad=True)
with tempfile.TemporaryDirectory() as folder:  # TorchScript wants sources
    pathlib.Path(folder, "scripted.py").write_text('''
import torch
@torch.jit.script
def products(x, w, fails: bool):
    for i in range(3):
        x = torch.matmul(x, w)
    if fails:
        raise ValueError("planted")
    return x
''')
    sys.path.insert(0, folder)
    from scripted import products
def work():
    torch.mm(x, x)
    products(x, w, False).sum().backward()
    with torch.no_grad():
        products(x, w, False)
        try:
            products(x, w, True)
        except torch.jit.Error:
            torch.mm(x, x)
[work() for _ in range(3)]
print("1", flush=True)
for line in sys.stdin:
    [work() for _ in range(int(line))]
    print("1", flush=True)
"""


def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    """Once with a backward pass, once alone, once left by an exception: what comes after it is not in it."""
    path, count = tmp_path / "x.duckdb", 20
    with torch_engine.running(SCRIPTED) as program, recorded(program.pid, path):
        program.ask(str(count))
    forward = "LEFT JOIN torch_region r ON r.call_id = c.{} WHERE name = '{}' AND NOT coalesce(backward, false)"
    of_mm, of_runs = forward.format("parent_id", "aten::mm"), forward.format("call_id", "TorchScript")
    seen = dict(read(path, f"SELECT coalesce(script, false), count(*) FROM api_call c {of_mm} GROUP BY 1"))
    assert seen == {False: 2 * count, True: 6 * count}, "with gradients TorchScript calls mm itself, past at::_ops"
    left = dict(read(path, f"SELECT end_ns IS NULL, count(*) FROM api_call c {of_runs} GROUP BY 1"))
    assert left == {True: count, False: 2 * count}
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(TorchOperators)
    assert table is not None
    [main] = (thread for thread in table.threads if thread.role == "main")
    assert 0 < main.script_ns < main.top_ns and main.backward_ns > 0 and main.compiled_ns == 0


COMPILED = """
import sys, torch
fused = torch.compile(lambda a, b: torch.nn.functional.gelu(a @ b).sum(-1) * 2)
x = torch.randn(64, 64)
torch.set_grad_enabled(False)
fused(x, x)
print("1", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        torch.bmm(fused(x, x).view(1, 1, 64), x.view(1, 64, 64))
    print("1", flush=True)
"""


def test_kernels_of_torch_compile(tmp_path: Path) -> None:
    """The product is torch's still; the rest is one kernel, which does not come by the dispatcher."""
    path, count = tmp_path / "x.duckdb", 30
    kept = str(cache.made() / f"inductor-{torch_engine.VERSION}")  # compiling takes long
    with (
        torch_engine.running(COMPILED, TORCHINDUCTOR_CACHE_DIR=kept, TORCHINDUCTOR_COMPILE_THREADS="1") as program,
        recorded(program.pid, path),
    ):
        program.ask(str(count))
    found = read(
        path,
        "SELECT split_part(name, '::', 1), count(DISTINCT name), count(*), count(end_ns), max(depth) FROM api_call "
        "WHERE name LIKE 'inductor::%' OR name LIKE 'aten::%mm' GROUP BY 1 ORDER BY 1",
    )
    assert found == [("aten", 2, 2 * count, 2 * count, 1), ("inductor", 1, count, count, 1)]
    around = read(
        path, "SELECT c.name, p.name, count(*) FROM api_call c LEFT JOIN api_call p ON p.call_id = c.parent_id "
        "WHERE c.name LIKE 'aten::%mm' GROUP BY ALL ORDER BY 1",
    )  # fmt: skip
    assert around == [("aten::bmm", None, count), ("aten::mm", "Torch-Compiled Region", count)]
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(TorchOperators)
    assert table is not None
    assert {row.bound for row in table.rows if row.name.startswith("inductor::c")} == {"unknown"}
    [main] = table.threads
    within = sum(row.total_ns for row in table.rows if row.name != "aten::bmm")
    assert main.compiled_ns == within < main.top_ns and main.script_ns == 0


DISTRIBUTED = """
import os, sys, torch
import torch.distributed as dist
rank, values = int(os.environ["RANK"]), torch.ones(1000)
print("1", flush=True)
for line in sys.stdin:
    if line.startswith("file:"):
        dist.init_process_group("gloo", init_method=line.strip(), rank=rank, world_size=2)
    else:
        for _ in range(int(line)):
            dist.all_reduce(values), dist.all_reduce(values), dist.all_reduce(values, async_op=True).wait()
            dist.broadcast(values, 0), dist.broadcast(values, 1)
            dist.all_gather([torch.ones(1000), torch.ones(1000)], values)
            dist.send(values, 1) if rank == 0 else dist.recv(values, 0)
            dist.barrier()
    print("1", flush=True)
"""


def test_collectives_of_two_processes(tmp_path: Path) -> None:
    path, count = tmp_path / "x.duckdb", 25
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        both = [
            stack.enter_context(torch_engine.running(DISTRIBUTED, RANK=str(rank), GLOO_SOCKET_IFNAME="lo"))
            for rank in (0, 1)
        ]

        def ask(line: str) -> None:  # each waits for the other
            assert list(threads.map(lambda program: program.ask(line), both)) == [1, 1]

        ask(f"file://{tmp_path}/meeting")
        ask("2")
        with recorded([program.pid for program in both], path):
            ask(str(count))
        pids = [program.pid for program in both]
    rows = read(path, "SELECT pid, name, count(*), count(end_ns) FROM api_call WHERE name LIKE 'c10d::%' GROUP BY ALL")
    assert all(calls == ended for *_, calls, ended in rows)
    expected = {"c10d::allreduce": 3, "c10d::broadcast": 2, "c10d::allgather": 1, "c10d::barrier": 1}
    for rank, pid in enumerate(pids):
        found = {name: calls / count for process, name, calls, _ in rows if process == pid}
        assert found == expected | {("c10d::send", "c10d::recv")[rank]: 1}
    assert read(path, "SELECT count(*) FROM api_call WHERE name LIKE 'c10d::%' AND tid <> pid") == [(0,)]


def test_windows_keep_to_the_budget(tmp_path: Path) -> None:
    """Without --full operators are recorded in windows; in them every call is whole."""
    path = tmp_path / "x.duckdb"
    with torch_engine.running(LAYER) as program, recording_of([program.pid], path, levels=("op",), budget=0.01):
        for _ in range(12):
            program.ask("run 150")
    levels = dict(read(path, "SELECT level, sum(end_ns - start_ns) / 1e9 FROM probe_window GROUP BY level"))
    assert levels["op"] > 0.05 and levels["token"] > 0.05
    assert read(path, "SELECT count(*) > 50, count(*) = count(end_ns) FROM api_call") == [(True, True)]
    outside = """
    SELECT count(*) FROM api_call c WHERE NOT EXISTS (SELECT 1 FROM probe_window w
        WHERE w.level = 'op' AND c.start_ns >= w.start_ns AND c.start_ns < w.end_ns)
    """
    assert read(path, outside) == [(0,)]
    spent, busy = read(path, "SELECT sum(hits * cost_ns), (SELECT max(end_ns) - min(start_ns) FROM probe_window) "
                             "FROM probe_site")[0]  # fmt: skip
    assert spent < 0.01 * (busy + INITIAL_CREDIT_S * 1e9)


def test_a_program_that_cannot_be_asked(tmp_path: Path) -> None:
    """Its interpreter goes by another name: the recording has no shapes, and says so."""
    path = tmp_path / "x.duckdb"
    engine = Path(shutil.copy(os.path.realpath(torch_engine.python()), tmp_path / "engine"))
    packages = next((torch_engine.python().parent.parent / "lib").glob("python3*")) / "site-packages"
    with torch_engine.running(LAYER, executable=engine, PYTHONPATH=str(packages)) as program:
        cached = os.environ.get("FLOWPROF_CACHE")
        os.environ["FLOWPROF_CACHE"] = str(tmp_path)
        try:
            with recorded(program.pid, path):
                program.ask("run 5")
        finally:
            os.environ.pop("FLOWPROF_CACHE")
            if cached is not None:
                os.environ["FLOWPROF_CACHE"] = cached
    assert read(path, "SELECT count(*) > 0, count(args_id) FROM api_call") == [(True, 0)]
    ((what, detail),) = read(path, "SELECT what, detail FROM event_note")
    assert what == "tensor layout unknown" and "no Python interpreter" in detail
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(TorchOperators)
    assert table is not None and {row.bound for row in table.rows} == {"unknown"}
    assert "No shapes were recorded" in table.notes[0]


def test_the_command_line(tmp_path: Path, flowprof: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """list-probes and attach by hand: the plan, the recording, the report."""
    path = tmp_path / "x.duckdb"
    with torch_engine.running(LAYER) as program:
        listed = flowprof("list-probes", str(program.pid)).stdout
        assert "torch op: dispatch" in listed and "_ZN2at4_ops2mm4callE" in listed
        of_operators = [line for line in listed.splitlines() if "at4_ops" in line]
        assert len(of_operators) > 150 and not any("single-stepped" in line for line in of_operators)

        def work() -> None:
            with contextlib.suppress(AssertionError):  # it is ended in the middle
                program.ask("run 1000000")

        worker = threading.Thread(target=work)
        worker.start()
        shown = flowprof("attach", str(program.pid), "--full", "-o", str(path), "--torch-ops", "mm|softmax_int",
                         "-d", "2s")  # fmt: skip
    worker.join()
    assert shown.returncode == 0, shown.stderr
    assert "PyTorch operators" in shown.stdout and "softmax" in shown.stdout and "no tokens" not in shown.stdout
    assert {name for (name,) in read(path, "SELECT DISTINCT name FROM api_call")} == {"aten::mm", "aten::softmax"}
