"""What can bound an operator: what the verdicts say and the graph's colours show."""

from __future__ import annotations

from typing import Literal, get_args

Bound = Literal["compute", "memory-dram", "memory-cache", "overhead", "wait", "inefficient", "unknown"]
BOUNDS: tuple[str, ...] = get_args(Bound)
