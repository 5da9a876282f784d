"""A layered drawing of a small graph: ranks, order within ranks, x positions. Deterministic and bounded.

Sugiyama's steps: longest-path ranks (at most MAX_COLUMNS nodes each), dummy nodes along edges that skip ranks,
barycentre sweeps against crossings, then x by least squares towards the neighbours' mean under the ranks' order. Kept
Python libraries offer none of it without Graphviz' binary; graphs here are folded to a few dozen nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

MAX_COLUMNS = 8
MAX_DUMMIES = 3_000  # beyond them edges run straight
SWEEPS = 8
DUMMY_WIDTH = 0.22
DUMMY_PULL = 0.02  # of an edge that skips ranks, against a node's: the main line stays straight


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions in columns: x is a node's middle; `via[e]` the x of edge e in every rank it passes."""

    rank: tuple[int, ...]
    x: tuple[float, ...]
    via: tuple[tuple[float, ...], ...]
    columns: float
    ranks: int


def layered(width: Sequence[float], edges: Sequence[tuple[int, int]]) -> Layout:
    """Lay out nodes of the given widths (columns). Edges must go up in number; others are drawn, not obeyed."""
    count = len(width)
    forward = [(source, target) for source, target in edges if source < target]
    rank = _ranks(count, forward)
    widths = list(width)
    level = list(rank)
    chains: dict[tuple[int, int], list[int]] = {}
    links: list[tuple[int, int]] = []
    for source, target in forward:
        chain = []
        if len(widths) - count + rank[target] - rank[source] <= MAX_DUMMIES:
            chain = list(range(len(widths), len(widths) + rank[target] - rank[source] - 1))
            widths += [DUMMY_WIDTH] * len(chain)
            level += range(rank[source] + 1, rank[target])
            links += zip([source, *chain], [*chain, target], strict=True)
        chains[source, target] = chain
    rows: list[list[int]] = [[] for _ in range(max(level, default=-1) + 1)]
    for node, row in enumerate(level):
        rows[row].append(node)
    above: list[list[int]] = [[] for _ in widths]
    below: list[list[int]] = [[] for _ in widths]
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    rows = _uncrossed(rows, above, below)
    x = _placed(rows, widths, above, below, count)
    left = min((x[node] - widths[node] / 2 for node in range(len(x))), default=0.0)
    right = max((x[node] + widths[node] / 2 for node in range(len(x))), default=0.0)
    via = tuple(tuple(round(x[node] - left, 3) for node in chains.get(edge, ())) for edge in edges)
    return Layout(tuple(rank), tuple(round(x[node] - left, 3) for node in range(count)), via, right - left, len(rows))


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    rank = [0] * count
    used: dict[int, int] = {}
    for node in range(count):
        row = max((rank[source] + 1 for source in before[node]), default=0)
        while used.get(row, 0) >= MAX_COLUMNS:
            row += 1
        rank[node] = row
        used[row] = used.get(row, 0) + 1
    for node in reversed(range(count)):  # what has nothing above it comes down to its readers
        if not before[node] and after[node]:
            row = min(rank[target] for target in after[node]) - 1
            while row > rank[node] and used.get(row, 0) >= MAX_COLUMNS:
                row -= 1
            used[rank[node]] -= 1
            used[row] = used.get(row, 0) + 1
            rank[node] = row
    rows = {row: number for number, row in enumerate(sorted(set(rank)))}
    return [rows[row] for row in rank]


def _uncrossed(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[list[int]]:
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        rows = [list(row) for row in rows]
        position = {node: place for row in rows for place, node in enumerate(row)}
        for number in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            near = above if down else below
            rows[number].sort(
                key=lambda node: (
                    sum(position[other] for other in near[node]) / len(near[node]) if near[node] else position[node]
                )
            )
            position.update((node, place) for place, node in enumerate(rows[number]))
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(rows: list[list[int]], below: list[list[int]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(rows):
        place = {node: number for number, node in enumerate(lower)}
        ends = [end for node in upper for end in sorted(place[other] for other in below[node])]
        total += sum(a > b for number, a in enumerate(ends) for b in ends[number + 1 :])
    return total


def _placed(
    rows: list[list[int]], widths: Sequence[float], above: list[list[int]], below: list[list[int]], real: int
) -> list[float]:
    x = [0.0] * len(widths)
    for row in rows:
        at = -sum(widths[node] for node in row) / 2
        for node in row:
            x[node] = at + widths[node] / 2
            at += widths[node]
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            wanted, weight = [], []
            for node in row:
                near = (above if down else below)[node] or (below if down else above)[node]
                pull = [1.0 if other < real else DUMMY_PULL for other in near]
                far = sum(x[other] * force for other, force in zip(near, pull, strict=True))
                wanted.append(far / sum(pull) if near else x[node])
                weight.append(1.0 if node < real else DUMMY_PULL)
            for node, place in zip(row, _spread(wanted, weight, [widths[node] for node in row]), strict=True):
                x[node] = place
    return x


def _spread(wanted: list[float], weight: list[float], widths: list[float]) -> list[float]:
    """The places nearest to those wanted (least squares) at which nothing overlaps, order kept: isotonic regression."""
    offset, total = [], 0.0
    for number, width in enumerate(widths):
        total += (widths[number - 1] + width) / 2 if number else 0.0
        offset.append(total)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for place, heavy, shift in zip(wanted, weight, offset, strict=True):
        mean, mass, members = place - shift, heavy, 1
        while pools and pools[-1][0] > mean:
            other, more, others = pools.pop()
            mean = (mean * mass + other * more) / (mass + more)
            mass, members = mass + more, members + others
        pools.append((mean, mass, members))
    flat = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + shift for mean, shift in zip(flat, offset, strict=True)]
