"""Recordings with samples of variables, and pairs of them, for tests of diffs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flowprof.profiler.diff.side import Pair, open_pair
from flowprof.profiler.store import Recording

PID, TID = 500, 512
START_NS = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Samples:
    """Of one variable. function "": it is read every 20 ms; else at every call, 100 µs apart."""

    values: Sequence[float] | np.ndarray
    function: str = ""
    type: str | None = None
    expression: str = "x"
    source: str | None = None


def write(path: Path, variables: Mapping[str, Samples]) -> str:
    with Recording.create(str(path), overwrite=True) as recording:
        recording.set_meta("started_ns", START_NS)
        recording.append("process", {"pid": [PID], "ppid": 1, "exe": "/usr/bin/app", "cmdline": "app"})
        recording.append("thread", {"pid": [PID], "tid": [TID], "comm": ["app"]})
        for number, (name, one) in enumerate(variables.items(), 1):
            recording.append("variable", {"variable_id": [number], "name": [name], "expression": [one.expression],
                                          "function": [one.function or None], "type": [one.type],
                                          "source": [one.source]})  # fmt: skip
            count = len(one.values)
            step = 100_000 if one.function else 20_000_000
            recording.append("variable_sample", {
                "at_ns": START_NS + step * np.arange(1, count + 1), "pid": PID, "tid": TID if one.function else None,
                "variable_id": number, "value": np.asarray(one.values, float),
            })  # fmt: skip
    return str(path)


@contextlib.contextmanager
def pair(
    folder: Path, normal: Mapping[str, Samples] | Sequence[Mapping[str, Samples]], buggy: Mapping[str, Samples]
) -> Iterator[Pair]:
    many = [normal] if isinstance(normal, Mapping) else list(normal)
    files = [write(folder / f"normal-{i}.duckdb", one) for i, one in enumerate(many)]
    with open_pair(files, write(folder / "buggy.duckdb", buggy)) as opened:
        yield opened
