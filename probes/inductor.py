"""What torch.compile made for the CPU: each fused kernel is a library of its own with one function, `kernel`.

Inductor loads it from its cache, under a name that is a hash of its source. It works on plain pointers, past torch's
dispatcher, and may throw (a division by zero): exits are probed on instructions, as of torch's operators. Triton's
kernels are seen as launches of CUDA's driver.
"""

from __future__ import annotations

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung

INDUCTOR = Engine(
    "inductor",
    b"PyInit_kernel",
    "torch.bpf.c",
    (
        Ladder(
            "op",
            "which kernels of torch.compile run",
            (
                Rung(
                    "kernels",
                    "the one function of each library that Inductor compiled",
                    (
                        Probe("inductor.call", "entry", "torch_begin", 0, ("kernel",)),
                        Probe("inductor.return", "exit", "call_end", 0, ("kernel",)),
                    ),
                ),
            ),
        ),
    ),
    files=r"c[a-z2-7]{51}(\.main)?\.so",
)
