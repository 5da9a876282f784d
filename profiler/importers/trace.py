"""What an importer fills: columns of calls and of GPU slices, and what is known about the trace.

Texts are numbers into a `Names` while a trace is read, for most repeat: a million slices have some hundred names.
Missing numbers are MISSING. Times are int64 nanoseconds of the trace's own clock. Memory is bounded by MAX_ROWS rows,
MAX_NAME_BYTES of distinct texts and MAX_OPEN_BYTES of slices that have begun; a trace beyond them is refused with a
clear word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.source import Source
from numpy.typing import NDArray

MISSING = -(1 << 63)
MAX_ROWS = 8_000_000
MAX_NAME_BYTES = 128 << 20
MAX_NAME = 4096  # characters of a text that are kept
TEXT_BYTES = 64  # what a text takes beside its characters
MAX_OPEN_BYTES = 128 << 20  # of slices that have begun and not ended
MAX_PROCESSES = 100_000  # and threads, that are named
MAX_TIME_NS = 1 << 62  # a time beyond is none

CALL_KINDS = ("operator", "runtime", "driver", "annotation", "python", "other")
SLICE_KINDS = ("kernel", "collective", "copy", "memset", "graph", "sync", "annotation")
CALL_COLUMNS = ("pid", "tid", "kind", "name", "start_ns", "end_ns", "correlation", "external_id", "args_id")
SLICE_COLUMNS = ("pid", "device", "stream", "kind", "name", "start_ns", "end_ns", "correlation", "external_id", "bytes",
                 "grid", "block", "graph_node")  # fmt: skip
SYNC_COLUMNS = ("pid", "correlation", "waiting_stream", "awaited_stream", "awaited_record")
STREAM_FLAGS = ("null", "blocking", "non-blocking")
MAX_EVENTS = 1_000_000  # recorded ones, and streams, that are remembered

Ints = NDArray[np.int64]
Text = TypeVar("Text", str, bytes)


class Names(dict[Text, int], Generic[Text]):
    """`names[text]` is the number of a text (str, or UTF-8 bytes), given when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __missing__(self, text: Text) -> int:
        self.bytes += len(text) + TEXT_BYTES
        if self.bytes > MAX_NAME_BYTES:
            raise RecordingError(
                f"the trace has more than {MAX_NAME_BYTES >> 20} MB of different names", "import a shorter trace"
            )
        self[text] = number = len(self)
        return number

    def texts(self) -> NDArray[np.object_]:
        """The texts by number, cut at MAX_NAME characters."""
        found = np.empty(len(self), object)
        texts = (one if isinstance(one, str) else one.decode("utf-8", "replace") for one in self)
        found[:] = [one if len(one) <= MAX_NAME else one[: MAX_NAME - 1] + "…" for one in texts]
        return found


class Columns:
    """Rows that grow by batches of columns (int64 arrays of one length, or one number for all)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.rows = 0
        self._parts: dict[str, list[Ints]] = {name: [] for name in names}

    def add(self, columns: Mapping[str, Ints | int], rows: int) -> None:
        """Append `rows` rows; columns that are not named are MISSING."""
        if not rows:
            return
        self.rows += rows
        if self.rows > MAX_ROWS:
            raise RecordingError(
                f"the trace has more than {MAX_ROWS:,} slices of one kind".replace(",", " "),
                "record and import a shorter one",
            )
        for name in self.names:
            values = columns.get(name, MISSING)
            column = values if isinstance(values, np.ndarray) else np.full(rows, values, np.int64)
            self._parts[name].append(column)

    def joined(self) -> dict[str, Ints]:
        """All rows, once: the batches are let go while they are joined."""
        found = {}
        for name in self.names:
            found[name] = np.concatenate(self._parts[name]) if self._parts[name] else np.empty(0, np.int64)
            self._parts[name] = []
        return found


@dataclass(slots=True)
class Device:
    name: str = ""
    memory_bytes: int | None = None


@dataclass(slots=True)
class Trace:
    """calls: CALL_COLUMNS, slices: SLICE_COLUMNS; `kind` is an index into CALL_KINDS or SLICE_KINDS; name, grid, block
    and args_id are numbers in `names`, `names`, `names` and `args`. syncs: SYNC_COLUMNS, as in the table gpu_sync."""

    format: str  # e.g. "Kineto JSON"
    version: str = ""  # of the program that wrote it
    calls: Columns = field(default_factory=lambda: Columns(CALL_COLUMNS))
    slices: Columns = field(default_factory=lambda: Columns(SLICE_COLUMNS))
    syncs: Columns = field(default_factory=lambda: Columns(SYNC_COLUMNS))
    recorded: dict[int, int] = field(default_factory=dict)  # stream in which a call recorded an event, by correlation
    streams: dict[tuple[int, int], int] = field(default_factory=dict)  # by pid and stream: index into STREAM_FLAGS
    names: Names[str] = field(default_factory=Names)
    args: Names[bytes] = field(default_factory=Names)  # dims, types and scalars, each JSON or "", with NULs between
    devices: dict[int, Device] = field(default_factory=dict)
    any_device: Device = field(default_factory=Device)  # what devices are that `devices` does not list
    processes: dict[int, str] = field(default_factory=dict)
    threads: dict[tuple[int, int], str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)  # for the recording's meta table
    unix_offset_ns: int | None = None  # wall clock less the trace's clock; None: not known
    scale: int = 1  # what the times are to be divided by; 1000: they turned out to be nanoseconds already
    gpu_from_first_launch: bool = (
        False  # earlier GPU work belongs to what ran before the recording: the profiler's warm-up
    )
    malformed: int = 0  # events that could not be read
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Format:
    """A file format: `detect` looks at the first bytes, `read` takes the whole."""

    name: str
    detect: Callable[[bytes], bool]
    read: Callable[[Source], Trace]


def in_range(start_ns: NDArray[np.float64] | Ints, dur_ns: NDArray[np.float64] | Ints) -> NDArray[np.bool_]:
    """Which slices have times that can be: no negative durations, nothing beyond MAX_TIME_NS, no NaN."""
    return (np.abs(start_ns) < MAX_TIME_NS) & (dur_ns >= 0) & (dur_ns < MAX_TIME_NS) & (start_ns + dur_ns < MAX_TIME_NS)
