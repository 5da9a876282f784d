"""llama.cpp: which sequences share a batch, and what becomes of their cells in the KV cache.

Every graph of a model is computed by `llama_context::process_ubatch`, whose argument says which sequence each token
belongs to. A server's slots use their number as that of their sequence. `llama_context::memory_update` runs before each
batch, and with `optimize` only once a batch has found no room. Only arguments are read.
"""

from __future__ import annotations

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung

LLAMA = Engine(
    "llama.cpp",
    b"12llama_ubatch",
    "ggml.bpf.c",
    (
        Ladder(
            "token",
            "whose tokens are in a batch",
            (
                Rung(
                    "process_ubatch",
                    "tokens per sequence of every batch; in builds since July 2025",
                    (
                        Probe(
                            "llama.batch", "entry", "batch", 2,
                            pattern=r"_ZN13llama_context14process_ubatchERK12llama_ubatch.*",
                            excluded=r".*\.cold(\.\d+)?",
                        ),
                    ),
                ),
            ),
        ),
        Ladder(
            "token",
            "what becomes of the KV cache's cells",
            (
                Rung(
                    "memory",
                    "cells that sequences give back, and batches that find no room; in builds since July 2025",
                    (
                        Probe("llama.cells_freed", "entry", "cells_of_sequence", 4, ("llama_memory_seq_rm",)),
                        Probe("llama.cells_freed", "entry", "cells_of_all", 1, ("llama_memory_clear",)),
                        Probe("llama.no_cells", "entry", "memory_update", 2, ("_ZN13llama_context13memory_updateEb",)),
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip
