"""Fifteen of sixteen send buffers are full of what a client that is dead will never take; the other clients wait.

Whose they are is the task (13): the client's number, not the thread's.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "dead", 3, "buffer", "inefficient policy")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
