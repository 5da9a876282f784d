"""Events of resources from a live process: every one, with the values that the program had."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import losses
from flowprof.profiler.errors import NothingToProfileError
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning import plan
from flowprof.profiler.planning.plan import make_plan, unseen
from flowprof.profiler.resources.manifest import parse
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target
from recorded import read, recording_of
from resource_programs import built, recorded, wait_until_loaded

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

POOL = """
name = "pools"
modules = 'program'
[[resource]]
name = "unit"
kind = "memory"
capacity = 64
[[resource.event]]
event = "wait"
function = 'pool_get'
instance = "*(arg1):i64"
task = "arg3"
[[resource.event]]
event = "acquire"
function = 'pool_get'
at = "return"
no_unwind = NO_UNWIND
when = "ret != 0"
instance = "cast(pool, arg1).id"
unit = "ret"
units = "arg2"
task = "arg3"
[resource.event.variables]
free = "cast(pool, arg1).free_units"
small = "cast(pool, arg1).small"
uses = "*(global(uses)):i64"
none = "*(8):u8"
[[resource.event]]
event = "use"
function = 'pool_u.e'
instance = "*(arg1):i64"
unit = "arg2"
[[resource.event]]
event = "release"
function = 'pool_put'
instance = "*(arg1):i64"
unit = "arg2"
units = "arg3"
holder = "tid"
[[variable]]
name = "all uses"
expression = "*(global(uses)):i64"
period_ms = 20
[[variable]]
name = "second"
expression = "cast(pool, global(first)).next.id"
[[variable]]
name = "nowhere"
expression = "*(8):u8"
[[resource]]
name = "depth"
kind = "state"
[[resource.event]]
event = "acquire"
function = 'nested'
at = "return"
instance = "*(arg1):i64"
unit = "arg2"
"""
TASKS, TRIES, GOT = 4, 1000, 900


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("resources"), "pool_program.c", "-g")


@pytest.fixture(scope="module", params=["true", "false"], ids=["return-probe", "exits"])
def recording(request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "pools.duckdb"
    with recorded(program, path, parse(POOL.replace("NO_UNWIND", request.param), "pools.toml")) as (run, line):
        assert line == f"{TASKS * GOT}\n"
        assert [(site.probe.id, site.reason) for site in run.plan.sites if site.refused] == []
        time.sleep(0.2)  # its work is done in less than the globals' three looks take, and it stays
    assert run.progress.lost == 0
    return path


def test_every_event_is_there(recording: Path) -> None:
    rows = read(recording, "SELECT event, task, count(*) FROM resource_event WHERE resource_id = 1 GROUP BY ALL")
    found = {(event, task): count for event, task, count in rows}
    assert found == {
        **{("wait", task): TRIES for task in range(1, 5)},
        **{("acquire", task): GOT for task in range(1, 5)},
        **{("give-up", task): TRIES - GOT for task in range(1, 5)},
        ("use", None): TASKS * GOT,
        ("release", None): TASKS * GOT,
    }


def test_values_are_those_of_the_program(recording: Path) -> None:
    sql = "SELECT event, tid, instance, unit, units, task, holder FROM resource_event WHERE resource_id = 1"
    units = Counter()
    for event, tid, instance, unit, amount, task, holder in read(recording, sql):
        assert holder == (tid if event == "release" else None)
        if event in ("wait", "give-up"):
            assert (unit, amount) == (None, 1) and instance == (7 if task % 2 else 8)
        elif event == "acquire":
            assert amount == task and instance == (7 if task % 2 else 8)
            units[unit] += 1
        else:
            units[unit] -= event == "release"
    assert len(units) == TASKS and set(units.values()) == {0}  # each unit was given back as often as it was had


def test_variables_are_sampled_with_their_event(recording: Path) -> None:
    rows = read(
        recording,
        "SELECT name, count(*), count(value), min(value), max(value) "
        "FROM variable_sample JOIN variable USING (variable_id) WHERE tid IS NOT NULL GROUP BY name ORDER BY name",
    )
    by_name = {name: rest for name, *rest in rows}
    count = TASKS * GOT
    assert by_name["none"] == [count, 0, None, None]
    assert by_name["small"] == [count, count, -3, -2]
    assert by_name["uses"][:3] == [count, count, 0] and by_name["uses"][3] < count
    assert by_name["free"][:2] == [count, count] and by_name["free"][3] < 64
    assert read(recording, "SELECT sum(events) FROM loss WHERE place = 'resource_value'") == [(count,)]
    with Recording.open(str(recording)) as opened:
        assert not losses.analyze(opened).value.withheld, "the events themselves are all there"


def test_variables_are_sampled_now_and_then(recording: Path) -> None:
    sql = (
        "SELECT count(*), count(value), max(value), bool_and(tid IS NULL) FROM variable_sample JOIN variable "
        "USING (variable_id) WHERE resource_id IS NULL AND name = ?"
    )
    count, known, most, bare = read(recording, sql, "all uses")[0]
    assert count == known > 2 and most <= TASKS * GOT and bare
    count, known, most, _ = read(recording, sql, "second")[0]
    assert count == known > 0 and most == 8
    assert read(recording, sql, "nowhere")[0][1:3] == (0, None)


def test_events_lie_in_the_order_of_each_thread(recording: Path) -> None:
    sql = "SELECT tid, event FROM resource_event WHERE resource_id = 1 ORDER BY tid, at_ns"
    follows = {
        "wait": {"acquire", "give-up"},
        "give-up": {"wait"},
        "acquire": {"use"},
        "use": {"release"},
        "release": {"wait"},
    }
    rows = read(recording, sql)
    for (tid, event), (next_tid, following) in itertools.pairwise(rows):
        assert next_tid != tid or following in follows[event]


def test_large_units_are_not_cut(program: Path, tmp_path: Path) -> None:
    """A tensor of 6 GiB and a page; what is negative counts nothing."""
    for units, told in (("0x180001000", 0x180001000), ("0x7fffffff", 0x7FFFFFFF), ("0 - 8", 0)):
        path = tmp_path / "units.duckdb"
        text = POOL.replace("NO_UNWIND", "true").replace('units = "arg3"', f'units = "{units}"')
        with recorded(program, path, parse(text, "pools.toml")):
            pass
        sql = "SELECT DISTINCT units FROM resource_event WHERE event = 'release'"
        assert read(path, sql) == [(told,)]
        path.unlink()


def test_it_ends_when_its_probes_are_detached(recording: Path) -> None:
    """What is written after that takes a second or more: no wait lasts that much longer."""
    ((last,),) = read(recording, "SELECT max(end_ns) FROM probe_window")
    assert read(recording, "SELECT value FROM meta WHERE key = 'stopped_ns'") == [(str(last),)]


def test_calls_within_calls(recording: Path) -> None:
    """16 frames are kept for a thread: the others are counted, and none is paired with another's arguments."""
    rows = read(recording, "SELECT unit FROM resource_event WHERE resource_id = 2 ORDER BY at_ns")
    depths = [unit for (unit,) in rows]
    lost = read(recording, "SELECT coalesce(sum(events), 0) FROM loss WHERE place = 'resource_frame'")[0][0]
    assert len(depths) + lost == 30 and depths == sorted(depths)
    assert depths == list(range(30 - len(depths), 30))


@pytest.mark.parametrize("room", [True, False])
def test_a_library_that_is_loaded_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool) -> None:
    """Which nothing but a manifest knows: its function is probed from then on, and no call is counted twice.

    Where there is no room for its probes that is said, and what was there before goes on.
    """
    if not room:
        monkeypatch.setattr(plan, "MAX_TAPS", 2)
    library, source = tmp_path / "liblate.so", tmp_path / "late.c"
    source.write_text("long late_take(long unit) { return unit + 2; }\n")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    text = "name = 'late'\nmodules = 'program|liblate.so'\n"
    for name in ("own", "late"):
        text += f"[[resource]]\nname = '{name}'\nkind = 'memory'\n[[resource.event]]\nevent = 'acquire'\n"
        text += f"function = '{name}_take'\nunit = 'arg1'\nstack = false\n"
    program, path = built(tmp_path, "late_program.c", "-ldl"), tmp_path / "late.duckdb"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin and running.stdout
        try:
            wait_until_loaded(running.pid)
            manifests = (parse(text, "late.toml"),)
            with recording_of([running.pid], path, manifests=manifests, levels=("token",)) as run:
                print(library, file=running.stdin, flush=True)
                assert running.stdout.readline() == "done\n"
                deadline = time.monotonic() + 60
                (process,) = run.recorder.session.processes.values()
                while library.stat().st_ino not in {inode for inode, _ in process.seen}:
                    assert time.monotonic() < deadline, "the library is not seen"
                    time.sleep(0.05)
                while room and not any(site.symbol == "late_take" for site in run.recorder.session.sites):
                    assert time.monotonic() < deadline, "the library is not probed"
                    time.sleep(0.05)
                time.sleep(0.5)  # the site is known before its probe is in place
                print(100, file=running.stdin, flush=True)
                assert running.stdout.readline() == "done\n"
        finally:
            running.kill()
    counted = "SELECT name, count(*), count(DISTINCT unit) FROM resource_event JOIN resource USING (resource_id) "
    late = [("late", 100, 100)] if room else []
    assert read(path, counted + "GROUP BY name ORDER BY name") == [*late, ("own", 100, 100)]
    notes = [detail for (detail,) in read(path, "SELECT detail FROM event_note WHERE what = 'not probed'")]
    assert notes == (
        [] if room else [f"{library}: with it there would be 2 events of resources; 1 can be recorded at once"]
    )


@pytest.mark.parametrize(
    ("bound", "line", "why"),
    [
        ('build_ids = ["abcdef"]', 3, "program is build [0-9a-f]+, the manifest is for others"),
        (
            "versions = '>= 3, < 4'\nversion_text = 'program (.*)'",
            3,
            "program is version 2.7.1, the manifest is for >= 3",
        ),
        ("versions = '>= 3'", 3, "program does not tell its version, the manifest is for >= 3"),
    ],
)
def test_a_manifest_for_another_build_is_refused(
    program: Path, tmp_path: Path, bound: str, line: int, why: str
) -> None:
    text = POOL.replace("NO_UNWIND", "true").replace("modules =", f"{bound}\nmodules =")
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        try:
            wait_until_loaded(running.pid)
            manifests = (parse(text, "pools.toml"),)
            sites = make_plan([open_target(running.pid)], kernel.version(), (), manifests=manifests).sites
            assert len(sites) == 1, "said once, and nothing of it is used"
            with (
                pytest.raises(NothingToProfileError, match=rf"pools\.toml:{line}: {why}"),
                recording_of([running.pid], tmp_path / "x.duckdb", manifests=manifests),
            ):
                pass
        finally:
            running.kill()


def test_of_several_files_those_that_fit_are_used(program: Path) -> None:
    """And where they lack a function it is said which file was left out."""
    text = POOL.replace("NO_UNWIND", "true").replace("modules = 'program'", "modules = 'program|libc.so.6'")
    text = f"versions = '>= 2.7, < 2.8'\nversion_text = 'program (2.*)'\n{text}".replace("'pool_put'", "'getpid'")
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        try:
            wait_until_loaded(running.pid)
            manifests = (parse(text, "pools.toml"),)
            sites = make_plan([open_target(running.pid)], kernel.version(), (), manifests=manifests).sites
        finally:
            running.kill()
    (refused,) = [site for site in sites if site.refused]
    why = "no function has this name; libc.so.6 does not tell its version, the manifest is for >= 2.7, < 2.8"
    assert refused.symbol == "getpid" and why in refused.reason


def test_a_manifest_for_this_version_is_used(program: Path) -> None:
    bound = "versions = '>= 2.7, < 3'\nversion_text = 'program (.*)'\n"
    manifests = (parse(POOL.replace("NO_UNWIND", "true").replace("modules =", f"{bound}modules ="), "pools.toml"),)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        try:
            wait_until_loaded(running.pid)
            sites = make_plan([open_target(running.pid)], kernel.version(), (), manifests=manifests).sites
        finally:
            running.kill()
    assert len([site for site in sites if not site.refused]) >= 4


def test_stacks_lead_from_the_event_to_its_callers(recording: Path) -> None:
    """Also where a return probe replaces the return address: it lies where the entry's does, and comes after it."""
    sql = "SELECT function, source, how FROM stack WHERE stack_id = ? ORDER BY frame"
    numbers = read(
        recording, "SELECT event, stack_id FROM resource_event WHERE resource_id = 1 GROUP BY ALL ORDER BY 1"
    )
    found = {event: read(recording, sql, number) for event, number in numbers if number is not None}
    assert set(found) == {"acquire", "wait"}
    for rows in found.values():
        assert rows[0][0] == "pool_get" and rows[0][2] == "exact"
        assert "clone" in rows[-1][0] and rows[-1][2] == "unwound"  # down to the thread's start
        assert rows[1][0] == "work" and rows[1][2] in ("unwound", "exact")
        assert Path(rows[1][1]).name.startswith("pool_program.c:")


def test_callers_of_one_wrapper_have_stacks_of_their_own(tmp_path: Path) -> None:
    """Without frame pointers, equally deep, above a buffer: a leak is not shown where another caller gives back.

    What merely points near the code is no caller: it would make each value another stack.
    """
    text = "name = 'p'\n[[resource]]\nname = 'unit'\nkind = 'memory'\n[[resource.event]]\nevent = 'acquire'\n"
    path, manifest = tmp_path / "wrapper.duckdb", parse(f"{text}function = 'pool_get'\n", "p.toml")
    with recorded(built(tmp_path, "wrapper_program.c"), path, manifest) as (_, line):
        assert line == "done\n"
    sql = (
        "SELECT function, count(*) FROM resource_event JOIN stack USING (stack_id) "
        "WHERE frame = ? GROUP BY function ORDER BY function"
    )
    assert read(path, sql, 1) == [("wrapped_get", 200)]
    assert read(path, sql, 2) == [("gives_back", 100), ("keeps", 100)]
    assert read(path, "SELECT count(DISTINCT stack_id) FROM resource_event") == [(2,)]


def test_returns_of_threads_that_were_forgotten_are_counted(tmp_path: Path) -> None:
    """5 000 threads are in one function at a time; what they called it with is kept for 4 096."""
    text = "name = 'p'\n[[resource]]\nname = 'unit'\nkind = 'memory'\n[[resource.event]]\nevent = 'acquire'\n"
    more = "function = 'pool_get'\nat = 'return'\nunit = 'arg1'\nstack = false\n"
    path = tmp_path / "crowd.duckdb"
    with recorded(built(tmp_path, "crowd_program.c"), path, parse(text + more, "p.toml")) as (_, line):
        assert line == "done\n"
    ((seen,),) = read(path, "SELECT count(DISTINCT unit) FROM resource_event")
    ((lost,),) = read(path, "SELECT coalesce(sum(events), 0) FROM loss WHERE place = 'resource_frame'")
    assert seen + lost == 5000 and seen <= 4096


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("'pool_u.e'", "'pool_[xyz]'", "no function has this name"),
        ("capacity = 64", 'capacity = "*(global(nothing)):u64"', "there is no symbol nothing"),
        ("capacity = 64", 'capacity = "arg1"', "only what does not depend on a call can be read now and then"),
        ("'pool_u.e'", "'many_.*'", "100 functions have such a name, 64 are probed: narrow it"),
        ('unit = "ret"', 'unit = "*(global(nothing)):u64"', "unit: there is no symbol nothing"),
        ('units = "arg2"', 'units = "cast(pool, arg1).size"', "units: no member size of pool in the debug information"),
        ('when = "ret != 0"', 'when = "ret"', "when: 'ret' compares nothing: it needs one of == != <= >= < >"),
        ('task = "arg3"', 'task = "ret"', "task: there is no ret at the entry"),
        ('unit = "ret"', 'unit = "arg9"', "unit: 'arg9' is no value; values are arg1 … arg6, ret, this, tid, "),
    ],
)
def test_what_a_target_cannot_tell_is_refused_with_its_line(program: Path, old: str, new: str, why: str) -> None:
    manifest = parse(POOL.replace("NO_UNWIND", "true").replace(old, new, 1), "pools.toml")
    line = next(i for i, text in enumerate(POOL.replace(old, new, 1).splitlines(), 1) if new in text)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        try:
            wait_until_loaded(running.pid)
            plan = make_plan([open_target(running.pid)], kernel.version(), (), manifests=(manifest,))
        finally:
            running.kill()
    refused = [site for site in plan.sites if site.refused]
    assert unseen(plan) == [f"pools: {refused[0].probe.id} cannot be seen: {refused[0].reason}"]
    assert len(refused) == 1 and why in refused[0].reason
    said = int(refused[0].reason.split(":")[1])
    assert line - 10 <= said <= line, "of the event's table"
    assert len([site for site in plan.sites if not site.refused]) >= 4, "the others stand"


def test_an_event_of_no_known_instance_is_a_loss(program: Path, tmp_path: Path) -> None:
    text = POOL.replace("NO_UNWIND", "true").replace('instance = "cast(pool, arg1).id"', 'instance = "*(8):u64"')
    with recorded(program, tmp_path / "x.duckdb", parse(text, "pools.toml")):
        pass
    sql = "SELECT count(*) FROM resource_event WHERE event = 'acquire' AND resource_id = 1"
    assert read(tmp_path / "x.duckdb", sql) == [(0,)]
    lost = "SELECT events FROM loss_by_place WHERE place = 'resource_instance'"
    assert read(tmp_path / "x.duckdb", lost) == [(TASKS * GOT,)]
