"""Which group of one side is which of the other: by phase, block, operator, tensor and shape, never by time.

What has no partner by its whole key is looked for by less of it: another shape; another name of the tensor at the same
shape (renamed); and last whatever stands between the same two neighbours in the same block (an operator that was fused,
split or replaced: kq, softmax and kqv against flash attention). Everything else is on one side only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from flowprof.profiler.diff.steps.steps import Group

MAX_FUSED = 6  # groups of one side that are taken for one replaced part


@dataclass(frozen=True, slots=True)
class Match:
    """Groups of both sides that do the same work; one side is empty where the other has no partner."""

    a: tuple[Group, ...]
    b: tuple[Group, ...]
    how: str  # "": by all of the key


def align(a: Mapping[Group, int], b: Mapping[Group, int]) -> list[Match]:
    """Every group of both sides in exactly one match. Values: a group's place in a step (GroupFacts.order)."""
    found = [Match((group,), (group,), "") for group in a if group in b]
    left = {group: order for group, order in a.items() if group not in b}
    right = {group: order for group, order in b.items() if group not in a}
    for key, word in (
        (lambda g: (g.kind, g.phase, g.block, g.op, g.tensor), ""),
        (lambda g: (g.kind, g.phase, g.op, g.tensor) if g.tensor else None, "moved"),
        (lambda g: (g.kind, g.phase, g.block, g.op, g.shape), "renamed"),
    ):
        found += _by(key, word, left, right)
    found += _between(found, a, b, left, right)
    found += [Match((group,), (), "") for group in left]
    found += [Match((), (group,), "") for group in right]
    return found


def _by(
    key: Callable[[Group], Hashable | None], word: str, left: dict[Group, int], right: dict[Group, int]
) -> list[Match]:
    """Groups with the same key, in their order; where one side has more, its last ones go into the last match."""
    mine, theirs = _grouped(key, left), _grouped(key, right)
    found = []
    for name in mine.keys() & theirs.keys():
        a, b = mine[name], theirs[name]
        pairs = min(len(a), len(b))
        for at in range(pairs):
            rest = at == pairs - 1
            some = Match(tuple(a[at:] if rest else a[at : at + 1]), tuple(b[at:] if rest else b[at : at + 1]), "")
            found.append(Match(some.a, some.b, _renamed(some, word)))
        for group in a:
            del left[group]
        for group in b:
            del right[group]
    return found


def _grouped(key: Callable[[Group], Hashable | None], groups: Mapping[Group, int]) -> dict[Hashable, list[Group]]:
    found: dict[Hashable, list[Group]] = defaultdict(list)
    for group in sorted(groups, key=lambda one: (groups[one], one.tensor, one.shape)):
        name = key(group)
        if name is not None:
            found[name].append(group)
    return found


def _renamed(match: Match, word: str) -> str:
    if not word:
        return ""
    if word == "moved":
        return f"moved: {match.a[0].block} → {match.b[0].block}"
    return f"renamed: {_names(match.a)} → {_names(match.b)}"


def _names(groups: Sequence[Group]) -> str:
    return " + ".join(dict.fromkeys(group.tensor or group.op for group in groups))


def _between(
    matched: Sequence[Match], a: Mapping[Group, int], b: Mapping[Group, int], left: dict[Group, int],
    right: dict[Group, int],
) -> list[Match]:  # fmt: skip
    """Unmatched groups of one block that stand between the same two matched neighbours on both sides."""
    number = {group: at for at, match in enumerate(matched) for group in match.a}
    mine = _gaps(a, left, number)
    number = {group: at for at, match in enumerate(matched) for group in match.b}
    theirs = _gaps(b, right, number)
    found = []
    for gap in mine.keys() & theirs.keys():
        first, second = mine[gap], theirs[gap]
        if len(first) > MAX_FUSED or len(second) > MAX_FUSED:
            continue
        ops = [" + ".join(dict.fromkeys(group.op for group in side)) for side in (first, second)]
        word = "replaced" if len(first) == len(second) else "fused" if len(first) > len(second) else "split"
        found.append(Match(tuple(first), tuple(second), f"{word}: {ops[0]} → {ops[1]}"))
        for group in first:
            del left[group]
        for group in second:
            del right[group]
    return found


def _gaps(
    groups: Mapping[Group, int], unmatched: Mapping[Group, int], number: Mapping[Group, int]
) -> dict[tuple[str, str, int | None, int | None], list[Group]]:
    """By phase, block and the matches before and after in it."""
    found: dict[tuple[str, str, int | None, int | None], list[Group]] = defaultdict(list)
    blocks: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in sorted(groups, key=lambda one: groups[one]):
        if group.kind not in ("between", "unattributed"):
            blocks[group.phase, group.block].append(group)
    for (phase, block), members in blocks.items():
        before: int | None = None
        waiting: list[Group] = []
        for group in members:
            if group in unmatched:
                waiting.append(group)
                continue
            if waiting:
                found[phase, block, before, number[group]] += waiting
                waiting = []
            before = number[group]
        if waiting:
            found[phase, block, before, None] += waiting
    return found
