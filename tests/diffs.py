"""Diffs made by hand, for what reads them: gates and viewers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowprof.profiler.diff.result import (
    Cause,
    Comparability,
    Diff,
    Difference,
    PartShift,
    PhaseShift,
    ResourceShift,
    Row,
    SideFacts,
    VariableShift,
)

EVIL = "a|b`c<script>@org #1 [x](http://y) *b*\x1b[2J\u202e\n| - "
MS = 1e6


def phase(name: str = "decode", delta: float = 0.5, **changes: Any) -> PhaseShift:
    """A phase of 5 ms a token; `delta` and other times in ms. Its interval is 0.1 ms around the change."""
    times = ("a_ns_per_token", "b_ns_per_token", "noise_ns_per_token", "a_tail_ns", "b_tail_ns")
    changes = {key: value * MS if key in times and value is not None else value for key, value in changes.items()}
    made = PhaseShift(
        phase=name, a_tokens=1000, b_tokens=1200, a_ns_per_token=5 * MS, b_ns_per_token=(5 + delta) * MS,
        delta_ns_per_token=delta * MS, ci95=((delta - 0.1) * MS, (delta + 0.1) * MS), q=0.0001,
        noise_ns_per_token=0.05 * MS, significant=abs(delta) > 0.2, a_tail_ns=6 * MS, b_tail_ns=(6 + delta) * MS,
        tail_q=0.2, tail_significant=False,
    )  # fmt: skip
    return replace(made, **changes)


def row(name: str = "MUL_MAT ffn_up 768x2048 q8_0", delta: float = 0.3, **changes: Any) -> Row:
    """A row of 1 ms a token in decode; `delta` in ms."""
    made = Row(
        kind="operator", name=name, phase="decode", block="ffn", op="MUL_MAT", shape="768x2048 q8_0", b_shape="",
        a_ns_per_token=1 * MS, b_ns_per_token=(1 + delta) * MS, delta_ns_per_token=delta * MS,
        ci95=((delta - 0.01) * MS, (delta + 0.01) * MS), shift_ns_per_token=delta * MS, shift_ci95=None, q=0.0002,
        noise_ns_per_token=0.02 * MS, significant=True, a_tail_ns=1.1 * MS, b_tail_ns=(1.1 + delta) * MS, tail_q=0.5,
        tail_significant=False, layers=(), matched="",
        parts=(PartShift("work", 0.9 * MS, 0.9 * MS), PartShift("barrier", 0.1 * MS, (0.1 + delta) * MS)),
        flops=(None, None), bytes=(None, None), calls_per_token=(14.0, 14.0),
    )  # fmt: skip
    return replace(made, **changes)


def difference(what: str = "kernel", sameness: Any = "different", weight: float = 0.1, **changes: Any) -> Difference:
    made = Difference(what, sameness, "6.12.0", "6.1.0" if sameness == "different" else "6.12.0", weight, "it matters")
    return replace(made, **changes)


def diff(**changes: Any) -> Diff:
    """One that became 10 % slower."""
    side = SideFacts(("a.duckdb",), "ggml 0.26", "model.gguf", 1000, 10**10)
    made = Diff(
        verdict="slower", headline="decode became 10.0 % slower: 5.00 → 5.50 ms per token", a=side,
        b=replace(side, files=("b.duckdb",)),
        comparability=Comparability(
            "comparable", 0.9, (difference(), difference("model file", "unknown", 0, a="", b="b.gguf"),
                                difference("threads", "same", 0.3)), "Times are per token of their phase."),
        phases=(phase(), phase("prefill", 0.0, significant=False)),
        rows=(row(), row("FLASH_ATTN_EXT 64", 0.15)), resources=(), variables=(), causes=(), notes=(),
    )  # fmt: skip
    return replace(made, **changes)


def everything(name: str = "limit") -> Diff:
    """With all that a diff can hold; `name` wherever a name from the target stands."""
    side = SideFacts((f"{name}.duckdb", "a2.duckdb", "a3.duckdb", "a4.duckdb"), name, name, 1000, 10**10)
    resource = ResourceShift(name, "token", 1e5, 2e6, None, 3e6, name, True)
    variable = VariableShift(
        name, name, f"{name}.c:12", "value", (64.0, 64.0), (64.0, 4096.0), 64.0, 4096.0, 0.9, 0.001, 2_000_000_000,
        0.2 * MS, ((64.0, 1.0),), ((4096.0, 1.0),),
    )  # fmt: skip
    cause = Cause(
        f"{name} is why", "threads", 0.8, "high", (f"{name}: 2 → 1", "more"), f"start it with {name}", "decode"
    )
    rows = [
        row(name, 0.4, matched=f"renamed: {name} → x", b_shape="512x512"),
        row("gone", -0.2, b_ns_per_token=None, significant=False, q=None, ci95=None),
        row("new", 0.2, a_ns_per_token=None, significant=False, q=None, ci95=None, parts=()),
        row("slow steps", 0.0, significant=False, tail_significant=True, tail_q=0.001),
        *(row(f"more {number}", 0.01) for number in range(20)),
        *(row(f"quiet {number}", 0.001, significant=False) for number in range(20)),
    ]
    facts = [difference(name, weight=0.3, why=name), *(difference(f"fact {number}") for number in range(20)),
             *(difference(f"open {number}", "unknown", 0, a="", b="") for number in range(20))]  # fmt: skip
    return diff(
        headline=f"decode became slower: {name}", a=side, b=side,
        comparability=Comparability("comparable per token", 0.3, tuple(facts), f"per token, {name}"),
        rows=tuple(rows), resources=(resource,) * 6, variables=(variable,) * 6, causes=(cause,) * 6,
        notes=(f"the note of {name}",) * 8, changed_at_ns=2_000_000_000,
    )  # fmt: skip
