"""Names in expressions, by debug information: variables, arguments, members; and what `--watch` makes of its texts."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.errors import UsageError
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.resources import watch
from flowprof.profiler.resources.declared import declared
from flowprof.profiler.resources.events import ResourceEvents
from flowprof.profiler.resources.expression import RETURN, ExpressionError, Kind, Step, Way, parse
from flowprof.profiler.resources.manifest import Event, Manifest, Resource, Variable
from flowprof.profiler.resources.taps import SAMPLE, WAYS, Tap, make_tap

PROGRAM = """
struct node { char kind; struct node *next; double weight; };
extern int seen;
namespace ns {
struct pool { unsigned used : 3; long size; static short made; void grow(int by); };
short pool::made = 3;
pool all;
__attribute__((noinline)) unsigned find(const node *from, double weight, unsigned char kind, pool whole, long after)
{ static int calls; seen += ++calls; return from->kind + kind + after + whole.size + (int)weight; }
__attribute__((noinline)) void pool::grow(int by) { size += by; made++; }
}
int seen;
float ratio = 0.5f;
node *n;
_Complex float turn = 1;
long double wide = 2;
extern "C" __attribute__((noinline)) double halved(double of) { return of / 2; }
int main(int argc, char **)
{ node one{}; n = &one; ns::all.grow(argc);
  return ns::find(n, 1.5, 2, ns::all, 3) + ratio + halved(wide) + __real__ turn; }
"""
FIND = "_ZN2ns4findEPK4nodedhNS_4poolEl"


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> ElfFile:
    folder = tmp_path_factory.mktemp("declared")
    (folder / "program.cc").write_text(PROGRAM)
    subprocess.run(["g++", "-O1", "-g", "-o", "program", "program.cc"], cwd=folder, check=True)
    return ElfFile(str(folder / "program"))


@pytest.mark.parametrize(
    ("text", "function", "base", "steps", "kind"),
    [
        ("seen", "", 0, [(0, 4, True)], ("int", 12)),  # its definition, not the declaration before
        ("n", "", 0, [(0, 8, False)], ("node *", 14)),  # so short that the name stands in the DIE itself
        ("ns::pool::made", "", 0, [(0, 2, True)], ("short int", 6)),
        ("n->next", "", 0, [(0, 8, False)], ("", 0)),
        ("ns::all", "", None, [], "ns::all is a pool: name a member (used, size)"),
        ("ratio", "", 0, [(0, 4, False)], ("float", 13)),
        ("ratio + 1", "", None, [], "ratio is a floating-point number: nothing can be added to it or read at it"),
        ("turn", "", None, [], "turn is a complex float, no number of 1, 2, 4 or 8 bytes"),
        ("wide", "", None, [], "wide is a long double, no number of 1, 2, 4 or 8 bytes"),
        ("ret", "halved", None, [], "ret is a double, which comes in no register that is read"),
        ("sen", "", None, [], "there is no variable sen; there is seen"),
        ("from", FIND, 1, [], ("const node *", 8)),
        ("kind", FIND, 2, [], ("unsigned char", 8)),  # the weight is in no such register
        ("arg2", FIND, 2, [], ("unsigned char", 8)),
        ("after", FIND, None, [], "neither an argument nor a variable after; whole numbers are from, kind"),
        ("seen", FIND, 0, [(0, 4, True)], ("int", 12)),
        ("ret", FIND, RETURN, [], ("unsigned int", 8)),
        ("arg3", FIND, 3, [], ("", 0)),
        ("arg2->next", FIND, None, [], "arg2 is a unsigned char, which has no member next"),
    ],
)
def test_names(elf: ElfFile, text: str, function: str, base: int | None, steps: list[object], kind: object) -> None:
    if base is None:
        with pytest.raises(ExpressionError) as raised:
            declared(parse(text), elf, function)
        assert str(raised.value) == kind
        return
    way = declared(parse(text), elf, function)
    assert way.base == base
    assert [(step.offset, step.size, step.signed) for step in way.steps if not step.member] == steps
    line = way.kind.source.rpartition(":")
    said = (way.kind.type, int(line[2] or 0))
    assert said == kind and line[0].endswith("program.cc" if way.kind.source else "")


def test_a_file_without_debug_information(elf: ElfFile, tmp_path: Path) -> None:
    subprocess.run(["objcopy", "--strip-debug", elf.path, tmp_path / "program"], check=True)
    plain = ElfFile(str(tmp_path / "program"))
    assert [(s.size, s.signed) for s in declared(parse("seen"), plain).steps] == [(4, True)]
    assert declared(parse("arg1"), plain, FIND) == Way(1)
    for text in ("n->kind", "arg1->kind", "ns::all", "kind"):
        with pytest.raises(ExpressionError):
            declared(parse(text), plain, FIND)


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("limit", Variable("limit", "limit", 20)),
        (" pool->used ", Variable("pool->used", "pool->used", 20)),
        ("*(global(n) + 8):u32", Variable("*(global(n) + 8):u32", "*(global(n) + 8):u32", 20)),
        ("cast(pool, n)", Variable("cast(pool, n)", "cast(pool, n)", 20)),
        ("a::f(arg1->x)", Variable("a::f(arg1->x)", "arg1->x", 20, 0, "a::f")),
        ("f( ret )", Variable("f( ret )", " ret ", 20, 0, "f", "return")),
        ("f(*(arg1 + 8):u32)", Variable("f(*(arg1 + 8):u32)", "*(arg1 + 8):u32", 20, 0, "f")),
        ("~f(tid)", Variable("~f(tid)", "tid", 20, 0, "\\~f")),
    ],
)
def test_texts(text: str, variable: Variable) -> None:
    made = watch.manifest([text, text])
    assert made is not None and made.variables == (variable,) and made.resources == ()


@pytest.mark.parametrize("text", ["", "f(", "f()", "arg1", "ret", "f(arg9)", "a b", "f(x) + 1", "x" * 500, "(" * 300])
def test_texts_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        watch.manifest([text])


@pytest.mark.parametrize("text", ["*(arg1):f32 + 8", "*(*(arg1):f64):u32", "*(arg1):f64 & 1", "*(arg1):f16"])
def test_nothing_is_done_to_a_floating_point_number(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


def test_too_many() -> None:
    assert watch.manifest([]) is None
    with pytest.raises(UsageError):
        watch.manifest([f"v{i}" for i in range(65)])


def test_of_a_register_only_the_types_bytes_count() -> None:
    kinds = {"i32": Kind(4, True), "u32": Kind(4, False), "u8": Kind(1, False), "i64": Kind()}
    said = tuple((name, name, Way(1, kind=kind)) for name, kind in kinds.items())
    tap = Tap("--watch", "", SAMPLE, False, 0, False, False, (None,) * len(WAYS), (), said, "f")
    found = ResourceEvents((Manifest("--watch", "", "", "", (), ()),), Stacks(lambda _: {}))
    found._taps.append(tap)  # as if a site with it had been attached
    for name, text, way in said:
        found._number(0, name, text, "f", way)
    event = np.zeros(1, ring.EVENT)
    event["kind"], event["ith"] = ring.RESOURCE_VARIABLES, 0xFFFF << 16
    for word in "abcd":
        event[word] = 0xABCDEF01_FFFFFFFE
    rows, samples = found.decode(event)
    assert len(rows["at_ns"]) == 0
    assert not samples["value"].mask.any()
    assert list(samples["value"]) == [-2, 0xFFFFFFFE, 0xFE, float(0xABCDEF01_FFFFFFFE - (1 << 64))]
    assert found.new_variables()["function"] == ["f"] * 4


def test_floating_point_numbers_are_what_their_bytes_say() -> None:
    said = tuple((text, text, parse(text)) for text in ("*(arg1):f32", "*(arg1 + 8):f64", "*(arg1 + 16):f32"))
    tap = Tap("--watch", "", SAMPLE, False, 0, False, False, (None,) * len(WAYS), (), said, "f")
    found = ResourceEvents((Manifest("--watch", "", "", "", (), ()),), Stacks(lambda _: {}))
    found._taps.append(tap)
    for name, text, way in said:
        found._number(0, name, text, "f", way)
    event = np.zeros(1, ring.EVENT)
    event["kind"], event["ith"] = ring.RESOURCE_VARIABLES, 0xFFFF << 16
    event["a"] = np.array(-1.5, np.float32).view(np.uint32)
    event["b"] = np.array(1e300).view(np.uint64)
    event["c"] = np.array(np.inf, np.float32).view(np.uint32)
    _, samples = found.decode(event)
    assert samples["value"].tolist() == [-1.5, 1e300, None]
    assert found.new_variables()["type"] == ["float", "double", "float"]


def test_only_variables_are_floating_point_numbers(elf: ElfFile) -> None:
    manifest, resource = Manifest("m", "", "", "", (), ()), Resource("r", "memory", "", "", (), 1)
    tapped = partial(make_tap, manifest, resource, elf=elf, function="ns::find(node const*)", symbol=FIND)
    (_, _, way), *_ = tapped(Event("acquire", "find", variables=(("weight", "arg1->weight"),))).variables
    assert way.kind.real and way.steps == (Step(16, 8),)
    for field in (Event("acquire", "find", units="arg1->weight"), Event("acquire", "find", when="arg1->weight > 0")):
        with pytest.raises(ExpressionError, match="only variables may be one"):
            tapped(field)
