"""The report object and the timeline's arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.store import Recording
from synthetic import Synthetic, write, write_empty


def test_source_says_how_it_was_recorded(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(meta={"clean_end": "false", "cpus": "many"}))
    with Recording.open(path) as recording:
        source = build_report(recording).source
    assert (source.file, source.host, source.rung) == ("a.duckdb", "testhost", "operator site")
    assert source.clean_end is False
    assert source.cpus is None, "not a number"
    assert source.started_ns is not None


def test_unknown_sections_raise(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write_empty(path)
    with Recording.open(path) as recording:
        report = build_report(recording)
    assert report.get(Summary) is not None
    with pytest.raises(KeyError):
        report.section("nothing")


def test_timeline_holds_everything(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    spec = Synthetic()
    truth = write(path, spec)
    with Recording.open(path) as recording:
        drawn = timeline(recording)
    assert (drawn.operators_total, drawn.operators_shown, drawn.every) == (truth.op_rows, truth.op_rows, 1)
    assert drawn.graphs_shown == sum(truth.graphs.values())
    assert [lane.ith for lane in drawn.operators] == [0, 1]
    for lane in drawn.operators:
        assert np.all(np.diff(lane.start_ns) >= 0)
        assert np.all(lane.start_ns + lane.dur_ns <= drawn.end_ns)
    first, second = drawn.operators
    assert int((second.dur_ns - second.compute_ns).sum()) == truth.wait_ns[1]
    assert np.count_nonzero(first.compute_ns < 0) > 0, "op windows know no compute time"
    names = {drawn.kinds[kind].name for kind in np.unique(first.kind)}
    assert "ffn_up-3" in names and "result_output" in names
    lane = drawn.graphs[0]
    assert int(lane.dur_ns[lane.phase == drawn.phases.index("decode")].sum()) == truth.total_ns["decode"]
    assert len(drawn.window_level) == sum(truth.windows.values())


def test_timeline_is_thinned_to_whole_graphs(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    truth = write(path, Synthetic(cycle=("thread",)))
    with Recording.open(path) as recording:
        drawn = timeline(recording, limit=truth.op_rows // 3)
    assert drawn.every == 4 or drawn.every == 3
    assert 0 < drawn.operators_shown <= truth.op_rows // 3 + 1000
    per_graph = truth.op_rows // sum(truth.graphs.values())
    assert drawn.operators_shown % per_graph == 0


def test_timeline_leaves_shapes_out_when_they_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(cycle=("op",)))
    with Recording.open(path) as recording:
        many = timeline(recording)
        monkeypatch.setattr("flowprof.profiler.timeline.MAX_KINDS", 10)
        few = timeline(recording)
    assert len(few.kinds) < len(many.kinds)
    assert {kind.shape for kind in few.kinds} == {""}
    for before, after in zip(many.operators, few.operators, strict=True):
        names = [many.kinds[kind].name for kind in before.kind]
        assert names == [few.kinds[kind].name for kind in after.kind]


def test_timeline_of_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write_empty(path)
    with Recording.open(path) as recording:
        drawn = timeline(recording)
    assert (drawn.end_ns, drawn.graphs, drawn.operators) == (0, (), ())
