"""A model's card and the GPUs that serve it: a name of data/models.toml or a TOML file; `8xA100` of data/gpus.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowprof.profiler.errors import NotFoundError, UsageError
from flowprof.profiler.machine import ceilings

MODELS = Path(__file__).resolve().parent.parent / "data" / "models.toml"
MAX_BYTES = 1 << 20
MAX_COUNT = 4096
_FIELDS = ("parameters", "layers", "hidden", "intermediate", "heads", "kv_heads")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A dense transformer with gated feed-forward layers. kv_heads divides heads (1 < ratio: grouped queries)."""

    name: str
    parameters: float
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    source: str

    @property
    def group(self) -> float:
        """Heads that share one key and value head."""
        return self.heads / self.kv_heads


@dataclass(frozen=True, slots=True)
class Gpus:
    """So many GPUs of one kind. Peaks are of one GPU. net: one way, to the others, bytes/s; None: not known."""

    name: str
    count: int
    flops: float  # per second, in the model's data type
    memory: float  # bytes/s
    memory_bytes: float | None
    net: float | None
    source: str


def model(name: str) -> ModelCard:
    """The card of that name, or the one in that TOML file. Raises NotFoundError, UsageError."""
    known = _read(MODELS)
    if name in known:
        return _card(name, known[name])
    path = Path(name)
    if not path.is_file():
        hint = f"models are {', '.join(known)}; or name a TOML file with {', '.join(_FIELDS)}"
        raise NotFoundError(f"no model {name!r}", hint)
    table = _read(path)
    return _card(str(table.get("name", path.stem)), table)


def gpus(text: str, dtype: str = "f16") -> Gpus:
    """`8xA100`: how many of which. dtype: whose peak. Raises NotFoundError, UsageError."""
    match = re.fullmatch(r"(?:(\d{1,5})\s*x\s*)?(.+)", text.strip())
    count = int(match[1] or 1) if match else 0
    if match is None or not 0 < count <= MAX_COUNT:
        raise UsageError(f"--gpus {text!r} names no GPUs", "write it like 8xA100")
    sheet = ceilings.gpu_sheet(match[2])
    if sheet is None:
        raise NotFoundError(
            f"no data sheet of a GPU {match[2]!r} is known", f"names are: {', '.join(ceilings.gpu_names())}"
        )
    if dtype not in sheet["tera"]:
        raise UsageError(f"the data sheet of {match[2]} names no {dtype}", f"it names {', '.join(sheet['tera'])}")
    gigabytes, link = sheet.get("memory_gb"), sheet.get("link_gb_per_s")
    return Gpus(
        match[2], count, sheet["tera"][dtype] * 1e12, sheet["gb_per_s"] * 1e9, gigabytes and gigabytes * 1e9,
        link and link * 1e9, ceilings.sheet_source(sheet),
    )  # fmt: skip


def measured(path: str) -> dict[str, float]:
    """Operator → seconds, from a TOML file of milliseconds. Raises NotFoundError, UsageError."""
    table = _read(Path(path))
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise UsageError(f"{path}: {name!r} is no time in ms", "an operator a line, like KQV = 16.08")
    return {name: value / 1e3 for name, value in table.items()}


def _card(name: str, table: Mapping[str, Any]) -> ModelCard:
    values = {}
    for field in _FIELDS:
        value = table.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
            raise UsageError(f"the model {name!r} needs {field}, a positive number", f"fields: {', '.join(_FIELDS)}")
        values[field] = value
    whole = {field: int(values[field]) for field in _FIELDS[1:]}
    if any(whole[field] != values[field] for field in whole) or whole["heads"] % whole["kv_heads"]:
        raise UsageError(f"the model {name!r}: sizes are whole numbers, and kv_heads divides heads")
    return ModelCard(name, float(values["parameters"]), **whole, source=str(table.get("url", "given by its file")))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large for a model's card")
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
