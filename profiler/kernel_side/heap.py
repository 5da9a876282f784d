"""The heap after work that needs much for a short while: debug information and the compiler take 100 MB and more."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return what is free to the system; where the C library knows how (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
