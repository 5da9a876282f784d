"""Another build of the engine.

Fires when the engine's binaries differ (by their build ids; by versions where one side knows no ids: builds.py) and a
phase changed all over (broad.py). What no rule before it explains of the
operators' own work and of what only one build runs is the build's as far as anybody can tell; the evidence says which
blocks changed by how much, the claim which instruction sets its kernels gained or lost. Confidence is medium: a build
may differ in nothing that matters here.

What to do: `git log` between the two versions for the blocks named; the same compiler options (-march, GGML_NATIVE).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from flowprof.profiler.diff.causes.broad import broad, largest
from flowprof.profiler.diff.causes.change import HOST, Change, changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.setup import agreed, instructions
from flowprof.profiler.diff.comparability.builds import SHOWN, Build, builds, only
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Pair
from flowprof.profiler.findings import in_ms


def causes(compared: Compared) -> Sequence[Claim]:
    said = told(compared.pair)
    if not said:
        return []
    sets = [agreed(side, instructions) for side in (compared.pair.a, compared.pair.b)]
    engines = ", ".join(one.partition(":")[0] for one in said)
    what = f"Another build of {engines}{_other_instructions(*sets)}"
    return [_claim(change, what, said) for change in changes(compared) if broad(change)]


def told(pair: Pair) -> list[str]:
    """Engines of which both sides run other builds: "ggml: b7342 abab → b7400 cdcd"."""
    a, b = agreed(pair.a, builds), agreed(pair.b, builds)
    before, after = only(a or (), b or ())
    common = {one.engine for one in before} & {one.engine for one in after}
    return [f"{engine}: {_named(before, engine)} → {_named(after, engine)}" for engine in sorted(common)]


def _claim(change: Change, what: str, said: Sequence[str]) -> Claim:
    explains = change.of(parts=("work", "barrier"))
    blocks: dict[str, float] = defaultdict(float)
    for (place, _), ns in explains.items():
        row = change.rows[place]
        blocks[row.block if row.kind not in HOST else "between operators"] += ns
    named = sorted(blocks.items(), key=lambda one: -abs(one[1]))
    each = ", ".join(f"{block} {'+' if ns > 0 else '-'}{in_ms(abs(ns))}" for block, ns in named[:5])
    return Claim(
        Cause(
            claim=f"{what}; {named[0][0]} changed most" if named else what,
            kind="engine build",
            share=None,
            confidence="medium",
            evidence=(*said, f"by block: {each} per {change.per}", *largest(change, explains)),
            next="Look in the engine's log between the two versions for these blocks, and at both builds' "
            "compiler options (-march, GGML_NATIVE).",
            phase=change.phase,
        ),
        explains,
    )


def _other_instructions(a: frozenset[str] | None, b: frozenset[str] | None) -> str:
    if a is None or b is None:
        return ""
    lost, gained = " ".join(sorted(a - b)), " ".join(sorted(b - a))
    return (f", without {lost}" if lost else "") + (f", with {gained}" if gained else "")


def _named(modules: Sequence[Build], engine: str) -> str:
    mine = [one for one in modules if one.engine == engine]
    return ", ".join(" ".join(filter(None, (one.version, one.build_id[:SHOWN]))) for one in mine)
