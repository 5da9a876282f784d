"""A real data loader: batches that are loaded when the step is done are found, those that are loaded ahead are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch_engine
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.store import Recording
from torch_engine import recorded
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, pytest.mark.engine, DISTURBED]

ROUNDS = 12
# A loader's process multiplies for every item, the step for every batch. `serial`: an epoch has one batch, so that the
# next is asked for when the step is done; `ahead`: the loader has half as much to do, and is asked before the step.
LOADS = """
import json, multiprocessing, sys, torch
from torch.utils.data import DataLoader, Dataset
torch.set_num_threads(1)

class Products(Dataset):
    def __init__(self, length, times):
        self.length, self.times = length, times

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        x = torch.ones(512, 512)
        for _ in range(self.times):
            x = torch.mm(x, x).clamp(0, 1)
        return x

def step(batch):
    for _ in range(24):
        torch.mm(batch[0], batch[0])

kinds = {"serial": (1, 12), "ahead": (ROUNDS, 6)}
loaders = {name: DataLoader(Products(*size), num_workers=1, persistent_workers=True) for name, size in kinds.items()}
pids = {}
for name, loader in loaders.items():
    before = {child.pid for child in multiprocessing.active_children()}
    for batch in loader:
        step(batch)
    pids[name] = [child.pid for child in multiprocessing.active_children() if child.pid not in before][0]
print(json.dumps(pids), flush=True)
for line in sys.stdin:
    name = line.strip()
    for _ in range(ROUNDS if name == "serial" else 1):
        for batch in loaders[name]:
            step(batch)
    print(json.dumps("done"), flush=True)
""".replace("ROUNDS", str(ROUNDS))


def test_what_a_data_loader_could_load_ahead(tmp_path: Path) -> None:
    found: dict[str, OverlapTable] = {}
    for how in ("serial", "ahead"):
        path = tmp_path / f"{how}.duckdb"
        with torch_engine.running(LOADS) as program:
            pids = program.ready
            with recorded([program.pid, pids[how]], path):
                program.ask(how)
        with Recording.open(str(path)) as recording:
            found[how] = overlap.table(recording)
    for table in found.values():
        [process] = table.calls
        assert {time.kind for time in process.times} >= {"operators", "data loading"}, "the loader's is its parent's"
    [one] = found["serial"].overlaps
    loading = next(time for time in found["serial"].calls[0].times if time.kind == "data loading")
    assert one.kind == "free" and one.exposed_ns == loading.exposed_ns >= 0.9 * loading.busy_ns
    assert one.net_ns <= one.room_ns
    ahead = next(time for time in found["ahead"].calls[0].times if time.kind == "data loading")
    assert ahead.exposed_ns < 0.8 * ahead.busy_ns, "less than all of it: the step ran beside"
