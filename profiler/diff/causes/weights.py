"""The same tensors have another type: another quantisation of the weights, another type of the cache.

Fires when rows of a phase that changed are the same but for the type in their shape (768x2048 q8_0 → 768x2048 q4_0),
matched to each other or as one row that is gone and one that is new. What such rows gained or lost is explained,
whichever way: fewer bytes are read sooner, but some types cost more arithmetic. Bytes per token are in the evidence.

What to do: `llama-quantize` writes the other type; --cache-type-k and --cache-type-v set that of the cache.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.findings import in_ms

TYPE = re.compile(
    r"\b(i?q\d\w*|tq\d\w*|[if]\d{1,2}|bf16|mxfp\d+|nvfp\d+|bfloat16|float\d+\w*|half|double|c10::\w+|int\d+)\b"
)
PRODUCTS = ("MUL_MAT", "MUL_MAT_ID")


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        pairs = retyped(change)
        if pairs:
            found.append(_claim(change, pairs))
    return found


def kind_and_rest(shape: str) -> tuple[str, str]:
    """The types that a shape names, and the shape without them."""
    return " ".join(TYPE.findall(shape)), TYPE.sub("", shape)


def retyped(change: Change) -> dict[int, tuple[str, str]]:
    """Rows whose type differs → (before, after). Those on one side only are paired by block, operator and shape."""
    found: dict[int, tuple[str, str]] = {}
    gone: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    new: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, row in change.rows.items():
        kind, rest = kind_and_rest(row.shape)
        if row.a_ns_per_token is not None and row.b_ns_per_token is not None:
            after, after_rest = kind_and_rest(row.b_shape or row.shape)
            if kind and after and kind != after and rest == after_rest:
                found[place] = kind, after
        elif kind:
            (gone if row.a_ns_per_token is not None else new)[row.block, row.op, rest].append(place)
    for key in gone.keys() & new.keys():
        before = kind_and_rest(change.rows[gone[key][0]].shape)[0]
        after = kind_and_rest(change.rows[new[key][0]].shape)[0]
        if before != after:
            found.update(dict.fromkeys(gone[key] + new[key], (before, after)))
    return found


def _claim(change: Change, pairs: dict[int, tuple[str, str]]) -> Claim:
    weight: dict[tuple[str, str], float] = defaultdict(float)
    for place, types in pairs.items():
        row = change.rows[place]
        weight[types] += max(row.a_ns_per_token or 0.0, row.b_ns_per_token or 0.0)
    ranked = sorted(weight, key=lambda types: -weight[types])
    before, after = ranked[0]
    rows = [change.rows[place] for place in pairs]
    what = "The KV cache is" if all(_attends(row) for row in rows) else "The weights are"
    if any(row.kind in ("torch", "kernel") for row in rows):
        what = "Tensors are"
    named = sorted(rows, key=lambda row: -abs(row.delta_ns_per_token))[:3]
    each = ", ".join(f"{row.name}: {in_ms(row.delta_ns_per_token)}" for row in named)
    evidence = [f"{len(rows)} rows of {change.phase} have another type; change per {change.per}: {each}"]
    a_bytes, b_bytes = (_bytes(rows, side) for side in (0, 1))
    if a_bytes and b_bytes:
        evidence.append(f"bytes that these move: {a_bytes / 1e6:.4g} → {b_bytes / 1e6:.4g} MB per {change.per}")
    if len(ranked) > 1:
        evidence.append("also: " + ", ".join(f"{a} → {b}" for a, b in ranked[1:4]))
    return Claim(
        Cause(
            claim=f"{what} of another type: {before} → {after}",
            kind="quantisation",
            share=None,
            confidence="high",
            evidence=tuple(evidence),
            next="Run the same file on both sides; llama-quantize writes the other type of weights, --cache-type-k and "
            "--cache-type-v set the cache's."
            if what != "Tensors are"
            else "Look for a changed dtype or autocast setting, and for conversions (aten::to, aten::_to_copy).",
            phase=change.phase,
        ),
        change.of(lambda row: row in rows, parts=("work", "barrier", "fault")),
    )


def _attends(row: Row) -> bool:
    return row.block == "attention" and "heads" in row.shape


def _bytes(rows: Sequence[Row], side: int) -> float | None:
    """Per token; None: of none it is known."""
    known = [row.bytes[side] for row in rows if row.bytes[side] is not None]
    return sum(value for value in known if value is not None) if known else None
