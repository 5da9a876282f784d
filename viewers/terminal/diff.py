"""A diff on one screen: the verdict, what is not alike, phases, why, the rows that changed, resources, variables.

SCREEN lines at most, from 80 columns on: texts are cut to a line or two, and tables that find no room are named in the
last line; --html and --json have all of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from flowprof.profiler.diff.gate import Gate
from flowprof.profiler.diff.result import Diff, PhaseShift, ResourceShift, Row, SideFacts, VariableShift
from flowprof.viewers import diff_words as words
from flowprof.viewers.quantity import clean, count, duration, percent, three
from flowprof.viewers.terminal.page import Cell, Page, inset
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table

MAX_COLUMNS = 160
SCREEN = 45  # lines
ROWS = (5, 2, 0)  # of the first phase that has rows, the next, and all others
PHASES = 5
STEPS = 3  # phases of which is said what a step is
ONE_SIDED = 2  # rows that exist on one side only, and are shown though they are small
DIFFERENCES = 4
UNKNOWN = 8
THREADS = 4
RESOURCES, VARIABLES, CAUSES, EVIDENCE, NOTES = 3, 2, 3, 4, 3
MARKS = "● significant: q < 0.01 and beyond the noise  ▲ its slowest steps are"
WIDE = 100  # columns from which there is room for more
FIGURES, FIGURES_TIGHT = 66, 52  # columns that the figures of a row take
GREW = 18  # and what grew in it
STYLES = {"slower": "bold red", "faster": "bold green", "same": "bold", "not comparable": "bold yellow",
          "not enough data": "bold yellow"}  # fmt: skip


def show(diff: Diff, gate: Gate | None, out: TextIO, width: int | None = None) -> None:
    """Write the page to `out`; `width` columns, or the terminal's (80 when piped)."""
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    if width is None and console.width > MAX_COLUMNS:
        console.width = MAX_COLUMNS
    page = Page(console.width, ascii_only=not console.encoding.lower().startswith("utf"))
    for part in _fitting(console, _parts(page, diff, gate), page):
        console.print(part)


@dataclass(frozen=True, slots=True)
class _Part:
    """name: "" where it is always shown; what finds no room is named. rank: the highest goes first."""

    shown: RenderableType
    name: str = ""
    rank: int = 0


def _fitting(console: Console, parts: Sequence[_Part], page: Page) -> list[RenderableType]:
    """Those that there is room for, and the names of the others."""
    lines = [len(console.render_lines(part.shown, pad=False)) for part in parts]
    kept = list(range(len(parts)))
    gone: list[str] = []
    while sum(lines[at] for at in kept) + bool(gone) > SCREEN and any(parts[at].name for at in kept):
        out = max((at for at in kept if parts[at].name), key=lambda at: (parts[at].rank, at))
        kept.remove(out)
        gone.append(parts[out].name)
    found = [parts[at].shown for at in kept]
    if gone:
        found.append(_line(page, f"no room for {', '.join(dict.fromkeys(reversed(gone)))}: --html, --json", "dim"))
    return found


def _parts(page: Page, diff: Diff, gate: Gate | None) -> list[_Part]:
    head: list[RenderableType] = [_line(page, clean(diff.headline, 400), STYLES[diff.verdict], 0, 3)]
    if gate is not None:
        style = "green" if gate.outcome == "within" else "red" if gate.outcome == "regression" else "yellow"
        said = f"gate {percent(gate.limit)}: {gate.outcome} (exit code {gate.exit_code}): {clean(gate.sentence, 300)}"
        head.append(_line(page, said, style, 0, 3))
    parts = [_Part(Group(*head, "", _sides(page, diff), ""))]
    refused = diff.verdict == "not comparable"  # figures of what cannot be compared would be read all the same
    if not refused:
        parts += _compared(page, diff)
    for note in diff.notes[:NOTES]:
        parts.append(_Part(_line(page, clean(note, 300), "dim", most=2), "notes", 3))
    if len(diff.notes) > NOTES:
        parts.append(_Part(_line(page, f"{len(diff.notes) - NOTES} more notes: --json", "dim"), "notes", 3))
    if diff.phases and not refused:
        parts.append(_Part(_line(page, MARKS, "dim")))
    return parts


def _compared(page: Page, diff: Diff) -> list[_Part]:
    parts: list[_Part] = []
    if diff.phases:
        parts.append(_Part(Group(_phases(page, diff.phases), "")))
    parts += _causes(page, diff)
    if diff.phases:
        parts += _changes(page, diff)
    if diff.resources:
        sure = any(one.significant for one in diff.resources)
        parts.append(_Part(Group(_resources(page, diff.resources), ""), "resources", 1 if sure else 5))
    if diff.variables:
        parts.append(_Part(Group(_variables(page, diff.variables), ""), "variables", 1))
    if diff.phases and any(one.phase == diff.phases[0].phase for one in diff.threads):
        parts.append(_Part(Group(_threads(page, diff), ""), "threads", 5))
    return parts


# ------------------------------------------------------------------ what is compared


def _sides(page: Page, diff: Diff) -> RenderableType:
    if diff.a == diff.b and not diff.phases:  # one recording in which nothing changed
        return _line(page, _side(diff.a, "token"))
    per = diff.phases[0].per if diff.phases else "token"
    lines: list[RenderableType] = [
        _line(page, f"before  {_side(diff.a, per)}", most=1),
        _line(page, f"after   {_side(diff.b, per)}", most=1),
        _line(page, words.comparability(diff), "yellow" if diff.comparability.verdict == "not comparable" else ""),
    ]
    found, more = words.differing(diff)
    for one in found[:DIFFERENCES]:
        lines.append(_line(page, f"{words.fact(one)} ({clean(one.why, 120)})", "yellow", indent=3, most=1))
    more += len(found[DIFFERENCES:])
    if more:
        lines.append(_line(page, f"{more} more: --json", "dim", indent=3))
    unknown = words.unknown(diff)
    if unknown:
        rest = f" and {len(unknown) - UNKNOWN} more" if len(unknown) > UNKNOWN else ""
        lines.append(_line(page, f"not known: {', '.join(unknown[:UNKNOWN])}{rest}", "dim", indent=3, most=1))
    lines.append(_line(page, clean(diff.comparability.normalisation, 300), "dim", indent=3, most=2))
    return Group(*lines)


def _side(side: SideFacts, per: str) -> str:
    files = ", ".join(clean(file, 60) for file in side.files[:3])
    more = f" and {len(side.files) - 3} more" if len(side.files) > 3 else ""
    tokens = f"{count(side.tokens) if side.tokens else 'no'} {clean(per, 20)}s"
    engines = side.engine.split(", ")
    engine = ", ".join([one for one in engines if " " in one] or engines[:1])  # parts of one have no version
    said = [f"{files}{more}", tokens, duration(side.duration_ns), clean(side.model, 40), clean(engine, 40)]
    return " · ".join(word for word in said if word)


# ------------------------------------------------------------------ phases and rows


def _phases(page: Page, phases: Sequence[PhaseShift]) -> RenderableType:
    wide = page.width >= WIDE
    table = page.table("", "phase", "before", "after", "change", "", "q", "95 %", names=2)
    if wide:
        for head in ("noise", "95th percentile"):
            table.add_column(page.plain(head), justify="right", no_wrap=True)
    for phase in phases[:PHASES]:
        scale = words.scale(phase.a_ns_per_token, phase.b_ns_per_token)
        cells: list[Cell] = [
            words.mark(phase.significant, phase.tail_significant), page.phase(phase.phase),
            duration(phase.a_ns_per_token), duration(phase.b_ns_per_token),
            f"{scale.change(phase.delta_ns_per_token)} {scale.unit}",
            words.relative(phase.delta_ns_per_token, phase.a_ns_per_token), words.q(phase.q),
            scale.interval(phase.ci95),
        ]  # fmt: skip
        if wide:
            cells += [
                scale.value(phase.noise_ns_per_token),
                f"{duration(phase.a_tail_ns)} → {duration(phase.b_tail_ns)}",
            ]
        page.row(table, *cells)
    lines: list[RenderableType] = [inset(_tight(page, table))]
    for phase in phases[:STEPS]:
        said = dict.fromkeys(filter(None, (clean(text, 200) for text in phase.what)))
        if said:
            lines.append(_line(page, f"{clean(phase.phase, 30)}: {'; '.join(said)}", "dim", indent=3, most=2))
    if len(phases) > PHASES:
        lines.append(_line(page, f"{len(phases) - PHASES} more: --json", "dim", indent=3))
    per = ", ".join(dict.fromkeys(clean(phase.per, 20) for phase in phases))
    return Group(page.title("Phases", f"end to end, per {per}"), *lines)


def _changes(page: Page, diff: Diff) -> list[_Part]:
    """The rows of the first phase that has some always, those of others where there is room."""
    parts: list[_Part] = []
    for number, phase in enumerate(diff.phases):
        rows = [row for row in diff.rows if row.phase == phase.phase]
        chosen = _chosen(rows, ROWS[min(len(parts), len(ROWS) - 1)])
        if chosen:
            table = Group(_rows(page, phase, rows, chosen), "")
            parts.append(_Part(table, f"rows of {clean(phase.phase, 20)}" if parts else "", 4 * bool(parts)))
        elif number == 0 and (rows or not diff.rows):
            why = "No row of it changed beyond the noise." if rows else "Its operators are not known on both sides."
            parts.append(_Part(Group(_line(page, f"{phase.phase}: {why}"), "")))
    return parts


def _chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """Rows that changed, and those that are on one side only, as they come: by their contribution."""
    changed = [row for row in rows if row.significant or row.tail_significant][:most]
    if not most:
        return []
    alone = [row for row in rows if words.one_sided(row) and row not in changed][:ONE_SIDED]
    return [row for row in rows if row in changed or row in alone]


def _rows(page: Page, phase: PhaseShift, rows: Sequence[Row], chosen: Sequence[Row]) -> RenderableType:
    wide = page.width >= WIDE
    scale = words.scale(phase.a_ns_per_token, phase.b_ns_per_token)
    table = page.table("", "what", "before", "after", "change", "of it", "95 %", "q", names=2)
    if wide:
        table.add_column("grew", justify="left", no_wrap=True)
    limit = max(12, page.width - (FIGURES + GREW if wide else FIGURES_TIGHT))
    for row in chosen:
        mark = "+" if row.a_ns_per_token is None else "-" if row.b_ns_per_token is None else ""
        cells = [
            words.mark(row.significant, row.tail_significant) or mark, words.name(row, limit),
            scale.value(row.a_ns_per_token), scale.value(row.b_ns_per_token), scale.change(row.delta_ns_per_token),
            _share(row, phase), scale.interval(row.ci95), words.q(row.q),
        ]  # fmt: skip
        style = "" if row.significant or row.tail_significant else "dim"
        page.row(table, *cells, *([_grew(row, scale)] if wide else []), style=style)
        if row.tail_significant and not row.significant:
            tails = scale.value(row.a_tail_ns), scale.value(row.b_tail_ns)
            page.row(table, "", "  its 95th percentile", *tails, "", "", "", words.q(row.tail_q))
        if row.contexts_apart:
            page.row(table, *_at_context(row, scale))
    rest = [row for row in rows if row not in chosen]
    if rest:
        together = sum(row.delta_ns_per_token for row in rest)
        page.row(table, "", f"{count(len(rest))} more", "", "", scale.change(together), style="dim")
    note = f"{phase.phase}, {scale.unit} per {clean(phase.per, 20)}; together {scale.change(phase.delta_ns_per_token)}"
    return Group(page.title("What changed", note), inset(_tight(page, table)))


def _at_context(row: Row, scale: words.Scale) -> list[str]:
    """Below a row whose work grows with the context, where the sides read contexts of other lengths."""
    one = row.equal
    if one is None:
        return ["", "  no context in common", "", "", "", "", "", ""]
    return [
        words.mark(one.significant, False), "  at equal context", scale.value(one.a_ns_per_token),
        scale.value(one.b_ns_per_token), scale.change(one.delta_ns_per_token), "", scale.interval(one.ci95),
        words.q(one.q),
    ]  # fmt: skip


def _share(row: Row, phase: PhaseShift) -> str:
    """Of the phase's change, where there is one to speak of."""
    if not phase.significant or not phase.delta_ns_per_token:
        return ""
    return f"{row.delta_ns_per_token / phase.delta_ns_per_token * 100:.0f} %".replace("-", "−")


def _grew(row: Row, scale: words.Scale) -> str:
    """The part of a row that changed most: barrier +0.12."""
    known = [
        (part.part, part.b_ns - part.a_ns) for part in row.parts if part.a_ns is not None and part.b_ns is not None
    ]
    if not known:
        return words.one_sided(row)
    part, ns = max(known, key=lambda one: abs(one[1]))
    return f"{part} {scale.change(ns)}"


def _tight(page: Page, table: Table) -> Table:
    """One column between two where there is little room."""
    table.collapse_padding = page.width < WIDE
    return table


# ------------------------------------------------------------------ the rest


def _threads(page: Page, diff: Diff) -> RenderableType:
    """Of the phase that the headline is about: each part before and after."""
    phase = diff.phases[0]
    mine = [one for one in diff.threads if one.phase == phase.phase]
    scale = words.scale(phase.a_ns_per_token, phase.b_ns_per_token)
    table = page.table("thread", *(words.PARTS[part.part] for part in mine[0].parts))
    for one in mine[:THREADS]:
        page.row(table, str(one.role), *(f"{scale.value(p.a_ns)} → {scale.value(p.b_ns)}" for p in one.parts))
    more = f", {len(mine) - THREADS} more: --json" if len(mine) > THREADS else ""
    return Group(page.title("Threads", f"{phase.phase}, {scale.unit} per token in thread windows{more}"), inset(table))


def _resources(page: Page, resources: Sequence[ResourceShift]) -> RenderableType:
    table = page.table("resource", "waiting", "after", "held", "after", "per", "held by", "", bar=6)
    for one in resources[:RESOURCES]:
        page.row(
            table, clean(one.resource, 24), duration(one.a_waiting_ns), duration(one.b_waiting_ns),
            duration(one.a_hold_ns), duration(one.b_hold_ns), clean(one.per, 8), clean(one.holder, 24),
            words.mark(one.significant, False),
        )  # fmt: skip
    more = f"{len(resources) - RESOURCES} more: --json" if len(resources) > RESOURCES else ""
    return Group(page.title("Resources", more), inset(table))


def _variables(page: Page, variables: Sequence[VariableShift]) -> RenderableType:
    lines: list[RenderableType] = [page.title("Variables", "values seen before and after")]
    for one in variables[:VARIABLES]:
        where = " ".join(filter(None, (clean(one.function, 80), clean(one.source, 80))))
        view = "" if one.view == "value" else f" ({clean(one.view, 20)})"
        lines.append(_line(page, f"{clean(one.name, 80)}{view}: {_range(one.a_range)} → {_range(one.b_range)}", "bold"))
        said = [where, f"median {three(one.a_median)} → {three(one.b_median)}", f"q {words.q(one.q)}"]
        if one.since_ns is not None:
            said.append(f"since {duration(one.since_ns)} after the recording began")
        if one.cost_ns_per_token is not None:
            said.append(f"its function takes {words.change(one.cost_ns_per_token)} more per token")
        lines.append(_line(page, " · ".join(filter(None, said)), indent=3))
    if len(variables) > VARIABLES:
        lines.append(_line(page, f"{len(variables) - VARIABLES} more: --json", "dim"))
    return Group(*lines)


def _range(values: tuple[float, float]) -> str:
    low, high = values
    return three(low) if low == high else f"{three(low)} … {three(high)}"


def _causes(page: Page, diff: Diff) -> list[_Part]:
    """The first in full; what to do about the others is in --json."""
    parts: list[_Part] = []
    for number, cause in enumerate(diff.causes[:CAUSES], 1):
        claim = f"{number}. {clean(cause.claim, 200)}"
        if cause.share is not None:
            claim += f" ({cause.share * 100:.0f} % of the change)"
        lines: list[RenderableType] = [page.title("Why", "the likeliest first")] if number == 1 else []
        lines.append(_line(page, claim, "bold", most=2))
        said = "; ".join(clean(one, 160) for one in cause.evidence[:EVIDENCE])
        if number == 1:
            lines.append(_line(page, clean(cause.next, 200), indent=4, most=2))
        lines.append(
            _line(page, f"confidence {cause.confidence}: {said}", "dim", indent=4, most=3 if number == 1 else 1)
        )
        parts.append(_Part(Group(*lines), "other causes" if number > 1 else "", 2 * (number > 1)))
    if parts:
        more = len(diff.causes) - CAUSES
        parts.append(_Part(Group(_line(page, f"{more} more: --json", "dim"), "") if more > 0 else ""))
    return parts


def _line(page: Page, text: str, style: str = "", indent: int = 1, most: int = 0) -> Padding:
    """A line whose continuations begin where it does; cut to `most` lines, where that is not 0."""
    if most:
        room = max(page.width - indent - 1, 20)
        parts = textwrap.wrap(text, room)
        if len(parts) > most:
            text = "\n".join((*parts[: most - 1], f"{parts[most - 1][: room - 1]}…"))
    return Padding(page.text(text, style), (0, 0, 0, indent), expand=False)
