"""Tokens from one use of an expert to its next one in the layer, counted. Part of experts.py.

Executions are read in order of time, some million uses at once; of those before, the last use of every expert is kept.
So memory does not grow with the recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.store import Recording, read_sql
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Key = tuple[int, str, int | None, int]  # pid, phase, layer, experts

MAX_USES = 2_000_000  # at once, where no execution alone has more
RUN = 1 << 36  # more tokens than any run has
_USES_SQL = "SELECT exec_id, node_index, token, expert FROM expert_use WHERE exec_id BETWEEN $first AND $last"


@dataclass(frozen=True, slots=True)
class Distances:
    """A layer's: tokens from one use to the next (ascending), how many uses have each; uses that are first in a run."""

    tokens: Ints
    uses: Ints
    first: int


@dataclass(frozen=True, slots=True)
class _Uses:
    """expert: layer's number × width + expert; position: in the tokens of the layer, runs RUN apart."""

    expert: Ints
    position: Ints

    def take(self, rows: Ints | NDArray[np.bool_]) -> _Uses:
        return _Uses(self.expert[rows], self.position[rows])


def distances(recording: Recording) -> dict[Key, Distances]:
    """Of every layer of experts with reads of which all ids are known."""
    reads = recording.columns(read_sql("experts_reads.sql"))
    if not len(reads["number"]):
        return {}
    numbers, heads = np.unique(reads["number"], return_index=True)
    reads["position"] = reads["before"] + reads["run"] * RUN
    columns = (reads[name][heads].tolist() for name in ("pid", "phase", "layer", "experts"))
    keys: list[Key] = list(zip(*columns, strict=True))
    width = int(reads["experts"].max())
    counted: list[list[tuple[Ints, Ints]]] = [[] for _ in numbers]
    first = np.zeros(len(numbers), np.int64)
    last = _Uses(*(np.zeros(0, np.int64),) * 2)
    for part in _parts(reads["uses"]):
        uses = _in_order(last, _read(recording, {name: column[part] for name, column in reads.items()}, width))
        like = uses.expert[1:] == uses.expert[:-1]
        distance = np.diff(uses.position)
        again = like & (distance < RUN)
        layer, distance = uses.expert[1:][again] // width, distance[again]
        bounds = np.searchsorted(layer, np.arange(len(numbers) + 1))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            counted[number].append(_count(distance[bounds[number] : bounds[number + 1]]))
        known, kept = (np.bincount(some.expert // width, minlength=len(numbers)) for some in (uses, last))
        first += known - kept - np.diff(bounds)
        last = uses.take(np.append(~like, True))
    return {key: Distances(*_added(counted[number]), int(first[number])) for number, key in enumerate(keys)}


def _parts(uses: Ints) -> Iterator[slice]:
    """Reads, one after the other, MAX_USES or less together."""
    upto = np.cumsum(uses)
    begin = done = 0
    while begin < len(uses):
        end = max(begin + 1, int(np.searchsorted(upto, done + MAX_USES, side="right")))
        yield slice(begin, end)
        begin, done = end, int(upto[end - 1])


def _read(recording: Recording, reads: Mapping[str, Ints], width: int) -> _Uses:
    """The uses in these reads; no ids that the layer has not."""
    span = {"first": int(reads["exec_id"].min()), "last": int(reads["exec_id"].max())}
    rows = {name: np.ma.getdata(column) for name, column in recording.columns(_USES_SQL, span).items()}
    token, expert = rows["token"], rows["expert"]
    of = _reads_of(rows["exec_id"], rows["node_index"], reads)
    there = (of >= 0) & (token >= 0) & (token < reads["tokens"][of]) & (expert >= 0) & (expert < reads["experts"][of])
    if not there.all():
        of, token, expert = of[there], token[there], expert[there]
    return _Uses(reads["number"][of] * width + expert, reads["position"][of] + token)


def _reads_of(exec_id: Ints, node: Ints, reads: Mapping[str, Ints]) -> Ints:
    """Of every use its read, -1: none of these. The uses of a read lie side by side: each is looked up once."""
    ids = zip(reads["exec_id"].tolist(), reads["node_index"].tolist(), strict=True)
    rows = {pair: row for row, pair in enumerate(ids)}
    changed = np.flatnonzero((np.diff(exec_id) != 0) | (np.diff(node) != 0)) + 1
    heads = np.concatenate((np.zeros(min(1, len(exec_id)), np.int64), changed))
    found = [rows.get(pair, -1) for pair in zip(exec_id[heads].tolist(), node[heads].tolist(), strict=True)]
    return np.repeat(np.array(found, np.int64), np.diff(heads, append=len(exec_id)))


def _in_order(before: _Uses, uses: _Uses) -> _Uses:
    """Both, by expert and position."""
    both = _Uses(*(np.concatenate((getattr(before, name), getattr(uses, name))) for name in _Uses.__slots__))
    numbers = both.expert
    if len(numbers) and numbers.max() < 1 << 16:
        numbers = numbers.astype(np.uint16)  # of 16 bits: sorted without comparing them, ten times as fast
    both = both.take(np.argsort(numbers, kind="stable"))
    if (np.diff(both.position)[np.diff(both.expert) == 0] < 0).any():  # were not stored in order of time
        both = both.take(np.lexsort((both.position, both.expert)))
    return both


def _count(distance: Ints) -> tuple[Ints, Ints]:
    """The different ones, ascending, and how many there are of each."""
    if distance.max() > 4 * len(distance) + 1024:
        return np.unique(distance, return_counts=True)
    counts = np.bincount(distance)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _added(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """What `_count` said of several parts, together."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    values, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    found, place = np.unique(values, return_inverse=True)
    return found, np.bincount(place, counts).astype(np.int64)
