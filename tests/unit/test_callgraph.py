"""Static functions of a stripped library, found from its exported ones: small imitations of ggml of several ages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.planning.callgraph import (
    compute_forward_candidates,
    find_graph_thread,
    node_barriers,
    references,
)

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc to make libraries")

OPERATORS = 40
SOURCE = """
#include <pthread.h>
#include <stdbool.h>
#define NOINLINE __attribute__((noinline, noclone))
struct tensor { int op, ne; float *data; };
struct graph { int n_nodes; struct tensor **nodes; };
struct params { int ith, nth; void *pool; };
struct state { pthread_t thread; struct graph *graph; void *pool; int ith; };
extern volatile int sink;
__attribute__((noinline)) void ggml_barrier(void *pool) { __atomic_add_fetch((int *)pool, 1, __ATOMIC_SEQ_CST); }
__attribute__((noreturn)) void ggml_abort(const char *why);
bool ggml_is_empty(const struct tensor *t);
OPERATOR_FUNCTIONS
static NOINLINE void mul_mat(const struct params *p, struct tensor *t) {
    sink = t->ne;
    ggml_barrier(p->pool);
    for (int i = 0; i < t->ne; i++) sink += p->ith + t->ne;
}
#ifdef EXTRA
__attribute__((noinline))
bool ggml_cpu_extra_compute_forward(struct params *p, struct tensor *t) { return t->ne > p->nth; }
#endif
static FORWARD void ggml_compute_forward(struct params *p, struct tensor *t) {
    if (t->op == 0 || ggml_is_empty(t)) return;
#ifdef EXTRA
    if (ggml_cpu_extra_compute_forward(p, t)) return;
#endif
    switch (t->op) {
    case 1: mul_mat(p, t); break;
    CASES
    default: ggml_abort("op");
    }
}
static NOINLINE void *graph_thread(void *data) {
    struct state *s = data;
    struct params p = {s->ith, 4, s->pool};
    for (int i = 0; i < s->graph->n_nodes; i++) {
        ggml_compute_forward(&p, s->graph->nodes[i]);
        if (i + 1 < s->graph->n_nodes) ggml_barrier(s->pool);
    }
    ggml_barrier(s->pool);
    return 0;
}
int ggml_graph_compute(struct graph *graph, void *pool) {
    struct state states[4];
#ifdef OPENMP
    #pragma omp parallel num_threads(4)
    { struct state s = {0, graph, pool, 1}; graph_thread(&s); }
    (void)states;
#else
    for (int i = 0; i < 4; i++) {
        states[i] = (struct state){0, graph, pool, i};
        if (i) pthread_create(&states[i].thread, 0, graph_thread, &states[i]);
    }
    graph_thread(&states[0]);
    for (int i = 1; i < 4; i++) pthread_join(states[i].thread, 0);
#endif
    return 0;
}
int unrelated(void *pool) { ggml_barrier(pool); return 1; }
"""


def source() -> str:
    prototype = "(const struct params *p, struct tensor *t)"
    body = "{{ float x = {n} + p->ith; for (int i = 0; i < t->ne; i++) t->data[i] *= x; sink = {n}; }}"
    functions = [
        f"static NOINLINE void op_{n}{prototype} {body.format(n=n)}" if n % 2 else f"void ggml_op_{n}{prototype};"
        for n in range(2, OPERATORS)
    ]
    cases = [f"case {n}: {'op' if n % 2 else 'ggml_op'}_{n}(p, t); break;" for n in range(2, OPERATORS)]
    return SOURCE.replace("OPERATOR_FUNCTIONS", "\n".join(functions)).replace("CASES", "\n    ".join(cases))


BUILDS = {
    "openmp": ["-fopenmp", "-DEXTRA", "-DFORWARD=inline"],
    "pthreads": ["-DEXTRA", "-DFORWARD=inline"],
    "cet": ["-DEXTRA", "-DFORWARD=inline", "-fcf-protection=full"],
    "symbolic": ["-DEXTRA", "-DFORWARD=inline", "-Wl,-Bsymbolic"],
    "old": ["-DFORWARD=NOINLINE"],
    "old-openmp": ["-fopenmp", "-DFORWARD=NOINLINE"],
    "old-O3": ["-O3", "-DFORWARD=NOINLINE"],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ElfFile, dict[str, int]]]:
    folder = tmp_path_factory.mktemp("callgraph")
    (folder / "ggml.c").write_text(source())
    made = {}
    for name, flags in BUILDS.items():
        path = folder / f"{name}.so"
        command = ["gcc", "-O2", "-shared", "-fPIC", *flags, "-o", str(path), str(folder / "ggml.c"), "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)
        lines = subprocess.run(["nm", str(path)], check=True, capture_output=True, text=True).stdout.splitlines()
        truth = {fields[2]: int(fields[0], 16) for fields in map(str.split, lines) if len(fields) == 3}
        subprocess.run(["strip", str(path)], check=True)
        made[name] = (ElfFile(str(path)), truth)
    return made


@pytest.mark.parametrize("name", BUILDS)
def test_graph_thread(built: dict[str, tuple[ElfFile, dict[str, int]]], name: str) -> None:
    elf, truth = built[name]
    assert elf.symbols().get("graph_thread") is None
    assert find_graph_thread(elf) == truth["graph_thread"]


@pytest.mark.parametrize("name", BUILDS)
def test_compute_forward(built: dict[str, tuple[ElfFile, dict[str, int]]], name: str) -> None:
    elf, truth = built[name]
    if name.startswith("old"):
        assert compute_forward_candidates(elf) == [truth["ggml_compute_forward"]]
    else:  # inlined into the thread's loop
        assert compute_forward_candidates(elf) == []


@pytest.mark.parametrize("name", BUILDS)
def test_node_barriers(built: dict[str, tuple[ElfFile, dict[str, int]]], name: str) -> None:
    """The calls in the loop, told apart: between nodes and after the last, unless the compiler merged them."""
    elf, truth = built[name]
    thread = truth["graph_thread"]
    calls = [r for r in references(elf, thread) if r.kind == "call"]
    barriers = {r.address for r in calls if "ggml_barrier" in (elf.plt_target(r.target), _name(truth, r.target))}
    found = node_barriers(elf, thread)
    assert found.node and {*found.node, *found.last} == barriers and found.inner == ()


def _name(truth: dict[str, int], address: int) -> str | None:
    return next((name for name, at in truth.items() if at == address), None)


def test_a_library_without_ggml(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int f(int x) { return x + 1; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "a.so"), str(tmp_path / "a.c")], check=True)
    elf = ElfFile(str(tmp_path / "a.so"))
    assert find_graph_thread(elf) is None and compute_forward_candidates(elf) == []


def test_ggml_of_another_shape(tmp_path: Path) -> None:
    """An exported function of the right name that loops over nothing: no candidate, no exception."""
    (tmp_path / "a.c").write_text(
        "int g(int); int ggml_barrier(int x) { return x; }int ggml_graph_compute(int x) { while (x--) g(x); return x; }"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "a.so"), str(tmp_path / "a.c")], check=True)
    elf = ElfFile(str(tmp_path / "a.so"))
    assert find_graph_thread(elf) is None and compute_forward_candidates(elf) == []
