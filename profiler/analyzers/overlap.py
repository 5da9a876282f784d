"""Which work ran one after the other that could have run side by side, and what that would be worth.

NanoFlow's question (Zhu et al., OSDI '25), asked of a recorded or imported timeline. For GPUs:

    exposed    the time of a resource's work (memory, network, copies) in which no arithmetic runs (overlap/timeline.py)
    legality   free: independent and ready, and something serialised it, which is named (overlap/legality.py);
               split-only: as far as the recording tells one needs the other, and only two half batches could overlap;
               none, with the reason
    price      ideal: hidden at no price; aware: it takes its share of the device from arithmetic, by NanoFlow's table
               or `--interference FILE`; net: less what half batches cost (overlap/price.py). They are
               one saving counted three ways, upper bounds all, and those of different findings do not add up.
    picture    a stretch of the timeline before, and after as a list scheduler orders it (overlap/schedule.py)

Recordings without GPU times tell less. Of calls of CUDA: what the host did while all streams were certainly empty, and
which calls held it back from another stream that was (overlap_cuda.py). Of PyTorch on processors: what no arithmetic
ran beside, and data loading that could run beside the step (overlap_torch.py). What cannot be told is said to be so.

Half batches are not advised where memory's work takes longer than arithmetic (decode of few sequences: T_R > 1),
where nothing is bound by arithmetic, where the recording trains, or where the resource of half of the busy time is
unknown. Gains below 1 % are left out.

* `overlap.free`: independent work was serialised by a synchronise, a pageable copy, one stream, a batch of prefill
  alone, or a data loader that waits for the step. Remove what the finding names: an event in place of the synchronise,
  pinned memory, a stream of its own, mixed batches, batches loaded ahead. Where only a synchronise lies between two
  kernels their independence is a guess: check that it is not their order. A synchronise of which only the host's calls
  tell is `cuda_host.serialised`.
* `overlap.split`: memory's or the network's work is exposed and half batches would hide it behind arithmetic. It
  takes an engine that runs two nano-batches in turn (NanoFlow; two-batch overlap in SGLang and vLLM). Expect less
  than the net gain.
* `overlap.host`: between two decode steps of llama.cpp the compute threads have no graph, for 10 % of a usual step
  or more. Where llama.cpp's symbols are there it says what the gaps are made of: choosing tokens, answers and the next
  batch, setting up the graph (overlap_ggml.py). The next step needs the sampled token, so only the rest can move:
  sample on another thread, simpler samplers, fewer logits, streaming off; larger batches make the gap a smaller part.
* `overlap.exposed_comm`: a process of PyTorch's on processors has a tenth of its time or more in collectives with no
  arithmetic beside them, waiting for the other processes included. Compute meanwhile, or divide the work better.
"""

from __future__ import annotations

from flowprof.profiler.analyzers import overlap_cuda, overlap_ggml, overlap_gpu, overlap_torch
from flowprof.profiler.analyzers.contract import Analyzer, Need, Result
from flowprof.profiler.analyzers.gpu import GPU
from flowprof.profiler.analyzers.losses import ANALYZER as LOSSES
from flowprof.profiler.analyzers.overlap_findings import findings
from flowprof.profiler.overlap.interference import DEFAULT, Interference
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.overlap import Exposure, HostExposure, Overlap, OverlapTable
from flowprof.profiler.store import Recording

WORK = Need(
    "SELECT (SELECT count(*) > 0 FROM gpu_slice WHERE kind NOT IN ('sync', 'annotation'))"
    " OR (SELECT count(*) > 0 FROM graph_duration)"
    " OR (SELECT count(*) > 0 FROM api_call WHERE kind IN ('operator', 'runtime', 'driver', 'nccl'))",
    "neither GPU work nor graphs nor calls of CUDA or PyTorch were observed; record while tokens are generated, or "
    "import a trace with GPU work",
)


def table(recording: Recording, interference: Interference = DEFAULT) -> OverlapTable:
    """What a recording that meets WORK could overlap."""
    losses = LOSSES.run(recording).value
    if isinstance(losses, Losses) and losses.withheld:
        said = f"{losses.share * 100:.1f} % of the events were lost: what overlaps cannot be told"
        return OverlapTable((), (), None, (said,), interference.source)
    devices, calls, found, refused = _by_source(recording, interference)
    beside, why = overlap_ggml.mixed(recording)
    found = (*found, *beside)
    return OverlapTable(
        devices, tuple(sorted(found, key=lambda one: -one.net_ns)), overlap_ggml.host_gap(recording), (*refused, *why),
        interference.source, calls,
    )  # fmt: skip


def _by_source(
    recording: Recording, interference: Interference
) -> tuple[tuple[Exposure, ...], tuple[HostExposure, ...], tuple[Overlap, ...], tuple[str, ...]]:
    """From the best that there is: the GPU's own times, the host's calls of CUDA, or PyTorch's operators."""
    if GPU.met(recording):
        devices, found, refused = overlap_gpu.overlaps(recording, interference)
        return devices, (), found, refused
    for source in (overlap_cuda, overlap_torch):
        if source.CALLS.met(recording):
            return (), *source.overlaps(recording)
    return (), (), (), ()


def analyze(recording: Recording) -> Result:
    found = table(recording)
    return Result(found, findings(found))


ANALYZER = Analyzer("overlap", "Overlap", (WORK,), analyze)
