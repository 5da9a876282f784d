"""What if some operators were faster: the most that a recording could gain (Amdahl's law).

    flowprof whatif FILE --op attn=7.29x --block ffn=2x

An operator is chosen by ggml's name (MUL_MAT), by its tensor's (ffn_up, 'ffn_*'), or by `attn`, all that works on the
KV cache; a block is attention, ffn, moe, output or other. In a recording of PyTorch's operators, or of an imported
GPU timeline, by the operator's name (aten::mm, or mm) or a kernel's; there the answer is for the whole of it.
"""

from __future__ import annotations

import argparse
import sys

NAME = "whatif"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a recording (.duckdb)")
    parser.add_argument("--op", action="append", default=[], metavar="NAME=FACTOR", help="operators, like attn=7.29x")
    parser.add_argument("--block", action="append", default=[], metavar="NAME=FACTOR", help="a block, like ffn=2x")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.store import Recording
    from flowprof.profiler.whatif.change import read_change
    from flowprof.profiler.whatif.operators import whatif
    from flowprof.profiler.whatif.timeline import is_timeline, timeline
    from flowprof.viewers import whatif as viewer

    changes = [read_change("op", text) for text in asked.op] + [read_change("block", text) for text in asked.block]
    if not changes:
        raise UsageError("what would be faster?", f"flowprof whatif {asked.file} --op attn=2x")
    with Recording.open(asked.file) as recording:
        whole = timeline(recording, changes) if is_timeline(recording) else None
        gains = whatif(recording, changes) if whole is None else []
    if asked.json:
        sys.stdout.write(viewer.as_json(changes, gains, whole))
    elif whole is not None:
        viewer.show_timeline(changes, whole, sys.stdout)
    else:
        viewer.show(changes, gains, sys.stdout)
    return 0
