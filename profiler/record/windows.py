"""Which probes are attached when: the budget controller. Pure: it is told what happened and says what comes next.

A deep window (op or thread level) costs the target three things: the time of its probe hits (hits x cost of a hit /
threads), the placing and taking off of its probes, and the recorder's work on what it brought, where no processor is
idle. The first grows with the window's length, the others hardly: so short windows are dear. A window lasts as long as
makes the fixed part a quarter of its price (within DEEP_S).

The controller keeps an account. Every second in which graphs run earns `budget` seconds less what shallow (token)
windows cost, which is always there: few hits, and the recorder's own processor time; a second of a deep window earns
what those of shallow ones did lately. Every deep window spends what its hits and the recorder's work cost, or what its
decode steps, and those while probes were switched, were slower by than those of shallow windows, whichever is more. A
deep window opens when the account covers its price, so a slow target (few operators a second) is looked at deeply half
of the time, a fast one rarely, and a target whose speed changes is followed. Deep and shallow windows alternate, so
that the recording's own slow-down can be measured from neighbours.

Without a budget (`--full`) the deepest level stays on and windows are mere bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHALLOW_S = (0.2, 5.0)  # shortest and longest shallow window: the shortest lies between two deep ones
SAVING_S = 1.0  # a shallow window that saves up lasts at least so long: every window's end is work
DEEP_S = (0.1, 1.0)  # shortest and longest deep window, before it is stretched to hold one whole graph
LONGEST_S = 20.0  # a deep window waits at most so long for its first whole graph
FULL_S = 1.0  # every window, where the deepest level stays on
INITIAL_CREDIT_S = 10.0  # the account opens with what so many busy seconds would earn: short recordings see something;
# it never holds more than that, or than the dearest window and a half
PRIOR_SLOWDOWN = {"op": 0.05, "thread": 0.15}  # what a level costs per busy second until it has been seen
PRIOR_FIXED_S = 0.008  # what a window costs whatever its length, likewise
FIXED_SHARE = 0.25  # of a window's price, in what is fixed
MARGIN = 0.8  # part of the budget that is spent: the cost of a hit is itself an estimate
LEAST = 0.25  # part of the budget that deep windows get, whatever the recorder itself needs
NEW = 0.25  # weight of the latest window in an average over the last few: one says little
NEIGHBOUR = 0.5  # weight of the latest shallow window: steps become slower as contexts grow
MOST_SLOWED = 3.0  # a step that takes longer than so many others was stopped by something else


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened in a window that has ended, and while its probes were placed before and taken off after it.

    Times in seconds. busy_s: graphs ran; hits_s: hits x cost / threads; recorder_s: processor time of the recorder
    that the target had to do without; step_s: mean decode step (None: too few); switch_steps, switch_s: decode steps
    that ran while probes were switched, and their time.
    """

    level: str
    busy_s: float
    hits_s: float = 0.0
    recorder_s: float = 0.0
    step_s: float | None = None
    switch_steps: int = 0
    switch_s: float = 0.0


@dataclass(slots=True)
class _Price:
    """What windows of one level cost, as far as is known."""

    slowdown: float  # per busy second
    fixed_s: float = PRIOR_FIXED_S
    slower: float = 0.0  # by so much are decode steps inside slower; smoothed, may be negative
    switching_s: float = 0.0  # so much longer take the steps while probes are switched; likewise

    @property
    def length_s(self) -> float:
        """How long a window should last."""
        worth_s = self.fixed_s * (1 / FIXED_SHARE - 1) / max(self.slowdown, 1e-6)
        return min(max(worth_s, DEEP_S[0]), DEEP_S[1])

    @property
    def whole_s(self) -> float:
        """What a window of that length costs."""
        return self.fixed_s + self.slowdown * self.length_s


@dataclass(slots=True)
class Controller:
    """levels: the deep levels that can be attached, among op and thread; budget: fraction, None for `--full`."""

    levels: tuple[str, ...]
    budget: float | None
    credit_s: float = 0.0
    _turn: int = 0
    _prices: dict[str, _Price] = field(default_factory=lambda: {k: _Price(v) for k, v in PRIOR_SLOWDOWN.items()})
    _last: str = ""
    _shallow_step_s: float | None = None  # of token windows that had decode steps, smoothed
    _income: float = 0.0  # per busy second, smoothed

    def __post_init__(self) -> None:
        if self.budget is not None:
            self._income = self.budget * MARGIN
            self.credit_s = INITIAL_CREDIT_S * self._income

    def next(self) -> tuple[str, float]:
        """The level of the next window and how long it should last (seconds)."""
        if not self.levels:
            return "token", SHALLOW_S[1]
        if self.budget is None:
            return self.levels[-1], FULL_S
        level = self.levels[self._turn % len(self.levels)]
        price = self._prices[level]
        if self._last == "token" and self.credit_s >= price.whole_s:
            self._turn += 1
            self._last = level
            affordable_s = (self.credit_s - price.fixed_s) / max(price.slowdown, 1e-6)
            return level, min(max(affordable_s, DEEP_S[0]), DEEP_S[1])
        self._last = "token"
        return "token", self._saving_s(price)

    def _saving_s(self, price: _Price) -> float:
        """How long a shallow window lasts: until the next deep one can be paid for."""
        missing_s = price.whole_s - self.credit_s
        if missing_s <= 0:
            return SHALLOW_S[0]
        return min(max(SAVING_S, missing_s / self._income), SHALLOW_S[1]) if self._income else SHALLOW_S[1]

    def ended(self, seen: Seen) -> None:
        """Account for a window: for a deep one after the shallow one that follows it, which it is compared with."""
        if self.budget is None:
            return
        if seen.level in self._prices:
            earned_s = self._income * seen.busy_s
        else:
            earned_s = self.budget * MARGIN * seen.busy_s - seen.hits_s - seen.recorder_s
            earned_s = max(earned_s, LEAST * self.budget * seen.busy_s)
            if seen.busy_s > 0.01:
                self._income += NEW * (earned_s / seen.busy_s - self._income)
            if seen.step_s is not None:
                self._shallow_step_s = _smoothed(self._shallow_step_s, seen.step_s, NEIGHBOUR)
        dearest_s = max((self._prices[level].whole_s for level in self.levels), default=0.0)
        self.credit_s = min(self.credit_s + earned_s, max(INITIAL_CREDIT_S * self.budget, 1.5 * dearest_s))
        if seen.level in self._prices:
            self.credit_s -= self._spent(self._prices[seen.level], seen)

    def _spent(self, price: _Price, seen: Seen) -> float:
        """What a deep window cost (s); from it, what such windows cost is learnt."""
        step_s = self._shallow_step_s
        if step_s:
            if seen.step_s is not None:
                price.slower = _smoothed(price.slower, min(seen.step_s / step_s, MOST_SLOWED) - 1)
            usual_s = seen.switch_steps * step_s
            price.switching_s = _smoothed(price.switching_s, min(seen.switch_s, MOST_SLOWED * usual_s) - usual_s)
        within_s = max(seen.busy_s - seen.switch_s, 0.0)
        inside_s = max(seen.hits_s, price.slower * within_s)
        spent_s = max(inside_s + max(price.switching_s, 0.0), seen.hits_s + seen.recorder_s)
        if within_s > 0.01:
            price.slowdown = 0.5 * price.slowdown + 0.5 * max(inside_s / within_s, 1e-4)
            price.fixed_s = _smoothed(price.fixed_s, spent_s - inside_s)
        return spent_s

    def slowdown(self, level: str) -> float:
        """What a level costs inside its windows, as a fraction of busy time, as far as is known now."""
        return self._prices[level].slowdown if level in self._prices else 0.0


def _smoothed(before: float | None, latest: float, weight: float = NEW) -> float:
    return latest if before is None else (1 - weight) * before + weight * latest
