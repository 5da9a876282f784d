"""What the parts of the screen are made of: tables without boxes, titles, bars, and texts in the terminal's signs."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.summary import Summary
from flowprof.viewers.quantity import ascii_only, clean
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDE = 138  # columns from which tables stand side by side

Cell = str | Text


class Page:
    """`width` in columns; `ascii_only`: every other sign gets a stand-in."""

    def __init__(self, width: int, ascii_only: bool) -> None:
        self.width = width
        self.ascii_only = ascii_only
        self.bar_width = 6 if width >= WIDE else 8

    def table(self, *heads: str, bar: int = -1, names: int = 1) -> Table:
        """The first `names` columns and the one numbered `bar` are flush left, numbers flush right.

        Where there is no room for all, names become shorter, and no number does.
        """
        table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False, header_style="dim")
        for number, head in enumerate(heads):
            table.add_column(
                Text(self.plain(head), no_wrap=True), no_wrap=number >= names,
                justify="left" if number < names or number == bar else "right",
                overflow="ellipsis" if not self.ascii_only else "crop",
            )  # fmt: skip
        return table

    def row(self, table: Table, *cells: Cell, style: str = "") -> None:
        texts = [cell if isinstance(cell, Text) else Text(self.plain(cell)) for cell in cells]
        for text in texts:
            text.no_wrap = True
        table.add_row(*texts, style=style)

    def bar(self, share: float) -> Text:
        halves = round(max(0.0, min(1.0, share)) * self.bar_width * 2)
        return Text(self.plain("█" * (halves // 2) + "▌" * (halves % 2)).ljust(self.bar_width), style="cyan")

    def phase(self, phase: str) -> Text:
        return Text(self.plain(clean(phase, 20)), style="bold cyan")

    def title(self, title: str, note: str) -> Text:
        text = Text(title, style="bold underline")
        if note:
            text.append(self.plain(f"  {note}"), style="not underline not bold dim")
        return text

    def text(self, text: str, style: str = "") -> Text:
        return Text(self.plain(text), style=style)

    def plain(self, text: str) -> str:
        """With stand-ins where the terminal lacks signs."""
        if not self.ascii_only:
            return text
        return ascii_only(text)

    def missing(self, report: Report, name: str) -> RenderableType | None:
        """Why a section is not there."""
        outcome = report.section(name)
        summary = report.get(Summary)
        if summary is not None and not summary.phases:
            return None  # already said: nothing was executed
        words = "skipped" if outcome.status == "skipped" else "failed"
        return Group(self.title(outcome.title, ""), self.text(f" {words}: {clean(outcome.reason)}", "dim"))


def inset(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 1), expand=False)


def spaced(parts: list[RenderableType]) -> list[RenderableType]:
    """An empty line between each two."""
    return [line for part in parts for line in (part, "")][:-1]
