"""How much slower the target becomes: decode time with flowprof attached against the time without, and what flowprof
says of itself.

    python tests/benchmarks/bench_overhead.py [--model dense-150m] [--mode default] [--rounds 9] [--seconds 3]

One server lives through the whole comparison. Periods with and without flowprof alternate, modes in random order:

    bare  mode C  bare  mode A  bare  mode D  bare  mode B  bare  …

The default mode, whose price comes in deep windows seconds apart, has a comparison and longer periods of its own.

flowprof runs in a process of its own, started anew for every period. A period's figure is decode time per token:
the server's own `predicted_ms` over whole requests of one and the same length, so every period does exactly the same
work at the same positions of the context, nothing straddles a period, and the client sleeps meanwhile (reading a
stream would cost a tenth of a core of the two that the engine needs, and a long generation slows down by half as its
context grows). It is a mean, not a median: under a budget the cost lies in few short windows, which a median would
not see. Starting, the first seconds (which spend the opening credit of the budget) and stopping lie outside.

The ratio of a period is taken against the mean of the two bare periods around it, so a drift cancels out. The result
is the trimmed mean of the log ratios with a bootstrap 95 % interval. Pairs in whose time other processes or the
hypervisor took more than a few percent of a processor are left out, by that criterion alone, as long as five remain;
the note says how many.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from flowprof.examples import llama_server, load, synthetic_model
from flowprof.profiler.store import Recording
from row import Row, bootstrap

FLOWPROF = (sys.executable, "-m", "flowprof.profiler.cli")
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_S = 6.0  # attached, but not measured: layouts, the cost of a hit, the first batch of rows, the opening credit
PERIOD_S = {True: 15.0, False: 3.0}  # by default, in other modes
FOREIGN = 0.04  # of one processor, taken by others: the pair is spoiled
LONGEST_S = 320.0  # no further round after this, per comparison: on a slow or busy machine there are fewer pairs
STEADY_S = 5  # attached, until the opening credit is spent and nothing of the start is left to do
STATED_S = 20  # from then on: the recordings whose own statement and processor time are shown
DEFAULT = "default (budget 1 %)"
MODES: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "token level": ("--full", "--levels", "token,graph"),
    "token level and scheduler": ("--full", "--levels", "token,graph,sched"),
    "op level, --full": ("--full", "--levels", "token,graph,op"),
    "thread level, --full": ("--full",),
}
LIMITS: dict[str, tuple[float, ...]] = {  # percent, by mode in the order above
    "dense-1b": (1.0, 0.2, 1.0, 1.5, 4.0),
    "dense-150m": (1.0, 0.2, 1.0, 5.0, 12.0),
}
TOKENS = {"dense-1b": 25, "dense-150m": 129}  # per request: about half a second


@dataclass(slots=True)
class Period:
    """What one period gave."""

    ms_per_token: float
    foreign: float  # processors' worth of time that neither server, client nor flowprof used
    recorder: float = 0.0  # share of one processor that flowprof used


@dataclass(slots=True)
class Mode:
    """A mode's log ratios, and what its recordings said."""

    ratios: list[float] = field(default_factory=list)
    spoiled: list[float] = field(default_factory=list)
    recorder: list[float] = field(default_factory=list)
    modelled: list[float] = field(default_factory=list)
    cheap_ns: list[float] = field(default_factory=list)
    stepped_ns: list[float] = field(default_factory=list)


def measured(
    models: tuple[str, ...] = tuple(LIMITS),
    rounds: int = 9,
    seconds: float | None = None,
    modes: tuple[str, ...] = tuple(MODES),
    longest_s: float = LONGEST_S,
) -> Iterator[Row]:
    """The rows, model by model. seconds: length of a period (default: PERIOD_S)."""
    for kind in models:
        with llama_server.start(synthetic_model.write(kind)) as server:
            yield from Comparison(server, kind, seconds, longest_s).rows(rounds, modes)


class Comparison:
    """One server, and everything that is measured on it."""

    def __init__(self, server: llama_server.RunningServer, kind: str, seconds: float | None, longest_s: float) -> None:
        self._server, self._kind, self._tokens, self._longest_s = server, kind, TOKENS[kind], longest_s
        self._random = random.Random(1)
        self._folder = tempfile.TemporaryDirectory(prefix="flowprof-bench-")
        self._path = Path(self._folder.name) / "period.duckdb"
        self._request(3)
        one = median(self._request(5))
        self._requests = {
            default: max(2, round((seconds or of_mode) / (one * (self._tokens - 1) / 1000)))
            for default, of_mode in PERIOD_S.items()
        }
        self._speed = 1000 / one

    def rows(self, rounds: int, names: tuple[str, ...]) -> Iterator[Row]:
        modes = {name: Mode() for name in names}
        for together in [name for name in names if name == DEFAULT], [name for name in names if name != DEFAULT]:
            self._compare(together, modes, rounds)
        where = f"{self._kind}, {self._speed:.0f} tokens/s"
        limits = dict(zip(MODES, LIMITS[self._kind], strict=True))
        for name, mode in modes.items():
            yield ratio_row(f"overhead, {name}, {where}", mode, limits[name])
        default = modes.get(DEFAULT)
        if default is None:
            return
        stated, full = self._steady(), self._steady("--full")
        yield stated_row(f"the recording's own figure, default, {where}", stated, default)
        yield Row(f"recorder's processor time, default, {where}", 100 * median(default.recorder), "% of a core", 2,
                  note=", ".join(f"{n.split(',')[0]} {100 * median(m.recorder):.1f} %" for n, m in modes.items()
                                 if m is not default) + ": from some seconds on")  # fmt: skip
        for name, said, limit in (("default", stated, 2.0), ("--full", full, None)):
            yield Row(f"recorder's processor time, steady, {name}, {where}", said["recorder"], "% of a core", limit,
                      note=f"{said['seconds']:.0f} s, from {STEADY_S} s on")  # fmt: skip
        yield Row(f"recorder's memory after {STATED_S} s, default, {where}", stated["rss_mb"], "MB", 400,
                  note=f"at most {stated['peak_mb']:.0f} MB, in the beginning")  # fmt: skip
        for what, costs in (
            ("emulated", [ns for m in modes.values() for ns in m.cheap_ns]),
            ("single-stepped", [ns for m in modes.values() for ns in m.stepped_ns]),
        ):
            costs.sort()
            yield Row(f"cost of a probe hit, {what}", median(costs), "ns",
                      note=f"{costs[len(costs) // 10]:.0f} … {costs[-1 - len(costs) // 10]:.0f} ns (80 %) of "
                      f"{len(costs)} recordings, beside {self._kind}")  # fmt: skip

    # ------------------------------------------------------------------ periods

    def _compare(self, names: list[str], modes: dict[str, Mode], rounds: int) -> None:
        if not names:
            return
        before = self._bare(DEFAULT in names)
        began = time.monotonic()
        for done in range(rounds):
            if done and (time.monotonic() - began) * (done + 1) / done > self._longest_s:
                break
            for name in self._random.sample(names, len(names)):
                before = self._pair(name, modes[name], before)

    def _pair(self, name: str, mode: Mode, before: Period) -> Period:
        """Attached, then bare again; returns the bare period, for the next pair."""
        attached = self._attached(name, mode)
        after = self._bare(name == DEFAULT)
        foreign = max(before.foreign, attached.foreign, after.foreign)
        ratio = math.log(attached.ms_per_token * 2 / (before.ms_per_token + after.ms_per_token))
        (mode.ratios if foreign <= FOREIGN else mode.spoiled).append(ratio)
        mode.recorder.append(attached.recorder)
        return after

    def _bare(self, default: bool) -> Period:
        self._request(1)
        return self._period(default)

    def _attached(self, name: str, mode: Mode) -> Period:
        flowprof = self._attach(SETTLE_S, *MODES[name])
        try:
            period = self._period(name == DEFAULT, flowprof.pid)
        finally:
            end(flowprof)
        said = json.loads(subprocess.run(
            [*FLOWPROF, "report", str(self._path), "--json"], check=True, capture_output=True).stdout)  # fmt: skip
        if said["overhead"]["modelled_ratio"]:
            mode.modelled.append(said["overhead"]["modelled_ratio"] - 1)
        with Recording.open(str(self._path)) as recording:
            facts = recording.meta()
        mode.cheap_ns.append(float(facts["cost_cheap_ns"]))
        mode.stepped_ns.append(float(facts["cost_stepped_ns"]))
        return period

    def _attach(self, settle_s: float, *flags: str) -> subprocess.Popen[bytes]:
        """flowprof, attached and settled: until then the server decodes, as flowprof waits for graphs."""
        command = [*FLOWPROF, "attach", str(self._server.pid), "-q", "-f", "-o", str(self._path), *flags]
        flowprof = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while not probes_held(flowprof.pid):
            if flowprof.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"flowprof attach did not attach ({flowprof.poll()})")
            load.request(self._server.url, n_predict=8, prompt_tokens=4)
        settled = time.monotonic() + settle_s
        while time.monotonic() < settled:
            self._request(1)
        return flowprof

    def _period(self, default: bool, flowprof: int | None = None) -> Period:
        ours = [self._server.pid, os.getpid(), *([flowprof] if flowprof else [])]
        began, busy, used = time.monotonic(), machine_seconds(), [process_seconds(pid) for pid in ours]
        cost = self._request(self._requests[default])
        wall = time.monotonic() - began
        gained = [process_seconds(pid) - before for pid, before in zip(ours, used, strict=True)]
        foreign = (machine_seconds() - busy - sum(gained)) / wall
        return Period(sum(cost) / len(cost), foreign, gained[2] / wall if flowprof else 0.0)

    def _request(self, count: int) -> list[float]:
        """Decode time per token (ms) of so many requests, one after the other."""
        costs = []
        for _ in range(count):
            answer = load.request(self._server.url, n_predict=self._tokens, prompt_tokens=4)
            costs.append(answer.predicted_ms / (answer.predicted_n - 1))
        return costs

    def _steady(self, *flags: str) -> dict[str, Any]:
        """A longer recording: its own statement, the recorder's memory, and its share of a core (%) once settled."""
        flowprof = self._attach(STEADY_S, *flags)
        try:
            began, used = time.monotonic(), process_seconds(flowprof.pid)
            self._request_for(STATED_S)
            seconds = time.monotonic() - began
            share = 100 * (process_seconds(flowprof.pid) - used) / seconds
            status = Path(f"/proc/{flowprof.pid}/status").read_text().split()
        finally:
            end(flowprof)
        said = subprocess.run([*FLOWPROF, "report", str(self._path), "--json"], check=True, capture_output=True).stdout
        sizes = {word: int(status[status.index(f"{word}:") + 1]) / 1024 for word in ("VmRSS", "VmHWM")}
        return dict(json.loads(said)["overhead"]) | {
            "rss_mb": sizes["VmRSS"], "peak_mb": sizes["VmHWM"], "recorder": share, "seconds": seconds,
        }  # fmt: skip

    def _request_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._request(1)


# ---------------------------------------------------------------------- rows


def ratio_row(what: str, mode: Mode, limit: float) -> Row:
    quiet = len(mode.ratios) >= 5
    ratios = mode.ratios if quiet else mode.ratios + mode.spoiled
    point, low, high = (100 * math.expm1(x) for x in bootstrap(ratios))
    note = f"{len(ratios)} pairs"
    if mode.spoiled:
        note += f", {len(mode.spoiled)} disturbed " + ("left out" if quiet else "and kept: the machine was not idle")
    if mode.modelled:
        note += f"; modelled by flowprof: {100 * median(mode.modelled):.2f} %"
    return Row(what, point, "%", limit, interval=(low, high), note=note)


def stated_row(what: str, stated: dict[str, Any], mode: Mode) -> Row:
    """What a recording says of itself, and whether its interval and ours have something in common."""
    if stated["ratio"] is None:
        return Row(what, None, "%", note=str(stated["reason"]))
    low, high = (100 * (x - 1) for x in stated["ci95"])
    _, from_us, to_us = (100 * math.expm1(x) for x in bootstrap(mode.ratios + mode.spoiled))
    agree = "agrees with the measured one" if low <= to_us and from_us <= high else "CONTRADICTS the measured one"
    return Row(what, 100 * (stated["ratio"] - 1), "%", interval=(low, high),
               note=f"{agree}; {stated['windows']} deep windows in {STATED_S} s")  # fmt: skip


# ---------------------------------------------------------------------- processes


def end(flowprof: subprocess.Popen[bytes]) -> None:
    flowprof.send_signal(signal.SIGINT)
    try:
        code = flowprof.wait(30)
    except subprocess.TimeoutExpired:
        flowprof.kill()
        code = flowprof.wait()
    if code:
        raise SystemExit(f"flowprof attach ended with {code}")


def probes_held(pid: int) -> int:
    """BPF links that a process holds: 0 until its probes are in place."""
    count = 0
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += "bpf_link" in os.readlink(fd) or "bpf-link" in os.readlink(fd)
    return count


def process_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_seconds() -> float:
    """Processor time that was used, or stolen by the hypervisor, on all processors so far."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / TICKS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=LIMITS, action="append")
    parser.add_argument("--mode", action="append", metavar="WORD", help="only modes that begin with it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, help="length of a period (default: 15 in the default mode, else 3)")
    parser.add_argument("--longest", type=float, default=LONGEST_S, metavar="SECONDS",
                        help="no further round of a comparison after this (%(default).0f)")  # fmt: skip
    asked = parser.parse_args()
    modes = tuple(name for name in MODES if not asked.mode or name.startswith(tuple(asked.mode)))
    for row in measured(tuple(asked.model or LIMITS), asked.rounds, asked.seconds, modes, asked.longest):
        print(row)


if __name__ == "__main__":
    main()
