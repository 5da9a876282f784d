"""`drift.context`: one long answer after the other, so that every step attends to more and more of the cache.

The report gives the growth per 1 000 tokens of context, and how much of it is attention's.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted("drift.context", model="tiny", n_predict=3000, prompt_tokens=16, duration="10s")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
