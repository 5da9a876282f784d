"""`verdicts.bound`: one request at a time on a model larger than the caches: decode reads all weights for every token.

The report says which share of the memory's bandwidth decode reaches, and the tokens/s that this machine allows.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted("verdicts.bound")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
