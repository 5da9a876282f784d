"""Of four connections, three are had by a thread that never uses them; three others share the fourth.

The pathology is inefficient policy: held for long, used never.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "unused", 3, "connection", "inefficient policy")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
