"""`flowprof query` on a recording: three formats, read-only, and a clear word for wrong SQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flowprof.profiler.store import Recording


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "it's a test.duckdb"
    with Recording.create(str(path)) as written, written.batch():
        written.append("process", {"pid": [7, 8], "cmdline": ["a\x1b[2Jb", "c,d"], "uid": [0, None]})
    return path


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ([], "pid  cmdline      uid\n---  ---------  ---\n  7  a\\x1b[2Jb      0\n  8  c,d\n"),
        (["--format", "csv"], 'pid,cmdline,uid\n7,a\x1b[2Jb,0\n8,"c,d",\n'),
    ],
)
def test_formats(flowprof, recording: Path, options: list[str], out: str) -> None:
    done = flowprof("query", recording, "SELECT pid, cmdline, uid FROM process ORDER BY pid", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [line.split() for line in out.splitlines()]


def test_json(flowprof, recording: Path) -> None:
    done = flowprof("query", recording, "SELECT pid, uid FROM process ORDER BY pid", "--format", "json")
    assert json.loads(done.stdout) == [{"pid": 7, "uid": 0}, {"pid": 8, "uid": None}]


def test_sql_from_standard_input(flowprof, recording: Path) -> None:
    done = flowprof("query", recording, "-", "--format", "csv", input="SELECT count(*) AS n FROM process")
    assert done.stdout == "n\n2\n"


def test_long_tables_say_that_they_are_cut(flowprof, recording: Path) -> None:
    done = flowprof("query", recording, "SELECT * FROM range(1500)")
    assert len(done.stdout.splitlines()) == 1002 and "--format csv" in done.stderr


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELEC 1", 2),
        ("SELECT no_such_column FROM process", 2),
        ("SELECT * FROM no_such_table", 3),
        ("SELECT * FROM read_csv('/etc/passwd')", 2),
        ("COPY process TO '/tmp/flowprof-test-copy.csv'", 2),
        ("", 2),
    ],
)
def test_wrong_sql(flowprof, recording: Path, sql: str, code: int) -> None:
    done = flowprof("query", recording, sql)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and done.stderr.startswith("flowprof: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "sql",
    ["DROP TABLE process", "DELETE FROM process", "UPDATE process SET pid = 1", "INSERT INTO process (pid) VALUES (1)"],
)
def test_the_file_stays_as_it_is(flowprof, recording: Path, sql: str) -> None:
    before = recording.read_bytes()
    done = flowprof("query", recording, sql)
    assert done.returncode != 0 and "Traceback" not in done.stderr and "internal error" not in done.stderr
    assert recording.read_bytes() == before
