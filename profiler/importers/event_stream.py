"""A Chrome JSON trace, batch by batch: memory holds some megabytes of it, however long it is.

The file is an object with a list `traceEvents` among other keys, or that list alone (whose closing bracket the format
allows to be missing). A batch is cut where an event seems to end; when the pieces are not whole values after all (the
cut fell into a text or a nested object), the brackets outside of texts are counted, in numpy, and the cut is exact.
Numbers may be quoted. Events that cannot be decoded are counted in `malformed`; bare NaN and Infinity, which some
writers leave, are read as null. A value of more than MAX_VALUE bytes is refused, and so is as much space between keys.

msgspec's typed decoder reads 1.0 M events/s of such a file; orjson makes 0.34 M/s into dicts, ijson's C backend 0.14
M/s (measured on 163 MB of repeated events of a real H100 trace, on 2 × AMD EPYC).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.source import Source

CHUNK = 4 << 20
TAIL = 64 << 10  # bytes in which the last event is looked for
MAX_VALUE = 64 << 20
MAX_FACTS = 1000  # keys beside the events
MAX_FACT = 4 << 20  # bytes of those that are kept, together

_BETWEEN = re.compile(rb'\}\s*,\s*(?=\{\s*")')
_KEY = re.compile(rb'"((?:[^"\\]|\\.){0,1000})"\s*:\s*', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\]}]{1,400}(?=[\s,\]}])")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)  # possessive: no state is kept for each character
_NO_NUMBER = re.compile(rb"(?<=[:,\[])(\s*)-?(?:NaN|nan|Infinity|inf)(?=\s*[,}\]])")
_MARK = np.zeros(256, np.bool_)
_MARK[list(b'"{}[]')] = True
_STEP = np.zeros(256, np.int8)
_STEP[list(b"{[")], _STEP[list(b"}]")] = 1, -1
_SPACE = b" \t\r\n"

T = TypeVar("T")


class EventStream(Generic[T]):
    """`for events in stream:` gives lists of `kind`, a msgspec.Struct; then `facts` holds the file's other keys."""

    def __init__(self, source: Source, kind: type[T]) -> None:
        self.facts: dict[str, Any] = {}
        self.malformed = 0
        self._fact_bytes = 0
        self._source = source
        self._many = msgspec.json.Decoder(list[kind], strict=False)  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(kind, strict=False)
        self._buffer = b""
        self._ended = False  # nothing more to read

    def __iter__(self) -> Iterator[list[T]]:
        """Raises RecordingError: no such file, truncated, values too large."""
        self._more()
        self._drop(len(self._buffer) - len(self._buffer.lstrip(b"\xef\xbb\xbf" + _SPACE)))
        if self._buffer[:1] == b"[":
            self._drop(1)
            yield from self._batches(alone=True)
            return
        self._drop(1)
        while (key := self._key()) is not None:
            if key == "traceEvents" and self._buffer[:1] == b"[":
                self._drop(1)
                yield from self._batches(alone=False)
            else:
                self._fact(key)

    # ------------------------------------------------------------------ events

    def _batches(self, alone: bool) -> Iterator[list[T]]:
        while True:
            cut = self._likely_end()
            if cut is not None:
                try:
                    events = self._many.decode(b"".join((b"[", memoryview(self._buffer)[: cut.start() + 1], b"]")))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    pass
                else:
                    self._drop(cut.end())
                    yield events
                    self._more()
                    continue
            events, done = self._exact()
            if events:
                yield events
            if done:
                return
            if self._ended:
                if alone and not self._buffer.strip(_SPACE + b","):
                    return
                raise self._truncated()
            if len(self._buffer) > MAX_VALUE:
                raise RecordingError(
                    f"{self._source.path} holds an event of more than {MAX_VALUE >> 20} MB", "such a trace is damaged"
                )
            self._more()

    def _likely_end(self) -> re.Match[bytes] | None:
        """Where the last whole event of the buffer seems to end."""
        found = list(_BETWEEN.finditer(self._buffer, max(0, len(self._buffer) - TAIL)))
        return found[-1] if found else None

    def _exact(self) -> tuple[list[T], bool]:
        """The whole events of the buffer, which are taken from it, and whether the list ends in it."""
        at, depth, step = _brackets(self._buffer)
        last = np.flatnonzero(depth == -1)[:1]
        if len(last):
            limit = int(last[0])
            at, depth, step = at[:limit], depth[:limit], step[:limit]
        ends = at[(depth == 0) & (step < 0)] + 1
        starts = at[(depth == 1) & (step > 0)]
        end = int(ends[-1]) if len(ends) else 0
        body = self._buffer[:end].lstrip(_SPACE + b",")
        try:
            events = self._many.decode(b"[" + body + b"]") if body else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            whole = (self._buffer[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=False))
            events = [event for event in map(self._single, whole) if event is not None]
        if len(last):
            closing = np.flatnonzero(np.frombuffer(self._buffer, np.uint8, offset=end) == ord("]"))
            self._drop(end + int(closing[0]) + 1 if len(closing) else end)
            return events, True
        self._drop(end)
        return events, False

    def _single(self, text: bytes) -> T | None:
        for attempt in (text, _NO_NUMBER.sub(rb"\1null", text).decode("utf-8", "replace")):
            try:
                return self._one.decode(attempt)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
        self.malformed += 1
        return None

    # ------------------------------------------------------------------ what stands beside the events

    def _key(self) -> str | None:
        """The next key, up to its value; None at the object's end."""
        space = 0
        while True:
            rest = self._buffer.lstrip(_SPACE + b",")
            space += len(self._buffer) - len(rest)
            if space > MAX_VALUE:
                raise RecordingError(
                    f"{self._source.path} holds more than {MAX_VALUE >> 20} MB of space", "such a trace is damaged"
                )
            self._buffer = rest
            found = _KEY.match(rest)
            if found and found.end() < len(rest):
                self._drop(found.end())
                return found[1].decode("utf-8", "replace")
            if rest[:1] == b"}":
                return None
            if rest and rest[:1] != b'"':
                raise RecordingError(f"{self._source.path} is damaged: no key where one must be", "copy it again")
            if self._ended or len(rest) > 2000:
                raise self._truncated()
            self._more()

    def _fact(self, key: str) -> None:
        """A value of no events: kept where it can be decoded."""
        while (end := self._value_end()) is None:
            if self._ended:
                raise self._truncated()
            if len(self._buffer) > MAX_VALUE:
                raise RecordingError(f"{self._source.path} holds a value of more than {MAX_VALUE >> 20} MB")
            self._more()
        if len(self.facts) < MAX_FACTS and self._fact_bytes + end < MAX_FACT:
            self._fact_bytes += end
            try:
                self.facts[key] = msgspec.json.decode(self._buffer[:end])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.facts[key] = None
        self._drop(end)

    def _value_end(self) -> int | None:
        if self._buffer[:1] == b'"':
            found = _STRING.match(self._buffer)
            return found.end() if found else None
        if self._buffer[:1] in (b"{", b"["):
            at, depth, _ = _brackets(self._buffer)
            closed = np.flatnonzero(depth == 0)
            return int(at[closed[0]]) + 1 if len(closed) else None
        found = _SCALAR.match(self._buffer)
        return found.end() if found else None

    # ------------------------------------------------------------------ the buffer

    def _more(self) -> None:
        """At least as much again as there is, so that a long value is not looked at too often."""
        part = self._source.read(max(CHUNK, min(len(self._buffer), MAX_VALUE - len(self._buffer))))
        self._ended = not part
        self._buffer = self._buffer + part if self._buffer else part

    def _drop(self, size: int) -> None:
        self._buffer = self._buffer[size:]

    def _truncated(self) -> RecordingError:
        return RecordingError(f"{self._source.path} is truncated: its JSON does not end", "copy it again")


def _brackets(text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the brackets outside of texts, the depth after each, and +1 or -1; `text` begins outside of one."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    codes = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(_MARK[codes]).astype(np.int32)  # small numbers: there may be as many brackets as bytes
    found = codes[at]
    quotes = found == ord('"')
    outside = ~quotes & ~np.logical_xor.accumulate(quotes)
    at, step = at[outside], _STEP[found[outside]]
    return at, np.cumsum(step, dtype=np.int32), step
