"""Programs with a planted trouble and what is recorded of their resources: against what they know of themselves."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flowprof.examples
import pytest
from flowprof.examples.planted_resource import DECOY, PlantedResource, Program, build
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.resources.manifest import load
from recorded import read, recording_of
from undisturbed import DISTURBED

pytestmark = pytest.mark.parallel

FOLDER = Path(flowprof.examples.__path__[0])
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if "\nRESOURCE = " in path.read_text())
EVENTS = ("wait", "acquire", "use", "release")
LENGTH_S = 1.5
PER_WAIT_NS = 40_000  # two probes and two readings of the clock, on a machine that others use, too

Truth = Mapping[str, Any]


def planted(name: str) -> PlantedResource:
    found: PlantedResource = importlib.import_module(f"flowprof.examples.{name}").RESOURCE
    return found


def thread(truth: Truth, name: str) -> dict[str, Any]:
    return next(one for one in truth["threads"] if one["name"] == name)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 16 and len({planted(name).scenario for name in EXAMPLES}) == 16


@DISTURBED
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_program_knows_its_truth(name: str) -> None:
    """Without a recording: it runs, somebody waits where that is planted, and the decoy is the hottest function."""
    asked = planted(name)
    with Program(asked, LENGTH_S) as program:
        program.begin()
        truth = program.truth()
    threads = truth["threads"]
    assert {one["name"] for one in threads} >= {DECOY} and len({one["tid"] for one in threads}) == len(threads)
    totals = {event: sum(one["resources"][asked.resource][event] for one in threads) for event in EVENTS}
    assert totals["wait"] == totals["acquire"] > 0
    waited = sum(one["resources"][asked.resource]["wait_ns"] for one in threads)
    if asked.pathology in ("contention", "inefficient policy"):
        assert waited > 0.2 * LENGTH_S * 1e9
    if asked.pathology == "leak":
        assert 0 < totals["acquire"] - totals["release"] < totals["acquire"] / 50
    else:
        assert totals["release"] in (0, totals["acquire"])
    functions = 4 if asked.scenario == "slow-compute" else 1  # its work is in four, none of them hotter than the decoy
    others = max(one["cpu_ns"] / functions for one in threads if one["name"] != DECOY)
    assert thread(truth, DECOY)["cpu_ns"] > 0.8 * others
    assert truth["culprit"] or not asked.pathology or asked.scenario == "reuse"


@pytest.mark.parametrize("name", ["pools", "waits"])
def test_manifests_can_be_read(name: str) -> None:
    assert load(str(FOLDER / "resources" / f"{name}.toml")).name == name


def recorded(asked: PlantedResource, path: Path, seconds: float = LENGTH_S) -> Truth:
    """The program's whole work, recorded; what it says of it."""
    with Program(asked, seconds) as program:
        options = {"manifests": (load(asked.manifests),), "levels": ("token", "sched")}
        with recording_of([program.pid], path, **options) as run:
            program.begin()
            truth = program.truth()
        assert asked.stripped or not [site.reason for site in run.plan.sites if site.refused]
        assert run.progress.lost == 0
    return truth


WAITS = """
WITH own AS (
    SELECT tid, name, event, at_ns, lead(event) OVER w AS following, lead(at_ns) OVER w AS until_ns
    FROM resource_event JOIN resource USING (resource_id) WHERE event IN ('wait', 'acquire') AND {which}
    WINDOW w AS (PARTITION BY tid, name, instance ORDER BY at_ns)
)
SELECT tid, name, sum(until_ns - at_ns)::BIGINT, max(until_ns - at_ns)::BIGINT
FROM own WHERE event = 'wait' AND following = 'acquire' GROUP BY ALL
"""


@DISTURBED
@pytest.mark.bpf
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_recorded_is_what_happened(name: str, tmp_path: Path) -> None:
    asked, path = planted(name), tmp_path / "planted.duckdb"
    truth = recorded(asked, path)
    which = f"instance = {truth['address']}" if asked.stripped else "true"
    sql = (
        "SELECT tid, name, event, count(*) FROM resource_event JOIN resource USING (resource_id) "
        f"WHERE {which} GROUP BY ALL"
    )
    counted = {(tid, resource, event): count for tid, resource, event, count in read(path, sql)}
    stated = {
        (one["tid"], resource, event): tally[event]
        for one in truth["threads"]
        for resource, tally in one["resources"].items()
        for event in EVENTS
        if tally[event]
    }
    assert counted == stated
    untaken = "SELECT count(*) FROM resource_event WHERE stack_id IS NULL AND event IN ('wait', 'acquire')"
    assert read(path, untaken) == [(0,)]
    of_events = "FROM stack WHERE stack_id IN (SELECT stack_id FROM resource_event)"
    assert {how for (how,) in read(path, f"SELECT DISTINCT how {of_events}")} == {"exact", "unwound"}
    assert 1 <= read(path, f"SELECT count(DISTINCT stack_id) {of_events}")[0][0] <= 40
    waits = {(tid, resource): (total, most) for tid, resource, total, most in read(path, WAITS.format(which=which))}
    for one in truth["threads"]:
        for resource, tally in one["resources"].items():
            if tally["wait_ns"] > 10_000_000:
                total, most = waits[one["tid"], resource]
                assert abs(total - tally["wait_ns"]) <= 0.01 * tally["wait_ns"] + tally["wait"] * PER_WAIT_NS
                assert abs(most - tally["longest_wait_ns"]) <= 0.01 * tally["longest_wait_ns"] + 1_000_000


@pytest.mark.bpf
def test_a_recording_that_ends_within_a_wait(tmp_path: Path) -> None:
    """The holder is named by then; the waiting thread has asked and not got."""
    asked, path = planted("table_lock_held"), tmp_path / "open.duckdb"
    with Program(asked, 30) as program:
        with recording_of([program.pid], path, manifests=(load(asked.manifests),), levels=("token",)):
            program.begin()
            time.sleep(1)
        names = {
            int(task.name): (task / "comm").read_text().strip() for task in Path(f"/proc/{program.pid}/task").iterdir()
        }
    sql = (
        "SELECT tid, event, holder FROM resource_event JOIN resource USING (resource_id) "
        "WHERE name = 'table' AND event <> 'use' ORDER BY at_ns"
    )
    rows = [(names[tid], event, names.get(holder)) for tid, event, holder in read(path, sql)]
    assert rows == [("alter", "wait", None), ("alter", "acquire", None), ("insert", "wait", "alter")]


@pytest.mark.bpf
def test_an_address_has_two_types(tmp_path: Path) -> None:
    path = tmp_path / "reuse.duckdb"
    recorded(planted("reused_address"), path)
    sql = (
        "SELECT name, unit FROM resource_event JOIN resource USING (resource_id) WHERE event = 'acquire' ORDER BY at_ns"
    )
    rows = read(path, sql)
    assert len({unit for _, unit in rows}) == 1
    assert [name for name, _ in rows] == ["session", "job"] * (len(rows) // 2)


STACKS = """
SELECT event, task, (SELECT list(function ORDER BY frame) FROM stack s WHERE s.stack_id = e.stack_id),
       (SELECT list(source ORDER BY frame) FROM stack s WHERE s.stack_id = e.stack_id),
       (SELECT count(*) FROM resource_event r WHERE r.event = 'release' AND r.unit = e.unit AND r.at_ns > e.at_ns)
FROM resource_event e WHERE event IN ('wait', 'acquire')
"""


@pytest.mark.bpf
def test_leaks_have_where_they_were_got(tmp_path: Path) -> None:
    """Requests that fail have another stack than those that are served, and are those whose handle stays."""
    path = tmp_path / "leak.duckdb"
    truth = recorded(planted("leaked_handle"), path, 3)
    rows = read(path, STACKS)
    assert len(rows) > 100
    for _, task, functions, sources, _ in rows:
        caller = "serve_request" if task % 100 else "fail_request"
        assert functions[:4] == ["handle_get", caller, "serve", "run_thread"]
        assert all(re.search(r"(pools\.c|planted\.h):\d+$", source) for source in sources[:4])
    tallies = [one["resources"]["handle"] for one in truth["threads"]]
    distinct = "SELECT count(DISTINCT first_id) FROM resource_event JOIN equal_stack USING (stack_id)"
    assert read(path, distinct) == [(2 * 2,)]  # waits and acquires of two callers
    leaked = {task for event, task, *_, later in rows if event == "acquire" and not later and task % 100 == 0}
    assert len(leaked) == sum(t["acquire"] - t["release"] for t in tallies) > 0


@pytest.mark.bpf
def test_a_program_without_symbols_has_stacks(tmp_path: Path) -> None:
    """The library's function is named, the program's own are addresses: those of the same program with symbols."""
    path, asked = tmp_path / "stripped.duckdb", planted("no_symbols")
    truth = recorded(asked, path)
    sql = (
        "SELECT DISTINCT tid, frame, module, address, function FROM resource_event JOIN stack USING (stack_id) "
        f"WHERE event = 'wait' AND instance = {truth['address']} AND frame < 3 ORDER BY ALL"
    )
    symbols = ElfFile(str(build("waits"))).symbols()
    for one in truth["threads"]:
        if one["name"] == DECOY:
            continue
        frames = [row[1:] for row in read(path, sql) if row[0] == one["tid"]]
        assert [frame[0] for frame in frames] == [0, 1, 2]
        assert "mutex_lock" in frames[0][3] and frames[0][1].endswith("libc.so.6")
        assert [frame[3] for frame in frames[1:]] == [None, None]
        found = [symbols.at(frame[2]) for frame in frames[1:]]
        assert [symbol and symbol.name for symbol in found] == [f"{one['name']}_mutex", "run_thread"]


@DISTURBED
@pytest.mark.bpf
def test_who_wakes_whom(tmp_path: Path) -> None:
    """By a timer nobody is named, by a thread that thread, as often as it did."""
    path = tmp_path / "woken.duckdb"
    truth = recorded(planted("woken_by"), path)
    by_timer, by_thread, waker = (thread(truth, name)["tid"] for name in ("by timer", "by thread", "waker"))
    sql = "SELECT by_tid, count(*) FROM thread_state WHERE state = 'sleeping' AND tid = ? GROUP BY ALL"
    times = thread(truth, "by timer")["resources"]["timer"]["wait"]
    assert times > 50
    timers, threads = (dict(read(path, sql, tid)) for tid in (by_timer, by_thread))
    assert timers.get(0, 0) >= 0.95 * times and waker not in timers
    assert threads.get(waker, 0) >= 0.95 * times and threads.get(0, 0) <= 0.05 * times


@DISTURBED
@pytest.mark.bpf
def test_waits_for_the_disk(tmp_path: Path) -> None:
    """A sleeps until B wakes it, B waits for the disk, and C sleeps longest."""
    path = tmp_path / "disk.duckdb"
    truth = recorded(planted("waits_for_disk"), path)
    a, b, c = (thread(truth, name)["tid"] for name in "ABC")
    sql = "SELECT state, by_tid, sum(end_ns - start_ns)::BIGINT FROM thread_state WHERE tid = ? GROUP BY ALL"
    spent = {tid: {(state, by): ns for state, by, ns in read(path, sql, tid)} for tid in (a, b, c)}
    slept = spent[a]["sleeping", b]
    assert slept > 0.5 * LENGTH_S * 1e9
    assert sum(ns for (state, _), ns in spent[b].items() if state == "disk") > 0.3 * slept
    assert spent[c]["sleeping", 0] > slept
