"""Wait for the kernel side to ring: one small BPF ring buffer, used only to be woken, never for data.

The events lie in their own rings and need no wake-up; what cannot wait is a graph that nobody has described yet, for
it may be gone in a few milliseconds.
"""

from __future__ import annotations

import mmap
import os
import select


class Doorbell:
    """A BPF_MAP_TYPE_RINGBUF of `pages` pages whose records are thrown away unread."""

    def __init__(self, fd: int) -> None:
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN)
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._woken, select.EPOLLIN)

    def wait(self, seconds: float) -> bool:
        """Sleep until it rings or the time is up. Returns whether it rang."""
        rang = bool(self._poll.poll(max(0.0, seconds)))
        if rang:
            self._consumer[:8] = self._producer[:8]
        return rang

    def wake(self) -> None:
        """Let `wait` return at once, from now on: the recording ends. For signal handlers and other threads."""
        if not self._poll.closed:
            os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Stop waiting."""
        self._poll.close()
        os.close(self._woken)
        self._consumer.close()
        self._producer.close()
