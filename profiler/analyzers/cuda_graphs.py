"""How many kernels a launch of a CUDA graph stands for, from the host's calls alone.

    cudaStreamBeginCapture … kernels are launched, and do not run … cudaStreamEndCapture → graph
    cudaGraphInstantiate(graph) → executable graph        cudaGraphLaunch(executable graph)

Counted are the launches of the capturing thread. A graph that was captured before the recording began (or while
launches were not probed), was put together node by node, or cloned, is not known; cudaGraphExecUpdate changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MAKING = ("capture_end", "graph_instantiate", "graph_launch")


def kernels(columns: dict[str, Any], launched: NDArray[np.bool_], codes: tuple[str, ...], unknown: int) -> Ints:
    """Kernels that each graph_launch launches; `unknown` where that is not known, and of all other calls.

    columns: as cuda_calls.sql has them, with `unit`, 0 outside of the windows in which launches were probed; rows by
    process, thread and start. launched: rows that launch one kernel. codes: what the numbers in `what` mean.
    """
    found = np.full(len(launched), unknown)
    rows = np.flatnonzero(np.isin(columns["what"], [codes.index(what) for what in MAKING]) & (columns["result"] <= 0))
    captured = _captured(columns, launched, codes, unknown)
    graphs: dict[tuple[int, int], int] = {}
    executable: dict[tuple[int, int], int] = {}
    for row in rows[np.argsort(columns["start_ns"][rows], kind="stable")].tolist():
        what, pid, address = codes[columns["what"][row]], int(columns["pid"][row]), int(columns["address"][row])
        if what == "capture_end":
            graphs[pid, address] = int(captured[row])
        elif what == "graph_instantiate":
            executable[pid, address] = graphs.get((pid, int(columns["graph"][row])), unknown)
        else:
            found[row] = executable.get((pid, address), unknown)
    return found


def _captured(columns: dict[str, Any], launched: NDArray[np.bool_], codes: tuple[str, ...], unknown: int) -> Ints:
    """Of each capture_end the launches since its thread's capture began, where all of that was observed."""
    found = np.full(len(launched), unknown)
    before = np.concatenate(([0], np.cumsum(launched)))
    begins = np.flatnonzero((columns["what"] == codes.index("capture_begin")) & (columns["result"] <= 0))
    ends = np.flatnonzero(columns["what"] == codes.index("capture_end"))
    at = np.searchsorted(begins, ends) - 1
    ends, begins = ends[at >= 0], begins[at[at >= 0]]
    whole = columns["unit"][ends] != 0
    for name in ("unit", "tid"):
        whole &= columns[name][ends] == columns[name][begins]
    found[ends[whole]] = (before[ends] - before[begins])[whole]
    return found
