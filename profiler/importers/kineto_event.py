"""One event as Kineto writes it: what its category says it is, and what its args hold. Perfetto's slices become one."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from flowprof.profiler.importers.trace import CALL_KINDS, MISSING, SLICE_KINDS, Ints

_INT = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=(1 << 62))]
_NO_ARGS = msgspec.Raw(b"")
_CALLS = {
    "cpu_op": "operator", "operator": "operator",
    "cuda_runtime": "runtime", "runtime": "runtime", "hip_runtime": "runtime", "xpu_runtime": "runtime",
    "privateuse1_runtime": "runtime", "mtia_runtime": "runtime",
    "cuda_driver": "driver", "hip_driver": "driver", "xpu_driver": "driver", "privateuse1_driver": "driver",
    "user_annotation": "annotation", "cpu_user_annotation": "annotation",
    "python_function": "python", "pythonfunction": "python",
    "": "other",
}  # fmt: skip
_SLICES = {
    "kernel": "kernel", "concurrent_kernel": "kernel", "gpu_op": "kernel", "gpu_memcpy": "copy", "memcpy": "copy",
    "gpu_memset": "memset", "memset": "memset", "cuda_sync": "sync", "gpu_user_annotation": "annotation",
}  # fmt: skip
SLICES_FROM = 100  # kinds of slices are numbered from here, kinds of calls from 0
UNUSUAL = -2  # the category is of another spelling, or none that is taken
RECORDED = -3  # an event, with the stream in which a call recorded it
KIND_OF: dict[str | None, int] = {
    **{category: CALL_KINDS.index(kind) for category, kind in _CALLS.items()},
    **{category: SLICE_KINDS.index(kind) + SLICES_FROM for category, kind in _SLICES.items()},
    "cuda_event": RECORDED,
    None: CALL_KINDS.index("other"),
}
_ITEM_BYTES = {"float": 4, "int": 4, "bfloat16": 2, "half": 2, "double": 8, "long": 8, "byte": 1, "char": 1, "bool": 1,
               "float8_e4m3fn": 1, "float8_e5m2": 1, "short": 2}  # fmt: skip


class Args(msgspec.Struct, gc=False):
    """Of calls and of GPU work; lists stay JSON until somebody asks for them."""

    external: _INT = msgspec.field(name="External id", default=MISSING)
    external_old: _INT = msgspec.field(name="external id", default=MISSING)
    correlation: _INT = MISSING
    device: _INT = MISSING
    stream: _INT = MISSING
    bytes: float = -1.0
    graph_node: _INT = msgspec.field(name="graph node id", default=MISSING)
    dims: msgspec.Raw = msgspec.field(name="Input Dims", default=_NO_ARGS)
    dims_old: msgspec.Raw = msgspec.field(name="Input dims", default=_NO_ARGS)
    types: msgspec.Raw = msgspec.field(name="Input type", default=_NO_ARGS)
    scalars: msgspec.Raw = msgspec.field(name="Concrete Inputs", default=_NO_ARGS)
    grid: msgspec.Raw = _NO_ARGS
    block: msgspec.Raw = _NO_ARGS
    awaited: _INT = msgspec.field(name="wait_on_stream", default=MISSING)
    record: _INT = msgspec.field(name="wait_on_cuda_event_record_corr_id", default=MISSING)
    sent: msgspec.Raw = msgspec.field(name="In msg nelems", default=_NO_ARGS)  # by a collective
    dtype: msgspec.Raw = _NO_ARGS
    name: msgspec.Raw = _NO_ARGS  # of a process or thread


class Event(msgspec.Struct, gc=False):
    """Times are in a unit that the file does not name."""

    ph: str = ""
    cat: str | None = ""
    name: str | None = ""
    pid: int | str | None = 0
    tid: int | str | None = 0
    ts: int | float | None = None
    dur: int | float | None = None
    args: Args | None = None


EMPTY = Args()
_RAW = tuple(one for one in Args.__struct_fields__ if isinstance(getattr(EMPTY, one), msgspec.Raw))
EVENT_BYTES = 500  # of an event and its args, without texts


def set_free(event: Event) -> int:
    """Let an event that is kept no longer hold the batch that it was read from. Returns its bytes."""
    size = sum(len(one) for one in (event.name, event.cat, event.pid, event.tid) if isinstance(one, str))
    if event.args is not None:
        for field in _RAW:
            raw = getattr(event.args, field)
            if raw:
                setattr(event.args, field, raw.copy())
                size += len(bytes(raw))
    return EVENT_BYTES + size


def known_category(category: str) -> bool:
    """Whether a category says what a slice is."""
    return category.casefold() in KIND_OF


def external_ids(args: list[Args]) -> Ints:
    return np.array([one.external if one.external != MISSING else one.external_old for one in args], np.int64)


def moved_bytes(args: Args) -> int:
    """By a copy, a memset or a collective; MISSING when the event does not say."""
    if 0 <= args.bytes < 1e18:
        return int(args.bytes)
    if not args.sent:
        return MISSING
    sent, item = decoded(args.sent), _ITEM_BYTES.get(str(decoded(args.dtype)).casefold())
    return sent * item if item is not None and isinstance(sent, int) and 0 <= sent < 1 << 50 else MISSING


def decoded(raw: msgspec.Raw) -> Any:
    """None for what is no JSON."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def raw_text(raw: msgspec.Raw) -> str:
    return str(raw, "utf-8", "replace")
