"""`cuda_host.waits`: threads wait for the device most of the time, as they should when it is the bottleneck.

What the device did meanwhile is not seen from the host: the report says how to find out.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.waits", "graph")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
