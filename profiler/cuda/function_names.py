"""Names of the driver's functions: a handle has the name by which it was looked up in a module.

cuModuleGetFunction and cuLibraryGetKernel are given the name and return the handle (of a function, of a kernel), and
cuKernelGetFunction makes the one of the other. A handle may be given away anew, so it is asked for as of a time. What
was looked up before the recording began has no name.
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler.binaries.demangle import demangled
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MAX_FUNCTIONS = 100_000  # of one process


class FunctionNames:
    """Of one process."""

    def __init__(self) -> None:
        self._known: dict[int, list[tuple[int, str]]] = {}  # by handle: since when (ns), and the name
        self._count = 0

    def learn(self, handle: int, since_ns: int, name: bytes) -> None:
        """A function was looked up by its (mangled) name. Later calls are for later times."""
        text = name.decode(errors="replace")
        if text and self._count < MAX_FUNCTIONS:
            self._known.setdefault(handle, []).append((since_ns, demangled([text])[text]))
            self._count += 1

    def same(self, handle: int, since_ns: int, kernel: int) -> None:
        """A handle of a kernel that has one already."""
        named = self._known.get(kernel)
        if named and self._count < MAX_FUNCTIONS:
            self._known.setdefault(handle, []).append((since_ns, named[-1][1]))
            self._count += 1

    def at(self, handle: int, at_ns: Ints) -> NDArray[np.object_]:
        """What the handle stood for at each time; None: not known."""
        known = self._known.get(handle, [])
        names = np.array([None, *(name for _, name in known)], object)
        found: NDArray[np.object_] = names[np.searchsorted(np.array([since for since, _ in known]), at_ns, "right")]
        return found
