"""A Perfetto file as its packets, one after the other: Trace.packet, length-delimited, within limits."""

from __future__ import annotations

from collections.abc import Iterator

from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.protobuf import MAX_VARINT, WireError, fields, varint
from flowprof.profiler.importers.source import Source

CHUNK = 1 << 20
MAX_PACKET = 16 << 20
_PACKET = 0x0A  # Trace.packet, length-delimited


def detect(head: bytes) -> bool:
    """A first packet with fields that packets have."""
    if head[:1] != bytes((_PACKET,)):
        return False
    numbers = []
    try:
        size, at = varint(head, 1)
        if not 0 < size <= MAX_PACKET:
            return False
        whole = at + size <= len(head)
    except WireError:
        return False
    try:
        for number, _ in fields(head[at : at + size]):
            numbers.append(number)
    except WireError:
        if whole:
            return False
    return bool(numbers) and all(number < 1 << 16 for number in numbers)


def packets(source: Source) -> Iterator[bytes]:
    """Every TracePacket's bytes. Raises WireError, and RecordingError for a file that ends within one."""
    buffer = b""
    while part := source.read(CHUNK):
        buffer += part
        at = 0
        while True:
            whole = _whole(buffer, at)
            if whole is None:
                break
            start, at = whole
            yield buffer[start:at]
        buffer = buffer[at:]
    if buffer:
        raise RecordingError(f"{source.path} is truncated: its last packet does not end", "copy it again")


def _whole(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the packet at `at` begins and ends; None while it is not whole."""
    if at >= len(buffer):
        return None
    if buffer[at] != _PACKET:
        raise WireError("something else than a packet where one must be")
    try:
        size, start = varint(buffer, at + 1)
    except WireError:
        if len(buffer) - at > MAX_VARINT:
            raise
        return None
    if size > MAX_PACKET:
        raise WireError(f"a packet of more than {MAX_PACKET >> 20} MB")
    return (start, start + size) if start + size <= len(buffer) else None
