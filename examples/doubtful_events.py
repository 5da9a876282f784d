"""The scan of `scan_floods_pool`, from a recording of which 23 % of the events are taken away and 13.6 % of the others
are called something else: so much a language model that looks for them misses and mistakes, says gigiProfiler's paper.

The scan must still come first in nine reports of ten, each with other events spoiled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flowprof.examples import planted_resource, resource_truth
from flowprof.examples.scan_floods_pool import RESOURCE
from flowprof.profiler.report import build_report
from flowprof.profiler.store import Recording
from flowprof.viewers import json as json_viewer

MISSING, MISTAKEN = 0.23, 0.136
KINDS = np.array(["wait", "acquire", "use", "release"], object)
SEEDS, ENOUGH = 10, 9
SECONDS = 1.0  # some 4 000 events


def spoil(recording: Recording, seed: int) -> None:
    """What queries see of the events from now on; the file is not touched."""
    random = np.random.default_rng(seed)
    columns = recording.columns("FROM resource_event")
    many = len(columns["at_ns"])
    kept = random.random(many) >= MISSING
    wrong = random.random(many) < MISTAKEN
    events = np.array(columns["event"], object)
    events[wrong] = [random.choice(KINDS[kind != KINDS]) for kind in events[wrong]]
    recording.shadow("resource_event", {**{name: column[kept] for name, column in columns.items()},
                                        "event": events[kept]})  # fmt: skip


def first(path: Path, seed: int, truth: resource_truth.Json) -> resource_truth.Trouble:
    """What the report says first."""
    with Recording.open(str(path)) as recording:
        spoil(recording, seed)
        return resource_truth.reported(json_viewer.document(build_report(recording)), truth)


def show(arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Plants wrong events.")
    parser.add_argument("-o", "--output", default="doubtful.duckdb", help="default: %(default)s")
    asked = parser.parse_args(arguments)
    path = Path(asked.output).absolute()
    status, truth, lines = planted_resource.record(RESOURCE, path, SECONDS)
    print(*lines, sep="\n")
    if status:
        return status
    true = resource_truth.planted(truth, RESOURCE.pathology, (RESOURCE.resource,))
    right = 0
    for seed in range(SEEDS):
        said = first(path, seed, truth)
        right += (said.what, said.by) == (true.what, true.by)
        print(f"seed {seed}: {said.what} by {said.by}")
    print(f"planted: {true.what} by {true.by}, first in {right} of {SEEDS} reports; the recording: {path}")
    return 0 if right >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(show())
