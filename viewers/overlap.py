"""`flowprof overlap` on a terminal: operators, their class, and what overlap would save."""

from __future__ import annotations

from typing import Any, TextIO

from flowprof.viewers.quantity import clean, duration, three
from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(told: dict[str, Any], out: TextIO) -> None:
    """told: what `--json` prints."""
    console = Console(file=out, highlight=False)

    def say(line: str = "") -> None:
        console.print(Text(line))

    say(f"{clean(told['model'])} on {clean(told['gpus'])}, {told['batch']} tokens a step")
    say()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("op", "GFLOP", "mem GB", "net GB", "compute", "memory", "network", "measured", "class"):
        table.add_column(head, justify="left" if head in ("op", "class") else "right", no_wrap=True)
    for one in told["operators"]:
        table.add_row(
            one["op"], three(one["flops"] / 1e9), three(one["mem_bytes"] / 1e9), three(one["net_bytes"] / 1e9),
            *(duration(one[f"t_{what}_ns"] or None) for what in ("comp", "mem", "net")), duration(one["measured_ns"]),
            one["class"],
        )  # fmt: skip
    console.print(table)
    say()
    say("All devices and layers together; compute, memory, network: the least time that the resource allows.")
    if any(one["class"] == "launch" for one in told["operators"]):
        say("launch: so little work a layer that its launch takes as long, or 5 times its least time as measured.")
    if not told["network_known"]:
        say("The data sheet names no link between these GPUs: the network's time is not known.")
    if told["t_r"] is not None:
        bound = "compute" if told["t_r"] < 1 else "memory"
        say(f"T_R = {told['t_r']:.2f} (all memory read once / arithmetic of a step): bound by {bound}.")
    say(
        f"Optimum: {told['optimum_tokens_per_s_per_gpu']:.0f} tokens/s per GPU at {told['peak_tflops']:.4g} TFLOP/s "
        f"({clean(told['peak_source'], 400)})."
    )
    limit = told["step_limit"]
    if limit["resource"] != "compute":
        rate = three(limit["tokens_per_s_per_gpu"])
        say(f"With {told['batch']} tokens a step at most {rate} tokens/s per GPU: {limit['resource']} takes longest.")
    whole = told["serial_ns"]
    for one in told["overlap"]:
        say()
        say(f"One after the other {duration(whole)}, of it {' and '.join(one['what'])} {duration(one['exposed_ns'])}.")
        say("Hidden behind arithmetic (one and the same saving, counted three ways):")
        for name, key in (
            ("at no price", "ideal_ns"),
            ("with interference", "aware_ns"),
            ("after the split", "net_ns"),
        ):
            say(f"  {name:18} {duration(one[key]):>9} less, {whole / (whole - one[key]):.2f}x as fast")
        say(f"{clean(one['reason'])}.")
        say(f"Interference: {clean(told['interference'])}.")
    if told["no_overlap"]:
        say()
        say(f"No overlap is advised: {clean(told['no_overlap'])}.")
