"""One call of a torch operator: its arguments as a recording has them, what it costs, and what formulas ask of both.

`each`, `same`, `tensor` and `broadcast` raise ValueError where an argument is not what a formula needs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_ELEMENTS = 1 << 50
MAX_LIST = 1024  # tensors
_SIZES = {
    "float": 4, "double": 8, "c10::half": 2, "c10::bfloat16": 2, "half": 2, "bfloat16": 2, "int": 4, "long int": 8,
    "long": 8, "short": 2, "signed char": 1, "unsigned char": 1, "char": 1, "bool": 1, "c10::float8_e4m3fn": 1,
    "c10::float8_e5m2": 1, "c10::float8_e4m3fnuz": 1, "c10::float8_e5m2fnuz": 1,
}  # fmt: skip
_PATHS = {"float": "f32", "c10::half": "f16", "half": "f16", "c10::bfloat16": "bf16", "bfloat16": "bf16",
          "signed char": "int8", "char": "int8", "c10::float8_e4m3fn": "f8", "c10::float8_e5m2": "f8",
          "c10::float8_e4m3fnuz": "f8", "c10::float8_e5m2fnuz": "f8"}  # fmt: skip

_LIST_OF = re.compile(r"TensorList(?:\(([\w: ]{1,40})\))?")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """path: the data type of the products, as ceilings name it (f32, f16, bf16, int8, f8); "" where there are none.

    weight_bytes: of size_bytes, those that do not shrink with the batch: the matrix of a product with whatever."""

    flops: int
    size_bytes: int
    path: str
    kind: str  # gemm, attention, convolution, elementwise, copy
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Arg:
    """shape () of what is no tensor, or a list of tensors; shapes: of a list's tensors, which have one type.

    transposed: its rows are far apart in memory and its columns lie together, where the strides are known.
    """

    shape: Shape
    type: str
    scalar: str = ""
    shapes: tuple[Shape, ...] = ()
    transposed: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def item(self) -> int:
        """Bytes of an element; raises KeyError for types that are not known."""
        return _SIZES[self.type.casefold()]

    @property
    def tensor(self) -> bool:
        return bool(self.shape)

    @property
    def size_bytes(self) -> int:
        """0 of what is no tensor; raises KeyError for types that are not known."""
        return self.elements * self.item if self.tensor else 0

    @property
    def path(self) -> str:
        return _PATHS.get(self.type.casefold(), "")


def arguments(dims: str | None, types: str | None, scalars: str | None, strides: str | None = None) -> tuple[Arg, ...]:
    """A row of api_args; empty when its JSON is none or not what it should be."""
    shapes, kinds, values, steps = _list(dims), _list(types), _list(scalars), _list(strides)
    found = []
    for place, shape in enumerate(shapes):
        kind = kinds[place] if place < len(kinds) and isinstance(kinds[place], str) else ""
        value = values[place] if place < len(values) and isinstance(values[place], str) else ""
        several = _LIST_OF.fullmatch(kind)
        if several is None:
            step = steps[place] if place < len(steps) else None
            found.append(Arg(_shape(shape), kind, value, transposed=_transposed(_shape(shape), step)))
        else:
            inside = shape if isinstance(shape, list) and len(shape) <= MAX_LIST else []
            found.append(Arg((), several[1] or "", value, tuple(_shape(one) for one in inside)))
    return tuple(found)


def _transposed(shape: Shape, strides: Any) -> bool:
    if not isinstance(strides, list) or len(strides) != len(shape) or len(shape) < 2 or min(shape[-2:]) < 2:
        return False
    return bool(strides[-2] == 1 != strides[-1])


def shown(name: str, args: Sequence[Arg]) -> str:
    """Shapes and type in a word: "8944x1024 · 1024x2816.T bf16"; .T: transposed in memory."""
    tensors = [(shape, arg) for arg in args for shape in (arg.shapes or (arg.shape,)) if shape][:3]
    shapes = " · ".join("x".join(map(str, shape)) + ".T" * arg.transposed for shape, arg in tensors)
    kind = next((arg.type for _, arg in tensors), "")
    return f"{shapes} {_PATHS.get(kind.casefold(), kind)}".strip()


def each(text: str, count: int) -> tuple[int, ...]:
    """ "[1, 2]" as numbers, one for each of `count` dimensions."""
    found = _shape(_list(text))
    if not found:
        raise ValueError("not recorded")
    return found * count if len(found) == 1 else found


def same(one: int, other: int) -> None:
    if one != other:
        raise ValueError("dimensions differ that must not")


def tensor(arg: Arg) -> Arg:
    if not arg.tensor:
        raise ValueError("no tensor")
    return arg


def has_size(arg: Arg) -> bool:
    return arg.type.casefold() in _SIZES


def broadcast(left: Shape, right: Shape) -> Shape:
    longest = max(len(left), len(right))
    pairs = zip((1,) * (longest - len(left)) + left, (1,) * (longest - len(right)) + right, strict=True)
    found = []
    for one, other in pairs:
        if one != other and 1 not in (one, other):
            raise ValueError("the shapes do not broadcast")
        found.append(other if one == 1 else one)
    return tuple(found)


def _shape(value: Any) -> Shape:
    """A list of plain numbers within limits; () for anything else."""
    if not isinstance(value, list) or len(value) > 64:
        return ()
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < MAX_ELEMENTS for one in value):
        return ()
    return tuple(value) if math.prod(value) < MAX_ELEMENTS else ()


def _list(text: str | None) -> list[Any]:
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []
