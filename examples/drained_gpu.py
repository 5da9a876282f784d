"""`cuda_host.drained`: between a wait and the next launch the host has work of its own, and the GPU has none.

The report says how long the device was certainly empty; no time of a GPU is needed for that.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.drained", "drained")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
