"""A resource with several instances: what is said of one of them is counted at that one alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import resource_runs as runs
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.resources import Blamed, ResourceTable
from flowprof.profiler.store import Recording

A, B = 0x10000, 0x20000


def blamed(run: runs.Run, folder: Path) -> tuple[Blamed, ...]:
    run.write(str(folder / "run.duckdb"))
    with Recording.open(str(folder / "run.duckdb")) as recording:
        table = build_report(recording).get(ResourceTable)
    assert table is not None
    return table.blamed


def two_locks(uses_at: tuple[int, ...] = (), instances_told: bool = True) -> runs.Run:
    """A thread holds A from 100 to 1100 ms while another waits, and B a hundred times; it uses those of `uses_at`."""
    run = runs.Run(end=1200, threads={11: "holder", 12: "waiter"})
    mutex = run.resource("mutex", "state", events="wait,acquire,use,release" if uses_at else "wait,acquire,release")
    rows = [(100.0, 11, "acquire", A), (1100.0, 11, "release", A), (150.0, 12, "wait", A), (1100.1, 12, "acquire", A),
            (1101.0, 12, "release", A)]  # fmt: skip
    for number in range(100):
        at = 101.0 + 9.9 * number
        rows += [(at, 11, "acquire", B), (at + 9.0, 11, "release", B)]
    for at, tid, kind, instance in list(rows):
        if kind == "acquire" and instance in uses_at:
            rows += [(at + part, tid, "use", instance if instances_told else 0) for part in (0.1, 0.2, 0.3, 0.4)]
    for run.now, tid, kind, instance in sorted(rows):
        run.event(kind, tid, mutex, "locked", instance=instance)
    return run


def test_the_hold_is_that_of_the_instance(tmp_path: Path) -> None:
    (one,) = blamed(two_locks(), tmp_path)
    assert (one.instance, one.pathology) == (hex(A), "contention")
    assert one.hold_ns == pytest.approx(1000e6) and one.waiting_ns == pytest.approx(950.1e6)
    assert one.evidence[-1] == f"mutex {hex(A)}: a mutex", "what the manifest says of it"


@pytest.mark.parametrize(
    ("uses_at", "told", "pathology", "utilisation"),
    [
        ((B,), True, "inefficient policy", 0.0),  # that it uses another one is no use of this one
        ((A,), True, "contention", 4.0),
        ((B,), False, "contention", 400 / 101),  # uses do not tell which one: all count
    ],
)
def test_utilisation_is_that_of_the_instance(
    tmp_path: Path, uses_at: tuple[int, ...], told: bool, pathology: str, utilisation: float
) -> None:
    run = two_locks(uses_at, told)
    if told and uses_at == (B,):  # somebody else uses it
        run.event("acquire", 12, 1, "locked", instance=A)
        run.event("use", 12, 1, instance=A)
        run.event("release", 12, 1, instance=A)
    (one,) = blamed(run, tmp_path)
    assert (one.instance, one.pathology, one.utilisation) == (hex(A), pathology, pytest.approx(utilisation))


def semaphores(told: bool = True) -> runs.Run:
    """One semaphore guards a device, which one thread keeps for long; by another one a process that is not recorded
    signals work, thousands of times."""
    run = runs.Run(2, 3000)
    semaphore = run.resource("semaphore", "state", events="wait,acquire,release")
    run.threads |= {11: "hog", 12: "worker", 21: "consumer"}

    def hog() -> runs.Process:
        while True:
            run.event("acquire", 11, semaphore, "hog", instance=A)
            yield run.jitter(100)
            run.event("release", 11, semaphore, instance=A if told else A + 8)
            yield run.jitter(10)

    def waiter() -> runs.Process:
        yield 50
        for number in itertools.count():
            run.event("wait", 12, semaphore, instance=A)
            yield 60
            run.event("acquire", 12, semaphore, "work", instance=A)
            yield 0.1
            run.event("release", 12, semaphore, instance=A if told else A + 16 * number)
            yield 40

    def consumer() -> runs.Process:
        while True:
            yield run.jitter(1)
            run.event("acquire", 21, semaphore, "next_job", instance=B)

    run.start(11, "hog", hog())
    run.start(12, "worker", waiter())
    run.start(21, "consumer", consumer())
    return run.run()


def test_an_instance_that_contradicts_itself_does_not_silence_the_others(tmp_path: Path) -> None:
    found = blamed(semaphores(), tmp_path)
    assert [(one.instance, one.pathology, one.holder and one.holder.name) for one in found] == [
        (hex(A), "contention", "hog (11)")
    ]


def test_instances_that_are_told_wrongly_carry_no_verdict(tmp_path: Path) -> None:
    """Releases name another instance than acquires: no acquire is followed by its release anywhere."""
    assert blamed(semaphores(told=False), tmp_path) == ()
