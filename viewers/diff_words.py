"""How a diff's figures are worded: changes with their sign, intervals, shares. For the terminal, Markdown and HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowprof.profiler.diff.result import Diff, Difference, Interval, Row
from flowprof.viewers.quantity import clean, duration, percent

MOST_DIFFERENCES = 12
_FIGURE = re.compile(r"([0-9][0-9 .]*[0-9]|[0-9])( [^0-9].*)", re.ASCII)  # with its unit
UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))
SIGNIFICANCE = (  # as profiler/diff/statistics.py decides it
    "● significant: Mann-Whitney over blocks of neighbouring steps, q < 0.01 after Benjamini-Hochberg over all rows; "
    "more than runs differ by themselves (three or more normal runs tell by how much; else an operator by 7.5 % at "
    "least); and three of four pairs of blocks agree. ▲ likewise the time in steps above the 95th percentile, though "
    "not the mean. Intervals: 95 %, Welch's t over blocks, or over three or more normal runs where they differ by more."
)

PARTS = {"work": "work", "barrier": "barrier", "runnable": "no cpu", "blocked": "blocked", "fault": "disk"}


@dataclass(frozen=True, slots=True)
class Scale:
    """The unit and the decimals of a table, so that its columns add up to the eye."""

    unit: str
    size: float
    digits: int

    def value(self, ns: float | None) -> str:
        """4.991; "–" for None."""
        return "–" if ns is None else f"{ns / self.size:.{self.digits}f}"

    def change(self, ns: float | None) -> str:
        """+0.575; "–" for None."""
        return "–" if ns is None else f"{ns / self.size:+.{self.digits}f}".replace("-", "−")

    def interval(self, interval: Interval | None) -> str:
        """+0.571 … +0.579; "–" for None."""
        return "–" if interval is None else f"{self.change(interval[0])} … {self.change(interval[1])}"


def scale(*values: float | None) -> Scale:
    """Four figures for the largest of the values."""
    largest = max((abs(ns) for ns in values if ns is not None), default=0.0)
    unit, size = next((one for one in UNITS if largest >= one[1]), UNITS[-1])
    whole = len(str(int(largest / size)))
    return Scale(unit, size, max(0, 4 - whole))


def change(ns: float | None) -> str:
    """+1.23 ms, with three figures; "–" for None."""
    return "–" if ns is None else f"{sign(ns)}{duration(abs(ns))}"


def relative(delta_ns: float, before_ns: float | None) -> str:
    """+11.5 %; "new" where there was nothing before; "" of a correction that was below zero."""
    if not before_ns or before_ns <= 0:
        return "" if before_ns else "new"
    share = delta_ns / before_ns
    return f"{sign(share)}{percent(abs(share))}"


def sign(value: float) -> str:
    """With the sign that is as wide as a plus."""
    return "+" if value > 0 else "−" if value < 0 else ""


def q(value: float | None) -> str:
    """An adjusted p, as .012; "–" where nothing was tested."""
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def fact(one: Difference) -> str:
    """quantisation: q8_0 → q4_K."""
    if one.sameness == "same":
        return f"{clean(one.what, 60)}: {clean(one.a, 60)}"
    figures = [_FIGURE.fullmatch(text) for text in (one.a, one.b)]
    if figures[0] and figures[1] and figures[0][2] == figures[1][2]:  # their unit once
        return f"{clean(one.what, 60)}: {figures[0][1]} → {figures[1][1]}{clean(figures[1][2], 60)}"
    return f"{clean(one.what, 60)}: {clean(one.a, 60) or 'unknown'} → {clean(one.b, 60) or 'unknown'}"


def differing(diff: Diff) -> tuple[list[Difference], int]:
    """The facts that differ, the heaviest first, and how many more there are."""
    found = [one for one in diff.comparability.differences if one.sameness == "different"]
    return found[:MOST_DIFFERENCES], len(found[MOST_DIFFERENCES:])


def unknown(diff: Diff) -> list[str]:
    """Names of the facts that are not known."""
    return [clean(one.what, 60) for one in diff.comparability.differences if one.sameness == "unknown"]


def comparability(diff: Diff) -> str:
    """The verdict in a line: comparable per token (score 0.70), 24 facts alike."""
    told = diff.comparability
    alike = sum(one.sameness == "same" for one in told.differences)
    facts = "1 fact is alike" if alike == 1 else f"{alike} facts are alike"
    return f"{told.verdict} (score {told.score:.2f}; {facts})"


def name(row: Row, limit: int = 120) -> str:
    """A row's name, with the shape of b where it differs and how the two were matched when not by name."""
    text = row.name
    if row.b_shape:
        text += f" → {row.b_shape}"
    if row.matched:
        text += f" ({row.matched})"
    return clean(text, limit)


def at_context(row: Row) -> str:
    """What a row whose work grows with the context takes at contexts that both sides have; "" where they are the
    same."""
    if not row.contexts_apart:
        return ""
    if row.equal is None:
        return "reads contexts of other lengths, none of which both sides have"
    one = row.equal
    low, high = one.contexts
    return (
        f"at equal context ({low} … {high}) {duration(one.a_ns_per_token)} → {duration(one.b_ns_per_token)}: "
        f"{change(one.delta_ns_per_token)}, 95 % {change(one.ci95[0])} … {change(one.ci95[1])}, q {q(one.q)}"
        if one.ci95 is not None
        else f"at equal context ({low} … {high}) there are too few steps to be tested"
    )


def at_context_short(row: Row) -> str:
    """The same for a cell."""
    if row.equal is None:
        return "no context in common"
    return f"at equal context {change(row.equal.delta_ns_per_token)}, q {q(row.equal.q)}"


def mark(mean: bool, tail: bool) -> str:
    """What is significant: the mean, or the slow steps only."""
    return "●" if mean else "▲" if tail else ""


def one_sided(row: Row) -> str:
    """ "only before", "only after", or ""."""
    if row.a_ns_per_token is None:
        return "only after"
    return "only before" if row.b_ns_per_token is None else ""
