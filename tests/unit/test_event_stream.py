"""Chrome JSON in pieces: every cut gives the same events, and damage is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers import event_stream
from flowprof.profiler.importers.event_stream import EventStream
from flowprof.profiler.importers.source import Source
from traces import text


class One(msgspec.Struct):
    n: int = -1
    name: str = ""
    args: msgspec.Raw = msgspec.Raw(b"")


def read(path: Path) -> tuple[list[One], EventStream[One]]:
    with Source(str(path)) as source:
        stream = EventStream(source, One)
        return [event for events in stream for event in events], stream


HOSTILE_NAMES = ['},{"n":', '}, { "', "\\", '\\"', "]}", '"},\n{"', "λ→", "{[" * 50, "a\\\\"]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_every_cut_gives_the_same_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None, ending: str
) -> None:
    monkeypatch.setattr(event_stream, "CHUNK", chunk)
    events = [{"n": n, "name": name, "args": {"of": [{"a": name}, {}], "x": [[], [1]]}}
              for n, name in enumerate(HOSTILE_NAMES * 3)]  # fmt: skip
    facts = {
        "before": {"traceEvents": "]"},
        "list": ["]", '"'],
        "number": -1.5e3,
        "text": '\\"traceEvents": [',
        "no": None,
    }
    path = text(
        tmp_path / f"a{ending}", json.dumps(facts | {"traceEvents": events, "after": [1, {"b": 2}]}, indent=indent)
    )
    found, stream = read(path)
    assert [(event.n, event.name) for event in found] == [(one["n"], one["name"]) for one in events]
    assert stream.malformed == 0
    assert stream.facts == facts | {"after": [1, {"b": 2}]}


@pytest.mark.parametrize(
    ("content", "numbers", "malformed"),
    [
        ('[{"n": 1}, {"n": 2}]', [1, 2], 0),
        ('[{"n": 1},\n{"n": 2},\n', [1, 2], 0),  # the format lets the end of a list be missing
        ('\ufeff {"traceEvents": [ {"n":1} ] }', [1], 0),
        ('{"traceEvents": []}', [], 0),
        ('{"traceEvents": [{"n": 1}, {"n": "two"}, {"n": 3}]}', [1, 3], 1),
        ('{"traceEvents": [{"n": "1"}]}', [1], 0),
        ('{"traceEvents": [{"n": 1, "x": NaN}, {"n": 2, "x": [-inf, Infinity]}]}', [1, 2], 0),
        ('{"traceEvents": [{"n": 1}, 7, "text", null, {"n": 2}]}', [1, 2], 0),
        ('{"traceEvents": [{"n": 1}, [{"n": 5}], {"n": 2}]}', [1, 2], 1),
        ('{"traceEvents": [{"n": 1}, {"n": 99999999999999999999999999}]}', None, 0),
        ('{"traceEvents": [{"n": 1}, {"n": 1e400}, {"n": 2}]}', [1, 2], 1),
        ('{"traceEvents": [{"n": 1, "args": ' + "[" * 100_000 + "]" * 100_000 + '}, {"n": 2}]}', None, None),
        ('{"traceEvents": "none"}', [], 0),
        ("{}", [], 0),
    ],
)  # fmt: skip
def test_what_writers_do(tmp_path: Path, content: str, numbers: list[int] | None, malformed: int | None) -> None:
    found, stream = read(text(tmp_path / "a.json", content))
    if numbers is not None:
        assert [event.n for event in found] == numbers
    else:
        assert found[0].n == 1 or stream.malformed
    assert malformed is None or stream.malformed == malformed


def test_what_is_no_utf8_is_read_with_replacements(tmp_path: Path) -> None:
    found, stream = read(text(tmp_path / "a.json", b'{"traceEvents": [{"n": 1, "name": "a\xff"}, {"n": 2}]}'))
    assert [(event.n, event.name) for event in found] == [(1, "a\ufffd"), (2, "")]
    assert stream.malformed == 0


WHOLE = json.dumps({"a": [1, 2], "traceEvents": [{"n": n, "name": "x" * n} for n in range(40)], "z": {"y": 1}})


@pytest.mark.parametrize("end", [*range(1, 30), 100, 400, len(WHOLE) - 12, len(WHOLE) - 1])
def test_truncated_anywhere(tmp_path: Path, end: int) -> None:
    with pytest.raises(RecordingError, match="truncated"):
        read(text(tmp_path / "a.json", WHOLE[:end]))


def test_a_truncated_list_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="truncated"):
        read(text(tmp_path / "a.json", '[{"n": 1}, {"n": 2'))


def test_truncated_and_damaged_gzip(tmp_path: Path) -> None:
    whole = text(tmp_path / "a.json.gz", WHOLE * 50).read_bytes()
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="truncated"):
        read(cut)
    bad = bytearray(whole)
    bad[len(bad) // 2] ^= 0xFF
    cut.write_bytes(bytes(bad))
    with pytest.raises(RecordingError):
        read(cut)


@pytest.mark.parametrize("inside", ['{"name": "', '{"args": [', "", "[" * 9])
def test_a_value_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.setattr(event_stream, "MAX_VALUE", 1 << 20)
    monkeypatch.setattr(event_stream, "CHUNK", 1 << 16)
    with pytest.raises(RecordingError, match="more than 1 MB"):
        read(text(tmp_path / "a.json.gz", '{"traceEvents": [{"n": 1}, ' + inside + " " * (8 << 20)))
    with pytest.raises(RecordingError, match="more than 1 MB"):
        read(text(tmp_path / "a.json.gz", '{"other": ["' + "x" * (8 << 20)))


def test_an_expanding_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprof.profiler.importers.source.MAX_BYTES", 10 << 20)
    monkeypatch.setattr(event_stream, "CHUNK", 1 << 16)
    event: Any = json.dumps({"n": 1}) + ", "
    with pytest.raises(RecordingError, match="expands"):
        read(text(tmp_path / "a.json.gz", '{"traceEvents": [' + event * (2 << 20)))


def test_gzip_in_several_parts(tmp_path: Path) -> None:
    first, second = text(tmp_path / "1.gz", WHOLE[:100]), text(tmp_path / "2.gz", WHOLE[100:])
    both = tmp_path / "both.json.gz"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert len(read(both)[0]) == 40
