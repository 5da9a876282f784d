"""Attach programs to the kernel's own events: tracepoints of the scheduler, perf's software events.

A tracepoint is known by a number that only tracefs tells. Where no tracefs is mounted one is made for this process
alone, as a detached mount that nobody else sees. The records' layout is compared with the kernel's own description.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowprof.probes.sched import SoftwareEvent, Tracepoint
from flowprof.profiler.errors import BpfError
from flowprof.profiler.kernel_side.attach import Attachment, link_perf_event, open_perf_event
from flowprof.profiler.kernel_side.bpf import Program
from flowprof.profiler.machine import kernel

MOUNTED = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_SOFTWARE, _TRACEPOINT = 1, 2  # perf event types
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on all machines
_CREATE = 6
_FIELD = re.compile(r"field:[^;]*?(\w+)(?:\[\d+\])?;\s*offset:(\d+);\s*size:(\d+);")
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def tracefs() -> Iterator[Path]:
    """The root of a tracefs. Raises BpfError where there is none and none can be made."""
    for folder in MOUNTED:
        if Path(folder, "events", "sched").is_dir():
            yield Path(folder)
            return
    with contextlib.ExitStack() as opened:

        def call(number: int, *arguments: object) -> int:
            result = int(_libc.syscall(number, *arguments))
            if result < 0:
                why = os.strerror(ctypes.get_errno())
                raise BpfError(
                    f"no tracefs is mounted, and none can be: {why}", f"mount -t tracefs tracefs {MOUNTED[0]}"
                )
            return result

        kind = call(_FSOPEN, b"tracefs", 0)
        opened.callback(os.close, kind)
        call(_FSCONFIG, kind, _CREATE, None, None, 0)
        root = call(_FSMOUNT, kind, 0, 0)
        opened.callback(os.close, root)
        yield Path(f"/proc/self/fd/{root}")


def attach_tracepoint(program: Program, point: Tracepoint, root: Path, cookie: int) -> Attachment:
    """Attach on all processors. Raises BpfError when the kernel lacks the event or its record is laid out otherwise."""
    folder = root / "events" / point.category / point.event
    try:
        number = int((folder / "id").read_text())
        record = (folder / "format").read_text()
    except (OSError, ValueError) as error:
        raise BpfError(f"this kernel has no tracepoint {point.category}:{point.event}") from error
    found = {name: (int(offset), int(size)) for name, offset, size in _FIELD.findall(record)}
    for name, offset, size in point.fields:
        if found.get(name) != (offset, size):
            raise BpfError(f"{point.category}:{point.event} has {name} at {found.get(name)}, not at {(offset, size)}")
    # One event serves all processors: the program belongs to the tracepoint, not to the event.
    return _attach(program, _TRACEPOINT, number, 0, online()[:1], cookie)


def attach_software_event(program: Program, event: SoftwareEvent, cookie: int) -> Attachment:
    """Attach on every processor, one hit per event. Raises BpfError."""
    return _attach(program, _SOFTWARE, event.config, 1, online(), cookie)


def _attach(program: Program, kind: int, config: int, period: int, processors: list[int], cookie: int) -> Attachment:
    fds: list[int] = []
    try:
        for processor in processors:
            fds.append(open_perf_event(kind, config, period, -1, processor))
            fds.append(link_perf_event(program, fds[-1], cookie))
    except OSError as error:
        Attachment(fds).close()
        if error.errno in (errno.ENODEV, errno.ENXIO) and len(processors) > 1:  # one went offline meanwhile
            return _attach(program, kind, config, period, online(), cookie)
        raise BpfError(f"the kernel refused {program.name}: {error.strerror}", "flowprof doctor") from error
    return Attachment(fds)


def online() -> list[int]:
    """The processors that are online."""
    found: list[int] = []
    text = kernel.text("/sys/devices/system/cpu/online").strip() or f"0-{(os.cpu_count() or 1) - 1}"
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
