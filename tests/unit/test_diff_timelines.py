"""The median step of each side, from recordings with a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from flowprof.profiler.diff.side import Pair, open_pair
from flowprof.profiler.diff.steps import sources
from flowprof.profiler.diff.timelines import StepPair, timelines
from flowprof.profiler.store import Recording
from flowprof.viewers import diff_timeline
from synthetic import Synthetic, write, write_empty
from torch_programs import PID, US, Op, Program, step


def small(**how: Any) -> Synthetic:
    return Synthetic(**({"layers": 2, "requests": 3} | how))


def pairs(folder: Path, a: Synthetic | None, b: Synthetic | None) -> dict[str, StepPair]:
    for name, spec in (("a", a), ("b", b)):
        (folder / name).unlink(missing_ok=True)
        if spec is None:
            write_empty(str(folder / name))
        else:
            write(str(folder / name), spec)
    with open_pair([str(folder / "a")], str(folder / "b")) as pair:
        return {one.phase: one for one in timelines(pair)}


def test_median_step_of_each_phase_on_every_thread(tmp_path: Path) -> None:
    found = pairs(tmp_path, small(jitter=0.1), small(jitter=0.1, seed=2, slowdown=(2.0, 2.0, 2.0)))
    assert sorted(found) == ["decode", "prefill"]
    pair = found["decode"]
    assert pair.a is not None and pair.b is not None
    for name, shown in (("a", pair.a), ("b", pair.b)):
        with Recording.open(str(tmp_path / name)) as recording:
            alike = [row[0] for row in recording.rows(
                "SELECT e.end_ns - e.start_ns FROM graph_exec e JOIN graph USING (graph_id)"
                " WHERE phase = 'decode' AND e.level = 'thread'"
            )]  # fmt: skip
            operators = recording.rows(
                "SELECT count(*) FROM graph_node WHERE NOT leaf AND coalesce(executes, true)"
                " AND graph_id = (SELECT min(graph_id) FROM graph WHERE phase = 'decode')"
            )[0][0]
        assert (shown.file, shown.phase, shown.level, shown.tokens, shown.alike) == (
            name,
            "decode",
            "thread",
            1,
            len(alike),
        )
        assert np.sort(np.abs(np.array(alike) - np.median(alike)))[0] == abs(shown.dur_ns - np.median(alike))
        assert [lane.ith for lane in shown.lanes] == [0, 1]
        assert [len(lane.kind) for lane in shown.lanes] == [operators, operators]
        assert {shown.kinds[kind].name for kind in shown.lanes[0].kind} >= {"ffn_up-0", "kqv-1"}
        first = shown.lanes[0]
        assert int(first.start_ns[0]) >= 0
        assert int((first.start_ns + first.dur_ns).max()) <= shown.dur_ns
        assert np.all(np.diff(first.start_ns) >= 0)
    assert pair.b.dur_ns == pytest.approx(2 * pair.a.dur_ns, rel=0.1)


def decode(pair: Pair) -> StepPair:
    return next(one for one in timelines(pair) if one.phase == "decode")


def test_levels_that_both_have_and_steps_that_lost_no_operator(tmp_path: Path) -> None:
    a, b = small(cycle=("op", "thread"), jitter=0.05), small(cycle=("op",), jitter=0.05)
    pairs(tmp_path, a, b)
    with open_pair([str(tmp_path / "a")], str(tmp_path / "b")) as pair:
        one = decode(pair)
    assert one.a is not None and one.b is not None
    assert (one.a.level, one.b.level) == ("op", "op"), "thread probes would make side a look slower"
    whole = len(one.a.lanes[0].kind)
    with duckdb.connect(str(tmp_path / "a")) as db:
        db.execute("DELETE FROM op_exec WHERE node_index % 2 = 0 AND exec_id ="
                   " (SELECT exec_id FROM graph_exec WHERE start_ns = $at)", {"at": one.a.start_ns})  # fmt: skip
    with open_pair([str(tmp_path / "a")], str(tmp_path / "b")) as pair:
        again = decode(pair).a
    assert again is not None and again.start_ns != one.a.start_ns
    assert len(again.lanes[0].kind) == whole


def test_other_batch_sizes_and_sides_without_operators(tmp_path: Path) -> None:
    found = pairs(tmp_path, small(prompt=100), small(prompt=200))
    assert [found["prefill"].a.tokens, found["prefill"].b.tokens] == [100, 200]  # type: ignore[union-attr]
    alone = pairs(tmp_path, small(), None)
    assert alone["decode"].a is not None and alone["decode"].b is None
    assert pairs(tmp_path, None, small(cycle=("token",))) == {}


def test_median_iteration_of_a_torch_program_with_its_calls_and_kernels(tmp_path: Path) -> None:
    for name, slow in (("a", 1), ("b", 2)):
        program = Program(spread=0.05, seed=slow)
        for _ in range(30):
            program.run(*step(layers=2, scale=slow), Op("aten::mul", 5 * US, kernel=("multiply", 9 * US)))
        program.write(tmp_path / name)
    with open_pair([str(tmp_path / "a")], str(tmp_path / "b")) as pair:
        (one,) = timelines(pair)
        steps = {steps.phase: steps for steps in sources.read(pair.a.recordings[0])}["step"]
    assert one.a is not None and one.b is not None
    assert (one.phase, one.a.level, one.a.alike) == ("step", "", len(steps.all_ns))
    assert one.a.dur_ns == pytest.approx(np.median(steps.all_ns), rel=0.01)
    at = list(steps.start_ns).index(one.a.start_ns)
    assert one.a.dur_ns == steps.all_ns[at]
    lanes = {(lane.label, lane.depth): lane for lane in one.a.calls.lanes}
    outer, kernels = (
        lanes[f"calls · thread {PID}", 0],
        next(lane for lane in one.a.calls.lanes if "stream" in lane.label),
    )
    assert int(outer.start_ns[0]) == 0 and int((outer.start_ns + outer.dur_ns).max()) <= one.a.dur_ns
    names = [one.a.calls.kinds[kind].name for kind in outer.kind]
    assert names.count("aten::mul") == 1 and names.count("aten::softmax") == 2
    assert [one.a.calls.kinds[kind].name for kind in kernels.kind] == ["multiply"]
    assert kernels.flow_item is None, "an item of the whole recording's lane"
    description, _ = diff_timeline.packed(one)
    labels = [lane["label"] for lane in description["lanes"]]
    assert labels == sorted(labels, key=lambda label: not label.startswith("before")), "before above after"
    assert sum(label.startswith("after · GPU") or "stream" in label for label in labels) >= 2
    assert "the median of" in diff_timeline.sentence(one) and "iterations" in diff_timeline.sentence(one)
