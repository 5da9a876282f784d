"""How much kernels that share a device slow each other down.

A share R of the device is given to another kernel, a GEMM keeps 1 − R of its speed, and the other one reaches P(R) of
its own. To do one second of the other's work then costs the GEMM R/P(R) seconds: the price of hiding it. The default
is NanoFlow's table 3 (arXiv 2408.12757: A100, varies by 5 % over shapes); a measurement on one's own device replaces
it: one of another device is refused, and one that names none is used, and said to be of no known device. The default
has no copies between host and device: the network's row stands for them, whose kernels take processors of the GPU that
a copy engine leaves alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flowprof.profiler.errors import NotFoundError, UsageError
from flowprof.profiler.machine.ceilings import plain_name

Hidden = Literal["memory", "network", "copy"]
MAX_BYTES, MAX_POINTS, MAX_DEVICE = 1 << 16, 100, 100


@dataclass(frozen=True, slots=True)
class Interference:
    """By kind of the hidden kernel: pairs (R, P), both in 0 … 1, R rising."""

    points: dict[Hidden, tuple[tuple[float, float], ...]]
    source: str
    device: str = ""  # CPU, or a GPU's name, or words of it; "": not said

    def price(self, kind: Hidden) -> float:
        """Seconds of GEMM that hiding one second costs at best."""
        share, speed = self.best(kind)
        return share / speed

    def best(self, kind: Hidden) -> tuple[float, float]:
        """The (R, P) at which hiding costs least; of several the one that hides fastest."""
        return min(self.points[kind], key=lambda point: (round(point[0] / point[1], 9), -point[1]))


CPU = "cpu"
_NETWORK = ((0.1, 0.3), (0.2, 0.5), (0.8, 0.9), (0.9, 1.0), (1.0, 1.0))
DEFAULT = Interference(
    {
        "memory": ((0.1, 0.2), (0.2, 0.3), (0.4, 0.8), (0.8, 0.85), (0.9, 0.95), (1.0, 1.0)),
        "network": _NETWORK,
        "copy": _NETWORK,
    },
    "NanoFlow, table 3 (A100); not measured on this device",
)


def read(path: str) -> Interference:
    """A TOML file: `memory = [[R, P], …]`, and so for network and copy; `device = "cpu"`, or a GPU's name, says where
    it was measured. Raises NotFoundError, UsageError."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large for an interference table")
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    points = dict(DEFAULT.points)
    for kind in points:
        if kind in table:
            points[kind] = _points(path, kind, table[kind])
    if not set(points) & set(table):
        raise UsageError(f"{path} holds none of {', '.join(points)}", "write memory = [[0.4, 0.8], …]")
    others = [kind for kind in points if kind not in table]
    device = table.get("device", "")
    if not isinstance(device, str) or len(device) > MAX_DEVICE:
        raise UsageError(f"{path}: device is a text", f'like device = "{CPU}"')
    source = f"measured: {path}" + (f" on {device}" if device else "")
    return Interference(points, source + (f"; {' and '.join(others)}: {DEFAULT.source}" if others else ""), device)


def for_gpus(table: Interference, path: str | None, names: Sequence[str]) -> Interference:
    """The table, whose source says where nobody knows whether it fits. names: the GPUs', "" where one has none.

    Raises UsageError for a table that was measured elsewhere: on processors, or on none of these GPUs. `A100` is any
    GPU with that word in its name.
    """
    if path is None:
        return table
    if table.device.casefold() == CPU:
        raise UsageError(
            f"{path} was measured on processors, and does not price the work of GPUs",
            "leave --interference out, or measure with the GPU's kernels",
        )
    known = [name for name in dict.fromkeys(names) if name]
    if table.device and known and not any(_is_one(name, table.device) for name in known):
        raise UsageError(
            f"{path} was measured on {table.device}, and this is {' and '.join(known)[:200]}",
            "leave --interference out, or measure with this GPU's kernels",
        )
    if not table.device:
        return replace(
            table, source=f"{table.source}; it does not say on which device, so whether it fits is not known"
        )
    if not known:
        return replace(table, source=f"{table.source}; which GPU was recorded is not known")
    return table


def _is_one(name: str, device: str) -> bool:
    return set(plain_name(device).split()) <= set(plain_name(name).split())


def _points(path: str, kind: str, rows: object) -> tuple[tuple[float, float], ...]:
    wrong = UsageError(f"{path}: {kind} is a list of [R, P], both above 0 and at most 1", "like [[0.4, 0.8], [1, 1]]")
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_POINTS:
        raise wrong
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 2:
            raise wrong
        if not all(isinstance(x, int | float) and not isinstance(x, bool) and 0 < x <= 1 for x in row):
            raise wrong
        found.append((float(row[0]), float(row[1])))
    return tuple(sorted(found))
