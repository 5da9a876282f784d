"""What PyTorch's operators run in: threads, backward passes, TorchScript, torch.compile; and exceptions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch_engine
from flowprof.profiler import cache
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.store import Recording
from recorded import read
from torch_engine import recorded

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

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
import pathlib, sys, tempfile, time, torch
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
    time.sleep(0.2)  # who waits for a result has it before the thread that made it has left the interpreter
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


NAMED = """
import sys, threading, torch
from torch.ao.nn.quantized.dynamic import Linear
torch.set_grad_enabled(False)
@torch.library.custom_op("planted::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, x)
linear, x = Linear(64, 64), torch.randn(64, 64)
def fails(_):
    torch.ops.aten.bmm(x, x)
print("1", flush=True)
for line in sys.stdin:
    def work(count):
        for _ in range(count):
            linear(x)  # torch.ops.quantized.linear_dynamic, and aten::to
            try:
                list(map(fails, [0]))  # deeper in the stack than what comes after it
            except RuntimeError:
                pass
            torch.ops.aten.addmm(x, x, x)
            torch.ops.aten.mm.default(x, x)
            twice(x)
    count = int(line)
    thread = threading.Thread(target=work, args=(count,))
    thread.start(), thread.join()
    work(count)
    print("1", flush=True)
"""


def test_what_python_calls_past_the_operators_functions(tmp_path: Path) -> None:
    """A library's operators, torch's by torch.ops, and Python's own around mm; one of them throws. By choice: none."""
    path, count = tmp_path / "x.duckdb", 30
    with torch_engine.running(NAMED) as program:
        program.ask("3")
        with recorded(program.pid, path):
            program.ask(str(count))
        with recorded(program.pid, tmp_path / "y.duckdb", torch_ops="mm"):
            program.ask(str(count))
    around = read(
        path, "SELECT c.name, p.name, count(*), count(c.end_ns), count(c.args_id) FROM api_call c "
        "LEFT JOIN api_call p ON p.call_id = c.parent_id GROUP BY ALL ORDER BY 1, 2 NULLS FIRST",
    )  # fmt: skip
    both = 2 * count
    assert [row for row in around if row[0] not in ("aten::copy_", "aten::to")] == [
        ("aten::addmm", None, both, both, 0), ("aten::bmm", None, both, 0, 0), ("aten::mm", None, both, both, 0),
        ("aten::mm", "planted::twice", both, both, both), ("planted::twice", None, both, both, 0),
        ("quantized::linear_dynamic", None, both, both, 0),
    ]  # fmt: skip
    assert read(path, "SELECT count(DISTINCT tid) FROM api_call WHERE name = 'quantized::linear_dynamic'") == [(2,)]
    assert read(tmp_path / "y.duckdb", "SELECT DISTINCT name FROM api_call") == [("aten::mm",)]
    with Recording.open(str(path)) as recording:
        table = build_report(recording).get(TorchOperators)
    assert table is not None
    [row] = (row for row in table.rows if row.name == "quantized::linear_dynamic")
    assert (row.bound, row.flops_per_s) == ("unknown", None)
