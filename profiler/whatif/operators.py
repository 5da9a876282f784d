"""What if some operators were faster? Amdahl's ceiling, phase by phase, from a recording of ggml's operators.

The operators of a graph run one after the other, and none begins before all threads are done with the one before: the
first thread's wall time is the critical path, whole. With f the share of a phase's time inside graphs that the chosen
operators take, and s how many times as fast they become, the phase becomes 1 / (1 − f + Σ f/s) times as fast, at most:
other work may wait for something else, and a faster kernel moves the same bytes. For decode the time between one step's
graph and the next one's counts, too, as no operator makes that shorter.

An operator is chosen by ggml's name of it (MUL_MAT), by its tensor's (ffn_up; `*` and `?` as in file names), or by the
word `attn`: all that works on the KV cache. A block is one of attention, ffn, moe, output, other.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers.contract import GRAPHS, OPERATORS, coverage
from flowprof.profiler.errors import NotFoundError, NothingToProfileError, UsageError
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.whatif.change import Change, refuse_losses

MIN_GRAPHS = 5  # of a phase, measured
ATTENTION_OPS, ATTENTION_TENSORS = ("FLASH_ATTN_EXT", "SOFT_MAX"), ("kq", "kq_*", "kqv", "kqv_*")


@dataclass(frozen=True, slots=True)
class Gain:
    """A phase, and what it would gain at most. Shares are of the time inside graphs, measured on `graphs` of `of`."""

    phase: str
    graphs: int
    of: int
    shares: tuple[float, ...]  # f, by change
    speedup: float  # inside graphs
    gap_ns: float | None  # between two decode steps; None in other phases
    step_ns: float  # mean time inside a graph
    end_to_end: float  # with the gap

    @property
    def share(self) -> float:
        """f: all changes together."""
        return sum(self.shares)


def whatif(recording: Recording, changes: Sequence[Change]) -> list[Gain]:
    """By phase, the longest first.

    Raises NothingToProfileError where the recording cannot carry an answer, NotFoundError when nothing is chosen,
    UsageError when an operator is chosen twice.
    """
    for need in (GRAPHS, OPERATORS):
        if not need.met(recording):
            raise NothingToProfileError(f"{recording.path} cannot say: {need.missing}")
    refuse_losses(recording)
    rows = recording.rows(read_sql("whatif.sql"))
    chosen = [_chosen(row, changes) for row in rows]
    for at, change in enumerate(changes):
        if at not in chosen:
            raise _nothing(change, rows)
    (gap,) = recording.rows(read_sql("step_gap.sql"))[0]
    gains = []
    for item in coverage(recording, "op", "thread"):
        if item.graphs_measured < MIN_GRAPHS:
            continue
        spent = [0] * len(changes)
        for row, which in zip(rows, chosen, strict=True):
            if which is not None and row[0] == item.phase:
                spent[which] += row[5]
        shares = tuple(ns / item.measured_ns for ns in spent)
        left = 1 - sum(shares) + sum(f / change.factor for f, change in zip(shares, changes, strict=True))
        step_ns = item.total_ns / item.graphs
        between = float(gap) if item.phase == "decode" and gap is not None else None
        whole = step_ns + (between or 0.0)
        gains.append(
            Gain(
                item.phase, item.graphs_measured, item.graphs, shares, 1 / left, between, step_ns,
                whole / (whole - step_ns * (1 - left)),
            )
        )  # fmt: skip
    if not gains:
        raise NothingToProfileError(
            f"{recording.path} cannot say: no phase has {MIN_GRAPHS} measured graphs", "record longer"
        )
    return gains


def _chosen(row: tuple[str, str, str, str, int, int], changes: Sequence[Change]) -> int | None:
    """The one change that an operator falls under. Raises UsageError when there are two."""
    _, op, tensor, block, _, _ = row
    found = [
        at for at, change in enumerate(changes)
        if (_is_op(op or "", tensor or "", change.pattern) if change.kind == "op" else block == change.pattern.lower())
    ]  # fmt: skip
    if len(found) > 1:
        both = " and ".join(f"--{changes[at].kind} {changes[at].pattern}" for at in found[:2])
        raise UsageError(f"{both} both choose {op} {tensor}", "let every operator be chosen once")
    return found[0] if found else None


def _is_op(op: str, tensor: str, pattern: str) -> bool:
    wanted, op, tensor = pattern.lower(), op.lower(), tensor.lower()
    if wanted == "attn":
        return op.upper() in ATTENTION_OPS or any(fnmatch.fnmatchcase(tensor, one) for one in ATTENTION_TENSORS)
    return fnmatch.fnmatchcase(op, wanted) or fnmatch.fnmatchcase(tensor, wanted)


def _nothing(change: Change, rows: Sequence[tuple[str, str, str, str, int, int]]) -> NotFoundError:
    column = 1 if change.kind == "op" else 3
    there = list(dict.fromkeys(str(row[column]) for row in rows))
    what = "operator" if change.kind == "op" else "block"
    return NotFoundError(f"no {what} {change.pattern!r} was recorded", f"there are {', '.join(there[:20])}")
