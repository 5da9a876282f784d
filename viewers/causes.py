"""What a wait was for in the end, in words. For the terminal and HTML."""

from __future__ import annotations

from collections.abc import Iterable

from flowprof.profiler.sections.waits import WaitRoot
from flowprof.viewers.quantity import clean

_WORDS = {
    "work": "work of {who}", "runnable": "no processor, {who} had it", "fault": "pages of a mapped file read from disk",
    "disk": "disk or driver", "stopped": "stopped", "interrupt": "a timer or a device",
    "outside": "outside of the target: {who}", "unknown": "unknown, after {who}",
}  # fmt: skip


def words(root: WaitRoot) -> str:
    """`no processor, hog (4711) had it`; names are cleaned."""
    return _WORDS.get(root.cause, clean(root.cause, 20)).format(who=_who(root.by_ith, root.by_comm, root.by_tid))


def direct(root: WaitRoot) -> str:
    """Whom the thread waited for at first sight."""
    return _who(root.direct_ith, root.direct_comm, root.direct_tid)


def largest(roots: Iterable[WaitRoot]) -> list[tuple[str, int]]:
    """The causes in words with their ns, added up over the threads that waited, largest first."""
    found: dict[str, int] = {}
    for root in roots:
        found[words(root)] = found.get(words(root), 0) + root.total_ns
    return sorted(found.items(), key=lambda item: -item[1])


def _who(ith: int | None, comm: str, tid: int) -> str:
    if ith is not None:
        return f"thread {ith}"
    if not tid:
        return "an interrupt"
    return f"{clean(comm, 40) or 'a thread that is gone'} ({tid})"
