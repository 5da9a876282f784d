"""The phases that changed, each with its change cut into cells: parts of rows, which add up to the rows' deltas.

Absences from the processor count first, then imbalance at barriers, and the rest of a row is work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flowprof.profiler.diff.causes.claim import Cell
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Part, PhaseShift, Row

ROW_SHARE = 0.005
MAX_ROWS = 5  # of a phase
HOST = ("between", "unattributed")  # kinds of rows that are no operators
WAITS: tuple[Part, ...] = ("fault", "blocked", "runnable", "barrier")


@dataclass(frozen=True, slots=True)
class Change:
    """One phase in which something changed significantly. `rows` by their place in Compared.rows.

    Where it is not the phase as a whole, only the rows that changed have cells: the others' differences are noise.
    """

    shift: PhaseShift
    rows: dict[int, Row]
    cells: dict[Cell, float]  # ns per token; those of a row add up to its delta, or there are none

    @property
    def phase(self) -> str:
        return self.shift.phase

    @property
    def per(self) -> str:
        """What times are per: token, step."""
        return self.shift.per

    @property
    def sign(self) -> float:
        """1: slower, -1: faster."""
        return 1.0 if self.shift.delta_ns_per_token >= 0 else -1.0

    def share(self, ns: float) -> float | None:
        """Of the phase's change; None where that is not significant, or of the other direction."""
        whole = self.shift.delta_ns_per_token
        return ns / whole if self.shift.significant and ns * whole > 0 else None

    def of(self, rows: Callable[[Row], bool] = lambda _: True, parts: Iterable[Part] = ()) -> dict[Cell, float]:
        """The cells of some rows, and of them only those parts where any are named."""
        wanted = set(parts)
        return {
            (place, part): ns
            for (place, part), ns in self.cells.items()
            if (not wanted or part in wanted) and rows(self.rows[place])
        }


def changes(compared: Compared) -> list[Change]:
    """Phases that changed as a whole, in their tail, or in any row. None: there is nothing to explain."""
    found = []
    for shift in compared.phases:
        rows = {place: row for place, row in enumerate(compared.rows) if row.phase == shift.phase}
        if shift.significant or shift.tail_significant or any(telling(row) for row in rows.values()):
            whole = shift.significant or shift.tail_significant
            told = {place: row for place, row in rows.items() if whole or telling(row)}
            cells = {(place, part): ns for place, row in told.items() for part, ns in split(row).items() if ns}
            found.append(Change(shift, rows, cells))
    return found


def telling(row: Row) -> bool:
    return row.significant or row.tail_significant


def split(row: Row) -> dict[Part, float]:
    """A row's delta by its parts. A part that one side did not record is in `work` on both."""
    known = {part.part for part in row.parts if part.a_ns is not None and part.b_ns is not None}
    a = {part.part: part.a_ns or 0.0 for part in row.parts if part.part in known or row.b_ns_per_token is None}
    b = {part.part: part.b_ns or 0.0 for part in row.parts if part.part in known or row.a_ns_per_token is None}
    before, after = _parts(row.a_ns_per_token or 0.0, a), _parts(row.b_ns_per_token or 0.0, b)
    return {part: after.get(part, 0.0) - before.get(part, 0.0) for part in {**before, **after}}


def _parts(whole: float, parts: dict[Part, float]) -> dict[Part, float]:
    """They add up to `whole`."""
    found: dict[Part, float] = {}
    left = whole
    for part in WAITS:
        if part in parts:
            found[part] = min(max(parts[part], 0.0), left)
            left -= found[part]
    return {**found, "work": left}


def worth_telling(change: Change, ns: dict[int, float], at_least_one: bool = True) -> list[int]:
    """Of rows by place → ns, those that are worth a claim of their own, the largest first: ROW_SHARE of the phase's
    time or more; or the largest, however small."""
    ranked = sorted(ns, key=lambda place: -abs(ns[place]))[:MAX_ROWS]
    least = ROW_SHARE * change.shift.a_ns_per_token
    return [place for place in ranked if abs(ns[place]) >= least] or ranked[: int(at_least_one)]


def total(cells: dict[Cell, float]) -> float:
    return sum(cells.values())


def grown(cells: dict[Cell, float], sign: float = 1.0) -> dict[Cell, float]:
    """Those that changed in that direction."""
    return {cell: ns for cell, ns in cells.items() if ns * sign > 0}


def at_most(cells: dict[Cell, float], ns: float) -> dict[Cell, float]:
    """The cells scaled down to `ns` in all."""
    whole = abs(total(cells))
    return {cell: value * min(1.0, ns / whole) for cell, value in cells.items()} if whole else {}
