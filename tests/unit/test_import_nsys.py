"""Nsight Systems' SQLite: links, missing tables, graphs, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowprof.profiler import importers
from flowprof.profiler.errors import RecordingError
from traces import imported, nsys, nsys_tables

ROWS = """
SELECT w.kind, w.name, w.launch, o.name, w.in_graph, w.dur_ns FROM gpu_work w
LEFT JOIN api_call o ON o.call_id = w.operator_id ORDER BY w.start_ns
"""


def test_everything_is_linked(tmp_path: Path) -> None:
    with imported(nsys(tmp_path / "a.sqlite", nsys_tables())) as recording:
        assert recording.rows(ROWS) == [
            ("kernel", "gemm<float>", "cudaLaunchKernel", "aten::mm", False, 400),
            ("copy", "Memcpy HtoD (Pageable -> Device)", "cuMemcpyHtoDAsync_v2", "aten::mm", False, 100),
        ]
        assert recording.rows("SELECT name, kind, pid, tid FROM api_call ORDER BY start_ns") == [
            ("forward", "annotation", 20, 21), ("aten::mm", "operator", 20, 21),
            ("cudaLaunchKernel", "runtime", 20, 21), ("cuMemcpyHtoDAsync_v2", "driver", 20, 21)]  # fmt: skip
        assert recording.rows("SELECT dims FROM api_args") == [("[[64,32],[32,16]]",)]
        assert recording.rows("SELECT host_memory, bytes FROM gpu_slice WHERE kind = 'copy'") == [("pageable", 512)]
        assert recording.meta()["gpu_model"] == "1 x NVIDIA H100 80GB HBM3"
        assert "gpu_from_ns" not in recording.meta(), "nsys records both sides from the same moment on"


@pytest.mark.parametrize("missing", sorted(nsys_tables()))
def test_any_table_may_be_missing(tmp_path: Path, missing: str) -> None:
    tables = {name: table for name, table in nsys_tables().items() if name != missing}
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        kinds = {kind for (kind,) in recording.rows("SELECT kind FROM gpu_work")}
    gone = {"CUPTI_ACTIVITY_KIND_KERNEL": "kernel", "CUPTI_ACTIVITY_KIND_MEMCPY": "copy"}.get(missing)
    assert kinds == {"kernel", "copy"} - {gone}


def test_kernels_of_a_graph_and_whole_graphs(tmp_path: Path) -> None:
    tables = nsys_tables()
    columns, [row] = tables["CUPTI_ACTIVITY_KIND_KERNEL"]
    tables["CUPTI_ACTIVITY_KIND_KERNEL"] = (columns + ", graphNodeId INTEGER", [(*row, 77)])
    tables["CUPTI_ACTIVITY_KIND_GRAPH_TRACE"] = ('start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER',
                                                 [(2000, 2500, 0, 7)])  # fmt: skip
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        assert recording.rows("SELECT kind, in_graph, operator_id FROM gpu_work WHERE kind <> 'copy' ORDER BY 1") == [
            ("graph", True, None), ("kernel", True, None)]  # fmt: skip


def test_what_synchronisations_wait_for(tmp_path: Path) -> None:
    process, other, tables = 20 << 24, 30 << 24, nsys_tables()
    tables["CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"] = (
        'start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, '
        "syncType INTEGER, eventSyncId INTEGER",
        [
            (1, 2, 0, 9, 50, process, 2, 77),
            (1, 2, 0, 9, 51, process, 2, 78),
            (1, 2, 0, 13, 52, process, 3, 0),
            (1, 2, 0, 0xFFFFFFFF, 53, process, 4, 0),
            (1, 2, 0, 0xFFFFFFFF, 54, process, 1, 77),
            (1, 2, 0, 9, 55, other, 2, 77),
            (1, 2, 0, 9, 56, process, 9, "x"),
        ],
    )
    tables["CUPTI_ACTIVITY_KIND_CUDA_EVENT"] = (
        "deviceId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, eventSyncId INTEGER",
        [(0, 7, 40, process, 77)],
    )
    tables["TARGET_INFO_CUDA_STREAM"] = (
        "streamId INTEGER, processId INTEGER, flag INTEGER",
        [(7, 20, 3), (9, 20, 2), (11, 20, 1), (13, 20, 0)],
    )
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        assert recording.rows("SELECT * FROM gpu_sync ORDER BY correlation") == [
            (20, 50, 9, 7, 40), (20, 51, 9, None, None), (20, 52, None, 13, None), (20, 54, None, 7, 40),
            (30, 55, 9, None, None)]  # fmt: skip
        assert recording.rows("SELECT name, count(*) FROM gpu_slice WHERE kind = 'sync' GROUP BY 1 ORDER BY 1") == [
            ("Context Sync", 1),
            ("Event Sync", 1),
            ("Stream Sync", 1),
            ("Stream Wait Event", 3),
            ("Synchronization", 1),
        ]
        assert recording.rows("SELECT * FROM gpu_stream ORDER BY stream") == [
            (20, 7, "null"), (20, 9, "non-blocking"), (20, 11, "blocking")]  # fmt: skip


def test_processes_with_the_same_correlation(tmp_path: Path) -> None:
    tables = nsys_tables()
    columns, rows = tables["CUPTI_ACTIVITY_KIND_RUNTIME"]
    other = (30 << 24) + 31
    tables["CUPTI_ACTIVITY_KIND_RUNTIME"] = (columns, [*rows, (1, 2, other, 5, 4)])
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        assert [row[2] for row in recording.rows(ROWS)] == ["cudaLaunchKernel", "cuMemcpyHtoDAsync_v2"]


def test_columns_of_wrong_types(tmp_path: Path) -> None:
    tables = nsys_tables()
    columns, [row] = tables["CUPTI_ACTIVITY_KIND_KERNEL"]
    bad = [("x", 5, *row[2:]), (9, 3, *row[2:]), (2**62, 2**63 - 1, *row[2:])]
    tables["CUPTI_ACTIVITY_KIND_KERNEL"] = (columns, [row, *bad, (1500, 1501, "gpu", b"7", None, *row[5:])])
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        assert recording.rows("SELECT count(*) FROM gpu_work WHERE kind = 'kernel'") == [(2,)]
        assert recording.rows("SELECT events FROM loss") == [(3,)]


def test_facts_without_a_value(tmp_path: Path) -> None:
    tables = nsys_tables()
    tables["META_DATA_EXPORT"] = ("name TEXT, value TEXT", [("EXPORT_PRODUCT_VERSION", None)])
    tables["TARGET_INFO_SYSTEM_ENV"] = ("name TEXT, value TEXT", [("Hostname", None)])
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        facts = recording.meta()
    assert facts["imported_from"] == "Nsight Systems SQLite" and not facts.get("host")


@pytest.mark.parametrize("size", [100, 4096, 9000])
def test_truncated(tmp_path: Path, size: int) -> None:
    path = nsys(tmp_path / "a.sqlite", nsys_tables())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RecordingError, match=r"damaged|holds neither"):
        importers.read(str(path))


def test_another_database(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no Nsight Systems export"):
        importers.read(str(nsys(tmp_path / "a.sqlite", {"songs": ("name TEXT", [("a",)])})))


def test_a_view_in_place_of_a_table_is_not_run(tmp_path: Path) -> None:
    import sqlite3

    path = nsys(tmp_path / "a.sqlite", {k: v for k, v in nsys_tables().items() if "KERNEL" not in k})
    with sqlite3.connect(path) as db:
        db.execute("CREATE VIEW CUPTI_ACTIVITY_KIND_KERNEL AS WITH RECURSIVE r(start) AS "
                   "(SELECT 1 UNION ALL SELECT start + 1 FROM r) SELECT start, start AS 'end' FROM r")  # fmt: skip
    db.close()
    with imported(path) as recording:
        assert recording.rows("SELECT DISTINCT kind FROM gpu_work") == [("copy",)]
