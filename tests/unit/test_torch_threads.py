"""PyTorch's threads: their roles, what they wait for, and backward passes, TorchScript and torch.compile on them."""

from __future__ import annotations

import io
import json
from pathlib import Path

from flowprof.viewers import json as json_viewer
from flowprof.viewers import terminal
from torch_recordings import PID, TINY, Made, by_name


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
