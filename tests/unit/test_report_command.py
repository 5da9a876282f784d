"""`flowprof report`: the three shapes, and where a page may be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "x.duckdb"
    synthetic.write(str(path))
    return path


def test_text_and_json(flowprof, recording: Path) -> None:
    text = flowprof("report", recording)
    assert (text.returncode, text.stderr) == (0, "") and "MUL_MAT" in text.stdout and "\x1b" not in text.stdout
    shown = flowprof("report", recording, "--json")
    promised = {"schema_version", "engine", "phases", "operators", "threads", "losses", "overhead", "findings"}
    assert promised <= json.loads(shown.stdout).keys()


def test_page(flowprof, recording: Path) -> None:
    out = recording.with_name("page.html")
    out.write_text("an earlier one")
    done = flowprof("report", recording, "--html", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.read_text().lower().lstrip().startswith("<!doctype html")
    assert sorted(path.name for path in recording.parent.iterdir()) == ["page.html", "x.duckdb"]


@pytest.mark.parametrize(("out", "code"), [("no/such/folder/x.html", 6), ("folder", 6), ("x.duckdb", 2)])
def test_a_page_that_cannot_be(flowprof, recording: Path, out: str, code: int) -> None:
    (recording.parent / "folder").mkdir()
    before = recording.read_bytes()
    done = flowprof("report", recording, "--html", out)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("flowprof: ") and "Traceback" not in done.stderr and "internal" not in done.stderr
    assert recording.read_bytes() == before


def test_one_shape_at_a_time(flowprof, recording: Path) -> None:
    assert flowprof("report", recording, "--html", "x.html", "--json").returncode == 2


def test_other_ceilings(flowprof, recording: Path) -> None:
    file = recording.with_name("mine.toml")
    file.write_text('machine = "mine"\n[[ceiling]]\nwhat = "dram_read"\nvalue = 90e9\n')
    shown = flowprof("report", recording, "--json", "--ceilings", file)
    verdicts = json.loads(shown.stdout)["verdicts"]
    assert [one["source"] for one in verdicts["ceilings"]] == ["mine.toml: given by the user"]
    assert {"bound", "gflops", "gbps", "ceiling", "floor_ns", "confidence"} <= verdicts["groups"][0].keys()
    text = flowprof("report", recording)
    assert "on waits only: no ceilings" in text.stdout
    assert flowprof("report", recording, "--ceilings", "none.toml").returncode != 0


def test_thresholds_of_resources(flowprof, recording: Path) -> None:
    file = recording.with_name("mine.toml")
    file.write_text("[contention]\nsome_share = 0.2\n")
    assert flowprof("report", recording, "--thresholds", file).returncode == 0
    file.write_text("[contention]\nsome_share = 'much'\n")
    wrong = flowprof("report", recording, "--thresholds", file)
    assert wrong.returncode == 2 and "[contention] some_share is 'much'" in wrong.stderr
    assert flowprof("report", recording, "--thresholds", "none.toml").returncode == 3
