"""What is to be faster, as `flowprof whatif` is told: `attn=7.29x`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from flowprof.profiler.analyzers.losses import ANALYZER as LOSSES
from flowprof.profiler.errors import NothingToProfileError, UsageError
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.store import Recording

MAX_PATTERN, MAX_FACTOR = 100, 1e6
_CHANGE = re.compile(r"(.+)=([0-9.]+(?:e[0-9]+)?)x?", re.I)


@dataclass(frozen=True, slots=True)
class Change:
    """Operators (`kind` op) or a block become `factor` times as fast; less than 1: slower."""

    kind: str
    pattern: str
    factor: float


def read_change(kind: str, text: str) -> Change:
    """`attn=7.29x`. Raises UsageError."""
    match = _CHANGE.fullmatch(text.strip())
    if match is None or len(match[1]) > MAX_PATTERN:
        raise UsageError(f"--{kind} {text[:MAX_PATTERN]!r} is no change", f"write it like --{kind} NAME=2x")
    try:
        factor = float(match[2])
    except ValueError:
        factor = math.nan
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        raise UsageError(f"--{kind} {text!r}: {match[2]} is no speed-up", f"write it like --{kind} {match[1]}=2x")
    return Change(kind, match[1], factor)


def refuse_losses(recording: Recording) -> None:
    """Raises NothingToProfileError where so much was lost that verdicts are withheld."""
    losses = LOSSES.run(recording).value
    if isinstance(losses, Losses) and losses.withheld:
        lost = f"{losses.share * 100:.1f} % of the events were lost, the limit is {losses.limit * 100:.0f} %"
        raise NothingToProfileError(f"{recording.path} cannot say: {lost}", "record again with fewer levels")
