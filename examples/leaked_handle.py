"""One request in a hundred fails, and its handle stays open.

The leak is named with where it was got: fail_request, not serve_request.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "leak", 3, "handle", "leak")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
