"""What a model's operators need, all devices and layers together: FLOPs, bytes of memory, bytes between devices.

For a step of B tokens, of which a share decodes (d/(p + d) for prompts of p and answers of d tokens) at a context of
p + d/2 on average. With hidden size D, intermediate size I, L layers, G query heads per key head, S bytes per element,
N devices (tensor-parallel), as NanoFlow counts them (arXiv 2408.12757, section 3 and table 2):

    KQV   2·B·D·(D + 2D/G)·L FLOP     [D(D + 2D/G) + B·D + B(D + 2D/G)]·S·L bytes
    O     2·B·D²·L                    [D² + 2·B·D]·S·L
    UG    4·B·D·I·L                   [2·D·I + B·D + 2·B·I]·S·L
    D     2·B·D·I·L                   [D·I + B·I + B·D]·S·L
    DecAttn  4·Bd·c·D·L               [2·Bd·c·D/G + 2·Bd·D]·S·L      Bd decoding tokens, each at context c
    PfAttn   4·Bp·p·D·L               [2·Bp·D/G + 2·Bp·D]·S·L        Bp prompt tokens (no causal discount)
    Net   2(N − 1)·B·D·L              4(N − 1)·B·D·S·L, through memory and between devices

The least time of an operator is the largest of FLOPs/peak, bytes/bandwidth and network bytes/bandwidth over all
devices; its class is the resource that takes it. An operator is bound by none of them when it is too small ("launch"):
measured at LAUNCH times its least time or more, or, where nothing was measured, with a least time a layer of less than
LAUNCH_NS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.machine.ceilings import LAUNCH_NS
from flowprof.profiler.overlap.cards import Gpus, ModelCard

Class = Literal["compute", "memory", "network", "launch"]
LAUNCH = 5.0


@dataclass(frozen=True, slots=True)
class Workload:
    """A step's tokens and what requests look like, in tokens on average."""

    batch: int
    prompt: float = 512
    answer: float = 1024

    @property
    def decoding(self) -> float:
        """Tokens of the step that are decoded; the others are prompts'."""
        return self.batch * self.answer / (self.prompt + self.answer)

    @property
    def context(self) -> float:
        """Tokens that a decoded one attends to."""
        return self.prompt + self.answer / 2


@dataclass(frozen=True, slots=True)
class Operator:
    """Of all layers and devices together; times in seconds."""

    name: str
    flops: float
    memory_bytes: float
    weight_bytes: float  # of them, the weights
    net_bytes: float
    compute_s: float
    memory_s: float
    net_s: float
    measured_s: float | None
    kind: Class

    @property
    def least_s(self) -> float:
        return max(self.compute_s, self.memory_s, self.net_s)

    @property
    def time_s(self) -> float:
        """Measured, or else the least time."""
        return self.least_s if self.measured_s is None else self.measured_s


def operators(
    card: ModelCard, gpus: Gpus, work: Workload, element_bytes: float = 2, measured_s: dict[str, float] | None = None
) -> list[Operator]:
    """The operators of one step, in their order; Net only with several devices."""
    b, d, i, layers, s, n = work.batch, card.hidden, card.intermediate, card.layers, element_bytes, gpus.count
    wide = d + 2 * d / card.group
    decoding, prompts = work.decoding, work.batch - work.decoding
    rows = [
        ("KQV", 2 * b * d * wide, d * wide, b * d + b * wide),
        ("DecAttn", 4 * decoding * work.context * d, 0, 2 * decoding * (work.context * d / card.group + d)),
        ("PfAttn", 4 * prompts * work.prompt * d, 0, 2 * prompts * (d / card.group + d)),
        ("O", 2 * b * d * d, d * d, 2 * b * d),
        ("UG", 4 * b * d * i, 2 * d * i, b * d + 2 * b * i),
        ("D", 2 * b * d * i, d * i, b * i + b * d),
    ]
    each = s * layers
    found = [
        _operator(name, flops * layers, weights * each, others * each, 0.0, gpus, layers, (measured_s or {}).get(name))
        for name, flops, weights, others in rows
    ]
    if n > 1:
        moved = 4 * (n - 1) * b * d * s * layers
        adds = 2 * (n - 1) * b * d * layers
        found.append(_operator("Net", adds, 0.0, moved, moved, gpus, layers, (measured_s or {}).get("Net")))
    return found


def _operator(
    name: str, flops: float, weights: float, others: float, net: float, gpus: Gpus, layers: int, measured: float | None
) -> Operator:
    n, memory = gpus.count, weights + others
    times: dict[Class, float] = {
        "compute": flops / (n * gpus.flops),
        "memory": memory / (n * gpus.memory),
        "network": net / (n * gpus.net) if gpus.net else 0.0,
    }
    kind: Class = max(times, key=lambda one: times[one])
    if times[kind] < LAUNCH_NS / 1e9 * layers if measured is None else measured >= LAUNCH * times[kind]:
        kind = "launch"
    return Operator(
        name, flops, memory, weights, net, times["compute"], times["memory"], times["network"], measured, kind
    )


def optimum(card: ModelCard, peak_flops: float) -> float:
    """Tokens/s per GPU if nothing but arithmetic took time: peak / (2 · parameters)."""
    return peak_flops / (2 * card.parameters)


def step_limit(found: Sequence[Operator], gpus: Gpus, work: Workload) -> tuple[Class, float]:
    """The resource that a step of this batch takes longest, and tokens/s per GPU if all else ran beside its work."""
    totals: dict[Class, float] = {
        "compute": sum(one.compute_s for one in found),
        "memory": sum(one.memory_s for one in found),
        "network": sum(one.net_s for one in found),
    }
    scarce = max(totals, key=lambda one: totals[one])
    return scarce, work.batch / gpus.count / totals[scarce]


def memory_to_compute(card: ModelCard, gpus: Gpus, work: Workload) -> float | None:
    """T_R as the paper has it: the time to read the GPUs' whole memory once over that of a step's arithmetic, 2·B·P.

    Below 1 a workload that fills the memory is bound by compute, above by memory. None without the memory's size."""
    if gpus.memory_bytes is None:
        return None
    return (gpus.memory_bytes / gpus.memory) / (2 * work.batch * card.parameters / (gpus.count * gpus.flops))
