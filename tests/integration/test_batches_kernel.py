"""What is read of a batch, from a program of C whose batches are known: both layouts of the struct, limits, garbage."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.kernel_side.attach import AttachPoint, attach
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.sites import choose_entry_site

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

READ = 33 * 128  # groups of tokens: the kernel lets a program call so many others
SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
struct head { uint32_t equal_seqs, n_tokens, n_seq_tokens, n_seqs, n_seqs_unq, n_pos; void *token, *embd; };
struct rest { int32_t *pos, *n_seq_id; int32_t **seq_id; int32_t *seq_id_unq, *seq_idx; int8_t *output; };
struct ubatch_2025 { struct head head; struct rest rest; };
struct ubatch_2026 { struct head head; void *more; struct rest rest; };
__attribute__((noinline)) int process(void *context, void *batch)
{
	__asm__ volatile("" :: "r"(context), "r"(batch));
	return 0;
}
int main(void)
{
	unsigned year, groups, size, every; /* every: so many groups of one sequence side by side */
	while (scanf("%u %u %u %u", &year, &groups, &size, &every) == 4) {
		unsigned n = groups * size;
		struct head head = { size > 1, n, size, groups, 1, 1, malloc(8), 0 };
		struct rest rest = { calloc(n, 4), calloc(n, 4), calloc(n, 8), calloc(256, 4), calloc(256, 4), calloc(n, 1) };
		for (unsigned i = 0; i < n; i++) {
			rest.pos[i] = 1000 + i;
			rest.n_seq_id[i] = 1;
			rest.seq_id[i] = malloc(4);
			*rest.seq_id[i] = i / size / every % 256;
			rest.output[i] = i + 1 == n;
		}
		struct ubatch_2025 old = { head, rest };
		struct ubatch_2026 new = { head, 0, rest };
		if (year == 1) { /* no such struct */
			new.rest.seq_id = old.rest.seq_id = (void *)8;
		}
		process((void *)0x1122334455667788, year == 2025 ? (void *)&old : (void *)&new);
		puts("done");
		fflush(stdout);
	}
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("batches")
    (folder / "batches.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O1", "-w", "-o", folder / "batches", folder / "batches.c"], check=True)
    return folder / "batches"


@pytest.fixture(scope="module", params=[True, False], ids=["multi", "perf events"])
def probes(request: pytest.FixtureRequest) -> Iterator[ProbesInPlace]:
    if request.param and kernel.version() < kernel.UPROBE_MULTI:
        pytest.skip("needs Linux 6.6")
    found = ProbesInPlace(multi=request.param)
    found._bpf.set_program("batch_programs", found._bpf.program("batch_parts"))
    yield found
    found.close()


@pytest.mark.parametrize("years", [(2025, 2025), (2026, 2026), (2025, 2026, 2025)])
@pytest.mark.parametrize(
    ("groups", "size", "every", "read"),
    [
        (1, 1, 1, 1), (4, 1, 1, 4), (1, 512, 1, 1), (3, 170, 1, 3), (512, 1, 512, 512), (513, 1, 128, 513),
        (300, 1, 1, 300), (READ, 1, 5, READ), (READ + 100, 1, READ, READ),
    ],
)  # fmt: skip
def test_parts(
    program: Path, probes: ProbesInPlace, years: tuple[int, ...], groups: int, size: int, every: int, read: int
) -> None:
    left, events = told(program, probes, [(year, groups, size, every) for year in years])
    assert left == len(years) * (groups - read) * size
    first = np.arange(0, read, every)
    assert len(events) == len(first) * len(years)
    for batch in np.split(events, len(years)):
        assert len(set(batch["at_ns"].tolist())) == 1
        assert (batch["ith"] == 0x55667788).all()
        assert batch["a"].tolist() == (first // every % 256).tolist()
        assert batch["b"].tolist() == (np.diff(np.append(first, read)) * size).tolist()
        assert batch["c"].tolist() == (1000 + first * size).tolist()
        assert batch["d"].tolist() == [0] * (len(first) - 1) + [int(read == groups)]


def test_another_struct_is_counted_and_not_read(program: Path, probes: ProbesInPlace) -> None:
    left, events = told(program, probes, [(1, 4, 2, 1), (2026, 2, 1, 1), (1, 3, 1, 1)])
    assert (left, len(events)) == (8 + 3, 2)


def told(program: Path, probes: ProbesInPlace, lines: list[tuple[int, ...]]) -> tuple[int, np.ndarray]:
    """Tokens that were not read, and the events, of batches that the program is told to make."""
    elf = ElfFile(str(program))
    symbol = elf.symbols().get("process")
    assert symbol is not None
    site = choose_entry_site(elf, symbol.address, 2, kernel.version())
    before = probes.batch_tokens_left
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdin is not None and victim.stdout is not None
        held = attach(
            probes._bpf.program("batch"), [AttachPoint(elf.path, site.file_offset, 1)], victim.pid, probes.multi
        )
        for line in lines:
            victim.stdin.write(" ".join(map(str, line)) + "\n")
            victim.stdin.flush()
            assert victim.stdout.readline() == "done\n"
        held.close()
        victim.stdin.close()
    events = probes.rings.read()
    assert probes.rings.drops == 0
    events = events[events["kind"] == ring.BATCH_PART]
    return probes.batch_tokens_left - before, events[np.argsort(events["at_ns"], kind="stable")]
