"""Nsight Systems' SQLite export (`nsys export --type sqlite`): kernels, copies, API calls and NVTX ranges.

Its tables exist only when they have rows, and their columns differ between versions: what is absent is not asked for.
Times are ns since the session's start. `globalTid` and `globalPid` hold the process in bits 24–47, the thread below it;
correlation numbers are a process's own. Operators are the NVTX ranges of `torch.autograd.profiler.emit_nvtx`
("aten::mm, op_id = 7, sizes = [[…]]"); other ranges are annotations. A kernel with a `graphNodeId` ran in a CUDA graph;
where whole graphs were traced (CUPTI_ACTIVITY_KIND_GRAPH_TRACE) the graph is one slice and its kernels were not seen.
A synchronisation says which stream waits, and by `eventSyncId`, with `--cuda-event-trace=true`, for which event.

The file is opened read-only and unlocked (`immutable`), with trusted_schema off, and no statement may run longer than
MAX_SECONDS: views and triggers in it are not used.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.source import Source
from flowprof.profiler.importers.trace import (
    CALL_KINDS,
    MAX_EVENTS,
    MAX_PROCESSES,
    MAX_TIME_NS,
    MISSING,
    SLICE_KINDS,
    STREAM_FLAGS,
    Device,
    Format,
    Ints,
    Trace,
    in_range,
)

NAME = "Nsight Systems SQLite"
BATCH = 1000  # rows: any of them may be as large as MAX_ROW
MAX_SECONDS = 300.0
MAX_ROW = 512 << 10  # bytes; longer ones are an error of SQLite's
MAX_TEXT = 32 << 10  # bytes of a text that are kept
_MAGIC = b"SQLite format 3\0"
_CUPTI = "CUPTI_ACTIVITY_KIND_"
_COPIES = {1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD", 9: "HtoH",
           10: "PtoP", 11: "HtoD", 12: "DtoH", 13: "DtoD"}  # fmt: skip
_MEMORY = {0: "Pageable", 1: "Pinned", 2: "Device", 3: "Array", 4: "Managed", 5: "Device", 6: "Managed"}
_SYNCS = {1: "Event Sync", 2: "Stream Wait Event", 3: "Stream Sync", 4: "Context Sync"}  # as Kineto names them
_NO_STREAM = 0xFFFFFFFF  # CUPTI_SYNCHRONIZATION_INVALID_VALUE
_FLAGS = {1: "blocking", 2: "non-blocking", 3: "null"}  # CUpti_ActivityStreamFlag
_VERSIONED = re.compile(r"_(?:v\d{4,5}(?:_ptsz|_ptds)?|ptsz|ptds)$")
_OPERATOR = re.compile(
    r"([A-Za-z_]\w*::[\w.]+)(?:, (?:op_id|seq) = \d+)*(?:, sizes = (\[.*?\])(?:, input_op_ids.*)?)?$"
)


def detect(head: bytes) -> bool:
    return head.startswith(_MAGIC)


def read(source: Source) -> Trace:
    """Raises RecordingError."""
    if source.compressed:
        raise RecordingError(f"{source.path} is SQLite in gzip", f"gunzip {source.path}")
    trace = Trace(NAME)
    uri = f"file:{quote(str(Path(source.path).resolve()))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            _bound(db)
            _Export(db, trace).read(source.path)
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        raise RecordingError(
            f"{source.path} is damaged or no Nsight Systems export: {error}", "export it again"
        ) from error
    return trace


def _bound(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA trusted_schema = off")
    db.execute("PRAGMA cell_size_check = on")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW)
    db.text_factory = lambda raw: raw[:MAX_TEXT].decode("utf-8", "replace")
    until = time.monotonic() + MAX_SECONDS
    db.set_progress_handler(lambda: time.monotonic() > until, 1_000_000)


class _Export:
    def __init__(self, db: sqlite3.Connection, trace: Trace) -> None:
        self.db = db
        self.trace = trace
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 2000").fetchall()
        self.columns = {
            str(name): {str(row[1]) for row in db.execute("SELECT * FROM pragma_table_info(?)", [name])}
            for (name,) in tables
        }
        self.texts: dict[int, int] = {}  # StringIds.id → number in trace.names

    def read(self, path: str) -> None:
        if not {"StringIds", *(f"{_CUPTI}{kind}" for kind in ("KERNEL", "RUNTIME", "MEMCPY"))} & set(
            self.columns
        ) or not (any(name.startswith(_CUPTI) for name in self.columns) or "NVTX_EVENTS" in self.columns):
            raise RecordingError(
                f"{path} is SQLite, but no Nsight Systems export with GPU work",
                "trace with: nsys profile -t cuda,nvtx …; then: nsys export --type sqlite",
            )
        names = self.trace.names
        for number, text in self._rows("StringIds", ("id", "value")):
            if isinstance(number, int) and isinstance(text, str):
                self.texts[number] = names[text]
        self._devices()
        self._streams()
        self._facts()
        self._kernels()
        self._copies()
        self._simple("MEMSET", "memset", "Memset (Device)")
        self._syncs()
        self._simple("GRAPH_TRACE", "graph", "CUDA graph")
        self._calls()
        self._ranges()

    # ------------------------------------------------------------------ about the trace

    def _devices(self) -> None:
        for table, identity in (("TARGET_INFO_GPU", "id"), ("TARGET_INFO_CUDA_DEVICE", "cudaId")):
            for number, name, memory in self._rows(table, (identity, "name", "totalMemory")):
                if isinstance(number, int) and 0 <= number < 1 << 16 and number not in self.trace.devices:
                    self.trace.devices[number] = Device(
                        str(name or "")[:200], memory if isinstance(memory, int) and memory > 0 else None
                    )

    def _streams(self) -> None:
        for pid, stream, flag in self._rows("TARGET_INFO_CUDA_STREAM", ("processId", "streamId", "flag")):
            known = isinstance(pid, int) and isinstance(stream, int) and flag in _FLAGS
            if known and len(self.trace.streams) < MAX_EVENTS:
                self.trace.streams[pid, stream] = STREAM_FLAGS.index(_FLAGS[flag])

    def _facts(self) -> None:
        for key, value in self._rows("META_DATA_EXPORT", ("name", "value")):
            if key == "EXPORT_PRODUCT_VERSION":
                self.trace.version = str(value or "")[:60]
        for key, value in self._rows("TARGET_INFO_SYSTEM_ENV", ("name", "value")):
            if key == "Hostname":
                self.trace.facts["host"] = str(value or "")[:200]
        for began, clock in self._rows("TARGET_INFO_SESSION_START_TIME", ("utcEpochNs", "systemClockNs")):
            if isinstance(began, int) and 0 < began < MAX_TIME_NS:
                self.trace.unix_offset_ns = began - (clock if isinstance(clock, int) and 0 <= clock < began else 0)
        for pid, name in self._rows("PROCESSES", ("pid", "name")):
            if isinstance(pid, int) and 0 <= pid < 1 << 31 and len(self.trace.processes) < MAX_PROCESSES:
                self.trace.processes[pid] = str(name or "")[:200]
        texts = list(self.trace.names)
        for where, name in self._rows("ThreadNames", ("globalTid", "nameId")):
            if isinstance(where, int) and name in self.texts and len(self.trace.threads) < MAX_PROCESSES:
                self.trace.threads[where >> 24 & 0xFFFFFF, where & 0xFFFFFF] = texts[self.texts[name]][:200]

    # ------------------------------------------------------------------ GPU work

    def _kernels(self) -> None:
        names = self.trace.names
        wanted = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "demangledName", "shortName",
                  "gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ", "graphNodeId")  # fmt: skip
        for rows in self._batches(f"{_CUPTI}KERNEL", wanted):
            full = [self.texts.get(row[6], self.texts.get(row[7])) for row in rows]
            self._slices(rows, "kernel", {
                "name": np.array([names["unknown kernel"] if one is None else one for one in full], np.int64),
                "grid": np.array([names[f"[{row[8]},{row[9]},{row[10]}]"] for row in rows], np.int64),
                "block": np.array([names[f"[{row[11]},{row[12]},{row[13]}]"] for row in rows], np.int64),
                "graph_node": _ints([row[14] for row in rows]),
            })  # fmt: skip

    def _copies(self) -> None:
        names = self.trace.names
        wanted = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "bytes", "copyKind", "srcKind",
                  "dstKind", "graphNodeId")  # fmt: skip
        for rows in self._batches(f"{_CUPTI}MEMCPY", wanted):
            self._slices(rows, "copy", {
                "name": np.array([names[_copy_name(*row[7:10])] for row in rows], np.int64),
                "bytes": _ints([row[6] for row in rows]),
                "graph_node": _ints([row[10] for row in rows]),
            })  # fmt: skip

    def _simple(self, table: str, kind: str, name: str) -> None:
        wanted = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "bytes", "graphNodeId")
        for rows in self._batches(f"{_CUPTI}{table}", wanted):
            self._slices(rows, kind, {
                "name": np.full(len(rows), self.trace.names[name]),
                "bytes": _ints([row[6] for row in rows]),
                "graph_node": _ints([row[7] for row in rows]),
            })  # fmt: skip

    def _syncs(self) -> None:
        recorded: dict[tuple[Any, Any], tuple[Any, Any]] = {}  # stream and correlation of a recorded event
        wanted: tuple[str, ...] = ("globalPid", "eventSyncId", "streamId", "correlationId")
        for process, event, stream, correlation in self._rows(f"{_CUPTI}CUDA_EVENT", wanted):
            if event and len(recorded) < MAX_EVENTS:
                recorded[process, event] = (stream, correlation)
        names = self.trace.names
        wanted = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "syncType", "eventSyncId")
        for rows in self._batches(f"{_CUPTI}SYNCHRONIZATION", wanted):
            rows = [(*row[:3], None if row[3] == _NO_STREAM else row[3], *row[4:]) for row in rows]
            kinds = [_SYNCS.get(row[6], "Synchronization") for row in rows]
            self._slices(rows, "sync", {"name": np.array([names[kind] for kind in kinds], np.int64)})
            sides = [
                _sides(kind, row[3], recorded.get((row[5], row[7]))) for kind, row in zip(kinds, rows, strict=True)
            ]
            process = _ints([row[5] for row in rows])
            self.trace.syncs.add({
                "pid": np.where(process == MISSING, MISSING, process >> 24 & 0xFFFFFF),
                "correlation": _ints([row[4] for row in rows]),
                "waiting_stream": _ints([one[0] for one in sides]),
                "awaited_stream": _ints([one[1] for one in sides]),
                "awaited_record": _ints([one[2] for one in sides]),
            }, len(rows))  # fmt: skip

    def _slices(self, rows: list[tuple[Any, ...]], kind: str, more: dict[str, Ints]) -> None:
        """Rows begin with start, end, deviceId, streamId, correlationId, globalPid."""
        start, end = _ints([row[0] for row in rows]), _ints([row[1] for row in rows])
        process = _ints([row[5] for row in rows])
        columns = {
            "kind": np.full(len(rows), SLICE_KINDS.index(kind)),
            "start_ns": start,
            "end_ns": end,
            "device": _ints([row[2] for row in rows]),
            "stream": _ints([row[3] for row in rows]),
            "correlation": _ints([row[4] for row in rows]),
            "pid": np.where(process == MISSING, MISSING, process >> 24 & 0xFFFFFF),
        } | more
        fine = (start != MISSING) & (end != MISSING) & in_range(start, end.astype(np.float64) - start)
        self.trace.malformed += len(rows) - int(fine.sum())
        self.trace.slices.add({name: column[fine] for name, column in columns.items()}, int(fine.sum()))

    # ------------------------------------------------------------------ calls

    def _calls(self) -> None:
        names, plain = self.trace.names, dict[int, int]()
        texts = list(names)
        for text in self.texts.values():
            plain[text] = names[_VERSIONED.sub("", texts[text])]
        wanted = ("start", "end", "globalTid", "correlationId", "nameId")
        driver, runtime = CALL_KINDS.index("driver"), CALL_KINDS.index("runtime")
        drivers = {number for number, text in enumerate(list(names)) if re.match(r"cu[A-Z]|hipDrv", text)}
        for rows in self._batches(f"{_CUPTI}RUNTIME", wanted):
            name = [plain.get(self.texts.get(row[4], MISSING), MISSING) for row in rows]
            name = [names["unknown call"] if one == MISSING else one for one in name]
            self._add_calls(rows, {
                "kind": np.array([driver if one in drivers else runtime for one in name], np.int64),
                "name": np.array(name, np.int64),
                "correlation": _ints([row[3] for row in rows]),
            })  # fmt: skip

    def _ranges(self) -> None:
        """NVTX push/pop and start/end ranges (types 59 and 60)."""
        texts = list(self.trace.names)
        operator, annotation = CALL_KINDS.index("operator"), CALL_KINDS.index("annotation")
        wanted = ("start", "end", "globalTid", "text", "textId", "eventType")
        for rows in self._batches("NVTX_EVENTS", wanted):
            rows = [row for row in rows if row[5] in (59, 60, None) and row[1] is not None]
            kinds, name, args = [], [], []
            for row in rows:
                text = row[3] if isinstance(row[3], str) else texts[self.texts[row[4]]] if row[4] in self.texts else ""
                found = _OPERATOR.match(text)
                kinds.append(operator if found else annotation)
                name.append(self.trace.names[found[1] if found else text])
                args.append(self.trace.args[f"{found[2]}\0\0".encode()] if found and found[2] else MISSING)
            self._add_calls(rows, {"kind": np.array(kinds, np.int64), "name": np.array(name, np.int64),
                                   "args_id": np.array(args, np.int64)})  # fmt: skip

    def _add_calls(self, rows: list[tuple[Any, ...]], more: dict[str, Ints]) -> None:
        """Rows begin with start, end, globalTid."""
        start, end = _ints([row[0] for row in rows]), _ints([row[1] for row in rows])
        where = _ints([row[2] for row in rows])
        known = where != MISSING
        columns = {
            "start_ns": start,
            "end_ns": end,
            "pid": np.where(known, where >> 24 & 0xFFFFFF, MISSING),
            "tid": np.where(known, where & 0xFFFFFF, MISSING),
        } | more
        fine = (start != MISSING) & (end != MISSING) & in_range(start, end.astype(np.float64) - start)
        self.trace.malformed += len(rows) - int(fine.sum())
        self.trace.calls.add({name: column[fine] for name, column in columns.items()}, int(fine.sum()))

    # ------------------------------------------------------------------ SQL

    def _batches(self, table: str, wanted: tuple[str, ...]) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self._select(table, wanted)
        while cursor is not None and (rows := cursor.fetchmany(BATCH)):
            yield rows

    def _rows(self, table: str, wanted: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        for rows in self._batches(table, wanted):
            yield from rows

    def _select(self, table: str, wanted: tuple[str, ...]) -> sqlite3.Cursor | None:
        """Columns that the table lacks are NULL; a table that the file lacks has no rows."""
        have = self.columns.get(table)
        if have is None:
            return None
        columns = ", ".join(f'"{name}"' if name in have else "NULL" for name in wanted)
        return self.db.execute(f'SELECT {columns} FROM "{table}"')


def _sides(kind: str, stream: Any, recorded: tuple[Any, Any] | None) -> tuple[Any, Any, Any]:
    """Of a synchronisation: waiting stream, awaited stream, and the call that recorded the awaited event."""
    if kind == "Stream Sync":
        return None, stream, None
    return (stream if kind == "Stream Wait Event" else None, *(recorded or (None, None)))


def _copy_name(kind: Any, source: Any, destination: Any) -> str:
    """As Kineto writes it: Memcpy DtoH (Device -> Pinned)."""
    if source in _MEMORY and destination in _MEMORY:
        return f"Memcpy {_COPIES.get(kind, 'unknown')} ({_MEMORY[source]} -> {_MEMORY[destination]})"
    return f"Memcpy {_COPIES.get(kind, 'unknown')}"


def _ints(values: list[Any]) -> Ints:
    """SQLite's columns may hold anything: what is no integer is MISSING."""
    try:
        return np.array([MISSING if one is None else one for one in values], np.int64)
    except (TypeError, ValueError, OverflowError):
        return np.array([one if isinstance(one, int) else MISSING for one in values], np.int64)


FORMAT = Format(NAME, detect, read)
