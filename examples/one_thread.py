"""`thread_count.more`: a server with one engine thread on a machine with more processors.

The report says what the ceilings of this machine allow with more threads; `flowprof calibrate` measures them.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted("thread_count.more", n_predict=16, prompt_tokens=256, server={"threads": 1})

if __name__ == "__main__":
    sys.exit(show(PLANTED))
