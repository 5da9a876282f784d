"""A diff as one HTML page that works from a file, without network: the verdict, why, and where, in text and tables;
then the pictures. What the report's page has (styles, tables, charts, timeline) is used as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowprof.profiler.diff.gate import Gate
from flowprof.profiler.diff.result import Diff, Interval, Part, PartShift, Row
from flowprof.profiler.diff.timelines import StepPair
from flowprof.viewers import diff_timeline, quantity
from flowprof.viewers import diff_words as words
from flowprof.viewers.diff_charts import waterfalls
from flowprof.viewers.diff_flame import flames
from flowprof.viewers.diff_variables import number, picture
from flowprof.viewers.page import TIMELINE, assets, environment

STYLES = ("report.css", "diff.css")
SCRIPTS = (*TIMELINE, "tables.js", "flame.js", "page.js")
MAX_ROWS = 500
MAX_PART_ROWS = 40
MAX_VARIABLES = 40
MAX_TIMELINES = 3  # phases
PARTS: tuple[tuple[Part, str, str], ...] = (  # in words, and their colours
    ("work", "own work", "--compute"),
    ("barrier", "barrier", "--wait"),
    ("runnable", "no processor", "--state-runnable"),
    ("blocked", "blocked", "--state-sleeping"),
    ("fault", "disk", "--state-fault"),
)


@dataclass(frozen=True, slots=True)
class Split:
    """Parts of a row or of a whole phase, side by side. `most_ns`: what a full bar stands for."""

    name: str
    parts: tuple[PartShift, ...]
    most_ns: float
    note: str = ""

    def of(self, part: str) -> PartShift | None:
        return next((one for one in self.parts if one.part == part), None)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A timeline of two steps. `id`: of its element."""

    id: str
    phase: str
    sentence: str
    description: dict[str, Any]
    arrays: str


def render(diff: Diff, steps: Sequence[StepPair] = (), gate: Gate | None = None) -> str:
    """The whole page. `steps`: what timelines() found; () leaves the timelines out."""
    made = environment()
    made.filters.update(
        signed=words.change,
        between=_between,
        q=words.q,
        six=number,
        only=words.one_sided,
        at_context=words.at_context,
        at_context_short=words.at_context_short,
    )
    made.globals["relative"] = words.relative
    falls = waterfalls(diff)
    template = made.get_template("diff.html")
    return template.render(
        **assets(STYLES, SCRIPTS),
        diff=diff,
        gate=gate,
        charts={"waterfall": {"by": falls} if falls else None},
        flames=flames(diff),
        part_names=PARTS,
        splits=_splits(diff),
        variables=[(one, picture(one)) for one in diff.variables[:MAX_VARIABLES]],
        timelines=_timelines(diff, steps),
        max_rows=MAX_ROWS,
        blocks=any(row.block not in ("", "other") for row in diff.rows),
    )


def _timelines(diff: Diff, steps: Sequence[StepPair]) -> list[Drawn]:
    """In the order of the diff's phases."""
    order = {phase.phase: at for at, phase in enumerate(diff.phases)}
    shown = sorted(
        (pair for pair in steps if pair.a is not None or pair.b is not None),
        key=lambda pair: order.get(pair.phase, len(order)),
    )
    return [
        Drawn(f"steps-{at}", pair.phase, diff_timeline.sentence(pair), *diff_timeline.packed(pair))
        for at, pair in enumerate(shown[:MAX_TIMELINES])
    ]


def _splits(diff: Diff) -> list[tuple[str, list[Split]]]:
    """By phase: the whole, then its rows whose parts are known on both sides, the largest change first."""
    found = []
    for phase in dict.fromkeys(row.phase for row in diff.rows):
        rows = [row for row in diff.rows if row.phase == phase]
        known = [row for row in rows if any(one.a_ns is not None and one.b_ns is not None for one in row.parts)]
        if not known:
            continue
        known.sort(key=lambda row: -abs(row.delta_ns_per_token))
        whole = Split(
            f"all of {quantity.clean(phase, 20)}", _added(known), _longest(_added(known)),
            f"{quantity.count(len(known))} of {quantity.count(len(rows))} rows have known parts",
        )  # fmt: skip
        most = max(_longest(row.parts) for row in known[:MAX_PART_ROWS])
        found.append((phase, [whole, *(Split(row.name, row.parts, most) for row in known[:MAX_PART_ROWS])]))
    return found + _threads(diff)


def _threads(diff: Diff) -> list[tuple[str, list[Split]]]:
    """By phase: each thread of the pool."""
    found = []
    for phase in dict.fromkeys(one.phase for one in diff.threads):
        mine = [one for one in diff.threads if one.phase == phase][:MAX_PART_ROWS]
        most = max(_longest(one.parts) for one in mine)
        note = "each of the pool, per token, in thread windows"
        found.append((f"threads of {phase}", [Split(f"thread {one.role}", one.parts, most, note) for one in mine]))
    return found


def _added(rows: Sequence[Row]) -> tuple[PartShift, ...]:
    """Sums over rows; a part that no row knows on a side stays unknown there."""
    made = []
    for part, _, _ in PARTS:
        each = [one for row in rows for one in row.parts if one.part == part]
        if each:
            a = [one.a_ns for one in each if one.a_ns is not None]
            b = [one.b_ns for one in each if one.b_ns is not None]
            made.append(PartShift(part, sum(a) if a else None, sum(b) if b else None))
    return tuple(made)


def _longest(parts: Sequence[PartShift]) -> float:
    return max(sum(one.a_ns or 0.0 for one in parts), sum(one.b_ns or 0.0 for one in parts)) or 1.0


def _between(interval: Interval | None) -> str:
    """+1.62 ms … +1.63 ms."""
    return "–" if interval is None else f"{words.change(interval[0])} … {words.change(interval[1])}"
