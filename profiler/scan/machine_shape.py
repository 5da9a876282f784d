"""What a function's machine code shows of its part in a resource (x86-64).

One pass, in order of addresses, follows what comes from the arguments through registers and the stack: an approximation
that knows no branches. So an answer is evidence, not proof, and None wherever the code gives none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from flowprof.profiler.binaries.disassembly import direct_target, is_call, is_jump, sweep, whole_register
from flowprof.profiler.scan.material import UNKNOWN, Shape

MAX_CALLERS = 16
MAX_AFTER = 40  # instructions looked at after a call
MAX_STEPS = 20_000
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_SCRATCH = frozenset({"rax", "r10", "r11", *_ARGUMENTS})
_SEARCH = re.compile(r"find|lookup|search|bsearch|hash|pop|front|back|begin|next|Rb_tree|tsearch", re.IGNORECASE)
_REGISTER = re.compile(r"\b(?:r[a-d]x|r[sd]i|r[bs]p|r\d+[dwb]?|e[a-d]x|e[sd]i|e[bs]p|[a-d][xlh]|[sd]il?)\b")
Caller = tuple[bytes, int, list[int]]
"""Its code, its address, the addresses of its calls."""


def read(code: bytes, address: int, callers: Sequence[Caller], name_of: Callable[[int], str], method: bool) -> Shape:
    """The shape of one function. name_of: what is called at an address. method: its first argument is no unit."""
    if not code:
        return UNKNOWN
    lookup = changes = False
    steps = list(_limited(code, address))
    tainted: dict[str, set[int]] = {register: {at} for at, register in enumerate(_ARGUMENTS)}
    derived: set[int] = set()
    returned = writes = False
    passed: set[int] = set()  # arguments that come back as they were
    whole: dict[str, int] = {register: at for at, register in enumerate(_ARGUMENTS)}
    for here, _, verb, operands in steps:
        if is_jump("x86-64", verb):
            target = direct_target(operands)
            lookup |= target is not None and address <= target <= here
            if not (target is not None and not address <= target < address + len(code)):
                continue  # only a tail call is more than a jump
        if is_call("x86-64", verb) or is_jump("x86-64", verb):
            target = direct_target(operands)
            changes = True  # what it calls may
            lookup |= target is not None and _SEARCH.search(name_of(target)) is not None
            given = set().union(*(tainted.get(r, set()) for r in _ARGUMENTS[:3]))
            for register in _SCRATCH:
                tainted.pop(register, None)
                whole.pop(register, None)
            tainted["rax"], writes = given, True
            if is_call("x86-64", verb):
                continue
        if verb.startswith("ret") or is_jump("x86-64", verb):
            returned = True
            derived |= tainted.get("rax", set())
            if "rax" in whole:
                passed.add(whole["rax"])
            continue
        _follow(verb, operands, tainted, whole)
        changes |= _stores(verb, operands)
        writes |= operands.startswith(("rax", "eax", "al,"))
    if not returned:
        return Shape(lookup, None, None, _used_after(callers), changes)
    gives_back = bool(passed) if writes else False
    return Shape(lookup, bool(derived) if writes else False, gives_back, _used_after(callers), changes)


def _limited(code: bytes, address: int) -> Sequence[tuple[int, int, str, str]]:
    found = []
    for step in sweep("x86-64", code, address):
        found.append(step)
        if len(found) == MAX_STEPS:
            break
    return found


def _follow(verb: str, operands: str, tainted: dict[str, set[int]], whole: dict[str, int]) -> None:
    """One instruction that is no jump, call or return."""
    if verb in ("cmp", "test", "push", "nop", "endbr64", "pop", "leave"):
        return
    target, _, source = operands.partition(", ")
    place = _place(target)
    if not place:
        return
    if verb == "xor" and target == source:
        tainted.pop(place, None)
        whole.pop(place, None)
        return
    comes = set[int]()
    for register in _REGISTER.findall(source):
        comes |= tainted.get(whole_register("x86-64", register), set())
    if "[" in source:
        comes |= tainted.get(_place(source), set())
    if not verb.startswith(("mov", "lea", "cmov")) or verb.startswith("cmov"):
        comes |= tainted.get(place, set())
    copied = verb == "mov" and whole.get(_place(source))
    if copied is not False and copied is not None and verb == "mov":
        whole[place] = copied
    else:
        whole.pop(place, None)
    if comes:
        tainted[place] = comes
    else:
        tainted.pop(place, None)


def _stores(verb: str, operands: str) -> bool:
    """Whether it writes to memory other than the stack."""
    target = operands.partition(", ")[0]
    if "[" not in target or verb in ("cmp", "test", "nop", "push", "call", "jmp") or verb.startswith("prefetch"):
        return False
    return not target[target.find("[") + 1 :].startswith(("rsp", "rbp"))


def _place(operand: str) -> str:
    """A whole register, or a slot of the stack; "" for other memory and for constants."""
    if "[" in operand:
        inside = operand[operand.find("[") + 1 : operand.rfind("]")]
        return inside if inside.startswith(("rsp", "rbp")) else ""
    return whole_register("x86-64", operand.strip()) if _REGISTER.fullmatch(operand.strip()) else ""


def _used_after(callers: Sequence[Caller]) -> str | None:
    """Where a caller goes on to use what it gave back: the last argument that it had copied from a kept register."""
    looked = False
    for code, start, sites in callers:
        steps = _limited(code, start)
        place = {step[0]: at for at, step in enumerate(steps)}
        for site in sites[:4]:
            at = place.get(site)
            if at is None:
                continue
            kept = _kept(steps[max(0, at - 8) : at])
            if kept:
                looked = True
                used = _dereferenced(steps[at + 1 : at + 1 + MAX_AFTER], kept)
                if used:
                    return hex(used)
    return "" if looked else None


def _kept(before: Sequence[tuple[int, int, str, str]]) -> str:
    """The callee-saved register that the last argument was copied from, rsi before rdi."""
    given: dict[str, str] = {}
    for _, _, verb, operands in before:
        if is_call("x86-64", verb):
            given.clear()
        target, _, source = operands.partition(", ")
        if verb == "mov" and target in _ARGUMENTS:
            given[target] = source
        elif target in given:
            del given[target]
    for register in ("rsi", "rdi"):
        source = given.get(register, "")
        if source in ("rbx", "rbp", "r12", "r13", "r14", "r15"):
            return source
    return ""


def _dereferenced(after: Sequence[tuple[int, int, str, str]], kept: str) -> int:
    """The address of the first instruction that reads through the register before it is written; 0: none."""
    for address, _, verb, operands in after:
        if re.search(rf"\[{kept}\b", operands):
            return address
        target = operands.partition(", ")[0]
        if whole_register("x86-64", target) == kept or verb in ("pop", "ret", "jmp"):
            return 0
    return 0
