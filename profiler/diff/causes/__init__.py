"""Why: one module for each kind of cause; its docstring is its page.

A rule says what it would explain of the change (claim.py, change.py); ranking.py asks them in this order, and gives
every nanosecond to the first: what differs in the work itself, then who or what was in the way, then what the work ran
on, and last what is known of the place alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowprof.profiler.diff.causes import (
    added,
    attention,
    batch,
    blocking,
    build,
    cancelling,
    clients,
    context,
    host,
    imbalance,
    machine,
    masked,
    own_work,
    paging,
    preemption,
    processors,
    quota,
    resource,
    threads,
    torch_copies,
    torch_threads,
    variable,
    weights,
)
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared

CAUSES: tuple[Callable[[Compared], Sequence[Claim]], ...] = (
    clients.causes,
    attention.causes,
    weights.causes,
    context.causes,
    batch.causes,
    paging.causes,
    processors.causes,
    threads.causes,
    torch_threads.causes,
    torch_copies.causes,
    quota.causes,
    preemption.causes,
    resource.causes,
    variable.causes,
    blocking.causes,
    build.causes,
    added.causes,
    imbalance.causes,
    host.causes,
    machine.causes,
    own_work.causes,
    masked.causes,
    cancelling.causes,
)
