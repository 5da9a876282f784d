"""Ctrl-C in the moment in which the recording's file is made leaves no empty recording, and what `-f` replaces."""

from __future__ import annotations

import argparse
from concurrent.futures import Future
from pathlib import Path

import pytest
from flowprof.profiler.commands import recording as command
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.planning.plan import Plan
from flowprof.profiler.record.options import Options
from flowprof.profiler.store import Recording

create = Recording.create


def interrupted_late(path: str, overwrite: bool = False, owner: tuple[int, int] | None = None) -> Recording:
    """The file is there, and nobody has been told yet."""
    create(path, overwrite, owner).close()
    raise KeyboardInterrupt


def interrupted_early(path: str, overwrite: bool = False, owner: tuple[int, int] | None = None) -> Recording:
    raise KeyboardInterrupt


def begin(output: Path, force: bool) -> None:
    plan = Plan(targets=(), sites=(), ladders=(), modules=())
    asked = argparse.Namespace(force=force, quiet=True, json=False)
    command.record(plan, asked, Options(), str(output), Future())


@pytest.mark.parametrize("when", [interrupted_early, interrupted_late])
@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: object, force: bool) -> None:
    monkeypatch.setattr(Recording, "create", when)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "x.duckdb", force)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", [interrupted_early, interrupted_late])
def test_what_would_be_replaced_is_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: object) -> None:
    output = tmp_path / "x.duckdb"
    with create(str(output)) as old:
        old.set_meta("mine", "yes")
    monkeypatch.setattr(Recording, "create", when)
    with pytest.raises(KeyboardInterrupt):
        begin(output, force=True)
    with Recording.open(str(output)) as again:
        assert again.rows("SELECT value FROM meta WHERE key = 'mine'") == [("yes",)]
    assert list(tmp_path.iterdir()) == [output]


def test_another_s_file_stays(tmp_path: Path) -> None:
    output = tmp_path / "x.duckdb"
    output.write_text("somebody's")
    with pytest.raises(RecordingError, match="exists"):
        begin(output, force=False)
    assert output.read_text() == "somebody's"
