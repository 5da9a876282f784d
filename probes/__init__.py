"""What can be probed: one module per engine. A new engine is its module and one line here."""

from __future__ import annotations

from flowprof.probes.catalogue import Engine
from flowprof.probes.ggml import GGML
from flowprof.probes.llama_server import LLAMA_SERVER

ENGINES: tuple[Engine, ...] = (GGML, LLAMA_SERVER)
