"""Rows of several integers by one key of 64 bits each: to sort, to join and to number them in bulk. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


def mixed(*columns: NDArray[np.generic]) -> Keys:
    """One 64-bit key for equal rows of several integer columns.

    Two of ten million different rows share a key with a probability of some 3e-6 (the finisher of splitmix64).
    """
    key = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            key = (key + np.uint64(0x9E3779B97F4A7C15)) ^ column.astype(np.uint64)
            key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            key ^= key >> np.uint64(31)
    return key


def distinct(*columns: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Equal rows get one number, from 0, in any order: (a row of each, every row's number)."""
    key = mixed(*columns)
    order = np.argsort(key)
    first = np.ones(len(key), bool)
    first[1:] = key[order[1:]] != key[order[:-1]]
    number = np.empty(len(key), np.int32)
    number[order] = np.cumsum(first, dtype=np.int32) - 1
    return order[first], number


def numbered(*columns: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """As `distinct`, in the order of their values."""
    rows, number = distinct(*columns)
    by_value = np.lexsort([column[rows] for column in reversed(columns)])
    rank = np.empty(len(rows), np.int32)
    rank[by_value] = np.arange(len(rows), dtype=np.int32)
    return rows[by_value], rank[number]
