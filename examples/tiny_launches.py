"""`cuda_host.launch_bound`: hundreds of kernels so small that each is done before the next one is queued.

The launches set the pace: a CUDA graph, or fused kernels, would.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.launch_bound", "tiny", kernel_us=0)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
