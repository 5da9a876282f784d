"""Service level objectives as people type them: `ttft=1s,tpot=50ms`, `chat:prompt=..1000,ttft=1s`, one tier each.

`ttft` is the time from the queue to the first token, `tpot` the mean time per further token of one request; a request
attains a tier when it keeps all that the tier asks for. `prompt=MIN..MAX` limits a tier to requests whose computed
prompt has so many tokens; without it a tier is of all requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.durations import seconds
from flowprof.profiler.errors import UsageError

HINT = "write it like --slo ttft=1s,tpot=50ms or, with a name, --slo chat:prompt=..1000,ttft=1s,tpot=50ms"
MAX_TIERS = 20


@dataclass(frozen=True, slots=True)
class Slo:
    """One tier. None: it does not ask for that. Prompts in tokens, both ends included."""

    name: str
    text: str
    ttft_ns: float | None = None
    tpot_ns: float | None = None
    prompt_min: int | None = None
    prompt_max: int | None = None


def parse(texts: Sequence[str]) -> tuple[Slo, ...]:
    """The tiers. Raises UsageError."""
    tiers = tuple(_tier(text, number) for number, text in enumerate(texts, 1))
    names = [tier.name for tier in tiers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two tiers are called {twice!r}", HINT)
    if len(tiers) > MAX_TIERS:
        raise UsageError(f"{len(tiers)} tiers are more than {MAX_TIERS}", HINT)
    return tiers


def _tier(text: str, number: int) -> Slo:
    name, colon, asked = text.rpartition(":")
    if colon and not re.fullmatch(r"[\w .-]{1,40}", name):
        raise UsageError(f"{name!r} is no name of a tier: letters, digits, -, _ and . make one", HINT)
    values: dict[str, str] = {}
    for part in asked.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in ("ttft", "tpot", "prompt") or key in values:
            raise UsageError(f"{part.strip()!r} in --slo {text!r} is not ttft=, tpot= or prompt=, each once", HINT)
        values[key] = value
    if not values.keys() & {"ttft", "tpot"}:
        raise UsageError(f"--slo {text!r} asks for neither ttft nor tpot", HINT)
    low, high = _range(values["prompt"], text) if "prompt" in values else (None, None)
    return Slo(
        name if colon else f"tier {number}",
        asked,
        seconds(values["ttft"]) * 1e9 if "ttft" in values else None,
        seconds(values["tpot"]) * 1e9 if "tpot" in values else None,
        low,
        high,
    )


def _range(text: str, whole: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"([0-9]{0,9})\.\.([0-9]{0,9})", text)
    low, high = ((int(end) if end else None) for end in match.groups()) if match else (None, None)
    if match is None or (low is None and high is None) or (low or 0) > (high if high is not None else 10**9):
        raise UsageError(
            f"{text!r} in --slo {whole!r} is no range of tokens", "write it like 100..1000, ..1000 or 1000.."
        )
    return low, high
