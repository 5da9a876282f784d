"""`cuda_host.pageable`: copies from memory that is not pinned, each of which holds the host until it is staged.

The report tells such copies from those of pinned memory, and what they cost the host.
"""

from __future__ import annotations

import sys

from flowprof.examples.cuda_program import Called, show

PLANTED = Called("cuda_host.pageable", "pageable")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
