"""Requests in words and as bars: what terminal and page say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.sections.requests import KvCache, RequestRow, RequestTable
from flowprof.profiler.sections.slo import Objective, Tier
from flowprof.viewers.quantity import duration, percent

MAX_BARS = 60  # of the waterfall
SCALE = 1000.0  # its width


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a request, in thousandths of the waterfall's width."""

    phase: str  # queue, prefill, decode
    x: float
    width: float
    ns: int


@dataclass(frozen=True, slots=True)
class Lane:
    row: RequestRow
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The first requests whose phases are known, one lane each, on one clock. None of them: no lanes."""

    lanes: tuple[Lane, ...]
    left_out: int
    begin_ns: int
    end_ns: int


def waterfall(table: RequestTable) -> Waterfall:
    """Lanes in the order of the table."""
    known = [(row, spans) for row in table.rows if (spans := _spans(row))]
    shown = known[:MAX_BARS]
    if not shown:
        return Waterfall((), 0, 0, 0)
    begin = min(spans[0][1] for _, spans in shown)
    end = max(spans[-1][2] for _, spans in shown)
    scale = SCALE / max(end - begin, 1)
    lanes = tuple(
        Lane(row, tuple(Bar(name, (a - begin) * scale, (b - a) * scale, b - a) for name, a, b in spans))
        for row, spans in shown
    )
    return Waterfall(lanes, len(known) - len(shown), begin, end)


def _spans(row: RequestRow) -> list[tuple[str, int, int]]:
    """Phase, begin and end; as far as they are known one after the other. Of one from before us: its tokens."""
    spans: list[tuple[str, int, int]] = []
    if row.queue_ns is None and row.first_seen_ns is not None and row.itl_mean_ns is not None:
        seen = round(row.itl_mean_ns * ((row.tokens or 1) - 1))
        return [("decode", row.first_seen_ns, row.first_seen_ns + seen)]
    now = row.posted_ns
    for name, ns in (("queue", row.queue_ns), ("prefill", row.prefill_ns), ("decode", row.decode_ns)):
        if now is None or ns is None:
            break
        spans.append((name, now, now + ns))
        now += ns
    return spans


def outline(cache: KvCache) -> str:
    """The cells in use over time as the path of an area, 1000 wide and 60 high."""
    return _area(cache, [point.cells for point in cache.points])


def outline_idle(cache: KvCache) -> str:
    """Of them those of slots that no request has, likewise. "": none ever."""
    return _area(cache, [point.idle for point in cache.points]) if any(point.idle for point in cache.points) else ""


def _area(cache: KvCache, cells: Sequence[int]) -> str:
    begin, end = cache.points[0].at_ns, cache.points[-1].at_ns
    most = max(cache.capacity or cache.peak_cells, cache.peak_cells, 1)
    path, height = ["M0 60"], 60.0
    for point, number in zip(cache.points, cells, strict=True):
        x = SCALE * (point.at_ns - begin) / max(end - begin, 1)
        path.append(f"L{x:.1f} {height:.1f}")
        height = 60 - 60 * max(number, 0) / most
        path.append(f"L{x:.1f} {height:.1f}")
    return "".join((*path, f"L{SCALE:.0f} {height:.1f}L{SCALE:.0f} 60Z"))


def blame(row: RequestRow) -> str:
    """Who delayed it most, and how many more."""
    if row.delayed_ns is None:
        return "–"
    if not row.delayed_by:
        return "nobody"
    worst = row.delayed_by[0]
    more = f", +{len(row.delayed_by) - 1}" if len(row.delayed_by) > 1 else ""
    return f"{name(worst.id, worst.slot)}: {duration(worst.total_ns)}{more}"


def operators(row: RequestRow) -> str:
    """The operators with most of its graphs' time by phase, and of how many graphs that is known."""
    told = []
    for phase in dict.fromkeys(one.phase for one in row.operators):
        mine = [one for one in row.operators if one.phase == phase]
        names = ", ".join(f"{one.op} {one.block} {percent(one.share)}".replace("  ", " ") for one in mine)
        told.append(f"{phase} ({mine[0].graphs} of {mine[0].of_graphs}): {names}")
    return "; ".join(told) or "–"


def called(lane: Lane) -> str:
    """Whose lane it is."""
    return name(lane.row.task_id, lane.row.slot)


def name(task: int | None, slot: int | None) -> str:
    """Of a task; of those from before the recording only the slot may be known."""
    return f"task {task}" if task is not None else f"slot {slot}"


def kept(tier: Tier) -> str:
    """Its attainment with the denominator, and what is not known."""
    words = (
        f"{percent(tier.attainment)} of {tier.requests} request{'s' * (tier.requests != 1)}"
        if tier.requests
        else "no request"
    )
    if tier.unknown:
        words += f", {tier.unknown} not known"
    return words + (f"; {tier.unplaced} of unknown prompt" if tier.unplaced else "")


def goodput(tier: Tier) -> str:
    """What attained it, by the recording's duration."""
    if tier.goodput_rps is None or tier.goodput_tps is None:
        return ""
    return f"; goodput {tier.goodput_rps:.3g} requests/s, {tier.goodput_tps:.3g} tokens/s"


def slack(objective: Objective) -> str:
    """What was left of the limit."""
    if objective.slack_p50_ns is None or objective.slack_min_ns is None:
        return "–"
    return f"p50 {_signed(objective.slack_p50_ns)}, least {_signed(objective.slack_min_ns)}"


def judged(objective: Objective) -> str:
    """How many requests kept it; what is not zero of the others."""
    others = ((objective.missed, "missed"), (objective.unknown, "not known"))
    return ", ".join([f"{objective.kept} kept", *(f"{number} {word}" for number, word in others if number)])


def _signed(ns: float) -> str:
    return f"{'-' if ns < 0 else '+'}{duration(abs(ns))}"
