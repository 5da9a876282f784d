"""Mixture of experts: which experts the tokens used, layer by layer, and what that means for bytes and caches.

The ids that the router chose are recorded as MUL_MAT_ID reads them, all of a batch, in windows with operators.

* entropy: of the uses over a layer's experts, in bits and as a share of log2(experts); 1 is uniform.
* imbalance: uses of the busiest expert / mean of all.
* distinct: different experts that one graph execution reads per layer: their weights are its bytes. The cost model
  takes this figure (`experts_used`) in place of its uniform expectation, too high where a text repeats its experts.
* reuse: tokens from one use of an expert to the next in the same layer, over unbroken rows of executions. A cache that
  holds the experts of the last `reuse_p90` tokens serves 90 % of the repeated uses; `hold_share` is how much of a
  layer's experts that is on average (Denning's working set: mean of min(distance, reuse_p90) × uses per token). Uniform
  routing needs 90 % of them held for 90 % of the uses: then a cache is of no use.

Findings (notices: they are the model's and the text's nature, and show what placement could gain):
* `experts.imbalance`: in a layer the busiest quarter of the experts takes TOP_SHARE of the uses or more, and a
  chi-square test rejects uniform routing at LEVEL. The statistic Σ(O−E)²/E is multiplied by (n−1)/(n−k), as the k of n
  experts of a token are different ones. Abstains below MIN_EXPECTED uses per expert. The test takes tokens as
  independent, which those of one text are not: hence the low LEVEL. Keep the busy experts in the faster memory, and
  spread them where experts lie on several devices.
* `experts.locality`: in decode HOLD_SHARE of the experts' bytes or less would serve 90 % of the repeated uses. Abstains
  likewise, and while more than COLD of the uses are an expert's first ones. Where the experts do not fit into the fast
  memory, a cache of recently used ones pays more than placing whole layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, log2, sqrt
from statistics import fmean, median

import numpy as np
from flowprof.profiler.analyzers.contract import GRAPHS, Analyzer, Need, Result, coverage
from flowprof.profiler.analyzers.expert_reads import keep_reads
from flowprof.profiler.analyzers.expert_reuse import Distances, Key, distances
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.experts import ExpertLayer, ExpertPhase, ExpertTable
from flowprof.profiler.store import Recording, read_sql
from numpy.typing import NDArray

TOP_SHARE = 0.5  # of the uses, by a quarter of the experts
LEVEL = 0.001
MIN_EXPECTED = 5.0  # uses per expert for the chi-square approximation
HOLD_SHARE = 0.5
COLD = 0.1
SURE_EXPECTED = 50.0  # uses per expert for more than low confidence
EXPERTS = Need(
    "SELECT count(*) > 0 FROM (SELECT 1 FROM expert_use LIMIT 1)",
    "no experts: the model has none, or no graph was measured operator by operator",
)
LOST_SQL = "SELECT coalesce(sum(events), 0) FROM loss WHERE place = 'expert_ids'"


@dataclass(frozen=True, slots=True)
class Reuse:
    """Reuse distances of a layer, in tokens."""

    p50: float | None
    p90: float | None
    hold: float | None  # experts used in the last p90 tokens, on average
    cold: float  # share of the uses that are an expert's first in a run


def entropy_bits(counts: Sequence[int]) -> float:
    """Shannon entropy of the distribution that the counts show."""
    total = sum(counts)
    return -sum(count / total * log2(count / total) for count in counts if count) + 0.0 if total else 0.0


def imbalance(counts: Sequence[int]) -> float:
    """Largest / mean."""
    return max(counts) * len(counts) / sum(counts) if sum(counts) else 0.0


def top_share(counts: Sequence[int]) -> float:
    """Share of the busiest quarter (rounded up)."""
    first = -(-len(counts) // 4)
    return sum(sorted(counts, reverse=True)[:first]) / sum(counts) if sum(counts) else 0.0


def p_uniform(counts: Sequence[int], used: int) -> float | None:
    """Probability of counts as uneven as these or more, if each token took `used` different experts at random.

    None where the chi-square approximation does not hold, or where tokens use all experts.
    """
    experts, total = len(counts), sum(counts)
    expected = total / experts if experts else 0.0
    if expected < MIN_EXPECTED or used >= experts:
        return None
    statistic = sum((count - expected) ** 2 for count in counts) / expected * (experts - 1) / (experts - used)
    free = experts - 1  # Wilson and Hilferty 1931: (χ²/f)^(1/3) is nearly normal
    deviate = ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / sqrt(2 / (9 * free))
    return erfc(deviate / sqrt(2)) / 2


def reuse(found: Distances, tokens: int, experts: int) -> Reuse:
    """From counted distances and the tokens of all runs."""
    uses, first = found.uses, found.first
    again = int(uses.sum())
    cold = first / (first + again) if first + again else 1.0
    if not again or not tokens:
        return Reuse(None, None, None, cold)
    upto = np.cumsum(uses)
    p50, p90 = (float(found.tokens[np.searchsorted(upto, share * again)]) for share in (0.5, 0.9))
    held = float((np.minimum(found.tokens, p90) * uses).sum())
    held += first * p90  # a last use is held to the end of its time
    return Reuse(p50, p90, min(held / tokens, float(experts)), cold)


def analyze(recording: Recording) -> Result:
    covered = coverage(recording, "op", "thread")
    keep_reads(recording)
    rows = recording.rows(read_sql("experts_layers.sql"))
    counts: dict[Key, NDArray[np.int64]] = {row[:4]: np.zeros(row[3], np.int64) for row in rows}
    for *of, expert, uses in recording.rows(read_sql("experts_counts.sql")):
        mine = counts.get((of[0], of[1], of[2], of[3]))
        if mine is not None and 0 <= expert < len(mine):
            mine[expert] += uses
    apart = distances(recording)
    layers: list[ExpertLayer] = []
    colds: dict[int, float] = {}
    for (
        pid, phase, layer, experts, used, expert_bytes, executions, _, tokens, whole, whole_tokens, distinct, uniform,
    ) in rows:  # fmt: skip
        key = (pid, phase, layer, experts)
        found = apart.get(key)
        again = reuse(found, int(whole_tokens or 0), experts) if found else Reuse(None, None, None, 1.0)
        row = counts[key].tolist()
        layers.append(
            ExpertLayer(
                pid=pid,
                phase=phase,
                layer=layer,
                experts=experts,
                used=used,
                executions=executions,
                tokens=int(tokens),
                counts=tuple(row),
                entropy_bits=entropy_bits(row),
                entropy_share=entropy_bits(row) / log2(experts) if experts > 1 else 1.0,
                imbalance=imbalance(row),
                top_share=top_share(row),
                p_uniform=p_uniform(row, used),
                distinct=distinct / whole if whole else None,
                distinct_uniform=uniform / whole if whole else None,
                touched=sum(count > 0 for count in row),
                expert_bytes=float(expert_bytes),
                bytes_per_token=distinct * expert_bytes / whole_tokens if whole else None,
                reuse_p50=again.p50,
                reuse_p90=again.p90,
                hold_share=again.hold / experts if again.hold is not None else None,
            )
        )
        colds[id(layers[-1])] = again.cold
    order = {item.phase: at for at, item in enumerate(covered)}
    layers.sort(key=lambda row: order[row.phase])  # stable
    phases = [_phase(item, [row for row in layers if row.phase == item.phase]) for item in covered
              if any(row.phase == item.phase for row in layers)]  # fmt: skip
    enough = [row for row in layers if sum(row.counts) >= MIN_EXPECTED * row.experts and colds[id(row)] <= COLD]
    warm = [row for row in enough if row.phase == "decode" and row.hold_share is not None]
    findings = [*(finding for item in phases for finding in _imbalance(item.phase, layers)), *_locality(warm)]
    lost = int(recording.rows(LOST_SQL)[0][0])
    return Result(ExpertTable(tuple(phases), tuple(layers), lost), tuple(findings))


def _uneven(row: ExpertLayer) -> bool:
    return row.top_share >= TOP_SHARE and row.p_uniform is not None and row.p_uniform < LEVEL


def _phase(item: Coverage, layers: Sequence[ExpertLayer]) -> ExpertPhase:
    distinct = [row.distinct for row in layers if row.distinct is not None]
    uniform = [row.distinct_uniform for row in layers if row.distinct_uniform is not None]
    all_bytes = sum(row.experts * row.expert_bytes for row in layers)
    read = [row.distinct * row.expert_bytes for row in layers if row.distinct is not None]
    per_token = [row.bytes_per_token for row in layers if row.bytes_per_token is not None]

    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(median(known)) if known else None

    return ExpertPhase(
        phase=item.phase,
        layers=len(layers),
        executions=max(row.executions for row in layers),
        graphs=item.graphs,
        tokens=max(row.tokens for row in layers),
        entropy_share=fmean(row.entropy_share for row in layers),
        imbalance=float(median(row.imbalance for row in layers)),
        uneven_layers=sum(map(_uneven, layers)),
        distinct=fmean(distinct) if distinct else None,
        distinct_uniform=fmean(uniform) if uniform else None,
        touched_share=sum(row.touched * row.expert_bytes for row in layers) / all_bytes if all_bytes else 0.0,
        read_share=sum(read) / all_bytes if len(read) == len(layers) and all_bytes else None,
        bytes_per_token=sum(per_token) if len(per_token) == len(layers) else None,
        reuse_p50=middle([row.reuse_p50 for row in layers]),
        reuse_p90=middle([row.reuse_p90 for row in layers]),
        hold_share=middle([row.hold_share for row in layers]),
    )


def _imbalance(phase: str, layers: Sequence[ExpertLayer]) -> list[Finding]:
    mine = [row for row in layers if row.phase == phase]
    uneven = sorted(filter(_uneven, mine), key=lambda row: -row.top_share)
    if not uneven:
        return []
    worst = uneven[0]
    busiest = sorted(range(worst.experts), key=lambda expert: -worst.counts[expert])[: -(-worst.experts // 4)]
    return [
        Finding(
            id="experts.imbalance",
            claim=f"Few experts take most in {len(uneven)} of {len(mine)} layers: in layer {worst.layer} a quarter of "
            f"them {worst.top_share * 100:.0f} % of the uses in {phase}",
            phase=phase,
            confidence="medium" if sum(worst.counts) >= SURE_EXPECTED * worst.experts else "low",
            evidence=(
                f"layer {worst.layer}: experts {', '.join(map(str, busiest[:8]))}{' …' if len(busiest) > 8 else ''} of "
                f"{worst.experts}; the busiest has {worst.imbalance:.1f} times the mean, entropy "
                f"{worst.entropy_share * 100:.0f} % of uniform",
                f"{worst.tokens} tokens in {worst.executions} graph executions; uniform routing would give such counts "
                f"with p = {worst.p_uniform:.1g}",
            ),
            advice="Keep these experts in the faster memory (GPU, or RAM before disk), the others in the slower one; "
            "with experts spread over devices, spread the busy ones. Check on more texts: it may be this one's nature.",
        )
    ]


def _locality(layers: Sequence[ExpertLayer]) -> list[Finding]:
    local = [row for row in layers if row.hold_share is not None and row.hold_share <= HOLD_SHARE]
    if not local or 2 * len(local) < len(layers):
        return []
    held = sum((row.hold_share or 0.0) * row.experts * row.expert_bytes for row in local)
    total = sum(row.experts * row.expert_bytes for row in local)
    window = float(median(row.reuse_p90 or 0.0 for row in local))
    return [
        Finding(
            id="experts.locality",
            claim=f"Tokens come back to the same experts: {held / total * 100:.0f} % of the experts' bytes would serve "
            f"90 % of the repeated uses in {len(local)} of {len(layers)} layers",
            phase="decode",
            confidence="medium",
            evidence=(
                f"an expert is used again after {median(row.reuse_p50 or 0.0 for row in local):.0f} tokens (median), "
                f"90 % within {window:.0f}; the experts of the last {window:.0f} tokens are {held / 1e6:.1f} of "
                f"{total / 1e6:.1f} MB",
                "uniform routing would need about 90 % of the bytes held",
            ),
            advice="Where experts do not fit into the fast memory, a cache of recently used experts pays; placing "
            "whole layers gains less.",
        )
    ]


ANALYZER = Analyzer("experts", "Experts", (GRAPHS, EXPERTS), analyze)
