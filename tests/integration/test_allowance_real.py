"""A lock that is taken all the time: under the default budget its probes are taken off, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowprof.profiler.report import build_report
from flowprof.profiler.resources.manifest import load
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from resource_programs import built, started, work

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]
LAST_SQL = """
    SELECT name, max(at_ns), any_value(until_ns) FROM resource JOIN resource_event USING (resource_id)
    WHERE name IN ('mutex', 'rwlock') GROUP BY name ORDER BY name
"""


@pytest.mark.parametrize("budget", [0.01, None])
def test_what_takes_too_much_time_is_given_up(tmp_path: Path, budget: float | None) -> None:
    path = tmp_path / "dear.duckdb"
    options = {"manifests": (load("pthread"),), "levels": ("token", "graph"), "budget": budget}
    with started(built(tmp_path, "dear_program.c")) as running, recording_of([running.pid], path, **options):
        taken = [int(word) for word in work(running).split()]
    (_, last_mutex, until_mutex), (_, last_rwlock, until_rwlock) = read(path, LAST_SQL)
    ((stopped,),) = read(path, "SELECT value::BIGINT FROM meta WHERE key = 'stopped_ns'")
    notes = read(path, "SELECT detail FROM event_note WHERE what = 'given up'")
    assert until_rwlock is None and last_rwlock > stopped - 1e9, "what costs little is recorded to the end"
    if budget is None:
        assert until_mutex is None and last_mutex > stopped - 1e9 and notes == []
        return
    assert last_mutex < until_mutex < stopped - 1e9
    assert taken[-1] > 3 * taken[0], "it is as fast again as it was"
    ((note,),) = notes
    assert note.startswith("pthread: mutex: ") and "of the time of thread" in note
    with Recording.open(str(path)) as opened:
        table = build_report(opened).get(ResourceTable)
    assert table is not None
    assert any(note.startswith("mutex: observed for") for note in table.notes)
    rows = {row.resource: row for row in table.resources}
    assert rows["mutex"].observed_ns < rows["rwlock"].observed_ns == table.span_ns
