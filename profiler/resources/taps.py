"""Taps: an event of a manifest at one function of one target, for the kernel side (struct tap of resources.bpf.c)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from flowprof.profiler.binaries.declarations import member_names
from flowprof.profiler.binaries.dwarf import Member, struct_member
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.binaries.module_elf import load_bias
from flowprof.profiler.resources.declared import declared, described, find_object
from flowprof.profiler.resources.expression import (
    COMPARISONS,
    DECLARED,
    MAX_CONDITIONS,
    NAMED,
    RETURN,
    WAY_BYTES,
    Condition,
    ExpressionError,
    Step,
    Way,
    parse,
    parse_conditions,
    place_members,
)
from flowprof.profiler.resources.getter import getter_step
from flowprof.profiler.resources.manifest import ALL, MAX_VARIABLES, Event, Manifest, Resource, Variable
from flowprof.profiler.target import Module

WAYS = ("instance", "unit", "units", "task", "holder")  # behind the conditions', before the variables'
VARIABLE = "variable "  # so the id of its probe begins
SAMPLE = "sample"  # an event of no resource: only variables are read
_HEAD = struct.Struct("<HBBBBBBI4xqq")  # struct tap
_ABSENT = struct.pack("<QBB6x", 0, 255, 0).ljust(WAY_BYTES, b"\0")
TAP_BYTES = _HEAD.size + (MAX_CONDITIONS + len(WAYS) + MAX_VARIABLES) * WAY_BYTES


@dataclass(frozen=True, slots=True)
class Tap:
    """What to report when a function is entered or left."""

    manifest: str
    resource: str
    event: str
    at_return: bool
    pid: int  # of system calls: whose; 0: a function's, whose probe sees no other process
    stack: bool
    every_instance: bool  # a release of all that the thread or the task has
    ways: tuple[Way | None, ...]  # as WAYS
    conditions: tuple[Condition, ...]  # all must hold; what is returned is looked at last
    variables: tuple[tuple[str, str, Way], ...]  # name, expression, way
    function: str = ""  # where a sample is taken, demangled and without arguments
    gives_up: bool = False  # an acquire whose condition, where it fails, ends the wait of the same call in vain

    @property
    def id(self) -> str:
        """For people: slot.acquire."""
        if self.event == SAMPLE:
            return VARIABLE + ", ".join(name for name, _, _ in self.variables)
        return f"{self.resource}.{self.event}"

    @property
    def arguments(self) -> int:
        """How many argument registers are read."""
        return max((way.arguments for way in self._all()), default=0)

    @property
    def reads_return(self) -> bool:
        """Whether it reads what the function returns."""
        return any(way.base == RETURN for way in self._all())

    @property
    def needs_entry(self) -> bool:
        """Whether, at the return, something is needed that is there only at the entry: arguments, the caller."""
        return self.at_return and (self.arguments > 0 or self.stack)

    @property
    def may_give_up(self) -> bool:
        """Whether what the function returns says that it has not got what it was called for, and not of what."""
        returned = [way is not None and way.base == RETURN for way in self.ways]
        about = returned[WAYS.index("instance")] or returned[WAYS.index("task")]
        return self.event == "acquire" and self._by_return() and not about

    def packed(self, following: int) -> bytes:
        """struct tap; following: the number of the next tap at the same site, plus 1 (0: none)."""
        missing = (None,) * (MAX_CONDITIONS - len(self.conditions))
        conditions = (*missing, *self.conditions) if self._by_return() else (*self.conditions, *missing)
        signs = [COMPARISONS.index(one.comparison) + 1 if one else 0 for one in conditions]
        head = _HEAD.pack(
            following, self.stack, *signs, len(self.variables), self.event == SAMPLE, self.gives_up, self.pid,
            *(one.number if one else 0 for one in conditions),
        )  # fmt: skip
        ways = [*(one.way if one else None for one in conditions), *self.ways, *(way for _, _, way in self.variables)]
        packed = head + b"".join(_ABSENT if way is None else way.packed() for way in ways)
        return packed + _ABSENT * ((TAP_BYTES - len(packed)) // WAY_BYTES)

    def _all(self) -> Iterator[Way]:
        yield from (way for way in self.ways if way is not None)
        yield from (one.way for one in self.conditions)
        yield from (way for _, _, way in self.variables)

    def _by_return(self) -> bool:
        """Whether what the function returns decides, behind all that can be known before."""
        return bool(self.conditions) and self.conditions[-1].way.base == RETURN


def make_tap(
    manifest: Manifest,
    resource: Resource,
    event: Event,
    pid: int = 0,
    module: Module | None = None,
    elf: ElfFile | None = None,
    function: str = "",
    symbol: str = "",
) -> Tap:
    """An event's expressions in one target: at a function (its name, demangled, and its symbol), or at a system call of
    process `pid`.

    Raises ExpressionError, which names the field.
    """
    owner = class_of(function)

    def read(field: str, way: Callable[[], Way]) -> Way:
        try:
            given = way()
            named = given.owner == DECLARED or field.startswith("variables")  # else its type makes no difference
            found = place_way(given, owner, module, elf, symbol if named else "")
            if found.base == RETURN and event.at == "entry":
                raise ExpressionError("there is no ret at the entry")
            if found.kind.real and not field.startswith("variables"):
                raise ExpressionError("a floating-point number; only variables may be one")
        except ExpressionError as error:
            raise ExpressionError(f"{field}: {error}") from error
        return found

    texts = [(field, getattr(event, field)) for field in WAYS]
    ways = tuple(read(field, partial(parse, text)) if text and text != ALL else None for field, text in texts)
    try:
        given = parse_conditions(event.when) if event.when else ()
    except ExpressionError as error:
        raise ExpressionError(f"when: {error}") from error
    conditions = [replace(one, way=read("when", partial(getattr, one, "way"))) for one in given]
    conditions.sort(key=lambda one: one.way.base == RETURN)
    variables = tuple((name, text, read(f"variables.{name}", partial(parse, text))) for name, text in event.variables)
    return Tap(
        manifest.name, resource.name, event.event, event.at == "return", pid, event.stack, event.instance == ALL, ways,
        tuple(conditions), variables,
    )  # fmt: skip


def make_sample(
    manifest: Manifest, variable: Variable, module: Module, elf: ElfFile, function: str, symbol: str
) -> Tap:
    """A variable that is read when a function (its name, demangled, and its symbol) is entered or left.

    Raises ExpressionError.
    """
    way = place_way(parse(variable.expression), class_of(function), module, elf, symbol)
    if way.base == RETURN and variable.at == "entry":
        raise ExpressionError("there is no ret at the entry")
    said = ((variable.name, variable.expression, way),)
    nothing = (None,) * len(WAYS)
    return Tap(manifest.name, "", SAMPLE, variable.at == "return", 0, False, False, nothing, (), said, plain(function))


def place_way(way: Way, owner: str, module: Module | None, elf: ElfFile | None, function: str = "") -> Way:
    """A way with its members' places and its symbol's address in one process. function: whose arguments it may name, by
    its symbol. Raises ExpressionError."""
    if elf is not None:
        way = declared(way, elf, function)
    elif way.base == NAMED:
        raise ExpressionError(f"{way.symbol[:40]!r} is no value; a system call has arg1 … arg6, ret, tid, numbers")
    way = replace(way, steps=tuple(_got(elf, step) for step in way.steps))
    return _placed(place_members(way, owner, lambda struct_name, name: _member(elf, struct_name, name)), elf, module)


def _got(elf: ElfFile | None, step: Step) -> Step:
    if not step.getter:
        return step
    if elf is None:
        raise ExpressionError(f"a system call knows no function {step.getter[:40]}")
    return getter_step(elf, step.getter)


def plain(function: str) -> str:
    """`server_queue::post(int)` → `server_queue::post`."""
    return re.sub(r"\(.*", "", function)


def class_of(function: str) -> str:
    """`server_queue::post(int)` → `server_queue`; "" for what is no method."""
    return plain(function).rpartition("::")[0]


def _member(elf: ElfFile | None, struct_name: str, name: str) -> Member | None:
    if elf is None:
        return None
    for path in described(elf):
        found = struct_member(path, struct_name, name)
        if found is not None:
            return found
        if there := member_names(path, struct_name):
            said = f"no member {name} of {struct_name} in the debug information; it has {', '.join(there)}"
            raise ExpressionError(said)
    return None


def _placed(way: Way, elf: ElfFile | None, module: Module | None) -> Way:
    if not way.symbol:
        return way
    if elf is None or module is None:
        raise ExpressionError(f"a system call knows no symbol {way.symbol}")
    symbol = find_object(elf, way.symbol)
    if symbol is None:
        raise ExpressionError(f"there is no symbol {way.symbol}")
    bias = load_bias(elf, module)
    if bias is None:
        raise ExpressionError("where the file lies in memory is not known")
    return replace(way, value=way.value + symbol.address + bias, symbol="")
