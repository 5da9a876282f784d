"""`experts.imbalance`: a mixture of experts whose router sends most tokens to the same few experts.

The report names them, layer by layer, and the heat map of the HTML page shows them.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted("experts.imbalance", model="moe-hot", n_predict=128)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
