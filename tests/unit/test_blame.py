"""Pairing, generations, open and abandoned waits, growth, thresholds: small streams, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import resource_runs as runs
from flowprof.profiler.blame import events, occupancy, reading, thresholds, waits
from flowprof.profiler.blame import pairing as holds
from flowprof.profiler.blame.growth import growth
from flowprof.profiler.blame.keys import mixed, numbered
from flowprof.profiler.blame.pairing import nested
from flowprof.profiler.blame.study import Study, study
from flowprof.profiler.blame.verdict import sufferers, together
from flowprof.profiler.errors import UsageError
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.store import Recording

MS = runs.MS
Event = tuple[float, int, str, dict[str, Any]]


def studied(rows: list[Event], folder: Path, end: float = 1000.0, resources: tuple[str, ...] = ("thing",)) -> Study:
    """rows: at (ms), thread, event, more."""
    run = runs.Run(end=end, threads={1: "a", 2: "b", 3: "c"})
    for name in resources:
        run.resource(name, "memory")
    for run.now, tid, kind, more in rows:
        run.event(kind, tid, more.pop("resource", 1), **more)
    run.write(str(folder / "few.duckdb"))
    with Recording.open(str(folder / "few.duckdb")) as recording:
        return study(reading.read(recording), thresholds.shipped())


def held(found: Study) -> list[tuple[str, float, float, int]]:
    """(actor, start, end in ms, how)"""
    begin, actors = found.events.begin_ns, found.events.actors
    rows = zip(found.held.actor, found.held.start_ns, found.held.end_ns, found.held.how, strict=True)
    return [(actors[a].name[0], (s - begin) / MS, (e - begin) / MS, int(how)) for a, s, e, how in rows]


def waited(found: Study) -> list[tuple[str, float, float, int]]:
    begin, actors = found.events.begin_ns, found.events.actors
    rows = zip(found.waits.actor, found.waits.start_ns, found.waits.end_ns, found.waits.how, strict=True)
    return [(actors[a].name[0], (s - begin) / MS, (e - begin) / MS, int(how)) for a, s, e, how in rows]


@pytest.mark.parametrize(
    ("word", "partners"),
    [("(())", [3, 2, 1, 0]), ("()()", [1, 0, 3, 2]), (")(", [-1, -1]), ("(()", [-1, 2, 1]), ("())", [1, 0, -1]),
     ("((()))()", [5, 4, 3, 2, 1, 0, 7, 6]), ("", []), (")))(()", [-1, -1, -1, -1, 5, 4])],
)  # fmt: skip
def test_brackets(word: str, partners: list[int]) -> None:
    opens = np.array([letter == "(" for letter in word], bool)
    assert nested(np.zeros(len(word), np.uint64), opens)[0].tolist() == partners


def test_brackets_of_other_keys_do_not_meet() -> None:
    key = np.array([1, 1, 2, 2, 2], np.uint64)
    assert nested(key, np.array([True, True, False, True, False]))[0].tolist() == [-1, -1, -1, 4, 3]


def test_equal_rows_have_equal_keys() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(-(2**62), 2**62, 100_000), rng.integers(0, 3, 100_000)
    key = mixed(one, other)
    assert len(np.unique(key)) == len(np.unique(np.stack([one, other]), axis=1).T)
    assert (mixed(one[::-1], other[::-1])[::-1] == key).all()


def test_equal_rows_have_one_number_in_their_order() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.integers(-50, 50, 10_000), rng.integers(0, 2, 10_000).astype(bool)
    rows, number = numbered(one, other)
    assert list(zip(one[rows], other[rows], strict=True)) == sorted(set(zip(one, other, strict=True)))
    assert (one[rows][number] == one).all() and (other[rows][number] == other).all()
    assert [len(column) for column in numbered(one[:0], other[:0])] == [0, 0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # somebody else releases it
        ([(1, 1, "acquire", {"unit": 5}), (9, 2, "release", {"unit": 5})], [("a", 1, 9, holds.RELEASED)]),
        # still held at the end
        ([(1, 1, "acquire", {"unit": 5})], [("a", 1, 1000, holds.OPEN)]),
        # held before the recording began
        ([(1, 2, "acquire", {"unit": 6}), (2, 2, "release", {"unit": 6}), (9, 1, "release", {"unit": 5})],
         [("a", 0, 9, holds.RELEASED), ("b", 1, 2, holds.RELEASED)]),
        # two generations of one unit: its release was not seen, but it was acquired again
        ([(number, 1, kind, {"unit": 5}) for number in range(0, 80, 2) for kind in ("acquire", "release")]
         + [(90, 1, "acquire", {"unit": 5}), (95, 2, "acquire", {"unit": 5}), (99, 2, "release", {"unit": 5})],
         [*[("a", number, number, holds.RELEASED) for number in range(0, 80, 2)], ("a", 90, 95, holds.REUSED),
          ("b", 95, 99, holds.RELEASED)]),
        # a pool that tells no units: each thread's own, innermost first
        ([(1, 1, "acquire", {}), (2, 2, "acquire", {}), (3, 1, "acquire", {}), (4, 2, "release", {}),
          (5, 1, "release", {}), (6, 1, "release", {})],
         [("a", 1, 6, holds.RELEASED), ("b", 2, 4, holds.RELEASED), ("a", 3, 5, holds.RELEASED)]),
        # a unit that several hold at a time (pins)
        ([(1, 1, "acquire", {"unit": 5}), (2, 2, "acquire", {"unit": 5}), (3, 1, "release", {"unit": 5}),
          (4, 2, "release", {"unit": 5})], [("a", 1, 3, holds.RELEASED), ("b", 2, 4, holds.RELEASED)]),
    ],
)  # fmt: skip
def test_holds(tmp_path: Path, rows: list[Event], expected: list[tuple[str, float, float, int]]) -> None:
    assert held(studied(rows, tmp_path)) == expected


def test_g10_an_address_that_is_reused_by_another_type_has_two_lifetimes(tmp_path: Path) -> None:
    address = 0x7F00_0000_1000
    rows: list[Event] = [
        (100, 1, "acquire", {"unit": address, "resource": 1}), (200, 1, "release", {"unit": address, "resource": 1}),
        (300, 2, "acquire", {"unit": address, "resource": 2}), (400, 2, "release", {"unit": address, "resource": 2}),
    ]  # fmt: skip
    found = studied(rows, tmp_path, resources=("connection", "buffer"))
    assert held(found) == [("a", 100, 200, holds.RELEASED), ("b", 300, 400, holds.RELEASED)]
    assert found.events.resource[found.held.place].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1, 1, "wait", {}), (5, 1, "acquire", {})], [("a", 1, 5, waits.GRANTED)]),
        # open at the end: it counts up to there
        ([(1, 1, "wait", {})], [("a", 1, 1000, waits.OPEN)]),
        # abandoned, cut at the next one
        ([(1, 1, "wait", {}), (7, 1, "wait", {}), (9, 1, "acquire", {})],
         [("a", 1, 7, waits.IN_VAIN), ("a", 7, 9, waits.GRANTED)]),
        # given up: its time was over
        ([(1, 1, "wait", {}), (4, 1, "give-up", {}), (7, 1, "wait", {}), (9, 1, "acquire", {})],
         [("a", 1, 4, waits.IN_VAIN), ("a", 7, 9, waits.GRANTED)]),
        # a try that fails, as the acquire of another event succeeds
        ([(1, 1, "wait", {}), (4, 1, "acquire", {}), (4, 1, "give-up", {})], [("a", 1, 4, waits.GRANTED)]),
        # an error unwound its stack: it waits for another one
        ([(1, 1, "wait", {"instance": 64}), (7, 1, "wait", {"instance": 65}), (9, 1, "acquire", {"instance": 65})],
         [("a", 1, 7, waits.IN_VAIN), ("a", 7, 9, waits.GRANTED)]),
        # it waits for another one within
        ([(1, 1, "wait", {"instance": 64}), (2, 1, "wait", {"instance": 65}), (3, 1, "acquire", {"instance": 65}),
          (9, 1, "acquire", {"instance": 64})],
         [("a", 1, 9, waits.GRANTED), ("a", 2, 3, waits.GRANTED)]),
        # another thread's acquire ends nothing
        ([(1, 1, "wait", {}), (5, 2, "acquire", {})], [("a", 1, 1000, waits.OPEN)]),
        # nor does one of another instance
        ([(1, 1, "wait", {"instance": 64}), (5, 1, "acquire", {"instance": 128})], [("a", 1, 1000, waits.OPEN)]),
        # tasks, by whatever thread
        ([(1, 1, "wait", {"task": 7}), (2, 1, "wait", {"task": 8}), (5, 2, "acquire", {"task": 8}),
          (6, 3, "acquire", {"task": 7})], [("t", 1, 6, waits.GRANTED), ("t", 2, 5, waits.GRANTED)]),
        # a loop's thread asks for several; whoever gives the unit back names no task
        ([(1, 1, "wait", {"task": 7}), (2, 1, "wait", {"task": 8}), (3, 1, "release", {"unit": 5}),
          (5, 1, "acquire", {"task": 7, "unit": 5}), (6, 1, "release", {"unit": 5}),
          (9, 1, "acquire", {"task": 8, "unit": 5}), (10, 1, "release", {"unit": 5})],
         [("t", 1, 5, waits.GRANTED), ("t", 2, 9, waits.GRANTED)]),
        # the task is known only once it has got it
        ([(1, 1, "wait", {}), (5, 1, "acquire", {"task": 8})], [("t", 1, 5, waits.GRANTED)]),
    ],
)  # fmt: skip
def test_waits(tmp_path: Path, rows: list[Event], expected: list[tuple[str, float, float, int]]) -> None:
    assert waited(studied(rows, tmp_path)) == expected


@pytest.mark.parametrize(
    ("processes", "shared", "places"),
    [
        ([(7, 1, "a"), (8, 7, "a")], True, 1),  # a parent and its child
        ([(7, 1, "a"), (8, 7, "a")], False, 2),
        ([(7, 5, "a"), (8, 5, "a")], True, 1),  # siblings
        ([(7, 5, "a"), (8, 5, "a")], False, 2),  # equal addresses of two forks
        ([(7, 5, "a"), (8, 5, "a")], None, 1),  # older recordings do not tell
        ([(7, 5, "a"), (8, 6, "a")], True, 2),  # strangers
    ],
)
def test_processes_share_what_is_said_to_be_shared(
    tmp_path: Path, processes: list[tuple[int, int, str]], shared: bool | None, places: int
) -> None:
    with Recording.create(str(tmp_path / "p.duckdb")) as recording:
        pids, parents, names = map(list, zip(*processes, strict=True))
        recording.append("process", {"pid": pids, "ppid": parents, "exe": names})
        recording.append("resource", {"resource_id": [1], "name": "lock", "kind": "state", "shared": [shared]})
        recording.append("resource_event", {
            "at_ns": [1, 2], "pid": pids, "tid": pids, "resource_id": 1, "event": ["acquire", "wait"], "instance": 64,
        })  # fmt: skip
    with Recording.open(str(tmp_path / "p.duckdb")) as recording:
        found = reading.read(recording)
    assert len(found.places) == places


@pytest.mark.parametrize(("slows", "found"), [(0.0, True), (1e9, True), (300.0, False), (1000.0, False)])
def test_growth_passes_a_plateau_test(tmp_path: Path, slows: float, found: bool) -> None:
    """slows: the time in which a warming cache comes near its end by 63 %; 0: it grows for ever."""
    moments = (
        np.arange(0, 1000, 1.0) if slows == 0 else slows * -np.log1p(-np.linspace(0, 1 - np.exp(-1000 / slows), 900))
    )
    rows: list[Event] = [(float(at), 1, "acquire", {"unit": number}) for number, at in enumerate(moments[:-1])]
    assert (growth(studied(rows, tmp_path), 0) is not None) == found


@pytest.mark.parametrize(
    ("asks_at", "gives_back", "holder"),
    [(10.0, True, "b"), (10.0, False, "a"), (600.0, True, "a")],
)
def test_who_holds_up_those_who_give_back_keeps_it_growing(
    tmp_path: Path, asks_at: float, gives_back: bool, holder: str
) -> None:
    """a fills a log; c waits for b's view and then empties the log, or does something else with the view."""
    rows: list[Event] = [(float(at), 1, "acquire", {"unit": at}) for at in range(1, 800)]
    rows += [(0.5, 2, "acquire", {"unit": 1, "resource": 2}), (800.0, 2, "release", {"unit": 1, "resource": 2})]
    rows += [(asks_at, 3, "wait", {"resource": 2}), (800.5, 3, "acquire", {"unit": 1, "resource": 2})]
    if gives_back:
        rows += [(800.5 + at / 10, 3, "release", {"unit": at}) for at in range(1, 800)]
    found = studied(sorted(rows, key=lambda row: row[0]), tmp_path, resources=("log", "view"))
    grown = growth(found, 0, anytime=True)
    assert grown is not None and grown.holder is not None and grown.resource == 0
    assert found.events.actors[grown.holder].name[0] == holder
    assert found.events.resource[found.events.place[grown.event]] == (1 if holder == "b" else 0)
    assert ("holds view" in grown.holder_why) == (holder == "b")


def test_thresholds_of_a_file_decide(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[contention]\nsome_share = 0.99\n")
    runs.g2(1).write(str(tmp_path / "a.duckdb"))
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        table = build_report(recording, thresholds=thresholds.load(file)).get(ResourceTable)
    assert table is not None and table.blamed == () and table.thresholds == "the thresholds of mine.toml"


def test_every_threshold_is_asked_for() -> None:
    """A figure that nobody reads decides nothing."""
    folder = Path(thresholds.__file__).parents[1]
    code = "\n".join(path.read_text() for part in ("blame", "analyzers") for path in (folder / part).glob("*.py"))
    for table, fields in thresholds.shipped().figures.items():
        for name in fields:
            assert f'"{name}"' in code or (table, name[:5]) == ("contention", "full_"), f"[{table}] {name}"


@pytest.mark.parametrize("full", [0.5, 0.9])
def test_waiting_counts_while_a_memory_is_full(tmp_path: Path, full: float) -> None:
    """Six of ten units are held while somebody waits."""
    file = tmp_path / "mine.toml"
    file.write_text(f"[contention]\nfull_memory_share = {full}\n")
    rows: list[Event] = [(1.0, 1, "acquire", {"unit": unit}) for unit in range(10)]
    rows += [(100.0, 1, "release", {"unit": unit}) for unit in range(4)] + [(200.0, 2, "wait", {})]
    found = studied(rows, tmp_path)
    found = study(found.events, thresholds.load(file))
    assert found.view(0).blame.waiting_ns == (800 * MS if full == 0.5 else 0)


@pytest.mark.parametrize(
    ("text", "word"),
    [("x = ", "not TOML"), ("[nothing]\na = 1\n", "[nothing]"), ("contention = 3\n", "[contention]"),
     ("[contention]\nsome = 1\n", "[contention] some is no threshold"),
     ("[contention]\nsome_share = 'a'\n", "some_share is 'a'"), ("[contention]\nsome_share = true\n", "is True"),
     ("[contention]\nsome_share = 10\n", "not a share"), ("[contention]\nsome_share = -1\n", "0 or more"),
     ("[contention]\nsome_share = nan\n", "0 or more"), ("\x00", "not TOML")],
)  # fmt: skip
def test_wrong_thresholds(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        thresholds.load(file)
    assert str(file) in error.value.message and word in error.value.message


def test_values_that_make_no_sense(tmp_path: Path) -> None:
    big = 2**62
    rows: list[Event] = [
        (1, 1, "wait", {"instance": -big}), (1, 1, "acquire", {"instance": -big, "unit": big, "units": big}),
        (1, 1, "release", {"instance": -big, "unit": big, "units": -big}), (2, 2, "use", {"holder": 999}),
        (3, 3, "wait", {"holder": 2**31 - 1, "task": -big}), (4, 2, "wait", {"resource": 77}),
        (5, 2, "stolen", {}),
    ]  # fmt: skip
    found = studied(rows, tmp_path)
    assert len(found.events.at_ns) == 5
    with Recording.open(str(tmp_path / "few.duckdb")) as recording:
        assert build_report(recording).section("resources").status == "ok"


@pytest.mark.parametrize(
    ("holder", "blamed"),
    [
        (2, {"b": 50}),  # a thread that has made events of its own
        (3, {"c": 50}),  # one that is known by its name only
        (999, {"a": 50}),  # no thread at all: the word means something else, and who was seen to hold it is blamed
        (2**31 - 1, {"a": 50}), (-5, {"a": 50}), (0, {"a": 50}), (None, {"a": 50}),
    ],
)  # fmt: skip
def test_who_is_told_to_hold_it_is_believed_where_it_is_a_thread(
    tmp_path: Path, holder: int | None, blamed: dict[str, float]
) -> None:
    """The first thread is seen to hold it, the second waits; the word beside the lock names `holder`."""
    run = runs.Run(end=1000, threads={1: "a", 2: "b", 3: "c", 4: "d"})
    run.resource("lock", "state")
    for run.now, tid, kind, told in ((90, 2, "use", None), (100, 1, "acquire", None), (150, 4, "wait", holder),
                                     (200, 1, "release", None), (200, 4, "acquire", None)):  # fmt: skip
        run.event(kind, tid, 1, holder=told)
    run.write(str(tmp_path / "told.duckdb"))
    with Recording.open(str(tmp_path / "told.duckdb")) as recording:
        found = study(reading.read(recording), thresholds.shipped())
    by_actor = found.view(0).blame.by_actor
    rows = zip(by_actor.actor, by_actor.ns, strict=True)
    assert {found.events.actors[actor].name[0]: round(ns / MS, 3) for actor, ns in rows} == blamed


LATE = [(100, 1, "wait", None), (700, 1, "acquire", None)]
TURN = [(0, 1, "wait", 2), (80, 2, "release", None), (80, 1, "acquire", None), (81, 1, "release", None),
        (90, 2, "release", None)]  # fmt: skip
FAST = [(begin + at, *more) for begin in range(50, 950, 100) for at, *more in TURN]


@pytest.mark.parametrize(
    ("rows", "kinds", "blamed"),
    [
        (LATE, "acquire,holder,release,wait", []),  # a lock would say who has it: this is a thread's end
        ([*LATE, (800, 1, "release", None)], "acquire,holder,release,wait", []),  # it was free: its probes took so long
        (
            [(50, 2, "acquire", None), *LATE, (690, 2, "release", None), (800, 1, "release", None)],
            "acquire,holder,release,wait",
            ["b"],
        ),  # as a lock for several readers, which names none of them
        (LATE, "acquire,release,wait", [None]),  # who has it cannot be said: it had it before the recording
        (FAST, "acquire,holder,release,wait", ["b"]),  # its acquires are not seen, and the lock says who has it
    ],
)
def test_who_waits_for_what_nobody_was_seen_to_hold(
    tmp_path: Path, rows: list[tuple[float, int, str, int | None]], kinds: str, blamed: list[str | None]
) -> None:
    run = runs.Run(end=1000, threads={1: "a", 2: "b"})
    run.resource("word", "state", events=kinds)
    for run.now, tid, kind, told in rows:
        run.event(kind, tid, 1, holder=told)
    run.write(str(tmp_path / "nobody.duckdb"))
    with Recording.open(str(tmp_path / "nobody.duckdb")) as recording:
        table = build_report(recording).get(ResourceTable)
    assert table is not None
    assert [one.holder and one.holder.name[0] for one in table.blamed if one.pathology == "contention"] == blamed


@pytest.mark.parametrize("seed", range(4))
def test_who_waited_and_who_waits_while_it_holds(tmp_path: Path, seed: int) -> None:
    """As counted one actor after the other."""
    rng = np.random.default_rng(seed)
    rows: list[Event] = []
    for task in range(40):
        at = np.sort(rng.integers(1, 900, 4)).tolist()
        for kind, now in zip(("wait", "acquire", "wait", "release"), at, strict=True):
            unit = None if kind == "wait" else task
            rows.append((now + task / 100, 1 + task % 3, kind, {"task": task, "unit": unit}))
    found = studied(sorted(rows, key=lambda row: row[0]), tmp_path)
    view = found.view(0)
    ns, actors = view.blame.by_wait, view.waits.actor
    expected = {
        actor: (ns[of].sum(), (ns[of] > 0).sum(), ns[of].max(), (view.waits.how[of] == waits.OPEN).any())
        for actor in set(actors.tolist())
        if (of := actors == actor).any() and ns[of].sum() > 0
    }
    said = sufferers(view, None)
    rows = zip(said.actor.tolist(), said.waiting_ns, said.waits, said.longest_ns, said.open, strict=True)
    assert {actor: row for actor, *row in rows} == {actor: list(row) for actor, row in expected.items()} and len(said)
    assert said.waiting_ns.tolist() == sorted(said.waiting_ns, reverse=True)
    assert sufferers(view, int(said.actor[0])).actor.tolist() == said.actor[1:].tolist()
    first, second = said.actor[:2].tolist()
    twice = together(said, said.without(second), first)  # both places of everybody but the first; one of the second
    rows = zip(said.actor.tolist(), said.waiting_ns, said.longest_ns, strict=True)
    both_places = {one: (ns if one == second else 2 * ns, most) for one, ns, most in rows if one != first}
    rows = zip(twice.actor.tolist(), twice.waiting_ns, twice.longest_ns, strict=True)
    assert {one: (ns, most) for one, ns, most in rows} == both_places
    both = {
        int(a)
        for a, start, end in zip(view.held.actor, view.held.start_ns, view.held.end_ns, strict=True)
        if ((actors == a) & (view.waits.start_ns < end) & (view.waits.end_ns > start)).any()
    }
    assert set(occupancy._wait_while_they_hold(view.held, view.waits).tolist()) == both and both


def test_what_is_only_waited_for_is_not_held(tmp_path: Path) -> None:
    """At a barrier everybody waits and goes on: no acquire is in another one's way, and none is left over."""
    run = runs.Run(end=100, threads={1: "a", 2: "b"})
    run.resource("barrier", "state", events="acquire,wait")
    meeting = ((0, 1, "wait"), (7, 2, "wait"), (7.1, 2, "acquire"), (7.2, 1, "acquire"))
    rows = [(number * 10 + at, tid, kind) for number in range(5) for at, tid, kind in meeting]
    for run.now, tid, kind in rows:
        run.event(kind, tid, 1)
    run.write(str(tmp_path / "barrier.duckdb"))
    with Recording.open(str(tmp_path / "barrier.duckdb")) as recording:
        found = study(reading.read(recording), thresholds.shipped())
    assert held(found) == []
    assert [round(end - start, 3) for _, start, end, _ in waited(found)] == [7.2, 0.1] * 5
    assert {how for *_, how in waited(found)} == {waits.GRANTED}


def test_a_release_of_all_that_a_thread_has(tmp_path: Path) -> None:
    """As databases end transactions: what was given back before is not given back again."""
    rows: list[Event] = [
        (1, 1, "acquire", {"instance": 7}), (2, 1, "acquire", {"instance": 8}), (3, 2, "acquire", {"instance": 9}),
        (4, 1, "release", {"instance": 8}), (10, 1, "release", {"instance": None}),
        (11, 1, "acquire", {"instance": 7}), (20, 1, "release", {"instance": None}),
        (30, 2, "release", {"instance": None}),
    ]  # fmt: skip
    ends = [("a", 1, 10), ("a", 2, 4), ("b", 3, 30), ("a", 11, 20)]
    assert held(studied(rows, tmp_path)) == [(*one, holds.RELEASED) for one in ends]


def test_equal_stacks_are_one(tmp_path: Path) -> None:
    """The kernel side may number one stack twice, as it looks at some of its words only."""
    run = runs.Run(threads={1: "a"})
    run.resource("lock", "state")
    for run.now, stack in ((1, "keep"), (2, "other"), (3, "keep again")):
        run.event("acquire", 1, 1, stack)
        run.event("release", 1, 1)
    path = str(tmp_path / "stacks.duckdb")
    run.write(path)
    with duckdb.connect(path) as db:
        db.execute("UPDATE stack SET function = 'keep' WHERE function = 'keep again'")
    with Recording.open(path) as recording:
        assert reading.read(recording).stack.tolist() == [1, -1, 2, -1, 1, -1]


@pytest.mark.parametrize(
    "change",
    [
        "SELECT 1",
        "UPDATE resource_event SET instance = NULL WHERE event = 'release' AND tid % 2 = 0",
        "UPDATE resource_event SET holder = CASE WHEN tid % 2 = 0 THEN tid ELSE 7 END, pid = NULL WHERE event = 'wait'",
        "DELETE FROM resource WHERE resource_id = 1",
        "DELETE FROM resource_event",
    ],
)
def test_events_read_in_parts_are_those_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = str(tmp_path / "parts.duckdb")
    next(iter(runs.PLANTED.values()))(3).noisy().write(path)
    with duckdb.connect(path) as db:
        db.execute("UPDATE resource_event SET at_ns = at_ns + rowid")  # no two at one moment
        db.execute(change)
    with Recording.open(path) as recording:
        whole = reading.read(recording)
        monkeypatch.setattr(reading, "AT_ONCE", 700)
        parts = reading.read(recording)
        assert len(list(reading._parts(recording, whole.begin_ns, whole.end_ns))) > 5 or not len(whole.at_ns)
    arrays = [name for name in events.Events.__slots__ if isinstance(getattr(whole, name), np.ndarray)]
    columns = [name for name in arrays if name != "resource"]
    rows = [sorted(zip(*(getattr(found, name).tolist() for name in columns), strict=True)) for found in (whole, parts)]
    assert rows[0] == rows[1] and len(columns) == 10
    assert (np.diff(parts.at_ns) >= 0).all()
    for name in ("resources", "places", "begin_ns", "end_ns", "cut"):
        assert getattr(whole, name) == getattr(parts, name)
    assert whole.resource.tolist() == parts.resource.tolist()
    actors = [[found.actors[number] for number in range(len(found.actors))] for found in (whole, parts)]
    assert actors[0] == actors[1] and [actor.tid for actor in actors[0]] == whole.actors.tid.tolist()


def test_a_release_of_all_of_one_unit(tmp_path: Path) -> None:
    """As the end of a transaction leaves the locks of its session."""
    rows: list[Event] = [
        (1, 1, "acquire", {"instance": 7, "unit": 1}), (2, 1, "acquire", {"instance": 8, "unit": 0}),
        (3, 2, "acquire", {"instance": 9, "unit": 0}), (10, 1, "release", {"instance": None, "unit": 0}),
        (11, 1, "acquire", {"instance": 8, "unit": 0}), (20, 1, "release", {"instance": None, "unit": 0}),
        (30, 1, "release", {"instance": None, "unit": 1}), (40, 2, "release", {"instance": None}),
    ]  # fmt: skip
    ends = [("a", 1, 30), ("a", 2, 10), ("b", 3, 40), ("a", 11, 20)]
    assert held(studied(rows, tmp_path)) == [(*one, holds.RELEASED) for one in ends]
