"""PyTorch's operators on recordings whose truth is known: self time, verdicts, waits, and how viewers show it."""

from __future__ import annotations

import io
import json
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.analyzers.torch_operators import ANALYZER
from flowprof.profiler.report import Report, Timeline, build_report, timeline
from flowprof.profiler.sections.torch_operators import TorchOperator, TorchOperators
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from flowprof.viewers import json as json_viewer
from synthetic import CEILINGS

PID = 4242
F32 = "float"
MM = ("aten::mm", [[256, 256], [256, 256]], [F32, F32])  # 33.6 MFLOP: 335.5 µs at 100 GFLOP/s
COPY = ("aten::copy_", [[4 << 20], [4 << 20]], [F32, F32])  # 33.6 MB: 479.3 µs at 70 GB/s
SOFTMAX = ("aten::softmax", [[64, 64]], [F32])  # 32.8 kB: 327.7 ns at 100 GB/s, from the cache
TINY = ("aten::mm", [[16, 16], [16, 16]], [F32, F32])  # 8192 FLOP: 81.9 ns
BF16 = ("aten::mm", [[256, 256], [256, 256]], ["c10::BFloat16", "c10::BFloat16"])
CAT = ("aten::cat", [[[4], [4]], []], ["TensorList", "Scalar"])
What = tuple[str, list, list[str]]
EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&{{7*7}}"


class Made:
    """A recording that is being made: calls one after the other or in one another, and states of threads."""

    def __init__(self, **facts: Any) -> None:
        self.calls: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.args: dict[str, int] = {}
        self.facts = {"sched": "yes", "llc_bytes": str(32 << 20), "cpu_model": "Synthetic CPU", "flowprof_version": "1",
                      "clean_end": "true", "started_ns": "0", "stopped_ns": "10000000000"} | facts  # fmt: skip
        self.ceilings: list[tuple[str, str, int, float]] = list(CEILINGS)
        self.computing = {PID: 5_000_000_000}  # ns of processor time by thread
        self.gpu = False
        self.source = "synthetic"
        self.comms: dict[int, str] = {PID: "python", 7: "pt_autograd_0", 8: "worker"}
        self.now = 1_000

    def call(
        self, what: What | str, start: int, end: int | None, parent: int | None = None, tid: int = PID, depth: int = 0
    ) -> int:
        """One call; its number."""
        name, dims, types = (what, None, None) if isinstance(what, str) else what
        key = json.dumps([dims, types])
        args_id = None if dims is None else self.args.setdefault(key, len(self.args) + 1)
        number = tid << 32 | len(self.calls)
        self.calls.append({"call_id": number, "pid": PID, "tid": tid, "kind": "operator", "name": name,
                           "start_ns": start, "end_ns": end, "parent_id": parent, "depth": depth,
                           "args_id": args_id})  # fmt: skip
        return number

    def row(self, what: What | str, ns: int, calls: int = 30, away: int = 0, state: str = "runnable") -> None:
        """Calls of one length, each off the processor for a while in its middle."""
        for _ in range(calls):
            self.call(what, self.now, self.now + ns)
            if away:
                self.away(self.now + (ns - away) // 2, self.now + (ns - away) // 2 + away, state)
            self.now += ns + 100

    def away(self, start: int, end: int, state: str = "runnable", tid: int = PID) -> None:
        self.states.append({"pid": PID, "tid": tid, "cpu": 0, "start_ns": start, "end_ns": end, "state": state,
                            "by_tid": 99, "by_comm": "hog"})  # fmt: skip

    def write(self, path: Path) -> str:
        with Recording.create(str(path), overwrite=True) as recording:

            def put(table: str, rows: list[dict[str, Any]]) -> None:
                if rows:
                    recording.append(table, {name: [row[name] for row in rows] for name in rows[0]})

            put("api_call", self.calls)
            put("thread_state", self.states)
            put("api_args", [dict(zip(("dims", "types"), map(json.dumps, json.loads(key)), strict=True))
                             | {"args_id": number, "scalars": "[]"} for key, number in self.args.items()])  # fmt: skip
            put("thread", [{"pid": PID, "tid": tid, "comm": comm} for tid, comm in self.comms.items()])
            put("process", [{"pid": PID, "exe": "/usr/bin/python3", "cpus_allowed": 2}])
            put("counter", [{"pid": PID, "tid": tid, "name": "task_clock_ns", "value": ns}
                            for tid, ns in self.computing.items()])  # fmt: skip
            put("ceiling", [{"what": what, "dtype": dtype, "threads": threads, "value": value, "low": value,
                             "high": value, "source": self.source}
                            for what, dtype, threads, value in self.ceilings])  # fmt: skip
            windows = (("op", 0, 4_000_000), ("token", 4_000_000, 9_000_000), ("thread", 9_000_000, 10_000_000))
            put("probe_window", [{"window_id": number, "level": level, "start_ns": start, "end_ns": end, "graphs": 0,
                                  "tokens": 0, "hits": 9, "losses": 0}
                                 for number, (level, start, end) in enumerate(windows)])  # fmt: skip
            put("probe_site", [{"site_id": n, "probe": probe, "level": "op", "hits": hits, "cost_ns": 500.0}
                               for n, probe, hits in ((1, "torch.call", 100), (2, "ggml.op", 900))])  # fmt: skip
            if self.gpu:
                put("gpu_slice", [{"slice_id": 1, "device": 0, "stream": 7, "kind": "kernel", "name": "k",
                                   "start_ns": 1, "end_ns": 2}])  # fmt: skip
            for key, value in self.facts.items():
                recording.set_meta(key, value)
        return str(path)

    def report(self, folder: Path) -> Report:
        with Recording.open(self.write(folder / "a.duckdb")) as recording:
            return build_report(recording)

    def table(self, folder: Path) -> TorchOperators:
        with Recording.open(self.write(folder / "a.duckdb")) as recording:
            outcome = ANALYZER.run(recording)
        assert isinstance(outcome.value, TorchOperators), (outcome.status, outcome.reason)
        return outcome.value


def by_name(table: TorchOperators) -> dict[str, TorchOperator]:
    return {row.name: row for row in table.rows}


# -- times ------------------------------------------------------------------------------------------------------------


def test_self_times_by_hand(tmp_path: Path) -> None:
    """linear 0–100 { addmm 10–90 { copy_ 20–40 }, copy_ 91–95 }, linear 200–300 { mm 210– (left), mm 250–280 }."""
    made = Made()
    first = made.call("aten::linear", 0, 100)
    addmm = made.call("aten::addmm", 10, 90, first, depth=1)
    made.call("aten::copy_", 20, 40, addmm, depth=2)
    made.call("aten::copy_", 91, 95, first, depth=1)
    second = made.call("aten::linear", 200, 300)
    made.call("aten::mm", 210, None, second, depth=1)
    made.call("aten::mm", 250, 280, second, depth=1)
    found = made.table(tmp_path)
    seen = {row.name: (row.calls, row.left, row.total_ns, row.self_ns, row.p50_ns) for row in found.rows}
    assert seen == {
        "aten::linear": (2, 0, 200, 16 + 70, 100.0), "aten::addmm": (1, 0, 80, 60, 80.0),
        "aten::copy_": (2, 0, 24, 24, 12.0), "aten::mm": (2, 1, 30, 30, 30.0),
    }  # fmt: skip
    assert [row.name for row in found.rows] == ["aten::linear", "aten::addmm", "aten::mm", "aten::copy_"]
    assert (found.calls, found.self_ns) == (7, 200), "all self time is the time of the outermost"
    assert [row.share for row in found.rows] == [0.43, 0.3, 0.15, 0.12]
    assert found.observed_ns == 5_000_000, "windows of op and thread level"
    assert found.probe_share == pytest.approx(100 * 500 / 5_000_000), "torch's probes only"
    assert (found.threads[0].calls, found.threads[0].top_ns) == (7, 200)


def test_what_a_left_call_had_called_is_not_counted_twice(tmp_path: Path) -> None:
    """a 0–100 { b 10– { c 20– { d 30–60 } } }: b and c have no time, and d's is not a's own."""
    made = Made()
    a = made.call("a", 0, 100)
    b = made.call("b", 10, None, a, depth=1)
    c = made.call("c", 20, None, b, depth=2)
    made.call("d", 30, 60, c, depth=3)
    made.away(40, 50)
    found = made.table(tmp_path)
    assert {row.name: row.self_ns for row in found.rows} == {"a": 70, "b": 0, "c": 0, "d": 30}
    assert found.self_ns == 100
    assert [(row.left, row.p50_ns, row.bound) for row in found.rows if row.name == "b"] == [(1, 0.0, "unknown")]


def test_what_comes_behind_a_left_call_is_outermost(tmp_path: Path) -> None:
    """What was left counts as open until one comes from higher up the stack: a 0– (left) { b 50–90 { c 60–70 } }.

    So does one that is still open at the end, and has no row: { d 200–230 }. And in e 300–400 { f 310– { g 320–330 } }
    nothing but e is.
    """
    made = Made()
    a = made.call("a", 0, None)
    b = made.call("b", 50, 90, a, depth=1)
    made.call("c", 60, 70, b, depth=2)
    made.call("d", 200, 230, 77, depth=1)
    e = made.call("e", 300, 400)
    f = made.call("f", 310, None, e, depth=1)
    made.call("g", 320, 330, f, depth=2)
    found = made.table(tmp_path)
    assert found.threads[0].top_ns == 40 + 30 + 100 == found.self_ns


def test_random_trees(tmp_path: Path) -> None:
    """Against the plain definition: what each returned call's time is less its nearest returned calls inside."""
    rng = random.Random(7)
    made = Made()
    own: dict[str, int] = defaultdict(int)

    def grow(start: int, end: int, parent: int | None, tid: int, depth: int) -> int:
        """One call and those in it; the time that its nearest returned calls take."""
        name = f"op{rng.randrange(6)}"
        left = rng.random() < 0.2
        number = made.call(name, start, None if left else end, parent, tid, depth)
        inside, at = 0, start
        while depth < 5 and end - at > 20 and rng.random() < 0.7:
            begin = rng.randint(at, end - 10)
            until = rng.randint(begin + 1, end)
            inside += grow(begin, until, number, tid, depth + 1)
            at = until
        if left:
            return inside
        own[name] += end - start - inside
        return end - start

    for tid in (PID, 7, 8):
        for n in range(60):
            grow(n * 2000, n * 2000 + rng.randint(100, 1900), None, tid, 0)
    found = made.table(tmp_path)
    assert sum(row.left for row in found.rows) > 20
    assert {row.name: row.self_ns for row in found.rows} == dict(own)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert sum(thread.top_ns for thread in found.threads) == found.self_ns


# -- verdicts ---------------------------------------------------------------------------------------------------------


def test_an_operator_without_a_formula_says_why(tmp_path: Path) -> None:
    made = Made()
    made.row(("aten::to", [[4], []], [F32, "Scalar"]), 50_000)
    made.row(CAT, 40_000)
    evidence = {row.name: row.evidence for row in made.table(tmp_path).rows}
    assert "copy_ inside" in evidence["aten::to"][0] and "no formula" in evidence["aten::cat"][0]


VERDICTS = [
    ("1: no formula", CAT, {"ns": 50_000}, "unknown", "", None),
    ("1: no shapes", "aten::mm", {"ns": 50_000}, "unknown", "", None),
    ("1: no ceiling for its type", BF16, {"ns": 400_000}, "unknown", "", None),
    ("2: above its ceiling", MM, {"ns": 300_000}, "unknown", "gemm f32", 1.118),
    ("3: at 105 %", MM, {"ns": 320_000}, "compute", "gemm f32", 1.0486),
    ("3: arithmetic", MM, {"ns": 400_000}, "compute", "gemm f32", 0.8389),
    ("3: arithmetic, just", MM, {"ns": 838_000}, "compute", "gemm f32", 0.4004),
    ("3: memory", COPY, {"ns": 600_000}, "memory-dram", "dram_read", 0.7989),
    ("3: the cache", SOFTMAX, {"ns": 500}, "memory-cache", "llc_read", 0.6554),
    ("3 before 4", MM, {"ns": 700_000, "away": 300_000}, "compute", "gemm f32", 0.4793),
    ("4: it waits", MM, {"ns": 2_000_000, "away": 610_000}, "wait", "gemm f32", 0.1678),
    ("4: not long enough", MM, {"ns": 2_000_000, "away": 590_000}, "inefficient", "gemm f32", 0.1678),
    ("4 before 5", TINY, {"ns": 9_000, "away": 3_000, "state": "sleeping"}, "wait", "gemm f32", 0.0091),
    ("5: dispatch", TINY, {"ns": 9_000}, "overhead", "gemm f32", 0.0091),
    ("5: only below 10 µs", TINY, {"ns": 10_000}, "inefficient", "gemm f32", 0.0082),
    ("6: inefficient", MM, {"ns": 2_000_000, "calls": 20}, "inefficient", "gemm f32", 0.1678),
    ("6: too few calls", MM, {"ns": 2_000_000, "calls": 19}, "unknown", "gemm f32", 0.1678),
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[float, TorchOperator]:
    """All cases in one recording, each with arguments of its own; by a call's time, which differs by some ns."""
    made = Made()
    for number, (case, what, calls, *_) in enumerate(VERDICTS):
        if isinstance(what, str):
            made.row(what, calls["ns"] + number)
        else:
            made.row((what[0], what[1], what[2] + [case]), **calls | {"ns": calls["ns"] + number})
    rows = made.table(tmp_path_factory.mktemp("judged")).rows
    assert len(rows) == len(VERDICTS)
    return {row.p50_ns: row for row in rows}


@pytest.mark.parametrize("number", range(len(VERDICTS)), ids=[verdict[0] for verdict in VERDICTS])
def test_verdicts(judged: dict[float, TorchOperator], number: int) -> None:
    _, what, calls, bound, ceiling, share = VERDICTS[number]
    row = judged[calls["ns"] + number]
    assert (row.bound, row.ceiling) == (bound, ceiling), row.evidence
    share = None if share is None else share * calls["ns"] / row.p50_ns
    assert row.ceiling_share == (None if share is None else pytest.approx(share, abs=1e-3))
    assert row.confidence == ("low" if bound == "unknown" else "medium")
    if bound == "wait":
        assert row.evidence[0].endswith(calls.get("state", "runnable"))
    if what is MM:
        assert row.flops_per_s == pytest.approx(2 * 256**3 / row.p50_ns * 1e9)
        assert row.bytes_per_s == pytest.approx(3 * 256 * 256 * 4 / row.p50_ns * 1e9)
    if share is not None:
        assert row.headroom_ns == pytest.approx(max(0.0, row.total_ns * (1 - share)), rel=2e-3, abs=1)


def test_without_the_scheduler_nothing_is_inefficient(tmp_path: Path) -> None:
    made = Made(sched="no")
    made.row(MM, 2_000_000)
    table = made.table(tmp_path)
    assert table.rows[0].bound == "unknown" and "waits were not recorded" in table.rows[0].evidence
    assert table.threads[0].away_ns is None


@pytest.mark.parametrize(
    ("computing", "threads", "share"),
    [
        ({PID: 1000}, 1, 0.8389),
        ({PID: 1000, 7: 200}, 2, 0.4194),
        ({PID: 1000, 7: 199}, 1, 0.8389),
        ({PID: 1000, 7: 900, 8: 900}, 2, 0.4194),  # the process may use two processors
        ({}, 1, 0.8389),
        ({PID: 0}, 1, 0.8389),
    ],
)
def test_ceilings_are_for_the_threads_that_compute(
    tmp_path: Path, computing: dict[int, int], threads: int, share: float
) -> None:
    made = Made()
    made.computing = computing
    made.row(MM, 400_000)
    table = made.table(tmp_path)
    assert table.running_threads == threads
    assert table.rows[0].ceiling_share == pytest.approx(share, abs=1e-3)
    assert {(one.what, one.threads) for one in table.ceilings} == {("gemm", threads), ("llc_read", threads)}


def test_a_gpu_or_an_import_has_no_bounds(tmp_path: Path) -> None:
    made = Made()
    made.row(MM, 400_000)
    made.gpu = True
    table = made.table(tmp_path)
    assert [row.bound for row in table.rows] == ["unknown"] and "A GPU computes" in table.notes[0]
    assert table.rows[0].flops_per_s is None, "the host only launches"
    made = Made(imported_from="Kineto")
    made.row(MM, 400_000, calls=2)
    table = made.table(tmp_path)
    assert [row.bound for row in table.rows] == ["unknown"] and "An import has no ceilings" in table.notes[0]
    assert table.observed_ns == 800_100, "from the first call to the last"


def test_an_unknown_layout_is_said(tmp_path: Path) -> None:
    made = Made(tensor_layout="unknown: nobody could be asked: why")
    made.row("aten::mm", 400_000)
    assert "nobody could be asked: why" in made.table(tmp_path).notes[0]


# -- waits ------------------------------------------------------------------------------------------------------------


def test_a_wait_counts_for_every_operator_around_it(tmp_path: Path) -> None:
    """outer 0–100k { inner 10k–50k { left 20k– } }. Off the processor 21–31k in all, 60–70k in outer, 150–152k in none.

    What begins in inner and outlasts it, at 48k, counts for inner until 50k. Another thread's does not count at all.
    """
    made = Made()
    outer = made.call(TINY, 0, 100_000)
    inner = made.call(("aten::linear", *TINY[1:]), 10_000, 50_000, outer, depth=1)
    made.call("aten::item", 20_000, None, inner, depth=2)
    for start, end, state in ((21_000, 31_000, "sleeping"), (48_000, 55_000, "runnable"), (60_000, 70_000, "sleeping"),
                              (150_000, 152_000, "sleeping")):  # fmt: skip
        made.away(start, end, state)
    made.away(21_000, 95_000, "disk", tid=8)
    made.call("aten::other", 96_000, 97_000, tid=8)
    rows = by_name(made.table(tmp_path))
    assert rows["aten::mm"].bound != "wait", "22 of 100 µs"
    assert rows["aten::linear"].evidence[0] == "30 % of the time off the processor: sleeping"
    made.calls[0]["end_ns"] = 80_000  # 27 of 80 µs
    rows = by_name(made.table(tmp_path))
    assert rows["aten::mm"].bound == "wait"
    assert rows["aten::mm"].evidence[0] == "34 % of the time off the processor: sleeping"
    threads = {thread.tid: thread for thread in made.table(tmp_path).threads}
    assert threads[PID].away_ns == 10_000 + 2_000 + 10_000
    assert threads[8].away_ns == 0


def test_threads_have_roles_and_their_own_waits(tmp_path: Path) -> None:
    made = Made()
    for tid, length in ((PID, 100), (7, 300), (8, 200)):
        made.call("aten::mm", 0, length, tid=tid)
        made.away(10, 10 + length // 10, tid=tid)
    made.away(20, 90, tid=555)  # calls nothing
    threads = made.table(tmp_path).threads
    assert [(one.tid, one.role, one.top_ns, one.away_ns) for one in threads] == [
        (7, "autograd", 300, 30), (8, "other", 200, 20), (PID, "main", 100, 10),
    ]  # fmt: skip


def test_roles_are_the_names_that_torch_gives_its_threads(tmp_path: Path) -> None:
    made = Made()
    roles = {"PTThreadPool": "inter-op", "pt_data_worker": "data loading", "pt_nccl_watchdg": "distributed",
             "python": "other", "pt_autograd_3": "autograd"}  # fmt: skip
    for tid, name in enumerate(roles, 20):
        made.comms[tid] = name
        made.call("aten::mm", 0, 100, tid=tid)
    assert {one.name: one.role for one in made.table(tmp_path).threads} == roles


def test_what_is_in_a_backward_pass(tmp_path: Path) -> None:
    """mm 0–100; backward 200–900 { mm 300–400 { copy_ 320–350 }, mm 500–550 }; mm 950–1000. A pass is no operator."""
    made = Made()
    made.call("aten::mm", 0, 100)
    whole = made.call("autograd::engine::execute", 200, 900)
    made.calls[-1]["kind"] = "annotation"
    first = made.call("aten::mm", 300, 400, whole, depth=1)
    made.call("aten::copy_", 320, 350, first, depth=2)
    made.call("aten::mm", 500, 550, whole, depth=1)
    made.call("aten::mm", 950, 1000)
    found = made.table(tmp_path)
    [thread] = found.threads
    assert (thread.calls, thread.top_ns, thread.backward_ns) == (5, 300, 150)
    assert found.self_ns == 300 and "autograd::engine::execute" not in by_name(found)
    shown = io.StringIO()
    terminal.show(made.report(tmp_path), shown, 200)
    assert "150 ns of it in backward passes" in shown.getvalue().replace("\u00a0", " ")


def test_what_is_in_torchscript_and_in_torch_compile(tmp_path: Path) -> None:
    """Compiled 0–500 { mm 10–110, script 120–320 { mm 130–180 } }; backward 600–900 { script 610–800 { mm 620–700 } };
    linear 1000–1400 { script 1010–1300 { mm 1050–1150 { copy_ 1060–1070 } } }: of it all is within linear."""
    made = Made()

    def region(name: str, start: int, end: int, parent: int | None = None) -> int:
        number = made.call(name, start, end, parent)
        made.calls[-1]["kind"] = "annotation"
        return number

    compiled = region("Torch-Compiled Region", 0, 500)
    made.call("aten::mm", 10, 110, compiled)
    made.call("aten::mm", 130, 180, region("TorchScript", 120, 320, compiled))
    made.call("aten::mm", 620, 700, region("TorchScript", 610, 800, region("autograd::engine::execute", 600, 900)))
    linear = made.call("aten::linear", 1000, 1400)
    inner = made.call("aten::mm", 1050, 1150, region("TorchScript", 1010, 1300, linear))
    made.call("aten::copy_", 1060, 1070, inner)
    found = made.table(tmp_path)
    [thread] = found.threads
    assert (thread.calls, thread.top_ns) == (6, 100 + 50 + 80 + 400)
    assert (thread.compiled_ns, thread.script_ns, thread.backward_ns) == (150, 130, 80)
    assert by_name(found)["aten::linear"].self_ns == 300 and by_name(found)["aten::mm"].self_ns == 230 + 90
    report = made.report(tmp_path)
    shown = io.StringIO()
    terminal.show(report, shown, 200)
    said = shown.getvalue().replace("\u00a0", " ")
    assert "80 ns of it in backward passes, 130 ns of it in TorchScript, 150 ns of it in torch.compile" in said
    [told] = json.loads(json_viewer.render(report))["torch_operators"]["threads"]
    assert (told["script_ns"], told["compiled_ns"]) == (130, 150)


# -- findings ---------------------------------------------------------------------------------------------------------


def ids(report: Report) -> list[str]:
    return sorted(one.id for one in report.findings if one.id.startswith("torch_operators"))


def test_findings_fire_where_they_should(tmp_path: Path) -> None:
    made = Made()
    for name in "abcd":  # a quarter each
        made.row((f"aten::{name}", *MM[1:]), 100_000)
    assert ids(made.report(tmp_path)) == []
    made.row(("aten::a", *MM[1:]), 100_000)
    assert ids(made.report(tmp_path)) == ["torch_operators.largest"]
    made = Made()
    for name in "abcd":
        made.row(f"aten::{name}", 9_000 if name in "ab" else 11_000, calls=100)
    assert ids(made.report(tmp_path)) == ["torch_operators.overhead"]
    made = Made()
    made.row(MM, 2_000_000)
    assert ids(made.report(tmp_path)) == ["torch_operators.inefficient", "torch_operators.largest"]


def test_other_recordings_skip_it(tmp_path: Path) -> None:
    report = Made().report(tmp_path)
    assert report.section("torch_operators").status == "skipped"
    assert report.get(TorchOperators) is None


# -- viewers ----------------------------------------------------------------------------------------------------------


def hostile() -> Made:
    made = Made(cpu_model=EVIL, tensor_layout=f"unknown: {EVIL}")
    made.row((EVIL, [[3, 5]], [EVIL]), 400_000)
    made.row(("aten::mm" + EVIL, *MM[1:]), 100_000)
    made.row(MM, 2_000_000, away=900_000, state=EVIL)
    made.row(COPY, 500_000)
    made.row("", 400)
    made.call(EVIL, 5, None)
    made.comms[PID] = EVIL
    made.source = EVIL
    return made


def several() -> Made:
    made = Made()
    for n in range(30):
        made.row((f"aten::{'long_' * 8}{n}", *MM[1:]), 50_000 + n)
    made.row(MM, 400_000)
    for tid in range(100, 130):
        made.call("aten::mm", 0, 50, tid=tid)
    return made


@pytest.fixture(scope="module", params=[hostile, several], ids=["hostile", "several"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Report, Timeline]:
    path = request.param().write(tmp_path_factory.mktemp("viewers") / "a.duckdb")
    with Recording.open(path) as recording:
        return request.param, build_report(recording), timeline(recording)


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_terminal(seen: tuple[Any, Report, Timeline], width: int, encoding: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    terminal.show(seen[1], out, width)
    out.flush()
    text = raw.getvalue().decode(encoding)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    section = text.split("PyTorch operators", 1)[1]
    assert "mm" in section and "thread 4242" in section
    if seen[0] is several:
        assert "20 more" in section
    if width >= 80:  # names may be cut, numbers not
        heads, *rows = section.splitlines()[1:] if "operator" in section.splitlines()[1] else section.splitlines()[2:]
        assert heads.rstrip().endswith("of max")
        for line in rows[:4]:
            numbers = line[heads.index("bound") + 12 :]
            assert "…" not in numbers and ".." not in numbers and re.search(r"\d.% +[\d.]+", numbers), line


def test_html(seen: tuple[Any, Report, Timeline]) -> None:
    page = html.render(seen[1], seen[2])
    assert "<img" not in page and "\x1b" not in page and "\u202e" not in page
    section = page.split('<section id="torch">', 1)[1].split("</section>", 1)[0]
    assert page.count("<script") == page.count("</script>") == 6
    if seen[0] is hostile:
        assert "&lt;/script&gt;" in section and "{{7*7}}" in section and "1 calls were left by an exception" in section
        assert "\\x1b" in section
    else:
        rows = section.split("</tbody>")[0].count("<tr><td")
        assert rows == 32
        assert "GFLOP/s (synthetic)" in section


def finite(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_json(seen: tuple[Any, Report, Timeline]) -> None:
    report = seen[1]
    told = finite(json_viewer.render(report))["torch_operators"]
    table = report.get(TorchOperators)
    assert table is not None
    assert [row["self_ns"] for row in told["rows"]] == [row.self_ns for row in table.rows]
    assert {"name", "shape", "calls", "left", "total_ns", "self_ns", "share", "bound", "ceiling_share", "headroom_ns",
            "evidence"} <= set(told["rows"][0])  # fmt: skip
    assert set(told) >= {"threads", "calls", "self_ns", "observed_ns", "probe_share", "running_threads", "ceilings"}


HUGE = (1 << 62) - 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-300, None])
def test_hostile_ceilings(tmp_path: Path, value: float | None) -> None:
    made = Made()
    made.row(MM, 400_000)
    made.row(COPY, 400_000)
    made.ceilings = [(what, dtype, threads, value) for what, dtype, threads, _ in CEILINGS]
    table = made.table(tmp_path)
    assert {row.bound for row in table.rows} == {"unknown"}
    assert table.ceilings == ()


@pytest.mark.parametrize(
    "calls",
    [
        [(0, HUGE, None), (HUGE - 1, HUGE, None)],
        [(-HUGE, HUGE, None)],
        [(100, 0, None)],  # ends before it begins
        [(0, 0, None)],
        [(0, None, None)],
        [(0, 100, 0), (10, None, 0), (20, 90, 1)],  # in itself
        [(0, None, 1), (0, None, 0), (5, 10, 1)],  # in one another, and left
        [(0, 100, 1), (0, 100, 0)],
        [(0, 100, 77)],  # in none
    ],
)
def test_hostile_calls(tmp_path: Path, calls: list[tuple[int, int | None, int | None]]) -> None:
    made = Made()
    for start, end, parent in calls:
        made.call(MM, start, end, None if parent is None else PID << 32 | parent)
    made.away(5, 50)
    made.away(-HUGE, HUGE, "")
    with Recording.open(made.write(tmp_path / "a.duckdb")) as recording:
        outcome = ANALYZER.run(recording)
    assert outcome.status == "ok" or "out of range" in outcome.reason.lower() or "overflow" in outcome.reason.lower()


def test_hostile_calls_in_every_viewer(tmp_path: Path) -> None:
    made = Made()
    for start, end, parent in [(100, 0, 0), (0, None, 2), (0, None, 1), (5, 10, 1), (0, 0, 77), (0, 0, None)]:
        made.call(MM, start, end, None if parent is None else PID << 32 | parent)
    with Recording.open(made.write(tmp_path / "a.duckdb")) as recording:
        report, drawn = build_report(recording), timeline(recording)
    assert report.section("torch_operators").status == "ok"
    assert '<section id="torch">' in html.render(report, drawn)
    finite(json_viewer.render(report))
    for width in (80, 160):
        terminal.show(report, io.StringIO(), width)
