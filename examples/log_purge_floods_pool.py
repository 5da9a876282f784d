"""A log grows while a long transaction is open; when it ends, the purge of the log floods a pool of pages.

Readers wait for pages that the purge has, for the sake of the log's records, which are there because a transaction's
view was open: a chain of two steps, with the log as its root. To blame for that is not who writes to the log, but the
transaction, for whose view the purge had to wait.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "log", 5, "record", "unbounded growth", chain=("page", "record"))

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
