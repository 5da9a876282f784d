"""What a scan knows of a program, whether it read a binary or a source tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Wait = Literal["condition", "semaphore", "futex", "barrier", "spin", "lock", "poll"]
"""What is waited on: a condition variable, a semaphore, …, a spinning loop, a lock, a poll or a sleep."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A wait in a function's own code. looped: inside a loop, as waits for a condition are."""

    on: Wait
    call: str
    looped: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """What was read from a function's code for the static checks; None: could not be told.

    lookup: it searches (a loop, or a call of something that does). derived: what it returns comes from its arguments
    or its object. gives_back: it returns the unit that it was given. used_after: where a caller uses the unit
    after this function took it back, "" for nowhere. changes: it writes to memory, or calls what may.
    """

    lookup: bool | None = None
    derived: bool | None = None
    gives_back: bool | None = None
    used_after: str | None = None
    changes: bool | None = None


UNKNOWN = Shape()


@dataclass(frozen=True, slots=True)
class Function:
    """name: whole and demangled, as a manifest's pattern sees it. scope: its classes and namespaces without template
    arguments; empty in C. parameters: their types, None where they are unknown. returns: its type, "" if unknown.
    """

    name: str
    scope: tuple[str, ...]
    base: str
    where: str
    parameters: tuple[str, ...] | None = None
    returns: str = ""
    waits: tuple[Waiting, ...] = ()
    wakes: bool = False
    locks: bool = False
    inner: bool = False  # a lambda or a part of the function that scope and base name
    probed: bool = True  # it has, or will have, a symbol

    @property
    def qualified(self) -> str:
        """Scopes and name, without parameters."""
        return "::".join((*self.scope, self.base))


@dataclass(frozen=True)
class Material:
    """path: what was scanned. types: name → member → type, as far as they were described."""

    path: str
    about: Literal["binary", "source"]
    functions: tuple[Function, ...]
    modules: str = ""
    build_id: str = ""
    types: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shape: Callable[[Function], Shape] = lambda function: UNKNOWN


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words(identifier: str) -> list[str]:
    """The words of an identifier, in small letters: `ThreadPool_get2` → thread, pool, get, 2."""
    return [word.lower() for word in _WORD.findall(identifier)]


def around(identifier: str, position: int) -> str:
    """What stands before an identifier's word at the position; what follows, if that is its first."""
    found = list(_WORD.finditer(identifier))[position]
    return identifier[: found.start()] if position else identifier[found.end() :]
