"""How the recording was made: every probe site with its instruction, cost and hits, and the windows."""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import Analyzer, Result
from flowprof.profiler.sections.probes import Probes, Site, Window
from flowprof.profiler.store import Recording

MAX_SITES = 500
MAX_WINDOWS = 5000
SITE_SQL = f"""
SELECT coalesce(probe, ''), coalesce(level, ''), coalesce(kind, ''), coalesce(symbol, ''), coalesce(instruction, ''),
       coalesce(cost_class, ''), coalesce(status, ''), coalesce(reason, ''), hits, cost_ns
FROM probe_site ORDER BY status <> 'attached', hits DESC NULLS LAST, site_id LIMIT {MAX_SITES}
"""
WINDOW_SQL = f"""
SELECT window_id, level, start_ns - min(start_ns) OVER (), coalesce(end_ns - start_ns, 0),
       coalesce(graphs, 0), coalesce(tokens, 0), coalesce(losses, 0)
FROM probe_window ORDER BY start_ns LIMIT {MAX_WINDOWS}
"""
LEVEL_SQL = """
SELECT level, coalesce(sum(end_ns - start_ns), 0)::BIGINT, count(*) FROM probe_window GROUP BY level ORDER BY level
"""


def analyze(recording: Recording) -> Result:
    levels = recording.rows(LEVEL_SQL)
    return Result(
        Probes(
            sites=tuple(Site(*row) for row in recording.rows(SITE_SQL)),
            windows=tuple(Window(*row) for row in recording.rows(WINDOW_SQL)),
            window_count=sum(row[2] for row in levels),
            time_ns_by_level=tuple((row[0], row[1]) for row in levels),
        )
    )


ANALYZER = Analyzer("probes", "Probes and windows", (), analyze)
