"""The only module that knows bcc: compile the kernel side and load its programs.

bcc is pure ctypes over libbcc and comes from the distribution (`python3-bpfcc`), not from PyPI; from a virtual
environment it is loaded by path. It asks for the running kernel's headers although uprobe programs need none, so it is
given the project's own stub headers (probes/bpf/include) instead: nothing of the host's kernel tree is read.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import importlib.util
import itertools
import mmap
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from flowprof.profiler import kernel
from flowprof.profiler.errors import BpfError
from flowprof.profiler.planned_site import MAX_SITES

SOURCES = Path(__file__).resolve().parent.parent / "probes" / "bpf"
DIST_PACKAGES = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages")
_OBJ_GET_INFO, _RECURSION_MISSES = 15, 208  # struct bpf_prog_info
BTF = Path("/sys/kernel/btf/vmlinux")  # with it the kernel says where a task's registers are
UPROBE_MULTI = 48  # enum bpf_attach_type: BPF_TRACE_UPROBE_MULTI
INSTALL = "apt-get install python3-bpfcc"
# What the .bpf.c declare as SHARED_TABLE. bcc knows such maps by their names alone, in all of a process, and takes no
# macro in their place: so those of each recording get a number.
_SHARED = re.compile(r"\b(ring_heads|ring_events|site_hits|calling_threads|call_epoch|calls_not_kept)\b")
_recordings = itertools.count()


def import_bcc() -> ModuleType:
    """Return bcc's module. Raises BpfError when it is absent or is PyPI's unrelated package of that name."""
    try:
        module = importlib.import_module("bcc")
        if hasattr(module, "BPF"):
            return module
        del sys.modules["bcc"]  # PyPI's `bcc` is a crystal-lattice package
    except ImportError:
        pass
    for folder in DIST_PACKAGES:
        init = Path(folder) / "bcc" / "__init__.py"
        if not init.is_file():
            continue
        spec = importlib.util.spec_from_file_location("bcc", init, submodule_search_locations=[str(init.parent)])
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules["bcc"] = module
        try:
            spec.loader.exec_module(module)
        except (ImportError, OSError) as error:
            del sys.modules["bcc"]
            raise BpfError(f"bcc was found in {folder} but does not load: {error}", INSTALL) from error
        return module
    raise BpfError("bcc's Python module was not found: recording needs it, everything else works without.", INSTALL)


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
    """A compiled .bpf.c file. Programs are loaded when first asked for, once per attach type."""

    def __init__(
        self,
        *sources: str,
        ring_shift: int | None = None,
        multi: bool = True,
        counters: int = 0,
        stacks: int = 1,
        joins: Module | None = None,
    ) -> None:
        """Compile the files of probes/bpf/ as one; `multi`: programs will be attached through uprobe_multi links;
        `counters`: so many kinds of counters per operator; `stacks`: so many are kept at a time; `joins`: an open
        module whose SHARED_TABLEs (event.bpf.c) this one uses.

        Raises BpfError (bcc absent, compile or load refused) with the compiler's or the verifier's first line.
        """
        bcc = import_bcc()
        self._bcc = bcc
        self.cpus = possible_cpus()
        self.ring_shift = ring_shift if ring_shift is not None else event_ring_shift(self.cpus)
        self._attach_type = UPROBE_MULTI if multi else -1
        self._number: int = joins._number if joins else next(_recordings)
        self._programs: dict[tuple[str, int], Program] = {}  # by name and copy
        self._hits: np.ndarray | None = None
        flags = [
            "-Wno-everything",
            f"-DRING_SHIFT={self.ring_shift}",
            f"-DRING_CPUS={self.cpus}",
            f"-DMAX_SITES={MAX_SITES}",
            f"-DCOUNTERS={counters}",
            f"-DMAX_STACKS={stacks}",
            *(("-DHAS_BTF",) if BTF.exists() else ()),
            *(("-DJOINS",) if joins else ()),
        ]
        with _kernel_source(), _captured_stderr() as messages:
            try:
                self._module: Any = bcc.BPF(text=self._source_text(sources).encode(), cflags=flags)
            except Exception as error:
                raise BpfError(
                    f"bcc could not compile {sources[-1]}: {_first_error(messages(), error)}", "flowprof doctor"
                ) from error
        # bcc's exit hook detaches what bcc attached; we attach through links of our own, so there is nothing to do.
        atexit_hook = getattr(self._module, "cleanup", None)
        if atexit_hook is not None:
            atexit.unregister(atexit_hook)

    def _source_text(self, sources: Sequence[str]) -> str:
        """The event rings followed by the programs: bcc rewrites map accesses in one file only."""
        files = ("event.bpf.c", "counters.bpf.c", *sources)
        text = "\n".join(f'#line 1 "{name}"\n{(SOURCES / name).read_text(encoding="utf-8")}' for name in files)
        return self._numbered(text)

    def _numbered(self, text: str) -> str:
        return _SHARED.sub(rf"\1_{self._number}", text)

    def _table(self, name: str) -> Any:
        return self._module[self._numbered(name).encode()]

    def program(
        self, name: str, kind: Literal["KPROBE", "TRACEPOINT", "PERF_EVENT"] = "KPROBE", copy: int = 0
    ) -> Program:
        """Load the function `name`; uprobes are of kind KPROBE. Raises BpfError with the verifier's last lines.

        The kernel attaches a program to a tracepoint once; who needs it there twice asks for a copy by a number.
        """
        key = name, copy
        if key not in self._programs:
            attach_type = self._attach_type if kind == "KPROBE" else -1
            with _captured_stderr() as messages:
                try:
                    function = self._module.load_func(name.encode(), getattr(self._bcc.BPF, kind), None, attach_type)
                except Exception as error:
                    raise BpfError(
                        f"the kernel refused the BPF program {name}: {_first_error(messages(), error)}",
                        "flowprof doctor",
                    ) from error
            # bcc gives what it knows by that name once more, and closes all that it knows at the end.
            self._module.funcs[f"{name} {copy}".encode()] = self._module.funcs.pop(name.encode())
            self._programs[key] = Program(name, int(function.fd))
        return self._programs[key]

    def map_fd(self, name: str) -> int:
        """The file descriptor of the map `name`."""
        return int(self._table(name).get_fd())

    def write_array(self, name: str, values: list[int]) -> None:
        """Write element 0 of an array map whose value is a struct of u32 fields, in order. Raises ValueError."""
        table = self._table(name)
        leaf = (ctypes.c_uint32 * len(values))(*values)
        if ctypes.sizeof(leaf) != ctypes.sizeof(table.Leaf):
            raise ValueError(f"{name}: {len(values)} fields do not fill {ctypes.sizeof(table.Leaf)} bytes")
        table[ctypes.c_int(0)] = table.Leaf.from_buffer_copy(leaf)

    def set_event(self, name: str, index: int, event: int) -> None:
        """Put a perf event, by its file descriptor, into a map of such events."""
        table = self._table(name)
        table[ctypes.c_int(index)] = ctypes.c_int(event)

    def read_counter(self, name: str) -> int:
        """Element 0 of an array map of u64."""
        return int(self._table(name)[ctypes.c_int(0)].value)

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
        table = self._table(name)
        table[table.Key(key)] = table.Leaf(1)

    def names(self, name: str, keys: Sequence[int]) -> dict[int, str]:
        """Texts of a map from u32 to a struct of characters, for those of `keys` that it holds."""
        table = self._table(name)
        found = {}
        for key in keys:
            with contextlib.suppress(KeyError):
                found[key] = bytes(table[ctypes.c_uint32(key)].text).split(b"\0")[0].decode("utf-8", "replace")
        return found

    def values(self, name: str, keys: Iterable[int]) -> dict[int, bytes]:
        """The values of a map whose keys are integers, for those of `keys` that it holds."""
        table = self._table(name)
        found = {}
        for key in keys:
            with contextlib.suppress(KeyError):
                found[key] = bytes(table[table.Key(key)])
        return found

    def write(self, name: str, key: int, value: bytes) -> None:
        """Write one element of a map whose keys are u32. Raises ValueError where the size is not the element's."""
        table = self._table(name)
        if len(value) != ctypes.sizeof(table.Leaf):
            raise ValueError(f"{name}: {len(value)} bytes do not fill {ctypes.sizeof(table.Leaf)}")
        table[ctypes.c_uint32(key)] = table.Leaf.from_buffer_copy(value)

    def set_program(self, name: str, program: Program) -> None:
        """Make `program` the one that a map of programs calls."""
        table = self._table(name)
        table[ctypes.c_int(0)] = ctypes.c_int(program.fd)

    def clear(self, name: str) -> None:
        """Empty a hash map."""
        self._table(name).clear()

    def close(self) -> None:
        """Close the programs and maps: nothing of them may be used any more, but for memory that is mapped."""
        self._programs.clear()
        self._hits = None
        self._module.close()


def _misses(fd: int) -> int:
    info = ctypes.create_string_buffer(256)  # kernels that do not count leave zero there
    kernel.bpf(_OBJ_GET_INFO, struct.pack("<IIQ", fd, len(info), ctypes.addressof(info)))
    return int.from_bytes(info.raw[_RECURSION_MISSES : _RECURSION_MISSES + 8], "little")


def _first_error(text: str, error: Exception) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower() or "not permitted" in line.lower():
            return line[:300]
    return lines[-1][:300] if lines else str(error)


@contextmanager
def _kernel_source() -> Iterator[None]:
    """Point bcc to the stub headers while it compiles: it wants a tree with `include/` in it."""
    old = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCES)
    try:
        yield
    finally:
        if old is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = old


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch what libbcc prints on file descriptor 2, so that it becomes one sentence instead of a screenful."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:

        def text() -> str:
            file.seek(0)
            return file.read(1 << 20).decode(errors="replace")

        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
