"""What torch's operators take: their schemas, texts in libtorch_cpu.so, and where each argument is passed.

A schema reads `addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor`. With the C++
types that torch's code generator gives each of its types, and the System V calling convention for x86-64, it says in
which register, or where on the stack, an argument of `at::_ops::NAME::call` is: whatever is no plain number is passed
by reference; lists by value are a pointer and a length; what is returned by value and is no plain number is written
where a hidden first argument says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flowprof.profiler.binaries.elf import ElfFile

MAX_SCHEMA = 4096  # characters
MAX_SCHEMAS = 20_000
MAX_ENDINGS = 200
MAX_ARGS = 8  # arguments of a call that are read, each tensor of a list counted
REGISTERS = 6  # for whole numbers and pointers
STACK_WORDS = 32
TENSOR, MAYBE_TENSOR, TENSORS, NUMBER, NUMBERS, FLAG, TENSORS_AT, OLD_MAYBE_TENSOR = range(1, 9)  # as in torch.bpf.c

_SCHEMA = re.compile(
    rb"(?<![^\0])(?P<name>[A-Za-z_]\w{0,200})(?:\.(?P<overload>\w{1,200}))?\((?P<rest>[^\0]{0,%d})(?=\0)" % MAX_SCHEMA
)
_BY_REFERENCE = frozenset(("Tensor", "Tensor?", "Scalar", "Scalar?", "SymInt", "SymInt?", "Generator", "Generator?",
                           "Tensor?[]", "Storage"))  # fmt: skip
_IN_ONE = frozenset(("int", "bool", "bool?", "ScalarType", "ScalarType?", "Layout", "Layout?", "Device", "Device?",
                     "MemoryFormat", "MemoryFormat?", "bools"))  # fmt: skip
_HALVES = "float?"  # the number itself goes where floats go, whether there is one here; both on the stack if need be
_IN_TWO = frozenset(("int?", "str", "Tensor[]", "int[]", "SymInt[]", "bool[]", "float[]", "Scalar[]"))
_ON_STACK = {"int[]?": 3, "SymInt[]?": 3, "float[]?": 3, "str?": 3}  # words
_OLD_IN_TWO = frozenset(("int[]?", "SymInt[]?", "float[]?"))
_OLD_OPTIONAL = re.compile(r"(?<!St)8optionalI")  # c10::optional, not std::optional
_KINDS = {
    "Tensor": TENSOR, "Tensor?": MAYBE_TENSOR, "Tensor[]": TENSORS, "int": NUMBER, "bool": FLAG, "int[]": NUMBERS,
    "SymInt[]": NUMBERS,
}  # fmt: skip
_FIRST = {
    TENSOR: 0, MAYBE_TENSOR: 0, OLD_MAYBE_TENSOR: 0, NUMBERS: 1, FLAG: 2, NUMBER: 2, TENSORS: 3, TENSORS_AT: 3
}  # fmt: skip
_NOT_IN_MEMORY = frozenset(("bool", "int", "float", "ScalarType", "QScheme", "()"))


@dataclass(frozen=True, slots=True)
class Place:
    """An argument that is read. where, length: 0 … 5 a register, 6 … a word on the stack behind the return address."""

    kind: int
    where: int
    length: int  # of lists, else 0
    index: int  # in the schema


@dataclass(frozen=True, slots=True)
class Schema:
    """An operator. args: its arguments' types, without names and defaults; result: as it stands."""

    name: str
    overload: str
    args: tuple[str, ...]
    result: str

    def places(self, symbol: str, old_optional: bool = False) -> tuple[Place, ...]:
        """The arguments to read, tensors first, at most MAX_ARGS; () where the schema has a type that is not known.

        Lists of tensors are last: the room that is left is for their tensors. symbol: the mangled one, for it alone
        tells a list from a reference to one (c10::IListRef, which may hold a list in other ways, too). old_optional:
        see `has_old_optional`.
        """
        found = _passed(self, "IListRef" in symbol, old_optional)
        if found is None:
            return ()
        return tuple(sorted(found, key=lambda place: (_FIRST[place.kind], place.index))[:MAX_ARGS])


def has_old_optional(symbols: Iterable[str]) -> bool:
    """Whether this torch has an optional of its own, as old ones (1.13, say): it says first whether there is a value,
    and one of a list takes two words."""
    return any(_OLD_OPTIONAL.search(symbol) for symbol in symbols)


def read_schemas(elf: ElfFile, wanted: Iterable[str] = ()) -> dict[str, Schema]:
    """Schemas by the name of their struct in at::_ops: the operator's, and its overload's behind a `_`.

    Linkers may keep a text that ends another one within that (addmm's in sspaddmm's): those that are `wanted` are
    looked for there, too, and taken where all that end so agree.
    """
    section = elf.section(".rodata")
    if section is None:
        return {}
    found: dict[str, Schema] = {}
    for match in _SCHEMA.finditer(elf.section_bytes(section)):
        text = {key: (value or b"").decode("ascii", "replace") for key, value in match.groupdict().items()}
        args, arrow, result = text["rest"].rpartition(") -> ")
        if not arrow:
            continue  # another text with a bracket
        key = f"{text['name']}_{text['overload']}" if text["overload"] else text["name"]
        schema = Schema(text["name"], text["overload"], tuple(_types(args)), result)
        found.setdefault(key, schema)
        if len(found) >= MAX_SCHEMAS:
            break
    missing = [name for name in wanted if name not in found]
    endings = {name: _ending(name, found) for name in missing[:MAX_ENDINGS]}
    return found | {name: schema for name, schema in endings.items() if schema is not None}


def _ending(wanted: str, found: Mapping[str, Schema]) -> Schema | None:
    ends: dict[tuple[tuple[str, ...], bool], Schema] = {}
    for key, schema in found.items():
        name = schema.name[len(key) - len(wanted) :]
        if key.endswith(wanted) and name and len(key) - len(wanted) < len(schema.name):
            same = schema.args, _returned_in_memory(schema.result)  # as far as it matters how they are passed
            ends[same] = Schema(name, schema.overload, schema.args, schema.result)
    return next(iter(ends.values())) if len(ends) == 1 else None


def struct_name(symbol: str) -> str | None:
    """`addmm_out` of the mangled at::_ops::addmm_out::call; None for any other symbol."""
    match = re.match(r"_ZN2at4_ops(\d{1,3})", symbol)
    if match is None:
        return None
    name = symbol[match.end() : match.end() + int(match[1])]
    return name if symbol[match.end() + len(name) :].startswith("4call") else None


def operator_name(symbol: str, schemas: Mapping[str, Schema]) -> str:
    """The operator as torch's own profiler calls it: aten::addmm; c10d::allreduce for a process group's method.

    c10d::wait for a wait of any sort of its work.
    """
    name = struct_name(symbol)
    if name is None:
        method = re.match(r"_ZN4c10d(?:4Work|\d+ProcessGroup[A-Z][A-Za-z]*?(?:\d+(?:Send|Recv)Work)?)(\d+)", symbol)
        return f"c10d::{symbol[method.end() :][: int(method[1])]}" if method else symbol
    schema = schemas.get(name)
    return f"aten::{schema.name if schema else name}"


def _types(args: str) -> Iterator[str]:
    depth, begun = 0, 0
    for at, char in enumerate(f"{args},"):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            words = args[begun:at].partition("=")[0].split()
            begun = at + 1
            if words and words[0] != "*":
                kind = re.sub(r"\([^)]*\)", "", " ".join(words[: len(words) - 1] or words))
                yield "bools" if re.fullmatch(r"bool\[\d+\]", kind) else re.sub(r"\[\d+\]", "[]", kind)


def _passed(schema: Schema, list_reference: bool, old_optional: bool) -> list[Place] | None:
    register = int(_returned_in_memory(schema.result))
    stack, found = REGISTERS, []
    for index, kind in enumerate(schema.args):
        if kind in ("float", "complex"):  # in a register of their own sort
            continue
        if kind in _IN_ONE or kind in _BY_REFERENCE or (kind == "Tensor[]" and list_reference):
            words = 1
        elif kind in _IN_TWO or (old_optional and kind in _OLD_IN_TWO):
            words = 2
        elif kind in _ON_STACK:
            stack += _ON_STACK[kind]
            continue
        elif kind == _HALVES:
            if register < REGISTERS:
                register += 1
            else:
                stack += 2
            continue
        else:
            return None
        if register + words <= REGISTERS:
            at, register = register, register + words
        else:
            at, stack = stack, stack + words
        if kind == "Tensor[]" and list_reference:
            found.append(Place(TENSORS_AT, at, 0, index))
        elif kind in _KINDS and (words == 2) == kind.endswith("[]") and at + words <= REGISTERS + STACK_WORDS:
            read = OLD_MAYBE_TENSOR if old_optional and kind == "Tensor?" else _KINDS[kind]
            found.append(Place(read, at, at + 1 if words == 2 else 0, index))
    return found


def _returned_in_memory(result: str) -> bool:
    """Whether a hidden first argument says where the result goes: for objects, not for references and numbers."""
    alias = re.fullmatch(r"Tensor\([a-z|]+!\)", result)
    return not alias and result not in _NOT_IN_MEMORY
