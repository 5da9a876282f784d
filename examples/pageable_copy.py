"""`overlap.free`: a copy from pageable memory holds the host, which could have launched a product for another stream.

Nothing makes the product need what is copied: pinned memory would let both run at once. The report says what keeps them
apart and what that would gain, and draws the timeline before and after.
"""

from __future__ import annotations

import sys

from flowprof.examples.traced import Trace, Traced, show

STEPS = 20


def write(trace: Trace) -> None:
    for step in range(STEPS):
        at = 1e6 + 2000 * step
        trace.work("Memcpy HtoD (Pageable -> Device)", at + 5, 500, launched=at, stream=9, api="cudaMemcpyAsync",
                   call_us=510)  # fmt: skip
        trace.product(at + 520, 600, 4096, 4096, 4096, launched=at + 512, stream=11)
        trace.wait(at + 515, at + 1125)


TRACED = Traced("overlap.free", write)

if __name__ == "__main__":
    sys.exit(show(TRACED))
