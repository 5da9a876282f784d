"""Real builds of ggml, recorded live: today's with one library per processor, stripped ones, and those of 2024.

Each is driven by a child process that computes when it is told to, so what was computed is known exactly.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from flowprof.examples import load, synthetic_model
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.target import open_target
from recorded import read, recording_of
from test_layout_real import Build
from test_sites_real import node_libraries, run

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
EMPTY = {"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"}
SPRING_2024 = Build("pywhispercpp==1.2.0", ("libwhisper.so",), "")
SUMMER_2024 = Build("pywhispercpp==1.3.0", ("pywhispercpp.libs/libgomp*", "libggml.so"), "")
AUTUMN_2025 = Build("pywhispercpp==1.5.1", ("pywhispercpp.libs/libgomp*", "libggml-base.so", "libggml-cpu.so"), "")


class Child:
    """An engine in a process of its own: `compute(count, threads)` returns when it has computed."""

    def __init__(self, *command: object) -> None:
        words = [sys.executable, *map(str, command)]
        environment = {"OMP_WAIT_POLICY": "passive", "PATH": "/usr/bin:/bin"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self.first_line = self._output.readline()
        assert self.first_line, f"{command[-1]} could not be driven"

    def compute(self, count: int, threads: int, times: int = 1) -> None:
        for _ in range(times):
            self._input.write(f"{count} {threads}\n")
            self._input.flush()
            assert self._output.readline() == "done\n"

    def end(self) -> None:
        self._input.close()
        self.process.wait(20)
        self._output.close()


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*command: object) -> Child:
        children.append(Child(*command))
        return children[-1]

    yield start
    for one in children:
        one.end()


def rung(path: Path) -> dict[str, str]:
    ((text,),) = read(path, "SELECT value FROM meta WHERE key = 'rung'")
    return dict(part.split(": ", 1) for part in text.split("; "))


# -- llama.cpp's libraries, one per generation of processors ----------------------------------------------------------


@pytest.mark.bpf
@pytest.mark.parametrize("bare", [False, True], ids=["as shipped", "stripped"])
def test_one_library_per_processor(child: Callable[..., Child], tmp_path: Path, bare: bool) -> None:
    folder = node_libraries()
    if bare:
        shutil.copytree(folder, tmp_path / "bare")
        folder = tmp_path / "bare"
        run(["strip", *map(str, folder.glob("lib*.so"))], "stripped libraries")
    engine = child(HERE / "llama_child.py", folder, synthetic_model.write("tiny"))
    path = tmp_path / "node.duckdb"
    with recording_of([int(engine.first_line)], path, budget=None) as recording:
        recording.warm_up("thread", lambda: engine.compute(1, 2))
        began = time.monotonic_ns()
        engine.compute(400, 2)
        engine.compute(1, 2, times=12)
    found = rung(path)
    assert found["op"] == "operator hook"
    assert found["thread"] == "calls in the thread loop" + (", found by disassembly" if bare else "")
    graphs = read(path, "SELECT phase, tokens, outputs, level FROM graph_exec JOIN graph USING (graph_id) "
                        "WHERE start_ns > ? ORDER BY start_ns", began)  # fmt: skip
    assert graphs == [("prefill", 400, 1, "thread")] + 12 * [("decode", 1, 1, "thread")]
    counts = read(path, "SELECT o.ith, count(*), any_value(operators), bool_and(o.end_ns >= compute_end_ns) "
                        "FROM op_exec o JOIN graph_exec g USING (exec_id) JOIN graph USING (graph_id) "
                        "WHERE g.start_ns > ? GROUP BY exec_id, o.ith", began)  # fmt: skip
    assert len(counts) == 13 * 2
    assert all(operators == count > 50 and ordered for _, count, operators, ordered in counts)
    lost = {place for (place,) in read(path, "SELECT DISTINCT place FROM loss")}
    assert lost <= {"undescribed_graph", "unseen_return"}  # of the warming up; and what this kernel hides
    sites = read(path, "SELECT probe, symbol, file_offset, instruction, hits, path FROM probe_site JOIN module USING "
                       "(module_id) WHERE status = 'attached' AND probe LIKE 'ggml%'")  # fmt: skip
    assert all("libggml-cpu-" in row[5] for row in sites)
    assert {row[3].split()[0] for row in sites if row[0] in ("ggml.op", "ggml.barrier")} == {"push", "call"}
    assert all(row[4] > 0 for row in sites if row[0] != "ggml.op.fused")


# -- the rungs below, on builds whose structs have other layouts ------------------------------------------------------

OLDER = [(SPRING_2024, False), (SPRING_2024, True), (SUMMER_2024, False), (SUMMER_2024, True), (AUTUMN_2025, True)]


@pytest.mark.bpf
@pytest.mark.parametrize(("build", "bare"), OLDER, ids=[f"{build.id}{'-stripped' * bare}" for build, bare in OLDER])
def test_older_builds(child: Callable[..., Child], tmp_path: Path, build: Build, bare: bool) -> None:
    """Every operator of every graph, in order, on one thread and on two."""
    libraries = build.paths()
    if bare:
        root = Path(os.path.commonpath([*libraries, Path(libraries[-1]).parent]))
        shutil.copytree(root, tmp_path / "bare")
        libraries = [str(tmp_path / "bare" / Path(path).relative_to(root)) for path in libraries]
        for path in libraries[-2:] if build is AUTUMN_2025 else libraries[-1:]:
            run(["strip", path], f"a stripped {path}")
    engine = child(HERE / "ggml_child.py", *libraries)
    truth = json.loads(engine.first_line)
    modern = build is AUTUMN_2025
    path = tmp_path / "older.duckdb"
    with recording_of([truth["pid"]], path, budget=None) as recording:
        recording.warm_up("thread" if modern else "op", lambda: engine.compute(1, 1, times=3))
        began = time.monotonic_ns()
        engine.compute(1, 1, times=10)
        middle = time.monotonic_ns()
        engine.compute(1, 2, times=5)
    found = rung(path)
    assert found["op"] == ("operator hook" if modern else "call graph" if bare else "static function")
    assert found["thread"].startswith("calls in the thread loop" if modern else "not possible")
    executed = {tensor["name"] for tensor in truth["tensors"].values() if tensor["op"] not in EMPTY}
    rows = read(path, "SELECT exec_id, g.start_ns, name, op, o.end_ns, g.end_ns FROM op_exec o "
                      "JOIN graph_exec g USING (exec_id) JOIN graph_node USING (graph_id, node_index) "
                      "WHERE ith = 0 AND g.start_ns > ? ORDER BY o.start_ns", began)  # fmt: skip
    per_graph: dict[int, list[str]] = {}
    for exec_id, _, name, op, end, graph_end in rows:
        assert op not in EMPTY and end <= graph_end
        per_graph.setdefault(exec_id, []).append(name)
    fused = {name for name in executed if modern and name.startswith("attn_norm")}  # into the norm before it
    assert all(sorted(names) in (sorted(executed), sorted(executed - fused)) for names in per_graph.values())
    assert len(per_graph) == 15
    ((one, two),) = read(path, "SELECT count(*) FILTER (start_ns <= ?), count(*) FILTER (start_ns > ?) "
                               "FROM graph_exec WHERE start_ns > ?", middle, middle, began)  # fmt: skip
    assert (one, two) == (10, 5)
    assert read(
        path, "SELECT DISTINCT operators FROM graph JOIN graph_exec USING (graph_id) WHERE level <> 'token'"
    ) == [(len(next(iter(per_graph.values()))),)]


@pytest.mark.parametrize("build", [SPRING_2024, SUMMER_2024, AUTUMN_2025], ids=lambda build: build.id)
def test_plan_of_whisper(child: Callable[..., Child], build: Build) -> None:
    """pywhispercpp's libraries in a process: what is missing is named, and every site has its reason."""
    engine = child(HERE / "ggml_child.py", *build.paths())
    pid = json.loads(engine.first_line)["pid"]
    plan = make_plan([open_target(pid)], kernel.version())
    assert plan.rung(pid, "graph") == "ggml_graph_compute"
    assert plan.rung(pid, "op") == ("operator hook" if build is AUTUMN_2025 else "static function")
    (op,) = [ladder for ladder in plan.ladders if ladder.level == "op"]
    assert (op.missing == ()) == (build is AUTUMN_2025)
    assert all("ggml_cpu_extra_compute_forward" in why for why in op.missing)
    assert all(site.instruction and site.cost_class for site in plan.sites if not site.refused)
    assert all(site.reason for site in plan.sites)


# -- windows under a budget -------------------------------------------------------------------------------------------


@pytest.mark.bpf
def test_levels_take_turns_under_a_budget(shared_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = shared_server("tiny", threads=1)
    path = tmp_path / "budget.duckdb"
    with recording_of([server.pid], path, budget=0.2) as recording:
        levels: set[str] = set()
        deadline = time.monotonic() + 40
        while not levels >= {"op", "thread", "token"} and time.monotonic() < deadline and recording.error is None:
            load.run(server.url, requests=1, n_predict=100, prompt_tokens=100)
            levels.add(recording.recorder.progress.level)
        load.run(server.url, requests=2, n_predict=200, prompt_tokens=100)
    windows = read(path, "SELECT level, start_ns, end_ns, graphs, hits FROM probe_window ORDER BY start_ns")
    names = [window[0] for window in windows]
    assert {"token", "op", "thread"} <= set(names)
    assert all(end >= start for _, start, end, _, _ in windows)
    assert all(before[2] <= after[1] for before, after in pairwise(windows)), "windows overlap"
    deep = [at for at, name in enumerate(names) if name != "token"]
    assert all(names[at - 1] == "token" for at in deep), "deep windows have shallow neighbours"
    # at a deep level every graph that lies wholly inside a window has all its operators
    counts = read(path, "SELECT level, operators, count(o.node_index) FROM graph_exec JOIN graph USING (graph_id) "
                        "LEFT JOIN op_exec o USING (exec_id) GROUP BY exec_id, level, operators")  # fmt: skip
    assert {level for level, _, _ in counts} == {"token", "op", "thread"}
    assert all(found == (0 if level == "token" else operators) for level, operators, found in counts)
    ((executed,),) = read(path, "SELECT count(*) FROM graph_exec")
    assert sum(window[3] for window in windows) == executed
