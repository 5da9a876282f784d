"""Calls of an engine's functions (torch's operators): events → rows of api_call and api_args. numpy, in bulk.

The kernel side has paired entries with exits and knows the call around each (calls.bpf.c). Arguments come under a key;
what stands behind a key that is new is looked up, once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.torch.layout import DTYPES
from flowprof.profiler.torch.schemas import FLAG, MAX_ARGS, NUMBERS, TENSORS, Schema, operator_name, struct_name
from numpy.typing import NDArray

NO_OPERATORS = {  # name and kind by probe; of the annotations torch's own profiler has the first and last names, too
    "torch.backward": ("autograd::engine::execute", "annotation"),
    "torch.script": ("TorchScript", "annotation"),
    "torch.compiled": ("Torch-Compiled Region", "annotation"),
    "torch.run": ("c10d::execute", "collective"),
}
NAMED = "torch.named"  # operators whose name comes with the call
UNNAMED = "torch.ops"  # where it could not be read
_NAME = re.compile(r"[A-Za-z_][\w.]{0,99}::[\w.]{1,99}")
KINDS = (ring.CALL_RETURN, ring.CALL_LEFT, ring.CALL_ABOUT, ring.CALL_NAME)
INDUCTOR_NAME = 12  # characters of the hash that a compiled kernel's library is called by
MAX_KEYS = 200_000  # distinct arguments of one process
_DIMS = 5  # more, and there are no strides
_ARG = np.dtype([("kind", "u1"), ("index", "u1"), ("ndim", "u1"), ("dtype", "u1"), ("length", "<u4"),
                 ("words", "<i8", 2 * _DIMS)])  # fmt: skip
_ARGS = np.dtype([("site", "<u8"), ("args", _ARG, MAX_ARGS)])  # struct torch_args

Columns = dict[str, object]
Look = Callable[[Iterable[int]], Mapping[int, bytes]]


class Calls:
    """The calls of one process."""

    def __init__(self, look: Look, known: dict[int, int]) -> None:
        """look: the arguments behind keys, as bytes, as far as they are still known; known: args_id of what is in
        api_args, by its hash, of all processes."""
        self._look = look
        self._known = known
        self._args_ids: dict[int, int | None] = {0: None}  # by key
        self._names: dict[int, str] = {}  # by number of the entry site
        self._named: set[int] = set()  # entry sites whose calls have names of their own
        self._told: dict[int, str] = {}  # these, by key
        self._schemas: dict[int, Schema] = {}
        self._kinds: dict[int, str] = {}  # of functions that are no operators, likewise
        self.count = 0

    @property
    def expected(self) -> bool:
        """Whether there are sites that see calls."""
        return bool(self._names)

    def knows(self, site: PlannedSite) -> bool:
        """Whether it has been told of the site, or need not be."""
        return site.site_id in self._names or site.probe.kind != "entry"

    def know(self, sites: Iterable[PlannedSite], schemas: Mapping[str, Schema]) -> None:
        """Sites that will be attached, and what their operators take."""
        for site in sites:
            if site.probe.id in NO_OPERATORS:
                self.know_functions({site.site_id: NO_OPERATORS[site.probe.id]})
            elif site.probe.id == NAMED:
                self._names[site.site_id] = UNNAMED
                self._named.add(site.site_id)
            elif site.engine == "inductor" and site.probe.kind == "entry":
                self._names[site.site_id] = f"inductor::{PurePosixPath(site.module.path).name[:INDUCTOR_NAME]}"
            elif site.probe.kind == "entry":
                self._names[site.site_id] = operator_name(site.symbol, schemas)
                schema = schemas.get(struct_name(site.symbol) or "")
                if schema is not None:
                    self._schemas[site.site_id] = schema

    def know_functions(self, functions: Mapping[int, tuple[str, str]]) -> None:
        """Functions that are no operators: name and kind, by number of the entry site."""
        self._names.update({site: name for site, (name, _) in functions.items()})
        self._kinds.update({site: kind for site, (_, kind) in functions.items()})

    def decode(self, events: NDArray[np.void]) -> tuple[Columns, Columns]:
        """Columns of api_call, and of the rows of api_args that are new. events: of KINDS, any order."""
        events = events[~np.isin(events["kind"], (ring.CALL_ABOUT, ring.CALL_NAME))]
        self.count += len(events)
        sites, site_at = np.unique(events["site"], return_inverse=True)
        names = np.empty(len(sites), object)
        names[:] = [self._names.get(site, "?") for site in sites.tolist()]
        kinds = np.empty(len(sites), object)
        kinds[:] = [self._kinds.get(site, "operator") for site in sites.tolist()]
        no_operators = np.isin(events["site"], list(self._kinds))  # their key says something else
        keys, key_at = np.unique(np.where(no_operators, 0, events["d"]), return_inverse=True)
        args = self._new_args([key for key in keys.tolist() if key not in self._args_ids])
        numbers = [self._args_ids.get(key) for key in keys.tolist()]
        name = names[site_at]
        own = np.isin(events["site"], list(self._named))
        name[own] = [self._told.get(key, UNNAMED) for key in events["d"][own].tolist()]
        ids = np.array([-1 if number is None else number for number in numbers], np.int64)[key_at]
        parent = events["c"].astype(np.int64)
        left = events["kind"] == ring.CALL_LEFT
        return {
            "call_id": events["b"].astype(np.int64), "pid": events["pid"], "tid": events["tid"].astype(np.int64),
            "kind": kinds[site_at], "name": name, "start_ns": events["a"].astype(np.int64),
            "end_ns": np.ma.masked_array(events["at_ns"].astype(np.int64), left),
            "parent_id": np.ma.masked_array(parent, parent == 0), "depth": events["ith"].astype(np.int32),
            "args_id": np.ma.masked_array(ids, ids < 0),
        }, args  # fmt: skip

    def _new_args(self, keys: Sequence[int]) -> Columns:
        rows: dict[str, list[object]] = {name: [] for name in ("args_id", "dims", "types", "scalars", "strides")}
        keys = keys[: max(MAX_KEYS - len(self._args_ids), 0)]
        found = self._look(keys)
        for key in keys:
            raw = found.get(key)
            if raw is None:
                continue  # it had to make room; the next call with these arguments puts it back
            args = np.frombuffer(raw, _ARGS, 1)[0]
            if int(args["site"]) in self._named:
                text = args["args"].tobytes().partition(b"\0")[0].decode("ascii", "replace")
                self._told[key], self._args_ids[key] = text if _NAME.fullmatch(text) else UNNAMED, None
                continue
            schema = self._schemas.get(int(args["site"]))
            if schema is None:
                self._args_ids[key] = None
                continue
            row = _row(args["args"], len(schema.args))
            new = len(self._known) + 1
            self._args_ids[key] = number = self._known.setdefault(hash(tuple(row.values())), new)
            if number == new:
                for name, value in (row | {"args_id": number}).items():
                    rows[name].append(value)
        return dict(rows)


def _row(args: NDArray[np.void], count: int) -> dict[str, object]:
    """One row of api_args: JSON lists with an entry for every argument of the schema, as from torch's profiler.

    A list of tensors that were all read is of type `TensorList(float)`, and has a list of shapes.
    """
    dims: list[list[Any]] = [[] for _ in range(count)]
    strides: list[list[int]] = [[] for _ in range(count)]
    types, scalars = [""] * count, [""] * count
    lists: dict[int, list[tuple[list[int], str]]] = {}
    for kind, index, ndim, dtype, length, words in args.tolist():
        if not kind:
            break  # what follows is left there from another call
        if index >= count:
            continue
        known = ndim <= 2 * _DIMS and dtype in DTYPES
        shape = [int(one) for one in words[:ndim]] if known else []
        if kind == NUMBERS:
            types[index] = "ScalarList"
            scalars[index] = str([int(one) for one in words[:length]]) if length <= _DIMS else ""
        elif kind == FLAG or kind > TENSORS:
            types[index] = "Scalar"
            scalars[index] = str(bool(words[0])) if kind == FLAG else str(int(words[0]))
        elif kind == TENSORS:
            types[index] = "TensorList"
            seen = lists.setdefault(index, [])
            if known:
                seen.append((shape, DTYPES[dtype][1]))
            if len(seen) == length and len({name for _, name in seen}) == 1:
                dims[index], types[index] = [one for one, _ in seen], f"TensorList({seen[0][1]})"
        elif known:
            dims[index], types[index] = shape, DTYPES[dtype][1]
            strides[index] = [int(one) for one in words[_DIMS : _DIMS + ndim]] if ndim <= _DIMS else []
    return {
        "dims": json.dumps(dims), "types": json.dumps(types), "scalars": json.dumps(scalars),
        "strides": json.dumps(strides),
    }  # fmt: skip
