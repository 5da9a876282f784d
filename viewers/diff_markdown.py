"""A diff as a comment on a pull request: verdict, phases, the rows that changed most, causes. Short, and harmless.

Names come from recorded processes. They stand in code spans, and sentences that hold them are escaped, so that none
becomes a link, a mention, a tag or a table's end.
"""

from __future__ import annotations

import re

from flowprof.profiler.diff.gate import Gate
from flowprof.profiler.diff.result import Diff, PhaseShift, Row
from flowprof.viewers import diff_words as words
from flowprof.viewers.quantity import clean, duration, percent

ROWS = 8
CAUSES = 3
PHASES = 4
UNKNOWN, EVIDENCE, NOTES = 6, 3, 5
OUTCOMES = {
    "within": "✅ within the limit of", "regression": "❌ regression, the limit is",
    "not comparable": "⚠️ not comparable, the limit was", "not enough data": "⚠️ not enough data for a limit of",
}  # fmt: skip
_MARKUP = re.compile(r"([\\*_\[\]#|~$])")
_ZERO_WIDTH = "\u200b"


def render(diff: Diff, gate: Gate | None = None) -> str:
    """The comment."""
    lines = [f"### flowprof: {prose(diff.headline, 400)}", ""]
    if gate is not None:
        lines += [f"**{OUTCOMES[gate.outcome]} {percent(gate.limit)}**: {prose(gate.sentence, 400)}", ""]
    lines += [f"{code(', '.join(diff.a.files))} → {code(', '.join(diff.b.files))} · {prose(words.comparability(diff))}"]
    lines += [prose(diff.comparability.normalisation), ""]
    lines += _differences(diff)
    refused = diff.verdict == "not comparable"  # figures of what cannot be compared would be read all the same
    if not refused:
        lines += _compared(diff)
    lines += [f"- {prose(note, 400)}" for note in diff.notes[:NOTES]]
    if diff.phases and not refused:
        lines += ["", f"<sub>{prose(words.SIGNIFICANCE, 700)}</sub>"]
    return "\n".join(lines).rstrip() + "\n"


def _compared(diff: Diff) -> list[str]:
    lines = _phases(diff.phases) if diff.phases else []
    changed = [row for row in diff.rows if row.significant or row.tail_significant]
    if changed:
        lines += _rows(sorted(changed, key=lambda row: -abs(row.delta_ns_per_token)))
    for number, cause in enumerate(diff.causes[:CAUSES], 1):
        share = f", {percent(cause.share)} of the change" if cause.share is not None else ""
        next_step = f". {prose(cause.next)}" if cause.next else ""
        lines.append(f"{number}. **{prose(cause.claim)}** ({cause.confidence} confidence{share}){next_step}")
        lines += [f"   - {prose(text)}" for text in cause.evidence[:EVIDENCE]]
    return [*lines, ""]


def prose(text: str, limit: int = 300) -> str:
    """A sentence in which names may stand: no markup, no mention, no link, one line."""
    plain = clean(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "ˋ")
    plain = _MARKUP.sub(r"\\\1", plain).replace("://", f":{_ZERO_WIDTH}//")
    return re.sub(r"@|www|\\#", lambda found: f"{found[0]}{_ZERO_WIDTH}", plain)


def code(text: str, limit: int = 120) -> str:
    """A name in a code span, also in a table."""
    harmless = clean(text, limit).replace("`", "ˋ").replace("|", "\\|").strip()
    return f"`{harmless}`" if harmless else "–"


def _differences(diff: Diff) -> list[str]:
    found, more = words.differing(diff)
    lines = [f"- **{prose(one.what)}**: {code(one.a)} → {code(one.b)}: {prose(one.why)}" for one in found]
    if more:
        lines.append(f"- {more} more")
    unknown = words.unknown(diff)
    if unknown:
        rest = f" and {len(unknown) - UNKNOWN} more" if len(unknown) > UNKNOWN else ""
        lines.append(f"- not known: {prose(', '.join(unknown[:UNKNOWN]))}{rest}")
    return [*lines, ""] if lines else []


def _phases(phases: tuple[PhaseShift, ...]) -> list[str]:
    per = prose(", ".join(dict.fromkeys(phase.per for phase in phases)), 40)
    lines = [f"| phase | before | after | change per {per} | 95 % | 95th percentile | q | |",
             "|---|--:|--:|--:|--:|--:|--:|---|"]  # fmt: skip
    for phase in phases[:PHASES]:
        low, high = (words.change(end) for end in phase.ci95) if phase.ci95 else ("–", "–")
        lines.append(
            f"| {code(phase.phase)} | {duration(phase.a_ns_per_token)} | {duration(phase.b_ns_per_token)} "
            f"| {words.change(phase.delta_ns_per_token)} "
            f"({words.relative(phase.delta_ns_per_token, phase.a_ns_per_token)}) | {low} … {high} "
            f"| {duration(phase.a_tail_ns)} → {duration(phase.b_tail_ns)} | {words.q(phase.q)} "
            f"| {words.mark(phase.significant, phase.tail_significant)} |"
        )
    return [*lines, ""]


def _rows(rows: list[Row]) -> list[str]:
    shown = rows[:ROWS]
    scale = words.scale(*(ns for row in shown for ns in (row.a_ns_per_token, row.b_ns_per_token)))
    lines = [f"| what | phase | before, {scale.unit} | after | change | 95 % | q | |",
             "|---|---|--:|--:|--:|--:|--:|---|"]  # fmt: skip
    for row in shown:
        lines.append(
            f"| {code(words.name(row))} | {code(row.phase)} | {scale.value(row.a_ns_per_token)} "
            f"| {scale.value(row.b_ns_per_token)} | {scale.change(row.delta_ns_per_token)} "
            f"| {scale.interval(row.ci95)} | {words.q(row.q)} "
            f"| {words.one_sided(row) or words.mark(row.significant, row.tail_significant)} |"
        )
        if row.contexts_apart:
            lines.append(f"| {prose(words.at_context(row))} | | | | | | | |")
    more = len(rows) - ROWS
    return [*lines, *([f"| {more} more | | | | | | | |"] if more > 0 else []), ""]
