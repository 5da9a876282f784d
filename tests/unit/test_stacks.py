"""Numbers of stacks: one for each key that was kept, none for what is gone, and a bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from flowprof.profiler.binaries.unwind import Registers
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record import stacks
from flowprof.profiler.record.stacks import Stacks


def events(count: int) -> np.ndarray:
    return np.zeros(count, ring.EVENT)


def numbers(of: Stacks, *keys: int) -> list[int]:
    found: list[int] = of.numbers(np.array(keys, np.uint64), events(len(keys))).tolist()
    return found


def test_each_key_is_asked_for_until_it_is_there_and_then_no_more() -> None:
    there, asked = {7: b"seven"}, []

    def look(keys: Iterable[int]) -> Mapping[int, bytes]:
        asked.append(sorted(keys))
        return {key: there[key] for key in asked[-1] if key in there}

    found = Stacks(look)
    assert numbers(found, 7, 0, 9, 7) == [1, 0, 0, 1]
    there[9] = b"nine"
    assert numbers(found, 9, 7) == [2, 1]
    assert numbers(found, 7, 9, 0) == [1, 2, 0]
    assert asked == [[7, 9], [9]]


def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_STACKS", 3)
    found = Stacks(lambda keys: dict.fromkeys(keys, b""))
    assert found.add(1, Registers(*range(8)), b"x" * 16) == 1
    assert numbers(found, 5, 6, 7, 8) == [2, 3, 0, 0]
    assert found.add(1, Registers(*range(8)), b"") is None
    assert numbers(found, 5, 8) == [2, 0]
    assert found.left == 4, "two keys, one stack, one key again"


def test_what_cannot_be_unwound_has_no_frames() -> None:
    found = Stacks(lambda keys: dict.fromkeys(keys, b"short"))
    numbers(found, 5)
    found.add(1, Registers(*range(8)), b"y" * 64)  # in no module
    assert not found.columns({}, {})["stack_id"]
