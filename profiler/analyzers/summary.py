"""Model, engine, tokens, time to first token (TTFT), time per output token (TPOT) and tokens/s per phase.

tokens/s is the engine's own speed: tokens over the time inside graph executions. TPOT is what a user sees: the end of
one decode step to the end of the next (sampling and the server's work included, pauses between requests not). TTFT
comes from the server's requests where its symbols allow, else from the prefill graphs, without the time in the queue.
"""

from __future__ import annotations

from typing import Any

from flowprof.profiler.analyzers.contract import Analyzer, Result, number, ratio
from flowprof.profiler.sections.summary import Latency, Model, Module, Phase, Process, Summary
from flowprof.profiler.store import Recording, read_sql

MAX_ROWS = 50  # of modules, processes and notes: a recording may hold any number
SPAN_SQL = """
SELECT count(*), count(*) FILTER (end_ns IS NULL), coalesce(sum(end_ns - start_ns), 0),
       min(start_ns), max(coalesce(end_ns, start_ns)) FROM graph_exec
"""
TTFT_SQL = """
SELECT count(ttft_ns), quantile_cont(ttft_ns, 0.5), quantile_cont(ttft_ns, 0.99) FROM request_duration
"""
MODULE_SQL = f"""
SELECT path, engine, engine_version, build_id, size_bytes FROM module ORDER BY module_id LIMIT {MAX_ROWS}
"""
MODEL_SQL = f"""
SELECT coalesce(name, architecture), parameters, layers, embedding, vocabulary, experts, weight_bytes, weight_types
FROM model LIMIT {MAX_ROWS}
"""
PROCESS_SQL = f"""
SELECT pid, exe, cmdline, cpus_allowed, ended_ns IS NOT NULL FROM process ORDER BY started_ns LIMIT {MAX_ROWS}
"""
NOTE_SQL = f"""
SELECT what, detail FROM event_note ORDER BY at_ns LIMIT {MAX_ROWS}
"""


def analyze(recording: Recording) -> Result:
    graphs, unfinished, busy, first, last = recording.rows(SPAN_SQL)[0]
    facts = recording.meta()
    span = _span(facts, first, last)
    rows = recording.rows(read_sql("phases.sql"))
    whole = sum(int(row[3]) for row in rows)
    phases = tuple(
        Phase(
            phase=phase,
            tokens=int(tokens),
            graphs=count,
            total_ns=int(total),
            tokens_per_s=ratio(int(tokens) * 1e9, total) if tokens else None,
            graph_p50_ns=number(p50),
            graph_p99_ns=number(p99),
            share=ratio(total, whole) or 0.0,
        )
        for phase, tokens, count, total, p50, p99 in rows
    )
    return Result(
        Summary(
            duration_ns=span,
            busy_ns=int(busy),
            graphs=graphs,
            tokens=sum(phase.tokens for phase in phases),
            operators_recorded=recording.rows("SELECT count(*) FROM op_exec")[0][0],
            unfinished_graphs=unfinished,
            phases=phases,
            latency=_latency(recording),
            modules=tuple(
                Module(_text(path), _text(engine), _text(version), _text(build), int(size or 0))
                for path, engine, version, build, size in recording.rows(MODULE_SQL)
            ),
            models=tuple(
                Model(_text(name), parameters, layers, embedding, vocabulary, experts, size, _text(types))
                for name, parameters, layers, embedding, vocabulary, experts, size, types in recording.rows(MODEL_SQL)
            ),
            processes=tuple(
                Process(pid, _text(exe), _text(command), cpus, ended)
                for pid, exe, command, cpus, ended in recording.rows(PROCESS_SQL)
            ),
            notes=tuple(
                f"{_text(what)}: {_text(detail)}" if detail else _text(what)
                for what, detail in recording.rows(NOTE_SQL)
            ),
        )
    )


def _span(facts: dict[str, str], first: int | None, last: int | None) -> int:
    try:
        return int(facts["stopped_ns"]) - int(facts["started_ns"])
    except (KeyError, ValueError):  # cut off: from what was seen
        return int(last - first) if first is not None and last is not None else 0


def _latency(recording: Recording) -> Latency:
    steps, tpot50, tpot99 = recording.rows(read_sql("tpot.sql"))[0]
    count, ttft50, ttft99 = recording.rows(TTFT_SQL)[0]
    source = "requests"
    if not count:
        count, ttft50, ttft99 = recording.rows(read_sql("ttft_graphs.sql"))[0]
        source = "graphs" if count else ""
    return Latency(
        tpot_p50_ns=number(tpot50),
        tpot_p99_ns=number(tpot99),
        tpot_count=steps,
        ttft_p50_ns=number(ttft50),
        ttft_p99_ns=number(ttft99),
        ttft_count=count,
        ttft_source=source,  # type: ignore[arg-type]
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


ANALYZER = Analyzer("summary", "Summary", (), analyze)
