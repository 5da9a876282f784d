"""The only module that knows bcc: compile the kernel side and load its programs.

bcc is pure ctypes over libbcc and comes from the distribution (`python3-bpfcc`), not from PyPI; from a virtual
environment it is loaded by path. It asks for the running kernel's headers although uprobe programs need none, so it is
given the project's own stub headers (probes/bpf/include) instead: nothing of the host's kernel tree is read.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from flowprof.profiler.errors import BpfError

SOURCES = Path(__file__).resolve().parent.parent / "probes" / "bpf"
DIST_PACKAGES = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages")
MAX_SITES = 16384
UPROBE_MULTI = 48  # enum bpf_attach_type: BPF_TRACE_UPROBE_MULTI
INSTALL = "apt-get install python3-bpfcc"


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
    """log2 of the events in one processor's ring: all rings together stay within `budget_bytes`, 2^12 … 2^17 each."""
    shift = 17
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

    def __init__(self, source: str, ring_shift: int | None = None, multi: bool = True) -> None:
        """Compile `probes/bpf/<source>`; `multi`: programs will be attached through uprobe_multi links.

        Raises BpfError (bcc absent, compile or load refused) with the compiler's or the verifier's first line.
        """
        bcc = import_bcc()
        self._bcc = bcc
        self.cpus = possible_cpus()
        self.ring_shift = ring_shift if ring_shift is not None else event_ring_shift(self.cpus)
        self._attach_type = UPROBE_MULTI if multi else -1
        self._programs: dict[str, Program] = {}
        flags = [
            "-Wno-everything",
            f"-DRING_SHIFT={self.ring_shift}",
            f"-DRING_CPUS={self.cpus}",
            f"-DMAX_SITES={MAX_SITES}",
        ]
        with _kernel_source(), _captured_stderr() as messages:
            try:
                self._module: Any = bcc.BPF(text=_source_text(source).encode(), cflags=flags)
            except Exception as error:
                raise BpfError(
                    f"bcc could not compile {source}: {_first_error(messages(), error)}", "flowprof doctor"
                ) from error
        # bcc's exit hook detaches what bcc attached; we attach through links of our own, so there is nothing to do.
        atexit_hook = getattr(self._module, "cleanup", None)
        if atexit_hook is not None:
            atexit.unregister(atexit_hook)

    def program(self, name: str) -> Program:
        """Load the function `name`. Raises BpfError with the verifier's last lines."""
        if name not in self._programs:
            with _captured_stderr() as messages:
                try:
                    function = self._module.load_func(name.encode(), self._bcc.BPF.KPROBE, None, self._attach_type)
                except Exception as error:
                    raise BpfError(
                        f"the kernel refused the BPF program {name}: {_first_error(messages(), error)}",
                        "flowprof doctor",
                    ) from error
            self._programs[name] = Program(name, int(function.fd))
        return self._programs[name]

    def map_fd(self, name: str) -> int:
        """The file descriptor of the map `name`."""
        return int(self._module[name.encode()].get_fd())

    def write_array(self, name: str, values: list[int]) -> None:
        """Write element 0 of an array map whose value is a struct of u32 fields, in order. Raises ValueError."""
        table = self._module[name.encode()]
        leaf = (ctypes.c_uint32 * len(values))(*values)
        if ctypes.sizeof(leaf) != ctypes.sizeof(table.Leaf):
            raise ValueError(f"{name}: {len(values)} fields do not fill {ctypes.sizeof(table.Leaf)} bytes")
        table[ctypes.c_int(0)] = table.Leaf.from_buffer_copy(leaf)

    def read_counter(self, name: str) -> int:
        """Element 0 of an array map of u64."""
        return int(self._module[name.encode()][ctypes.c_int(0)].value)

    def site_hits(self, count: int) -> np.ndarray:
        """Hits per site since the module was loaded, shape (count,), summed over processors."""
        table = self._module[b"site_hits"]
        return np.array([sum(table[ctypes.c_int(i)]) for i in range(count)], dtype=np.int64)

    def insert(self, name: str, key: int) -> None:
        """Add a u64 key to a hash map used as a set."""
        self._module[name.encode()][ctypes.c_uint64(key)] = ctypes.c_uint64(1)

    def clear(self, name: str) -> None:
        """Empty a hash map."""
        self._module[name.encode()].clear()


def _source_text(source: str) -> str:
    """The event rings followed by the programs: bcc rewrites map accesses in one file only."""
    return "\n".join(f'#line 1 "{name}"\n{(SOURCES / name).read_text()}' for name in ("event.bpf.c", source))


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
