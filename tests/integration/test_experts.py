"""Which experts were used, against a router whose choice is known: every layer, token and rank, exactly.

Element 0 of the model's embedding is 127 or -127, for even and odd tokens; the rest is noise and far smaller, and the
routers look at that element alone. So of layer `l` even tokens use experts (l, l + 3), odd ones (l + 5, l + 6), in this
order, counted modulo 8. The server says which tokens it generated; the prompt's are ours.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pandas as pd
import pytest
from flowprof.examples import llama_server, synthetic_model
from flowprof.examples.synthetic_model import KINDS, Q8_0
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.ggml.layout_table import KNOWN
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.kernel_side.attach import AttachPoint, attach
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.sites import choose_entry_site
from flowprof.profiler.store import Recording
from recorded import recording_of

pytestmark = [pytest.mark.bpf, pytest.mark.engine, pytest.mark.parallel]

SHAPE = KINDS["moe"]
EXPERTS, USED = SHAPE.experts, SHAPE.experts_used
EVEN, ODD = (0, 3), (5, 6)
PROMPT = [1, *np.random.default_rng(7).integers(300, 31_000, 599).tolist()]  # a batch of 512 and one of 88
GENERATED = 48
LEVELS = {"op": ("token", "graph", "op"), "thread": ("token", "graph", "op", "thread")}


def chosen(layer: int, token: int) -> list[int]:
    return [(first + layer) % EXPERTS for first in (ODD if token % 2 else EVEN)]


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = synthetic_model.write("moe", tmp_path_factory.mktemp("experts") / "routed.gguf")
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.name == "token_embd.weight":
            rows = tensor.data.view(np.uint8).reshape(-1, SHAPE.embedding // 32 * Q8_0.block_bytes)
            rows[:, : Q8_0.block_bytes] = 0
            rows[:, :2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
            rows[:, 2] = np.where(np.arange(len(rows)) % 2, np.int8(-127), np.int8(127)).astype(np.int8).view(np.uint8)
        elif tensor.name.endswith("ffn_gate_inp.weight"):
            layer, router = int(tensor.name.split(".")[1]), tensor.data.reshape(EXPERTS, SHAPE.embedding)
            router[:] = 0
            for experts, sign in ((EVEN, 1), (ODD, -1)):
                for first, logit in zip(experts, (2, 1), strict=True):
                    router[(first + layer) % EXPERTS, 0] = sign * logit
    return path


@dataclass(frozen=True)
class Case:
    uses: pd.DataFrame
    execs: pd.DataFrame
    nodes: pd.DataFrame
    generated: list[int]
    meta: dict[str, str]
    lost: list[tuple[str, int]]


@pytest.fixture(scope="module", params=["op", "thread"])
def case(request: pytest.FixtureRequest, routed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    path = tmp_path_factory.mktemp("experts") / "experts.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        with (
            llama_server.start(routed) as server,
            recording_of([server.pid], path, levels=LEVELS[request.param], budget=None) as run,
        ):
            run.warm_up(request.param, lambda: ask(server.url, 8))
            began = time.monotonic_ns()
            generated = ask(server.url, GENERATED)
    with Recording.open(str(path)) as recording:
        yield Case(
            recording.frame("SELECT * FROM expert_use ORDER BY exec_id, node_index, token, rank"),
            recording.frame("SELECT * FROM measured_graph WHERE start_ns > ? ORDER BY start_ns", [began]),
            recording.frame("SELECT * FROM graph_node WHERE op = 'MUL_MAT_ID' ORDER BY graph_id, node_index"),
            generated,
            recording.meta(),
            recording.rows("SELECT * FROM loss_by_place WHERE place = 'expert_ids'"),
        )


PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#define VISIBLE __attribute__((noinline, visibility("default")))

VISIBLE int operator_starts(int *params, char *node) { return params[1] + node[0]; }

int main(void)
{
	static char node[512], ids[512];
	static int data[3000][64];
	int params[4] = {0, 1}, used, tokens, stride, sum = 0;
	while (scanf("%d %d %d", &used, &tokens, &stride) == 3) {
		for (int t = 0; t < 3000; t++)
			for (int r = 0; r < 64; r++)
				data[t][r] = 100 * t + r;
		int64_t ne[2] = {used, tokens};
		uint64_t nb[2] = {stride, sizeof(data[0])};
		int *where = &data[0][0];
		char *tensor = ids;
		*(int *)(node + 80) = 29;
		memcpy(node + 152 + 16, &tensor, 8);
		memcpy(ids + 16, ne, 16);
		memcpy(ids + 48, nb, 16);
		memcpy(ids + 248, &where, 8);
		sum += operator_starts(params, node);
		printf("%d\n", sum);
		fflush(stdout);
	}
	return 0;
}
"""


@pytest.fixture(scope="module")
def program_with_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    (folder / "ids.c").write_text(PROGRAM)
    compiler = shutil.which("gcc") or pytest.skip("needs gcc")
    subprocess.run([compiler, "-O2", "ids.c", "-o", "ids"], cwd=folder, check=True)
    return folder / "ids"


@pytest.fixture(scope="module", params=[True, False], ids=["uprobe_multi", "perf_event"])
def probes(request: pytest.FixtureRequest) -> Iterator[ProbesInPlace]:
    if request.param and kernel.version() < kernel.UPROBE_MULTI:
        pytest.xfail("this kernel has no uprobe_multi links")
    probes, tensor = ProbesInPlace(ring_shift=14, multi=request.param), KNOWN[0].tensor
    probes.set_layout(KNOWN[0])
    probes.read_experts((tensor.op, tensor.src + 16, tensor.data, tensor.nb, 29))
    yield probes
    probes.close()


@pytest.mark.parametrize("program", ["op", "op_begin"])
@pytest.mark.parametrize(
    ("used", "tokens", "stride", "read"),
    [
        (1, 1, 4, 1), (2, 1, 4, 1), (8, 1, 4, 1), (8, 512, 4, 512), (10, 512, 4, 512), (64, 3, 4, 3), (8, 0, 4, 0),
        (8, 2000, 4, 2000), (10, 3000, 4, 2112),  # 33 runs of 128 events, two per token
        (4, 8, 8, 0),  # ids that do not lie side by side: nobody has them
    ],
)  # fmt: skip
def test_what_is_not_read_is_counted(
    program_with_ids: Path, probes: ProbesInPlace, program: str, used: int, tokens: int, stride: int, read: int
) -> None:
    elf = ElfFile(str(program_with_ids))
    left = probes.expert_ids_left
    symbol = elf.symbols().get("operator_starts")
    assert symbol is not None
    site = choose_entry_site(elf, symbol.address, 2, kernel.version())
    with subprocess.Popen([program_with_ids], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdin is not None and victim.stdout is not None
        points = [AttachPoint(elf.path, site.file_offset, 1)]
        held = attach(probes._bpf.program(program), points, victim.pid, probes.multi)
        victim.stdin.write(f"{used} {tokens} {stride}\n")
        victim.stdin.flush()
        victim.stdout.readline()
        held.close()
        victim.stdin.close()
    events = probes.rings.read()
    assert probes.rings.drops == 0 and probes.expert_ids_left - left == (tokens - read) * used
    events = events[events["kind"] == ring.EXPERTS]
    found = np.stack([events[column] for column in "abcd"], axis=1).view(np.int32).reshape(-1, 8)
    token, part, count = events["ith"] & 0xFFFFF, events["ith"] >> 20 & 15, events["ith"] >> 24
    for one, at, which, many in zip(found.tolist(), token.tolist(), part.tolist(), count.tolist(), strict=True):
        assert one == [100 * at + 8 * which + rank if rank < many else -1 for rank in range(8)]
    assert count.sum() == read * used and len(set(zip(token.tolist(), part.tolist(), strict=True))) == len(events)


def ask(url: str, n_predict: int) -> list[int]:
    body = {"prompt": PROMPT, "n_predict": n_predict, "ignore_eos": True, "cache_prompt": False, "return_tokens": True}
    asked = urllib.request.Request(f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as reply:
        return [int(token) for token in json.load(reply)["tokens"]]


def test_every_id_of_every_batch(case: Case) -> None:
    """Of the prompt's batches and of every decode step: all layers, tokens and ranks, and exactly the known experts."""
    decoded = [[token] for token in case.generated[:-1]]
    tokens = [PROMPT[:512], PROMPT[512:], *decoded]
    lasts = [[], PROMPT[-1:], *decoded]  # behind its attention the last layer computes what is asked for only
    assert [len(batch) for batch in tokens] == case.execs.tokens.tolist()
    assert case.meta["experts"] == "yes" and case.lost == []
    by_exec = dict(list(case.uses.groupby("exec_id")))
    for batch, last, exec_id, graph_id in zip(tokens, lasts, case.execs.exec_id, case.execs.graph_id, strict=True):
        uses = by_exec[exec_id].merge(case.nodes[case.nodes.graph_id == graph_id], on="node_index")
        layers = [batch] * (SHAPE.layers - 1) + [last]
        assert len(uses) == sum(map(len, layers)) * USED
        uses = uses.sort_values(["layer", "token", "rank"])
        expected = [
            (layer, token, rank, expert)
            for layer, numbers in enumerate(layers)
            for token, number in enumerate(numbers)
            for rank, expert in enumerate(chosen(layer, number))
        ]
        assert list(zip(uses.layer, uses.token, uses["rank"], uses.expert, strict=True)) == expected


def test_one_operator_of_a_layer_is_read(case: Case) -> None:
    """Up, gate and down have the same ids."""
    assert case.nodes.groupby("graph_id").size().unique().tolist() == [3 * SHAPE.layers]
    reads = case.uses.merge(case.execs[["exec_id", "graph_id"]]).merge(case.nodes, on=["graph_id", "node_index"])
    assert (reads.groupby(["exec_id", "layer"]).node_index.nunique() == 1).all()


def test_both_kinds_of_tokens_were_there(case: Case) -> None:
    assert {token % 2 for token in PROMPT} == {0, 1}
    assert case.uses.expert.between(0, EXPERTS - 1).all()
    assert (case.uses.groupby(["exec_id", "node_index", "token"]).expert.nunique() == USED).all()
