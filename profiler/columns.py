"""Rows as columns: arrays of one length, made of whatever a caller has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, Any]
Array = NDArray[Any]


def as_arrays(columns: Columns) -> dict[str, Array]:
    """Columns as arrays of one length: lists become arrays (masked where numbers are None), scalars are repeated.

    Raises ValueError when the lengths differ.
    """
    arrays = {name: _array(values) for name, values in columns.items() if not _scalar(values)}
    lengths = {len(array) for array in arrays.values()} or {1}
    if len(lengths) > 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    rows = lengths.pop()
    return {
        name: arrays[name] if name in arrays else _objects([values] * rows) if values is None else np.full(rows, values)
        for name, values in columns.items()
    }


def _scalar(values: object) -> bool:
    return values is None or isinstance(values, str | bytes | int | float | np.generic)


def _array(values: Any) -> Array:
    if isinstance(values, np.ndarray):
        return values if values.ndim == 1 else _objects(values.tolist())
    values = list(values)
    some = next((value for value in values if value is not None), None)
    if isinstance(some, int | float | np.number) and not isinstance(some, bool):
        if None not in values:
            return np.asarray(values)
        mask = [value is None for value in values]
        kind = float if any(isinstance(value, float | np.floating) for value in values) else np.int64
        return np.ma.masked_array([0 if value is None else value for value in values], mask, kind)
    return _objects(values)


def _objects(values: list[Any]) -> Array:
    """Texts, lists and what else numpy would take apart."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
