"""`cuda_host.serialised`: the host waits for one stream before it queues work for another, which needs nothing of it.

The report names the call that waits, the stream that it waits for, and the one that it holds back.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.serialised", "serialised")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
