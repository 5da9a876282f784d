"""Missed overlap on a terminal: exposed time by resource, what could run side by side, and the picture of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from flowprof.profiler.sections.overlap import Exposure, HostExposure, HostGap, Overlap, OverlapTable, Step
from flowprof.viewers.quantity import ascii_only, clean, count, duration, percent
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

DEVICES = 8
OVERLAPS = 4
REFUSED = 4
WHY = {"free": "free", "split-only": "half batches only"}


def show(table: OverlapTable, out: TextIO, width: int | None = None) -> None:
    """All of it, for `flowprof overlap REC`."""
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    plain = str if console.encoding.lower().startswith("utf") else ascii_only
    for part in parts(table, console.width, plain, whole=True):
        console.print(part)


def parts(table: OverlapTable, width: int, plain: Callable[[str], str], whole: bool = False) -> list[RenderableType]:
    """Lines and tables; `whole`: with evidence, pictures and what was refused."""
    found: list[RenderableType] = [Text("Overlap", style="bold underline")]
    if table.devices:
        found.append(_exposed(table.devices, plain))
    for process in table.calls[:DEVICES]:
        found += _calls(process, plain)
    for one in table.overlaps[: None if whole else OVERLAPS]:
        found += [_indented(plain(line), style) for line, style in _lines(one, whole)]
        if whole and one.picture is not None:
            for name, steps, ns in (
                ("before", one.picture.before, one.picture.before_ns),
                ("after", one.picture.after, one.picture.after_ns),
            ):
                longest = max(one.picture.before_ns, one.picture.after_ns)
                found += [Text(plain(line)) for line in _picture(name, steps, ns, longest, width)]
            found.append(_indented(plain(_order(one)), "dim"))
    if table.host is not None and (whole or table.host.share >= 0.01):
        found.append(_indented(plain(_host(table.host))))
    if not table.overlaps:
        found.append(Text(plain(" No overlap is advised.")))
    for why in table.refused[: None if whole else REFUSED]:
        found.append(_indented(plain(f" not advised: {clean(why, 300)}"), "dim"))
    if table.overlaps and table.devices:
        found.append(_indented(plain(f" interference: {clean(table.interference, 200)}"), "dim"))
    return found


def _indented(line: str, style: str = "") -> Padding:
    """A line whose continuations begin where it does."""
    text = line.lstrip(" ")
    return Padding(Text(text, style=style), (0, 0, 0, len(line) - len(text)), expand=False)


def _exposed(devices: Sequence[Exposure], plain: Callable[[str], str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    heads = ("device", "compute", "memory", "network", "copy", "other", "idle", "of it host")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    for one in devices[:DEVICES]:
        cells = [duration(time.exposed_ns if time.resource in ("memory", "network", "copy") else time.busy_ns)
                 for time in one.times]  # fmt: skip
        row = (f" {one.device}", *cells, duration(one.idle_ns), duration(one.host_ns))
        table.add_row(*(Text(plain(cell)) for cell in row))
    more = f"; {len(devices) - DEVICES} more devices" if len(devices) > DEVICES else ""
    table.caption, table.caption_justify = f"memory, network, copy: exposed{more}", "left"
    return table


def _calls(one: HostExposure, plain: Callable[[str], str]) -> list[RenderableType]:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for number, head in enumerate((f"process {one.pid}", "host time", "exposed")):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for time in one.times:
        cells = (f" {time.kind}", duration(time.busy_ns), duration(time.exposed_ns))
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return [table, _indented(plain(f" {idle(one)}"), "dim")]


def idle(one: HostExposure) -> str:
    """What `exposed` means in this process, and how long it had nothing at all to do."""
    part = f"{duration(one.idle_ns)} of {duration(one.span_ns)}"
    if one.idle == "streams empty":
        return f"Exposed: all streams were certainly empty, for {part} or more; GPU execution not observed"
    return f"Exposed: no arithmetic beside it; no thread in an operator for {part}"


def _lines(one: Overlap, whole: bool) -> list[tuple[str, str]]:
    gain = f"≤ {duration(one.net_ns)} ({percent(one.share)})"
    lines = [(f" {WHY[one.kind]}: {clean(one.what, 160)}: {gain}", "bold")]
    prices = f"ideal {duration(one.ideal_ns)}, with interference {duration(one.aware_ns)}"
    if one.kind == "split-only":
        prices += f", after the split {duration(one.net_ns)}"
    if not one.priced:
        prices = f"at most {duration(one.ideal_ns)}, interference not known,"
    lines.append((f"   {prices} of {duration(one.base_ns)}; kept apart by {clean(one.culprit, 120)}", ""))
    if whole:
        lines.append((f"   {clean(one.reason, 400)}", ""))
        lines += [(f"   {clean(text, 300)}", "dim") for text in one.evidence]
    return lines


def _picture(name: str, steps: Sequence[Step], ns: int, longest: int, width: int) -> list[str]:
    """A line for each lane, to scale; dark and light in turn where one step follows the other."""
    columns = max(20, min(width, 120) - 20)
    lines = [f"   {name} {duration(ns)}"]
    for lane in dict.fromkeys(step.lane for step in steps):
        cells = [" "] * columns
        for number, step in enumerate(one for one in steps if one.lane == lane):
            first = min(columns - 1, step.start_ns * columns // max(longest, 1))
            last = max(first + 1, step.end_ns * columns // max(longest, 1))
            sign = "█" if number % 2 == 0 else "▒"
            cells[first:last] = sign * (min(last, columns) - first)
        lines.append(f"     {lane:8} {''.join(cells)}".rstrip())
    return lines


def _order(one: Overlap) -> str:
    drawn = one.picture
    if drawn is None:
        return ""
    exact = "" if drawn.exact_ns is None else f", the least possible {duration(drawn.exact_ns)}"
    return f"   without interference this order takes {duration(drawn.list_ns)}{exact}"


def _host(gap: HostGap) -> str:
    slept = "" if gap.asleep_ns is None else f", asleep for {duration(gap.asleep_ns)}"
    told = f"; of {count(gap.parts_gaps)} gaps: {gap_parts(gap)}" if gap.parts else ""
    return (
        f" between decode steps: {percent(gap.share)} of a usual step without a graph ({duration(gap.median_ns)}, "
        f"medians); {count(gap.gaps)} gaps, {duration(gap.total_ns)} together{slept}{told}"
    )


def gap_parts(gap: HostGap) -> str:
    """What the gaps between decode steps were made of."""
    return ", ".join(f"{part.what} {duration(part.total_ns)}" for part in gap.parts)
