"""A trace becomes a recording: names for numbers, parents for calls, and what is known about where it came from.

Nothing is written before the whole trace was read, and then into a file beside the recording, which takes its name when
it is whole: of an import that fails nothing is left, and an older recording stays.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.nesting import NONE, parents
from flowprof.profiler.importers.trace import CALL_KINDS, MISSING, SLICE_KINDS, STREAM_FLAGS, Ints, Trace
from flowprof.profiler.store import Recording, check_destination
from numpy.typing import NDArray

MAX_DEVICES = 1024
BATCH = 250_000  # rows handed to the store at a time
# Kernels that carry other GPUs' data: the libraries', vLLM's and SGLang's own all-reduce (on ROCm quick-reduce, too),
# FlashInfer's and TensorRT-LLM's, PyTorch's in symmetric memory, DeepEP's dispatch and combine.
COLLECTIVE = re.compile(
    r"nccl|rccl|msccl|oneccl|cross_device_reduce|quick_?reduce|all_?reduce_(?:fusion|prototype)"
    r"|(?:one|two)_?shot_?all_?reduce|multimem_|deep_ep::in(?:ter|tra)node",
    re.IGNORECASE,
)
_SPREAD = np.int64(0x9E3779B97F4A7C15 - (1 << 64))  # odd and large: threads of different processes do not meet
_COPY = re.compile(r"Mem[cC]py\s*(?:([A-Z]to[A-Z])|[^\s(]*)\s*(?:\((\w+)\s*->\s*(\w+)\))?")
_ROCM_COPY = re.compile(r"Copy(Host|Device)To(Host|Device)")  # roctracer's own name
_END = {"host": "H", "pageable": "H", "pinned": "H", "device": "D", "array": "A"}
_OPERATOR, _KERNEL = CALL_KINDS.index("operator"), SLICE_KINDS.index("kernel")
_COLLECTIVE, _COPIED = SLICE_KINDS.index("collective"), SLICE_KINDS.index("copy")


def write(trace: Trace, path: str, source: str, overwrite: bool, owner: tuple[int, int] | None, version: str,
          command_line: str) -> dict[str, int]:  # fmt: skip
    """Keep `trace`, which came from the file `source`, as a recording at `path`. The trace's columns are used up.

    Returns how many calls and slices it holds, and how many malformed events it lacks. Raises as Recording.create, and
    RecordingError when there is no room.
    """
    check_destination(path, overwrite)
    part = f"{path}.{os.getpid()}.part"
    try:
        with Recording.create(part, overwrite=True, owner=owner) as recording, recording.batch():
            counts = _Writer(trace, recording).write(source, version, command_line)
        if Path(f"{part}.wal").exists():  # closing could not put it into the file
            raise RecordingError(f"cannot write the recording {path}: no room", "make room, or name another with -o")
        Path(part).replace(path)
    except OSError as error:
        raise RecordingError(f"cannot write the recording {path}: {error.strerror}", "name another with -o") from error
    finally:
        for name in (part, f"{part}.wal"):
            with contextlib.suppress(OSError):
                Path(name).unlink(missing_ok=True)
    return counts


class _Writer:
    def __init__(self, trace: Trace, recording: Recording) -> None:
        self.trace = trace
        self.recording = recording
        self.names = trace.names.texts()

    def write(self, source: str, version: str, command_line: str) -> dict[str, int]:
        calls, slices = self.trace.calls.joined(), self.trace.slices.joined()
        if len(np.unique(slices["device"])) > MAX_DEVICES:
            raise RecordingError(f"{source} has more than {MAX_DEVICES} GPUs", "such a trace is damaged")
        for columns in (calls, slices):
            for name in ("start_ns", "end_ns"):
                columns[name] = columns[name] // self.trace.scale
            for name in ("correlation", "external_id"):  # CUPTI, roctracer and Kineto count from 1: 0 is none
                columns[name][columns[name] == 0] = MISSING
        self._facts(calls, slices, source, version, command_line)
        self._calls(calls)
        self._slices(slices)
        self._syncs()
        self._args()
        self._rest(calls, slices)
        return {"calls": len(calls["start_ns"]), "slices": len(slices["start_ns"]), "malformed": self.trace.malformed}

    # ------------------------------------------------------------------ tables

    def _calls(self, columns: dict[str, Ints]) -> None:
        pid, tid = columns["pid"], columns["tid"]
        thread = pid * _SPREAD + tid
        parent, depth = parents(thread, columns["start_ns"], columns["end_ns"], columns["kind"] == _OPERATOR)
        whole: dict[str, Any] = {
            "call_id": np.arange(len(pid)),
            "pid": _known(pid),
            "tid": _known(tid),
            "kind": _texts(np.array(CALL_KINDS, object), columns["kind"]),
            "name": _texts(self.names, columns["name"]),
            "start_ns": columns["start_ns"],
            "end_ns": columns["end_ns"],
            "parent_id": np.ma.masked_equal(parent, NONE),
            "depth": depth,
            "correlation": _known(columns["correlation"]),
            "external_id": _known(columns["external_id"]),
            "args_id": _known(columns["args_id"]),
        }
        self._append("api_call", whole)

    def _slices(self, columns: dict[str, Ints]) -> None:
        kind, name = columns["kind"], columns["name"]
        used = np.unique(name)
        network = [number for number in used.tolist() if COLLECTIVE.search(self.names[number])]
        kind[(kind == _KERNEL) & np.isin(name, network)] = _COLLECTIVE
        directions, memories = np.full(len(self.names), None, object), np.full(len(self.names), None, object)
        for number in np.unique(name[kind == _COPIED]).tolist():
            directions[number], memories[number] = copied(self.names[number])
        sizes = self.names.copy()
        for number in np.unique(np.concatenate((columns["grid"], columns["block"]))).tolist():
            if number != MISSING:
                sizes[number] = _compact(sizes[number])
        whole: dict[str, Any] = {
            "slice_id": np.arange(len(kind)),
            "pid": _known(columns["pid"]),
            "device": _known(np.where(np.abs(columns["device"]) < 1 << 31, columns["device"], MISSING)),
            "stream": _known(columns["stream"]),
            "kind": _texts(np.array(SLICE_KINDS, object), kind),
            "name": _texts(self.names, name),
            "start_ns": columns["start_ns"],
            "end_ns": columns["end_ns"],
            "correlation": _known(columns["correlation"]),
            "external_id": _known(columns["external_id"]),
            "bytes": _known(columns["bytes"]),
            "direction": directions[name],
            "host_memory": memories[name],
            "grid": _texts(sizes, columns["grid"]),
            "block": _texts(sizes, columns["block"]),
            "graph_node": _known(columns["graph_node"]),
        }
        self._append("gpu_slice", whole)

    def _syncs(self) -> None:
        trace, columns = self.trace, self.trace.syncs.joined()
        awaited, recorded = columns["awaited_stream"], columns["awaited_record"]
        for row in np.flatnonzero((awaited == MISSING) & np.isin(recorded, list(trace.recorded))).tolist():
            awaited[row] = trace.recorded[int(recorded[row])]
        told = (columns["waiting_stream"] != MISSING) | (awaited != MISSING)
        told &= columns["correlation"] > 0
        self._append("gpu_sync", {name: _known(column[told]) for name, column in columns.items()})
        streams = {key: flag for key, flag in trace.streams.items() if abs(key[0]) < 1 << 31}
        if streams:
            self._append("gpu_stream", {
                "pid": [pid for pid, _ in streams], "stream": [stream for _, stream in streams],
                "flag": [STREAM_FLAGS[flag] for flag in streams.values()],
            })  # fmt: skip

    def _args(self) -> None:
        parts = [[_compact(one) for one in (*text.split("\0"), "", "")[:3]] for text in self.trace.args.texts()]
        self._append("api_args", {
            "args_id": np.arange(len(parts)),
            "dims": [one[0] for one in parts],
            "types": [one[1] for one in parts],
            "scalars": [one[2] for one in parts],
        })  # fmt: skip

    def _append(self, table: str, columns: dict[str, Any]) -> None:
        rows = max((len(column) for column in columns.values()), default=0)
        for at in range(0, rows, BATCH):
            self.recording.append(table, {name: column[at : at + BATCH] for name, column in columns.items()})

    def _rest(self, calls: dict[str, Ints], slices: dict[str, Ints]) -> None:
        trace, used = self.trace, [one for one in np.unique(slices["device"]).tolist() if abs(one) < 1 << 31]
        devices = [trace.devices.get(one, trace.any_device) for one in used]
        if used:
            self._append("gpu_device", {
                "device": used,
                "name": [one.name or None for one in devices],
                "memory_bytes": [one.memory_bytes for one in devices],
            })  # fmt: skip
        called = calls["kind"] <= CALL_KINDS.index("annotation")  # stacks, which come after it, have odd pids
        pids = set(np.unique(calls["pid"][called]).tolist())  # and Kineto names its GPUs as processes, too
        processes = {pid: name for pid, name in trace.processes.items() if pid in pids}
        if processes:
            self._append("process", {"pid": list(processes), "exe": list(processes.values())})
        threads = {(pid, tid): comm for (pid, tid), comm in trace.threads.items() if abs(tid) < 1 << 31}
        if threads:
            self._append("thread", {
                "pid": [pid for pid, _ in threads], "tid": [tid for _, tid in threads], "comm": list(threads.values()),
            })  # fmt: skip
        if trace.malformed:
            self.recording.append("loss", {"place": ["malformed_event"], "events": [trace.malformed]})
        for note in trace.notes[:20]:
            self.recording.append("event_note", {"what": ["import"], "detail": [note]})

    # ------------------------------------------------------------------ facts

    def _facts(
        self, calls: dict[str, Ints], slices: dict[str, Ints], source: str, version: str, command_line: str
    ) -> None:
        trace = self.trace
        start = min(int(part["start_ns"].min()) for part in (calls, slices) if len(part["start_ns"]))
        end = max(int(part["end_ns"].max()) for part in (calls, slices) if len(part["end_ns"]))
        facts = {
            "flowprof_version": version,
            "command_line": command_line,
            "imported_from": f"{trace.format} {trace.version}".strip(),
            "imported_file": Path(source).name,
            "started_ns": start,
            "stopped_ns": end,
            "clean_end": "true",
            "gpu_model": self._gpus(slices),
        } | trace.facts
        if trace.unix_offset_ns is not None:
            facts |= {"started_unix_ns": start + trace.unix_offset_ns, "stopped_unix_ns": end + trace.unix_offset_ns}
        if trace.gpu_from_first_launch:
            first = self._first_launched(calls, slices)
            if first is not None:
                facts["gpu_from_ns"] = first
        for key, value in facts.items():
            self.recording.set_meta(key, value)

    def _gpus(self, slices: dict[str, Ints]) -> str | None:
        """ "2 x NVIDIA A100", as host.facts says it; None: no GPU, or its name is not known."""
        used = [one for one in np.unique(slices["device"]).tolist() if one != MISSING]
        names = [self.trace.devices.get(one, self.trace.any_device).name for one in used]
        return f"{len(names)} x {names[0]}" if names and names[0] else None

    def _first_launched(self, calls: dict[str, Ints], slices: dict[str, Ints]) -> int | None:
        """Start of the first slice of work whose launch is in the trace."""
        api = (calls["kind"] == CALL_KINDS.index("runtime")) | (calls["kind"] == CALL_KINDS.index("driver"))
        work = (slices["kind"] <= SLICE_KINDS.index("graph")) & (slices["correlation"] != MISSING)
        launched = work & np.isin(slices["correlation"], calls["correlation"][api])
        return int(slices["start_ns"][launched].min()) if launched.any() else None


def copied(name: str) -> tuple[str | None, str | None]:
    """Direction and kind of host memory of a copy, from "Memcpy DtoH (Device -> Pinned)"; where Kineto has a number in
    place of the direction (ROCm), by the ends."""
    rocm = _ROCM_COPY.match(name)
    found = rocm or _COPY.match(name)
    if found is None:
        return None, None
    direction = None if rocm else found[1]
    ends = [(one or "").casefold() for one in found.groups()[-2:]]
    if direction is None and all(one in _END for one in ends):
        direction = f"{_END[ends[0]]}to{_END[ends[1]]}"
    memory = {"pageable", "pinned"}.intersection(ends)
    return direction, min(memory) if memory else None


def _compact(text: str) -> str | None:
    """JSON on one line; None for what is none, such as a text that was cut."""
    try:
        return msgspec.json.format(text, indent=-1) if text else None
    except (msgspec.DecodeError, RecursionError):
        return None


def _known(values: Ints) -> Any:
    return np.ma.masked_equal(values, MISSING)


def _texts(texts: NDArray[np.object_], numbers: Ints) -> NDArray[np.object_]:
    """The texts of numbers, None for MISSING."""
    with_none = np.append(texts, [None])
    return np.asarray(with_none[np.where(numbers == MISSING, len(texts), numbers)], object)
