"""What a machine can do at most: bandwidths and GEMM peaks, each with where it comes from.

Ceilings are measured (calibrate.py), given by the user (ceilings_file.py) or read from a GPU's data sheet
(`gpu_ceilings`). A ceiling that nobody measured is absent and `Ceilings.missing` says why: none is invented.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

What = Literal["dram_read", "llc_read", "l2_read", "gemm"]
DTYPES = ("f32", "bf16", "f16", "int8", "f8")
COLUMNS = ("what", "dtype", "threads", "value", "low", "high", "source")
DISTURBED = "; disturbed: "  # in the source of a figure that was measured while others used the processors
LAUNCH_NS = 5_000  # on a GPU; work shorter than that costs its launch as much as itself
ANY = 0  # threads: every number; so it is of a GPU as a whole, too
_GPUS = Path(__file__).resolve().parents[1] / "data" / "gpus.toml"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """value: bytes/s, or operations/s for `gemm` (a multiply-add is two). low … high: of the repeats.

    dtype is empty for bandwidth. source is one printable sentence. threads 0 (`ANY`): holds for every number.
    """

    what: What
    dtype: str
    threads: int
    value: float
    low: float
    high: float
    source: str

    @property
    def disturbed(self) -> bool:
        """Whether other processes used the processors while this was measured."""
        return DISTURBED in self.source


@dataclass(frozen=True, slots=True)
class Ceilings:
    """missing: pairs of what could not be had and why, such as ("gemm int8", "…"). conditions: pairs, under which they
    were measured (conditions.py); none: that is not known."""

    machine: str
    items: tuple[Ceiling, ...]
    missing: tuple[tuple[str, str], ...] = ()
    conditions: tuple[tuple[str, str], ...] = ()

    def get(self, what: What, threads: int, dtype: str = "") -> Ceiling | None:
        """The ceiling for that many threads: exact, else one that holds for any number, else of the next *higher*
        number measured, else of the highest; its source then says so. None when there is none of the kind.

        Higher, for a ceiling must stay a bound: what n threads reach, n + 1 can reach, and not the other way round.
        """
        found = {item.threads: item for item in self.items if (item.what, item.dtype) == (what, dtype)}
        if not found:
            return None
        if threads in found or ANY in found:
            return found.get(threads) or found[ANY]
        nearest = min((count for count in found if count > threads), default=max(found))
        words = "thread" if nearest == 1 else "threads"
        return replace(found[nearest], source=f"{found[nearest].source}; with {nearest} {words}, not {threads}")

    @property
    def threads(self) -> frozenset[int]:
        """The numbers of threads for which there are figures."""
        return frozenset(item.threads for item in self.items)

    def merged(self, other: Ceilings) -> Ceilings:
        """Both; what is missing is what `other` misses. Of what both have `other`'s stays, unless it was disturbed and
        is lower. The conditions are those of the first measurement, so that its age counts."""
        items = {(item.what, item.dtype, item.threads): item for item in self.items}
        for item in other.items:
            old = items.get((item.what, item.dtype, item.threads))
            if old is None or not item.disturbed or item.value >= old.value:
                items[item.what, item.dtype, item.threads] = item
        ordered = sorted(items, key=lambda key: (get_args(What).index(key[0]), _order(key[1]), key[2]))
        kept = tuple(items[key] for key in ordered)
        return Ceilings(other.machine, kept, other.missing, self.conditions or other.conditions)


def machine() -> str:
    """The CPU model, as /proc/cpuinfo names it."""
    from flowprof.profiler.machine import host

    facts = host.facts()
    return facts["cpu_model"] or facts["arch"]


def rows(ceilings: Ceilings) -> dict[str, object]:
    """Columns for a recording's table `ceiling`."""
    return {name: [getattr(item, name) for item in ceilings.items] for name in COLUMNS}


def from_rows(machine: str, table: Sequence[Sequence[object]]) -> Ceilings:
    """Back from the table's rows, in the order of `COLUMNS`. A row that no machine can have measured is left out."""
    return Ceilings(machine, tuple(Ceiling(*cast(Any, row)) for row in table if _possible(*row)))


def _possible(
    what: object, dtype: object, threads: object, value: object, low: object, high: object, source: object
) -> bool:
    plain = isinstance(threads, int) and all(isinstance(text, str) for text in (what, dtype, source))
    return plain and all(isinstance(one, int | float) and 1 <= one < math.inf for one in (value, low, high))


def gpu_ceilings(model_name: str) -> Ceilings | None:
    """The data sheet of a GPU by its name as nvidia-smi or rocm-smi prints it; None when the table has no such GPU.

    The name must be the same as one in `data/gpus.toml`, but for case, punctuation, the words NVIDIA, Tesla, GeForce,
    AMD and Instinct, and a number of GPUs before it ("8 x …"): a "4090 Laptop GPU" or a MIG slice is another GPU.
    """
    gpu = gpu_sheet(model_name)
    return None if gpu is None else _gpu(model_name, gpu)


def gpu_sheet(model_name: str) -> Mapping[str, Any] | None:
    """The entry of data/gpus.toml with the table's `date`; names are compared as `gpu_ceilings` does."""
    wanted = plain_name(model_name)
    table = _gpu_table()
    found = next((gpu for gpu in table["gpu"] if wanted in map(plain_name, gpu["names"])), None)
    return None if found is None else {**found, "date": table["date"]}


def gpu_names() -> list[str]:
    """Every GPU of the table, by its first name."""
    return [gpu["names"][0] for gpu in _gpu_table()["gpu"]]


def sheet_source(gpu: Mapping[str, Any]) -> str:
    """Where an entry's figures come from, in one line."""
    note = f" ({gpu['note']})" if gpu.get("note") else ""
    checked = f", compared with {gpu['checked']}" if gpu.get("checked") else ", not compared with a second source"
    return f"data sheet, {gpu['date']}, dense{note}: {gpu['url']}{checked}"


def _gpu_table() -> dict[str, Any]:
    with _GPUS.open("rb") as file:
        return tomllib.load(file)


def _gpu(model_name: str, gpu: Mapping[str, Any]) -> Ceilings:
    source = sheet_source(gpu)
    figures: list[tuple[What, str, float]] = [("dram_read", "", gpu["gb_per_s"] * 1e9)]
    figures += [("gemm", dtype, value * 1e12) for dtype, value in gpu["tera"].items()]
    items = tuple(Ceiling(what, dtype, ANY, value, value, value, source) for what, dtype, value in figures)
    missing = tuple((f"gemm {dtype}", "the data sheet names none") for dtype in DTYPES if dtype not in gpu["tera"])
    return Ceilings(model_name, items, missing)


def plain_name(name: str) -> str:
    """The words of a GPU's name that tell it from others, in lower case."""
    name = re.sub(r"^\d+ x ", "", name.casefold().strip())
    words = re.split(r"[^a-z0-9]+", name)
    return " ".join(word for word in words if word not in ("", "nvidia", "tesla", "geforce", "amd", "instinct"))


def _order(dtype: str) -> int:
    return DTYPES.index(dtype) if dtype in DTYPES else -1
