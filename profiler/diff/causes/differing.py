"""What all operators share and is not the same on both sides: builds, machine, settings, kernel. Part of the rules.

Where one of them is not the cause by itself (broad.py) it stands in the evidence of what is.
"""

from __future__ import annotations

from flowprof.profiler.diff.causes import build, machine
from flowprof.profiler.diff.side import Pair

MAX_SHOWN = 4


def besides(pair: Pair) -> tuple[str, ...]:
    """One sentence, or none."""
    told = [*build.told(pair), *(fact for _, facts, _ in machine.facts(pair) for fact in facts)]
    more = f" and {len(told) - MAX_SHOWN} more" if len(told) > MAX_SHOWN else ""
    return (f"what differs besides, and may be why: {'; '.join(told[:MAX_SHOWN])}{more}",) if told else ()
