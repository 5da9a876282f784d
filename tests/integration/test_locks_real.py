"""Locks of the C library and of the kernel, seen in live programs: who has them, who waits, who gives up."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch_engine
from flowprof.profiler.blame import reading, thresholds, waits
from flowprof.profiler.blame.study import study
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.report import build_report
from flowprof.profiler.resources.manifest import SHIPPED, load, parse
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target
from recorded import read, recording_of
from resource_programs import built, recorded, started, work
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

KEPT, WOKEN = 5, 6  # as condition_program.c
GIVEN_UP = 5  # as timeout_program.c
GOT_IT = (
    "SELECT {by}, count(*) FROM resource_event JOIN resource USING (resource_id) WHERE event = 'acquire' "
    "GROUP BY 1 ORDER BY 1"
)


def test_two_manifests_see_the_ends_of_one_system_call(tmp_path: Path) -> None:
    path, text = tmp_path / "twice.duckdb", (SHIPPED / "futex.toml").read_text()
    again = parse(text.replace('name = "futex"', 'name = "again"'), "again.toml")
    with recorded(built(tmp_path, "lock_program.c"), path, load("futex"), again):
        pass
    (one, many), (other, more) = read(path, GOT_IT.format(by="manifest"))
    assert (one, other) == ("again", "futex") and many == more > 10


def test_two_processes_wait_in_one_system_call(tmp_path: Path) -> None:
    program, path = built(tmp_path, "lock_program.c"), tmp_path / "two.duckdb"
    with ExitStack() as both:
        running = [both.enter_context(started(program)) for _ in range(2)]
        with recording_of([one.pid for one in running], path, manifests=(load("futex"),), levels=("token",)):
            for one in running:
                work(one)
    (one, many), (other, more) = read(path, GOT_IT.format(by="pid"))
    assert {one, other} == {process.pid for process in running} and min(many, more) > 10


def test_an_old_condition_is_told_of_by_the_new_one() -> None:
    """glibc keeps the functions of before 2003, by the same names: they go on in the new ones."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            time.sleep(0.2)  # it has its libraries
            plan = make_plan([open_target(child.pid)], kernel.version(), (), manifests=(load("pthread"),))
        finally:
            child.kill()
    places = {(site.symbol, site.function) for site in plan.sites if not site.refused and "cond" in site.symbol}
    names = Counter(name for name, _ in places)
    assert {"pthread_cond_wait", "pthread_cond_signal"} <= set(names) and set(names.values()) == {1}, places


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A recording of a program without symbols; the addresses of its lock and of its condition."""
    folder = tmp_path_factory.mktemp("locks")
    path = folder / "locks.duckdb"
    with recorded(built(folder, "lock_program.c", "-s"), path, load("pthread"), load("futex")) as (_, line):
        lock, condition = (int(word, 16) for word in line.split())
    return path, lock, condition


def test_the_librarys_locks(locks: tuple[Path, int, int]) -> None:
    path, lock, condition = locks
    sql = (
        "SELECT event, count(*), count(DISTINCT tid), count(stack_id) FROM resource_event JOIN resource "
        "USING (resource_id) WHERE manifest = 'pthread' AND instance = ? GROUP BY event ORDER BY event"
    )
    assert read(path, sql, lock) == [("acquire", 200, 2, 200), ("release", 200, 2, 0), ("wait", 200, 2, 200)]
    assert read(path, sql, condition) == [("acquire", 1, 1, 1), ("release", 1, 1, 0), ("wait", 1, 1, 1)]


def test_futexes_name_the_holder(locks: tuple[Path, int, int]) -> None:
    """A thread waits in the kernel only while the other one has the lock, and the lock says who."""
    path, lock, _ = locks
    rows = read(
        path,
        "SELECT event, tid, holder FROM resource_event JOIN resource USING (resource_id) "
        "WHERE manifest = 'futex' AND instance = ? ORDER BY at_ns",
        lock,
    )
    count = Counter(event for event, _, _ in rows)
    assert count["wait"] > 10 and count["wait"] == count["acquire"] + count["give-up"]
    assert count["acquire"] <= count["release"]
    both = {tid for _, tid, _ in rows}
    named = [(tid, holder) for event, tid, holder in rows if event == "wait" and holder is not None]
    assert len(both) == 2 and len(named) > 10  # it may be given back while the wait begins
    assert all({tid, holder} == both for tid, holder in named)


@DISTURBED
def test_who_waits_for_a_condition_has_given_up_its_lock(tmp_path: Path) -> None:
    """One waits for a condition all the time, another has its lock, and a third wants it: the second is in the way."""
    path = tmp_path / "condition.duckdb"
    with recorded(built(tmp_path, "condition_program.c"), path, load("pthread")) as (run, line):
        lock, waiter, keeper, asker = (int(word, 16) for word in line.split())
    assert run.progress.lost == 0
    sql = (
        "SELECT event, tid FROM resource_event JOIN resource USING (resource_id) WHERE name = 'mutex' AND instance = ? "
        "AND event <> 'wait' ORDER BY at_ns"
    )
    had = read(path, sql, lock)
    assert [event for event, _ in had] == ["acquire", "release"] * (len(had) // 2), "one at a time"
    assert [tid for _, tid in had[::2]] == [tid for _, tid in had[1::2]]
    assert Counter(tid for _, tid in had[::2]) == {waiter: 1 + WOKEN, keeper: KEPT, asker: KEPT}
    with Recording.open(str(path)) as opened:
        table = build_report(opened).get(ResourceTable)
    assert table is not None
    first = table.blamed[0]
    assert (first.resource, first.pathology, first.instance) == ("mutex", "contention", hex(lock))
    assert first.holder is not None and first.holder.tid == keeper and first.share > 0.9
    assert first.hold_ns == pytest.approx(KEPT * 100e6, rel=0.2)
    assert [victim.tid for victim in first.victims][:1] == [asker]


def test_who_gives_a_lock_up_does_not_wait_any_more(tmp_path: Path) -> None:
    """A thread asks for a lock that another one keeps, 5 times for 20 ms, and does something else after that."""
    path = tmp_path / "timeout.duckdb"
    with recorded(built(tmp_path, "timeout_program.c"), path, load("pthread"), load("futex")) as (run, line):
        lock, waiter = (int(word, 16) for word in line.split())
    assert run.progress.lost == 0
    sql = (
        "SELECT event FROM resource_event JOIN resource USING (resource_id) "
        "WHERE name = 'mutex' AND instance = ? AND tid = ? ORDER BY at_ns"
    )
    assert [event for (event,) in read(path, sql, lock, waiter)] == ["wait", "give-up"] * GIVEN_UP
    with Recording.open(str(path)) as opened:
        found = reading.read(opened)
        waited = study(found, thresholds.shipped()).waits
    mine = np.array([actor.tid == waiter for actor in found.actors])[waited.actor]
    mutex = np.array([place.instance == lock for place in found.places])[waited.place]
    manifest = np.array([one.manifest for one in found.resources])[found.resource[waited.place]]
    these = np.flatnonzero(mine & mutex & (manifest == "pthread"))
    assert len(these) == GIVEN_UP and (waited.how[these] == waits.IN_VAIN).all()
    sql = (
        "SELECT at_ns FROM resource_event WHERE event = 'give-up' AND instance = ? AND resource_id = {} ORDER BY at_ns"
    )
    ends = read(path, sql.format(1), lock)
    assert len(read(path, sql.format(5), lock)) == GIVEN_UP, "the kernel's time-out is one, too"
    assert waited.end_ns[these].tolist() == [at for (at,) in ends], "not when it waits next, and not the end"


@DISTURBED
def test_a_deadlock_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deadlock.duckdb"
    with recorded(built(tmp_path, "deadlock_program.c", "-g"), path, load("pthread")) as (_, line):
        first, second, one, other = (int(word, 16) for word in line.split())
    with Recording.open(str(path)) as opened:
        report = build_report(opened)
    table = report.get(ResourceTable)
    assert table is not None
    blamed = table.blamed[0]
    assert blamed.resource == "mutex" and {link.instance for link in blamed.chain} == {hex(first), hex(second)}
    assert {int(name.split()[-1].strip("()")) for name in blamed.deadlock} == {one, other}
    assert blamed.holder is not None and blamed.holder.function == "take_both"
    assert blamed.victims[0].open and "deadlock" in report.findings[0].claim


@DISTURBED
def test_who_waits_for_a_semaphore(tmp_path: Path) -> None:
    """Debian's sem_wait and sem_timedwait leave for what waits: it is as long as the threads themselves say, and who
    runs out of time has given up."""
    path = tmp_path / "semaphore.duckdb"
    with recorded(built(tmp_path, "semaphore_program.c"), path, load("pthread")) as (run, line):
        permits, keeper, patient, hasty, waited, tried, given_up, free = (int(word, 16) for word in line.split())
    assert run.progress.lost == 0 and given_up >= 5 and free == 1
    sql = (
        "SELECT tid, event, count(*) FROM resource_event JOIN resource USING (resource_id) "
        "WHERE name = 'semaphore' AND instance = ? GROUP BY ALL"
    )
    count = {(tid, event): many for tid, event, many in read(path, sql, permits)}
    assert count[keeper, "acquire"] == count[keeper, "release"] == 6
    assert count[hasty, "give-up"] == given_up
    assert count[hasty, "wait"] == given_up + count.get((hasty, "acquire"), 0)
    assert count[patient, "wait"] == count[patient, "acquire"] == count[patient, "release"]
    tried_once = {tid for tid, event in count if event == "acquire"} - {keeper, patient, hasty}
    assert len(tried_once) == 1, "the main thread, which sem_trywait let have it"
    with Recording.open(str(path)) as opened:
        table = build_report(opened).get(ResourceTable)
    assert table is not None
    first = table.blamed[0]
    assert (first.resource, first.pathology, first.instance) == ("semaphore", "contention", hex(permits))
    assert first.holder is not None and first.holder.tid == keeper and first.share > 0.9
    suffered = {victim.tid: victim.waiting_ns / 1e3 for victim in first.victims}
    assert suffered[patient] == pytest.approx(waited, rel=0.05)
    assert suffered[hasty] == pytest.approx(tried, rel=0.1)


@DISTURBED
def test_who_waits_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "rwlock.duckdb"
    with recorded(built(tmp_path, "rwlock_program.c"), path, load("pthread")) as (run, line):
        lock, writer, *readers, waited, also = (int(word, 16) for word in line.split())
    assert run.progress.lost == 0
    with Recording.open(str(path)) as opened:
        table = build_report(opened).get(ResourceTable)
    assert table is not None
    first = table.blamed[0]
    assert (first.resource, first.pathology, first.instance) == ("rwlock", "contention", hex(lock))
    assert first.holder is not None and first.holder.tid == writer and first.share > 0.9
    suffered = {victim.tid: victim.waiting_ns / 1e3 for victim in first.victims}
    for reader, truth in zip(readers, (waited, also), strict=True):
        assert suffered[reader] == pytest.approx(truth, rel=0.05)


PYTHON_LOCK = """
import json, sys, threading, time
lock, over, told = threading.Lock(), threading.Event(), {}

def keeper():
    for _ in range(5):
        with lock:
            time.sleep(0.15)
        time.sleep(0.01)
    over.set()

def asker():
    waited = 0
    while not over.is_set():
        begin = time.monotonic_ns()
        with lock:
            waited += time.monotonic_ns() - begin
        time.sleep(0.02)
    told[threading.get_native_id()] = waited

threads = [threading.Thread(target=keeper), threading.Thread(target=asker), threading.Thread(target=asker)]
print(1, flush=True)
for line in sys.stdin:
    for thread in threads:
        thread.start()
    ids = [thread.native_id for thread in threads]
    for thread in threads:
        thread.join()
    print(json.dumps({"keeper": ids[0], "told": told}), flush=True)
"""


@DISTURBED
@pytest.mark.parametrize("name", ["pthread", "futex"])
def test_a_lock_of_python(tmp_path: Path, name: str) -> None:
    """CPython's locks are semaphores of the C library: `pthread` tells who has it, `futex` blames nobody else."""
    path = tmp_path / "python.duckdb"
    with torch_engine.running(PYTHON_LOCK, executable=Path(sys.executable)) as program:
        with recording_of([program.pid], path, manifests=(load(name),), levels=("token", "graph")) as run:
            truth = program.ask("go")
        assert run.progress.lost == 0
    told = {int(tid): waited for tid, waited in truth["told"].items()}
    with Recording.open(str(path)) as opened:
        table = build_report(opened).get(ResourceTable)
    assert table is not None
    if name == "futex":  # who has it is not told, and may have got it without asking the kernel
        assert {one.holder and one.holder.tid for one in table.blamed} <= {None, truth["keeper"]}
        return
    first = table.blamed[0]
    assert (first.resource, first.pathology) == ("semaphore", "contention")
    assert first.holder is not None and first.holder.tid == truth["keeper"]
    suffered = {victim.tid: victim.waiting_ns for victim in first.victims}
    for tid, waited in told.items():
        assert suffered[tid] == pytest.approx(waited, rel=0.1)


@DISTURBED
@pytest.mark.parametrize("name", ["pthread", "futex"])
@pytest.mark.parametrize("protocol", ["PTHREAD_PRIO_NONE", "PTHREAD_PRIO_INHERIT"])
def test_a_lock_that_says_who_has_it(tmp_path: Path, name: str, protocol: str) -> None:
    """In a program without symbols; the kernel does not see who found it free."""
    path = tmp_path / "priority.duckdb"
    with recorded(built(tmp_path, "priority_program.c", "-s", f"-DPROTOCOL={protocol}"), path, load(name)) as (
        run,
        line,
    ):
        lock, keeper, patient, hasty, waited, given_up = (int(word, 16) for word in line.split())
    assert run.progress.lost == 0
    sql = "SELECT event, count(*) FROM resource_event WHERE instance = ? AND tid = ? GROUP BY ALL"
    count = dict(read(path, sql, lock, hasty))
    assert count["give-up"] >= given_up > 5 and count["wait"] == count["give-up"] + count.get("acquire", 0)
    with Recording.open(str(path)) as opened:
        report = build_report(opened)
    table = report.get(ResourceTable)
    assert table is not None
    first = table.blamed[0]
    assert (first.pathology, first.instance, len(first.holder.stack) > 0 if first.holder else None) == (
        "contention", hex(lock), name == "pthread"
    )  # fmt: skip
    assert first.holder is not None and first.holder.tid == keeper
    suffered = {victim.tid: victim.waiting_ns / 1e3 for victim in first.victims}
    assert suffered.keys() == {patient, hasty} and suffered[patient] == pytest.approx(waited, rel=0.05)
    assert report.findings[0].claim.startswith(f"{first.resource} {hex(lock)}")


def test_g12_where_the_ring_is_too_small_verdicts_are_withheld(tmp_path: Path) -> None:
    """Two threads take locks of their own as fast as they can: what is lost is counted and said. With room it is there,
    and a lock that nobody else wants is no trouble, however long its probes take."""
    program = built(tmp_path, "flood_program.c")
    for shift in (7, None):
        path = tmp_path / f"flood-{shift}.duckdb"
        options = {"manifests": (load("pthread"),), "levels": ("token", "graph"), "ring_shift": shift}
        with started(program) as running, recording_of([running.pid], path, **options) as run:
            lock, keeper, taken = (int(word, 16) for word in work(running).split())
        with Recording.open(str(path)) as opened:
            report = build_report(opened)
        table, losses = report.get(ResourceTable), report.get(Losses)
        assert table is not None and losses is not None
        ((kept,),) = read(path, "SELECT count(*) FROM resource_event")
        assert kept + losses.total >= 3 * taken, "what is not there is counted"
        if shift:
            assert losses.withheld and [place for place, _, _ in losses.by_place] == ["ring"]
            assert table.withheld and table.blamed == () and table.wakers is None
            assert [finding.id for finding in report.findings] == ["losses.withheld"]
            command = [sys.executable, "-m", "flowprof.profiler.cli", "report", path]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert re.search(r"[\d.]+ % of the events were lost: verdicts are\s+withheld", shown), shown
            assert f"{losses.share * 100:.1f} %" in shown
        else:
            assert run.progress.lost == 0
            (blamed,) = [one for one in table.blamed if one.pathology == "contention"]
            assert blamed.instance == hex(lock) and blamed.holder is not None and blamed.holder.tid == keeper


@pytest.mark.parametrize("turn", [False, True])
def test_who_waits_for_a_threads_end_waits_for_no_lock(tmp_path: Path, turn: bool) -> None:
    """Two threads compute, the main thread joins them; a third waits for its turn: nobody holds what they wait for."""
    path = tmp_path / "join.duckdb"
    with recorded(built(tmp_path, "join_program.c", *["-DTURN"][: int(turn)]), path, load("futex")) as (_, line):
        assert line == "done\n"
    ((longest,),) = read(path, """
        SELECT max(after - at_ns) FROM (SELECT *, lead(at_ns) OVER (PARTITION BY tid ORDER BY at_ns) AS after
        FROM resource_event) WHERE event = 'wait'
    """)  # fmt: skip
    assert longest > 0.5e9
    with Recording.open(str(path)) as opened:
        report = build_report(opened)
    table = report.get(ResourceTable)
    assert table is not None and table.blamed == ()
    assert [finding.claim for finding in report.findings if finding.severity == "problem"] == []


def test_stacks_without_symbols(locks: tuple[Path, int, int]) -> None:
    """The library's functions have names, the program's have addresses; both are told apart by their files."""
    path, lock, _ = locks
    rows = read(
        path,
        "SELECT DISTINCT manifest, list((function, module.regexp_extract('[^/]*$')) ORDER BY frame) FROM stack "
        "JOIN (SELECT DISTINCT stack_id, manifest FROM resource_event JOIN resource USING (resource_id) "
        "WHERE event = 'wait' AND instance = ?) USING (stack_id) GROUP BY stack_id, manifest",
        lock,
    )
    stacks = [frames for manifest, frames in rows if manifest == "pthread"]
    assert len(stacks) == 2  # of either thread
    for (innermost, library), (caller, program), *_ in stacks:
        assert "pthread_mutex_lock" in innermost and "libc" in library
        assert caller is None and program == "program"
    calls = [frames for manifest, frames in rows if manifest == "futex"]
    assert calls  # from where a thread called the kernel: it did only when the lock was taken
    for frames in calls:
        within = [name or "" for name, module in frames if module != "program"]
        assert any("pthread_mutex_lock" in name for name in within) and (None, "program") in frames
