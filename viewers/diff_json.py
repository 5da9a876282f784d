"""A diff as JSON, for scripts. `SCHEMA_VERSION` grows when a field changes its meaning; fields may be added.

Times are ns per token, or per what the phase says (`per`: a step of a torch program). `comparable` is false where
nothing may be concluded (`comparability` says how comparable the sides are); `differences` are the facts that differ
or are unknown, `same` names the others. `total_ns_per_token` and `ci95` are the change of the phase that the headline
is about, null where no phase ran on both sides.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flowprof.profiler.diff.gate import Gate
from flowprof.profiler.diff.result import Diff
from flowprof.viewers.json import finite

SCHEMA_VERSION = 1


def render(diff: Diff, gate: Gate | None = None) -> str:
    """The whole diff as a JSON text, with a newline at its end."""
    return json.dumps(finite(document(diff, gate)), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def document(diff: Diff, gate: Gate | None = None) -> dict[str, Any]:
    """The diff as plain dicts and lists."""
    told = diff.comparability
    first = diff.phases[0] if diff.phases else None
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": diff.verdict,
        "headline": diff.headline,
        "comparable": told.verdict != "not comparable",
        "comparability": {"verdict": told.verdict, "score": told.score, "normalisation": told.normalisation},
        "differences": [asdict(one) for one in told.differences if one.sameness != "same"],
        "same": [one.what for one in told.differences if one.sameness == "same"],
        "total_ns_per_token": first.delta_ns_per_token if first else None,
        "ci95": first.ci95 if first else None,
        "phases": [asdict(phase) for phase in diff.phases],
        "rows": [asdict(row) for row in diff.rows],
        "threads": [asdict(one) for one in diff.threads],
        "resources": [asdict(one) for one in diff.resources],
        "variables": [asdict(one) for one in diff.variables],
        "causes": [asdict(one) for one in diff.causes],
        "gate": asdict(gate) if gate else None,
        "a": asdict(diff.a),
        "b": asdict(diff.b),
        "changed_at_ns": diff.changed_at_ns,
        "halves": [asdict(phase) for phase in diff.halves],
        "notes": list(diff.notes),
    }
