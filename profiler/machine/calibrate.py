"""Measure this machine's ceilings: `measure()`, within 15 s whatever its size. How: see `calibrate_child`.

Every figure is the best of its repeats, over the kernels that were tried: a ceiling is what the machine sustains for
≥ 30 ms when nothing hinders. While it is measured the processor time of all other processes is watched; above 10 % of
a processor the figure is taken again, and when that is no better marked as disturbed. A guest's neighbours in the same
memory and last-level cache cannot be seen: compare two calibrations when the figure matters.

Thread counts: powers of two, the number of cores, all allowed processors. Working sets: DRAM ≥ 4 x the last-level
caches that so many threads reach (64 MiB each where the kernel names none); the last-level cache: L2 and half of a
thread's share; L2: half of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from flowprof.profiler.errors import UsageError
from flowprof.profiler.machine import ceilings, conditions, processor
from flowprof.profiler.machine.ceilings import DISTURBED, Ceiling, Ceilings, What
from flowprof.profiler.machine.processor import Processors

BUDGET_S = 15.0
OTHERS = 0.1  # processors that others may use meanwhile
_TICK_S = 0.01  # what /proc/stat may be wrong by, per processor
_ITEM_S = (0.12, 1.0)  # for one figure: at least, at most
_UNKNOWN_LLC = 64 << 20
_DRAM_FACTOR = 4
_LIBRARY_HINT = "not measured: pip install 'flowprof[calibrate]'"
_TORCH_HINT = "not measured: PyTorch would (pip install torch beside flowprof); or state it with --ceilings"
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")

Missing = tuple[str, str]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Item:
    """One figure to be measured. kernels: how many the child will try for it."""

    what: What
    dtype: str
    threads: int
    size_bytes: int = 0

    @property
    def kind(self) -> str:
        return self.dtype or "reading"

    @property
    def kernels(self) -> int:
        return 2 if self.kind == "reading" else 1

    @property
    def words(self) -> str:
        return f"{self.what} {self.dtype}".strip()


def measure(
    threads: Sequence[int] = (), budget_s: float = BUDGET_S, say: Say = lambda line: None, dtypes: Sequence[str] = ()
) -> Ceilings:
    """Measure with these numbers of threads (default: see above) within about `budget_s`.

    dtypes: GEMMs to measure, by default all that this CPU and the installed libraries can. Raises UsageError for more
    threads than processors.
    """
    machine = processor.read()
    wanted = tuple(threads) or processor.thread_counts(len(machine.cpus), machine.cores)
    if not all(1 <= count <= len(machine.cpus) for count in wanted):
        raise UsageError(
            f"--threads {','.join(map(str, wanted))}: there are {len(machine.cpus)} processors for this process",
            f"give numbers of 1 … {len(machine.cpus)}",
        )
    possible, missing = gemms(machine, platform.machine(), libraries(), pytorch())
    items, without = plan(machine, wanted, tuple(dtypes) or possible, processor.spare_memory_bytes())
    missing += without
    deadline = time.monotonic() + budget_s
    found = []
    with _Child() as child:
        for number, item in enumerate(items):
            left_s = deadline - time.monotonic()
            if left_s < _ITEM_S[0]:
                missing.append((f"{item.words} {_with(item.threads)}", f"no time was left of {budget_s:g} s"))
                continue
            say(f"{item.words}, {item.threads} of {max(wanted)} threads …")
            seconds = min(_ITEM_S[1], max(_ITEM_S[0], left_s / (len(items) - number) / 2))  # the rest: set-up, again
            best = _measured(child, item, seconds, machine, deadline)
            if isinstance(best, Ceiling):
                found.append(best)
            else:
                missing.append((f"{item.words} {_with(item.threads)}", best))
    empty = Ceilings(ceilings.machine(), ())
    return empty.merged(Ceilings(empty.machine, tuple(found), tuple(missing), tuple(conditions.now().items())))


def open_counts(known: Ceilings | None, threads: Sequence[int]) -> tuple[int, ...]:
    """Of these numbers of threads those to be measured (again): not known, disturbed, or a library has come since."""
    hints = [hint for hint, there in ((_LIBRARY_HINT, libraries()), (_TORCH_HINT, pytorch())) if there]
    if known is None or any(why in hints for _, why in known.missing):
        return tuple(threads)
    disturbed = {item.threads for item in known.items if item.disturbed}
    return tuple(count for count in threads if count not in known.threads or count in disturbed)


def gemms(machine: Processors, arch: str, installed: bool, torch: bool) -> tuple[tuple[str, ...], list[Missing]]:
    """Which data types' GEMMs can be measured here, and why the others cannot. On x86-64 onnxruntime multiplies neither
    bf16 nor f16; PyTorch's oneDNN does bf16 (f16 it multiplied at half of f32's rate, on a CPU with avx512_fp16)."""
    can, missing = ["f32"], []
    for dtype in ("bf16", "f16", "int8"):
        name = processor.instructions(machine.flags, arch, dtype)
        if not name:
            why = "this CPU has no instructions that multiply it: such products run in another type, mostly f32"
        elif dtype == "f16" and arch != "aarch64":
            why = f"not measured: this CPU has {name}, no library that flowprof uses does; state it with --ceilings"
        elif dtype == "bf16" and arch != "aarch64" and not torch:
            why = _TORCH_HINT
        elif dtype == "bf16" and arch != "aarch64":
            can.append(dtype)
            continue
        elif not installed:
            why = _LIBRARY_HINT
        else:
            can.append(dtype)
            continue
        missing.append((f"gemm {dtype}", why))
    return tuple(can), missing


def libraries() -> bool:
    """Whether what `flowprof[calibrate]` brings is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx"))


def pytorch() -> bool:
    """Whether it is installed here: too large to bring along, and there where somebody uses it."""
    return importlib.util.find_spec("torch") is not None


def plan(
    machine: Processors, threads: Sequence[int], dtypes: Sequence[str], spare_bytes: int
) -> tuple[list[Item], list[Missing]]:
    """What to measure, the most needed first: all processors, then one thread, then the rest."""
    items, missing = [], []
    if not machine.llc_bytes:
        missing.append(("llc_read", "the kernel names no cache beyond L2"))
    if not machine.l2_bytes:
        missing.append(("l2_read", "the kernel names no L2"))
    caches = max(machine.llc_count, 1)
    for count in sorted(set(threads), key=lambda count: (count != max(threads), count)):
        memory = _DRAM_FACTOR * (machine.llc_bytes or machine.l2_bytes or _UNKNOWN_LLC) * min(count, caches)
        if memory <= spare_bytes // 2:
            items.append(Item("dram_read", "", count, memory))
        else:
            why = f"{memory >> 20} MiB are needed, twice that is not free ({spare_bytes >> 20} MiB)"
            missing.append((f"dram_read {_with(count)}", why))
        share = machine.llc_bytes // -(-count // caches)
        if machine.llc_bytes and share >= machine.l2_bytes // 2:
            items.append(Item("llc_read", "", count, count * (machine.l2_bytes + share // 2)))
        elif machine.llc_bytes:
            why = f"a thread's share of it is {share >> 10} KiB: no room beyond L2"
            missing.append((f"llc_read {_with(count)}", why))
        if machine.l2_bytes:
            items.append(Item("l2_read", "", count, count * machine.l2_bytes // 2))
        items += [Item("gemm", dtype, count) for dtype in dtypes]
    return items, missing


def _with(threads: int) -> str:
    return f"with {threads} thread{'s' * (threads != 1)}"


def _measured(child: _Child, item: Item, seconds: float, machine: Processors, deadline: float) -> Ceiling | str:
    """The figure, or why there is none. Taken a second time when others used the processors, if time allows."""
    best = _once(child, item, seconds, machine)
    if isinstance(best, Ceiling) and best.disturbed and deadline - time.monotonic() > 2 * seconds:
        again = _once(child, item, seconds, machine)
        if isinstance(again, Ceiling) and (again.value > best.value or not again.disturbed):
            best = again
    return best


def _once(child: _Child, item: Item, seconds: float, machine: Processors) -> Ceiling | str:
    request = {
        "kind": item.kind, "threads": item.threads, "bytes": item.size_bytes, "cpus": machine.cpus,
        "seconds": seconds / item.kernels,
    }  # fmt: skip
    answers = list(child.ask(request))
    kernels = [answer for answer in answers if answer.get("rates")]
    if not kernels:
        return next((str(answer["failed"]) for answer in answers if "failed" in answer), "the measuring gave nothing")
    best = max(kernels, key=lambda answer: max(answer["rates"]))
    return Ceiling(
        item.what, item.dtype, item.threads, max(best["rates"]), min(best["rates"]), max(best["rates"]),
        source(item, best, machine),
    )  # fmt: skip


def source(item: Item, best: dict[str, Any], machine: Processors) -> str:
    """When and how the figure was measured, in one line."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    size = item.size_bytes
    over = "" if not size else f" over {size >> 20} MiB" if size >= 1 << 20 else f" over {size >> 10} KiB"
    line = f"measured {when}, {best['words']}{over}, best of {len(best['rates'])}, load {os.getloadavg()[0]:.1f}"
    if machine.guest and item.what in ("dram_read", "llc_read"):
        line += ", in a guest, which may share it with others"
    if best["others"] > OTHERS + _TICK_S * len(machine.cpus) / best["wall"]:
        line += f"{DISTURBED}other processes used {best['others']:.0%} of a processor"
    return line


class _Child:
    """The measuring process; started when first asked, and anew when it has died."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.communicate()

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers to one request; the last is {failed: why} when the process dies."""
        if self._running is None:
            self._running = subprocess.Popen(  # -P: no module of the working directory, flowprof may run as root
                [sys.executable, "-P", "-m", "flowprof.profiler.machine.calibrate_child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        assert self._running.stdin is not None and self._running.stdout is not None
        try:
            self._running.stdin.write(json.dumps(request) + "\n")
            self._running.stdin.flush()
            for line in self._running.stdout:
                answer = json.loads(line)
                yield answer
                if "done" in answer or "failed" in answer:
                    return
        except BrokenPipeError:
            pass
        code = self._running.wait()
        self._running = None
        yield {"failed": f"the measuring process ended with {code}" + (" (out of memory?)" if code == -9 else "")}
