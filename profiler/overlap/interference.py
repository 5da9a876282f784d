"""How much kernels that share a device slow each other down.

A share R of the device is given to another kernel, a GEMM keeps 1 − R of its speed, and the other one reaches P(R) of
its own. To do one second of the other's work then costs the GEMM R/P(R) seconds: the price of hiding it. The default
is NanoFlow's table 3 (arXiv 2408.12757: A100, varies by 5 % over shapes); a measurement on one's own device replaces
it. It has no copies between host and device: the network's row stands for them, whose kernels take processors of the
GPU that a copy engine leaves alone.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowprof.profiler.errors import NotFoundError, UsageError

Hidden = Literal["memory", "network", "copy"]
MAX_BYTES, MAX_POINTS, MAX_DEVICE = 1 << 16, 100, 100


@dataclass(frozen=True, slots=True)
class Interference:
    """By kind of the hidden kernel: pairs (R, P), both in 0 … 1, R rising."""

    points: dict[Hidden, tuple[tuple[float, float], ...]]
    source: str
    device: str = ""  # CPU, or a GPU's name; "": not said

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
    return Interference(
        points, source + (f"; {' and '.join(others)}: {DEFAULT.source}" if others else ""), device.casefold()
    )


def check_for_gpus(table: Interference, path: str) -> None:
    """Raises UsageError for a table that says nothing of GPUs."""
    if table.device == CPU:
        raise UsageError(
            f"{path} was measured on processors, and does not price the work of GPUs",
            "leave --interference out, or measure with the GPU's kernels",
        )


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
