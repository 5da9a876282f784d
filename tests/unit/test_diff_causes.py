"""Why a phase changed: each rule on rows with a known cause, where it must stay silent, and how causes are ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from diff_compared import MS, OWN_THREAD, Facts, Maker, row
from flowprof.profiler.diff.causes import CAUSES
from flowprof.profiler.diff.causes.change import changes, split
from flowprof.profiler.diff.causes.ranking import ranked
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Part, ResourceShift, Row, VariableShift
from request_recordings import Server, chats_and_prompt

FLASH = {"block": "attention", "op": "FLASH_ATTN_EXT", "shape": "64 · 12 heads f16"}
SAME: dict[str, Any] = {"flops": (2e6, 2e6), "bytes": (1e6, 1e6)}
BETWEEN = {"kind": "between", "block": "other", "op": "", "shape": ""}
NO_QUOTA, USED_UP = (None, None, 20, 0, 0), (50_000, 50_000, 20, 18, 80)
UP, DOWN, OUT = "MUL_MAT ffn_up", "MUL_MAT ffn_down", "MUL_MAT output"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(tmp_path_factory.mktemp("compared"), stack)


def waiting(a: float, b: float, part: str, name: str = UP, **more: Any) -> Row:
    """10 ms of work, and so much of a wait, on each side."""
    return row(
        name, 10 + a, 10 + b, parts={"runnable": (0, 0), "fault": (0, 0), "blocked": (0, 0), part: (a, b)}, **more
    )


def shape(name: str, a: str, b: str, before: float, after: float) -> Row:
    return row(name, before, after, shape=a, b_shape=b if a != b else "", bytes=(8e6, 4e6))


# kind of the first cause, words of its claim, its share; the rows; both sides
CASES: dict[str, tuple[str, str, float | None, Sequence[Row], Facts, Facts]] = {
    "one thread fewer": (
        "threads", "One thread fewer computes decode: 2 → 1", 1.0,
        [row(UP, 10, 19, **SAME), row(DOWN, 10, 20, **SAME)], Facts(), Facts(threads=1),
    ),
    "threads explain no more than their work": (  # 2 → 1 doubles at most: 10 of the 30 ms
        "threads", "One thread fewer", 1 / 3, [row(UP, 10, 40, shape="")], Facts(), Facts(threads=1),
    ),
    "more threads than processors": (
        "threads", "2 threads more compute decode: 2 → 4, more than the 2 processors", 1.0,
        [waiting(0, 30, "runnable")], Facts(), Facts(threads=4),
    ),
    "half of the processors": (
        "processors", "may use 1 processor instead of 2, and there are 2 of them", 1.0,
        [waiting(0, 25, "runnable")], Facts(), Facts(cpus="0"),
    ),
    "a hog": (
        "preemption", "hog takes the engine's processors", 0.9,
        [waiting(1, 10, "runnable"), row(DOWN, 10, 11)], Facts(stalls=(("kworker", 5),)), Facts(stalls=(("hog", 90),)),
    ),
    "a neighbour pushes the engine's threads together": (
        "preemption", "hog (900) takes", 1.0, [waiting(0, 9, "runnable")], Facts(), Facts(neighbours={"hog": 0.9}),
    ),
    "a quota": (
        "quota", "The quota of its cgroup keeps the engine's threads off the processors: no quota → 1 processor", 1.0,
        [waiting(0, 9, "runnable")], Facts(quota=NO_QUOTA), Facts(stalls=(("", 90),), quota=USED_UP),
    ),
    "no quota any more": (
        "quota", "off the processors less than before: 1 processor → no quota", 1.0,
        [waiting(9, 0, "runnable")], Facts(stalls=(("", 90),), quota=USED_UP), Facts(quota=NO_QUOTA),
    ),
    "a quota, and a hog that has the processor meanwhile": (
        "quota", "The quota of its cgroup", 1.0,
        [waiting(0, 9, "runnable")], Facts(), Facts(stalls=(("hog", 90),), quota=USED_UP),
    ),
    "a hog, and a quota that is hardly used up": (
        "preemption", "hog takes the engine's processors", 1.0,
        [waiting(0, 9, "runnable")], Facts(), Facts(stalls=(("hog", 90),), quota=(50_000, 50_000, 20, 1, 5)),
    ),
    "a quota of which there is no account": (
        "preemption", "The engine's threads are kept off idle processors, as if a quota were used up", 1.0,
        [waiting(0, 9, "runnable")], Facts(), Facts(stalls=(("", 90),)),
    ),
    "late wake-ups": (
        "preemption", "Woken threads wait longer until an idle processor has come back", 1.0,
        [waiting(0, 9, "runnable")], Facts(), Facts(stalls=(("", 0.5),) * 180),
    ),
    "the engine's own threads": (
        "preemption", "The engine's own threads stand in each other's way on the processors", 1.0,
        [waiting(0, 9, "runnable")], Facts(), Facts(stalls=((OWN_THREAD, 90),)),
    ),
    "a longer context": (
        "context", "a longer context: 256 → 2,048 rows", 0.75,
        [row("FLASH_ATTN_EXT", 1, 7, **FLASH), row(UP, 10, 12, **SAME)], Facts(), Facts(context=2048),
    ),
    "a shorter context": (
        "context", "a shorter context: 2,048 → 256", 1.0,
        [row("FLASH_ATTN_EXT", 7, 1, **FLASH)], Facts(context=2048), Facts(),
    ),
    "other weights": (
        "quantisation", "The weights are of another type: q8_0 → q4_0", 1.0,
        [shape(UP, "768x2048 q8_0", "768x2048 q4_0", 10, 7)], Facts(), Facts(),
    ),
    "other weights, not matched": (
        "quantisation", "q4_0 → q8_0", 1.0,
        [row(UP, 7, None, shape="768x2048 q4_0"), row("ffn_up", None, 10, shape="768x2048 q8_0")], Facts(), Facts(),
    ),
    "another cache": (
        "quantisation", "The KV cache is of another type: f16 → q8_0", 1.0,
        [row("FLASH_ATTN_EXT", 2, 5, **FLASH, b_shape="64 · 12 heads q8_0")], Facts(), Facts(),
    ),
    "flash attention off": (
        "attention", "Flash attention is off: MUL_MAT, SOFT_MAX in place of FLASH_ATTN_EXT", 1.0,
        [
            row("FLASH_ATTN_EXT", 2, None, **FLASH),
            row("MUL_MAT kq", None, 3, block="attention", shape="64 · 12 heads f16"),
            row("SOFT_MAX kq_soft_max", None, 1, block="attention", op="SOFT_MAX", shape="12 heads"),
            row(UP, 10, 10),
        ], Facts(), Facts(),
    ),
    "flash attention off, and what stood between the same neighbours": (
        "attention", "Flash attention is off: CONT, MUL_MAT, SOFT_MAX in place of FLASH_ATTN_EXT", 1.0,
        [
            row("SET_ROWS cache_v + FLASH_ATTN_EXT", 2, 4, block="attention", op="SET_ROWS", shape="64 · 12 heads f16",
                matched="split: SET_ROWS + FLASH_ATTN_EXT → SET_ROWS + MUL_MAT + CONT"),
            row("FLASH_ATTN_EXT of layer 0", 0.1, None, **FLASH),
            row("SOFT_MAX of layer 0", None, 0.1, block="attention", op="SOFT_MAX", shape="12 heads"),
            row(UP, 10, 10),
        ], Facts(), Facts(),
    ),
    "smaller batches": (
        "batch", "Batches are smaller, 512 → 32 tokens per graph", 1.0,
        [row(UP, 1, 4, phase="prefill", **SAME)], Facts(tokens=(512,) * 20), Facts(tokens=(32,) * 320),
    ),
    "fewer sequences at once": (
        "batch", "Fewer sequences decode at once: 4 → 1", 1.0,
        [row(UP, 1, 3, **SAME)], Facts(tokens=(4,) * 20), Facts(tokens=(1,) * 80),
    ),
    "pages from disk": (
        "paging", "The model is read from disk while it runs", 1.0,
        [waiting(0, 20, "fault")], Facts(), Facts(faults=40),
    ),
    "memory from swap": (
        "paging", "Memory of the process comes back from swap while it runs", 1.0,
        [waiting(0, 20, "fault")], Facts(), Facts(faults=40, file=""),
    ),
    "another file than the model": (
        "paging", "vocabulary.db is read from disk less than before", 1.0,
        [waiting(20, 0, "fault")], Facts(faults=40, file="/data/vocabulary.db"), Facts(),
    ),
    "another build": (
        "engine build", "Another build of ggml; attention changed most", 1.0,
        [row("MUL_MAT Qcur", 10, 14, block="attention", **SAME), row(UP, 10, 12, **SAME)], Facts(), Facts(build="bbbb"),
    ),
    "a build for an older processor": (
        "engine build", "Another build of ggml, without amx_int8 avx512_vnni; ffn changed most", 1.0,
        [row(UP, 10, 14, **SAME)], Facts(instructions="amx_int8 avx2 avx512_vnni"),
        Facts(build="bbbb", instructions="avx2"),
    ),
    "a build for this processor": (
        "engine build", "Another build of ggml, with avx2; ffn changed most", 1.0,
        [row(UP, 14, 10, **SAME)], Facts(instructions=""), Facts(build="bbbb", instructions="avx2"),
    ),
    "a build that does not say": (
        "engine build", "Another build of ggml; ffn changed most", 1.0,
        [row(UP, 10, 14, **SAME)], Facts(instructions="avx2"), Facts(build="bbbb"),
    ),
    "another version": (
        "engine build", "Another build of ggml; ffn changed most", 1.0,
        [row(UP, 10, 14, **SAME)], Facts(build=None), Facts(version="2"),
    ),
    "another processor": (
        "machine", "Another machine: processor: EPYC → Xeon", 1.0, [row(UP, 10, 14, **SAME)],
        Facts(meta={"cpu_model": "EPYC"}), Facts(meta={"cpu_model": "Xeon"}),
    ),
    "another governor": (
        "machine", "governor: performance → powersave", 1.0, [row(UP, 10, 14, **SAME)],
        Facts(meta={"cpu_governor": "performance"}), Facts(meta={"cpu_governor": "powersave"}),
    ),
    "others use the memory": (
        "machine", "Other programs use more of the machine: stream (900)", None,
        [row(UP, 10, 14, **SAME)], Facts(), Facts(neighbours={"stream": 1.0}),
    ),
    "one operator is slower": (
        "own work", "MUL_MAT ffn_up takes 10 % longer for the same work: 0.1 → 0.0909 GB/s", 1.0,
        [row(UP, 10, 11, **SAME), row(DOWN, 10, 10, **SAME), row(OUT, 10, 10, **SAME)], Facts(), Facts(),
    ),
    "everything is slower": (
        "own work", "All of decode takes 20 % longer", 1.0,
        [row(name, 10, 12, **SAME) for name in (UP, DOWN, OUT)], Facts(), Facts(),
    ),
    "everything is a little slower": (  # each by less than two runs may differ
        "own work", "All of decode takes 5 % longer for the same work", 1.0,
        [row(name, 10, 10 + ms, significant=False, **SAME) for name, ms in ((UP, 0.4), (DOWN, 0.5), (OUT, 0.6))],
        Facts(), Facts(),
    ),
    "a little slower, and the work is not known": (
        "unexplained", "decode takes 5 % longer; nothing recorded explains it", 1.0,
        [row(name, 10, 10 + ms, significant=False) for name, ms in ((UP, 0.4), (DOWN, 0.5), (OUT, 0.6))],
        Facts(), Facts(),
    ),
    "another kernel, and a little slower": (
        "machine", "Another kernel: kernel: 6.1 → 6.2", 1.0,
        [row(name, 10, 10 + ms, significant=False, **SAME) for name, ms in ((UP, 0.4), (DOWN, 0.5), (OUT, 0.6))],
        Facts(meta={"kernel": "6.1"}), Facts(meta={"kernel": "6.2"}),
    ),
    "a copy that was not there": (
        "added", "CPY x runs now and did not before: a copy", 1.0,
        [row("CPY x", None, 2, op="CPY", shape="64"), row(UP, 10, 10)], Facts(), Facts(),
    ),
    "threads wait for each other": (
        "imbalance", "Threads wait longer for each other", 1.0, [waiting(1, 6, "barrier")], Facts(), Facts(),
    ),
    "threads sleep": (
        "blocking", "Threads of the pool sleep more", 1.0, [waiting(0, 6, "blocked")], Facts(), Facts(),
    ),
    "sampling takes longer": (
        "host", "The time between graphs grew", 1.0,
        [row("between", 1, 4, **BETWEEN), row(UP, 10, 10)], Facts(), Facts(),
    ),
    "the host hides a gain": (
        "host", "hides what the operators gained", 3.0,
        [row("between", 1, 7, **BETWEEN), row(UP, 10, 6, **SAME)], Facts(), Facts(),
    ),
    "nothing explains it": (
        "operator", "MUL_MAT ffn_up takes 10 % longer; nothing recorded explains it", 1.0,
        [row(UP, 10, 11), row(DOWN, 10, 10)], Facts(), Facts(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_cause_comes_first(compared: Maker, name: str) -> None:
    kind, words, share, rows, a, b = CASES[name]
    first, *others = found(compared(rows, a, b))
    assert first.kind == kind and words in first.claim, (first, others)
    assert first.share == pytest.approx(share), (first, others)
    assert first.evidence and first.next


@pytest.mark.parametrize("name", CASES)
def test_without_a_change_there_is_no_cause(compared: Maker, name: str) -> None:
    """The set-ups differ as before, and nothing became slower or faster."""
    *_, rows, a, b = CASES[name]
    quiet = [
        replace(
            one, b_ns_per_token=one.a_ns_per_token or one.b_ns_per_token, delta_ns_per_token=0.0, significant=False,
            a_ns_per_token=one.a_ns_per_token or one.b_ns_per_token, parts=(),
        )
        for one in rows
    ]  # fmt: skip
    assert ranked(compared(quiet, a, b)) == ()


@pytest.mark.parametrize("name", CASES)
def test_no_part_of_the_change_is_counted_twice(compared: Maker, name: str) -> None:
    *_, rows, a, b = CASES[name]
    shares = [cause.share for cause in ranked(compared(rows, a, b)) if cause.share is not None and cause.share > 0]
    gained = sum(one.delta_ns_per_token for one in rows if one.delta_ns_per_token > 0)
    lost = sum(-one.delta_ns_per_token for one in rows if one.delta_ns_per_token < 0)
    assert sum(shares) <= max(gained, lost) / abs(gained - lost) + 1e-9


def found(given: Compared) -> tuple[Cause, ...]:
    causes = ranked(given)
    print(*causes, sep="\n")  # shown when a test fails
    return causes


OTHERS = {
    "kernel: 6.1 → 6.2": (Facts(meta={"kernel": "6.1"}), Facts(meta={"kernel": "6.2"})),
    "governor: performance → powersave": (
        Facts(meta={"cpu_governor": "performance"}), Facts(meta={"cpu_governor": "powersave"}),
    ),
    "processor: EPYC → Xeon": (Facts(meta={"cpu_model": "EPYC"}), Facts(meta={"cpu_model": "Xeon"})),
    "ggml: 1 aaaa → 1 bbbb": (Facts(), Facts(build="bbbb")),
}  # fmt: skip


@pytest.mark.parametrize("fact", OTHERS)
@pytest.mark.parametrize("known", [SAME, {}])
def test_one_operator_is_not_blamed_on_what_all_share(compared: Maker, fact: str, known: dict[str, Any]) -> None:
    """It is named, and what differs besides is in its evidence; when all change it is the cause, and rows are named."""
    one = [row(UP, 10, 11, **known), row(DOWN, 10, 10, **known), row(OUT, 10, 10, **known)]
    (first,) = found(compared(one, *OTHERS[fact]))
    assert first.kind == ("own work" if known else "operator") and UP in first.claim and first.share == 1.0
    assert f"what differs besides, and may be why: {fact}" in first.evidence
    every = [row(name, 10, ms, **known) for name, ms in ((UP, 11), (DOWN, 11.5), (OUT, 12))]
    first, *others = found(compared(every, *OTHERS[fact]))
    assert first.kind in ("machine", "engine build") and fact in (*first.evidence, first.claim) and not others
    assert first.evidence[-1] == f"most of it: {OUT} +2 ms, {DOWN} +1.5 ms, {UP} +1 ms per token"


def test_another_program_is_not_blamed_for_one_operator(compared: Maker) -> None:
    rows = [row(UP, 10, 11, **SAME), row(DOWN, 10, 10, **SAME), row(OUT, 10, 10, **SAME)]
    (first,) = found(compared(rows, Facts(), Facts(neighbours={"stream": 1.0})))
    assert first.kind == "own work" and UP in first.claim


def test_who_ran_instead_is_told_without_trifles(compared: Maker) -> None:
    hogged = Facts(stalls=(("hog", 90), ("cron", 20), ("bash", 0.5)))
    first, *_ = found(compared([waiting(0, 11, "runnable")], Facts(), hogged))
    assert [text.partition(" ran instead")[0] for text in first.evidence[1:]] == ["hog", "cron"]


def test_a_program_is_blamed_once(compared: Maker) -> None:
    """It takes a processor, and may be why the work itself takes longer: that is evidence, unless it is most of it."""
    beside = "how much of the engine's own work is theirs (memory, caches, clock) is not measured"
    hogged = Facts(neighbours={"hog": 1.0}, stalls=(("hog", 90),))
    for work, blamed in ((10.5, ["preemption"]), (16, ["machine", "preemption"])):
        rows = [row(name, 10, work + 4, parts={"runnable": (0, 4)}, **SAME) for name in (UP, DOWN, OUT)]
        causes = found(compared(rows, Facts(), hogged))
        assert sorted(one.kind for one in causes) == blamed
        hog = next(one for one in causes if one.kind == "preemption")
        assert hog.evidence.count("hog (900) used 0.00 → 1.00 processors") == 1
        assert any(text.startswith(beside) for text in hog.evidence) == (len(blamed) == 1)


# ---------------------------------------------------------------------- rules that must stay silent

SILENT: dict[str, tuple[str, Sequence[Row], Facts, Facts]] = {
    "as many threads": ("threads", [row(UP, 10, 20)], Facts(), Facts()),
    "fewer threads, and faster": ("threads", [row(UP, 20, 10)], Facts(), Facts(threads=1)),
    "processors enough": ("processors", [row(UP, 10, 20)], Facts(cpus="0-7"), Facts(cpus="0-3")),
    "a program that ran before, too": (
        "preemption", [waiting(5, 5.1, "runnable")], Facts(stalls=(("hog", 50),)), Facts(stalls=(("hog", 51),)),
    ),
    "a quota that is used up as before": (
        "quota", [waiting(5, 9, "runnable")], Facts(stalls=(("", 50),), quota=USED_UP),
        Facts(stalls=(("", 100), ("hog", 80)), quota=(50_000, 50_000, 40, 36, 110)),
    ),
    "a context that hardly grew": ("context", [row("FLASH_ATTN_EXT", 1, 3, **FLASH)], Facts(), Facts(context=300)),
    "a longer context, and other operators": ("context", [row(UP, 10, 20)], Facts(), Facts(context=4096)),
    "the same types": ("weights", [shape(UP, "768x2048 q8_0", "768x2048 q8_0", 10, 12)], Facts(), Facts()),
    "another shape of one type": ("weights", [shape(UP, "768x2048 q8_0", "768x4096 q8_0", 10, 20)], Facts(), Facts()),
    "flash attention on both sides": ("attention", [row("FLASH_ATTN_EXT", 1, 3, **FLASH)], Facts(), Facts()),
    "batches of the same size": ("batch", [row(UP, 1, 3)], Facts(tokens=(512, 511)), Facts(tokens=(500,) * 4)),
    "a fault or two": ("paging", [waiting(0, 0.01, "fault")], Facts(), Facts(faults=2)),
    "the same build": ("build", [row(UP, 10, 20)], Facts(), Facts()),
    "the same build by another name": ("build", [row(UP, 10, 20)], Facts(), Facts(version="1 unknown")),
    "a build that is not known": ("build", [row(UP, 10, 20)], Facts(), Facts(build=None)),
    "one machine": (
        "machine", [row(UP, 10, 20)], Facts(meta={"cpu_model": "EPYC", "smt": "on"}), Facts(meta={"cpu_model": "EPYC"}),
    ),
    "a quieter machine": ("machine", [row(UP, 10, 20)], Facts(neighbours={"stream": 1.0}), Facts()),
    "more work": ("own_work", [row(UP, 10, 20, flops=(1e6, 2e6), bytes=(1e6, 2e6))], Facts(), Facts()),
    "work that is not known": ("own_work", [row(UP, 10, 20)], Facts(), Facts()),
    "operators on both sides": ("added", [row(UP, 10, 20)], Facts(), Facts()),
    "as much between graphs": ("host", [row("between", 1, 1, **BETWEEN), row(UP, 10, 20)], Facts(), Facts()),
    "barriers as before": ("imbalance", [waiting(1, 1.1, "barrier"), row(DOWN, 10, 20)], Facts(), Facts()),
    "sleep as before": ("blocking", [waiting(1, 1.1, "blocked"), row(DOWN, 10, 20)], Facts(), Facts()),
    "one change": ("cancelling", [row(UP, 10, 20), row(DOWN, 10, 9.9)], Facts(), Facts()),
    "one way replaced by another": (
        "cancelling",
        [row("FLASH_ATTN_EXT", 5, None, **FLASH), row("MUL_MAT kq", None, 5.1, block="attention")], Facts(), Facts(),
    ),
    "a program without torch": ("torch_threads", [row(UP, 10, 20)], Facts(), Facts(threads=1)),
    "a copy as often as before": (
        "torch_copies", [row("aten::copy_", 10, 20, op="aten::copy_", kind="torch", phase="step")], Facts(), Facts(),
    ),
    "no device": ("masked", [row(UP, 10, 8), row(DOWN, 10, 12)], Facts(), Facts()),
    "no requests": ("clients", [row(UP, 10, 20)], Facts(), Facts()),
    "no resources": ("resource", [row(UP, 10, 20)], Facts(), Facts()),
    "no variables": ("variable", [row(UP, 10, 20)], Facts(), Facts()),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_a_rule_stays_silent(compared: Maker, name: str) -> None:
    module, rows, a, b = SILENT[name]
    rule = import_module(f"flowprof.profiler.diff.causes.{module}").causes
    assert rule in CAUSES
    claims = [claim for claim in rule(compared(rows, a, b)) if claim.explains or claim.ns or not claim.measured]
    assert claims == []


def test_every_rule_has_a_page_and_a_silent_case() -> None:
    """Those of torch programs and of devices have theirs in test_diff_torch.py."""
    silent = {module for module, *_ in SILENT.values()}
    for name in {rule.__module__ for rule in CAUSES}:
        page = import_module(name).__doc__ or ""
        assert "Fires " in page and "What to do: " in page, name
        assert name.rpartition(".")[2] in silent | {"torch_threads", "torch_copies", "masked"}, name


# ---------------------------------------------------------------------- requests, resources, variables


def test_another_client_s_prompt(compared: Maker, tmp_path: Path) -> None:
    quiet = Server()
    for step in range(40):
        quiet.batch(step * 10.0, step * 10.0 + 10, (0, 1, step, True), (1, 1, step, True))
    for task, slot in ((3, 0), (4, 1)):
        quiet.request(task, slot, -1, 0, 400, results=40)
    with quiet.write(tmp_path / "a.duckdb") as a, chats_and_prompt().write(tmp_path / "b.duckdb") as b:
        first, *_ = found(compared([row(UP, 10, 10)], a, b))
        assert found(compared([row(UP, 10, 10)], b, b)) == (), "it was there before"
        gone, *_ = found(compared([row(UP, 10, 10)], b, a))
    assert first.kind == "client"
    assert first.claim == "Prompts of 1,000 tokens of another client share the batches of 2 decoding requests"
    assert first.share == pytest.approx(1.0) and "most of all task 9: 480 ms" in first.evidence[1]
    assert "no longer share" in gone.claim


def test_a_resource_is_waited_for(compared: Maker) -> None:
    shift = ResourceShift("slot", "token", 0.0, 5 * MS, MS, 6 * MS, "task 9", True)
    rows = [row("between", 1, 9, **BETWEEN), row(UP, 10, 10)]
    first, second = found(compared(rows, resources=[shift]))
    assert (first.kind, first.share) == ("resource", 0.625) and first.claim.endswith("behind task 9")
    assert (second.kind, second.share) == ("host", 0.375), "the rest of the time between graphs"


def test_a_resource_that_no_row_shows_has_no_share(compared: Maker) -> None:
    """Its waiting is as long as the change, and yet may be another thread's."""
    told = found(compared([row(UP, 10, 14)], resources=[ResourceShift("pool", "token", 0.0, 5 * MS, 0, 0, "", True)]))
    shares = {one.kind: one.share for one in told}
    assert shares["resource"] is None and sum(share or 0 for share in shares.values()) <= 1 + 1e-9


def test_a_variable_of_the_host_has_its_share(compared: Maker) -> None:
    """3 ms of the 5 that came between graphs; the rest is the host's."""
    shift = VariableShift("limit", "scan", "table.c:31", "value", (64, 64), (4096, 4096), 64, 4096, 1.0, 0.001, 0,
                          3 * MS, (), ())  # fmt: skip
    told = found(compared([row("between", 1, 6, **BETWEEN), row(UP, 10, 10)], variables=[shift]))
    assert {one.kind: one.share for one in told} == {"variable": pytest.approx(0.6), "host": pytest.approx(0.4)}


def test_a_variable_and_its_line(compared: Maker) -> None:
    shift = VariableShift("limit", "scan", "table.c:31", "value", (64, 64), (4096, 4096), 64, 4096, 1.0, 0.001, 0,
                          3 * MS, (), ())  # fmt: skip
    (first,) = found(compared([], variables=[shift]))
    assert first.kind == "variable" and first.claim == "limit in scan (table.c:31) is 4096 instead of 64"
    assert "3 ms per token more" in first.evidence[-1]


@pytest.mark.parametrize(
    ("a", "b", "advice"),
    [
        ((1000, 500), (1000, 500), "As many cycles take another time: time off the processor"),
        ((1000, 500, 400), (1000, 500, 400), "As many cycles take another time: time off the processor"),
        ((1000, 500, 400), (1000, 500, 600), "As many cycles take another time: the clock"),
        ((1000, 500), (1500, 500), "As many instructions take other cycles"),
        ((1000, 500), (2000, 1000), "Other code runs"),
    ],
)
def test_counters_tell_why_the_same_work_is_slower(
    compared: Maker, a: tuple[float, ...], b: tuple[float, ...], advice: str
) -> None:
    (first,) = found(compared([row(UP, 10, 15, **SAME)], Facts(counters=a), Facts(counters=b)))
    assert first.next.startswith(advice) and first.confidence == "high"
    assert f"cycles per call {a[0]:,} → {b[0]:,}" in first.evidence[1]
    assert any("2.50 → 1.67 (-33 %): the clock" in one for one in first.evidence) == ("governor" in first.next)


# ---------------------------------------------------------------------- ranking


def test_two_changes_that_cancel_are_said_first(compared: Maker) -> None:
    rows = [row(UP, 10, 13, **SAME), row(DOWN, 10, 7, **SAME), row(OUT, 10, 10)]
    first, *others = found(compared(rows, significant=False))
    assert first.kind == "masked" and first.share is None
    assert f"{UP} became slower, {DOWN} faster" in first.claim
    assert {cause.kind for cause in others} == {"own work"} and all(cause.share is None for cause in others)


def test_a_faster_kernel_under_a_host_bound_loop_is_masked(compared: Maker) -> None:
    rows = [row("gemm", 10, 5, kind="kernel"), row("between", 2, 7, **BETWEEN)]
    first, *_ = found(compared(rows, significant=False))
    assert first.kind == "masked" and first.claim == "A gain in gemm is masked: the host waits or works longer"


def test_causes_of_several_kinds_share_the_change(compared: Maker) -> None:
    """Context +4 of its own rows, a hog +3, and one row that nothing explains +2; weights -1 stand against it."""
    rows = [
        row("FLASH_ATTN_EXT", 1, 5, **FLASH),
        waiting(0, 3, "runnable"),
        row("SOFT_MAX x", 10, 12, op="SOFT_MAX", shape="12"),
        shape(DOWN, "2048x768 q8_0", "2048x768 q4_0", 4, 3),
    ]
    causes = found(compared(rows, Facts(), Facts(context=2048, stalls=(("hog", 30),))))
    assert [(cause.kind, cause.share) for cause in causes] == [
        ("context", 0.5), ("preemption", 0.375), ("operator", 0.25), ("quantisation", None),
    ]  # fmt: skip
    assert causes[-1].evidence[-1] == "against the change: -1 ms per token"


@pytest.mark.parametrize(
    ("part", "facts", "kind"),
    [("runnable", Facts(threads=2, stalls=(("kworker", 60),)), "preemption"), ("fault", Facts(faults=60), "paging")],
)
@pytest.mark.parametrize(("threads", "behind"), [(2, 0.6), (4, 1.8)])
def test_barriers_wait_no_longer_than_threads_are_away(
    compared: Maker, part: Part, facts: Facts, kind: str, threads: int, behind: float
) -> None:
    """0.6 ms away, 9.9 ms at barriers: those of the other threads that the absence explains, and no more."""
    rows = [row(UP, 20, 30.5, parts={part: (0, 0.6), "barrier": (0, 9.9)})]
    imbalance, other = found(compared(rows, Facts(threads=threads), replace(facts, threads=threads)))
    assert (imbalance.kind, imbalance.share) == ("imbalance", pytest.approx((9.9 - behind) / 10.5))
    assert (other.kind, other.share) == (kind, pytest.approx((0.6 + behind) / 10.5))
    rows = [row(UP, 20, 30.5, parts={part: (0, 5.5), "barrier": (0, 5.0)})]
    (only,) = found(compared(rows, Facts(threads=threads), replace(facts, threads=threads)))
    assert (only.kind, only.share) == (kind, pytest.approx(1.0))


def test_a_context_explains_no_more_than_its_proportion(compared: Maker) -> None:
    """2x, and up to twice that: 3 of the 8 ms; nothing recorded explains the rest, which is less sure."""
    rows = [row("FLASH_ATTN_EXT", 1, 9, **FLASH)]
    causes = found(compared(rows, Facts(), Facts(context=512)))
    assert [(cause.kind, cause.share) for cause in causes] == [
        ("context", 3 / 8), ("operator", 5 / 8),
    ]  # fmt: skip


def test_a_tail_that_grew_is_a_claim(compared: Maker) -> None:
    rows = [row(UP, 10, 10, tail=(11, 30)), row(DOWN, 10, 10)]
    (first,) = found(compared(rows, significant=False, tails=True))
    assert "its slowest steps changed" in first.claim and first.share is None
    assert first.evidence[1] == "95th percentile of steps: 11 ms → 30 ms per token"


def test_cells_add_up_to_the_row(compared: Maker) -> None:
    """Also where the parts exceed the row, as medians may, and where one side did not record some."""
    one = row(UP, 10, 30, parts={"runnable": (1, 40), "barrier": (0, 10), "fault": (None, 5)})
    assert split(one) == {"runnable": 29 * MS, "barrier": 0.0, "work": -9 * MS}
    (change,) = changes(compared([one]))
    assert sum(change.cells.values()) == one.delta_ns_per_token


def test_what_nothing_explains_is_said_of_the_phase(compared: Maker) -> None:
    """3 of the 11 ms are a hog's; the rest is in rows none of which changed by itself, and is told with them."""
    rows = [waiting(0, 3, "runnable"), row(DOWN, 40, 46, significant=False), row(OUT, 20, 22, significant=False)]
    rest, hog = found(compared(rows, Facts(), Facts(stalls=(("hog", 30),))))
    assert (hog.kind, hog.share) == ("preemption", pytest.approx(3 / 11))
    assert rest.kind == "unexplained" and rest.share == pytest.approx(8 / 11) and rest.confidence == "low"
    assert rest.claim == "decode takes 15.7 % longer; nothing recorded explains 73 % of that"
    assert f"most of it: {DOWN} +6 ms, {OUT} +2 ms per token" in rest.evidence
    half = [waiting(0, 6, "runnable"), row(DOWN, 40, 45, significant=False)]
    assert [one.kind for one in found(compared(half, Facts(), Facts(stalls=(("hog", 60),))))] == ["preemption"]


def test_a_phase_without_operators_has_a_claim(compared: Maker) -> None:
    given = compared([row(UP, 10, 11)])
    (only,) = found(replace(given, rows=()))
    assert only.claim == "decode takes 10 % longer; nothing recorded explains it" and only.share == 1.0
    assert "its operators are not known on both sides" in only.evidence[1]


def test_a_few_rows_among_many_that_hardly_changed(compared: Maker) -> None:
    """One by itself; the others together, where they are most of the change."""
    rows = [row(UP, 10, 13, **SAME), *(row(name, 30, 31.5, significant=False, **SAME) for name in (DOWN, OUT, "Q"))]
    others, first = found(compared(rows))
    assert others.claim.startswith("The rest of decode takes 5 % longer") and others.share == pytest.approx(0.6)
    assert UP in first.claim and first.share == pytest.approx(0.4)
    alone = [row(UP, 10, 13, **SAME), *(row(name, 30, 30.1, significant=False, **SAME) for name in (DOWN, OUT, "Q"))]
    (only,) = found(compared(alone))
    assert UP in only.claim


def test_a_variable_stands_before_what_nothing_explains(compared: Maker) -> None:
    shift = VariableShift("limit", "scan", "table.c:31", "value", (64, 64), (4096, 4096), 64, 4096, 1.0, 0.001, 0,
                          None, (), ())  # fmt: skip
    first, second = found(compared([row(UP, 10, 10.6, significant=False)], variables=[shift]))
    assert (first.kind, second.kind) == ("variable", "unexplained")


def test_what_is_left_of_rows_is_no_trifle(compared: Maker) -> None:
    """Where the phase did not change as a whole, too: fewer threads explain all rows but one of a microsecond."""
    rows = [row(name, 10, 19, **SAME) for name in (UP, DOWN, OUT)] + [row("GET_ROWS", 0.002, 0.001, **SAME)]
    (only,) = found(compared(rows, Facts(), Facts(threads=1), significant=False))
    assert only.kind == "threads"


def test_an_empty_diff_has_no_causes(compared: Maker) -> None:
    assert ranked(compared([])) == ()
