"""`cuda_host.failed`: calls that return an error, and do nothing.

They are counted, and not taken for work.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.failed", "fail")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
