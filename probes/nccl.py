"""NCCL: collectives, their bytes and communicator, as the host calls them. Their kernels run later, in their stream."""

from __future__ import annotations

from flowprof.probes.catalogue import Engine, Ladder, Rung
from flowprof.probes.cuda import probes
from flowprof.probes.device_functions import NCCL as FUNCTIONS

NCCL = Engine(
    "nccl",
    b"ncclAllReduce",
    "cuda.bpf.c",
    (
        Ladder(
            "op",
            "what is exchanged with other GPUs",
            (Rung("collectives", "NCCL's collectives, sends, receives and groups", probes("nccl", FUNCTIONS)),),
        ),
    ),
)
