"""A trace that Perfetto's own library wrote: its encoder, its field numbers, its idea of tracks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flowprof.profiler.report import build_report
from flowprof.profiler.sections.gpu import GpuTable
from traces import imported
from wheels import wheel

WRITER = """
import sys
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent
from perfetto.trace_builder.proto_builder import TraceProtoBuilder
builder = TraceProtoBuilder()
def track(uuid, parent=0):
    descriptor = builder.add_packet().track_descriptor
    descriptor.uuid = uuid
    if parent:
        descriptor.parent_uuid = parent
    return descriptor
process = track(1).process
process.pid, process.process_name = 100, "python3"
thread = track(2, 1).thread
thread.pid, thread.tid, thread.thread_name = 100, 101, "main"
track(3, 1).name = "GPU 0 stream 7"
def event(at, kind, uuid, name="", category="", **facts):
    packet = builder.add_packet()
    packet.timestamp, packet.trusted_packet_sequence_id = at, 1
    packet.track_event.type, packet.track_event.track_uuid = kind, uuid
    if name:
        packet.track_event.name = name
        packet.track_event.categories.append(category)
    for key, value in facts.items():
        annotation = packet.track_event.debug_annotations.add()
        annotation.name, annotation.int_value = key, value
BEGIN, END = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END
for number in range(1, 51):
    at = 1_000_000_000 + 40_000 * number
    event(at, BEGIN, 2, "aten::mm", "cpu_op")
    event(at + 1_000, BEGIN, 2, "cudaLaunchKernel", "cuda_runtime", correlation=number)
    event(at + 3_000, END, 2)
    event(at + 5_000, END, 2)
    event(at + 6_000, BEGIN, 3, "sgemm", "kernel", correlation=number, device=0)
    event(at + 26_000, END, 3)
with open(sys.argv[1], "wb") as file:
    file.write(builder.serialize())
"""
WORK = """
SELECT w.kind, w.name, w.launch, o.name, w.stream, w.dur_ns, count(*) FROM gpu_work w
LEFT JOIN api_call o ON o.call_id = w.operator_id GROUP BY ALL
"""


def test_slices_of_perfetto_s_own_library(tmp_path: Path) -> None:
    """50 operators, each around a launch; their kernels take half of the time between them."""
    folders = [str(wheel(package, member="")) for package in ("perfetto==0.59.1", "protobuf==7.36.2")]
    path = tmp_path / "a.pftrace"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    subprocess.run([sys.executable, "-c", WRITER, str(path)], env=environment, check=True, timeout=60)
    with imported(path) as recording:
        assert recording.rows(WORK) == [("kernel", "sgemm", "cudaLaunchKernel", "aten::mm", 7, 20_000, 50)]
        assert recording.rows("SELECT pid, tid, comm FROM thread") == [(100, 101, "main")]
        gpu = build_report(recording).get(GpuTable)
    assert gpu is not None and gpu.kernels == 50
    assert (gpu.busy_ns, gpu.idle_ns) == (50 * 20_000, 49 * 20_000)
    assert gpu.devices[0].host_bound_ns == 49 * 20_000, "each was launched after the one before had ended"
