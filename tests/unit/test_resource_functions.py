"""Functions that a manifest names are found, however short and however mangled their names are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.resources.callees import called, only_callee
from flowprof.profiler.resources.manifest import parse
from flowprof.profiler.resources.sites import (
    _ARGUMENTS,
    _NO_MODULE,
    _matching,
    needed_words,
    plan_resources,
)
from flowprof.profiler.target import Mapping, Module, Target

PROGRAM = """
struct Pool { int free; int get() const; int take(unsigned long n); template <class T> T give(T t) { return t; } };
__attribute__((noinline)) int Pool::get() const { return free; }
__attribute__((noinline)) int Pool::take(unsigned long n) { return free -= n; }
extern "C" {
__attribute__((noinline)) int push(int n) { return n + 1; }
__attribute__((noinline)) int f(int n) { return n * 3; }
__attribute__((noinline)) int my_sem_wait(int n) { return n - 1; }
__attribute__((noinline)) int my_sem_timedwait(int n) { return n - 2; }
__attribute__((noinline)) int __new_my_sem_wait(int n) { return n - 3; }
}
int main(int n, char **) { Pool p{n}; return p.get() + p.take(2) + push(n) + f(n) + my_sem_wait(n) + my_sem_timedwait(n)
    + __new_my_sem_wait(n) + p.give<long>(3); }
"""


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> ElfFile:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "program.cc").write_text(PROGRAM)
    subprocess.run(["g++", "-O1", "-o", "program", "program.cc"], cwd=folder, check=True)
    return ElfFile(str(folder / "program"))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (f"(?:push){_ARGUMENTS}", {"push"}),  # as of --watch
        (f"(?:f){_ARGUMENTS}", {"f"}),
        (f"(?:main){_ARGUMENTS}", {"main"}),
        (f"(?:Pool::get){_ARGUMENTS}", {"Pool::get() const"}),
        (r"Pool::get\([^{}]*\)( const)?", {"Pool::get() const"}),  # as a scan writes it
        (r"Pool::take\(unsigned long\)", {"Pool::take(unsigned long)"}),
        (r"Pool::(get|take)\(.*\).*", {"Pool::get() const", "Pool::take(unsigned long)"}),
        (r"(__new_)?my_sem_(timed|clock)?wait", {"my_sem_wait", "my_sem_timedwait", "__new_my_sem_wait"}),
        (r"push|my_sem_wait", {"push", "my_sem_wait"}),
        (r"(?:push|f)", {"push", "f"}),
        (r"p[uo]sh+", {"push"}),
        (r"\w+ush", {"push"}),
        (r"nothing_like_it", set()),
    ],
)
def test_functions_are_found(elf: ElfFile, pattern: str, names: set[str]) -> None:
    assert {name for _, _, _, name in _matching([(_NO_MODULE, elf)], pattern)} == names


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"server_queue::post\(server_task&&, bool\)", ["server_queue"]),
        (r"std::vector<int>::push_back", ["push_back"]),
        (r"a_long_word?|(b|c)?", ["a_long_wor", ""]),
        (r"lock_(shared|unique)", ["lock_"]),
        (r"[a-z]{3}_lock", ["_lock"]),
        (r".*", [""]),
    ],
)
def test_words_that_a_symbol_must_hold(pattern: str, words: list[str]) -> None:
    assert needed_words(pattern) == words


CALLS = """
__attribute__((noipa)) static int take(int n) { return n + 1; }
__attribute__((noipa)) static int drop(int n) { return n + 2; }
__attribute__((noipa)) int one(int n) { return take(n) * 2; }
__attribute__((noipa)) int tail(int n) { return drop(n); }
__attribute__((noipa)) int two(int n) { return take(n) * 2 + drop(n); }
__attribute__((noipa)) int rarely(int n) { if (__builtin_expect(n < 0, 0)) __builtin_trap(); return take(n) * 2; }
__attribute__((noipa)) int none(int n) { return n; }
int main(int n, char **) { return one(n) + tail(n) + two(n) + none(n) + rarely(n); }
"""


def test_the_only_function_that_another_one_calls(tmp_path: Path) -> None:
    """By a call, or by a jump at its end; with its name where it has one, also where the file names none."""
    (tmp_path / "calls.cc").write_text(f'extern "C" {{ {CALLS} }}')
    subprocess.run(["g++", "-O2", "-rdynamic", "-o", "calls", "calls.cc"], cwd=tmp_path, check=True)
    elf = ElfFile(str(tmp_path / "calls"))
    address = {name: symbol.address for name in ("take", "drop") if (symbol := elf.symbols().get(name))}
    for name, wanted in (("one", "take"), ("tail", "drop"), ("rarely", "take"), ("two", None), ("none", None)):
        caller = elf.symbols().get(name)
        assert caller is not None
        found = only_callee(elf, caller)
        assert (found and found.name) == wanted
        assert wanted is None or address[wanted] in called(elf, caller.address)
    subprocess.run(["strip", "calls"], cwd=tmp_path, check=True)
    stripped = ElfFile(str(tmp_path / "calls"))
    caller = stripped.symbols().get("tail")
    assert caller is not None and stripped.symbols().get("drop") is None
    found = only_callee(stripped, caller)
    assert found is not None and (found.name, found.address) == ("callee of tail", address["drop"])


WRAPPED = """
name = "p"
[[resource]]
name = "r"
kind = "state"
[[resource.event]]
event = "acquire"
callee_of = 'one'
[[resource.event]]
event = "acquire"
function = 'one|none'
unless_inner = true
[[resource.event]]
event = "release"
callee_of = 'two'
[[resource.event]]
event = "release"
function = 'one'
unless_inner = true
"""


RETURNED = """
name = "p"
[[resource]]
name = "r"
kind = "memory"
[[resource.event]]
event = "acquire"
function = 'take'
at = "return"
unit = "ret"
[[resource.event]]
event = "acquire"
function = 'drop'
at = "return"
no_unwind = true
unit = "ret"
"""


def calling(folder: Path) -> Target:
    """A process of the program above."""
    (folder / "calls.c").write_text(CALLS.replace("char **)", "char **unused)"))
    subprocess.run(["gcc", "-O2", "-o", "calls", "calls.c"], cwd=folder, check=True)
    path = str(folder / "calls")
    module = Module(1, path, path, 1, "", False, (Mapping(0, 1 << 20, 0),))
    return Target(1, 0, 0, path, path, 0.0, (module,))


def test_what_makes_a_dear_exit_cheaper_is_told(tmp_path: Path) -> None:
    """Where what is returned is read, the return instruction is single-stepped, unless a return probe is allowed."""
    sites = plan_resources(calling(tmp_path), [parse(RETURNED, "p.toml")], (6, 12))
    told = {site.symbol: (site.cost_class, "no_unwind" in site.reason) for site in sites if site.taps}
    assert told == {"take": ("single-stepped", True), "drop": ("return", False)}


def test_a_function_that_calls_another_one_of_the_event_is_left_out(tmp_path: Path) -> None:
    sites = plan_resources(calling(tmp_path), [parse(WRAPPED, "p.toml")], (6, 12))
    placed = {(site.symbol, site.probe.id) for site in sites if not site.refused}
    assert placed == {("take", "r.acquire"), ("none", "r.acquire"), ("one", "r.release")}
    assert [(site.symbol, site.reason) for site in sites if site.refused] == [
        ("callee of two", "p.toml:13: the function calls not one other function, but several or none")
    ]
