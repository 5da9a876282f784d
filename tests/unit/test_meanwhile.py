"""What the machine did while a recording ran: read from files as the kernel writes them, and compared by a diff."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from diff_compared import Facts, Maker, row
from flowprof.profiler.diff.causes.ranking import ranked
from flowprof.profiler.diff.comparability import machine_state
from flowprof.profiler.machine import meanwhile
from flowprof.profiler.machine.meanwhile import Meanwhile

NUMA = """\
7f0000000000 default file=/models/a.gguf mapped=300 active=0 N0=100 N1=200 kernelpagesize_kB=4
7f1000000000 default anon=2 dirty=2 N1=2 kernelpagesize_kB=2048
7f2000000000 default heap
"""
ROLLUP = """\
560000000000-7ffee0000000 ---p 00000000 00:00 0                          [rollup]
Rss:               10000 kB
Pss:                9000 kB
AnonHugePages:      4096 kB
FilePmdMapped:      2048 kB
Private_Hugetlb:    2048 kB
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """/sys and /proc of a made-up host."""
    for name in ("CPU", "PROC"):
        monkeypatch.setattr(meanwhile, name, str(tmp_path))
    monkeypatch.setattr(meanwhile, "NODES", str(tmp_path / "online"))
    yield tmp_path


def says(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_host_that_tells_everything(machine: Path) -> None:
    clock, heat = "cpu{}__cpufreq__scaling_cur_freq", "cpu{}__thermal_throttle__core_throttle_count"
    says(machine, online="0-1\n", stat="cpu  100 0 50 800 0 0 0 50 0 0\ncpu0 1\n", **{"7__numa_maps": NUMA})
    says(machine, **{clock.format(0): "3000000\n", clock.format(1): "2000000\n", heat.format(0): "4\n"})
    state = Meanwhile([7], {0, 1})
    says(machine, stat="cpu  160 0 60 800 0 0 0 80 0 0\n", **{"7__smaps_rollup": ROLLUP, heat.format(0): "6\n"})
    says(machine, **{clock.format(0): "1000000\n", clock.format(1): "1000000\n"})
    nodes = f"0:{100 << 12} 1:{(200 << 12) + (4 << 20)}"
    assert state.take([7]) == {
        "clock_mhz": "2500 1000", "steal": "0.3000", "throttles": "2", "memory_nodes_before": nodes,
        "memory_nodes": nodes, "resident_bytes": str(12048 << 10), "huge_bytes": str(8192 << 10),
    }  # fmt: skip


def test_a_guest_tells_little(machine: Path) -> None:
    """No clock, no heat, one node, and the target is gone: nothing is made up."""
    says(machine, online="0\n", stat="cpu  100 0 50 800 0 0 0 50 0 0\n")
    state = Meanwhile([7], {0, 1})
    assert state.take([7]) == {}
    says(machine, stat="cpu  100 0 50 900 0 0 0 50 0 0\n")
    assert state.take([]) == {"steal": "0.0000"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(tmp_path_factory.mktemp("compared"), stack)


ROWS = [row(f"MUL_MAT {name}", 10, 12, bytes=(1e6, 1e6)) for name in ("ffn_up", "ffn_down", "attn_out", "Qcur")]
CALM = {"clock_mhz": "3000 3000", "steal": "0.0010", "resident_bytes": "1000", "huge_bytes": "900",
        "memory_nodes": "0:1000", "throttles": "0"}  # fmt: skip


@pytest.mark.parametrize(
    ("meta", "what", "words"),
    [
        ({"clock_mhz": "3000 1800"}, "clock", "clock: 3 000 MHz, mean of start and end → 2 400 MHz"),
        ({"steal": "0.2"}, "steal", "steal: 0.1 % of the processors' time → 20.0 %"),
        ({"huge_bytes": "0"}, "memory in huge pages", "huge pages: 90.0 % of what is resident → 0.0 %"),
        ({"memory_nodes": "0:400 1:600"}, "memory on NUMA nodes", "100 % on node 0 → 40 % on node 0, 60 % on node 1"),
        ({"throttles": "12"}, "slowed for heat", "0 times → 12 times"),
    ],
    ids=["clock", "steal", "huge pages", "nodes", "heat"],
)  # fmt: skip
def test_what_the_machine_did_is_a_cause(compared: Maker, meta: dict[str, str], what: str, words: str) -> None:
    """Where everything got slower; the other way round it is none, but for the memory's nodes."""
    found = compared(ROWS, Facts(meta=CALM), Facts(meta=CALM | meta))
    sides = found.pair.a.recordings, found.pair.b.recordings
    assert [one.what for one in machine_state.differences(sides) if one.sameness == "different"] == [what]
    first = ranked(found)[0]
    assert first.kind == "machine" and first.claim.startswith("The machine ran otherwise: ") and words in first.claim
    better = ranked(compared(ROWS, Facts(meta=CALM | meta), Facts(meta=CALM)))
    assert ("ran otherwise" in better[0].claim) == (what == "memory on NUMA nodes")


def test_what_is_not_told_is_unknown(compared: Maker) -> None:
    """As in guests; what makes no sense is as if it were not there."""
    for meta in ({}, {"clock_mhz": "fast", "steal": "-1", "memory_nodes": "a:b 1:", "resident_bytes": "9" * 99}):
        found = compared(ROWS, Facts(meta=CALM), Facts(meta=meta))
        told = machine_state.differences((found.pair.a.recordings, found.pair.b.recordings))
        assert {one.sameness for one in told} == {"unknown"} and len(told) == 5
        assert "ran otherwise" not in ranked(found)[0].claim
    alike = compared(ROWS, Facts(), Facts())
    told = machine_state.differences((alike.pair.a.recordings, alike.pair.b.recordings))
    assert [one.what for one in told] == ["clock", "steal", "memory in huge pages"]
