"""Which probes are attached when: the budget controller. Pure: it is told what happened and says what comes next.

A deep window (op or thread level) costs the target the time of its probe hits: hits x cost of a hit / threads. The
controller keeps an account: every second in which graphs run earns `budget` seconds, every deep window spends what its
hits cost, or what its decode steps were slower by than those of shallow windows, whichever is more. A deep window opens
when the account covers what it will probably spend, so a slow target (few operators a second) is looked at deeply half
of the time, a fast one rarely, and a target whose speed changes is followed. Deep and shallow (token) windows
alternate, so that the recording's own slow-down can be measured from neighbours.

Without a budget (`--full`) the deepest level stays on and windows are mere bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHALLOW_S = 0.2  # shortest shallow window between two deep ones; FULL_S is the longest
DEEP_S = (0.1, 0.5)  # shortest and longest deep window, before it is stretched to hold one whole graph
LONGEST_S = 20.0  # a deep window waits at most so long for its first whole graph
FULL_S = 1.0
INITIAL_CREDIT_S = 2.0  # the account opens with what this many busy seconds would earn
PRIOR_SLOWDOWN = {"op": 0.05, "thread": 0.15}  # what a level costs per busy second until it has been seen
MARGIN = 0.85  # part of the budget that is spent: the cost of a hit is itself an estimate


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened in a window that has ended. busy_s: time in which graphs ran; spent_s: hits x cost / threads."""

    level: str
    busy_s: float
    spent_s: float
    step_s: float | None = None  # mean time of its decode steps; None: too few


@dataclass(slots=True)
class Controller:
    """levels: the deep levels that can be attached, among op and thread; budget: fraction, None for `--full`."""

    levels: tuple[str, ...]
    budget: float | None
    credit_s: float = 0.0
    _turn: int = 0
    _slowdown: dict[str, float] = field(default_factory=lambda: dict(PRIOR_SLOWDOWN))
    _last: str = ""
    _shallow_step_s: float | None = None  # of the last token window that had decode steps
    _measured: dict[str, float] = field(default_factory=dict)  # smoothed slow-down of decode steps, by level

    def __post_init__(self) -> None:
        if self.budget is not None:
            self.credit_s = INITIAL_CREDIT_S * self.budget * MARGIN

    def next(self) -> tuple[str, float]:
        """The level of the next window and how long it should last (seconds)."""
        if not self.levels:
            return "token", FULL_S
        if self.budget is None:
            return self.levels[-1], FULL_S
        level = self.levels[self._turn % len(self.levels)]
        affordable_s = self.credit_s / self._slowdown[level]
        if self._last == "token" and affordable_s >= DEEP_S[0]:
            self._turn += 1
            self._last = level
            return level, min(DEEP_S[1], affordable_s)
        self._last = "token"
        return "token", self._saving_s(level)

    def _saving_s(self, level: str) -> float:
        """How long a shallow window lasts: until the next deep one can be paid for. Every window's end is work."""
        income = (self.budget or 0.0) * MARGIN
        missing_s = DEEP_S[0] * self._slowdown[level] - self.credit_s
        return min(max(SHALLOW_S, missing_s / income), FULL_S) if income else FULL_S

    def ended(self, seen: Seen) -> None:
        """Account for a window."""
        if self.budget is None:
            return
        earned = self.budget * MARGIN * seen.busy_s
        # Never so little that the shortest window of the dearest level cannot be saved up for.
        dearest_s = max((self._slowdown[level] for level in self.levels), default=0.0) * DEEP_S[0]
        self.credit_s = min(self.credit_s + earned, max(5.0 * self.budget, 1.5 * dearest_s))
        if seen.level in self._slowdown:
            spent_s = max(seen.spent_s, self._measured_slowdown(seen) * seen.busy_s)
            self.credit_s -= spent_s
            if seen.busy_s > 0.01:
                self._slowdown[seen.level] = 0.5 * self._slowdown[seen.level] + 0.5 * max(spent_s / seen.busy_s, 1e-4)
        elif seen.step_s is not None:
            self._shallow_step_s = seen.step_s

    def _measured_slowdown(self, seen: Seen) -> float:
        """By how much the decode steps of windows like this one are slower than their shallow neighbours' (≥ 0).

        The hits are not the whole price: the recorder's own work on a processor that the target wants is another part.
        One window says little, so the figure is an average over the last few.
        """
        if seen.step_s is not None and self._shallow_step_s:
            ratio = min(seen.step_s / self._shallow_step_s - 1, 2.0)
            self._measured[seen.level] = 0.75 * self._measured.get(seen.level, ratio) + 0.25 * ratio
        return max(self._measured.get(seen.level, 0.0), 0.0)

    def slowdown(self, level: str) -> float:
        """What a level costs, as a fraction of busy time, as far as is known now."""
        return self._slowdown.get(level, 0.0)
