"""`verdicts.overhead`: a model so small that many of its operators cost more to begin than to do.

The report groups them, and says what launching and the barriers behind them cost per token.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted("verdicts.overhead", model="thin")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
