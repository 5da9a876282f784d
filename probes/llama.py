"""llama.cpp: which sequences share a batch.

Every graph of a model is computed by `llama_context::process_ubatch`, whose argument says which sequence each token
belongs to. A server's slots use their number as that of their sequence. Only the argument is read.
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
    ),
)  # fmt: skip
