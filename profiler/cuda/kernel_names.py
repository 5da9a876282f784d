"""Kernels by name: what a launch is given is the address of the kernel's stub on the host, a function like any other.

nvcc gives the stub the kernel's own (mangled) name, so the symbol table of the module that holds it tells which kernel
it is. In a stripped module it is the name that the stub is registered under (registered_kernels.py), or else its place
(`libkernels.so+0x1a2b`); the driver's handle of a function is in no module: function_names.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flowprof.profiler.binaries.demangle import demangled
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.cuda.registered_kernels import registered_kernels
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.target import Mapping, modules_of

MAX_KERNELS = 100_000  # addresses of one process that are looked up


class KernelNames:
    """Names by address, for one process. Its files are opened while it is there, and read when a name is asked for."""

    def __init__(self, pid: int, debug_dirs: tuple[str, ...] = ()) -> None:
        self._pid = pid
        self._debug_dirs = debug_dirs
        self._files: dict[tuple[int, int], tuple[str, tuple[Mapping, ...], ElfFile | None]] = {}  # by inode and address
        self._registered: dict[tuple[int, int], dict[int, str]] = {}  # likewise
        self._known: dict[int, str | None] = {}

    def look_at_files(self) -> None:
        """Open what it executes now: libraries come with their kernels."""
        try:
            modules = modules_of(self._pid)
        except FlowprofError:
            modules = ()
        if not modules:
            return  # it is gone, and what was open stays
        found = {}
        for module in modules:
            key = module.inode, module.mappings[0].start
            name = Path(module.path).name
            found[key] = self._files.get(key) or (name, module.mappings, self._opened(module.open_path))
        self._files = found

    def look(self, addresses: Iterable[int]) -> dict[int, str | None]:
        """Address → demangled name, or its place in its file; None: not known."""
        wanted = list(addresses)
        new = [address for address in wanted if address not in self._known]
        new = new[: max(MAX_KERNELS - len(self._known), 0)]
        if new:
            self.look_at_files()
            symbols = {address: self._symbol(address) for address in new}
            names = demangled([name for name in symbols.values() if name])
            self._known.update({address: names[name] if name else None for address, name in symbols.items()})
        return {address: self._known.get(address) for address in wanted}

    def _opened(self, path: str) -> ElfFile | None:
        try:
            return ElfFile(path, self._debug_dirs)
        except FlowprofError:
            return None  # not an ELF file after all

    def _symbol(self, address: int) -> str | None:
        for key, (name, mappings, elf) in self._files.items():
            for mapping in mappings:
                if mapping.start <= address < mapping.end and elf is not None:
                    return self._at(key, elf, name, address - mapping.start + mapping.offset)
        return None

    def _at(self, key: tuple[int, int], elf: ElfFile, name: str, offset: int) -> str | None:
        """The function that begins at this place of the file: its symbol, the name it registers under, its place."""
        try:
            address = elf.address_of(offset)
            symbol = elf.symbols().at(address) if address is not None else None
        except FlowprofError:
            return None
        if address is None or (symbol is not None and symbol.address != address):
            return None  # amid a function: no stub
        if symbol is not None and symbol.name:
            return symbol.name
        if key not in self._registered:
            self._registered[key] = registered_kernels(elf)
        return self._registered[key].get(address, f"{name}+{address:#x}")
