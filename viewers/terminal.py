"""The report on one screen of a terminal: rich tables without boxes, good from 80 columns on, plain when piped.

Colours follow the terminal and NO_COLOR (rich's rules). On a terminal that cannot show UTF-8 every sign has an ASCII
stand-in. Names from the target are cleaned before they are shown.
"""

from __future__ import annotations

from typing import TextIO

from flowprof.profiler.findings import Finding
from flowprof.profiler.report import Report
from flowprof.profiler.sections import (
    BlockTable,
    Coverage,
    LayerTable,
    Losses,
    OperatorTable,
    Overhead,
    RequestTable,
    Summary,
    ThreadTable,
)
from flowprof.viewers.quantity import clean, count, duration, many, percent, rate, size, slowdown
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDE = 138  # columns from which tables stand side by side
OPERATOR_ROWS = {0: 7, 1: 4}  # of the phase with most time, of the next; 3 of the others
LAYER_ROWS = 4
THREAD_ROWS = 8
FINDINGS = 4
MAX_COLUMNS = 160
UNATTRIBUTED = 0.02  # share of graph time outside operators that is worth a word
ASCII = str.maketrans({"µ": "u", "·": "-", "–": "-", "…": "..", "█": "#", "▌": ":", "×": "x", "≤": "<=", "▲": "!",
                       "●": "*", "−": "-", "\u00a0": " ", "→": "->", "Σ": "sum"})  # fmt: skip


Cell = str | Text


def show(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the report to `out`; `width` columns, or the terminal's (80 when piped)."""
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    if width is None and console.width > MAX_COLUMNS:
        console.width = MAX_COLUMNS
    page = _Page(console.width, ascii_only=not console.encoding.lower().startswith("utf"))
    for part in page.parts(report):
        console.print(part)


class _Page:
    def __init__(self, width: int, ascii_only: bool) -> None:
        self.width = width
        self.ascii_only = ascii_only
        self.bar_width = 6 if width >= WIDE else 8

    def parts(self, report: Report) -> list[RenderableType]:
        parts: list[RenderableType] = [self._head(report), ""]
        summary = report.get(Summary)
        if summary is not None and summary.phases:
            parts += [self._phases(summary), ""]
        elif summary is not None:
            parts += [self._text("No graph was executed while this was recorded: no tokens, no operators.\n"
                                 "Record again while the model generates.", "yellow"), ""]  # fmt: skip
        left = [part for part in (self._operators(report),) if part is not None]
        right = [part for part in (self._blocks(report), self._layers(report), self._threads(report)) if part]
        if self.width >= WIDE and left and right:
            sides = Table.grid(padding=(0, 3), expand=False)
            sides.add_row(Group(*left), Group(*_spaced(right)))
            parts += [sides, ""]
        else:
            parts += _spaced([*left, *right])
            if left or right:
                parts.append("")
        parts.append(self._recording(report))
        if report.findings:
            parts += ["", self._findings(report.findings)]
        return parts

    # ------------------------------------------------------------------ head

    def _head(self, report: Report) -> Text:
        source, summary = report.source, report.get(Summary)
        first = [f"flowprof {source.flowprof_version}".strip(), source.file]
        second: list[str] = []
        third: list[str] = []
        if summary is not None:
            for model in summary.models[:2]:
                second += [
                    clean(model.architecture, 40) or "unknown model",
                    f"{many(model.parameters)} parameters" if model.parameters else "",
                    f"{model.layers} layers" if model.layers else "",
                    f"{model.experts} experts" if model.experts else "",
                    f"{size(model.weight_bytes)} {clean(model.weight_types, 30)}" if model.weight_bytes else "",
                ]
            engines = {f"{clean(item.engine, 30)} {clean(item.engine_version, 30)}".strip() for item in summary.modules}
            second += sorted(engines)[:3]
            third += [f"{clean(item.exe.rsplit('/', 1)[-1], 40)} (pid {item.pid})" for item in summary.processes[:2]]
            first.append(f"{duration(summary.duration_ns)} recorded")
        third += [clean(source.host, 40), clean(source.cpu_model, 50)]
        third.append(f"{source.cpus} processors" if source.cpus else "")
        text = Text()
        for line, style in ((first, "bold"), (second, ""), (third, "dim")):
            words = [word for word in line if word]
            if words:
                text.append(self._plain(" · ".join(words)) + "\n", style=style)
        if not source.clean_end:
            text.append("The recorder was cut off: all but the last batch is here.\n", style="yellow")
        text.rstrip()
        return text

    def _phases(self, summary: Summary) -> RenderableType:
        latency = summary.latency
        line = Text()
        line.append(self._plain(f"{count(summary.tokens)} tokens"), style="bold")
        line.append(self._plain(f" in {count(summary.graphs)} graphs"))
        if latency.ttft_count:
            where = "" if latency.ttft_source == "requests" else " (prefill graphs only)"
            line.append(self._plain(f" · TTFT {duration(latency.ttft_p50_ns)}"), style="bold")
            line.append(self._plain(f" p99 {duration(latency.ttft_p99_ns)}{where}"))
        if latency.tpot_count:
            line.append(self._plain(f" · TPOT {duration(latency.tpot_p50_ns)}"), style="bold")
            line.append(self._plain(f" p99 {duration(latency.tpot_p99_ns)}"))
        table = self._table("phase", "tokens", "graphs", "in graphs", "share", "tokens/s", "graph p50", "p99")
        for phase in summary.phases:
            self._row(table, self._phase(phase.phase), count(phase.tokens), count(phase.graphs),
                      duration(phase.total_ns), percent(phase.share), rate(phase.tokens_per_s),
                      duration(phase.graph_p50_ns), duration(phase.graph_p99_ns))  # fmt: skip
        return Group(line, "", table)

    # ------------------------------------------------------------------ operators and groups

    def _operators(self, report: Report) -> RenderableType | None:
        section = report.get(OperatorTable)
        if section is None:
            return self._missing(report, "operators")
        tables: list[RenderableType] = [self._title("Operators", "wall time on the first thread")]
        unattributed = dict(section.unattributed)
        for number, item in enumerate(section.coverage):
            rows = [row for row in section.rows if row.phase == item.phase]
            tables.append(self._covered(item, unattributed.get(item.phase, 0.0)))
            if not rows:
                continue
            keep = OPERATOR_ROWS.get(number, 3)
            table = self._table("operator", "block", "share", "", "time", "calls", "p50", "p99", bar=3, names=2)
            for row in rows[:keep]:
                self._row(table, clean(row.op, 24), clean(row.block, 12), percent(row.share), self._bar(row.share),
                          duration(row.total_ns), count(row.calls), duration(row.p50_ns),
                          duration(row.p99_ns))  # fmt: skip
            if len(rows) > keep:
                rest = rows[keep:]
                share = sum(row.share for row in rest)
                self._row(table, f"{len(rest)} more", "", percent(share), self._bar(share),
                          duration(sum(row.total_ns for row in rest)), count(sum(row.calls for row in rest)), "", "",
                          style="dim")  # fmt: skip
            tables.append(_inset(table))
        return Group(*tables)

    def _blocks(self, report: Report) -> RenderableType | None:
        section = report.get(BlockTable)
        if section is None or not section.rows:
            return None
        phases = list(dict.fromkeys(row.phase for row in section.rows))[:2]
        wide = self.width >= WIDE  # beside the operators: no room for p99
        heads = [head for phase in phases for head in (phase, "", "p50", *(() if wide else ("p99",)))]
        table = self._table("block", *heads, bar=2)
        found = {(row.group, row.phase): row for row in section.rows}
        for block in list(dict.fromkeys(row.group for row in section.rows))[:8]:
            cells: list[Cell] = []
            for phase in phases:
                row = found.get((block, phase))
                if row is None:
                    cells += [""] * (3 if wide else 4)
                    continue
                bar = self._bar(row.share) if phase == phases[0] else ""
                cells += [percent(row.share), bar, duration(row.p50_ns)]
                if not wide:
                    cells.append(duration(row.p99_ns))
            self._row(table, clean(block, 12), *cells)
        return Group(self._title("Blocks", "share of the phase, time per graph"), _inset(table))

    def _layers(self, report: Report) -> RenderableType | None:
        section = report.get(LayerTable)
        if section is None or not section.rows:
            return None
        phase = section.rows[0].phase
        rows = sorted((row for row in section.rows if row.phase == phase), key=lambda row: -row.total_ns)
        inside = [row for row in rows if row.group.isdigit()]
        table = self._table("layer", "share", "", "time", "p50", "p99", bar=2)
        for row in inside[:LAYER_ROWS]:
            self._row(table, row.group, percent(row.share), self._bar(row.share), duration(row.total_ns),
                      duration(row.p50_ns), duration(row.p99_ns))  # fmt: skip
        rest = inside[LAYER_ROWS:]
        if rest:
            low, high = min(row.p50_ns for row in rest), max(row.p50_ns for row in rest)
            share = sum(row.share for row in rest)
            self._row(table, f"{len(rest)} more", percent(share), self._bar(share),
                      duration(sum(row.total_ns for row in rest)), f"{duration(low)} –", duration(high),
                      style="dim")  # fmt: skip
        for row in rows:
            if not row.group.isdigit():
                self._row(table, "outside", percent(row.share), self._bar(row.share), duration(row.total_ns),
                          duration(row.p50_ns), duration(row.p99_ns), style="dim")  # fmt: skip
        return Group(self._title("Layers", f"{phase}, slowest first, per graph"), _inset(table))

    # ------------------------------------------------------------------ threads

    def _threads(self, report: Report) -> RenderableType | None:
        section = report.get(ThreadTable)
        if section is None:
            return self._missing(report, "threads")
        phase = section.rows[0].phase
        rows = [row for row in section.rows if row.phase == phase]
        item = next(item for item in section.coverage if item.phase == phase)
        table = self._table("thread", "tid", "wait", "", "compute/token", "wait/token", bar=3)
        chosen = rows if len(rows) <= THREAD_ROWS else sorted(rows, key=lambda row: -row.wait_share)[:THREAD_ROWS]
        for row in chosen:
            self._row(table, str(row.ith), str(row.tid), percent(row.wait_share), self._bar(row.wait_share),
                      duration(row.compute_ns_per_token), duration(row.wait_ns_per_token))  # fmt: skip
        if len(rows) > len(chosen):
            self._row(table, f"{len(rows) - len(chosen)} more", "", "", "", "", "", style="dim")
        note = f"{phase}: barrier wait, {count(item.graphs_measured)} of {count(item.graphs)} graphs"
        return Group(self._title("Threads", note), _inset(table))

    # ------------------------------------------------------------------ honesty

    def _recording(self, report: Report) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        source = report.source
        if source.rung:
            reason = f" · {clean(source.rung_reason)}" if source.rung_reason else ""
            table.add_row("rung", self._plain(f"{clean(source.rung, 60)}{reason}"))
        losses = report.get(Losses)
        if losses is not None:
            text = "none" if not losses.total else (
                f"{count(losses.total)} events ({percent(losses.share)}): "
                + ", ".join(f"{count(events)} {clean(place, 30)}" for place, events, _ in losses.by_place[:4])
            )  # fmt: skip
            table.add_row("losses", Text(self._plain(text), style="red" if losses.withheld else ""))
        table.add_row("overhead", self._overhead(report))
        requests = report.get(RequestTable)
        if requests is not None:
            table.add_row("requests", self._plain(
                f"{count(requests.count)}, {count(requests.finished)} finished, at most {requests.most_at_once} at once"
                f" · {duration(requests.dur_p50_ns)} p50, {duration(requests.dur_p99_ns)} p99"
            ))  # fmt: skip
        for outcome in report.sections:
            if outcome.status == "failed":
                table.add_row(outcome.name, Text(self._plain(f"failed: {clean(outcome.reason)}"), style="red"))
        summary = report.get(Summary)
        if summary is not None:
            for note in summary.notes[:3]:
                table.add_row("note", self._plain(clean(note)))
        return Group(self._title("Recording", ""), _inset(table))

    def _overhead(self, report: Report) -> str:
        overhead = report.get(Overhead)
        if overhead is None:
            return self._plain(clean(report.section("overhead").reason))
        text = slowdown(overhead.ratio, overhead.ci95) if overhead.ratio is not None else overhead.reason
        if overhead.ratio is not None and overhead.windows:
            text += f" of decode, from {overhead.windows} windows"
        elif overhead.ratio is not None:
            text = overhead.reason
        for level in overhead.levels:
            if level.ratio is not None:
                text += f" · {level.level} {(level.ratio - 1) * 100:+.1f} % for {percent(level.time_share)} of the time"
        if overhead.modelled_ratio is not None:
            text += f" · modelled {(overhead.modelled_ratio - 1) * 100:.2f} % of processor time"
        return self._plain(text)

    def _findings(self, findings: tuple[Finding, ...]) -> RenderableType:
        parts: list[RenderableType] = [self._title("Findings", "")]
        for finding in findings[:FINDINGS]:
            text = Text()
            text.append(self._plain("▲ " if finding.severity == "problem" else "● "),
                        style="yellow" if finding.severity == "problem" else "cyan")  # fmt: skip
            text.append(self._plain(clean(finding.claim, 300)), style="bold")
            if finding.cost_ns_per_token is not None:
                text.append(self._plain(f" (≤ {duration(finding.cost_ns_per_token)} per token)"))
            text.append(self._plain(f"\n{clean(finding.advice, 400)}\n"))
            text.append(self._plain(clean("; ".join(finding.evidence), 400)), style="dim")
            text.append(self._plain(f" · confidence {finding.confidence}"), style="dim")
            parts.append(Padding(text, (0, 0, 0, 1)))
        if len(findings) > FINDINGS:
            parts.append(self._text(f" {len(findings) - FINDINGS} more in --html and --json", "dim"))
        return Group(*parts)

    # ------------------------------------------------------------------ pieces

    def _missing(self, report: Report, name: str) -> RenderableType | None:
        outcome = report.section(name)
        summary = report.get(Summary)
        if summary is not None and not summary.phases:
            return None  # already said: nothing was executed
        words = "skipped" if outcome.status == "skipped" else "failed"
        return Group(self._title(outcome.title, ""), self._text(f" {words}: {clean(outcome.reason)}", "dim"))

    def _covered(self, item: Coverage, outside: float) -> Text:
        text = Text(f" {item.phase}", style="bold cyan")
        if not item.graphs_measured:
            text.append(self._plain(f"  none of {count(item.graphs)} graphs measured: record longer"), style="dim")
        elif item.graphs_measured == item.graphs:
            text.append(self._plain(f"  all {count(item.graphs)} graphs, {count(item.tokens)} tokens"), style="dim")
        else:
            text.append(self._plain(f"  from {count(item.tokens_measured)} of {count(item.tokens)} tokens, "
                                    f"scaled to all"), style="dim")  # fmt: skip
        if outside > UNATTRIBUTED:
            text.append(self._plain(f"  {percent(outside)} of the time outside operators"), style="yellow")
        return text

    def _table(self, *heads: str, bar: int = -1, names: int = 1) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False, header_style="dim")
        for number, head in enumerate(heads):
            table.add_column(self._plain(head), justify="left" if number < names or number == bar else "right",
                             no_wrap=True, overflow="ellipsis" if not self.ascii_only else "crop")  # fmt: skip
        return table

    def _row(self, table: Table, *cells: Cell, style: str = "") -> None:
        table.add_row(*(cell if isinstance(cell, Text) else Text(self._plain(cell)) for cell in cells), style=style)

    def _bar(self, share: float) -> Text:
        halves = round(max(0.0, min(1.0, share)) * self.bar_width * 2)
        return Text(self._plain("█" * (halves // 2) + "▌" * (halves % 2)).ljust(self.bar_width), style="cyan")

    def _phase(self, phase: str) -> Text:
        return Text(self._plain(clean(phase, 16)), style="bold cyan")

    def _title(self, title: str, note: str) -> Text:
        text = Text(title, style="bold underline")
        if note:
            text.append(self._plain(f"  {note}"), style="not underline not bold dim")
        return text

    def _text(self, text: str, style: str = "") -> Text:
        return Text(self._plain(text), style=style)

    def _plain(self, text: str) -> str:
        if not self.ascii_only:
            return text
        return text.translate(ASCII).encode("ascii", "backslashreplace").decode("ascii")


def _inset(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 1), expand=False)


def _spaced(parts: list[RenderableType]) -> list[RenderableType]:
    spaced: list[RenderableType] = []
    for part in parts:
        spaced += [part, ""]
    return spaced[:-1]
