"""Members that have no debug information, by the functions that return them; and a capacity that is read so."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.blame import reading
from flowprof.profiler.resources.expression import ExpressionError, Step, Way, parse
from flowprof.profiler.resources.getter import getter_step
from flowprof.profiler.resources.taps import place_way
from flowprof.profiler.store import Recording

PROGRAM = """
struct context { char first; unsigned char byte; short half; unsigned n; long wide; unsigned far[100]; float real;
    context *next; };
extern "C" {
unsigned n(context *c) { return c->n; }
long wide(context *c) { return c->wide; }
int half(context *c) { return c->half; }
unsigned byte(context *c) { return c->byte; }
unsigned far(context *c) { return c->far[99]; }
long widened(context *c) { return (int)c->n; }
unsigned by_jump(context *c);
#ifdef __aarch64__
#define JUMP "b"
#else
#define JUMP "jmp"
#endif
__asm__(".globl by_jump\\n.type by_jump, @function\\nby_jump: " JUMP " n\\n.size by_jump, .-by_jump\\n");
unsigned behind(context *c) { return c->next->n; }
unsigned more(context *c) { return c->n + 1; }
float real(context *c) { return c->real; }
unsigned of_another(int, context *c) { return c->n; }
void nothing(context *) {}
}
"""


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> ElfFile:
    folder = tmp_path_factory.mktemp("getters")
    (folder / "a.cc").write_text(PROGRAM)
    hints = "-fcf-protection" if platform.machine() == "x86_64" else "-mbranch-protection=standard"
    command = ["g++", "-O2", hints, "-fPIC", "-shared", "-o", "a.so", "a.cc"]
    subprocess.run(command, cwd=folder, check=True)
    return ElfFile(str(folder / "a.so"))


STEPS = {
    "n": Step(4, 4), "wide": Step(8, 8), "half": Step(2, 2, True), "byte": Step(1, 1), "far": Step(16 + 4 * 99, 4),
    "widened": Step(4, 4, True), "by_jump": Step(4, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_where_it_lies_and_how_large_it_is(elf: ElfFile, name: str) -> None:
    assert getter_step(elf, name) == STEPS[name]


@pytest.mark.parametrize("name", ["behind", "more", "real", "of_another", "nothing"])
def test_what_does_anything_else_is_refused(elf: ElfFile, name: str) -> None:
    with pytest.raises(ExpressionError, match=f"^{name} does not just return a member$"):
        getter_step(elf, name)


def test_what_is_not_there_is_refused(elf: ElfFile) -> None:
    with pytest.raises(ExpressionError, match="there is no function missing"):
        getter_step(elf, "missing")


@pytest.mark.parametrize(("code", "step"), [
    ("00 70 40 b9", Step(0x70, 4)), ("00 00 40 f9", Step(0, 8)), ("00 14 40 39", Step(5, 1)),
    ("00 08 40 79", Step(4, 2)), ("00 04 80 b9", Step(4, 4, True)), ("20 70 40 b9", None), ("00 70 40 bd", None),
])  # fmt: skip
def test_aarch64(code: str, step: Step | None) -> None:
    """ldr w0, [x0, #112]; ret, and the like."""
    bytes_ = bytes.fromhex(f"5f 24 03 d5 {code} c0 03 5f d6".replace(" ", ""))  # bti c first
    symbols = SimpleNamespace(get=lambda _: SimpleNamespace(address=0x1000, size=len(bytes_)))
    file: Any = SimpleNamespace(machine="aarch64", read=lambda _, size: bytes_[:size], symbols=lambda: symbols)
    if step is None:
        with pytest.raises(ExpressionError):
            getter_step(file, "f")
    else:
        assert getter_step(file, "f") == step


def test_in_an_expression(elf: ElfFile) -> None:
    way = place_way(parse("getter(wide, *(arg2 + 8):ptr)"), "", None, elf)
    assert way == Way(2, steps=(Step(8, 8), Step(8, 8)))
    assert place_way(parse("getter(n, this + 8)"), "context", None, elf).steps == (Step(8), Step(4, 4))
    for text in ("getter(n)", "getter(n, this", "getter(n, this.a)", "getter(4, this)"):
        with pytest.raises(ExpressionError):
            parse(text)


@pytest.mark.parametrize(("stated", "known"), [(None, 512), (64, 64)])
def test_a_variable_called_capacity_is_the_capacity(tmp_path: Path, stated: int | None, known: int) -> None:
    path = str(tmp_path / "r.duckdb")
    with Recording.create(path) as recording:
        recording.append("resource", {"resource_id": [1, 2], "name": ["batch", "other"], "kind": "memory",
                                      "capacity": [stated, None]})  # fmt: skip
        recording.append("variable", {"variable_id": [1, 2, 3], "resource_id": [1, 1, 2],
                                      "name": ["capacity", "n", "n"]})  # fmt: skip
        recording.append("variable_sample", {"at_ns": [1, 2, 3, 4], "pid": 1, "tid": 1, "variable_id": [1, 1, 2, 3],
                                             "value": [None, 512.0, 7.0, 9.0]})  # fmt: skip
        recording.append("resource_event", {"at_ns": [1], "pid": 1, "tid": 1, "resource_id": 1, "event": ["acquire"],
                                            "instance": 0, "units": 3})  # fmt: skip
    with Recording.open(path) as recording:
        assert [one.capacity for one in reading.read(recording).resources] == [known, None]
