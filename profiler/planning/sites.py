"""Where exactly a probe sits: the cheapest instruction of a function at which its arguments can still be read.

A probe meant for a function's entry may sit on any instruction that is reached exactly once per call, with the
argument registers intact. So a site is valid only

* on the straight line from the entry: before anything that jumps, calls or returns (that instruction itself is still
  reached),
* while no instruction before it has written an argument register that the probe reads (in part or implicitly),
* if no branch lands on it or between the entry and it, else it would be hit more than once: branches of the function
  itself and of its cold part elsewhere (`branches.py`),
* if no jump table leads there. An indirect jump's targets are not known, but a loop cannot contain an instruction
  that lowers the stack pointer (each round would lose stack), so whatever comes before a later `push` or `sub rsp` is
  safe; behind the last one only the entry is taken.

Among the valid ones the first that the kernel emulates wins (`probe_cost.py`), else the entry is single-stepped and
says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flowprof.profiler.binaries.branches import MAX_SWEEP, direct_calls, far_jumps, landings, may_jump_indirectly
from flowprof.profiler.binaries.disassembly import SUPPORTED, Instruction, instructions, is_call, leaves_path, sweep
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.binaries.jump_tables import table_landings
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.planning.probe_cost import OLDEST_KERNEL, CostClass, Kernel, probe_cost

__all__ = ["OLDEST_KERNEL", "CostClass", "Kernel", "NoSite", "Site", "call_sites", "choose_entry_site", "return_site"]

MAX_PATH = 64
MAX_FUNCTION = 1 << 24
MAX_FRAGMENTS = 64
ARGUMENTS = {
    "x86-64": ("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
    "aarch64": ("x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"),
}


class NoSite(FlowprofError):  # noqa: N818 (it is an answer, not a fault)
    """The function cannot be probed; the message says why."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Site:
    """One instruction to probe. `file_offset` is what the kernel wants; `reason` is why this one, in words; `shared`:
    other functions pass it, too."""

    address: int
    file_offset: int
    instruction: str
    cost_class: CostClass
    reason: str
    shared: bool = False


def choose_entry_site(
    elf: ElfFile, address: int, args: int, kernel: Kernel = OLDEST_KERNEL, frame: bool = False
) -> Site:
    """The cheapest instruction that stands for the entry of a function, with its arguments 1..args in registers.

    frame: and with the stack pointer as it is at the entry; on x86-64 only.
    Raises NoSite where no instruction is valid, ElfError where the file is broken.
    """
    code, whole = function_code(elf, address)
    if frame and elf.machine != "x86-64":
        raise NoSite(f"what lies on the stack is read on x86-64 only, and {elf.path!r} is for {elf.machine}")
    path = _straight_line(elf.machine, code, address, args, frame)
    if not path:
        raise NoSite(f"the bytes at {address:#x} in {elf.path!r} are no instruction")
    valid, limit = (
        _not_landed_on(elf, code, address, path) if whole else (path[:1], "where the function ends is not known")
    )
    if not valid:
        raise NoSite(f"a branch leads back to the entry at {address:#x}: a probe there would count rounds, not calls")
    costs = [probe_cost(elf.machine, i.data, kernel) for i in valid]
    for instruction, cost in zip(valid, costs, strict=True):
        if cost is CostClass.EMULATED:
            where = "the entry" if instruction.address == address else f"+{instruction.address - address}"
            return _site(elf, instruction, cost, f"{where}: the first that the kernel emulates, arguments intact")
    for instruction, cost in zip(valid, costs, strict=True):
        if cost is CostClass.SINGLE_STEPPED:
            return _site(elf, instruction, cost, f"single-stepped: {limit}")
    raise NoSite(f"the kernel cannot probe {valid[0].text!r} at {address:#x}, and {limit}")


def return_site(elf: ElfFile, address: int, kernel: Kernel | None = None) -> Site:
    """A return probe: it is attached at the entry, and the kernel replaces the return address there.

    kernel: on x86-64 rather at the cheapest instruction at which the return address still lies on top of the stack. An
    entry probe of the same function lies there or before it, and so still sees who called. Raises NoSite.
    """
    if kernel is not None and elf.machine == "x86-64":
        site = choose_entry_site(elf, address, 0, kernel, True)
        return replace(site, cost_class=CostClass.RETURN, reason=f"a return probe; {site.reason}")
    code, _ = function_code(elf, address)
    first = next(instructions(elf.machine, code, address, 1), None)
    if first is None or probe_cost(elf.machine, first.data) is None:
        text = first.text if first else "no instruction"
        raise NoSite(f"a return probe sits on the entry, and the kernel cannot probe {text!r} at {address:#x}")
    return _site(elf, first, CostClass.RETURN, "a return probe is set at the entry")


def call_sites(elf: ElfFile, function_address: int, callee: str | int, kernel: Kernel = OLDEST_KERNEL) -> list[Site]:
    """The direct calls to the callee (or to its PLT stub) in one function; a probe there sees the call's arguments."""
    targets = call_targets(elf, callee)
    code, whole = function_code(elf, function_address)
    if not targets or not whole:
        return []
    sources, goals = direct_calls(elf.machine, code, function_address)
    wanted = {a for a, goal in zip(sources.tolist(), goals.tolist(), strict=True) if goal in targets}
    if not wanted:
        return []
    found = []
    for address, size, verb, text in sweep(elf.machine, code, function_address):
        if address in wanted and is_call(elf.machine, verb):
            data = code[address - function_address : address - function_address + size]
            cost = probe_cost(elf.machine, data, kernel)
            if cost is not None:
                instruction = Instruction(address, data, verb, text, frozenset())
                found.append(_site(elf, instruction, cost, f"a direct call at +{address - function_address}"))
    return found


def call_targets(elf: ElfFile, callee: str | int) -> set[int]:
    """The addresses that a call to the callee may state: its own and those of PLT stubs that lead to it."""
    if isinstance(callee, str):
        symbol = elf.symbols().get(callee)
        return {*elf.plt_stubs(callee), *([symbol.address] if symbol else [])}
    symbol = elf.symbols().at(callee)
    named = symbol is not None and symbol.address == callee
    return {callee, *(elf.plt_stubs(symbol.name) if named and symbol is not None else [])}


def function_code(elf: ElfFile, address: int) -> tuple[bytes, bool]:
    """The function's bytes from the address on, and whether its end is known."""
    if elf.machine not in SUPPORTED or elf.bits != 64:
        raise NoSite(f"{elf.path!r} holds {elf.bits}-bit code for {elf.machine}: only x86-64 and AArch64 can be probed")
    if not elf.executable(address):
        raise NoSite(f"address {address:#x} in {elf.path!r} is not code")
    bounds = elf.function_bounds(address)
    end = bounds[1] if bounds else 0
    whole = bounds is not None and bounds[0] <= address < end and end - address <= MAX_FUNCTION
    if whole:
        try:
            return elf.read(address, end - address), True
        except ElfError:
            whole = False  # the symbol states more than there is
    for size in (256, 64, 16, 4):
        try:
            return elf.read(address, size), False
        except ElfError:
            continue
    raise NoSite(f"address {address:#x} in {elf.path!r} is at the very end of the code")


def _straight_line(machine: str, code: bytes, address: int, args: int, frame: bool) -> list[Instruction]:
    """Instructions from the entry on that are always reached, up to the first that writes an argument, included.

    frame: also up to the first that moves the stack pointer.
    """
    watched = frozenset((*ARGUMENTS[machine][:args], *(("rsp",) if frame else ())))
    path = []
    for instruction in instructions(machine, code[: MAX_PATH * 15], address, MAX_PATH):
        path.append(instruction)
        exclusive = machine == "aarch64" and int.from_bytes(instruction.data, "little") & 0x3F800000 == 0x08000000
        if leaves_path(machine, instruction.mnemonic) or instruction.writes & watched or exclusive:
            break
    return path


def _not_landed_on(elf: ElfFile, code: bytes, address: int, path: list[Instruction]) -> tuple[list[Instruction], str]:
    """The part of the path that no branch reaches, and what ended it."""
    limit = f"nothing emulated before {path[-1].text!r} at +{path[-1].address - address}"
    last = path[-1].address
    landed = landings(elf.machine, code, address, address, last)
    if not landed:
        landed = _from_cold_parts(elf, code, address, last)
    if landed:
        limit = f"a branch lands at +{min(landed) - address}"
        path = [i for i in path if i.address < min(landed)]
    if path and may_jump_indirectly(elf.machine, code, address):
        tables = None
        if elf.machine == "x86-64" and len(code) <= MAX_SWEEP:
            tables = table_landings(elf, code, address, address + 1, last)
        lowering = max((n for n, i in enumerate(path) if _lowers_stack(elf.machine, i)), default=0)
        if tables is None and lowering < len(path) - 1:
            limit = f"an indirect jump might lead to what is behind +{path[lowering].address - address}"
            path = path[: lowering + 1]
        elif tables:
            limit = f"a jump table may lead to +{tables[0] - address}"
            path = [i for n, i in enumerate(path) if n <= lowering or i.address < tables[0]]
    return path, limit


def _from_cold_parts(elf: ElfFile, code: bytes, address: int, last: int) -> list[int]:
    """Landings from other pieces that this function jumps to: compilers move unlikely blocks away; they come back."""
    end = address + len(code)
    found: set[int] = set()
    seen: set[int] = set()
    for target in far_jumps(elf.machine, code, address):
        bounds = elf.function_bounds(target) if elf.executable(target) and not address <= target < end else None
        if bounds is None or bounds[0] in seen or bounds[1] - bounds[0] > MAX_FUNCTION:
            continue
        seen.add(bounds[0])
        if len(seen) > MAX_FRAGMENTS:
            return [address + 1]  # too many to look at: take only the entry
        piece = elf.read(bounds[0], bounds[1] - bounds[0])
        found.update(landings(elf.machine, piece, bounds[0], address + 1, last))
    return sorted(found)


def _lowers_stack(machine: str, i: Instruction) -> bool:
    if machine == "x86-64":
        return i.mnemonic == "push" or (i.mnemonic == "sub" and i.operands.startswith("rsp,"))
    pre_indexed = i.mnemonic in ("stp", "str") and "[sp, #-" in i.operands and i.operands.endswith("]!")
    return pre_indexed or (i.mnemonic == "sub" and i.operands.startswith("sp, sp,"))


def _site(elf: ElfFile, i: Instruction, cost: CostClass, reason: str) -> Site:
    return Site(i.address, elf.file_offset(i.address), i.text, cost, reason)
