"""Events with the ids of experts → rows of expert_use. Pure numpy.

ith of an event: token | part << 20 | ids in this part << 24, eight ids to a part; -1: an id that could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

IDS_PER_EVENT = 8  # EXPERTS_PER_EVENT of probes/bpf/ggml.bpf.c


def count_ids(events: NDArray[np.void]) -> int:
    """How many ids the events carry."""
    return int((events["ith"] >> 24).sum())


def expert_rows(
    events: NDArray[np.void], op: NDArray[np.int64], op_exec: Mapping[str, NDArray[np.generic]]
) -> tuple[dict[str, NDArray[np.generic]], int]:
    """Columns of expert_use, and how many ids could not be read.

    events: kind EXPERTS; op: of each the row of `op_exec` that it belongs to, -1 none (of an execution that does not
    count).
    """
    events, op = events[op >= 0], op[op >= 0]
    token, part, count = events["ith"] & 0xFFFFF, events["ith"] >> 20 & 0xF, events["ith"] >> 24
    ids = np.stack([events[column] for column in "abcd"], axis=1).view(np.int32)  # (n, 8)
    there = np.arange(IDS_PER_EVENT) < count[:, None]
    at, slot = np.nonzero(there & (ids >= 0))
    unread = int(np.count_nonzero(there & (ids < 0)))
    if not len(at):
        return {}, unread
    return {
        "exec_id": op_exec["exec_id"][op[at]], "node_index": op_exec["node_index"][op[at]],
        "token": token[at].astype(np.int32), "rank": (part[at] * IDS_PER_EVENT + slot).astype(np.int16),
        "expert": ids[at, slot],
    }, unread  # fmt: skip
