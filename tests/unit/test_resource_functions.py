"""Functions that a manifest names are found, however short and however mangled their names are."""

from __future__ import annotations

import subprocess

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.resources.sites import _ARGUMENTS, _NO_MODULE, _matching, needed_words

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
