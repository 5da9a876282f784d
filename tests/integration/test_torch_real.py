"""PyTorch's operators in a live process: counts, nesting, times and windows against the truth."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch_engine
from flowprof.profiler.record.windows import INITIAL_CREDIT_S
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from torch_engine import recorded
from torch_layer import LAYER, PER_LAYER
from undisturbed import DISTURBED, first_in_line

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

HOOKS_US = 20  # of a call: half of each probe's hit and what torch.profiler does before it looks at the clock


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
