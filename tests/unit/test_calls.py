"""Ring events of calls → rows: parents, depths, calls that were left, and arguments once per key."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowprof.probes.torch import engine
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.record import calls as calls_module
from flowprof.profiler.record.batch import Batch
from flowprof.profiler.record.calls import Calls
from flowprof.profiler.store import Recording
from flowprof.profiler.target import Module
from flowprof.profiler.torch.schemas import FLAG, MAX_ARGS, MAYBE_TENSOR, NUMBER, NUMBERS, TENSOR, TENSORS, Schema

PID, TID = 4242, 4243
ENTRY, EXIT = engine().ladders[0].rungs[0].probes[:2]
MM = Schema("mm", "", ("Tensor", "Tensor"), "Tensor")
CONV = Schema("conv2d", "", ("Tensor", "Tensor", "Tensor?", "SymInt[]", "bool", "int", "Tensor[]"), "Tensor")
SYMBOLS = {1: "_ZN2at4_ops2mm4callERKNS_6TensorES4_", 3: "_ZN2at4_ops6conv2d4callE", 5: "_ZN2at4_ops7unknown4callE"}


def site(number: int, symbol: str, probe: Any = ENTRY) -> PlannedSite:
    module = Module(PID, "/x/libtorch_cpu.so", "", 1, "0:0", False, ())
    return PlannedSite(number, PID, "torch", "op", probe, module, None, symbol, 0, 0, "", "", "")


class Map:
    """The kernel's map of arguments; what is asked for is kept."""

    def __init__(self, **held: bytes) -> None:
        self.held = {int(key[1:]): raw for key, raw in held.items()}
        self.asked: list[int] = []

    def look(self, keys: Iterable[int]) -> Mapping[int, bytes]:
        keys = list(keys)
        self.asked += keys
        return {key: self.held[key] for key in keys if key in self.held}


def made(held: Map) -> Calls:
    found = Calls(held.look, {})
    found.know([site(number, symbol) for number, symbol in SYMBOLS.items()], {"mm": MM, "conv2d": CONV})
    found.know([site(2, SYMBOLS[1], EXIT)], {})
    return found


def event(kind: int, number: int, start: int, end: int, parent: int = 0, depth: int = 0, **more: Any) -> np.void:
    one = np.zeros(1, ring.EVENT)
    values = {"kind": kind, "site": 1, "b": number, "a": start, "at_ns": end, "c": parent, "ith": depth, "pid": PID,
              "tid": TID} | more  # fmt: skip
    for name, value in values.items():
        one[name] = value
    return one


def arg(kind: int, index: int, ndim: int = 0, dtype: int = 255, length: int = 0, sizes=(), strides=()) -> bytes:
    return struct.pack("<4BI10q", kind, index, ndim, dtype, length, *(*sizes, *[0] * 5)[:5], *(*strides, *[0] * 5)[:5])


def args(number: int, *each: bytes) -> bytes:
    return struct.pack("<Q", number) + b"".join(each).ljust(MAX_ARGS * 88, b"\0")


R, L = ring.CALL_RETURN, ring.CALL_LEFT


def test_calls_become_rows(tmp_path: Path) -> None:
    """An operator around mm and one more mm, which an exception leaves; and another thread. Children come first."""
    first = TID << 32 | 1
    events = np.concatenate([
        event(R, first + 1, 110, 150, first, 1, d=7), event(L, first + 2, 160, 170, first, 1, d=8),
        event(R, first, 100, 200, site=5), event(R, 9 << 32, 100, 120, tid=9, d=7, site=99),
    ])  # fmt: skip
    held = Map(k7=args(1, arg(TENSOR, 0, 2, 6, 0, (3, 5), (5, 1)), arg(TENSOR, 1, 2, 6, 0, (5, 7), (7, 1))))
    found = made(held)
    assert found.expected and not Calls(held.look, {}).expected
    rows, new = found.decode(events)
    path = str(tmp_path / "a.duckdb")
    batch = Batch()
    batch.put("api_call", rows)
    batch.put("api_args", new)
    with Recording.create(path) as recording:
        batch.write(recording)
    with Recording.open(path) as recording:
        kept = recording.rows("SELECT call_id, pid, tid, kind, name, start_ns, end_ns, parent_id, depth, args_id "
                              "FROM api_call ORDER BY tid DESC, call_id")  # fmt: skip
        told = recording.rows("SELECT args_id, dims, types, scalars, strides FROM api_args")
    assert kept == [
        (first, PID, TID, "operator", "aten::unknown", 100, 200, None, 0, None),
        (first + 1, PID, TID, "operator", "aten::mm", 110, 150, first, 1, 1),
        (first + 2, PID, TID, "operator", "aten::mm", 160, None, first, 1, None),
        (9 << 32, PID, 9, "operator", "?", 100, 120, None, 0, 1),
    ]
    assert told == [(1, "[[3, 5], [5, 7]]", '["float", "float"]', '["", ""]', "[[5, 1], [7, 1]]")]
    assert found.count == 4


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (b"quantized::linear_dynamic", "quantized::linear_dynamic"),
        (b"_C_cache_ops::reshape.v2", "_C_cache_ops::reshape.v2"),
        (b"\xff\x1b[31m", "torch.ops"),
        (b"<script>::x", "torch.ops"),
        (b"a::" + b"b" * 900, "torch.ops"),
        (b"", "torch.ops"),
    ],
)
def test_operators_whose_name_comes_with_the_call(held: bytes, expected: str) -> None:
    """By its key, once; without one, or with what is no name, torch.ops. Other sites' keys are arguments still."""
    [probe] = [probe for probe in engine().ladders[0].rungs[0].probes if probe.id == "torch.named"]
    names = Map(k3=args(9, held), k7=args(1, arg(TENSOR, 0, 1, 6, 0, (3,), (1,))))
    found = made(names)
    found.know([site(9, "invokeOperatorFromPython", probe)], {})
    for _ in range(2):
        rows, _ = found.decode(np.concatenate([
            event(R, 1, 0, 9, d=3, site=9), event(R, 2, 10, 19, d=0, site=9), event(R, 3, 20, 29, d=7),
            event(R, 4, 30, 39, d=5, site=9),
        ]))  # fmt: skip
        assert np.asarray(rows["name"]).tolist() == [expected, "torch.ops", "aten::mm", "torch.ops"]
        assert np.ma.asarray(rows["args_id"]).tolist() == [None, None, 1, None]
    assert names.asked.count(3) == names.asked.count(7) == 1 and names.asked.count(5) == 2


def test_nothing_happened() -> None:
    rows, new = made(Map()).decode(np.empty(0, ring.EVENT))
    assert {len(column) for column in rows.values() if not isinstance(column, str)} == {0}
    assert {len(column) for column in new.values()} == {0}


def test_arguments_are_looked_up_once() -> None:
    held = Map(k7=args(1, arg(TENSOR, 0, 1, 6, 0, (3,), (1,))), k9=args(5), k10=args(77))
    found = made(held)
    for _ in range(3):
        rows, new = found.decode(np.concatenate([event(R, 1, 0, 1, d=key) for key in (7, 7, 9, 10, 0)]))
        assert np.ma.getmaskarray(rows["args_id"]).tolist() == [False, False, True, True, True]
        assert rows["args_id"].tolist()[:2] == [1, 1]
    assert sorted(held.asked) == [7, 9, 10], "a key without a schema is not asked for again, and 0 is none"
    assert new["args_id"] == []


def test_a_key_that_is_gone_may_come_back() -> None:
    """The map keeps the latest: a key may have made room when the reader comes, and a later call puts it back."""
    held = Map()
    found = made(held)
    rows, new = found.decode(event(R, 1, 0, 1, d=7))
    assert rows["args_id"].tolist() == [None] and new["args_id"] == []
    held.held[7] = args(1, arg(TENSOR, 0, 1, 6, 0, (3,), (1,)))
    rows, new = found.decode(event(R, 2, 2, 3, d=7))
    assert rows["args_id"].tolist() == [1] == new["args_id"]


def test_there_are_not_endlessly_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "MAX_KEYS", 11)  # 0, and ten more
    held = Map(**{f"k{n}": args(1, arg(TENSOR, 0, 1, 6, 0, (n,), (1,))) for n in range(1, 41)})
    found = made(held)
    known = 0
    for begin in (1, 7, 30):
        rows, new = found.decode(np.concatenate([event(R, n, 0, 1, d=n) for n in range(begin, begin + 10)]))
        known += len(new["args_id"])
    assert known == 10 and len(held.asked) == 10
    rows, _ = found.decode(np.concatenate([event(R, n, 0, 1, d=n) for n in (1, 10, 11, 35)]))
    assert np.ma.getmaskarray(rows["args_id"]).tolist() == [False, False, True, True]


BIG = (1 << 63) - 1


@pytest.mark.parametrize(
    ("each", "dims", "types", "scalars", "strides"),
    [
        ([arg(TENSOR, 0, 0, 6)], [], "float", "", []),  # no dimensions
        ([arg(TENSOR, 0, 5, 15, 0, (1, 2, 3, 4, 5), (120, 60, 20, 5, 1))], [1, 2, 3, 4, 5], "c10::BFloat16", "",
         [120, 60, 20, 5, 1]),
        ([arg(TENSOR, 0, 6, 6, 0, (1, 2, 3, 4, 5), (6,))], [1, 2, 3, 4, 5, 6], "float", "", []),
        ([arg(TENSOR, 0, 11, 6, 0, (1,))], [], "", "", []),
        ([arg(TENSOR, 0, 255, 6, 0, (1,))], [], "", "", []),
        ([arg(TENSOR, 0, 2, 99, 0, (1, 2))], [], "", "", []),  # no such type
        ([arg(TENSOR, 0, 2, 255, 0, (1, 2))], [], "", "", []),
        ([arg(MAYBE_TENSOR, 0)], [], "", "", []),  # none
        ([arg(MAYBE_TENSOR, 0, 1, 11, 0, (4,), (1,))], [4], "bool", "", [1]),
        ([arg(TENSOR, 0, 2, 6, 0, (-BIG - 1, BIG), (-1, 0))], [-BIG - 1, BIG], "float", "", [-1, 0]),
        ([arg(TENSORS, 0, 2, 6, 3, (7, 7))], [], "TensorList", "", []),  # the others were not read
        ([arg(TENSORS, 0, 2, 6, 2, (7, 8)), arg(TENSORS, 0, 1, 6, 2, (9,))], [[7, 8], [9]], "TensorList(float)", "",
         []),
        ([arg(TENSORS, 0, 2, 6, 2, (7, 8)), arg(TENSORS, 0, 1, 7, 2, (9,))], [], "TensorList", "", []),
        ([arg(TENSORS, 0, 2, 6, 2, (7, 8)), arg(TENSORS, 0, 255, 6, 2)], [], "TensorList", "", []),
        ([arg(TENSORS, 0)], [], "TensorList", "", []),  # an empty one
        ([arg(NUMBER, 0, sizes=(-1,))], [], "Scalar", "-1", []),
        ([arg(FLAG, 0, sizes=(1,))], [], "Scalar", "True", []),
        ([arg(FLAG, 0)], [], "Scalar", "False", []),
        ([arg(NUMBERS, 0, 0, 255, 2, (3, -4))], [], "ScalarList", "[3, -4]", []),
        ([arg(NUMBERS, 0, 0, 255, 0)], [], "ScalarList", "[]", []),
        ([arg(NUMBERS, 0, 0, 255, 6, (1, 2))], [], "ScalarList", "", []),  # not read
        ([arg(NUMBERS, 0, 0, 255, (1 << 32) - 1, (1, 2))], [], "ScalarList", "", []),
        ([arg(200, 0, 9, 9, 9, (5,))], [], "Scalar", "5", []),
        ([arg(0, 0, 2, 6, 0, (1, 2))], [], "", "", []),
        ([arg(TENSOR, 7, 2, 6, 0, (1, 2)), arg(TENSOR, 255, 2, 6, 0, (1, 2))], [], "", "", []),  # no such argument
    ],
)  # fmt: skip
def test_what_an_argument_may_be(each: list[bytes], dims: list, types: str, scalars: str, strides: list) -> None:
    _, new = made(Map(k7=args(3, *each))).decode(event(R, 1, 0, 1, d=7))
    told = {name: [json.loads(text) for text in new[name]] for name in ("dims", "types", "scalars", "strides")}
    rest = len(CONV.args) - 1
    assert told["dims"] == [[dims, *[[]] * rest]]
    assert told["types"] == [[types, *[""] * rest]]
    assert told["scalars"] == [[scalars, *[""] * rest]]
    assert told["strides"] == [[strides, *[[]] * rest]]


def test_hostile_events() -> None:
    rng = np.random.default_rng(3)
    events = np.frombuffer(rng.bytes(500 * ring.EVENT.itemsize), ring.EVENT).copy()
    held = Map(**{f"k{key}": rng.bytes(8 + MAX_ARGS * 88) for key in events["d"][:250].tolist()})
    for raw in list(held.held):
        held.held[raw] = struct.pack("<Q", 3) + held.held[raw][8:]
    rows, new = made(held).decode(events)
    contents = set(zip(*(new[name] for name in ("dims", "types", "scalars", "strides")), strict=True))
    assert len(rows["call_id"]) == 500 and rows["args_id"].count() == 250 and len(contents) == len(new["args_id"]) > 10
    for text in new["dims"]:
        assert len(json.loads(text)) == len(CONV.args)


def test_processes_share_what_they_were_called_with() -> None:
    """The same arguments at other sites, or in another process, have one row; other arguments have one of their own."""
    shared: dict[int, int] = {}
    small, large = (arg(TENSOR, 0, 2, 6, 0, (size, size), (size, 1)) for size in (3, 9))
    seen = []
    for number in (1, 2):
        held = Map(k7=args(number, small), k8=args(number, large), k9=args(number, small))
        found = Calls(held.look, shared)
        found.know([site(number, SYMBOLS[1])], {"mm": MM})
        rows, new = found.decode(np.concatenate([event(R, 1, 0, 9, site=number, d=key) for key in (7, 8, 9)]))
        seen.append((rows["args_id"].tolist(), new["args_id"]))
    assert seen == [([1, 2, 1], [1, 2]), ([1, 2, 1], [])]
