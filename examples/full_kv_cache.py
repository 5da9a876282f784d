"""`requests.no_kv_cells`: three requests at a time need more cells of the KV cache than there are.

Each has a prompt of 300 tokens and asks for 300 more, and the slots share a cache of 1 024. When it is full not one
more token finds room, and the server ends all three with "Context size has been exceeded". The report says that, who
had the cells, and how much work was lost.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted(
    "requests.no_kv_cells",
    model="tiny",
    n_predict=300,
    prompt_tokens=300,
    concurrency=3,
    server={"slots": 4, "ctx": 1_024, "unified": True},
)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
