"""Diffs made by hand, with everything in them that a viewer may meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowprof.profiler.diff.result import (
    Cause,
    Comparability,
    Diff,
    Difference,
    LayerShift,
    PartShift,
    PhaseShift,
    ResourceShift,
    Row,
    RowKind,
    SideFacts,
    VariableShift,
)

NOTHING = (None, None)


def row(name: str, a_ns: float | None, b_ns: float | None, *, kind: RowKind = "operator", phase: str = "decode",
        block: str = "ffn", op: str = "MUL_MAT", tensor: str = "", **more: Any) -> Row:  # fmt: skip
    """A row whose delta follows from its times; significant where it is more than 50 µs."""
    delta = (b_ns or 0.0) - (a_ns or 0.0)
    sure = abs(delta) > 50e3
    made = Row(
        kind=kind, name=name, phase=phase, block=block, op=op, shape="2048x5632 q8_0", b_shape="", a_ns_per_token=a_ns,
        b_ns_per_token=b_ns, delta_ns_per_token=delta, ci95=(delta - 9e3, delta + 11e3), shift_ns_per_token=delta,
        shift_ci95=(delta - 8e3, delta + 8e3), q=0.0004 if sure else 0.61, noise_ns_per_token=20e3, significant=sure,
        a_tail_ns=None if a_ns is None else a_ns * 1.1, b_tail_ns=None if b_ns is None else b_ns * 1.2, tail_q=0.2,
        tail_significant=False, layers=(), matched="", parts=(), flops=NOTHING, bytes=NOTHING, calls_per_token=NOTHING,
        tensor=tensor,
    )  # fmt: skip
    return replace(made, **more)


def phase_of(rows: list[Row], name: str, more: bool = True) -> PhaseShift:
    """The phase that the rows of that name add up to."""
    mine = [one for one in rows if one.phase == name]
    a, b = (sum(getattr(one, f"{side}_ns_per_token") or 0.0 for one in mine) for side in "ab")
    return PhaseShift(
        phase=name, a_tokens=512, b_tokens=498, a_ns_per_token=a, b_ns_per_token=b, delta_ns_per_token=b - a,
        ci95=(b - a - 40e3, b - a + 40e3) if more else None, q=1e-5 if more else None,
        noise_ns_per_token=60e3 if more else None, significant=more, a_tail_ns=a * 1.2, b_tail_ns=b * 1.3, tail_q=0.3,
        tail_significant=False,
    )  # fmt: skip


ROWS = [
    row("MUL_MAT ffn_up 2048x5632 q8_0", 3.9e6, 5.2e6, tensor="ffn_up",
        parts=(PartShift("work", 3.0e6, 3.1e6), PartShift("barrier", 0.9e6, 2.0e6), PartShift("runnable", 0.0, 0.1e6)),
        by_layer=(LayerShift(0, 1.9e6, 2.0e6), LayerShift(1, 2.0e6, 3.2e6)), layers=(1,)),
    row("MUL_MAT ffn_down 5632x2048 q8_0", 3.9e6, 3.6e6, tensor="ffn_down",
        parts=(PartShift("work", 3.5e6, 3.3e6), PartShift("barrier", 0.4e6, 0.3e6))),
    row("FLASH_ATTN_EXT fattn", None, 0.9e6, block="attention", op="FLASH_ATTN_EXT", tensor="fattn"),
    row("MUL_MAT kq 64 · 32 heads f16", 0.7e6, None, block="attention", tensor="kq",
        by_layer=(LayerShift(0, 0.3e6, None), LayerShift(1, 0.4e6, None))),
    row("RMS_NORM norm 2048 f32", 0.21e6, 0.22e6, block="attention", op="RMS_NORM", tensor="norm"),
    row("MUL_MAT result_output 2048x32000 q6_K", 1.1e6, 1.12e6, block="output", tensor="result_output",
        matched="renamed: result_output → lm_head", b_shape="2048x32064 q6_K"),
    row("between graphs: sampling, the server's own work", 0.3e6, 0.9e6, kind="between", block="other", op=""),
    row("MUL_MAT ffn_up 2048x5632 q8_0", 0.4e6, 0.41e6, phase="prefill", tensor="ffn_up"),
]  # fmt: skip

DIFF = Diff(
    verdict="slower",
    headline="decode became 18.1 % slower: 10.1 → 11.9 ms per token (+1.83 ms, 95 %: +1.79 … +1.87 ms)",
    a=SideFacts(("normal-1.duckdb", "normal-2.duckdb"), "ggml b7342", "llama 1.1 B", 1024, 11_200_000_000),
    b=SideFacts(("buggy.duckdb",), "ggml b7342", "llama 1.1 B", 498, 6_100_000_000),
    comparability=Comparability(
        "comparable per token", 0.85,
        (Difference("threads", "different", "4", "3", 0.1, "a thread fewer: work of every operator grows"),
         Difference("ceilings", "unknown", "", "", 0.05, "not recorded on either side"),
         Difference("model", "same", "llama 1.1 B", "llama 1.1 B", 0.0, "")),
        "Times are divided by the tokens of each phase: the sides have 512 and 498.",
    ),
    phases=(phase_of(ROWS, "decode"), phase_of(ROWS, "prefill", more=False)),
    rows=tuple(ROWS),
    resources=(ResourceShift("slot", "token", 1.2e6, 9.7e6, 8.0e6, 8.4e6, "task 12 (prompt of 4 096 tokens)", True),
               ResourceShift("new thing", "s", None, 3.0e6, None, 4.0e6, "", False)),
    variables=(VariableShift("limit", "worker_loop", "worker.cpp:41", "value", (64, 64), (4096, 4096), 64, 4096, 1.0,
                             0.0002, 1_200_000_000, 0.4e6, ((64, 1.0),), ((4096, 1.0),)),
               VariableShift("queue length", "post", "", "delta", (0, 3), (0, 9), 1, 4, 0.42, 0.01, None, None,
                             ((0, 0.4), (1, 0.3), (3, 0.3)), ((0, 0.1), (4, 0.6), (9, 0.3)))),
    causes=(Cause("One thread fewer computes", "threads", 0.81, "high", ("4 → 3 threads of the pool",
                  "barrier waits grew by 1.1 ms per token"), "Start the server with -t 4.", "decode"),
            Cause("A slot was held by one long prompt", "resource", None, "low", ("task 12",), "", "")),
    notes=("GPU work: recorded on one side only.",),
)  # fmt: skip

EMPTY = Diff(
    verdict="not enough data", headline="", a=SideFacts((), "", "", 0, 0), b=SideFacts((), "", "", 0, 0),
    comparability=Comparability("comparable", 1.0, (), ""), phases=(), rows=(), resources=(), variables=(), causes=(),
    notes=(),
)  # fmt: skip


def hostile(text: str) -> Diff:
    """Every string that a target or a file chooses is `text`."""
    each = tuple(
        replace(one, name=text, block=text, op=text, tensor=text, shape=text, b_shape=text, matched=text, phase=text)
        for one in ROWS
    )
    return replace(
        DIFF, headline=text, rows=each, notes=(text,), a=SideFacts((text,), text, text, 1, 1),
        phases=(phase_of(list(each), text),),
        comparability=Comparability(
            "not comparable", 0.0, (Difference(text, "different", text, text, 1.0, text),), text
        ),
        resources=tuple(replace(one, resource=text, holder=text, per=text) for one in DIFF.resources),
        variables=tuple(replace(one, name=text, function=text, source=text, view=text) for one in DIFF.variables),
        causes=tuple(replace(c, claim=text, kind=text, evidence=(text,), next=text, phase=text) for c in DIFF.causes),
    )  # fmt: skip


def many(count: int) -> Diff:
    """So many rows, with long names."""
    rows = [
        row(f"MUL_MAT a_rather_long_name_of_a_tensor_{at} 2048x5632 q8_0 and more", 50e3 + at, 50e3 + 300.0 * at,
            tensor=f"a_rather_long_name_of_a_tensor_{at}", block=("attention", "ffn", "moe", "output", "other")[at % 5],
            op=("MUL_MAT", "ROPE", "ADD")[at % 3], by_layer=tuple(LayerShift(layer, 1e3, 2e3) for layer in range(32)))
        for at in range(count)
    ]  # fmt: skip
    return replace(DIFF, rows=tuple(reversed(rows)), phases=(phase_of(rows, "decode"),))
