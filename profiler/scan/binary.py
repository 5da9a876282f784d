"""A binary as scan material: its functions by symbol, who waits and wakes by its calls, its types by DWARF.

Calls are found in all code at once: every byte that could begin a direct call, whose target is a PLT stub or the first
byte of a function. A waiting function is then disassembled, to see whether the wait stands in a loop. A wait inside a
wrapper of the C++ library, or inside a function that is hardly more than that call, counts as its caller's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flowprof.profiler.binaries.demangle import demangled
from flowprof.profiler.binaries.disassembly import SUPPORTED, direct_target, is_jump, sweep
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.binaries.symbols import Symbol
from flowprof.profiler.errors import NothingToProfileError
from flowprof.profiler.scan import machine_shape, signature, types
from flowprof.profiler.scan.material import UNKNOWN, Function, Material, Shape, Wait, Waiting

Array = np.ndarray[Any, np.dtype[Any]]

MAX_FUNCTIONS = 400_000
MAX_LOOPS = 4_000  # functions disassembled to look for loops around waits
MAX_FUNCTION = 1 << 19  # bytes
MAX_CODE = 16 << 20  # bytes disassembled in all: some 15 s; real programs take 1 to 2 MB
WRAPPER = 48  # bytes: a function of that size that waits is a wrapper
DEPTH = 3  # wrappers around wrappers
_BATCH = 8_000  # names demangled at a time
_LIBRARY = re.compile(r"_ZNK?(?:St|9__gnu_cxx|S[absiod]|K?10__cxxabiv1)|_ZSt|_ZZ?NK?St|_ZZ|_ZG|_ZT")
_RUST = re.compile(r"_R[A-Z]|_ZN.*17h[0-9a-f]{16}E$")
_PRIMITIVES: tuple[tuple[Wait, str], ...] = (
    (
        "condition",
        r"pthread_cond_(?:timed|clock)?wait|_ZNSt(?:3__1)?18condition_variable(?:_any)?\d+(?:wait|__do_timed).*",
    ),
    ("semaphore", r"sem_(?:timed|clock)?wait"),
    ("barrier", r"pthread_barrier_wait|GOMP_barrier"),
    ("lock", r"pthread_mutex_(?:timed|clock)?lock|pthread_rwlock_(?:timed|clock)?(?:rd|wr)lock|pthread_spin_lock"),
    ("poll", r"poll|ppoll|epoll_wait|epoll_pwait|select|nanosleep|clock_nanosleep|usleep"),
)  # fmt: skip
_WAKES = re.compile(
    r"pthread_cond_(?:signal|broadcast)|sem_post|_ZNSt(?:3__1)?18condition_variable(?:_any)?\d+notify_(?:one|all)Ev"
)
_LOOP_INSIDE = ("semaphore", "barrier")
_FUTEX = 202  # system call number on x86-64
_PAUSE = b"\xf3\x90"


def read(path: str, debug_dirs: tuple[str, ...] = (), name: str = "", root: str = "") -> Material:
    """Raises ElfError, and NothingToProfileError without names. name: the module's, if not the path's."""
    elf = ElfFile(path, debug_dirs, root)
    program = _Program(elf)
    if not program.functions:
        raise NothingToProfileError(
            f"{path!r} names no functions of its own: it was stripped, or written in another language",
            "give it its debug symbols (a -dbg package, --debug-dir), or scan its source tree",
        )
    notes = list(program.notes)
    described = types.read(elf, {f.scope[-1] for f in program.functions if f.scope})
    notes += described.notes
    functions = tuple(described.with_signatures(program.functions))
    module = re.escape(Path(name or path).name)
    return Material(
        name or path, "binary", functions, module, elf.build_id or "", described.types, tuple(notes), program.shape
    )  # fmt: skip


class _Program:
    """The functions of one file and the calls between them."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.notes: list[str] = []
        self._left = MAX_CODE
        symbols = [s for s in elf.symbols().match("") if s.kind == "function" and s.name and elf.executable(s.address)]
        if len(symbols) > MAX_FUNCTIONS:
            self.notes.append(f"only {MAX_FUNCTIONS} of {len(symbols)} functions were read")
            symbols = symbols[:MAX_FUNCTIONS]
        self.symbols = symbols
        self.starts = np.array([s.address for s in symbols], np.int64)
        self.ends = self.starts + np.array([s.size for s in symbols], np.int64)
        own = [s for s in symbols if not _LIBRARY.match(s.name) and not _RUST.match(s.name)]
        rust = sum(1 for s in symbols if _RUST.match(s.name))
        if rust:
            self.notes.append(f"{rust} of {len(symbols)} functions are Rust's: their names are not read")
        self._signatures = self._read_names(own)
        self._waits = self._find_waits()
        self._wakes = self._reaching({t for t, n in self._imports.items() if _WAKES.fullmatch(n)})
        self.functions = self._functions(own)

    def _read_names(self, own: list[Symbol]) -> dict[str, tuple[str, signature.Signature]]:
        names = list(dict.fromkeys(s.name for s in own))
        found = {}
        for at in range(0, len(names), _BATCH):
            for mangled, name in demangled(names[at : at + _BATCH]).items():
                read = signature.read(name)
                if read is not None and (not read.scope or read.scope[0] not in ("std", "__gnu_cxx")):
                    found[mangled] = (name, read)
        return found

    def _functions(self, own: list[Symbol]) -> tuple[Function, ...]:
        found: dict[str, Function] = {}
        for symbol in own:
            if symbol.name not in self._signatures:
                continue
            name, read = self._signatures[symbol.name]
            waits = self._waits.get(symbol.address, ())
            locks = any(w.on == "lock" for w in waits)
            function = Function(
                name, read.scope, read.base, hex(symbol.address), read.parameters, read.returns,
                tuple(w for w in waits if w.on != "lock"), symbol.address in self._wakes, locks, read.inner,
            )  # fmt: skip
            found.setdefault(name, function)
            if found[name].waits != function.waits:  # C1 and C2 constructors, copies in several units
                found[name] = replace(found[name], waits=tuple({*found[name].waits, *function.waits}))
        return tuple(found.values())

    # calls

    @cached_property
    def _calls(self) -> tuple[Array, Array]:
        """(site, target) addresses of all direct calls and jumps to PLT stubs or function starts."""
        targets = np.unique(np.concatenate([self.starts, np.array(list(self._imports), np.int64)]))
        found: list[tuple[Array, Array]] = []
        if self.elf.machine not in SUPPORTED:
            self.notes.append(f"code for {self.elf.machine} is not read: candidates come from names and types alone")
        else:
            for segment in self.elf.segments:
                if segment.executable and segment.file_size:
                    code = np.frombuffer(self.elf.read(segment.address, segment.file_size), np.uint8)
                    scan = _x86_calls if self.elf.machine == "x86-64" else _a64_calls
                    found += [_kept(*pair, targets) for pair in scan(code, segment.address, self._slots)]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        sites, goals = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(sites, kind="stable")
        return sites[order], goals[order]

    @cached_property
    def _slots(self) -> Array:
        """GOT slots that `call *slot(%rip)` of a -fno-plt build uses."""
        return np.array(sorted(self._slot_names), np.int64)

    @cached_property
    def _slot_names(self) -> dict[int, str]:
        from flowprof.profiler.binaries.plt import slots

        return {slot: name.decode("utf-8", "replace") for slot, name in slots(self.elf).items()}

    @cached_property
    def _imports(self) -> dict[int, str]:
        """Address → name for PLT stubs, GOT slots and, in a static program, the functions themselves."""
        stubs = self.elf.plt_names()
        own = {s.address: s.name for s in self.symbols if _primitive(s.name) or _WAKES.fullmatch(s.name)}
        return {**own, **self._slot_names, **stubs}

    def _holder(self, sites: Array) -> Array:
        """The index of the function that holds each site, -1 for none."""
        if not len(self.starts):
            return np.full(len(sites), -1)
        at = np.searchsorted(self.starts, sites, side="right") - 1
        inside = (at >= 0) & (sites < self.ends[np.maximum(at, 0)])
        return np.where(inside, at, -1)

    def _callers(self, targets: set[int]) -> dict[int, list[tuple[int, int]]]:
        """Function index → (site, target) for every call of the targets."""
        sites, goals = self._calls
        chosen = np.isin(goals, np.array(sorted(targets), np.int64))
        found: dict[int, list[tuple[int, int]]] = {}
        sites, goals = sites[chosen], goals[chosen]
        for holder, site, goal in zip(self._holder(sites).tolist(), sites.tolist(), goals.tolist(), strict=True):
            if holder >= 0:
                found.setdefault(holder, []).append((site, goal))
        return found

    def _wrapper(self, index: int) -> bool:
        symbol = self.symbols[index]
        return _LIBRARY.match(symbol.name) is not None or 0 < symbol.size <= WRAPPER

    def _reaching(self, targets: set[int]) -> set[int]:
        """Addresses of the functions that call one of the targets, directly or through wrappers."""
        found: set[int] = set()
        for _ in range(DEPTH):
            callers = self._callers(targets)
            found |= {self.symbols[i].address for i in callers}
            targets = {self.symbols[i].address for i in callers if self._wrapper(i)} - targets
            if not targets:
                break
        return found

    def _find_waits(self) -> dict[int, tuple[Waiting, ...]]:
        """Function address → its waits."""
        what: dict[int, Waiting] = {}
        for address, name in self._imports.items():
            kind = _primitive(name)
            if kind:
                what[address] = Waiting(kind, _short(name), kind in _LOOP_INSIDE)
        found: dict[int, set[Waiting]] = {}
        targets, left = what, MAX_LOOPS
        for _ in range(DEPTH):
            wrappers: dict[int, Waiting] = {}
            for index, calls in self._callers(set(targets)).items():
                symbol = self.symbols[index]
                blocking = [(s, g) for s, g in calls if targets[g].on != "lock"]
                loops = self._loops(symbol) if blocking and left > 0 else []
                left -= bool(blocking)
                for site, goal in calls:
                    looped = targets[goal].looped or any(a <= site <= b for a, b in loops)
                    waiting = replace(targets[goal], looped=looped)
                    found.setdefault(symbol.address, set()).add(waiting)
                    library = _LIBRARY.match(symbol.name) is not None
                    thin = self._wrapper(index) and (library or not waiting.looped or waiting.on in _LOOP_INSIDE)
                    if waiting.on != "lock" and thin and symbol.address not in what:
                        wrappers[symbol.address] = waiting
            targets = {address: waiting for address, waiting in wrappers.items() if address not in what}
            what |= wrappers
            if not targets:
                break
        for index, waiting in (*self._futexes(), *self._spins()):
            found.setdefault(self.symbols[index].address, set()).add(waiting)
        return {address: tuple(sorted(waits, key=str)) for address, waits in found.items()}

    def _futexes(self) -> list[tuple[int, Waiting]]:
        """Functions that make the futex system call, through syscall() or themselves."""
        if self.elf.machine != "x86-64":
            return []
        callers = self._callers({a for a, n in self._imports.items() if n == "syscall"})
        found = []
        for index in list(callers)[:MAX_LOOPS]:
            number = re.compile(rb"[\xbf\xb8]" + re.escape(_FUTEX.to_bytes(4, "little")))
            if number.search(self._code(self.symbols[index])):
                loops = self._loops(self.symbols[index])
                looped = any(a <= site <= b for a, b in loops for site, _ in callers[index])
                found.append((index, Waiting("futex", "futex", looped)))
        return found

    def _spins(self) -> list[tuple[int, Waiting]]:
        """Functions with `pause` in a loop."""
        if self.elf.machine != "x86-64":
            return []
        sites: list[int] = []
        for segment in self.elf.segments:
            if segment.executable and segment.file_size:
                code = self.elf.read(segment.address, segment.file_size)
                sites += [m.start() + segment.address for m in re.finditer(re.escape(_PAUSE), code)]
        found = []
        for index in list(dict.fromkeys(self._holder(np.array(sites, np.int64)).tolist()))[:MAX_LOOPS]:
            symbol = self.symbols[index]
            if index < 0 or _RUST.match(symbol.name):
                continue
            loops = self._loops(symbol)
            for here, _, verb, _ in sweep(self.elf.machine, self._code(symbol), symbol.address):
                if verb == "pause" and any(first <= here <= last for first, last in loops):
                    found.append((index, Waiting("spin", "pause", True)))
                    break
        return found

    def _code(self, symbol: Symbol) -> bytes:
        if not 0 < symbol.size <= min(MAX_FUNCTION, self._left):
            return b""
        self._left -= symbol.size
        try:
            return self.elf.read(symbol.address, symbol.size)
        except ElfError:
            return b""

    def _loops(self, symbol: Symbol) -> list[tuple[int, int]]:
        """(first, last) address of what each backward jump of the function spans."""
        found = []
        for address, _, verb, operands in sweep(self.elf.machine, self._code(symbol), symbol.address):
            if is_jump(self.elf.machine, verb):
                target = direct_target(operands)
                if target is not None and symbol.address <= target <= address:
                    found.append((target, address))
        return found

    @cached_property
    def _by_address(self) -> dict[int, int]:
        return {symbol.address: index for index, symbol in enumerate(self.symbols)}

    def shape(self, function: Function) -> Shape:
        """What the function's code shows of its part; see `machine_shape.py`."""
        index = self._by_address.get(int(function.where, 16))
        if index is None or self.elf.machine != "x86-64":
            return UNKNOWN
        symbol = self.symbols[index]
        callers = [
            (self._code(self.symbols[i]), self.symbols[i].address, [site for site, _ in sites])
            for i, sites in list(self._callers({symbol.address}).items())[: machine_shape.MAX_CALLERS]
        ]
        return machine_shape.read(self._code(symbol), symbol.address, callers, self._target_name, bool(function.scope))

    def _target_name(self, address: int) -> str:
        if address in self._imports:
            return self._imports[address]
        index = self._by_address.get(address)
        return self.symbols[index].name if index is not None else ""


def _primitive(name: str) -> Wait | None:
    for kind, pattern in _PRIMITIVES:
        if re.fullmatch(rf"(?:__)?(?:{pattern})", name):
            return kind
    return None


def _short(name: str) -> str:
    return "std::condition_variable::wait" if name.startswith("_Z") else name


def _kept(sites: Array, goals: Array, targets: Array) -> tuple[Array, Array]:
    chosen = np.isin(goals, targets)
    return sites[chosen], goals[chosen]


def _x86_calls(code: Array, address: int, slots: Array) -> list[tuple[Array, Array]]:
    """call rel32, jmp rel32, and call or jmp *slot(%rip)."""
    found = []
    for first, second in ((0xE8, None), (0xE9, None), (0xFF, 0x15), (0xFF, 0x25)):
        if second is None:
            at = np.flatnonzero(code[:-5] == first)
            width = 5
        else:
            if not len(slots):
                continue
            at = np.flatnonzero((code[:-6] == first) & (code[1:-5] == second))
            width = 6
        offsets = code[(at + width - 4)[:, None] + np.arange(4)].copy().view("<i4")[:, 0].astype(np.int64)
        found.append((address + at, address + at + width + offsets))
    return found


def _a64_calls(code: Array, address: int, slots: Array) -> list[tuple[Array, Array]]:
    """bl and b."""
    words = code[: len(code) & ~3].copy().view("<u4")
    at = np.flatnonzero((words & 0x7C000000) == 0x14000000)
    offset = (words[at] & 0x3FFFFFF).astype(np.int64)
    offset -= (offset & 1 << 25) << 1
    return [(address + 4 * at, address + 4 * at + 4 * offset)]
