"""Expressions of a manifest: a value that is read from the target when one of its functions is entered or left.

    arg1 … arg6          the function's arguments (whole numbers and pointers)
    ret                  what it returns; only where it returns
    this                 arg1
    tid                  the thread
    64, 0x40             a number
    global(pool_size)    the address of a variable, by its symbol
    X + 16, X - 8        any of them, further on
    X & 127              of what it is, these bits (of the lower 32)
    *(X):u32             what lies there: u8 u16 u32 u64, i8 i16 i32 i64, ptr; f32 f64 for variables
    this.n_slots         a member, where the file has debug information: of the class whose method it is
    cast(server_task, arg2).id   likewise of another struct; members that are pointers are followed
    arg2->id, ret->id, global(pool).used  likewise, where it describes the function, or the variable
    getter(SYMBOL, X)    a member without debug information: what the method of this symbol (mangled) returns of X,
                         where it does nothing else (getter.py)
    limit, pool.used     a variable's value by its name: the function's argument of this name, else a global one;
                         without debug information a global one as a signed number of its symbol's size

An expression is a way: where it starts, and up to MAX_STEPS steps, each "add, then perhaps load". The kernel side
walks it (probes/bpf/resources.bpf.c); a load that faults makes the value unknown and is counted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from flowprof.profiler.binaries.dwarf import Member

MAX_STEPS = 6
MAX_LENGTH = 400
MAX_CONDITIONS = 2
TYPES = {"u8": (1, False), "u16": (2, False), "u32": (4, False), "u64": (8, False), "ptr": (8, False),
         "i8": (1, True), "i16": (2, True), "i32": (4, True), "i64": (8, True),
         "f32": (4, False), "f64": (8, False)}  # fmt: skip
REALS = ("f32", "f64")  # nothing can be done to their values but to look at them
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
NUMBER, ARGUMENT, RETURN, THREAD = 0, 1, 7, 8  # where a way starts; arguments are 1 … 6
DECLARED = "?"
NAMED = -1  # by a name that is not looked up yet
_STEP = struct.Struct("<iIBB2x")  # struct way_step
_WAY = struct.Struct("<QBB6x")
WAY_BYTES = _WAY.size + MAX_STEPS * _STEP.size
_TOKENS = re.compile(
    r"\s*(?:(?P<number>0x[0-9a-fA-F]+|\d+)|(?P<load>\*\()|(?P<name>[A-Za-z_$][\w$]*(?:::[\w$~]+)*)|(?P<sign>->|[-+&().,:]))"
)


REAL_ENDS = "{} is a floating-point number: nothing can be added to it or read at it"


class ExpressionError(ValueError):
    """What is wrong in an expression, in words."""


@dataclass(frozen=True, slots=True)
class Step:
    """Add `offset`; then load `size` bytes from there (0: do not); then keep the bits of `mask` (0: all).

    `member`: not known yet, of the struct so far. `getter`: not known yet, the symbol of a function that does it.
    """

    offset: int = 0
    size: int = 0
    signed: bool = False
    member: str = ""
    mask: int = 0
    getter: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a value. size: its bytes in a register; real: they are a floating-point number; type: its name;
    source: file:line of the declaration; "" unknown."""

    size: int = 8
    signed: bool = True
    type: str = ""
    source: str = ""
    real: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """Where a value starts and what is done to it. symbol: whose address is to be added to `value`; owner: the struct
    that a first member belongs to ("this": the function's class; DECLARED: what the start is declared as)."""

    base: int
    value: int = 0
    symbol: str = ""
    owner: str = ""
    steps: tuple[Step, ...] = ()
    kind: Kind = Kind()

    @property
    def members(self) -> tuple[str, ...]:
        """Names that debug information must place."""
        return tuple(step.member for step in self.steps if step.member)

    @property
    def arguments(self) -> int:
        """How many argument registers must be intact."""
        return self.base if ARGUMENT <= self.base < RETURN else 0

    def packed(self) -> bytes:
        """struct way of resources.bpf.c."""
        steps = b"".join(_STEP.pack(s.offset, s.mask, s.size, s.signed) for s in self.steps)
        return _WAY.pack(self.value & (1 << 64) - 1, self.base, len(self.steps)) + steps.ljust(
            WAY_BYTES - _WAY.size, b"\0"
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """A way's value compared with a number, as signed 64-bit numbers."""

    way: Way
    comparison: str
    number: int


def parse(text: str) -> Way:
    """Raises ExpressionError."""
    return _Parser(text).whole()


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """`X != 0`, or two of them with `and` between. Raises ExpressionError."""
    parts = re.split(r"\sand\s", text)
    if len(parts) > MAX_CONDITIONS:
        raise ExpressionError(f"{len(parts)} conditions; {MAX_CONDITIONS} can be told with `and`")
    return tuple(_condition(part) for part in parts)


def _condition(text: str) -> Condition:
    for sign in COMPARISONS:
        left, found, right = text.rpartition(sign)  # the last one: -> is none
        if found:
            try:
                number = int(right.strip(), 0)
            except ValueError as error:
                raise ExpressionError(f"{right.strip()[:40]!r} is no number; a condition compares with one") from error
            if not -(1 << 63) <= number < 1 << 63:
                raise ExpressionError(f"{right.strip()[:40]} does not fit into 64 bits")
            return Condition(parse(left), sign, number)
    raise ExpressionError(f"{text[:80]!r} compares nothing: it needs one of {' '.join(COMPARISONS)}")


def place_members(way: Way, owner: str, look: Callable[[str, str], Member | None]) -> Way:
    """The way with its members' places. owner: the function's class; look: a struct's member, by names.

    Raises ExpressionError where there is no such member.
    """
    if not way.members:
        return way
    current = owner if way.owner == "this" else way.owner
    steps: list[Step] = []
    after: Member | None = None
    for step in way.steps:
        if not step.member:
            steps.append(step)
            continue
        if after is not None:
            if not after.target:
                raise ExpressionError(f"what is before .{step.member} is no struct")
            current = after.target
            if after.pointer:
                steps[-1] = replace(steps[-1], size=8)
        after = look(current, step.member) if current else None
        if after is None:
            raise ExpressionError(
                f"no member {step.member} of {current or 'what is no method'} in the debug information"
            )
        steps.append(Step(after.offset))
    if after is not None and (after.pointer or not after.target):
        if not (readable(after) or (not after.size and not after.odd)):  # 0: an array, which is its address
            raise ExpressionError(f".{way.members[-1]} is no number of 1, 2, 4 or 8 bytes")
        at = max(i for i, step in enumerate(way.steps) if step.member)
        if after.real and at + 1 < len(way.steps):
            raise ExpressionError(REAL_ENDS.format(f".{way.members[-1]}"))
        steps[at] = replace(steps[at], size=after.size, signed=after.signed)
    kind = way.kind if after is None else kind_of(after)
    return replace(way, owner="", steps=_joined(steps), kind=kind)


def readable(kind: Member) -> bool:
    """Whether it is a number, or a pointer, that can be loaded."""
    return not kind.odd and kind.size in ((4, 8) if kind.real else (1, 2, 4, 8))


def kind_of(loaded: Member) -> Kind:
    """Of a value that was loaded: whole numbers have been widened to 64 bits then."""
    return Kind(loaded.size if loaded.real else 8, not loaded.real, loaded.type, loaded.source, loaded.real)


def _joined(steps: list[Step]) -> tuple[Step, ...]:
    """Additions with no load between them are one."""
    found: list[Step] = []
    for step in steps:
        fixed = found and (found[-1].size or found[-1].member or found[-1].mask or found[-1].getter)
        if found and not (fixed or step.member or step.getter):
            found[-1] = replace(step, offset=found[-1].offset + step.offset)
        else:
            found.append(step)
    for step in found:
        if not -(1 << 31) <= step.offset < 1 << 31:
            raise ExpressionError(f"{step.offset} is too far away")
    if len(found) > MAX_STEPS:
        raise ExpressionError(f"has {len(found)} steps; {MAX_STEPS} are walked")
    return tuple(found)


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            token = _TOKENS.match(text, at)
            if token is None or token.lastgroup is None:
                raise ExpressionError(f"{text[at:].strip()[:20]!r} is not understood in {text[:80]!r}")
            self._tokens.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()

    def whole(self) -> Way:
        way = self._sum(0)
        if self._tokens:
            raise ExpressionError(f"{self._tokens[0][1][:20]!r} is one too many in {self._text[:80]!r}")
        return replace(way, steps=_joined(list(way.steps)))

    def _next(self, *wanted: str) -> str:
        kind, text = self._tokens.pop(0) if self._tokens else ("", "the end")
        if kind not in wanted and text not in wanted:
            raise ExpressionError(f"{text[:20]!r} where {' or '.join(wanted)} should be in {self._text[:80]!r}")
        return text

    def _at(self, *texts: str) -> bool:
        return bool(self._tokens) and self._tokens[0][1] in texts

    def _sum(self, depth: int) -> Way:
        if depth > MAX_STEPS:
            raise ExpressionError(f"is nested too deeply; {MAX_STEPS} steps are walked")
        way = self._factor(depth)
        if way.kind.real and self._at("+", "-", "&"):
            raise ExpressionError(REAL_ENDS.format("a value"))
        while self._at("+", "-"):
            sign = -1 if self._next("sign") == "-" else 1
            number = sign * int(self._next("number"), 0)
            way = replace(way, steps=(*way.steps, Step(number)))
        if self._at("&"):
            self._next("sign")
            mask = int(self._next("number"), 0)
            if not 0 < mask < 1 << 32:
                raise ExpressionError(f"& {mask} keeps no bit, or more than 32")
            way = replace(way, steps=(*way.steps, Step(mask=mask)))
        return way

    def _factor(self, depth: int) -> Way:
        if self._at("*("):
            self._next("load")
            way = self._sum(depth + 1)
            if way.kind.real:
                raise ExpressionError(REAL_ENDS.format("a value"))
            self._next(")")
            self._next(":")
            name = self._next("name")
            if name not in TYPES:
                raise ExpressionError(f"{name[:20]!r} is no type; types are {', '.join(TYPES)}")
            size, signed = TYPES[name]
            kind = Kind(size, False, "float" if size == 4 else "double", "", True) if name in REALS else way.kind
            return replace(way, steps=(*way.steps, Step(0, size, signed)), kind=kind)
        way = self._primary(depth)
        while self._at(".", "->"):
            self._next("sign")
            if not way.owner and not way.members:
                if way.steps or not (way.arguments or way.symbol or way.base == RETURN):
                    raise ExpressionError("a member needs its struct: this.NAME or cast(STRUCT, X).NAME")
                way = replace(way, owner=DECLARED)
            way = replace(way, steps=(*way.steps, Step(member=self._next("name"))))
        return way

    def _primary(self, depth: int) -> Way:
        if self._tokens and self._tokens[0][0] == "number":
            number = int(self._next("number"), 0)
            if number >= 1 << 64:
                raise ExpressionError(f"{number} does not fit into 64 bits")
            return Way(NUMBER, number)
        name = self._next("name")
        if re.fullmatch("arg[1-6]", name):
            return Way(int(name[3:]))
        if re.fullmatch(r"arg\d+", name):
            raise ExpressionError(
                f"{name[:20]!r} is no value; values are arg1 … arg6, ret, this, tid, global(SYMBOL), numbers, names"
            )
        if name == "this":
            return Way(ARGUMENT, owner="this")
        if name in ("ret", "tid"):
            return Way(RETURN if name == "ret" else THREAD)
        if name == "global":
            self._next("(")
            symbol = self._next("name")
            self._next(")")
            return Way(NUMBER, symbol=symbol)
        if name == "getter":
            self._next("(")
            symbol = self._next("name")
            self._next(",")
            way = self._sum(depth + 1)
            self._next(")")
            if way.members:
                raise ExpressionError("the member of a member cannot be told by a function: name its address")
            return replace(way, owner="", steps=(*way.steps, Step(getter=symbol)))
        if name == "cast":
            self._next("(")
            owner = self._next("name")
            self._next(",")
            way = self._sum(depth + 1)
            self._next(")")
            if way.members:
                raise ExpressionError("the members of a member are named one after the other: this.a.b")
            return replace(way, owner=owner)
        return Way(NAMED, symbol=name, owner=DECLARED)
