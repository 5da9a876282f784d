"""What can be probed: one module per engine. A new engine is its module and one line here."""

from __future__ import annotations

from flowprof.probes import torch
from flowprof.probes.catalogue import Engine
from flowprof.probes.cuda import CUDA
from flowprof.probes.ggml import GGML
from flowprof.probes.inductor import INDUCTOR
from flowprof.probes.llama import LLAMA
from flowprof.probes.llama_server import LLAMA_SERVER
from flowprof.probes.nccl import NCCL
from flowprof.probes.torch import TORCH

ENGINES: tuple[Engine, ...] = (GGML, LLAMA, LLAMA_SERVER, TORCH, INDUCTOR, CUDA, NCCL)


def engines(torch_ops: str = "") -> tuple[Engine, ...]:
    """All of them; torch's operators as `torch.engine` takes them. Raises ValueError."""
    return tuple(torch.engine(torch_ops) if one is TORCH else one for one in ENGINES)
