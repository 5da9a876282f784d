"""A thread's calls from a copy of its registers and of its stack (x86-64), offline.

Each function is left as its file's `.eh_frame` says. Where that says nothing: by the frame pointer when it looks like
one, else by a scan of the stack for words that follow a call instruction. Such a word may be an old one, and what is
found above it rests on the guess.

Registers, stack and files are the target's: reads are bounded, and so are the steps. A return probe puts the kernel's
address in place of the return address that it watches: that caller is then missing, and the next found by a scan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.binaries.cfi import RBP, RBX, RETURN, RSP, Row, Rule
from flowprof.profiler.binaries.cfi_expression import Unknown, evaluate
from flowprof.profiler.binaries.module_code import code_of
from flowprof.profiler.target import Module

MAX_FRAMES = 64
MAX_STACK = 1 << 16  # bytes of a copied stack that are looked at
_MAX_SCANNED = 8192  # words of one stack, the same one again counts again
_MAX_LOOKED_AT = 256  # different addresses of code among them, whose instructions are read
_LARGEST_FRAME = 1 << 20
_WORDS = 1 << 64

How = Literal["exact", "unwound", "frame-pointer", "scanned"]


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers that a function gives back as it got them, and where it is."""

    rip: int
    rsp: int
    rbp: int
    rbx: int
    r12: int
    r13: int
    r14: int
    r15: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of a stack.

    address: as the file's own headers count. Of frame 0, and of a function that a signal interrupted, the next
    instruction; else the last byte of the call (the return address may be of the next line, or of another function).
    how: exact (the registers themselves), unwound (by .eh_frame), frame-pointer, scanned (a guess).
    """

    module: Module
    address: int
    how: How


def unwind(registers: Registers, stack: bytes, modules: Sequence[Module]) -> list[Frame]:
    """The frames from the innermost on, MAX_FRAMES at most; `stack`: the memory from rsp upwards.

    Ends where the copy does, or where nothing fits; empty when rip is in no module.
    """
    return list(_Walk(registers, stack, modules).frames())


class _Walk:
    """One stack, on its way from frame to frame."""

    def __init__(self, registers: Registers, stack: bytes, modules: Sequence[Module]) -> None:
        r = registers
        numbers = {RBX: r.rbx, RBP: r.rbp, RSP: r.rsp, 12: r.r12, 13: r.r13, 14: r.r14, 15: r.r15, RETURN: r.rip}
        self.registers = {number: value % _WORDS for number, value in numbers.items()}
        self.low, self.stack = self.registers[RSP], stack[:MAX_STACK]
        self.mapped = sorted(((m, module) for module in modules for m in module.mappings), key=lambda one: one[0].start)
        self.known: dict[int, bool] = {}  # words that are, or are not, return addresses
        self.looked_at = self.scanned = 0

    def frames(self) -> Iterator[Frame]:
        at = self.place(self.registers[RETURN])
        how: How | None = "exact"
        for _ in range(MAX_FRAMES):
            if at is None or how is None:
                return
            yield Frame(*at, how)
            row = code_of(at[0]).row(at[1])
            if row is not None and (RETURN, Rule("undefined")) in row.rules:
                return  # the thread's first function
            cfa = None if row is None else self.frame_address(row)
            if cfa is not None and 0 < cfa - self.low - len(self.stack) < _LARGEST_FRAME:
                return  # the copy ends within this frame
            unwound = row is not None and cfa is not None and self.leave(row, cfa)
            how = "unwound" if unwound else self.guess(at, innermost=how == "exact")
            interrupted = unwound and row is not None and row.signal
            at = self.place(self.registers[RETURN] - (not interrupted)) if how else None

    def place(self, pc: int) -> tuple[Module, int] | None:
        """The module that holds the instruction, and its address as that file counts."""
        i = bisect_right(self.mapped, pc, key=lambda one: one[0].start) - 1
        if i < 0 or pc >= self.mapped[i][0].end:
            return None
        mapping, module = self.mapped[i]
        address = code_of(module).address(pc - mapping.start + mapping.offset)
        return None if address is None else (module, address)

    def word(self, address: int) -> int:
        """Eight bytes of the stack. Raises Unknown."""
        at = address % _WORDS - self.low
        if not 0 <= at <= len(self.stack) - 8:
            raise Unknown
        return int.from_bytes(self.stack[at : at + 8], "little")

    def is_return(self, pc: int) -> bool:
        """Whether a call instruction ends here, or the kernel made a signal's handler return here."""
        if pc not in self.known:
            self.known[pc] = False
            place = self.place(pc - 1)
            if place is not None and self.looked_at < _MAX_LOOKED_AT:
                self.looked_at += 1
                code = code_of(place[0])
                row = code.row(place[1])
                self.known[pc] = code.call_ending_at(place[1])[0] or (row is not None and row.signal)
        return self.known[pc]

    def called(self, pc: int) -> tuple[Module, int] | None:
        """The function that was called from before this return address, where the instruction names it."""
        place = self.place(pc - 1)
        target = code_of(place[0]).call_ending_at(place[1])[1] if place else None
        return (place[0], target) if place and target is not None else None

    def frame_address(self, row: Row) -> int | None:
        """The CFA; None: what it is made of is not known."""
        try:
            if row.expression:
                return evaluate(row.expression, self.registers, self.word)
            return (self.registers[row.register] + row.offset) % _WORDS
        except (Unknown, KeyError):
            return None

    def leave(self, row: Row, cfa: int) -> bool:
        """Go to the caller as the row says; False when that leads to none (though this frame may be left by then)."""
        callers = {number: value for number, value in self.registers.items() if number != RETURN} | {RSP: cfa}
        for number, rule in row.rules:
            try:
                callers[number] = self.value(rule, cfa)
            except (Unknown, KeyError):
                callers.pop(number, None)
        if RETURN not in callers or RSP not in callers or (callers[RSP] <= self.registers[RSP] and not row.signal):
            return False
        self.registers = callers
        return row.signal or callers[RETURN] == 0 or self.is_return(callers[RETURN])

    def value(self, rule: Rule, cfa: int) -> int:
        """A register of the caller. Raises Unknown or KeyError."""
        if rule.how == "offset":
            return self.word(cfa + rule.number)
        if rule.how == "val_offset":
            return (cfa + rule.number) % _WORDS
        if rule.how == "register":
            return self.registers[rule.number]
        if rule.how == "undefined":
            raise Unknown
        value = evaluate(rule.expression, self.registers, self.word, cfa)
        return self.word(value) if rule.how == "expression" else value

    def guess(self, place: tuple[Module, int], innermost: bool) -> How | None:
        """Go to the caller without unwinding information; None: nothing looks like one."""
        top, base = self.registers[RSP], self.registers.get(RBP, 0)
        if innermost and self.returns_at(top):  # nothing is pushed yet at a function's entry
            return self.go_to(top)
        framed = base >= top and base % 8 == 0 and self.returns_at(base + 8)
        nearest, own = self.scan(place, base if framed else _WORDS)
        if own is None and framed:
            callers_base = self.word(base)
            self.go_to(base + 8)
            self.registers[RBP] = callers_base
            return "frame-pointer"
        slot = nearest if own is None else own
        return None if slot is None else self.go_to(slot)

    def scan(self, place: tuple[Module, int], end: int) -> tuple[int | None, int | None]:
        """The nearest slots of a word that follows any call, and of one that follows a call of this very function."""
        symbol = code_of(place[0]).symbol(place[1])
        nearest = None
        top = max(self.registers[RSP], self.low)
        top += -top % 8
        for slot in range(top, min(end, self.low + len(self.stack) - 7), 8):
            self.scanned += 1
            if self.scanned > _MAX_SCANNED:
                break
            if self.returns_at(slot):
                nearest = slot if nearest is None else nearest
                if symbol is None:
                    break
                if self.called(self.word(slot)) == (place[0], symbol.address):
                    return nearest, slot
        return nearest, None

    def returns_at(self, slot: int) -> bool:
        """Whether a return address lies here."""
        try:
            return self.is_return(self.word(slot))
        except Unknown:
            return False

    def go_to(self, slot: int) -> How:
        """The function returns to what lies here."""
        self.registers |= {RETURN: self.word(slot), RSP: slot + 8}
        return "scanned"
