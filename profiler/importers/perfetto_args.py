"""Debug annotations of Perfetto's track events, and what of them are Kineto's args."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from flowprof.profiler.importers.kineto_event import Args
from flowprof.profiler.importers.protobuf import double, fields, signed, text

MAX_NESTING = 16
_NUMBERS = frozenset(("External id", "external id", "correlation", "device", "stream", "bytes", "graph node id"))
_LISTS = frozenset(("Input Dims", "Input type", "Concrete Inputs", "grid", "block"))


def annotation(data: Any, keys: Mapping[int, str], values: Mapping[int, str], deep: int = 0) -> tuple[str, Any]:
    """A DebugAnnotation's name and value. keys, values: its sequence's interned texts. Raises WireError."""
    key = ""
    found: Any = None
    members: dict[str, Any] = {}
    items: list[Any] = []
    if deep > MAX_NESTING or not isinstance(data, bytes):
        return "", None
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            key = keys.get(value, "")
        elif number == 10:
            key = text(value)
        elif number == 2 and isinstance(value, int):
            found = bool(value)
        elif number == 3 or number == 7:
            found = value
        elif number == 4 and isinstance(value, int):
            found = signed(value)
        elif number == 5 and isinstance(value, int):
            found = double(value & 0xFFFFFFFFFFFFFFFF)
        elif number == 6:
            found = text(value)
        elif number == 17 and isinstance(value, int):
            found = values.get(value, "")
        elif number == 11:
            name, one = annotation(value, keys, values, deep + 1)
            members[name] = one
        elif number == 12:
            items.append(annotation(value, keys, values, deep + 1)[1])
    return key, members or items or found


def kineto_args(found: dict[str, Any]) -> Args | None:
    """Annotations as Kineto's args; lists may have been written as JSON texts."""
    nested = found.get("args")
    if isinstance(nested, dict):
        found = nested
    plain = {}
    for key, value in found.items():
        if key in _NUMBERS and isinstance(value, str) and value.lstrip("-").isdigit() and len(value) < 19:
            value = int(value)
        elif key in _LISTS and isinstance(value, str):
            value = _json(value)
        plain[key] = value
    try:
        return msgspec.json.decode(json.dumps(plain), type=Args)
    except (msgspec.DecodeError, ValueError):
        return None


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
