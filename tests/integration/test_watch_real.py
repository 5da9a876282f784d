"""`--watch` on live processes: what is read, what is refused in which words, and which variable a diff names.

One recording of eight processes of the same program at once: seven with the normal limit and another seed each, one
with a limit 64 times as large. Each process' rows make a recording of its own, so that 21 pairs of normal runs are had
from four seconds; they share the machine while they are recorded, which makes them no more alike.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import VariableShift
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.diff.variables import shifts
from flowprof.profiler.store import Recording
from recorded import read
from resource_programs import built, wait_until_loaded

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]
Flowprof = Callable[..., subprocess.CompletedProcess[str]]
NORMAL, LIMIT, BUGGY = 7, 64, 4096
FILLED_S = 3.0  # the large table: two entries a millisecond, less what the machine is late
MEMBERS = "no member size of table in the debug information; it has used, cleaned, next, keys, filled"
WATCHED = (
    "limit", "table.used", "newest", "newest->cleaned", "n_looked_up", "look_up(key)", "look_up(t->used)",
    "look_up(ret)", "clean(arg1)", "temperature", "table.filled", "look_up(t->filled)",
)  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("variables"), "variable_program.c", "-g", "-fno-tree-vectorize")


@pytest.fixture(scope="module")
def running(program: Path) -> Iterator[list[int]]:
    """Seven normal processes and, last, the one with the large limit."""
    limits = [LIMIT] * NORMAL + [BUGGY]
    processes = [subprocess.Popen([program, str(limit), str(seed)]) for seed, limit in enumerate(limits, 1)]
    try:
        for process in processes:
            wait_until_loaded(process.pid)
        time.sleep(FILLED_S)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def recording(running: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watched") / "all.duckdb"
    command = [sys.executable, "-m", "flowprof.profiler.cli", "attach", ",".join(map(str, running)), "-q", "-d", "4s"]
    subprocess.run([*command, "-o", path, *(f"--watch={name}" for name in WATCHED)], check=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def sides(recording: Path, running: list[int]) -> Iterator[list[Recording]]:
    """A recording of each process, made of its rows."""
    paths = [recording.with_name(f"{pid}.duckdb") for pid in running]
    with Recording.open(str(recording)) as whole:
        for pid, path in zip(running, paths, strict=True):
            with Recording.create(str(path)) as part:
                part.set_meta("started_ns", whole.meta()["started_ns"])
                part.set_meta("boot_id", str(pid))  # one run each
                for table in ("process", "thread", "variable_sample"):
                    part.append(table, whole.columns(f"SELECT * FROM {table} WHERE pid = $pid", {"pid": pid}))
                part.append("variable", whole.columns("SELECT * FROM variable"))
    opened = [Recording.open(str(path)) for path in paths]
    yield opened
    for one in opened:
        one.close()


def differing(normal: list[Recording], other: Recording) -> list[VariableShift]:
    return list(shifts(Pair(Side("normal", tuple(normal)), Side("buggy", (other,))), (), ()))


def test_values_are_those_of_the_program(recording: Path, running: list[int]) -> None:
    sql = (
        "SELECT name, function, type, regexp_extract(source, '[^/]*$'), count(DISTINCT pid), min(value), max(value), "
        "count(*) - count(value) FROM variable LEFT JOIN variable_sample USING (variable_id) WHERE pid = ? GROUP BY ALL"
    )
    found = {
        name: (*said, low, high) for name, *said, low, high, unread in read(recording, sql, running[0]) if not unread
    }
    lines = {text.strip(): number for number, text in
             enumerate(Path(__file__).with_name("variable_program.c").read_text().splitlines(), 1)}  # fmt: skip

    def at(text: str) -> str:
        return f"variable_program.c:{next(n for line, n in lines.items() if text in line)}"

    assert set(found) == set(WATCHED)
    assert found["limit"] == (None, "volatile int", at("limit = 64;"), 1, LIMIT, LIMIT)
    assert found["table.used"][:3] == (None, "int", at("int used;"))
    assert 0 <= found["table.used"][-2] < found["table.used"][-1] <= LIMIT + 2
    assert found["newest->cleaned"][:3] == (None, "short unsigned int", at("unsigned short cleaned;"))
    assert found["newest"][:3] == (None, "table *", at("struct table *newest"))
    assert found["look_up(key)"][:3] == ("look_up", "int", at("int look_up("))
    assert 0 <= found["look_up(key)"][-2] < found["look_up(key)"][-1] < 1 << 16
    assert found["look_up(t->used)"][:3] == ("look_up", "int", at("int used;"))
    assert -1 <= found["look_up(ret)"][-2] <= found["look_up(ret)"][-1] <= LIMIT
    assert found["clean(arg1)"][1] == "table *" and found["clean(arg1)"][-2] == found["newest"][-1]
    assert found["temperature"][1:] == ("double", at("double temperature"), 1, -0.75, -0.75)
    assert found["table.filled"][1:3] == ("float", at("float filled;"))
    for name in ("table.filled", "look_up(t->filled)"):
        low, high = found[name][-2:]
        assert 0 < low < high <= 1 + 2 / LIMIT and low * LIMIT == round(low * LIMIT), "of a float exactly"
    large = {name: high for name, *_, high, _ in read(recording, sql, running[-1])}
    assert large["limit"] == BUGGY and large["look_up(t->used)"] > 2 * LIMIT


def test_the_critical_variable_comes_first(sides: list[Recording]) -> None:
    """Against one normal run, and against all of them; addresses are not named, nor how far counters are: how often the
    table was cleaned may be, for a large one is cleaned 64 times as rarely."""
    *normal, buggy = sides
    for some in ([normal[0]], normal):
        first, *others = differing(some, buggy)
        assert (first.name, first.view, first.a_range, first.b_range) == ("limit", "value", (64, 64), (4096, 4096))
        assert Path(first.source).name.startswith("variable_program.c:") and first.distance == 1
        assert first.since_ns is not None and first.since_ns < 2e9
        followers = {"table.used", "look_up(t->used)", "look_up(ret)", "newest->cleaned"}
        assert {one.name for one in others} <= followers | {"table.filled", "look_up(t->filled)"}
        assert not [one for one in others if one.name == "newest->cleaned" and one.view == "value"], "a counter"
        assert "look_up(t->used)" in {one.name for one in others}


def test_the_diff_names_it_and_its_line(sides: list[Recording]) -> None:
    """Of programs without steps: the variable is the first cause, with the line that declares it."""
    *normal, buggy = sides
    found = compare(Pair(Side("normal", tuple(normal)), Side("buggy", (buggy,))))
    first = found.causes[0]
    lines = Path(__file__).with_name("variable_program.c").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "limit = 64;" in text)
    assert first.kind == "variable", found.causes
    assert first.claim.startswith("limit ") and f"variable_program.c:{line})" in first.claim
    assert first.claim.endswith("is 4096 instead of 64") and "now 4096" in first.evidence[0]
    assert found.variables[0].name == "limit" and compare(Pair(*_two(normal))).causes == ()


def _two(normal: list[Recording]) -> tuple[Side, Side]:
    return Side("normal", tuple(normal[1:])), Side("buggy", (normal[0],))


def test_normal_pairs_are_silent(sides: list[Recording]) -> None:
    pairs = list(itertools.combinations(sides[:NORMAL], 2))
    flagged = [named for a, b in pairs if (named := [(one.name, one.view, one.distance) for one in differing([a], b)])]
    assert len(pairs) >= 20 and len(flagged) <= 0.05 * len(pairs), flagged


@pytest.mark.parametrize(
    ("watch", "said"),
    [
        ("limt", "there is no variable limt; there is limit"),
        ("table", "table is a table: name a member (used, cleaned, next, keys, filled)"),
        ("table.size", MEMBERS),
        ("temperature + 1", "temperature is a floating-point number: nothing can be added to it or read at it"),
        ("look_up(arg1->filled & 1)", ".filled is a floating-point number: nothing can be added to it or read at it"),
        ("limit.used", "limit is a volatile int, which has no member used"),
        ("lock_up(key)", "no function has this name; there is look_up"),
        ("look_up(kex)", "neither an argument nor a variable kex; whole numbers are t, key"),
        ("look_up(arg1->size)", MEMBERS),
        ("look_up(arg2->used)", "arg2 is a int, which has no member used"),
    ],
)
def test_what_is_not_there(running: list[int], flowprof: Flowprof, watch: str, said: str) -> None:
    done = flowprof("list-probes", running[0], "--watch", watch, "--format", "json")
    (row,) = [one for one in json.loads(done.stdout) if one["probe"] == f"variable {watch}"]
    assert row["cost"] == "not possible" and row["reason"] == said


def test_nothing_is_recorded_without_a_variable_that_was_asked_for(running: list[int], flowprof: Flowprof) -> None:
    done = flowprof("attach", running[0], "--watch", "limit", "--watch", "limt", "-o", "x.duckdb")
    assert done.returncode == 3 and "--watch limt: there is no variable limt; there is limit" in done.stderr


def test_without_debug_information(tmp_path: Path, flowprof: Flowprof) -> None:
    """Symbols alone give the place of a variable and its size; what needs more says so."""
    path = built(tmp_path, "variable_program.c")
    with subprocess.Popen([path, "64"]) as process:
        try:
            wait_until_loaded(process.pid)
            done = flowprof(
                "list-probes", process.pid, "--watch", "limit", "--watch", "table.used", "--watch", "look_up(arg2)",
                "--watch", "look_up(key)", "--watch", "look_up(arg1->used)", "--format", "csv",
            )  # fmt: skip
        finally:
            process.kill()
    rows = {line.split(",")[2]: line for line in done.stdout.splitlines()}
    assert "every 20 ms" in rows["variable limit"] and ",0x" in rows["variable look_up(arg2)"]
    assert (
        "no debug information of table: its members are read as *(global(table)+OFFSET):u32"
        in rows["variable table.used"]
    )
    assert "there is no variable key" in rows["variable look_up(key)"]
    assert "the debug information does not say what arg1 is" in rows["variable look_up(arg1->used)"]


@pytest.mark.parametrize(
    ("watch", "said"),
    [("look_up(", "one too many"), ("arg1", "needs a call"), ("f(arg9)", "is no value"), ("", "'the end' where")],
)
def test_what_is_no_expression(flowprof: Flowprof, watch: str, said: str) -> None:
    done = flowprof("attach", "1", "--watch", watch)
    assert done.returncode == 2 and said in done.stderr
