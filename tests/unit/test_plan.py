"""Ladders and sites on small ELF files made by hand: the first rung that stands, and why those above do not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung
from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.errors import NothingToProfileError, UsageError
from flowprof.profiler.planning.plan import KERNEL_SITES, Plan, _paired, make_plan, require_engine, require_room
from flowprof.profiler.planning.planned_site import MAX_SITES, PlannedSite
from flowprof.profiler.target import Mapping, Module, Target

PUSHES = bytes.fromhex("55 4889e5 5d c3")  # push %rbp; mov %rsp,%rbp; pop %rbp; ret
MARKED = bytes.fromhex("f30f1efa 55 5d c3")  # endbr64; push; pop; ret
MOVES = bytes.fromhex("4889f8 c3")  # mov %rdi,%rax; ret: must be single-stepped
SPOILED = bytes.fromhex("e800000000 c3")  # call: what comes after it has no arguments left
KERNEL = (6, 18)

BEST = Probe("op.best", "entry", "op", 2, ("best",))
FUSED = Probe("op.fused", "entry", "op", 2, pattern=r"op_\w+_fused", required=False)
STATIC = Probe("op.static", "entry", "op", 2, pattern=r"forward(\.\w+)*", excluded=r".*\.cold")
EACH = Probe("op.each", "entry", "op", 2, pattern=r"op_[a-z0-9_]+", excluded=r".*_f32")
BEGIN, END = (
    Probe("g.begin", "entry", "graph_begin", 1, ("compute",)),
    Probe("g.end", "return", "graph_end", 0, ("compute",)),
)
ENGINE = Engine(
    "toy",
    b"compute",
    "toy.bpf.c",
    (
        Ladder("graph", "when", (Rung("compute", "its own", (BEGIN, END)),)),
        Ladder(
            "op",
            "which",
            (
                Rung("one for all", "", (BEST, FUSED)),
                Rung("static", "", (STATIC, FUSED)),
                Rung("each", "", (EACH,)),
            ),
        ),
    ),
)

Planned = Callable[..., Plan]


@pytest.fixture
def planned(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> Planned:
    """`planned({"name": code}, …)`: the plan of a process with one such library per argument."""

    def plan(*libraries: dict[str, bytes], first_site: int = 1) -> Plan:
        modules = []
        for number, functions in enumerate(libraries):
            path = tmp_path / f"lib{number}.so"
            build_elf(path, functions)
            modules.append(Module(4, str(path), str(path), number, "0:0", False, (Mapping(0, 4096, 0),)))
        target = Target(4, 1, 0, "/usr/bin/toy", "toy", 0.0, tuple(modules))
        return make_plan([target], KERNEL, (ENGINE,), first_site=first_site)

    return plan


def attachable(plan: Plan, level: str) -> list[PlannedSite]:
    return [site for site in plan.sites if site.level == level and not site.refused]


def symbols(plan: Plan, level: str = "op") -> list[str]:
    return [site.symbol for site in attachable(plan, level)]


FALLBACKS = [
    ({"best": PUSHES, "forward": PUSHES, "op_add": PUSHES}, "one for all", ["best"], 0),
    ({"best": PUSHES, "op_norm_mul_fused": PUSHES}, "one for all", ["best", "op_norm_mul_fused"], 0),
    ({"forward": PUSHES, "op_add": PUSHES}, "static", ["forward"], 1),
    ({"forward.part.0": PUSHES, "forward.cold": PUSHES}, "static", ["forward.part.0"], 1),
    ({"forward": PUSHES, "forward.constprop.0": MARKED}, "static", ["forward", "forward.constprop.0"], 1),
    ({"op_add": PUSHES, "op_mul": PUSHES, "op_mul_f32": PUSHES}, "each", ["op_add", "op_mul"], 2),
    ({"best": SPOILED, "forward": PUSHES}, "one for all", ["best"], 0),  # the call itself is a fine place
    ({"other": PUSHES}, None, [], 3),
    ({"op_norm_mul_fused": PUSHES}, "each", ["op_norm_mul_fused"], 2),  # not enough for the rungs above
]


@pytest.mark.parametrize(("functions", "rung", "expected", "missing"), FALLBACKS)
def test_the_first_rung_that_stands(
    planned: Planned, functions: dict[str, bytes], rung: str | None, expected: list[str], missing: int
) -> None:
    plan = planned({"compute": PUSHES, **functions})
    assert plan.rung(4, "op", "toy") == rung
    assert sorted(symbols(plan)) == sorted(expected)
    (ladder,) = [ladder for ladder in plan.ladders if ladder.level == "op"] or [None]
    if ladder is not None:
        assert len(ladder.missing) == missing
        assert all(why.split(": ")[1] for why in ladder.missing), "what is missing has a reason"


def test_sites_are_numbered_and_placed(planned: Planned) -> None:
    plan = planned({"compute": MARKED, "best": MARKED, "op_a_fused": MOVES}, first_site=40)
    assert [site.site_id for site in plan.sites] == [40, 41, 42, 43]
    by_probe = {site.probe.id: site for site in plan.sites}
    assert {site.pid for site in plan.sites} == {4}
    begin, end = by_probe["g.begin"], by_probe["g.end"]
    assert begin.offset is not None and end.offset is not None
    assert begin.offset == end.offset + 4, "behind the endbr64; a return probe belongs on the entry"
    assert begin.instruction.startswith("push")
    assert (begin.cost_class, end.cost_class) == ("emulated", "return")
    assert by_probe["op.fused"].cost_class == "single-stepped"
    assert all(site.reason for site in plan.sites)


def test_functions_in_several_libraries(planned: Planned) -> None:
    """One library per processor generation, say: all that are loaded are probed, each in its own file."""
    plan = planned({"compute": PUSHES, "best": PUSHES}, {"other": PUSHES}, {"compute": PUSHES, "best": MARKED})
    assert symbols(plan) == ["best", "best"]
    assert [site.module.path[-7:] for site in attachable(plan, "op")] == ["lib0.so", "lib2.so"]
    assert [module.path[-7:] for module, _, _ in plan.modules] == ["lib0.so", "lib2.so"], "only where the marker is"


def test_a_required_function_may_be_in_another_library(planned: Planned) -> None:
    plan = planned({"compute": PUSHES}, {"compute_helper": PUSHES, "best": PUSHES})
    assert plan.rung(4, "op", "toy") == "one for all"


def test_refusals_are_kept_with_their_reason(planned: Planned) -> None:
    loop = bytes.fromhex("4889f0 ebfb")  # mov %rsi,%rax; jmp back: the entry is a loop's head
    plan = planned({"compute": PUSHES, "best": loop, "forward": PUSHES})
    assert plan.rung(4, "op", "toy") == "static"
    (refused,) = [site for site in plan.sites if site.refused]
    assert (refused.symbol, refused.offset, refused.cost_class) == ("best", None, "")
    assert refused.reason
    (ladder,) = [ladder for ladder in plan.ladders if ladder.level == "op"]
    assert ladder.missing == (f"one for all: {refused.reason}",)


def test_no_engine(planned: Planned) -> None:
    plan = planned({"something": PUSHES})
    assert (plan.sites, plan.ladders, plan.modules) == ((), (), ())
    with pytest.raises(NothingToProfileError, match=r"no engine.*lib0\.so"):
        require_engine(plan)


def test_an_engine_without_its_entry(planned: Planned) -> None:
    plan = planned({"compute_not": PUSHES})
    assert plan.rung(4, "graph", "toy") is None
    with pytest.raises(NothingToProfileError, match="no place to probe"):
        require_engine(plan)


def test_an_engine_that_can_be_seen(planned: Planned) -> None:
    require_engine(planned({"compute": PUSHES}))


def test_more_sites_than_there_is_room_for(planned: Planned) -> None:
    plan = planned({"compute": PUSHES})
    require_room(replace(plan, sites=plan.sites[:1] * (MAX_SITES - KERNEL_SITES - 1)))
    with pytest.raises(UsageError, match=r"8,128 probe sites; 8,127 can be recorded at once"):
        require_room(replace(plan, sites=plan.sites[:1] * (MAX_SITES - KERNEL_SITES)))


def test_functions_of_equal_names_keep_their_own_exits(planned: Planned) -> None:
    """Two `static` functions of one name in one file: a return belongs to its own function's entry."""
    site = next(site for site in planned({"compute": PUSHES}).sites if not site.refused)

    def one(number: int, kind: str, function: int) -> PlannedSite:
        return replace(site, site_id=number, probe=replace(site.probe, kind=kind), function=function)

    sites = _paired((one(1, "entry", 0x100), one(2, "exit", 0x100), one(3, "entry", 0x900), one(4, "exit", 0x900)))
    assert [one.entry_id for one in sites] == [0, 1, 0, 3]


def test_a_file_that_is_no_elf(planned: Planned, tmp_path: Path) -> None:
    """Data mapped executable, with the marker in it."""
    path = tmp_path / "data"
    path.write_bytes(b"compute" * 100)
    module = Module(4, str(path), str(path), 9, "0:0", False, (Mapping(0, 4096, 0),))
    plan = make_plan([Target(4, 1, 0, "x", "x", 0.0, (module,))], KERNEL, (ENGINE,))
    assert (plan.sites, plan.modules) == ((), ())


def test_a_file_is_opened_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(Path(sys.executable).read_bytes())
    module = Module(1, str(path), str(path), path.stat().st_ino, "", False, ())
    first = open_elf(module)
    assert open_elf(module) is first
    os.utime(path, ns=(1, 1))
    assert open_elf(module) is not first
