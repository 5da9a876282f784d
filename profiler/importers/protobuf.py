"""Protobuf's wire format, as far as a trace needs it: the fields of a message, one after the other.

Sixty lines, and bounded; `perfetto` on PyPI brings generated classes of the whole schema and the protobuf runtime, and
decodes a file as one message. Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10  # bytes

Value = int | bytes


class WireError(ValueError):
    """Bytes that are no protobuf message."""


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of every field: an int for varints (not zigzag) and fixed ones, bytes for the others.

    Raises WireError.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has no number")
        if kind == VARINT:
            value, at = varint(message, at)
            yield number, value
        elif kind == BYTES:
            size, at = varint(message, at)
            if size > end - at:
                raise WireError("a field is longer than its message")
            yield number, message[at : at + size]
            at += size
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
            if size > end - at:
                raise WireError("a field is longer than its message")
            yield number, int.from_bytes(message[at : at + size], "little")
            at += size
        else:
            raise WireError(f"wire type {kind} is not in use")


def chosen(message: bytes, *numbers: int) -> dict[int, Value]:
    """The last value of each of these fields; those that are absent are absent. Raises WireError."""
    return {number: value for number, value in fields(message) if number in numbers}


def varint(message: bytes, at: int) -> tuple[int, int]:
    """An unsigned number and where it ends. Raises WireError."""
    value = shift = 0
    for place in range(at, min(at + MAX_VARINT, len(message))):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
        shift += 7
    raise WireError("a number does not end")


def signed(value: int) -> int:
    """A varint as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def double(value: int) -> float:
    """A fixed64 as a double."""
    return float(struct.unpack("<d", value.to_bytes(8, "little"))[0])


def text(value: Value) -> str:
    """A string; "" for what is none."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
