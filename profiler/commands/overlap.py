"""Which work ran one after the other that could have run side by side, and what that would be worth.

Of a recording: `flowprof overlap REC` shows the exposed time of each resource, what could overlap and who keeps it
apart, and a picture of it. Without one: `flowprof overlap --model llama2-70b --gpus 8xA100 --batch 2048` computes
NanoFlow's analysis from the model's card and the GPUs' data sheets. `--measured FILE` (TOML, an operator a line, in
ms: `KQV = 16.08`) prices the overlap of operators as they were measured, one after the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowprof.profiler.overlap.cards import Gpus, ModelCard
    from flowprof.profiler.overlap.interference import Hidden, Interference
    from flowprof.profiler.overlap.operators import Operator, Workload
    from flowprof.profiler.overlap.price import Saving

NAME = "overlap"
ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f8": 1, "int8": 1}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="REC", help="a recording (.duckdb), or else --model")
    parser.add_argument("--ceilings", metavar="FILE", help="of the recorded GPU, not its data sheet's (JSON or TOML)")
    parser.add_argument("--model", metavar="CARD", help="a model's name, or a TOML file; with --gpus and --batch")
    parser.add_argument("--gpus", metavar="NxNAME", help="like 8xA100: by their data sheets")
    parser.add_argument("--batch", type=int, metavar="B", help="tokens in a step")
    parser.add_argument("--prompt", type=float, default=512, metavar="P", help="tokens of a prompt (default: 512)")
    parser.add_argument("--answer", type=float, default=1024, metavar="D", help="tokens of an answer (default: 1024)")
    parser.add_argument("--dtype", choices=ELEMENT_BYTES, default="f16", help="of weights and cache (default: f16)")
    parser.add_argument("--peak-tflops", type=float, metavar="T", help="of one GPU, instead of the data sheet's")
    parser.add_argument("--measured", metavar="FILE", help="operators' measured times, TOML, in ms")
    parser.add_argument("--interference", metavar="FILE", help="measured interference (default: NanoFlow's table)")
    parser.add_argument(
        "--measure-interference", metavar="OUT", help="measure that of these processors instead, into a TOML file; 6 s"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.errors import UsageError

    if asked.measure_interference is not None:
        return _measured(asked.measure_interference)
    if asked.file is not None and asked.model is not None:
        raise UsageError("a recording and --model are two questions", "give one of them")
    if asked.file is not None:
        return _recorded(asked)
    lacking = [f"--{name}" for name in ("model", "gpus", "batch") if getattr(asked, name) is None]
    if lacking:
        raise UsageError(
            f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing",
            "flowprof overlap REC, or: flowprof overlap --model llama2-70b --gpus 8xA100 --batch 2048",
        )
    return _modelled(asked)


def _measured(path: str) -> int:
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.overlap import measure

    if Path(path).exists():
        raise UsageError(f"{path} is there already", "give --measure-interference another name")
    found = measure.measure()
    measure.write(found, path)
    lost, kept = f"{found.share * 100:.0f} %", f"{found.speed * 100:.0f} %"
    sys.stderr.write(
        f"beside a copy a GEMM loses {lost} of its speed, and the copy keeps {kept} of its own\n"
        f"{path}: flowprof overlap REC --interference {path}\n"
    )
    return 0


def _recorded(asked: argparse.Namespace) -> int:
    from flowprof.profiler.analyzers import overlap
    from flowprof.profiler.analyzers.gpu import GPU
    from flowprof.profiler.errors import NothingToProfileError
    from flowprof.profiler.overlap import interference
    from flowprof.profiler.store import Recording

    table = interference.read(asked.interference) if asked.interference else interference.DEFAULT
    with Recording.open(asked.file) as recording:
        if asked.ceilings is not None:
            from flowprof.profiler.machine import ceilings, ceilings_file

            recording.shadow("ceiling", ceilings.rows(ceilings_file.load(asked.ceilings)))
        if not overlap.WORK.met(recording):
            raise NothingToProfileError(f"{asked.file} cannot say: {overlap.WORK.why(recording)}")
        if GPU.met(recording):
            names = [str(name or "") for (name,) in recording.rows("SELECT name FROM gpu_device ORDER BY device")]
            table = interference.for_gpus(table, asked.interference, names)
        found = overlap.table(recording, table)
    if asked.json:
        import json

        from flowprof.viewers import json as viewer

        told = {"overlap": [viewer.overlap(one) for one in found.overlaps], **viewer.exposure(found)}
        sys.stdout.write(json.dumps(told, indent=2, allow_nan=False) + "\n")
    else:
        from flowprof.viewers import missed

        missed.show(found, sys.stdout)
    return 0


def _modelled(asked: argparse.Namespace) -> int:
    from dataclasses import replace

    from flowprof.profiler.overlap import cards, interference, operators

    card, gpus = cards.model(asked.model), cards.gpus(asked.gpus, asked.dtype)
    _check(asked)
    if asked.peak_tflops is not None:
        gpus = replace(gpus, flops=asked.peak_tflops * 1e12, source="--peak-tflops; memory and links: " + gpus.source)
    work = operators.Workload(asked.batch, asked.prompt, asked.answer)
    table = interference.read(asked.interference) if asked.interference else interference.DEFAULT
    table = interference.for_gpus(table, asked.interference, [gpus.name])
    measured = cards.measured(asked.measured) if asked.measured else {}
    found = operators.operators(card, gpus, work, ELEMENT_BYTES[asked.dtype], measured)
    unknown = sorted(set(measured) - {one.name for one in found})
    if unknown:
        from flowprof.profiler.errors import UsageError

        raise UsageError(f"{asked.measured}: no operator {', '.join(unknown)[:200]}",
                         f"operators are {', '.join(one.name for one in found)}")  # fmt: skip
    told = _document(card, gpus, work, found, _saving(found, gpus, table))
    told["interference"] = table.source
    if asked.json:
        import json

        sys.stdout.write(json.dumps(told, indent=2, allow_nan=False) + "\n")
    else:
        from flowprof.viewers import overlap

        overlap.show(told, sys.stdout)
    return 0


def _check(asked: argparse.Namespace) -> None:
    from flowprof.profiler.errors import UsageError

    for name in ("batch", "prompt", "answer", "peak_tflops"):
        value = getattr(asked, name)
        if value is not None and not 0 < value < 1e9:
            raise UsageError(f"--{name.replace('_', '-')} {value} is out of range", "give a positive number")


def _saving(found: list[Operator], gpus: Gpus, table: Interference) -> Saving | str:
    """The price, or why there is none to be had."""
    from flowprof.profiler.overlap import price

    gemms = [one for one in found if one.kind == "compute"]
    hidden: dict[Hidden, float] = {
        "memory": sum(one.time_s for one in found if one.kind == "memory"),
        "network": sum(one.time_s for one in found if one.kind == "network"),
    }
    if not any(hidden.values()):
        return "no operator is bound by memory or the network: there is nothing to hide"
    if not gemms:
        scarce = max(hidden, key=lambda kind: hidden[kind])
        return (
            f"no operator is bound by arithmetic, so there is nothing to hide behind: {scarce} is the scarce resource"
            + (", and nano-batches would read the weights twice" if scarce == "memory" else "")
        )
    arithmetic = sum(one.time_s for one in gemms)
    if hidden["memory"] > arithmetic:
        return (
            f"memory's work takes {hidden['memory'] / arithmetic:,.1f} times as long as arithmetic: memory is the "
            "scarce resource, and nano-batches would read the weights twice"
        )
    rate = gpus.count * gpus.memory
    split = price.split_cost(
        [(one.time_s, one.weight_bytes / rate, (one.memory_bytes - one.weight_bytes) / rate) for one in gemms]
    )
    return price.saving(arithmetic, hidden, table, split)


def _document(
    card: ModelCard, gpus: Gpus, work: Workload, found: list[Operator], saving: Saving | str
) -> dict[str, Any]:
    from flowprof.profiler.overlap import operators

    def ns(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * 1e9

    serial = sum(one.time_s for one in found)
    scarce, limit = operators.step_limit(found, gpus, work)
    return {
        "model": card.name, "gpus": f"{gpus.count}x{gpus.name}", "batch": work.batch, "model_source": card.source,
        "operators": [
            {"op": one.name, "flops": one.flops, "mem_bytes": one.memory_bytes, "net_bytes": one.net_bytes,
             "t_comp_ns": ns(one.compute_s), "t_mem_ns": ns(one.memory_s), "t_net_ns": ns(one.net_s),
             "measured_ns": ns(one.measured_s), "class": one.kind}
            for one in found
        ],
        "network_known": gpus.count == 1 or gpus.net is not None,
        "t_r": operators.memory_to_compute(card, gpus, work),
        "optimum_tokens_per_s_per_gpu": operators.optimum(card, gpus.flops),
        "step_limit": {"resource": scarce, "tokens_per_s_per_gpu": limit},
        "peak_tflops": gpus.flops / 1e12, "peak_source": gpus.source,
        "serial_ns": ns(serial),
        "overlap": [] if isinstance(saving, str) else [{
            "kind": "split-only", "what": list(saving.kinds), "exposed_ns": ns(saving.exposed_s),
            "ideal_ns": ns(saving.ideal_s), "aware_ns": ns(saving.aware_s), "split_ns": ns(saving.split_s),
            "net_ns": ns(saving.net_s), "reason": "every operator needs the one before it: only two half batches have "
            "work for two resources at a time",
        }],
        "no_overlap": saving if isinstance(saving, str) else None,
    }  # fmt: skip
