"""The demo as a newcomer runs it, where eBPF works and where it does not."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from flowprof.profiler.commands import demo
from flowprof.profiler.store import Recording
from unprivileged import as_nobody


def servers(mark: str) -> set[int]:
    """Process ids of the llama-servers that have `mark` in their environment: descendants of one demo."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if "flowprof.examples.llama_server" in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                if mark in process.environ().values():
                    found.add(process.pid)
    return found


@pytest.mark.bpf
@pytest.mark.engine
def test_demo_records_a_real_server(flowprof, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    done = flowprof("demo", "-d", "3s", "--model", "tiny", timeout=180, env={"FLOWPROF_TEST_MARK": mark})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not servers(mark)
    page = (tmp_path / "demo.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and "MUL_MAT" in page
    assert "MUL_MAT" in done.stdout
    with Recording.open(str(tmp_path / "demo.duckdb")) as recording:
        (decoded,) = recording.rows("SELECT count(*) FROM graph_exec")[0]
    rate = re.search(r"([0-9.]+) decoded tokens/s", done.stderr)
    assert rate and float(rate[1]) > 0
    assert decoded > 20


@pytest.mark.skipif(not demo.PACKAGED.is_file(), reason="no packaged recording yet")
@pytest.mark.parametrize("how", ["--packaged", "without rights"])
def test_demo_shows_the_packaged_recording(how: str, tmp_path: Path) -> None:
    options = ["--packaged"] if how == "--packaged" else []
    tmp_path.chmod(0o777)
    for parent in (*tmp_path.parents[:3],):
        parent.chmod(parent.stat().st_mode | 0o011)
    command = [sys.executable, "-m", "flowprof.profiler.cli", "demo", *options]
    done = subprocess.run(
        command if options else as_nobody(*command),
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if not options:
        assert "CAP_BPF" in done.stderr and "nothing is recorded here" in done.stderr
    assert "MUL_MAT" in done.stdout
    assert (tmp_path / "demo.html").stat().st_size > 1000
    assert (tmp_path / "demo.duckdb").stat().st_size == demo.PACKAGED.stat().st_size


def test_a_bad_duration_is_told_before_anything_starts(flowprof) -> None:
    done = flowprof("demo", "-d", "soon")
    assert done.returncode == 2 and "not a duration" in done.stderr and done.stdout == ""
