"""A live llama-server, recorded as it should be and with something planted: the diff names it first.

Recordings are made when a test asks for them, and servers are shared; a test that is tried again makes its own anew.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flowprof.examples import load, quota, synthetic_model
from flowprof.examples.hog import running as hog
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import every
from flowprof.examples.read_from_disk import evict
from flowprof.profiler.diff import gate
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import Diff
from flowprof.profiler.diff.side import open_pair
from recorded import recording_of
from undisturbed import CPUS, DISTURBED, FULL, is_tried_again

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]

Diffed = Callable[[str, str], Diff]
HUGE = ("env", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1")  # malloc asks for huge pages
LONG = 1_900  # tokens: eight times the 256 to which llama.cpp pads a short context
PROMPT = 1_000


def chat(server: RunningServer, prompt: int, tokens: int = 150) -> None:
    load.request(server.url, n_predict=tokens, prompt_tokens=prompt)


def prompts(server: RunningServer, prompt: int) -> None:
    for seed in range(25):
        load.request(server.url, n_predict=2, prompt_tokens=prompt, seed=seed)


def chats(server: RunningServer, prompt: int) -> None:
    load.run(server.url, requests=9, n_predict=150, prompt_tokens=prompt, concurrency=3)


def long_prompts(server: RunningServer) -> AbstractContextManager[None]:
    return every(0.3, lambda: load.request(server.url, n_predict=1, prompt_tokens=PROMPT, seed=999))


@contextmanager
def on_one_processor(server: RunningServer) -> Iterator[None]:
    """Every thread of it, while the block runs."""
    tids = [int(task) for task in os.listdir(f"/proc/{server.pid}/task")]
    before = {tid: os.sched_getaffinity(tid) for tid in tids}
    for tid in tids:
        os.sched_setaffinity(tid, {CPUS[1]})
    yield
    for tid, cpus in before.items():
        os.sched_setaffinity(tid, cpus)


@dataclass(frozen=True)
class Scene:
    """What is recorded: a server's model and options, what it is asked, and what is planted before that."""

    model: str = "dense-150m"
    work: Callable[[RunningServer, int], None] = chat
    prompt: int = 16  # tokens; also of the requests before, while the probes are placed: they are recorded, too
    plant: Callable[[RunningServer], AbstractContextManager[object]] = lambda _: nullcontext()
    server: dict[str, Any] = field(default_factory=dict)


SHARED = {"slots": 4, "ctx": 16_384, "batch": 512, "unified": True}
SCENES = {
    "normal": Scene(),
    "hog": Scene(plant=lambda _: hog(CPUS[1], 20, 20)),
    "quota": Scene(plant=lambda server: quota.of(server.pid, 1.0)),
    "evicted": Scene(work=partial(chat, tokens=100), plant=lambda server: every(0.2, lambda: evict(server))),
    "one thread": Scene(server={"threads": 1}),
    "q4": Scene("dense-150m-q4"),
    "tiny": Scene("tiny", partial(chat, tokens=200)),
    "one processor": Scene("tiny", partial(chat, tokens=20), plant=on_one_processor),
    "huge pages": Scene("tiny", partial(chat, tokens=200), server={"wrapper": HUGE}),
    "long context": Scene("tiny", partial(chat, tokens=200), LONG),
    "growing": Scene("tiny", partial(chat, tokens=600)),
    "grown further": Scene("tiny", partial(chat, tokens=600), 300),
    "short, no flash attention": Scene("tiny", partial(chat, tokens=200), server={"flash_attention": False}),
    "no flash attention": Scene("tiny", partial(chat, tokens=200), LONG, server={"flash_attention": False}),
    "long prompts": Scene("tiny", prompts, LONG),
    "long prompts, no flash attention": Scene("tiny", prompts, LONG, server={"flash_attention": False}),
    "prompts": Scene("tiny", prompts, 512),
    "small batches": Scene("tiny", prompts, 512, server={"ubatch": 32}),
    "chats": Scene("tiny", chats, 24, server=SHARED),
    "chats and prompts": Scene("tiny", chats, 24, long_prompts, SHARED),
}


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, quiet_server: Callable[..., RunningServer]
) -> Callable[[str, bool], Path]:
    """`scene(name, anew)`: its recording."""
    folder = tmp_path_factory.mktemp("diff")
    servers: dict[str, RunningServer] = {}
    taken: dict[str, Path] = {}

    def start(one: Scene) -> RunningServer:
        own = folder / f"{len(servers)}.gguf"  # a file that another server has mapped could not be evicted
        return quiet_server(Path(shutil.copy(synthetic_model.write(one.model), own)), **one.server)

    def take(name: str, anew: bool) -> Path:
        one = SCENES[name]
        key = f"{one.model} {one.server}"
        if key not in servers:
            servers[key] = start(one)
        server = servers[key]
        if anew or name not in taken:
            taken[name] = folder / f"{name}.duckdb"
            with one.plant(server), recording_of([server.pid], taken[name], levels=FULL, budget=None) as run:
                run.warm_up("thread", lambda: load.request(server.url, n_predict=2, prompt_tokens=one.prompt))
                one.work(server, one.prompt)
        return taken[name]

    return take


@pytest.fixture
def diffed(request: pytest.FixtureRequest, scene: Callable[[str, bool], Path]) -> Diffed:
    """`diffed(normal, other)`: of two scenes."""

    def diff(normal: str, other: str) -> Diff:
        anew = is_tried_again(request)
        files = [str(scene(name, anew)) for name in (normal, other)]
        with open_pair(files[:1], files[1]) as pair:
            found = compare(pair)
        print(found.headline, *found.causes, sep="\n")  # shown when a test fails
        return found

    return diff


@pytest.mark.parametrize(
    ("normal", "other", "kind", "words"),
    [
        ("normal", "one thread", "threads", "One thread fewer computes decode: 2 → 1"),
        ("normal", "hog", "preemption", "planted-hog takes the engine's processors"),
        ("normal", "quota", "quota", "The quota of its cgroup keeps the engine's threads off the processors"),
        ("tiny", "one processor", "processors", "may use 1 processor instead of 2"),
        ("q4", "normal", "quantisation", "The weights are of another type: q4_0 → q8_0"),
        ("prompts", "small batches", "batch", "prompts are cut smaller, 512 → 32 tokens per graph"),
        ("normal", "evicted", "paging", "The model is read from disk while it runs"),
        ("chats", "chats and prompts", "client", f"Prompts of {PROMPT:,} tokens of another client share the batches"),
    ],
    ids=lambda value: value if value in SCENES else None,
)
def test_the_first_cause(diffed: Diffed, normal: str, other: str, kind: str, words: str) -> None:
    first = diffed(normal, other).causes[0]
    assert first.kind == kind and words in re.sub(r" \(\d+\)", "", first.claim)  # without its pid


def test_flash_attention_is_off(diffed: Diffed) -> None:
    """Of long prompts, whose scores of all pairs of tokens are then written to memory and read again: in decode some
    processors are as quick without it."""
    found = diffed("long prompts", "long prompts, no flash attention")
    first = found.causes[0]
    assert first.kind == "attention" and first.phase == "prefill", found.headline
    assert first.claim.startswith("Flash attention is off: ") and "SOFT_MAX" in first.claim


@pytest.mark.parametrize(
    ("short", "long", "readers"),
    [
        ("tiny", "long context", {"FLASH_ATTN_EXT"}),
        ("short, no flash attention", "no flash attention", {"MUL_MAT", "SOFT_MAX"}),  # KQ, its softmax, KQV
    ],
    ids=["flash attention", "KQ and KQV"],
)
def test_a_context_of_eight_times_the_length(diffed: Diffed, short: str, long: str, readers: set[str]) -> None:
    """It is what reads the cache that grew, and not the weights."""
    found = diffed(short, long)
    first = found.causes[0]
    assert first.kind == "context" and "cells of the KV cache" in first.claim and first.share is not None
    decode = [row for row in found.rows if row.phase == "decode"]
    weights = sum(row.delta_ns_per_token for row in decode if "q8_0" in row.shape)
    grow = [row for row in decode if row.contexts_apart]
    read = sum(row.delta_ns_per_token for row in grow)
    assert read > 0.5 * found.phases[0].delta_ns_per_token and abs(weights) < 0.3 * read
    assert {row.op for row in grow} == readers and not any("q8_0" in row.shape for row in grow)
    assert all(row.equal is None for row in decode), "no context in common"


def test_contexts_that_both_have(diffed: Diffed) -> None:
    """16 … 616 and 300 … 900 cells: what reads them takes longer, and as long where there are as many of them."""
    found = diffed("growing", "grown further")
    (flash,) = [row for row in found.rows if row.phase == "decode" and row.contexts_apart]
    assert flash.op == "FLASH_ATTN_EXT" and flash.delta_ns_per_token > 0.2 * (flash.a_ns_per_token or 0.0)
    assert flash.equal is not None and min(flash.equal.steps) > 150 and not flash.equal.significant
    assert abs(flash.equal.delta_ns_per_token) < 0.5 * flash.delta_ns_per_token
    assert all(phase.equal is not None for phase in found.phases if phase.phase == "decode")
    assert gate.judge(found, 0.1).outcome != "regression", "a longer context is none"


def test_the_model_with_fewer_bits_is_not_to_blame(diffed: Diffed) -> None:
    """The other way round: what is faster is told as well."""
    found = diffed("normal", "q4")
    named = [cause for cause in found.causes if cause.kind == "quantisation"]
    assert named and "q8_0 → q4_0" in named[0].claim


@pytest.mark.parametrize(
    ("normal", "other", "verdict", "facts"),
    [
        ("normal", "one thread", "comparable", {"--threads": ("2", "1"), "threads": ("2", "1")}),
        ("long context", "no flash attention", "comparable",
         {"attention": ("flash attention, KV cache f16", "KQ, softmax, KQV, KV cache f16")}),
        ("q4", "normal", "comparable", {"quantisation": ("q4_0 99 %", "q8_0 99 %")}),
        ("tiny", "long context", "comparable per token", {"context of decode": ("cells of the", "cells of the")}),
        ("normal", "tiny", "not comparable", {"model": ("14 layers", "layers")}),
    ],
    ids=["one thread", "no flash attention", "q4", "long context", "tiny"],
)  # fmt: skip
def test_what_is_not_alike(
    diffed: Diffed, normal: str, other: str, verdict: str, facts: dict[str, tuple[str, str]]
) -> None:
    """What was changed is told, with both sides; what was not is the same: build, machine, ceilings, losses."""
    found = diffed(normal, other).comparability
    told = {one.what: one for one in found.differences}
    for what, (a, b) in facts.items():
        assert told[what].sameness == "different" and a in told[what].a and b in told[what].b, told[what]
    for what in ("engine", "engine build", "processor", "processors", "kernel", "host", "losses", "recordings",
                 "probe levels", "recorded by", "processors allowed"):  # fmt: skip
        assert told[what].sameness == "same", told[what]
    assert found.verdict.startswith(verdict)  # of a shared machine: per token where one took longer


def test_memory_in_huge_pages_is_told(diffed: Diffed) -> None:
    """Of a server whose malloc asks for them, and of one that does not."""
    if "[madvise]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this kernel gives huge pages to everybody or to nobody: a program cannot ask for them")
    told = {one.what: one for one in diffed("tiny", "huge pages").comparability.differences}
    share = [
        float(text.partition(" %")[0]) for text in (told["memory in huge pages"].a, told["memory in huge pages"].b)
    ]
    assert share[0] < 10 and share[1] > share[0] + 10 and told["memory in huge pages"].sameness == "different"
    assert told["transparent hugepage"].sameness == "same", "the machine is set as before"
