"""Load the kernel side: create its maps, load its programs, and read and write the maps, by the kernel's own calls."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from flowprof.profiler.errors import BpfError
from flowprof.profiler.kernel_side.bpf_compiler import compiled
from flowprof.profiler.kernel_side.bpf_object import INSTRUCTION_BYTES, Map
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.planned_site import MAX_SITES

BTF = Path("/sys/kernel/btf/vmlinux")  # with it the kernel says where a task's registers are
Kind = Literal["KPROBE", "TRACEPOINT", "PERF_EVENT"]
_TYPES: dict[Kind, int] = {"KPROBE": 2, "TRACEPOINT": 5, "PERF_EVENT": 7}  # enum bpf_prog_type
_UPROBE_MULTI = 48  # enum bpf_attach_type: BPF_TRACE_UPROBE_MULTI
_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _LOAD = range(6)  # enum bpf_cmd
_OBJ_GET_INFO, _RECURSION_MISSES = 15, 208  # struct bpf_prog_info
_NAME_BYTES = 15
_LOG_BYTES = 1 << 20
_LOG_STATS = 4  # BPF_LOG_STATS: why, and figures; not every step: before 6.4 a log that is too long has no end
_STATS = ("processed ", "verification time ", "stack depth ")


def event_ring_shift(cpus: int, budget_bytes: int = 64 << 20) -> int:
    """log2 of the events in one processor's ring: all rings together stay within `budget_bytes`, 2^12 … 2^18 each."""
    shift = 18  # 0.17 s at 1.5 million events a second: a transaction takes a tenth
    while shift > 12 and cpus << (shift + 6) > budget_bytes:
        shift -= 1
    return shift


def possible_cpus() -> int:
    """One more than the highest processor number that the kernel may ever use."""
    try:
        text = Path("/sys/devices/system/cpu/possible").read_text()
        return int(re.split(r"[-,]", text.strip())[-1]) + 1
    except (OSError, ValueError):
        return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded BPF program."""

    name: str
    fd: int


class Module:
    """Compiled .bpf.c files. Programs are loaded when first asked for, once per attach type."""

    def __init__(
        self,
        *sources: str,
        ring_shift: int | None = None,
        multi: bool = True,
        counters: int = 0,
        stacks: int = 1,
        joins: Module | None = None,
        anew: bool = False,
    ) -> None:
        """Compile the files of probes/bpf/ as one, and create their maps. multi: programs will be attached through
        uprobe_multi links; counters: so many kinds of counters per operator; stacks: so many are kept at a time;
        joins: an open module, whose maps are taken where this one has the same; anew: compile, whatever is kept.

        Raises BpfError (bcc absent, not compiled, a map refused) with the first line of what was said.
        """
        self.cpus = possible_cpus()
        self.ring_shift = ring_shift if ring_shift is not None else event_ring_shift(self.cpus)
        self._multi = multi
        self._programs: dict[tuple[str, int], Program] = {}  # by name and copy
        self._hits: np.ndarray | None = None
        flags = [
            f"-DRING_SHIFT={self.ring_shift}",
            f"-DRING_CPUS={self.cpus}",
            f"-DMAX_SITES={MAX_SITES}",
            f"-DCOUNTERS={counters}",
            f"-DMAX_STACKS={stacks}",
            *(("-DHAS_BTF",) if BTF.exists() else ()),
        ]
        self._object = compiled(sources, flags, anew)
        self._maps = {one.name: one for one in self._object.maps}
        self._fds: dict[str, int] = {}
        try:
            for name, one in self._maps.items():
                shared = joins is not None and joins._maps.get(name) == one
                self._fds[name] = os.dup(joins._fds[name]) if joins and shared else _create(one)
        except BaseException:
            self.close()
            raise

    def program(self, name: str, kind: Kind = "KPROBE", copy: int = 0) -> Program:
        """Load the function `name`; uprobes are of kind KPROBE. Raises BpfError with the verifier's last line.

        The kernel attaches a program to a tracepoint once; who needs it there twice asks for a copy by a number.
        """
        key = name, copy
        if key not in self._programs:
            code = self._object.programs[name].with_maps(self._fds)
            attach_type = _UPROBE_MULTI if kind == "KPROBE" and self._multi else 0
            self._programs[key] = Program(name, _load(name, code, self._object.license, _TYPES[kind], attach_type))
        return self._programs[key]

    def map_fd(self, name: str) -> int:
        """The file descriptor of the map `name`."""
        return self._fds[name]

    def write_array(self, name: str, values: list[int]) -> None:
        """Write element 0 of an array map whose value is a struct of u32 fields, in order. Raises ValueError."""
        self.write(name, 0, struct.pack(f"<{len(values)}I", *values))

    def set_event(self, name: str, index: int, event: int) -> None:
        """Put a perf event, by its file descriptor, into a map of such events."""
        self.write(name, index, struct.pack("<i", event))

    def read_counter(self, name: str) -> int:
        """Element 0 of an array map of u64."""
        return int.from_bytes(self.values(name, [0])[0], "little")

    def site_hits(self, count: int) -> np.ndarray:
        """Hits per site since the module was loaded, shape (count,), summed over processors."""
        if self._hits is None:
            size = self.cpus * MAX_SITES * 8  # whole pages
            mapped = mmap.mmap(self.map_fd("site_hits"), size, mmap.MAP_SHARED, mmap.PROT_READ)
            self._hits = np.frombuffer(mapped, np.int64).reshape(self.cpus, MAX_SITES)
        hits: np.ndarray = self._hits[:, :count].sum(axis=0)
        return hits

    def misses(self, *leave_out: str) -> int:
        """How often the kernel passed over a program of ours, because another one ran on that processor."""
        return sum(_misses(program.fd) for (name, _), program in self._programs.items() if name not in leave_out)

    def insert(self, name: str, key: int) -> None:
        """Add a key to a hash map used as a set."""
        self.write(name, key, (1).to_bytes(self._maps[name].value_bytes, "little"))

    def names(self, name: str, keys: Sequence[int]) -> dict[int, str]:
        """Texts of a map from u32 to characters, for those of `keys` that it holds."""
        found = self.values(name, keys)
        return {key: text.split(b"\0")[0].decode("utf-8", "replace") for key, text in found.items()}

    def values(self, name: str, keys: Iterable[int]) -> dict[int, bytes]:
        """The values of a map whose keys are integers, for those of `keys` that it holds. Raises BpfError."""
        room = ctypes.create_string_buffer(self._maps[name].value_bytes)
        return {key: room.raw for key in keys if self._element(_LOOKUP, name, self._key(name, key), room)}

    def write(self, name: str, key: int, value: bytes) -> None:
        """Write one element of a map whose keys are integers. Raises ValueError where the size is not the element's,
        BpfError where the kernel refuses it."""
        wanted = self._maps[name].value_bytes
        if len(value) != wanted:
            raise ValueError(f"{name}: {len(value)} bytes do not fill {wanted}")
        if not self._element(_UPDATE, name, self._key(name, key), ctypes.create_string_buffer(value, len(value))):
            raise BpfError(f"the kernel did not take element {key} of the map {name}", "flowprof doctor")

    def set_program(self, name: str, program: Program) -> None:
        """Make `program` the one that a map of programs calls."""
        self.write(name, 0, struct.pack("<i", program.fd))

    def clear(self, name: str) -> None:
        """Empty a hash map."""
        key = ctypes.create_string_buffer(self._maps[name].key_bytes)
        while self._element(_NEXT_KEY, name, None, key):
            self._element(_DELETE, name, key, None)

    def _key(self, name: str, key: int) -> ctypes.Array[ctypes.c_char]:
        size = self._maps[name].key_bytes
        return ctypes.create_string_buffer(key.to_bytes(size, "little"), size)

    def _element(
        self, command: int, name: str, key: ctypes.Array[ctypes.c_char] | None, room: ctypes.Array[ctypes.c_char] | None
    ) -> bool:
        """One call about an element; False: there is none. room: its value, or the next key. Raises BpfError."""
        places = (ctypes.addressof(one) if one is not None else 0 for one in (key, room))
        try:
            kernel.bpf(command, struct.pack("<IxxxxQQQ", self._fds[name], *places, 0))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.E2BIG):
                return False
            raise BpfError(f"the kernel refused the map {name}: {error.strerror}", "flowprof doctor") from error
        return True

    def close(self) -> None:
        """Close the programs and maps: nothing of them may be used any more, but for memory that is mapped."""
        self._hits = None
        for fd in (*(program.fd for program in self._programs.values()), *self._fds.values()):
            os.close(fd)
        self._programs.clear()
        self._fds.clear()


def _create(one: Map) -> int:
    sizes = one.type, one.key_bytes, one.value_bytes, one.entries, one.flags, 0, 0
    attr = struct.pack("<7I16s", *sizes, one.name.encode()[:_NAME_BYTES])
    try:
        return kernel.bpf(_CREATE, attr)
    except OSError as error:
        raise BpfError(f"the kernel refused the map {one.name}: {error.strerror}", "flowprof doctor") from error


def _load(name: str, code: bytes, terms: str, program_type: int, attach_type: int) -> int:
    """A program's file descriptor. terms: its licence, for the kernel."""
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(terms.encode())
    where = ctypes.addressof(instructions), ctypes.addressof(licence)

    def attr(level: int = 0, size: int = 0, log: int = 0) -> bytes:
        head = struct.pack("<IIQQIIQ", program_type, len(code) // INSTRUCTION_BYTES, *where, level, size, log)
        return head + struct.pack("<II16sII", 0, 0, name.encode()[:_NAME_BYTES], 0, attach_type)

    try:
        return kernel.bpf(_LOAD, attr())
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return kernel.bpf(_LOAD, attr(_LOG_STATS, _LOG_BYTES, ctypes.addressof(log)))
        except OSError:
            said = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
            reason = next((line for line in reversed(said) if not line.startswith(_STATS)), error.strerror)
            raise BpfError(
                f"the kernel refused the BPF program {name}: {str(reason)[:300]}", "flowprof doctor"
            ) from error


def _misses(fd: int) -> int:
    info = ctypes.create_string_buffer(256)  # kernels that do not count leave zero there
    kernel.bpf(_OBJ_GET_INFO, struct.pack("<IIQ", fd, len(info), ctypes.addressof(info)))
    return int.from_bytes(info.raw[_RECURSION_MISSES : _RECURSION_MISSES + 8], "little")
