"""Expressions of manifests: what they read, in which steps, and what is refused."""

from __future__ import annotations

import pytest
from flowprof.profiler.binaries.dwarf import Member
from flowprof.profiler.resources.expression import (
    ARGUMENT,
    DECLARED,
    MAX_STEPS,
    NAMED,
    NUMBER,
    RETURN,
    THREAD,
    WAY_BYTES,
    Condition,
    ExpressionError,
    Step,
    Way,
    parse,
    parse_conditions,
    place_members,
)

U32, I64 = Step(0, 4), Step(0, 8, True)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("arg1", Way(1)),
        ("arg6 + 16 - 8", Way(6, steps=(Step(8),))),
        ("ret", Way(RETURN)),
        ("tid", Way(THREAD)),
        ("this", Way(ARGUMENT, owner="this")),
        ("0x40", Way(NUMBER, 64)),
        ("global(ns::size)", Way(NUMBER, symbol="ns::size")),
        ("*(arg1):u32", Way(1, steps=(U32,))),
        ("*(arg1+16):i64", Way(1, steps=(Step(16, 8, True),))),
        ("*(*(arg2 + 8):ptr - 4):i16 + 1", Way(2, steps=(Step(8, 8), Step(-4, 2, True), Step(1)))),
        ("*(global(n)):i64", Way(NUMBER, symbol="n", steps=(I64,))),
        ("*(64):u32", Way(NUMBER, 64, steps=(U32,))),
        ("this.n_slots", Way(1, owner="this", steps=(Step(member="n_slots"),))),
        ("cast(a::task, *(arg2):ptr).id", Way(2, owner="a::task", steps=(Step(0, 8), Step(member="id")))),
        ("ret->size", Way(RETURN, owner=DECLARED, steps=(Step(member="size"),))),
        ("arg2->size", Way(2, owner=DECLARED, steps=(Step(member="size"),))),
        ("global(pool).used", Way(NUMBER, symbol="pool", owner=DECLARED, steps=(Step(member="used"),))),
        ("limit", Way(NAMED, symbol="limit", owner=DECLARED)),
        ("pool->used", Way(NAMED, symbol="pool", owner=DECLARED, steps=(Step(member="used"),))),
    ],
)
def test_what_is_read(text: str, way: Way) -> None:
    assert parse(text) == way


@pytest.mark.parametrize(
    "text",
    [
        "", "arg7", "arg0", "*arg1", "*(arg1)", "*(arg1):f16", "*(arg1:u32", "arg1 +", "arg1 + arg2",
        "tid.x", "*(arg1):u64->x", "global()", "cast(x, arg1", "ret ret", "arg1;", "$(id)", "arg1 + 0x100000000",
        "1" * 401,
        "99999999999999999999", "*(" * 8 + "arg1" + "):u64" * 8, "cast(x, this.y).z", "\0",
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text)
    assert str(raised.value)


def test_as_many_steps_as_are_walked() -> None:
    deepest = "*(" * MAX_STEPS + "arg1" + "):u64" * MAX_STEPS
    assert len(parse(deepest).steps) == MAX_STEPS


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("ret != 0", Condition(Way(RETURN), "!=", 0)),
        ("ret==-110", Condition(Way(RETURN), "==", -110)),
        ("*(arg1):u32 >= 0x10", Condition(Way(1, steps=(U32,)), ">=", 16)),
        ("arg2<3", Condition(Way(2), "<", 3)),
        ("arg1->n > 0", Condition(parse("arg1->n"), ">", 0)),
    ],
)
def test_conditions(text: str, condition: Condition) -> None:
    assert parse_conditions(text) == (condition,)


def test_two_conditions() -> None:
    assert parse_conditions("arg1 == 2 and *(arg2):u32 < 7") == (
        Condition(Way(1), "==", 2), Condition(Way(2, steps=(U32,)), "<", 7),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "ret",
        "ret != x",
        "!= 0",
        "ret = 0",
        "arg1->n",
        "ret > 9999999999999999999999",
        "a < b < c",
        "ret != 0 and",
        "ret > 0 and ret",
        "arg1 > 0 and arg2 > 0 and arg3 > 0",
    ],
)
def test_conditions_that_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_conditions(text)


STRUCTS = {
    ("server", "tasks"): Member(16, 80, False, False, "queue"),  # a struct within
    ("queue", "size"): Member(8, 4, True, False, ""),
    ("server", "next"): Member(24, 8, False, True, "server"),  # a pointer to one
    ("server", "data"): Member(40, 8, False, True, ""),
    ("server", "load"): Member(48, 8, False, False, "", real=True),
    ("server", "wide"): Member(64, 16, False, False, ""),
}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("this.tasks.size", (Step(24, 4, True),)),
        ("this.next.tasks.size", (Step(24, 8), Step(24, 4, True))),
        ("this.next", (Step(24, 8),)),
        ("this.data", (Step(40, 8),)),
        ("this.data + 8", (Step(40, 8), Step(8))),
        ("*(this.data + 8):u32", (Step(40, 8), Step(8, 4))),
        ("this.tasks", (Step(16),)),  # its address
        ("this.load", (Step(48, 8),)),
        ("cast(server, *(arg2):ptr).next", (Step(0, 8), Step(24, 8))),
    ],
)
def test_members_by_debug_information(text: str, steps: tuple[Step, ...]) -> None:
    way = place_members(parse(text), "server", lambda struct, name: STRUCTS.get((struct, name)))
    assert way.steps == steps and not way.members


@pytest.mark.parametrize(("text", "owner"), [("this.other", "server"), ("this.next", ""), ("this.data.x", "server"),
                                               ("this.load + 1", "server"), ("this.wide", "server")])  # fmt: skip
def test_members_that_are_not_there(text: str, owner: str) -> None:
    with pytest.raises(ExpressionError):
        place_members(parse(text), owner, lambda struct, name: STRUCTS.get((struct, name)))


def test_the_kernel_gets_as_many_bytes_as_it_reads() -> None:
    packed = parse("*(*(arg2 + 8):ptr - 4):i16").packed()
    assert len(packed) == WAY_BYTES == 88
    assert packed[8] == 2 and packed[9] == 2  # base and number of steps
    assert packed[16:28] == bytes([8, 0, 0, 0]) + bytes(4) + bytes([8, 0, 0, 0])
    assert packed[28:40] == bytes([0xFC, 0xFF, 0xFF, 0xFF]) + bytes(4) + bytes([2, 1, 0, 0])
    assert parse("0xffffffffffffffff").packed()[:8] == b"\xff" * 8


def test_bits_of_a_value() -> None:
    assert parse("arg2 & 127").steps == (Step(mask=127),)
    assert parse("*(arg1 + 4):u32 & 0x3fffffff").steps == (Step(4, 4), Step(mask=0x3FFFFFFF))
    assert parse_conditions("arg2 & 127 == 9") == (Condition(Way(2, steps=(Step(mask=127),)), "==", 9),)
    for text in ("arg1 & 0", "arg1 & 0x100000000", "arg1 & x"):
        with pytest.raises(ExpressionError):
            parse(text)
