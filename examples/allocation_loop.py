"""`cuda_host.allocator`: memory of the device is allocated and freed around every launch.

The report says how often the same size came back, and what a pool would save.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.allocator", "allocate")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
