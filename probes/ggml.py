"""ggml's CPU backend (llama.cpp, whisper.cpp, stable-diffusion.cpp …): graphs, operators, barriers.

Each thread of the pool runs, for every node of the graph, the static `ggml_compute_forward(params, node)` and then
`ggml_barrier`. Today's builds first offer the node to `ggml_cpu_extra_compute_forward`, which is exported and hit once
per node and thread: one site sees all operators but the fused ones, which have functions of their own.
"""

from __future__ import annotations

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung

_FUSED = Probe(
    id="ggml.op.fused",
    kind="entry",
    program="op",
    thread_program="op_begin",
    args=2,
    pattern=r"ggml_compute_forward_\w+_fused",
    required=False,
)

GRAPH = Ladder(
    level="graph",
    question="when does a graph run, and which",
    rungs=(
        Rung(
            "ggml_graph_compute",
            "the CPU backend's own entry point",
            (
                Probe("ggml.graph.begin", "entry", "graph_begin", 1, ("ggml_graph_compute",)),
                Probe("ggml.graph.end", "return", "graph_end", 0, ("ggml_graph_compute",)),
            ),
        ),
    ),
)

OPERATOR = Ladder(
    level="op",
    question="which operator runs, since when",
    rungs=(
        Rung(
            "operator hook",
            "ggml_cpu_extra_compute_forward sees every operator, fused ones have functions of their own",
            (
                Probe(
                    "ggml.op", "entry", "op", 2, ("ggml_cpu_extra_compute_forward",), thread_program="op_begin"
                ),
                _FUSED,
            ),
        ),
        Rung(
            "static function",
            "ggml_compute_forward, found in the symbol table",
            (
                Probe(
                    "ggml.op", "entry", "op", 2, pattern=r"ggml_compute_forward(\.\w+)*", thread_program="op_begin",
                    excluded=r".*\.cold(\.\d+)?",
                ),
                _FUSED,
            ),
        ),
        Rung(
            "operator functions",
            "one exported function per operator; operators without one are seen as part of the one before",
            (
                Probe(
                    "ggml.op", "entry", "op", 2, pattern=r"ggml_compute_forward_[a-z0-9_]+", thread_program="op_begin",
                    excluded=r".*_(tiled|non_quantized|f32|f16|bf16|q\w+)",
                ),
            ),
        ),
        Rung(
            "call graph",
            "the static ggml_compute_forward of a stripped library, found by disassembly and accepted only when live "
            "tensors pass the self-check",
            (Probe("ggml.op", "entry", "op", 2, finder="compute_forward", thread_program="op_begin"),),
        ),
    ),
)  # fmt: skip

BARRIER = Ladder(
    level="thread",
    question="when has each thread done its share",
    rungs=(
        Rung(
            "calls in the thread loop",
            "the calls to ggml_barrier in the graph's thread loop: one hit per operator and thread",
            (
                Probe(
                    "ggml.barrier", "call", "barrier", 0, pattern=r"ggml_graph_compute_thread(\.\w+)*",
                    excluded=r".*\.cold(\.\d+)?", callee="ggml_barrier",
                ),
            ),
        ),
        Rung(
            "calls in the thread loop, found by disassembly",
            "the same in a library without local symbols",
            (Probe("ggml.barrier", "call", "barrier", 0, finder="graph_thread", callee="ggml_barrier"),),
        ),
        Rung(
            "ggml_barrier",
            "every barrier, also those inside matrix products: two to three times the hits",
            (Probe("ggml.barrier", "entry", "barrier", 0, ("ggml_barrier",)),),
        ),
    ),
)  # fmt: skip

GGML = Engine("ggml", b"ggml_graph_compute", "ggml.bpf.c", (GRAPH, OPERATOR, BARRIER))
