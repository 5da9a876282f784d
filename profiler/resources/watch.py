"""`--watch`: variables that are named on the command line, as a manifest of variables alone.

    limit                      a global variable, every PERIOD_MS
    pool.used, pool->used      a member of one
    *(global(table) + 8):u32   any expression that needs no call
    lookup(limit)              whenever lookup is entered: its argument of that name, or a global variable then
    lookup(arg1->size)         a member of what its first argument points to
    lookup(ret)                what it returns

FUNCTION(EXPRESSION): the function's name as demanglers print it, without arguments; expressions: expression.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flowprof.profiler.errors import UsageError
from flowprof.profiler.resources.expression import NAMED, NUMBER, RETURN, ExpressionError, parse
from flowprof.profiler.resources.manifest import Manifest, Variable

NAME = "--watch"
PERIOD_MS = 20
MAX_WATCHES = 64
_CALL = re.compile(r"\s*(?!global\b|cast\b)([A-Za-z_$~][\w$:~<>,]*)\s*\((.*)\)\s*", re.DOTALL)


def manifest(texts: Sequence[str]) -> Manifest | None:
    """The variables that are to be watched, none twice; None: none are. Raises UsageError."""
    if not texts:
        return None
    if len(texts) > MAX_WATCHES:
        raise UsageError(f"--watch is given {len(texts)} times; {MAX_WATCHES} variables can be watched")
    watched = tuple(_variable(text.strip()) for text in dict.fromkeys(texts))
    return Manifest(NAME, "variables named on the command line", NAME, "", (), (), watched)


def _variable(text: str) -> Variable:
    call = _CALL.fullmatch(text)
    expression = call[2] if call else text
    try:
        way = parse(expression)
    except ExpressionError as error:
        hint = "--watch limit, --watch pool.used, --watch 'lookup(arg1->size)'"
        raise UsageError(f"--watch {text[:80]!r}: {error}", hint) from error
    if call:
        return Variable(text, expression, PERIOD_MS, 0, re.escape(call[1]), "return" if way.base == RETURN else "entry")
    if way.base not in (NUMBER, NAMED):
        raise UsageError(
            f"--watch {text[:80]!r} needs a call: arguments are there only when a function is entered",
            f"--watch 'FUNCTION({text[:80]})'",
        )
    return Variable(text, text, PERIOD_MS)
