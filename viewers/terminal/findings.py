"""The findings with the highest price."""

from __future__ import annotations

from flowprof.profiler.findings import Finding
from flowprof.viewers.quantity import clean, duration
from flowprof.viewers.terminal.page import Page
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

FINDINGS = 4


def draw(page: Page, findings: tuple[Finding, ...]) -> RenderableType:
    parts: list[RenderableType] = [page.title("Findings", "")]
    for finding in findings[:FINDINGS]:
        text = Text()
        text.append(page.plain("▲ " if finding.severity == "problem" else "● "),
                    style="yellow" if finding.severity == "problem" else "cyan")  # fmt: skip
        text.append(page.plain(clean(finding.claim, 300)), style="bold")
        if finding.cost_ns_per_token is not None:
            text.append(page.plain(f" (≤ {duration(finding.cost_ns_per_token)} per token)"))
        text.append(page.plain(f"\n{clean(finding.advice, 400)}\n"))
        text.append(page.plain(clean("; ".join(finding.evidence), 400)), style="dim")
        text.append(page.plain(f" · confidence {finding.confidence}"), style="dim")
        parts.append(Padding(text, (0, 0, 0, 1)))
    if len(findings) > FINDINGS:
        parts.append(page.text(f" {len(findings) - FINDINGS} more in --html and --json", "dim"))
    return Group(*parts)
