"""Static validation of a function's role, as far as its code was read.

An ACQUIRE returns something derived from the resource, and has a lookup pattern; what only reads is a getter. Of a
lock, a place in a queue and what is taken by a number (a slot, a cell) nothing need be returned, so that only speaks
for it. A RELEASE does not return the unit, and its callers do not use the unit after it. What cannot be told (no code,
another machine, an inlined or indirect call) is said and held against nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.scan.material import Function, Shape, words
from flowprof.profiler.scan.vocabulary import POP, POP_MAYBE


@dataclass(frozen=True, slots=True)
class Check:
    """holds: True, False, or None where it cannot be told. said: what was seen, in words."""

    holds: bool | None
    said: tuple[str, ...]


def check(event: str, function: Function, shape: Shape, kind: str) -> Check:
    """Whether the code fits the role."""
    return _acquire(function, shape) if event == "acquire" else _release(function, shape, kind)


def _acquire(function: Function, shape: Shape) -> Check:
    if shape == Shape():
        return Check(None, ("its code was not read",))
    said = []
    if shape.lookup is not None:
        said.append("has a lookup pattern" if shape.lookup else "no loop and no lookup in its own code")
    void = function.returns == "void"
    if void:
        said.append("returns nothing")
    elif shape.derived is not None:
        said.append("returns what comes from its arguments" if shape.derived else "what it returns is no unit")
    else:
        said.append("whether it returns a unit cannot be told")
    if shape.derived and shape.lookup and not void:
        return Check(True, tuple(said))
    if shape.changes is False and not shape.lookup:
        return Check(False, (*said, "it only reads: a getter"))
    return Check(None, tuple(said))


def _release(function: Function, shape: Shape, kind: str) -> Check:
    if kind == "queue" and set(words(function.base)) & (POP | POP_MAYBE):
        return Check(None, ("takes from a queue: it may return what it took",))
    if shape == Shape():
        return Check(None, ("its code was not read",))
    said = []
    if shape.gives_back is not None and function.returns != "void":
        said.append("returns the unit that it was given" if shape.gives_back else "does not return the unit")
    if function.returns == "void":
        said.append("returns nothing")
    if shape.used_after is None:
        said.append("whether callers use the unit after it cannot be told")
    elif shape.used_after:
        said.append(f"a caller uses its argument after it ({shape.used_after})")
    else:
        said.append("no use after it in the callers that were read")
    if shape.gives_back and function.returns != "void":
        return Check(False, tuple(said))
    if shape.used_after == "" and (function.returns == "void" or shape.gives_back is False):
        return Check(True, tuple(said))
    return Check(None, tuple(said))
