"""`flowprof whatif` on a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from flowprof.profiler.whatif.change import Change
from flowprof.profiler.whatif.operators import Gain
from flowprof.profiler.whatif.timeline import Timeline
from flowprof.viewers.quantity import clean, count, duration, percent
from rich.console import Console
from rich.text import Text


def show(changes: Sequence[Change], gains: Sequence[Gain], out: TextIO) -> None:
    """A paragraph per phase."""
    console = Console(file=out, highlight=False)
    for gain in gains:
        lines = [f"{gain.phase}: at most {gain.end_to_end:.2f}x as fast"]
        for change, share in zip(changes, gain.shares, strict=True):
            lines.append(f"  {clean(change.pattern)} {change.factor:g}x as fast: f = {percent(share)} of {gain.phase}")
        measured = f"{gain.graphs} of {gain.of} measured"
        lines.append(f"  inside graphs {gain.speedup:.2f}x; {duration(gain.step_ns)} a graph, {measured}")
        if gain.gap_ns is not None:
            lines.append(f"  between two steps {duration(gain.gap_ns)} pass that no operator makes shorter (median)")
        console.print(Text("\n".join(lines)))
    console.print(Text("Upper bounds: Amdahl's law on the first thread's wall time, the graphs' critical path."))


def show_timeline(changes: Sequence[Change], found: Timeline, out: TextIO) -> None:
    """One paragraph: a timeline has no phases."""
    console = Console(file=out, highlight=False)
    lines = [f"{found.what}: at most {found.end_to_end:.2f}x as fast, end to end"]
    for change, share, calls in zip(changes, found.shares, found.counts, strict=True):
        of = f"f = {percent(share)} of {duration(found.span_ns)}, {count(calls)} of them"
        lines.append(f"  {clean(change.pattern)} {change.factor:g}x as fast: {of}")
    idle = "nothing runs" if "GPU" in found.what else "no operator runs"
    lines.append(f"  {duration(found.other_ns)} in which {idle}: nothing here makes that shorter")
    if found.probe_share is not None:
        lines.append(f"  probes took at most {percent(found.probe_share)}, which is in these times")
    console.print(Text("\n".join(lines)))
    console.print(Text("An upper bound: Amdahl's law, as if all that time were on the critical path."))


def as_json(changes: Sequence[Change], gains: Sequence[Gain], timeline: Timeline | None) -> str:
    """The same, for programs: `phases` of ggml's graphs, or one `timeline`."""
    told: dict[str, object] = {"changes": [asdict(change) for change in changes]}
    told["phases"] = [asdict(gain) | {"f": gain.share} for gain in gains]
    if timeline is not None:
        told["timeline"] = asdict(timeline) | {"f": timeline.share}
    return json.dumps(told, indent=2) + "\n"
