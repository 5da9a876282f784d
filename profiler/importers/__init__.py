"""Others' traces as recordings: `read(path)` tells the format by the content and returns a `Trace`; `write` keeps it.

| file | what it does |
|---|---|
| source.py | the file's bytes, decompressed, within limits |
| event_stream.py | a Chrome JSON file, batch by batch |
| kineto.py, kineto_event.py | Chrome JSON events as PyTorch's Kineto writes them (and ROCm's, and older versions') |
| nsys.py | Nsight Systems' SQLite export |
| perfetto.py, perfetto_packets.py, perfetto_args.py, protobuf.py | Perfetto's protobuf track events |
| trace.py | what all of them fill: columns of calls and of GPU slices |
| nesting.py | which operator is around which call |
| writing.py | a trace becomes a recording |

A new format is one file here and one line in `FORMATS`.
"""

from __future__ import annotations

from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers import kineto, nsys, perfetto
from flowprof.profiler.importers.source import Source
from flowprof.profiler.importers.trace import Format, Trace

FORMATS: tuple[Format, ...] = (nsys.FORMAT, kineto.FORMAT, perfetto.FORMAT)  # the clearest sign first


def read(path: str) -> Trace:
    """The trace in a file.

    Raises NotFoundError or PermissionDeniedError (no such file, not readable), RecordingError (of no known format,
    damaged, or beyond the limits in source.py and trace.py).
    """
    with Source(path) as source:
        for one in FORMATS:
            if one.detect(source.head):
                trace = one.read(source)
                if not trace.calls.rows and not trace.slices.rows:
                    unread = f" ({trace.malformed} events could not be read)" if trace.malformed else ""
                    raise RecordingError(
                        f"{path} is {one.name}, but holds neither calls nor GPU work{unread}",
                        "record again with CPU and CUDA activities, and with shapes",
                    )
                return trace
    known = ", ".join(one.name for one in FORMATS)
    raise RecordingError(f"{path} is of no format that flowprof imports", f"these are: {known}; JSON may be in gzip")
