"""What changed between two runs of a real PyTorch program: threads, a hidden copy, a data type, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch_engine
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import Diff
from flowprof.profiler.diff.side import open_pair
from torch_engine import Program, recorded
from undisturbed import CPUS, DISTURBED, first_in_line, is_tried_again

pytestmark = [pytest.mark.bpf, pytest.mark.engine, pytest.mark.usefixtures("recorder_first_in_line")]

STEPS = 60
MODEL = """
import sys, torch
import torch.nn.functional as F
torch.manual_seed(0)
torch.set_grad_enabled(False)
D, H, T, LAYERS = 512, 8, 64, 2
def made(kind):
    weights = [(D, D)] * 4 + [(4 * D, D), (D, 4 * D), (3 * D, D)]
    return torch.ones(T, D).to(kind), [(torch.randn(*shape) / 30).to(kind) for shape in weights]
def layer(x, W, hidden):
    h = F.layer_norm(x, (D,))
    q, k, v = (F.linear(h, w).view(T, H, D // H).transpose(0, 1) for w in W[:3])
    s = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / 8, -1)
    x = x + F.linear(torch.bmm(s, v).transpose(0, 1).reshape(T, D), W[3])
    h = F.layer_norm(x, (D,))
    up = torch.mm(h, W[4].t().contiguous() if hidden else W[4].t())
    return x + F.linear(F.gelu(up), W[5])
known = {}
print("1", flush=True)
for line in sys.stdin:
    threads, kind, hidden, count = line.split()
    torch.set_num_threads(int(threads))
    x, W = known.setdefault(kind, made(getattr(torch, kind)))
    for _ in range(int(count)):
        y = x
        for _ in range(LAYERS):
            y = layer(y, W, hidden == "hidden")
        F.linear(y, W[6]).argmax()
    print("1", flush=True)
"""


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    bound = ("setsid", "taskset", "-c", ",".join(map(str, CPUS)))
    with torch_engine.running(MODEL, *bound) as running:
        first_in_line(running.pid)
        yield running


def record(program: Program, path: Path, threads: int = 2, kind: str = "float32", hidden: str = "-",
           steps: int = STEPS) -> Path:  # fmt: skip
    program.ask(f"{threads} {kind} {hidden} 5")
    with recorded(program.pid, path, levels=("op", "sched")):
        program.ask(f"{threads} {kind} {hidden} {steps}")
    return path


def compared(a: Sequence[Path], b: Path) -> Diff:
    with open_pair(list(map(str, a)), str(b)) as pair:
        found = compare(pair)
    print(found.headline, *found.phases, *found.causes, *found.rows[:8], sep="\n")  # shown when a test fails
    first = found.phases[0]
    assert (first.phase, first.per) == ("step", "step")
    assert first.a_tokens in [len(a) * (STEPS - cut) for cut in (0, 1)], "a step is one iteration, not one layer"
    rows = [row.delta_ns_per_token for row in found.rows if row.phase == "step"]
    assert sum(rows) == pytest.approx(first.delta_ns_per_token, abs=1)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch")


@pytest.fixture
def normal(program: Program, folder: Path, request: pytest.FixtureRequest) -> list[Path]:
    """Five repeats of the normal run, for all tests."""
    paths = [folder / f"{number}.duckdb" for number in range(5)]
    for path in paths:
        if not path.exists() or is_tried_again(request):
            record(program, path)
    return paths


@DISTURBED
def test_nothing_changed(normal: list[Path]) -> None:
    found = compared([normal[0], normal[2]], normal[1])
    assert found.verdict == "same"
    # Repeats of a second each: the machine itself changes by some percent between them, and rows of a few µs show it.
    large = [row for row in found.rows if abs(row.delta_ns_per_token) > 0.01 * found.phases[0].a_ns_per_token]
    assert not any(row.significant for row in large)
    assert not any(cause.kind in ("threads", "copy", "quantisation", "masked") for cause in found.causes)


@DISTURBED
def test_fewer_threads(program: Program, normal: list[Path], tmp_path: Path) -> None:
    found = compared(normal, record(program, tmp_path / "b.duckdb", threads=1))
    assert found.verdict == "slower"
    assert found.causes[0].kind == "threads" and "2 → 1" in found.causes[0].claim


@DISTURBED
def test_a_hidden_copy(program: Program, normal: list[Path], tmp_path: Path) -> None:
    found = compared(normal, record(program, tmp_path / "b.duckdb", hidden="hidden"))
    assert found.verdict == "slower"
    first = found.causes[0]
    assert first.kind == "copy" and "2 calls of aten::contiguous a step" in first.claim and "512x2048" in first.claim


@DISTURBED
def test_another_type(program: Program, normal: list[Path], tmp_path: Path) -> None:
    found = compared(normal, record(program, tmp_path / "b.duckdb", kind="bfloat16", steps=30))
    assert found.verdict in ("slower", "faster")
    assert "f32 → bf16" in found.causes[0].claim
