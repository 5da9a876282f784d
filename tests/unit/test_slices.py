"""What is joined with operators one by one is done in slices of a recording: they change no figure."""

import itertools
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import slices, verdict_waits
from flowprof.profiler.analyzers.absence import splits
from flowprof.profiler.store import Recording
from planted import plant
from synthetic import Synthetic, write, write_empty


def seen(path: Path) -> tuple[object, ...]:
    with Recording.open(str(path)) as recording:
        away = {node: (lost.ns, dict(lost.causes)) for node, lost in verdict_waits.away(recording).items()}
        return slices.slices(recording), splits(recording), away


@pytest.mark.parametrize("operators", [1, 500, 2_000])
def test_slices_add_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators: int) -> None:
    path = tmp_path / "x.duckdb"
    write(str(path), Synthetic())
    plant(path, many=200)
    (one,), whole_splits, whole_away = seen(path)
    assert whole_splits and whole_away
    monkeypatch.setattr(slices, "SLICE_OPERATORS", operators)
    many, their_splits, their_away = seen(path)
    assert len(many) > 2
    assert (many[0]["first"], many[-1]["last"]) == (one["first"], one["last"])
    assert all(before["last"] < after["first"] for before, after in itertools.pairwise(many))
    assert their_splits == whole_splits
    assert their_away == whole_away


def test_no_operators_no_slices(tmp_path: Path) -> None:
    write_empty(str(tmp_path / "x.duckdb"))
    assert seen(tmp_path / "x.duckdb") == ([], (), {})
