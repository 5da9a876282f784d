"""What a limit says of a diff, and its exit code: a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from diffs import MS, diff, difference, phase
from flowprof.profiler.diff import gate
from flowprof.profiler.diff.result import Comparability, PhaseShift
from flowprof.profiler.errors import UsageError

SAME = phase(delta=0.0)  # 5 ms ± 0.1: at most 2 % slower
CASES: dict[str, tuple[tuple[PhaseShift, ...], float, str, str]] = {
    # phases, limit, outcome, words
    "slower by more": ((phase(delta=0.5),), 0.05, "regression", "decode is 10.0 % slower"),
    "slower by the limit": ((phase(delta=0.5),), 0.10, "regression", "decode"),
    "slower by less, and it is known": ((phase(delta=0.3),), 0.10, "within", "at most 8.0 %"),
    "slower by less, but it may be more": ((phase(delta=0.45),), 0.10, "not enough data", "up to 11.0 %"),
    "faster": ((phase(delta=-0.5),), 0.05, "within", "at most 0.0 %"),
    "the same": ((SAME,), 0.05, "within", "at most 2.0 %"),
    "the same, by a smaller limit than the interval": ((SAME,), 0.01, "not enough data", "up to 2.0 %"),
    "the noise reaches the limit": ((phase(delta=0.0, noise_ns_per_token=0.3),), 0.05, "not enough data", "6.0 %"),
    "a wide interval around nothing": ((phase(delta=0.0, ci95=(-9e5, 9e5)),), 0.05, "not enough data", "18.0 %"),
    "slower by much, but by chance": ((phase(delta=0.5, significant=False),), 0.05, "not enough data", "up to 12.0 %"),
    "much faster, though the noise is large": ((phase(delta=-1.0, noise_ns_per_token=0.5),), 0.05, "within", "0.0 %"),
    "never tested": ((phase(q=None, ci95=None, noise_ns_per_token=None, significant=False),), 0.05, "not enough data",
                     "too few steps"),
    "another phase is slower": ((SAME, phase("prefill", 0.5)), 0.05, "regression", "prefill is 10.0 % slower"),
    "another phase is not known": ((SAME, phase("prefill", q=None, ci95=None, significant=False)), 0.05, "within",
                                   "nothing is said of prefill"),
    "another phase may be slower": ((SAME, phase("prefill", 0.2, significant=False)), 0.05, "within",
                                    "nothing is said of prefill"),
    "another phase is faster, and this one may be slower": (
        (phase("prefill", -0.5), phase(delta=0.45, significant=False)), 0.05, "not enough data", "decode may be up to"),
    "its slowest steps are slower": (
        (phase(delta=0.0, tail_significant=True, tail_delta_ns=0.3 * MS, a_tail_ns=6, b_tail_ns=6),), 0.05,
        "regression", "the slowest steps of decode are 6.0 % slower, though its mean is not"),
    "by less than the limit": (
        (phase(delta=0.0, tail_significant=True, tail_delta_ns=0.3 * MS, a_tail_ns=6, b_tail_ns=6),), 0.10, "within",
        "at most 2.0 %"),
    "its 95th percentile is": (
        (phase(delta=0.0, tail_significant=True, tail_delta_ns=0.1 * MS, a_tail_ns=6, b_tail_ns=7.2),), 0.10,
        "regression", "20.0 %"),
    "its slowest steps are faster": (
        (phase(delta=0.0, tail_significant=True, tail_delta_ns=-0.3 * MS, a_tail_ns=7, b_tail_ns=6),), 0.05, "within",
        "at most 2.0 %"),
    "slower by its context alone": ((replace(phase(delta=2.0), contexts_apart=True, equal=SAME),), 0.05, "within",
                                    "decode, at the contexts that both sides have, is at most 2.0 %"),
    "slower at equal contexts, too": ((replace(phase(delta=2.0), contexts_apart=True, equal=phase(delta=0.5)),), 0.05,
                                      "regression", "is 10.0 % slower"),
    "hidden by a shorter context": ((replace(phase(delta=-2.0), contexts_apart=True, equal=phase(delta=0.5)),), 0.05,
                                    "regression", "at the contexts that both sides have"),
    "no context in common": ((replace(phase(delta=2.0), contexts_apart=True),), 0.05, "not enough data",
                             "none in common"),
    "another phase has no context in common": ((SAME, replace(phase("prefill"), contexts_apart=True)), 0.05, "within",
                                               "nothing is said of prefill"),
    "nothing ran on both sides": ((), 0.05, "not enough data", "no phase"),
}  # fmt: skip
CODES = {"within": 0, "regression": 3, "not comparable": 4, "not enough data": 5}


@pytest.mark.parametrize("name", CASES)
def test_what_a_limit_says(name: str) -> None:
    phases, limit, outcome, words = CASES[name]
    found = gate.judge(diff(phases=phases), limit)
    assert (found.outcome, found.exit_code) == (outcome, CODES[outcome])
    assert words in found.sentence, found.sentence


def comparability(verdict: Any, *facts: Any) -> Comparability:
    return Comparability(verdict, 0.5, facts, "per token")


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        (comparability("not comparable", difference("model", weight=1.0)), "not comparable"),
        (comparability("comparable", difference("processor", weight=0.7)), "not comparable"),  # another machine
        (comparability("comparable", difference("work in common", weight=0.5)), "not comparable"),  # another program
        (comparability("comparable", difference("processor", "unknown", 0)), "regression"),
        (comparability("comparable", difference("processor", "same", 0.7)), "regression"),
        (comparability("comparable per token", difference("tokens of decode")), "regression"),
        (
            comparability("comparable", difference("quantisation", weight=0.4)),
            "regression",
        ),  # it is slower all the same
    ],
)
def test_what_cannot_be_compared_is_no_regression(told: Comparability, outcome: str) -> None:
    found = gate.judge(diff(comparability=told), 0.05)
    assert (found.outcome, found.exit_code) == (outcome, CODES[outcome])


def test_a_refusal_says_why() -> None:
    told = comparability("not comparable", difference("model", weight=1.0, why="another model does other work"))
    assert gate.judge(diff(comparability=told), 0.05).sentence == "another model does other work"


def test_a_phase_without_time_is_not_divided_by() -> None:
    nothing = replace(SAME, a_ns_per_token=0.0)
    assert gate.judge(diff(phases=(nothing,)), 0.05).outcome == "not enough data"


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("5", 0.05), (" 2.5 % ", 0.025), ("1000%", 10.0)])
def test_limits(text: str, share: float) -> None:
    assert gate.limit(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "0", "-5%", "nan", "inf", "5%%", "five", "1e9", "\x1b[2J"])
def test_bad_limits(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        gate.limit(text)
    assert caught.value.hint


def test_one_recording_that_did_not_change() -> None:
    assert gate.judge(diff(phases=(), halves=(SAME,), verdict="same"), 0.05).outcome == "within"
    open_one = gate.judge(diff(phases=(), halves=(phase(delta=0.4, significant=False),), verdict="same"), 0.05)
    assert open_one.exit_code == 5 and open_one.sentence == "decode may be up to 10.0 % slower: record longer"
    assert gate.judge(diff(phases=(), verdict="same"), 0.05).outcome == "not enough data", "nothing was tested"
    assert gate.judge(diff(phases=(), verdict="not enough data"), 0.05).outcome == "not enough data"
