"""Missed overlap in llama.cpp on processors: host work between tokens, and prefill beside decode.

A decode step reads every weight for a token or a few: memory is the scarce resource (T_R > 1), and no half batches are
advised. What is left is work of other requests, and work that needs nothing of the step before.

Experts' weights that are copied to a GPU are no work of this kind. No graph of the CPU has nodes for them: llama.cpp's
scheduler copies them between its splits, with calls of CUDA (cuda_host.py has these, with bytes and time), and since
its pull request 15346 it first waits for the router and copies the experts that were chosen. Which ones the next layer
needs is not known before this one is done.

A gap between two decode steps has two marks in it, where the build's symbols show them: when llama-server had chosen
the last slot's token (`process_token`), and when llama.cpp took the next batch (`process_ubatch`). Before the first the
logits are handed out and sampled; between them answers are queued for the threads of HTTP, which also tokenise prompts,
and the next batch is put together; after the second its graph is made and given its inputs. With several slots the
answers of all but the last are before the first mark.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers.contract import SCHED
from flowprof.profiler.findings import in_ms
from flowprof.profiler.sections.overlap import GapPart, GapWork, HostGap, Overlap
from flowprof.profiler.store import Recording, read_sql

MIN_STEPS = 20
MIN_PREFILLS = 3
LEAST = 0.01  # of the time inside graphs
BY_TOKENS: tuple[GapWork, ...] = ("choosing tokens", "answers and next batch", "setting up the graph")
BY_BATCHES: tuple[GapWork, ...] = ("up to the next batch", "setting up the graph")
ASLEEP_SQL = "SELECT start_ns, end_ns FROM thread_state WHERE pid = ? AND tid = ? AND state = 'sleeping'"


def host_gap(recording: Recording) -> HostGap | None:
    """None: too few steps follow each other."""
    rows = recording.columns(read_sql("overlap_steps.sql"))
    begin, stop = np.asarray(rows["before_end_ns"], np.int64), np.asarray(rows["start_ns"], np.int64)
    if len(begin) < MIN_STEPS:
        return None
    gap = stop - begin
    usual, step = float(np.median(gap)), float(np.median(np.asarray(rows["end_ns"], np.int64) - stop))
    asleep = None
    if SCHED.met(recording):
        asleep = 0
        pid, tid = np.asarray(rows["pid"], np.int64), np.asarray(rows["tid"], np.int64)
        for one, other in sorted(set(zip(pid.tolist(), tid.tolist(), strict=True)))[:64]:
            chosen = (pid == one) & (tid == other)
            states = recording.columns(ASLEEP_SQL, [one, other])
            since, until = (np.asarray(states[name], np.int64) for name in ("start_ns", "end_ns"))
            asleep += intervals.common(begin[chosen], stop[chosen], since, until)
    parts, told = _parts(rows)
    return HostGap(
        gaps=len(gap), median_ns=usual, total_ns=int(gap.sum()),
        share=usual / (usual + step) if usual + step else 0.0, asleep_ns=asleep,
        sequences=int(np.median(np.asarray(rows["sequences"], np.int64))), parts=parts, parts_gaps=told,
    )  # fmt: skip


def _parts(rows: dict[str, Any]) -> tuple[tuple[GapPart, ...], int]:
    """What gaps are made of by their marks, and of how many gaps that is; of few nothing is said."""
    marks = [np.ma.asarray(rows[name]) for name in ("before_end_ns", "chosen_ns", "batch_ns", "start_ns")]
    names = BY_TOKENS
    if marks[1].count() < MIN_STEPS:
        del marks[1]
        names = BY_BATCHES
    seen = ~np.ma.getmaskarray(marks[1])  # where a token was seen its batch was, too
    if seen.sum() < MIN_STEPS:
        return (), 0
    took = [int((until - since)[seen].sum()) for since, until in pairwise(marks)]
    return tuple(GapPart(name, ns) for name, ns in zip(names, took, strict=True)), int(seen.sum())


def mixed(recording: Recording) -> tuple[tuple[Overlap, ...], tuple[str, ...]]:
    """Batches of prefill that could have carried a decode step: different requests need nothing of each other.

    A decode step beside a prefill of many tokens reads no weight of its own: it costs its tokens at prefill's speed.
    """
    both, batches, ns, tokens, step_ns, sequences, token_ns, all_ns = recording.rows(read_sql("overlap_mixed.sql"))[0]
    if not batches:
        said = f"prefill beside decode: {both} {'graph holds' if both == 1 else 'graphs hold'} both already"
        return (), ((said,) if both else ())
    if batches < MIN_PREFILLS or not step_ns or not token_ns:
        return (), (f"prefill beside decode: {batches} such batches are too few",)
    ideal = float(min(step_ns, ns / batches)) * batches
    aware = max(0.0, ideal - float(sequences) * float(token_ns) * batches)
    if tokens < batches * 2 * sequences or aware < LEAST * all_ns:
        return (), (f"prefill beside decode: would gain less than {LEAST * 100:.0f} % of the time inside graphs",)
    return (
        Overlap(
            kind="free", what="decode steps beside other requests' prefill", culprit="a batch of prefill alone",
            device=None, count=int(batches), exposed_ns=int(ns), room_ns=int(ns), ideal_ns=round(ideal),
            aware_ns=round(aware), split_ns=0, net_ns=round(aware), share=aware / all_ns, base_ns=int(all_ns),
            reason="requests need nothing of each other; the server ran the prompt in a batch of its own while others "
            "waited for their next token",
            confidence="low",
            evidence=(
                f"{batches} batches of prefill ({tokens} tokens, {in_ms(ns)}) while another request was being decoded",
                f"each could carry a step of {in_ms(step_ns)} for {in_ms(float(sequences) * token_ns)}",
                "that the decode's attention costs the same in either batch is not counted",
            ),
        ),
    ), ()  # fmt: skip
