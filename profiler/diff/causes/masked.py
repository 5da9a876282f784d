"""Work on the device changed, and the host hides it: the step waits for what the host does.

Fires when a device's kernels and copies together became faster (or slower) by LEAST of their time or more, HALF of it
or more in significant rows, and the host's step changed by less than HALF of that in the same direction, while the
device's idle time changed by HALF of it or more the other way, and the device waits for the host: on the side with more
idle time, LATE of it or more comes before work that was launched after the device had drained. Times are exposed, as in
of_gpu.py.

What to do: the gain comes to light once the host is out of the way: CUDA graphs, larger batches, fewer and larger
kernels, no synchronisation within the step. A loss that is hidden now will show then.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, PhaseShift, Row
from flowprof.profiler.diff.steps import of_gpu
from flowprof.profiler.findings import in_ms, part_of

LEAST = 0.05  # of the time of kernels and copies on the normal side
HALF = 0.5
LATE = 0.5
MAX_SHOWN = 3


def causes(compared: Compared) -> Sequence[Claim]:
    host = next((shift for shift in compared.phases if shift.phase == "step"), None)
    if host is None:
        return ()
    devices = [change for change in changes(compared) if change.phase.startswith(of_gpu.PHASE)]
    found = [_claim(host, change) for change in devices]
    return [claim for claim in found if claim is not None]


def _claim(host: PhaseShift, device: Change) -> Claim | None:
    rows = list(device.rows.values())
    work = [row for row in rows if row.kind == "kernel"]
    a_ns = sum(row.a_ns_per_token or 0.0 for row in work)
    gained = -sum(row.delta_ns_per_token for row in work)  # faster is positive
    told = sorted((row for row in work if row.significant), key=lambda row: row.delta_ns_per_token * _sign(gained))
    idle = _idle(rows)
    most = max(idle, key=lambda one: sum(one))
    if (
        abs(gained) < LEAST * a_ns
        or abs(sum(row.delta_ns_per_token for row in told)) < HALF * abs(gained)
        or -host.delta_ns_per_token * _sign(gained) > HALF * abs(gained)
        or (sum(idle[1]) - sum(idle[0])) * _sign(gained) < HALF * abs(gained)
        or most[0] < LATE * sum(most)
        or not sum(most)
    ):
        return None
    word = "faster" if gained > 0 else "slower"
    step = device.shift.a_ns_per_token
    return Claim(
        Cause(
            claim=f"Masked by the host: the device's work is {part_of(round(abs(gained)), round(a_ns))} a step {word}, "
            "and the step is not, for the device waits for the host",
            kind="masked",
            share=None,
            confidence="high",
            evidence=(
                *(f"{row.name}: {_time(row.a_ns_per_token)} → {_time(row.b_ns_per_token)} a step"
                  for row in told[:MAX_SHOWN]),
                f"the host's step: {in_ms(host.a_ns_per_token)} → {in_ms(host.b_ns_per_token)}",
                f"the device is idle for {in_ms(sum(idle[0]))} → {in_ms(sum(idle[1]))} a step of {in_ms(step)}; "
                f"{most[0] / sum(most) * 100:.0f} % of it because the next work was launched late",
            ),
            next="Take the host out of the way, and the change shows: CUDA graphs, larger batches, fewer and larger "
            "kernels, no synchronisation within the step.",
            phase=device.phase,
        ),
        device.of(lambda row: row.kind == "between"),
    )  # fmt: skip


def _sign(ns: float) -> float:
    return 1.0 if ns >= 0 else -1.0


def _idle(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Of a and of b: idle time per step after late launches, and other idle time."""

    def of(op: str, side: int) -> float:
        return sum((row.b_ns_per_token if side else row.a_ns_per_token) or 0.0 for row in rows if row.op == op)

    return [(of(of_gpu.LATE, side), of(of_gpu.IDLE, side)) for side in (0, 1)]


def _time(ns: float | None) -> str:
    return "not run" if ns is None else in_ms(ns)
