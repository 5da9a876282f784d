"""Which group a call belongs to: what it is, with its shapes and type, and the operator that calls it.

A shape that comes in less than SELDOM of the steps (a context that grows from token to token) is put together with the
others that differ from it in numbers only: those numbers become n.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from flowprof.profiler.diff.steps.steps import Ints
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.costs import Arg

BACKWARD = "backward"  # the block of what the engine of backward passes calls
SELDOM = 0.2
MAX_GROUPS = 2_000
MAX_CELLS = 50_000_000  # of a phase: steps × groups
OTHERS = "other operators"
_NUMBER = re.compile(r"\d+")

Key = tuple[str, str, str]  # block, operator, shape


def shape(name: str, args: Sequence[Arg]) -> str:
    return torch_costs.shown(name, args)


def keys(pairs: Sequence[Key], pair: Ints, step: Ints, steps: int) -> tuple[list[Key], Ints]:
    """Groups, and which of them each call (n,) is in. pair, step: (n,) of each call, the former into `pairs`."""
    share = _steps_with(pair, step, len(pairs), steps) / max(steps, 1)
    seldom: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for at, (block, op, text) in enumerate(pairs):
        if share[at] < SELDOM and text:
            dims, kind = _split(text)
            seldom[block, op, f"{_NUMBER.sub('#', dims)} {kind}"].append(at)
    named = list(pairs)
    for members in seldom.values():
        if len(members) > 1:
            together = _together([_split(pairs[at][2]) for at in members])
            for at in members:
                named[at] = (*pairs[at][:2], together)
    numbers: dict[Key, int] = {}
    of_pair = np.array([numbers.setdefault(one, len(numbers)) for one in named], np.int64)
    found = list(numbers)
    group = of_pair[pair] if len(pair) else pair
    return _bounded(found, group, steps)


def _steps_with(pair: Ints, step: Ints, pairs: int, steps: int) -> Ints:
    """In how many steps each pair comes."""
    cell = pair * steps + step
    if pairs * steps > MAX_CELLS:
        return np.bincount(np.unique(cell) // steps, minlength=pairs)
    seen = np.zeros((pairs, steps), bool)
    seen.reshape(-1)[cell] = True
    found: Ints = seen.sum(axis=1)
    return found


def _split(text: str) -> tuple[str, str]:
    """Dimensions, and the type behind them."""
    dims, _, kind = text.rpartition(" ")
    return (dims, kind) if dims and not kind[:1].isdigit() else (text, "")


def _together(texts: Sequence[tuple[str, str]]) -> str:
    """One text for shapes that differ in numbers."""
    numbers = [_NUMBER.findall(dims) for dims, _ in texts]
    varies = iter([len(set(column)) > 1 for column in zip(*numbers, strict=True)])
    dims, kind = texts[0]
    return f"{_NUMBER.sub(lambda found: 'n' if next(varies) else found[0], dims)} {kind}".strip()


def _bounded(found: list[Key], group: Ints, steps: int) -> tuple[list[Key], Ints]:
    """The groups with fewest calls as one, where there are too many."""
    most = max(1, min(MAX_GROUPS, MAX_CELLS // max(steps, 1)))
    if len(found) <= most:
        return found, group
    order = np.argsort(-np.bincount(group, minlength=len(found)), kind="stable")
    place = np.full(len(found), most - 1, np.int64)
    place[order[: most - 1]] = np.arange(most - 1)
    return [*(found[at] for at in order[: most - 1].tolist()), ("", OTHERS, "")], place[group]
