"""What was recorded: file, model, engine, process and host."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.summary import Summary
from flowprof.viewers.quantity import clean, duration, many, size
from flowprof.viewers.terminal.page import Page
from rich.text import Text


def draw(page: Page, report: Report) -> Text:
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
    third += [clean(source.host, 40), clean(source.cpu_model, 50), clean(source.gpu_model, 50)]
    third.append(f"{source.cpus} processors" if source.cpus else "")
    text = Text()
    for line, style in ((first, "bold"), (second, ""), (third, "dim")):
        words = [word for word in line if word]
        if words:
            text.append(page.plain(" · ".join(words)) + "\n", style=style)
    if not source.clean_end:
        text.append("The recorder was cut off: all but the last batch is here.\n", style="yellow")
    text.rstrip()
    return text
