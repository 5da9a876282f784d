"""What is said of two recordings before they are compared: a change to one of them, and the fact that must show it."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from flowprof.profiler.diff.comparability import known, options, same_work
from flowprof.profiler.diff.comparability.comparability import comparability
from flowprof.profiler.diff.result import Comparability, Difference
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.diff.steps import of_ggml
from flowprof.profiler.diff.steps.steps import Group, GroupFacts, Steps
from flowprof.profiler.store import Recording
from synthetic import CEILINGS, Synthetic, write, write_empty

Compare = Callable[..., Comparability]
BASE = Synthetic(layers=2, requests=2, tokens=20, ceilings=CEILINGS)
LATER = "UPDATE meta SET value = (value::BIGINT + 1000000)::VARCHAR WHERE key = 'started_ns';"


def change(source: Path, path: Path, sql: str) -> Path:
    """A copy that began at another time, and is otherwise changed by `sql`."""
    shutil.copyfile(source, path)
    with duckdb.connect(str(path)) as db:
        db.execute(LATER + sql)
    return path


@pytest.fixture(scope="module")
def compare() -> Iterator[Compare]:
    """`compare([normal, …], buggy)`; a file is opened and read once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def opened(path: Path) -> tuple[Recording, list[Steps]]:
            recording = stack.enter_context(Recording.open(str(path)))
            return recording, of_ggml.read(recording)

        def run(a: list[Path], b: Path, names: tuple[str, str] = ("normal", "buggy")) -> Comparability:
            normal, (buggy, steps) = [opened(path) for path in a], opened(b)
            pair = Pair(Side(names[0], tuple(one for one, _ in normal)), Side(names[1], (buggy,)))
            return comparability(pair, [steps for _, steps in normal], [steps])

        yield run


def told(found: Comparability, what: str) -> Difference:
    """The one fact of that name; a name that is there twice would be told apart by nobody."""
    (one,) = [one for one in found.differences if one.what == what]
    return one


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparability") / "base.duckdb"
    write(str(path), BASE)
    return path


def meta(key: str, value: str) -> str:
    return f"INSERT OR REPLACE INTO meta VALUES ('{key}', '{value}');"


def command(line: str) -> str:
    return f"UPDATE process SET cmdline = '{line}';"


FLASH = (
    "UPDATE graph_node SET op = 'FLASH_ATTN_EXT', sources = [0, sources[1]] WHERE op = 'MUL_MAT' AND name LIKE 'kq-%';"
)
# the change, the fact that shows it, what is said of either side, and the verdict
CHANGES = {
    "model": ("UPDATE model SET parameters = 7000000000, layers = 32;", "model",
              "llama, 1100 M parameters, 2 layers, 2048 wide, 32000 vocabulary",
              "llama, 7000 M parameters, 32 layers, 2048 wide, 32000 vocabulary", "not comparable"),
    "model file": ("UPDATE model SET name = 'b.gguf';", "model file", "", "b.gguf", "comparable"),
    "quantisation": ("UPDATE model SET weight_types = 'q4_K', weight_bytes = 618750000;", "quantisation",
                     "q8_0, f32 (8.5 bits a weight)", "q4_K (4.5 bits a weight)", "comparable"),
    "engine": ("UPDATE module SET engine = 'torch';", "engine", "ggml", "torch", "not comparable"),
    "another engine beside": ("INSERT INTO module (module_id, pid, engine) VALUES (2, 4242, 'cuda');", "engine",
                              "ggml", "cuda, ggml", "comparable"),
    "build": (f"UPDATE module SET build_id = '{'cd' * 20}', engine_version = 'b7400';", "engine build",
              "ggml b7342 abababababab", "ggml b7400 cdcdcdcdcdcd", "comparable"),
    "instructions": ("UPDATE module SET instructions = 'avx2';", "built for", "avx2 fma", "avx2", "comparable"),
    "attention": (FLASH, "attention", "KQ, softmax, KQV, KV cache f16", "flash attention, KV cache f16", "comparable"),
    "threads": ("DELETE FROM thread WHERE ith = 1;", "threads", "2", "1", "comparable"),
    "processors allowed": ("UPDATE process SET cpus_allowed = 1;", "processors allowed", "2", "1", "comparable"),
    "host": (meta("host", "another"), "host", "testhost", "another", "comparable"),
    "processor": (meta("cpu_model", "Other CPU"), "processor", "Synthetic CPU", "Other CPU", "not comparable"),
    "architecture": (meta("arch", "aarch64"), "architecture", "x86_64", "aarch64", "not comparable"),
    "processors": (meta("cpus", "64"), "processors", "2", "64", "comparable"),
    "cache": (meta("llc_bytes", str(16 << 20)), "last-level cache", "32 MiB", "16 MiB", "comparable"),
    "governor": (meta("cpu_governor", "powersave"), "cpu governor", "performance", "powersave", "comparable"),
    "kernel": (meta("kernel", "6.1.0"), "kernel", "6.12.0", "6.1.0", "comparable"),
    "no GPU before": (meta("gpu_model", "1 x H200"), "GPU", "", "1 x H200", "comparable"),
    "ceiling": ("UPDATE ceiling SET value = value / 2 WHERE what = 'dram_read';", "ceiling of memory", "90 GB/s",
                "45 GB/s", "comparable"),
    "ceiling of arithmetic": ("UPDATE ceiling SET value = value * 1.2 WHERE dtype = 'f32';", "ceiling of arithmetic",
                              "200 GFLOP/s", "240 GFLOP/s", "comparable"),
    "option": (command("llama-server -m model.gguf -ub 256"), "--ubatch-size", "not given", "256", "comparable"),
    "option of a second process": (
        "INSERT INTO process (pid, cmdline) VALUES (9, 'llama-server -ub 256'); INSERT INTO graph_exec "
        "SELECT * REPLACE (exec_id + 100000 AS exec_id, 9 AS pid) FROM graph_exec WHERE level = 'token' LIMIT 1;",
        "--ubatch-size", "not given", "256 or not given", "comparable per token"),
    "levels": (meta("full", "yes"), "probe levels", "token,op,thread (budget 0.01)", "token,op,thread (always)",
               "comparable"),
    "import": (meta("imported_from", "Kineto"), "recorded by", "flowprof", "import from Kineto", "comparable"),
    "version": (meta("flowprof_version", "0.2.0"), "flowprof", "0.1.0", "0.2.0", "comparable"),
    "losses": ("INSERT INTO loss VALUES (0, 'ring', 1000000);", "losses", "none", "99.9 % of events", "not comparable"),
    "phase": ("UPDATE graph SET phase = 'mixed' WHERE phase = 'prefill';", "phases", "decode, prefill",
              "decode, mixed", "comparable per token"),
    "no phase in common": ("UPDATE graph SET phase = 'other';", "phases", "decode, prefill", "other", "not comparable"),
    "batch": ("UPDATE graph SET tokens = 4 WHERE phase = 'decode';", "batch of decode", "1 tokens a step, mean",
              "4 tokens a step, mean", "comparable per token"),
}  # fmt: skip
BEFORE = {"governor": meta("cpu_governor", "performance")}  # what the first recording has and the synthetic one has not
UNKNOWN = ("model file", "no GPU before")  # one side tells


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told_with_both_sides_and_its_consequence(
    compare: Compare, base: Path, tmp_path: Path, name: str
) -> None:
    sql, what, a, b, verdict = CHANGES[name]
    normal = change(base, tmp_path / "a.duckdb", BEFORE[name]) if name in BEFORE else base
    found = compare([normal], change(base, tmp_path / "b.duckdb", sql + LATER))
    one = told(found, what)
    assert (one.a, one.b, found.verdict) == (a, b, verdict)
    assert one.why, "what follows from it is said"
    if name in UNKNOWN:
        assert (one.sameness, one.weight, found.score) == ("unknown", 0.0, 1.0)
    else:
        assert one.sameness == "different" and 0 < one.weight <= 1
        left = math.prod(1 - each.weight for each in found.differences if each.sameness == "different")
        assert found.score == pytest.approx(left) and found.score < 1
        assert (found.score == 0) == (verdict == "not comparable")


def test_a_score_of_zero_is_for_what_cannot_be_compared(compare: Compare, base: Path, tmp_path: Path) -> None:
    """However much differs."""
    sql = "UPDATE model SET weight_types = 'q4_K'; UPDATE module SET build_id = 'cd', instructions = 'avx2';"
    sql += (
        "DELETE FROM thread WHERE ith = 1; UPDATE ceiling SET value = value / 2; UPDATE process SET cpus_allowed = 1;"
    )
    sql += "UPDATE graph SET tokens = 4 WHERE phase = 'decode';" + FLASH
    sql += "".join(meta(key, "9") for key in ("cpus", "kernel", "host", "llc_bytes", "full", "flowprof_version"))
    found = compare([base], change(base, tmp_path / "b.duckdb", sql))
    assert sum(one.weight for one in found.differences if one.sameness == "different") > 2
    assert found.verdict == "comparable per token" and 0 < found.score < 0.1


def test_sides_can_be_swapped(compare: Compare, base: Path, tmp_path: Path) -> None:
    other = change(base, tmp_path / "b.duckdb", "UPDATE model SET layers = 32;" + meta("kernel", "6.1.0"))
    there, back = compare([base], other), compare([other], base)
    assert (there.verdict, there.score) == (back.verdict, back.score)
    assert [(one.what, one.sameness, one.a, one.b) for one in there.differences] == [
        (one.what, one.sameness, one.b, one.a) for one in back.differences
    ]


def test_two_recordings_of_the_same_differ_in_nothing(compare: Compare, base: Path, tmp_path: Path) -> None:
    found = compare([base], change(base, tmp_path / "b.duckdb", ""))
    assert (found.verdict, found.score) == ("comparable", 1.0)
    assert {one.what for one in found.differences if one.sameness == "different"} == set()
    unknown = {one.what for one in found.differences if one.sameness == "unknown"}
    assert unknown == {
        "model file", "other programs", "flowprof's own cost", "operators of prefill", "clock", "steal",
        "memory in huge pages", "cpu governor",
    }  # fmt: skip
    assert {"model", "quantisation", "engine build", "threads", "processors allowed", "kernel", "ceiling of memory",
            "phase mix", "tokens of decode", "batch of decode", "context of decode", "options", "losses",
            "recordings"} <= {one.what for one in found.differences if one.sameness == "same"}  # fmt: skip


def test_what_differs_stands_first_and_the_heaviest_of_it(compare: Compare, base: Path, tmp_path: Path) -> None:
    sql = meta("kernel", "6.1.0") + meta("cpu_model", "Other") + "UPDATE model SET name = 'b.gguf';"
    found = compare([base], change(base, tmp_path / "b.duckdb", sql))
    assert [one.what for one in found.differences][:2] == ["processor", "kernel"]
    order = [one.sameness for one in found.differences]
    assert order == sorted(order, key=["different", "unknown", "same"].index)


def test_twice_the_tokens_are_compared_per_token_and_that_is_said(compare: Compare, base: Path, tmp_path: Path) -> None:
    write(str(tmp_path / "b.duckdb"), Synthetic(layers=2, requests=4, tokens=20, ceilings=CEILINGS))
    found = compare([base], tmp_path / "b.duckdb")
    assert found.verdict == "comparable per token"
    assert (told(found, "tokens of decode").a, told(found, "tokens of decode").b) == (
        "38 in a recording", "76 in a recording")  # fmt: skip
    assert "per token" in found.normalisation and "38 and 76 of decode" in found.normalisation
    assert told(found, "batch of decode").sameness == "same"


def test_a_longer_context_is_told(compare: Compare, base: Path, tmp_path: Path) -> None:
    wide = "UPDATE graph_node SET ne = [ne[1], 2048, ne[3], ne[4]] WHERE name LIKE 'cache_k%(view)';"
    longer = wide + "UPDATE graph_node SET ne = [2048, ne[2], ne[3], ne[4]] WHERE name LIKE 'kq%';"
    found = compare([base], change(base, tmp_path / "b.duckdb", longer))
    context = told(found, "context of decode")
    assert (context.sameness, context.a, context.b) == (
        "different",
        "256 rows of the cache, mean",
        "2 048 rows of the cache, mean",
    )
    assert found.verdict == "comparable per token"


def test_the_phase_mix_is_told_but_weighs_little(compare: Compare, base: Path, tmp_path: Path) -> None:
    write(str(tmp_path / "b.duckdb"), Synthetic(layers=2, requests=2, tokens=200, ceilings=CEILINGS))
    mix = told(compare([base], tmp_path / "b.duckdb"), "phase mix")
    assert mix.sameness == "different" and mix.weight <= 0.1
    assert "prefill" in mix.a and "decode" in mix.b


@pytest.mark.parametrize(
    ("sql", "sameness"),
    [
        ("UPDATE module SET engine_version = 'b7342 unknown'", "same"),
        ("UPDATE module SET build_id = NULL", "same"),
        ("UPDATE module SET build_id = NULL, engine_version = 'b7400'", "different"),
        ("UPDATE module SET build_id = NULL, engine_version = NULL", "unknown"),
    ],
)
def test_a_build_is_told_by_its_id(compare: Compare, base: Path, tmp_path: Path, sql: str, sameness: str) -> None:
    """By its version only where a side does not know the id."""
    assert told(compare([base], change(base, tmp_path / "b.duckdb", sql)), "engine build").sameness == sameness


@pytest.mark.parametrize("how", ["the same file", "a copy"])
def test_one_recording_twice_is_refused(compare: Compare, base: Path, tmp_path: Path, how: str) -> None:
    copy = tmp_path / "copy.duckdb"
    shutil.copyfile(base, copy)
    found = compare([base], base if how == "the same file" else copy)
    assert found.verdict == "not comparable"
    assert "both sides" in told(found, "recordings").why


def test_a_repeat_that_is_none_is_refused(compare: Compare, base: Path, tmp_path: Path) -> None:
    other = change(base, tmp_path / "b.duckdb", "")
    found = compare([base, base], other)
    assert found.verdict == "not comparable" and "repeat" in told(found, "recordings").why


def test_two_windows_of_one_recording_are_no_recording_twice(compare: Compare, base: Path) -> None:
    found = compare([base], base, ("before", "after"))
    assert found.verdict == "comparable"
    assert "recordings" not in {one.what for one in found.differences}


def test_repeats_with_other_settings_are_named(compare: Compare, base: Path, tmp_path: Path) -> None:
    one = change(base, tmp_path / "a.duckdb", command("llama-server -t 1"))
    two = change(base, tmp_path / "b.duckdb", command("llama-server -t 4") + LATER)
    fact = told(compare([base, one], two), "--threads")
    assert (fact.a, fact.b, fact.sameness) == ("1 or not given", "4", "different")


def test_an_empty_recording_is_unknown_in_everything_and_forbids_nothing(
    compare: Compare, base: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.duckdb"
    write_empty(str(empty))
    found = compare([base], empty)
    assert not [one for one in found.differences if one.sameness == "different"]
    assert told(found, "phases").why == "no steps were recorded on the side after: there is nothing to compare"
    assert found.normalisation == "No phase ran on both sides: nothing is compared."


def test_a_side_without_shapes_is_named(compare: Compare, base: Path, tmp_path: Path) -> None:
    sql = "UPDATE graph SET described = false; DELETE FROM graph_node; DELETE FROM op_exec;"
    found = compare([base], change(base, tmp_path / "b.duckdb", sql))
    fact = told(found, "operators of decode")
    assert fact.sameness == "unknown" and "the side after" in fact.why
    assert told(found, "attention").sameness == "unknown"


def test_a_recording_without_thread_windows_does_not_say_one_thread(
    compare: Compare, base: Path, tmp_path: Path
) -> None:
    sql = "DELETE FROM thread WHERE ith = 1; UPDATE graph_exec SET level = 'op' WHERE level = 'thread';"
    assert told(compare([base], change(base, tmp_path / "b.duckdb", sql)), "threads").sameness == "unknown"


# ---------------------------------------------------------------------- programs without tokens


def steps(per: str = "step", phase: str = "step", **ns: float) -> list[list[Steps]]:
    """One recording of ten steps; each operator's time in one."""
    groups = tuple(Group("torch", phase, "", op, "", "8x8") for op in ns)
    matrix = np.tile(list(ns.values()), (10, 1))
    at = np.arange(10) * 1000
    one = Steps(
        phase, at, np.ones(10, np.int64), groups, matrix, tuple(GroupFacts() for _ in groups), all_start_ns=at,
        all_tokens=np.ones(10, np.int64), all_ns=matrix.sum(axis=1), all_context=np.zeros(10, np.int64), per=per,
    )  # fmt: skip
    return [[one]]


@pytest.mark.parametrize(
    ("b", "sameness", "told"),
    [
        (steps(mm=50.0, add=50.0), "same", ("100 % of its time", "100 % of its time")),
        (steps(mm=90.0, mul=10.0), "same", ("50 % of its time", "90 % of its time")),
        (steps(conv=90.0, add=10.0), "different", ("50 % of its time", "10 % of its time")),
        (steps(conv=1.0), "different", ("0 % of its time", "0 % of its time")),
    ],
)
def test_steps_of_two_programs_are_not_the_same_work(
    b: list[list[Steps]], sameness: str, told: tuple[str, str]
) -> None:
    found = {one.what: one for one in same_work.differences(steps(mm=50.0, add=50.0), b)}
    one = found[same_work.COMMON]
    assert (one.sameness, one.a, one.b) == (sameness, *told)
    assert found["steps of step"].sameness == "same" and "batch of step" not in found


def test_a_step_is_not_compared_with_an_operator() -> None:
    found = {one.what: one for one in same_work.differences(steps(mm=1.0), steps("operator", mm=1.0))}
    assert (found["unit of step"].sameness, found["unit of step"].weight) == ("different", known.FORBIDS)


def test_tokens_are_the_same_work_whatever_computes_them() -> None:
    found = same_work.differences(steps("token", "decode", MUL_MAT=1.0), steps("token", "decode", FUSED=1.0))
    assert same_work.COMMON not in {one.what for one in found}


def test_times_are_per_what_the_phase_says() -> None:
    said = same_work.normalisation(steps(mm=1.0), steps(mm=1.0))
    assert said.startswith("Times are per step of their phase") and "10 and 10 of step" in said


# ---------------------------------------------------------------------- command lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llama-server -m a.gguf -t 4", {"threads": "4"}),
        ("llama-server --threads=4 --mlock", {"threads": "4", "mlock": "given"}),
        ("llama-server -c 4096 -b 512 -ub 128 -np 2", {"ctx-size": "4096", "batch-size": "512", "ubatch-size": "128",
                                                       "parallel": "2"}),
        ("python -m x.llama_server m.gguf --threads 2 --slots 1 --ctx 4096 --batch 2048",
         {"threads": "2", "parallel": "1", "ctx-size": "4096", "batch-size": "2048"}),
        ("s -fa -ctk q8_0 -ctv q8_0", {"flash-attn": "given", "cache-type-k": "q8_0", "cache-type-v": "q8_0"}),
        ("s -fa off --no-mmap", {"flash-attn": "off", "no-mmap": "given"}),
        ("s -ngl -1 -t 8", {"gpu-layers": "-1", "threads": "8"}),  # a negative number is a value
        ("s -t 2 -t 8", {"threads": "8"}),  # the last counts
        ("s --api-key hunter2 --port 80 --host 0.0.0.0 --hf-token x", {}),  # never shown
        ("s -hft x --token y --API-KEY z --api_key u --auth-token=v --db-password w --client-secret x", {}),
        ("s --secret-key=x --password y --api-key-file /z", {}),
        ("s --max-num-batched-tokens 8192 --max-tokens 5 --tokenizer /t --cache-type-k f16",
         {"max-num-batched-tokens": "8192", "max-tokens": "5", "tokenizer": "/t", "cache-type-k": "f16"}),
        ("s --override-tensor a=b c=d", {"override-tensor": "a=b c=d"}),
        ("s --empty=", {"empty": ""}),
        ("", {}),
    ],
)  # fmt: skip
def test_command_lines(line: str, expected: dict[str, str]) -> None:
    assert options.parsed(line) == expected


def test_command_lines_are_bounded() -> None:
    assert len(options.parsed(" ".join(f"--o{number} x" for number in range(10_000)))) == options.MOST
    assert len(options.parsed("--a " + "x " * 10_000)["a"]) == options.MAX_VALUE


def test_a_secret_is_not_shown(compare: Compare, base: Path, tmp_path: Path) -> None:
    a = change(base, tmp_path / "a.duckdb", command("llama-server --api-key hunter2"))
    b = change(base, tmp_path / "b.duckdb", command("llama-server --api-key swordfish") + LATER)
    found = compare([a], b)
    assert "hunter2" not in repr(found) and "swordfish" not in repr(found)
    assert told(found, "options").sameness == "same"


def test_a_hostile_name_is_cut(compare: Compare, base: Path, tmp_path: Path) -> None:
    found = compare([base], change(base, tmp_path / "b.duckdb", meta("host", "x" * 100_000)))
    assert len(told(found, "host").b) == known.MOST_SIGNS
