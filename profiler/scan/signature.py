"""A demangled C++ name in its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NAME = 2048  # characters; a longer one is no function that anyone would write a manifest for
_CLONE = re.compile(r"(?:\s\[clone [^]]*\])+$|(?:\.(?:part|isra|constprop|cold|lto_priv|localalias|llvm)(?:\.\d+)*)+$")
_TAIL = re.compile(r"(?:\s+(?:const|volatile|noexcept|&&?))+$")
_THREAD = re.compile(r"(?:<|, )((?!std::|__gnu)[A-Za-z_]\w*(?:::~?\w+)*\([^()<>]*\)(?: const)?::\{lambda)")
_OPEN, _CLOSE = "<({[", ">)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """`parameters`: None where the name has none (C). inner: of a lambda in it, or of a clone that is only a part."""

    scope: tuple[str, ...]
    base: str
    parameters: tuple[str, ...] | None
    returns: str
    inner: bool


def read(name: str) -> Signature | None:
    """None for what is no ordinary function: an operator, a thunk, a guard, a name that cannot be read."""
    if len(name) > MAX_NAME:
        return None
    bare = _CLONE.sub("", name)
    inner = len(bare) != len(name)
    if bare.startswith("std::thread::_State_impl<"):
        started = _THREAD.search(bare)
        if started is None:
            return None
        bare = started[1] + "}"
    at = bare.find("::{lambda")
    if at > 0:
        bare, inner = bare[:at], True
    bare = _TAIL.sub("", bare)
    if "operator" in bare or "{" in bare or " for " in bare or " to " in bare:
        return None
    parameters: tuple[str, ...] | None = None
    if bare.endswith(")"):
        start = _matching(bare)
        if start <= 0:
            return None
        inside = bare[start + 1 : -1]
        parameters = tuple(part.strip() for part in split(inside, ",")) if inside.strip() else ()
        bare = bare[:start]
    pieces = split(bare, " ")
    path = [_plain(part) for part in split(pieces[-1], "::")]
    if not all(re.fullmatch(r"~?[A-Za-z_$]\w*", part, re.ASCII) or part == "(anonymous namespace)" for part in path):
        return None
    scope = tuple(part for part in path[:-1] if part != "(anonymous namespace)")
    return Signature(scope, path[-1], parameters, " ".join(pieces[:-1]), inner)


def split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no bracket."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        c = text[at]
        depth += (c in _OPEN) - (c in _CLOSE and not text.startswith("->", at - 1))
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            at += len(separator)
            start = at
            continue
        at += 1
    return [*parts, text[start:]]


def _matching(text: str) -> int:
    """Where the bracket opens that the last character closes; -1: nowhere."""
    depth = 0
    for at in range(len(text) - 1, -1, -1):
        depth += (text[at] in ")}]") - (text[at] in "({[")
        if depth == 0:
            return at
    return -1


def _plain(part: str) -> str:
    """Without template arguments, and without `[abi:…]`."""
    part = part.split("[abi:")[0]
    at = part.find("<")
    return part[:at] if at > 0 else part
