"""23 calls are 23 events: a C program whose calls are known, in every shape of binary, on both attach paths."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flowprof.probes.sched import SCHED
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.kernel_side import attach, bpf, ring
from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.sites import choose_entry_site, return_site

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

CALLS = 23
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VISIBLE __attribute__((noinline, visibility("default")))

VISIBLE long known_call(long number, char *text) { return number + (long)strlen(text); }
VISIBLE long other_call(long number) { return number * 3; }
VISIBLE long outer_call(long number) { return other_call(number) + 1; }

int main(void)
{
	char line[64];
	while (fgets(line, sizeof(line), stdin)) {
		long sum = 0;
		for (long i = 0; i < atol(line); i++)
			sum += known_call(1000 + i, line) + outer_call(i);
		printf("%ld\n", sum);
		fflush(stdout);
	}
	return 0;
}
"""
LANDING_PADS = {"x86_64": "-fcf-protection=full", "aarch64": "-mbranch-protection=standard"}  # endbr64; paciasp, bti
SHAPES = {
    "pie": ["-pie", "-fPIE"],
    "no-pie": ["-no-pie", "-fno-pie"],
    "static": ["-static"],
    "static-pie": ["-static-pie", "-fPIE"],
    "stripped": ["-pie", "-fPIE", "-rdynamic", "-s"],
    "frame-pointer": ["-no-pie", "-fno-omit-frame-pointer"],
    "landing-pads": ["-pie", "-fPIE", LANDING_PADS[platform.machine()]],
    "unoptimised": ["-O0"],
}


class Victim:
    """The program, waiting for a number of calls on its input."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, times: int) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate(timeout=10)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("known-calls")
    (folder / "known.c").write_text(PROGRAM)
    compiler = shutil.which("gcc") or pytest.skip("needs gcc")

    def compiled(shape: str) -> Path:
        path = folder / shape
        if not path.exists():
            subprocess.run([compiler, "-O2", "known.c", "-o", path, *SHAPES[shape]], cwd=folder, check=True)
        return path

    return compiled


@pytest.fixture(scope="module", params=[True, False], ids=["uprobe_multi", "perf_event"])
def kernel_side(request: pytest.FixtureRequest) -> tuple[bpf.Module, ring.Rings, bool]:
    multi = request.param
    if multi and kernel.version() < kernel.UPROBE_MULTI:
        pytest.xfail("this kernel has no uprobe_multi links")
    module = bpf.Module("ggml.bpf.c", ring_shift=12, multi=multi)
    rings = ring.Rings(module.map_fd("ring_heads"), module.map_fd("ring_events"), module.cpus, module.ring_shift)
    return module, rings, multi


@pytest.mark.parametrize("shape", SHAPES)
def test_every_call_is_an_event(
    build: Callable[[str], Path], kernel_side: tuple[bpf.Module, ring.Rings, bool], shape: str
) -> None:
    module, rings, multi = kernel_side
    victim = Victim(build(shape))
    elf = ElfFile(str(victim.path))
    assert elf.is_pie == (shape not in ("no-pie", "static", "frame-pointer"))
    assert elf.stripped == (shape == "stripped")
    points = []
    for cookie, name in ((7, "known_call"), (8, "other_call")):
        symbol = elf.symbols().get(name)
        assert symbol is not None
        site = choose_entry_site(elf, symbol.address, 2, kernel.version())
        points.append(attach.AttachPoint(str(victim.path), site.file_offset, cookie))
        after = return_site(elf, symbol.address)
        points.append(attach.AttachPoint(str(victim.path), after.file_offset, cookie + 2, is_return=True))
    before = module.site_hits(11)
    undisturbed = victim.call(CALLS)
    held = attach.attach(module.program("call"), points, victim.process.pid, multi)
    try:
        probed = victim.call(CALLS)
    finally:
        held.close()
    assert victim.call(CALLS) == probed == undisturbed, "the program computes what it computed without probes"
    victim.end()
    events = rings.read()
    assert rings.drops == 0
    assert np.array_equal(module.site_hits(11) - before, [0] * 7 + [CALLS] * 4)
    assert set(events["kind"]) == {ring.CALL} and set(events["pid"]) == set(events["tid"]) == {victim.process.pid}
    events = np.sort(events, order="at_ns")
    assert events["a"][events["site"] == 7].tolist() == [1000 + i for i in range(CALLS)]
    assert events["a"][events["site"] == 8].tolist() == list(range(CALLS))
    assert [len(events[events["site"] == site]) for site in (7, 8, 9, 10)] == [CALLS] * 4
    assert events["site"].tolist() == [7, 9, 8, 10] * CALLS, "entry, return, entry, return: in the order of time"


def test_only_the_chosen_process(
    build: Callable[[str], Path], kernel_side: tuple[bpf.Module, ring.Rings, bool]
) -> None:
    """The probe is on the file; a second process of the same program stays unseen."""
    module, rings, multi = kernel_side
    chosen, other = Victim(build("pie")), Victim(build("pie"))
    elf = ElfFile(str(chosen.path))
    symbol = elf.symbols().get("known_call")
    assert symbol is not None
    offset = choose_entry_site(elf, symbol.address, 1, kernel.version()).file_offset
    point = attach.AttachPoint(str(chosen.path), offset, 3)
    held = attach.attach(module.program("call"), [point], chosen.process.pid, multi)
    other.call(CALLS)
    chosen.call(CALLS)
    held.close()
    for victim in (chosen, other):
        victim.end()
    events = rings.read()
    assert len(events) == CALLS and set(events["pid"]) == {chosen.process.pid}


def test_a_full_ring_is_counted(build: Callable[[str], Path], kernel_side: tuple[bpf.Module, ring.Rings, bool]) -> None:
    """What finds no room is counted, what was recorded is whole, and afterwards it goes on."""
    module, rings, multi = kernel_side
    victim = Victim(build("pie"))
    elf = ElfFile(str(victim.path))
    symbol = elf.symbols().get("known_call")
    assert symbol is not None
    offset = choose_entry_site(elf, symbol.address, 1, kernel.version()).file_offset
    os.sched_setaffinity(victim.process.pid, {min(os.sched_getaffinity(0))})  # one ring, of 4096
    held = attach.attach(
        module.program("call"), [attach.AttachPoint(str(victim.path), offset, 3)], victim.process.pid, multi
    )
    try:
        before = rings.drops
        victim.call(10_000)
        assert rings.fill > 0.9
        kept = rings.read()
        lost = rings.drops - before
        assert lost > 5000 and len(kept) + lost == 10_000
        assert kept["a"].tolist() == [1000 + i for i in range(len(kept))], "the first are kept"
        victim.call(CALLS)
        assert len(rings.read()) == CALLS and rings.drops - before == lost
    finally:
        held.close()
        victim.end()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of PyTorch and CUDA are paired on x86-64 only")
def test_engines_that_are_compiled_later_share_all(build: Callable[[str], Path]) -> None:
    """Rings, hits and open calls: a call of one engine within another's, from two modules, beside the first one's."""
    probes, beside = ProbesInPlace(ring_shift=12), ProbesInPlace(ring_shift=12)
    victim = Victim(build("pie"))
    elf = ElfFile(str(victim.path))

    def place(name: str, engine: str, program: str, cookie: int, is_return: bool = False) -> attach.Attachment:
        symbol = elf.symbols().get(name)
        assert symbol is not None
        find = return_site(elf, symbol.address) if is_return else choose_entry_site(elf, symbol.address, 6, (5, 15))
        module = probes._modules[engine]
        point = attach.AttachPoint(str(victim.path), find.file_offset, cookie, is_return)
        return attach.attach(module.program(program), [point], victim.process.pid, probes.multi)

    try:
        probes.compile(["torch"])
        beside.compile(["cuda"])
        probes.compile(["torch", "inductor", "cuda"])
        assert len(set(probes._modules.values())) == 3, "each once"
        placed = [
            place("outer_call", "torch.bpf.c", "call_end", 8 | 7 << 16, True),
            place("other_call", "cuda.bpf.c", "device_end", 10 | 9 << 16, True),
            place("known_call", "ggml.bpf.c", "call", 6),
            place("outer_call", "torch.bpf.c", "torch_begin", 7),
            place("other_call", "cuda.bpf.c", "device_call", 9),
        ]
        victim.call(CALLS)
        for one in placed:
            one.close()
        victim.end()
        events = np.sort(probes.rings.read(), order="at_ns")
        assert probes.site_hits(11).tolist() == [0] * 6 + [CALLS] * 5
        assert len(beside.rings.read()) == 0 and not beside.site_hits(11).any(), "another recording sees nothing of it"
    finally:
        probes.close()
        beside.close()
    outer = events[(events["kind"] == ring.CALL_RETURN) & (events["site"] == 7)]
    inner = events[(events["kind"] == ring.CALL_RETURN) & (events["site"] == 9)]
    assert len(outer) == len(inner) == CALLS == (events["kind"] == ring.CALL).sum()
    assert inner["c"].tolist() == outer["b"].tolist() and not outer["c"].any(), "the other engine's"


@pytest.mark.parametrize("counters", ["", "all"])
def test_closing_gives_everything_back(counters: str) -> None:
    """A process that records again and again must not run out of file descriptors."""

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    ProbesInPlace(
        ring_shift=12, counters=counters
    ).close()  # what is opened once and for all (imports, libraries) is open now
    before = descriptors()
    for _ in range(3):
        probes = ProbesInPlace(ring_shift=12, counters=counters)
        probes.measure_hit_cost()
        probes.attach_sched({event.id: number for number, event in enumerate(SCHED, 1)})
        assert descriptors() > before
        probes.close()
        del probes
    assert descriptors() == before
