"""Steps of torch programs whose truth is known: what is taken as a step, whose time it is, and that it adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.diff.steps import iterations, sources
from flowprof.profiler.diff.steps.steps import Steps
from flowprof.profiler.store import Recording
from torch_programs import BF16, PID, US, Op, Program, compared, layer, python, step


def phases(folder: Path, program: Program) -> dict[str, Steps]:
    with Recording.open(str(program.write(folder / "x.duckdb"))) as recording:
        found = sources.read(recording)
    for steps in found:
        assert steps.ns.shape == (len(steps.start_ns), len(steps.groups)) == (len(steps.tokens), len(steps.facts))
        assert steps.ns.sum(axis=1) == pytest.approx(steps.all_ns), "groups add up to the step"
        assert len(set(steps.groups)) == len(steps.groups)
    return {steps.phase: steps for steps in found}


def time_of(steps: Steps, op: str, block: str | None = None) -> float:
    """µs of a step."""
    mine = [at for at, one in enumerate(steps.groups) if one.op == op and block in (None, one.block)]
    return float(steps.ns[:, mine].sum() / len(steps.ns)) / US


def repeated(count: int, *ops: Op, seed: int = 0, spread: float = 0.03) -> Program:
    program = Program(seed, spread)
    for _ in range(count):
        program.run(*ops)
    return program


# ---------------------------------------------------------------------- iterations


def letters(text: str) -> np.ndarray:
    return np.array([ord(letter) for letter in text], np.int64)


def find(
    text: np.ndarray, stretch: np.ndarray | None = None, ns: np.ndarray | None = None
) -> iterations.Iterations | None:
    """ns: from each call's begin to the next one's; a call takes 1 ns."""
    start = np.cumsum(np.append(0, np.full(len(text), 2) if ns is None else ns))[: len(text)]
    return iterations.find((text,), np.zeros(len(text), np.int64) if stretch is None else stretch, start, start + 1)


STEPS_OF = {
    "one operator": ("a" * 10, 1, 9),
    "a sequence": ("abc" * 10, 3, 9),
    "cut off at both ends": ("c" + "abc" * 10 + "a", 3, 10),
    "layers within steps": (("e" + "abcd" * 8 + "f") * 10, 34, 9),
    "one layer is alone": (("e" + "abcd" + "f") * 10, 6, 9),
    "one call more than the layers": (("abcdefghijklm" * 2 + "z") * 10, 27, 9),
    "many layers, a short rest": (("z" + "abcdefgh" * 40) * 10, 321, 9),
    "a line in a log now and then": (("abcdefghijkl" * 9 + "abcdefghijklz") * 8, 12, 79),
    "warm-up": ("xyzxxyyz" * 3 + "abcdefgh" * 30, 8, 29),
}


@pytest.mark.parametrize("case", STEPS_OF)
def test_iterations_are_found(case: str) -> None:
    text, calls, count = STEPS_OF[case]
    found = find(letters(text))
    assert found is not None
    assert found.calls == calls
    assert count - 1 <= len(found.first) <= count
    assert found.alike.mean() > 0.95


@pytest.mark.parametrize("text", ["", "a", "abcdefgh", "ab", "abcabdabeaf" + "ghijklmno" * 2])
def test_nothing_repeats(text: str) -> None:
    assert find(letters(text)) is None


def test_iterations_do_not_span_stretches() -> None:
    text = letters("abc" * 4 + "ab" + "abc" * 4)
    stretch = np.repeat([1, 2], [14, 12])
    found = find(text, stretch)
    assert found is not None
    assert set((stretch[found.first] * 10 + stretch[found.last]).tolist()) == {11, 22}


def test_iterations_are_cut_where_the_program_pauses() -> None:
    text = letters("abc" * 10)
    found = find(text, ns=np.where(text == ord("b"), 50, 2))
    assert found is not None and set(text[found.first].tolist()) == {ord("c")}


# ---------------------------------------------------------------------- steps


def test_own_time_parents_and_the_rest(tmp_path: Path) -> None:
    found = phases(tmp_path, repeated(30, *step(layers=4), spread=0.0))
    assert list(found) == ["step"]
    one = found["step"]
    assert (one.per, len(one.start_ns)) == ("step", 29)
    assert "one repetition of about 23 outermost operators" in one.what
    assert time_of(one, "aten::mm", "aten::linear") == pytest.approx(4 * (60 + 25) + 150)
    assert time_of(one, "aten::linear", "") == pytest.approx(9 * 2)
    assert time_of(one, "aten::softmax") == pytest.approx(4 * 12)
    assert time_of(one, "outside of operators") == pytest.approx(4 * 5)
    assert time_of(one, "between iterations") == pytest.approx(40), "iterations are cut at the longest gap"
    facts = {(group.op, group.shape): fact for group, fact in zip(one.groups, one.facts, strict=True)}
    product = facts["aten::mm", "16x64 · 64x192 f32"]
    assert product.calls == pytest.approx(4) and product.flops == pytest.approx(4 * 2 * 16 * 64 * 192)
    in_order = sorted(zip(one.groups, one.facts, strict=True), key=lambda pair: pair[1].order)
    names = [group.op for group, _ in in_order]
    assert names[0] == "aten::embedding" and names.index("aten::softmax") < names.index("aten::argmax")


def test_steps_of_a_profiler(tmp_path: Path) -> None:
    program = Program(spread=0.0)
    for number in range(8):
        program.annotate(f"ProfilerStep#{number}", lambda: program.run(*step(layers=2), *step(layers=2)))
        program.run(python(20 * US))
    one = phases(tmp_path, program)["step"]
    assert len(one.start_ns) == 8 and "ProfilerStep" in one.what
    assert time_of(one, "aten::argmax") == pytest.approx(2 * 9)
    assert time_of(one, "between iterations") == pytest.approx(20 * 7 / 8), "nothing is known after the last"
    assert time_of(one, "outside of operators") == pytest.approx(2 * (40 + 2 * 5))


def test_warm_up_is_left_out(tmp_path: Path) -> None:
    program = Program(spread=0.0)
    for _ in range(2):
        program.run(*step(layers=4), *(Op(f"aten::empty_{n}", 900 * US) for n in range(9)))
    for _ in range(30):
        program.run(*step(layers=4))
    one = phases(tmp_path, program)["step"]
    assert time_of(one, "aten::argmax") == pytest.approx(9)
    assert not any("empty" in group.op for group in one.groups)
    assert "2 before them were taken as warm-up" in one.what


def test_a_pause_is_no_part_of_a_step(tmp_path: Path) -> None:
    program = Program(spread=0.0)
    for number in range(30):
        program.run(*step(layers=2), *([python(900_000 * US)] if number % 10 == 9 else []))
    one = phases(tmp_path, program)["step"]
    assert time_of(one, "between iterations") < 41


def test_windows_cut_steps(tmp_path: Path) -> None:
    """Steps that are not wholly in windows of operators are none."""
    program = repeated(20, *step(layers=2), spread=0.0)
    begin, each = 1_000_000, (program.now[PID] - 1_000_000) // 20
    ends = [begin, begin + round(7.5 * each), begin + round(12.5 * each), begin + 20 * each]
    program.windows = [("op", ends[0], ends[1]), ("token", ends[1], ends[2]), ("thread", ends[2], ends[3])]
    one = phases(tmp_path, program)["step"]
    assert len(one.start_ns) == 7 + 6
    assert one.all_ns == pytest.approx(one.all_ns[0], rel=0.15)


def test_slices_where_nothing_repeats(tmp_path: Path) -> None:
    program = Program()
    draw = np.random.default_rng(3)
    for number in draw.geometric(0.02, 1050).tolist():
        program.run(Op(f"aten::op{number}", 10 * US))
    one = phases(tmp_path, program)["step"]
    assert (one.per, len(one.start_ns), set(one.tokens.tolist())) == ("operator", 10, {100})
    assert "no sequence repeats" in one.what


def test_other_threads_are_phases_of_their_own(tmp_path: Path) -> None:
    program = Program(spread=0.0)
    program.tables["thread"] = [{"pid": PID, "tid": 7, "comm": "pt_autograd_0"}]
    for _ in range(20):
        program.run(*step(layers=2))
        program.now[7] = program.now[PID] - 300 * US
        program.run(Op("MmBackward0", 3 * US, inside=[Op("aten::mm", 70 * US, [[8, 8], [8, 8]])]), tid=7)
    found = phases(tmp_path, program)
    assert list(found) == ["step", "autograd threads"]
    assert time_of(found["autograd threads"], "aten::mm", "MmBackward0") == pytest.approx(70, rel=0.1)
    assert found["autograd threads"].all_ns == pytest.approx(73 * US, rel=0.1)


def test_a_growing_context_is_one_group(tmp_path: Path) -> None:
    program = Program()
    for tokens in range(30):
        attention = Op("aten::scaled_dot_product_attention", 30 * US, [[1, 4, 1, 16], [1, 4, 50 + tokens, 16]])
        program.run(*step(layers=2, more=[attention]))
    one = phases(tmp_path, program)["step"]
    shapes = [group.shape for group in one.groups if "attention" in group.op]
    assert shapes == ["1x4x1x16 · 1x4xnx16 f32"]


def test_calls_left_by_an_exception(tmp_path: Path) -> None:
    """They have no time of their own; what they called is still the caller's."""
    left = Op("aten::left", 5 * US, inside=[Op("aten::mm", 20 * US)])
    program = repeated(20, Op("aten::outer", 10 * US, inside=[left]), python(9 * US), spread=0.0)
    for call in program.calls:
        if call["name"] == "aten::left":
            call["end_ns"] = None
    one = phases(tmp_path, program)["step"]
    assert time_of(one, "aten::left") == 0
    assert time_of(one, "aten::outer") == pytest.approx(10 + 5)
    assert time_of(one, "aten::mm", "aten::left") == pytest.approx(20)


@pytest.mark.parametrize("count", [0, 1])
def test_no_steps(tmp_path: Path, count: int) -> None:
    assert phases(tmp_path, repeated(count, Op("aten::mm", 5 * US))) == {}


# ---------------------------------------------------------------------- diffs


def significant(rows: tuple[Row, ...]) -> list[Row]:
    return [row for row in rows if row.significant]


def diff(folder: Path, a: list[Op], b: list[Op], count: int = 60) -> tuple[Row, ...]:
    found = compared(folder, repeated(count, *a, seed=1), repeated(count, *b, seed=2))
    assert found.phases[0].phase == "step" and found.phases[0].per == "step"
    for phase in found.phases:
        rows = [row.delta_ns_per_token for row in found.rows if row.phase == phase.phase]
        assert sum(rows) == pytest.approx(phase.delta_ns_per_token, abs=1)
    return found.rows


def test_a_against_a_is_silent(tmp_path: Path) -> None:
    assert significant(diff(tmp_path, step(), step())) == []


def test_a_slower_operator_is_first(tmp_path: Path) -> None:
    slower = [replace(op, ns=op.ns * 3) if op.name == "aten::softmax" else op for op in step()]
    rows = diff(tmp_path, step(), slower)
    assert (rows[0].op, rows[0].significant) == ("aten::softmax", True)
    assert rows[0].delta_ns_per_token == pytest.approx(4 * 24 * US, rel=0.1)


def test_added_and_removed_operators_are_shown(tmp_path: Path) -> None:
    added = Op("aten::contiguous", 1 * US, [[16, 64]], inside=[Op("aten::clone", 30 * US, [[16, 64]])])
    for a, b, sign in ((step(), step(more=[added]), 1), (step(more=[added]), step(), -1)):
        rows = diff(tmp_path, a, b)
        (clone,) = [row for row in rows if row.op == "aten::clone"]
        assert clone.significant and clone is rows[0]
        assert (clone.a_ns_per_token is None) == (sign > 0) and (clone.b_ns_per_token is None) == (sign < 0)
        assert clone.delta_ns_per_token == pytest.approx(sign * 4 * 30 * US, rel=0.1)


def test_another_type_is_the_same_operator(tmp_path: Path) -> None:
    rows = diff(tmp_path, step(), step(scale=2.0, type=BF16))
    products = [row for row in rows if row.op == "aten::mm"]
    assert len(products) == 3 and all(row.a_ns_per_token and row.b_ns_per_token for row in products)
    assert {(row.shape.split()[-1], row.b_shape.split()[-1]) for row in products} == {("f32", "bf16")}


def test_a_layer_is_not_held_against_a_step(tmp_path: Path) -> None:
    """On one side nothing but layers repeats: there is one pass."""
    one_pass = Program(1)
    one_pass.run(*(op for _ in range(40) for op in layer()))
    found = compared(tmp_path, one_pass, repeated(60, *step(layers=4), seed=2))
    assert found.verdict == "not comparable"
    (why,) = [one for one in found.comparability.differences if one.what == "a step of step"]
    assert why.sameness == "different" and "it is not the same step" in why.why and "repetition" in why.a


# ---------------------------------------------------------------------- a GPU


def launching(kernel_ns: float, host_ns: float = 30 * US) -> list[Op]:
    def product(name: str) -> Op:
        return Op("aten::mm", host_ns, [[64, 64], [64, 64]], kernel=(name, kernel_ns))

    return [Op("aten::embedding", 10 * US, kernel=("gather", 3 * US)), product("gemm"), product("gemm"),
            Op("aten::relu", 9 * US, kernel=("vectorized_relu", 4 * US)), python(20 * US)]  # fmt: skip


def test_device_and_host_are_phases_of_their_own(tmp_path: Path) -> None:
    found = phases(tmp_path, repeated(30, *launching(20 * US), spread=0.0))
    assert list(found) == ["step", "device"]
    device = found["device"]
    assert {group.kind for group in device.groups} == {"kernel", "between"}
    assert time_of(device, "gemm", "aten::mm") == pytest.approx(40)
    host = float(np.mean(found["step"].all_ns))
    assert float(np.mean(device.all_ns[1:])) == pytest.approx(host, rel=0.01), "the host sets the pace"
    assert time_of(device, "idle, waits for the host") > 50
    assert time_of(device, "idle") < 2, "from a launch in time to the kernel's beginning"


def test_a_device_that_sets_the_pace_is_not_idle_for_the_host(tmp_path: Path) -> None:
    item = Op("aten::item", 2 * US, waits=True)
    found = phases(tmp_path, repeated(30, *launching(200 * US, 5 * US), item, spread=0.0))
    assert time_of(found["device"], "gemm") == pytest.approx(400)
    assert time_of(found["step"], "cudaStreamSynchronize", "aten::item") > 300, "the host waits for it"


def test_kernels_without_a_host(tmp_path: Path) -> None:
    program = repeated(30, *launching(20 * US), spread=0.0)
    program.calls = [call | {"kind": "runtime"} for call in program.calls if call["kind"] == "runtime"]
    found = phases(tmp_path, program)
    assert list(found) == ["device"] and "one repetition of about 4 kernels" in found["device"].what
    assert time_of(found["device"], "gemm") == pytest.approx(40)


def test_kernels_side_by_side_count_once(tmp_path: Path) -> None:
    program = repeated(30, *launching(100 * US, 10 * US), spread=0.0)
    for slice_ in program.slices:
        if slice_["name"] == "vectorized_relu":  # on a stream of its own, within the product before it
            slice_["stream"], slice_["start_ns"] = 8, slice_["start_ns"] - 50 * US
            slice_["end_ns"] = slice_["start_ns"] + 4 * US
    device = phases(tmp_path, program)["device"]
    assert time_of(device, "vectorized_relu") == 0
    assert time_of(device, "gemm") == pytest.approx(200)


# ---------------------------------------------------------------------- causes


def computing(program: Program, *seconds: float) -> Program:
    """Its threads' processor time."""
    program.tables["counter"] = [
        {"pid": PID, "tid": PID + at, "name": "task_clock_ns", "value": round(one * 1e9)}
        for at, one in enumerate(seconds)
    ]
    program.tables["process"] = [{"pid": PID, "exe": "/usr/bin/python3", "cpus_allowed": 4}]
    return program


def causes(folder: Path, a: Program, b: Program) -> list[Cause]:
    return [cause for cause in compared(folder, a, b).causes if cause.phase in ("step", "device")]


def test_fewer_threads_are_named(tmp_path: Path) -> None:
    a = computing(repeated(60, *step(), seed=1), 3.0, 2.9)
    first = causes(tmp_path, a, computing(repeated(60, *step(scale=1.8), seed=2), 5.0, 0.1))[0]
    assert (first.kind, first.confidence) == ("threads", "high") and "2 → 1" in first.claim
    assert first.share == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seconds", [(3.0, 2.9), ()])
def test_as_many_threads_are_no_cause(tmp_path: Path, seconds: tuple[float, ...]) -> None:
    """Nor is their number where one side did not record it."""
    a = computing(repeated(60, *step(), seed=1), 3.0, 2.9)
    found = causes(tmp_path, a, computing(repeated(60, *step(scale=1.8), seed=2), *seconds))
    assert found and all(cause.kind != "threads" for cause in found)


def copying(calls: int) -> list[Op]:
    """A layer's .contiguous(), `calls` times, as torch calls it."""
    copy = Op("aten::copy_", 28 * US, [[16, 64], [16, 64]])
    clone = Op("aten::clone", 3 * US, [[16, 64]], inside=[Op("aten::empty_like", 1 * US, [[16, 64]]), copy])
    return [Op("aten::contiguous", 1 * US, [[16, 64]], inside=[clone])] * calls


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2)])
def test_a_hidden_copy_is_named(tmp_path: Path, before: int, after: int) -> None:
    a, b = (repeated(60, *step(more=copying(calls)), seed=seed) for seed, calls in ((1, before), (2, after)))
    first = causes(tmp_path, a, b)[0]
    assert (first.kind, first.confidence) == ("copy", "high")
    assert "4 calls of aten::contiguous a step" in first.claim and "16x64 f32" in first.claim
    assert first.share == pytest.approx(1, abs=0.1)


def test_a_conversion_is_called_one(tmp_path: Path) -> None:
    inside = Op("aten::_to_copy", 2 * US, [[16, 64]], BF16, [Op("aten::copy_", 30 * US, [[16, 64], [16, 64]])])
    a, b = repeated(60, *step(), seed=1), repeated(60, *step(more=[Op("aten::to", 2 * US, [[16, 64]], BF16, [inside])]))
    first = causes(tmp_path, a, b)[0]
    assert first.kind == "copy" and first.claim.startswith("Tensors are converted more often: 4 calls of aten::to")


def test_copies_that_were_taken_out_are_no_cause_of_a_loss(tmp_path: Path) -> None:
    a, b = repeated(60, *step(more=copying(1)), seed=1), repeated(60, *step(scale=2.5), seed=2)
    assert all(cause.kind != "copy" for cause in causes(tmp_path, a, b))


def test_another_type_is_named(tmp_path: Path) -> None:
    first = causes(tmp_path, repeated(60, *step(), seed=1), repeated(60, *step(scale=1.5, type=BF16), seed=2))[0]
    assert "f32 → bf16" in first.claim and first.share is not None and first.share > 0.9


def test_a_faster_kernel_under_a_host_bound_loop_is_masked(tmp_path: Path) -> None:
    a, b = (repeated(60, *launching(kernel, 60 * US), seed=seed) for seed, kernel in ((1, 40 * US), (2, 20 * US)))
    found = compared(tmp_path, a, b)
    assert found.verdict == "same", found.headline
    first, *others = found.causes
    assert (first.kind, first.confidence, first.phase) == ("masked", "high", "device")
    assert [cause.kind for cause in others] == ["kernel"], "idle time is no cause by itself"
    assert found.a.tokens == 59
    assert first.claim.startswith("Masked by the host") and "faster" in first.claim
    assert any("gemm" in line for line in first.evidence)
    assert any("100 % of it because the next work was launched late" in line for line in first.evidence)


def test_a_slower_kernel_may_be_masked_too(tmp_path: Path) -> None:
    a, b = (repeated(60, *launching(kernel, 60 * US), seed=seed) for seed, kernel in ((1, 20 * US), (2, 40 * US)))
    first = compared(tmp_path, a, b).causes[0]
    assert first.kind == "masked" and "slower" in first.claim


def test_a_faster_kernel_that_sets_the_pace_is_not_masked(tmp_path: Path) -> None:
    item = Op("aten::item", 2 * US, waits=True)
    a, b = (
        repeated(60, *launching(kernel, 5 * US), item, seed=seed) for seed, kernel in ((1, 400 * US), (2, 300 * US))
    )
    found = compared(tmp_path, a, b)
    assert found.verdict == "faster"
    assert all(cause.kind != "masked" for cause in found.causes)


def test_an_equal_device_is_not_masked(tmp_path: Path) -> None:
    a, b = (repeated(60, *launching(20 * US, 60 * US), seed=seed) for seed in (1, 2))
    assert compared(tmp_path, a, b).causes == ()
