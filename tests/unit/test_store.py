"""The recording: what survives a kill, a full disk and a careless caller, and what a reader may not do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from flowprof.profiler.errors import FlowprofError, NotFoundError, RecordingError, UsageError
from flowprof.profiler.report import build_report
from flowprof.profiler.store import MIGRATIONS, SCHEMA_VERSION, Recording, read_sql
from synthetic import Synthetic, grow_context, write

TABLES = (
    "meta", "process", "thread", "module", "model", "probe_site", "probe_window", "loss", "graph", "graph_node",
    "graph_exec", "op_exec", "request", "event_note",
)  # fmt: skip
VIEWS = (
    "graph_duration", "op_duration", "operator", "token", "request_duration", "loss_by_place", "measured_graph",
    "window_span", "expert_read", "measured_operator", "measured_thread", "request_graph",
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.duckdb")


def test_empty_recording_has_every_table_and_view(path: str) -> None:
    Recording.create(path).close()
    with Recording.open(path) as recording:
        for name in (*TABLES, *VIEWS):
            recording.rows(f"SELECT * FROM {name}")
        assert recording.meta() == {"schema_version": str(SCHEMA_VERSION)}


def test_views_are_inside_the_file_for_other_tools(path: str) -> None:
    Recording.create(path).close()
    with duckdb.connect(path, read_only=True) as db:
        assert db.execute("SELECT count(*) FROM graph_duration").fetchone() == (0,)


def test_columns_come_back_as_they_went_in(path: str) -> None:
    big = 2**62 + 1  # a clock value that a float would round
    with Recording.create(path) as recording:
        recording.append("op_exec", {
            "exec_id": np.arange(4), "node_index": [1, 2, 3, 4], "tid": 7, "ith": np.zeros(4, dtype=np.int16),
            "start_ns": np.full(4, big), "compute_end_ns": np.ma.array([big, 1, big, 1], mask=[0, 1, 0, 1]),
            "end_ns": np.array([1, 2, 3, 4], dtype=np.uint64),
        })  # fmt: skip
        recording.append("graph_node", {
            "graph_id": 1, "node_index": np.arange(3), "layer": [0, None, 5], "name": ["a", None, "é\x00</script>"],
            "ne": [[1, 2, 3, 4], [], None], "sources": [np.array([0, 1]), [], [2]], "executes": [True, False, True],
            "block": None,
        })  # fmt: skip
    with Recording.open(path) as recording:
        assert recording.rows("SELECT tid, start_ns, compute_end_ns, end_ns FROM op_exec ORDER BY exec_id") == [
            (7, big, big, 1), (7, big, None, 2), (7, big, big, 3), (7, big, None, 4),
        ]  # fmt: skip
        rows = recording.rows("SELECT layer, name, ne, sources, executes, block FROM graph_node ORDER BY node_index")
        assert rows == [
            (0, "a", [1, 2, 3, 4], [0, 1], True, None),
            (None, None, [], [], False, None),
            (5, "é\x00</script>", None, [2], True, None),
        ]
        arrays = recording.columns("SELECT exec_id, compute_end_ns FROM op_exec ORDER BY exec_id")
        assert arrays["exec_id"].tolist() == [0, 1, 2, 3]
        assert np.ma.getmaskarray(arrays["compute_end_ns"]).tolist() == [False, True, False, True]
        assert len(recording.frame("SELECT * FROM op_exec")) == 4


def test_no_rows_and_scalars_only(path: str) -> None:
    with Recording.create(path) as recording:
        assert recording.append("op_exec", {"exec_id": np.array([], dtype=np.int64), "tid": 3}) == 0
        assert recording.append("loss", {"window_id": 1, "place": "ring", "events": 2}) == 1
        recording.set_meta("host", "a")
        recording.set_meta("host", "b")
    with Recording.open(path) as recording:
        assert recording.rows("SELECT * FROM loss") == [(1, "ring", 2)]
        assert recording.meta()["host"] == "b"


def test_a_wrong_column_is_our_bug_not_a_recording_error(path: str) -> None:
    with Recording.create(path) as recording, pytest.raises(duckdb.Error):
        recording.append("op_exec", {"no_such_column": [1]})


def test_a_batch_is_kept_whole_or_not_at_all(path: str) -> None:
    with Recording.create(path) as recording:
        with recording.batch():
            recording.append("loss", {"place": ["a", "b"], "events": 1})
        with pytest.raises(ZeroDivisionError), recording.batch():
            recording.append("loss", {"place": ["c"], "events": 1})
            _ = 1 / 0
        assert recording.rows_kept == 2
    with Recording.open(path) as recording:
        assert recording.rows("SELECT count(*) FROM loss") == [(2,)]


WRITER = """
import sys, time
import numpy as np
from flowprof.profiler.store import Recording
recording = Recording.create(sys.argv[1])
for _ in range(3):
    with recording.batch():
        recording.append("op_exec", {"exec_id": np.arange(50_000), "start_ns": np.arange(50_000)})
with recording.batch():
    recording.append("op_exec", {"exec_id": np.arange(50_000)})
    print("inside a batch", flush=True)
    time.sleep(60)
"""


def test_after_a_kill_the_file_opens_with_all_but_the_last_batch(path: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "inside a batch\n"
        with pytest.raises(RecordingError, match="still being recorded"):
            Recording.open(path)
        with pytest.raises(RecordingError, match="being written"):
            Recording.create(path, overwrite=True)
        writer.send_signal(signal.SIGKILL)
    with Recording.open(path) as recording:
        assert recording.rows("SELECT count(*) FROM op_exec") == [(150_000,)]
        assert "clean_end" not in recording.meta()


FULL = """
import resource, signal, sys
import numpy as np
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.store import Recording
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recording = Recording.create(sys.argv[1])
with recording.batch():
    recording.append("loss", {"place": ["kept"], "events": 1})
recording.execute("CHECKPOINT")
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
random = np.random.default_rng(1)
try:
    for _ in range(100):
        with recording.batch():
            recording.append("op_exec", {"exec_id": random.integers(0, 2**62, 100_000)})
except RecordingError as error:
    print(error.exit_code, error.message, error.hint, sep="|")
recording.close()
"""


def test_a_full_disk_is_said_and_what_was_written_is_kept(path: str) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"6|the recording {path} cannot be written any more")
    assert "all but the last batch is kept" in done.stdout
    with Recording.open(path) as recording:
        assert recording.rows("SELECT place FROM loss") == [("kept",)]


def test_an_existing_file_needs_overwrite(path: str) -> None:
    with Recording.create(path) as recording:
        recording.set_meta("host", "old")
    with pytest.raises(RecordingError, match="exists") as caught:
        Recording.create(path)
    assert "-f" in caught.value.hint
    Recording.create(path, overwrite=True).close()
    with Recording.open(path) as recording:
        assert "host" not in recording.meta()
    assert list(Path(path).parent.iterdir()) == [Path(path)], "no drafts or logs are left"


def test_a_log_left_by_a_killed_recorder_does_not_reach_the_next_recording(path: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
    Recording.create(path, overwrite=True).close()
    with Recording.open(path) as recording:
        assert recording.rows("SELECT count(*) FROM op_exec") == [(0,)]


@pytest.mark.parametrize(
    ("where", "words"),
    [("missing/a.duckdb", "no directory"), ("", "not a plain file"), ("/proc/a.duckdb", "cannot write"),
     ("/dev/null", "not a plain file")],
)  # fmt: skip
def test_places_that_cannot_hold_a_recording(tmp_path: Path, where: str, words: str) -> None:
    with pytest.raises(FlowprofError, match=words) as caught:
        Recording.create(str(tmp_path / where), overwrite=True)
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_the_recording_belongs_to_the_user(path: str) -> None:
    with Recording.create(path, owner=(12345, 54321)) as recording:
        recording.set_meta("host", "a")
    assert (Path(path).stat().st_uid, Path(path).stat().st_gid) == (12345, 54321)


@pytest.mark.parametrize("kept", [0, 5, 100, 5000, 60_000, -1000])
def test_a_truncated_file_is_said_to_be_one(path: str, kept: int) -> None:
    with Recording.create(path) as recording:
        recording.append("op_exec", {"exec_id": np.random.default_rng(1).integers(0, 2**62, 200_000)})
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:kept])
    with pytest.raises(RecordingError, match=r"truncated|damaged|not a flowprof") as caught:
        Recording.open(path)
    assert caught.value.exit_code == 6


def test_free_blocks_at_the_end_need_not_be_there(path: str) -> None:
    """Rows that were replaced may leave blocks at the end that DuckDB counts, though it never wrote them."""
    write(path, Synthetic(layers=2, requests=3, tokens=30, prompt=9, cycle=("op", "thread")))
    grow_context(path, 9)
    with duckdb.connect(path) as db:
        db.execute(
            "CREATE TABLE t AS FROM graph_node; DELETE FROM graph_node; INSERT INTO graph_node FROM t; DROP TABLE t"
        )
    with Recording.open(path) as recording:
        assert recording.rows("SELECT count(DISTINCT graph_id) FROM graph_node") == [(10,)]


def test_files_that_are_not_recordings(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    foreign = tmp_path / "foreign.duckdb"
    with duckdb.connect(str(foreign)) as db:
        db.execute("CREATE TABLE t(a INTEGER)")
    pipe = tmp_path / "pipe"  # without a writer: it must not be waited for
    os.mkfifo(pipe)
    for path, kind in ((text, RecordingError), (foreign, RecordingError), (tmp_path, RecordingError),
                       (pipe, RecordingError), (tmp_path / "nothing", NotFoundError)):  # fmt: skip
        with pytest.raises(kind):
            Recording.open(str(path))


@pytest.mark.parametrize(
    ("version", "words"),
    [(str(SCHEMA_VERSION + 1), f"reads up to {SCHEMA_VERSION}"), ("0", "not a flowprof"), ("x", "not a flowprof")],
)
def test_other_schema_versions(path: str, version: str, words: str) -> None:
    with Recording.create(path) as recording:
        recording.set_meta("schema_version", version)
    with pytest.raises(RecordingError, match=words):
        Recording.open(path)


def test_a_recording_of_version_1(path: str) -> None:
    """It had neither the scheduler's tables nor data_bytes; views and analyzers find empty tables instead."""
    with Recording.create(path) as recording:
        recording.set_meta("schema_version", 1)
        recording.append("graph_node", {"graph_id": [1], "node_index": [0], "size_bytes": [4096]})
        for table in ("thread_state", "counter", "neighbour", "page_fault", "expert_use", "ceiling"):
            recording.execute(f"DROP TABLE {table}")
        recording.execute("DROP VIEW absence")
        recording.execute("DROP TABLE other_thread")
        recording.execute("DROP TABLE op_counter")
        recording.execute("ALTER TABLE graph_node DROP COLUMN data_bytes")
        recording.execute("ALTER TABLE thread DROP COLUMN cpus")
    with Recording.open(path) as old:
        assert old.rows("SELECT size_bytes, data_bytes FROM graph_node") == [(4096, 4096)]
        assert old.rows("SELECT count(*) FROM thread_state, page_fault, expert_use, ceiling, op_counter") == [(0,)]


def test_a_recording_of_version_2(path: str) -> None:
    """It had no counters per operator: those of today's schema are there, and empty."""
    with Recording.create(path) as recording:
        recording.set_meta("schema_version", 2)
        recording.append("thread", {"pid": [1], "tid": [2], "cpus": ["0-1"]})
        today = recording.rows("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'op_counter'")
        recording.append("thread_state", {"pid": [1], "tid": [2], "start_ns": [3], "end_ns": [4], "by_tid": [9]})
        for table in ("op_counter", "other_thread"):
            recording.execute(f"DROP TABLE {table}")
    with Recording.open(path) as old:
        assert old.rows("SELECT tid, by_tid FROM absence") == [(2, 9)]
        assert old.rows("SELECT cpus FROM thread") == [("0-1",)]
        assert old.rows("SELECT * FROM op_counter") == []
        assert old.rows("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'op_counter'") == today


RESOURCES = ("resource", "resource_event", "stack", "variable", "variable_sample")


@pytest.mark.parametrize("version", sorted(MIGRATIONS))
def test_older_recordings_have_no_gpu_work(path: str, version: int) -> None:
    with Recording.create(path) as recording:
        recording.set_meta("schema_version", version)
        columns = (
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE table_name IN ({}) ORDER BY ALL"
        )
        columns = columns.format(", ".join(f"'{name}'" for name in ("device_call", *RESOURCES)))
        today = recording.rows(columns)
        for name in RESOURCES if version <= 4 else ():
            recording.execute(f"DROP TABLE {name}")
        if version > 4:
            recording.execute("ALTER TABLE resource DROP COLUMN until_ns")
        if version in (5, 6):
            recording.append("resource", {"resource_id": [1], "name": ["lock"]})
            recording.execute("ALTER TABLE resource DROP COLUMN shared")
        if version == 5:
            recording.append("variable", {"variable_id": [1], "name": ["limit"], "source": ["t.c:7"]})
            for name in ("function", "type"):
                recording.execute(f"ALTER TABLE variable DROP COLUMN {name}")
        recording.execute("ALTER TABLE device_call DROP COLUMN graph")
        if version <= 3:
            recording.execute("DROP TABLE device_call")
        if version <= 2:
            recording.execute("DROP VIEW gpu_work")
            for table in ("api_call", "api_args", "gpu_device", "gpu_slice"):
                recording.execute(f"DROP TABLE {table}")
        if version == 1:
            for table in ("thread_state", "counter", "neighbour", "page_fault", "expert_use", "ceiling"):
                recording.execute(f"DROP TABLE {table}")
    with Recording.open(path) as old:
        assert old.rows("SELECT count(*) FROM gpu_work, api_args, device_call") == [(0,)]
        assert sorted(set(old.rows(columns))) == today
        rows = old.rows("SELECT name, source, function, type FROM variable")
        assert rows == ([("limit", "t.c:7", None, None)] if version == 5 else [])
        assert old.rows("SELECT name, shared FROM resource") == ([("lock", None)] if version in (5, 6) else [])
        assert build_report(old).section("gpu").status == "skipped"


def test_numbers_of_every_kind(path: str) -> None:
    """Masked arrays, numpy scalars in lists, None among them, constants: few rows and many take different ways in."""
    for rows in (1, 2, 3, 40):
        mask = np.arange(rows) % 2 == 1
        with Recording.create(path, overwrite=True) as recording:
            recording.append("op_exec", {
                "exec_id": np.arange(rows) + 2**62, "tid": 7, "ith": [np.int16(1)] * rows,
                "start_ns": [None if hidden else 2**53 + 1 for hidden in mask],
                "end_ns": np.ma.masked_array(np.arange(rows) + 2**53 + 1, mask),
            })  # fmt: skip
            read = recording.rows("SELECT exec_id, tid, ith, start_ns, end_ns, compute_end_ns FROM op_exec ORDER BY 1")
        assert read == [
            (i + 2**62, 7, 1, *((None, None) if mask[i] else (2**53 + 1, i + 2**53 + 1)), None) for i in range(rows)
        ]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", UsageError),
        ("SELECT * FROM read_text('/etc/passwd')", UsageError),
        ("COPY meta TO '/tmp/flowprof-must-not-exist.csv'", UsageError),
        ("ATTACH '/tmp/flowprof-must-not-exist.db'", UsageError),
        ("INSTALL httpfs", UsageError),
        ("SET threads = 1", UsageError),
        ("INSERT INTO meta VALUES ('a', 'b')", UsageError),
        ("DROP TABLE meta", UsageError),
        ("SELEC 1", UsageError),
        ("SELECT nothing FROM meta", UsageError),
        ("SELECT * FROM sql", NotFoundError),  # a variable of ours
        ("SELECT * FROM nothing", NotFoundError),
    ],
)
def test_a_query_reads_its_recording_and_nothing_else(path: str, sql: str, kind: type[FlowprofError]) -> None:
    Recording.create(path).close()
    with Recording.open(path) as recording, pytest.raises(kind):
        recording.table(sql)
    assert not Path("/tmp/flowprof-must-not-exist.csv").exists()


def test_a_hostile_view_in_the_file_reaches_nothing(path: str) -> None:
    with duckdb.connect(path) as db:
        db.execute(read_sql("schema.sql"))
        db.execute("INSERT INTO meta VALUES ('schema_version', ?)", [str(SCHEMA_VERSION)])
        db.execute("DROP TABLE loss")
        db.execute(
            "CREATE VIEW loss AS SELECT 1 AS window_id, content AS place, 1 AS events FROM read_text('/etc/passwd')"
        )
    with pytest.raises(FlowprofError):
        Recording.open(path).rows("SELECT * FROM loss")


def test_memory_stays_bounded_while_writing(path: str) -> None:
    code = WRITER.replace("range(3)", "range(60)").replace("50_000", "150_000").replace("time.sleep(60)", (
        "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)"))  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout.splitlines()[-1]) < 400, "MB"


def test_of_a_part_of_it_the_losses_are_those_of_its_windows(path: str) -> None:
    with Recording.create(path) as recording:
        recording.append("probe_window", {
            "window_id": [0, 1], "level": "op", "start_ns": [0, 500], "end_ns": [500, 900], "graphs": 0, "tokens": 0,
            "hits": 0, "losses": [7, 5],
        })  # fmt: skip
        recording.append("loss", {"window_id": [0, 1, None], "place": "ring", "events": [7, 5, 1]})
    for stretch, lost in (((0, 500), [1, 7]), ((500, 901), [1, 5])):
        with Recording.open(path) as recording:
            recording.restrict(*stretch)
            assert recording.rows("SELECT events FROM loss ORDER BY events") == [(one,) for one in lost]


def test_calls_are_not_added_up_one_by_one_before_their_operators_are_known(path: str) -> None:
    write(path, Synthetic(layers=8, requests=2, tokens=100, cycle=("thread",)))
    grow_context(path, graphs=100)
    with Recording.open(path) as recording:
        plan = recording.rows("EXPLAIN " + read_sql("layers.sql"))[0][1]
        assert "graph_node" in plan
        assert "EXPORT_STATE" not in plan  # DuckDB's name for a sum that is taken below a join


def test_a_view_that_is_kept_is_found_out_once(path: str) -> None:
    write(path, Synthetic(layers=1, requests=1, tokens=4, experts=(8, 2), cycle=("op",)))
    with Recording.open(path) as recording:
        before = sorted(recording.rows("FROM expert_read"))
        recording.keep("expert_read")
        recording.shadow("expert_use", {"exec_id": []})
        assert before and sorted(recording.rows("FROM expert_read")) == before
        assert recording.rows("SELECT count(*) FROM expert_use") == [(0,)]
    with Recording.create(f"{path}.new") as written, pytest.raises(RuntimeError):
        written.keep("expert_read")
