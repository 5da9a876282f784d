"""Which instruction a probe goes on: the kernel's rules as a table, and functions assembled by hand as another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.planning.probe_cost import probe_cost
from flowprof.profiler.planning.sites import (
    OLDEST_KERNEL,
    CostClass,
    NoSite,
    call_sites,
    choose_entry_site,
    return_site,
)

BuildElf = Callable[..., dict[str, int]]

E, S, NO = CostClass.EMULATED, CostClass.SINGLE_STEPPED, None
AARCH64 = 183


# -- what the kernel does with one instruction ------------------------------------------------------------------------

X86_COSTS = [
    ("55", "push rbp", E, E),
    ("4154", "push r12", E, E),
    ("4855", "rex.w push rbp", S, S),
    ("6655", "push bp", S, S),
    ("ff3500000000", "push [rip]", S, S),
    ("6a01", "push 1", S, S),
    ("90", "nop", E, E),
    ("6690", "xchg ax, ax", E, E),
    ("4190", "xchg r8d, eax", NO, NO),
    ("f390", "pause", E, E),
    ("0f1f440000", "5-byte nop", S, E),
    ("0f1f00", "3-byte nop", S, E),
    ("660f1f440000", "6-byte nop", S, E),
    ("662e0f1f840000000000", "cs nop", NO, NO),
    ("f30f1efa", "endbr64", S, S),
    ("e811223344", "call", E, E),
    ("e911223344", "jmp", E, E),
    ("eb10", "jmp short", E, E),
    ("7410", "je short", E, E),
    ("0f8411223344", "je", E, E),
    ("660f8411223344", "je with an operand prefix", NO, NO),
    ("66e811223344", "call with an operand prefix", NO, NO),
    ("f2e911223344", "bnd jmp", E, E),
    ("3effe0", "notrack jmp rax", NO, NO),
    ("ffe0", "jmp rax", S, S),
    ("c3", "ret", S, S),
    ("4889e5", "mov rbp, rsp", S, S),
    ("488d0500000000", "lea rax, [rip]", S, S),
    ("64488b042528000000", "mov rax, fs:0x28", S, S),
    ("f00fc107", "lock xadd", NO, NO),
    ("cc", "int3", NO, NO),
    ("f4", "hlt", NO, NO),
    ("0f0b", "ud2", NO, NO),
    ("0f05", "syscall", NO, NO),
    ("8ed0", "mov ss, eax", NO, NO),
    ("f348ab", "rep stosq", NO, NO),
    ("48ab", "stosq", S, S),
    ("c5f877", "vzeroupper", NO, NO),
    ("c5f970c01b", "vpshufd", NO, NO),
    ("62f17c4828c0", "vmovaps zmm0", NO, NO),
    ("e310", "jrcxz", S, S),
    ("", "nothing", NO, NO),
    ("66", "a prefix only", NO, NO),
]


@pytest.mark.parametrize(("data", "what", "old", "new"), X86_COSTS)
def test_x86_costs(data: str, what: str, old: CostClass | None, new: CostClass | None) -> None:
    assert probe_cost("x86-64", bytes.fromhex(data), (5, 10)) == old, what
    assert probe_cost("x86-64", bytes.fromhex(data), (6, 19)) == new, what


def test_long_nops_are_emulated_from_linux_6_18() -> None:
    assert probe_cost("x86-64", bytes.fromhex("0f1f440000"), (6, 17)) is S
    assert probe_cost("x86-64", bytes.fromhex("0f1f440000"), (6, 18)) is E
    assert probe_cost("x86-64", bytes.fromhex("0f1f00"), (6, 18)) is E


A64_COSTS = [
    (0xD503201F, "nop", S, E),
    (0xD503233F, "paciasp", S, S),
    (0xD50323BF, "autiasp", NO, NO),
    (0xD503245F, "bti c", S, S),
    (0xD503207F, "wfi", NO, NO),
    (0x94000010, "bl", E, E),
    (0x14000010, "b", E, E),
    (0x54000040, "b.eq", E, E),
    (0x54000050, "bc.eq", NO, NO),
    (0xB4000060, "cbz", E, E),
    (0x35000060, "cbnz", E, E),
    (0x36000060, "tbz", E, E),
    (0xD65F03C0, "ret", E, E),
    (0xD65F0BFF, "retaa", NO, NO),
    (0xD63F0040, "blr x2", E, E),
    (0xD61F0040, "br x2", E, E),
    (0xB0004DE0, "adrp", E, E),
    (0x10000000, "adr", E, E),
    (0x58000040, "ldr x0, literal", E, E),
    (0x98000040, "ldrsw x0, literal", E, E),
    (0x5C000040, "ldr d0, literal", NO, NO),
    (0xD8000040, "prfm literal", NO, NO),
    (0xA9BF7BFD, "stp x29, x30, [sp, #-16]!", S, S),
    (0x910003FD, "mov x29, sp", S, S),
    (0xC85F7C20, "ldxr", NO, NO),
    (0xC8027C20, "stxr", NO, NO),
    (0xD4000001, "svc", NO, NO),
    (0xD4200000, "brk", NO, NO),
    (0xD51B4200, "msr nzcv", NO, NO),
    (0xD53BD040, "mrs tpidr_el0", S, S),
    (0xD5033BBF, "dmb", S, S),
    (0x00000000, "udf", NO, NO),
]


@pytest.mark.parametrize(("word", "what", "old", "new"), A64_COSTS)
def test_aarch64_costs(word: int, what: str, old: CostClass | None, new: CostClass | None) -> None:
    assert probe_cost("aarch64", word.to_bytes(4, "little"), (5, 10)) == old, what
    assert probe_cost("aarch64", word.to_bytes(4, "little"), (6, 13)) == new, what


def test_other_machines_have_no_costs() -> None:
    assert probe_cost("riscv", b"\x01\x00", (6, 18)) is None
    assert probe_cost("aarch64", b"\x1f\x20\x03", (6, 18)) is None


# -- whole functions --------------------------------------------------------------------------------------------------

OMP_BARRIER = "8b4768 6683f801 7407 e9c1c2c3c4 6690 c3"
CET_BARRIER = "f30f1efa 8b4768 0fb7f0 6683f801 743e" + "90" * 62 + "c3"

# (what, code, arguments read, offset of the site or None, cost class)
X86_FUNCTIONS = [
    ("push at the entry", "4155 4989fd 4154 c3", 2, 0, E),
    ("endbr64, then push", "f30f1efa 4155 4989fd c3", 2, 4, E),
    ("ggml_barrier of an OpenMP build", OMP_BARRIER, 1, 7, E),
    ("ggml_barrier behind endbr64", CET_BARRIER, 1, 14, E),
    ("an argument is overwritten before the push", "89f7 55 5d c3", 1, 0, S),
    ("the same does not matter without it", "89f7 55 5d c3", 0, 2, E),
    ("only the second argument is overwritten", "89fe 55 5d c3", 1, 2, E),
    ("the second is read too", "89fe 55 5d c3", 2, 0, S),
    ("a byte of an argument is overwritten", "40b701 55 5d c3", 1, 0, S),
    ("an implicit write: cqo writes rdx", "4899 55 5d c3", 3, 0, S),
    ("the same with two arguments", "4899 55 5d c3", 2, 2, E),
    ("an implicit write: mul writes rdx", "48f7e0 55 5d c3", 3, 0, S),
    ("an exchange writes both", "4887f8 55 5d c3", 1, 0, S),
    ("the overwriting instruction itself is early enough", "f30f1efa 90 89f7 55 c3", 1, 4, E),
    ("a loop back onto the push", "8b07 55 5d ebfc", 1, 0, S),
    ("a loop back between entry and push", "89c0 01c0 55 5d 75fa c3", 1, 0, S),
    ("a loop back behind the push", "89c0 55 5d 01c0 75fc c3", 1, 2, E),
    ("a loop back to the entry", "89c0 01c0 75fa c3", 1, None, None),
    ("a near jump back onto the push", "89c0 55 5d e9f9ffffff", 1, 0, S),
    ("bytes that look like a jump onto the push but are an immediate", "89c0 55 5d b8 00 00 00 ebf7 c3 c3", 1, 2, E),
    ("nothing emulated before the return", "8b07 c3", 1, 0, S),
    ("lock at the entry, then a push", "f00fc107 55 c3", 1, 4, E),
    ("vzeroupper at the entry, then a move", "c5f877 8b07 c3", 1, 3, S),
    ("nothing that may be probed", "cc", 1, None, None),
    ("an indirect call ends the line", "ff10 55 c3", 1, 0, S),
    ("a jump to a pointer's field is no switch", "31c0 7504 ff6010 90 c3", 1, 2, E),
    ("an unknown indirect jump: only behind a lowered stack", "31c0 7503 ffe0 90 c3", 1, 0, S),
    ("an unknown indirect jump, but a push follows the site", "31c0 55 57 ffe0", 1, 2, E),
    ("a 5-byte nop counts on newer kernels", "0f1f440000 8b07 c3", 1, 0, S),
]


@pytest.mark.parametrize(("what", "code", "args", "offset", "cost"), X86_FUNCTIONS, ids=lambda x: str(x)[:60])
def test_x86_sites(
    tmp_path: Path, build_elf: BuildElf, what: str, code: str, args: int, offset: int | None, cost: CostClass | None
) -> None:
    address = build_elf(tmp_path / "f", {"before": b"\xc3", "f": bytes.fromhex(code)})["f"]
    elf = ElfFile(str(tmp_path / "f"))
    if offset is None:
        with pytest.raises(NoSite) as refused:
            choose_entry_site(elf, address, args)
        assert f"{address:#x}" in refused.value.message
        return
    site = choose_entry_site(elf, address, args)
    assert (site.address - address, site.cost_class) == (offset, cost), site.reason
    assert site.file_offset == elf.file_offset(site.address)
    assert site.reason.startswith("single-stepped: ") == (cost is S)


def test_newer_kernels_emulate_more(tmp_path: Path, build_elf: BuildElf) -> None:
    address = build_elf(tmp_path / "f", {"f": bytes.fromhex("0f1f440000 8b07 c3")})["f"]
    elf = ElfFile(str(tmp_path / "f"))
    assert choose_entry_site(elf, address, 1, kernel=(6, 18)).cost_class is E
    assert choose_entry_site(elf, address, 1, kernel=(6, 1)).cost_class is S


@pytest.mark.parametrize(
    ("code", "offset", "cost"),
    [
        ("f30f1efa 4883ec18 e800000000 4883c418 c3", 0, S),  # behind the `sub` the frame is another
        ("f30f1efa 53 4883ec18 5b c3", 4, E),
        ("8b07 7400 4883ec18 c3", 2, E),
    ],
)
def test_the_stack_pointer_is_the_callers(
    tmp_path: Path, build_elf: BuildElf, code: str, offset: int, cost: CostClass
) -> None:
    address = build_elf(tmp_path / "f", {"f": bytes.fromhex(code)})["f"]
    site = choose_entry_site(ElfFile(str(tmp_path / "f")), address, 2, frame=True)
    assert (site.address - address, site.cost_class) == (offset, cost)
    free = choose_entry_site(ElfFile(str(tmp_path / "f")), address, 2)
    assert (free.address - address, free.cost_class) == (8 if offset == 0 else offset, E)


def switch(table_at: int, function: int) -> bytes:
    """A switch: `mov eax, [rsi+0x50]; test; je 1f; lea rdx, table; movslq rax, [rdx+rax*4]; add; jmp rax; 1: ret`."""
    lea_end = function + 3 + 2 + 2 + 7
    relative = (table_at - lea_end).to_bytes(4, "little", signed=True)
    return bytes.fromhex("8b4650 85c0 740c 488d15") + relative + bytes.fromhex("48630482 4801d0 ffe0 c3")


@pytest.mark.parametrize(("lands_at", "offset", "cost"), [([14, 23], 5, E), ([14, 5], 0, S), ([14, 3], 0, S)])
def test_jump_tables_are_read(
    tmp_path: Path, build_elf: BuildElf, lands_at: list[int], offset: int, cost: CostClass
) -> None:
    """The static ggml_compute_forward of older builds: its `je` is a good site unless the switch leads back to it."""
    function, table_at = 0x11000, 0x10400
    table = b"".join((function + at - table_at).to_bytes(4, "little", signed=True) for at in lands_at)
    code = switch(table_at, function)
    assert build_elf(tmp_path / "f", {"f": code}, data=table)["f"] == function
    site = choose_entry_site(ElfFile(str(tmp_path / "f")), function, 2)
    assert (site.address - function, site.cost_class) == (offset, cost), site.reason


def test_a_cold_part_that_jumps_back_is_seen(tmp_path: Path, build_elf: BuildElf) -> None:
    """`f` jumps to `f.cold`, and that jumps back to the push: hit twice per call."""
    hot = bytes.fromhex("8b07 55 5d 85c0 0f8501000000 c3")
    for back, expected in ((2, (0, S)), (4, (2, E))):
        cold_offset = 0x20
        hot_code = hot[:8] + (cold_offset - 12).to_bytes(4, "little") + b"\xc3"
        cold = b"\xe9" + (back - cold_offset - 5).to_bytes(4, "little", signed=True)
        functions = {"f": hot_code, "g": b"\xc3", "f.cold": cold}
        addresses = build_elf(tmp_path / "f", functions)
        assert addresses["f.cold"] - addresses["f"] == cold_offset
        site = choose_entry_site(ElfFile(str(tmp_path / "f")), addresses["f"], 1)
        assert (site.address - addresses["f"], site.cost_class) == expected, site.reason


def test_without_an_end_only_the_entry_is_taken(tmp_path: Path, build_elf: BuildElf) -> None:
    address = build_elf(tmp_path / "f", {"f": bytes.fromhex("8b07 55 5d c3")}, sizes={"f": 0})["f"]
    site = choose_entry_site(ElfFile(str(tmp_path / "f")), address, 1)
    assert (site.address, site.cost_class) == (address, S) and "end" in site.reason
    with pytest.raises(NoSite, match="not code"):
        choose_entry_site(ElfFile(str(tmp_path / "f")), 0x10400, 1)


def test_return_sites(tmp_path: Path, build_elf: BuildElf) -> None:
    functions = {"f": bytes.fromhex("8b07 55 c3"), "g": bytes.fromhex("f00fc107 c3")}
    addresses = build_elf(tmp_path / "f", functions)
    elf = ElfFile(str(tmp_path / "f"))
    site = return_site(elf, addresses["f"])
    assert (site.address, site.cost_class) == (addresses["f"], CostClass.RETURN)
    with pytest.raises(NoSite, match="lock xadd"):
        return_site(elf, addresses["g"])


def test_a_return_probe_lies_where_the_return_address_is_still_on_top(tmp_path: Path, build_elf: BuildElf) -> None:
    """With the entry's probe or behind it, and no further than to what moves the stack pointer."""
    moves, lowers = bytes.fromhex("f30f1efa 8b07 55 53 c3"), bytes.fromhex("f30f1efa 4883ec08 55 c3")
    addresses = build_elf(tmp_path / "f", {"moves": moves, "lowers": lowers})
    elf = ElfFile(str(tmp_path / "f"))
    for name, offset in (("moves", 6), ("lowers", 0)):
        site = return_site(elf, addresses[name], OLDEST_KERNEL)
        assert (site.address - addresses[name], site.cost_class) == (offset, CostClass.RETURN)
        assert choose_entry_site(elf, addresses[name], 6, frame=True).address <= site.address


def test_call_sites(tmp_path: Path, build_elf: BuildElf) -> None:
    """Two direct calls; an indirect one, a jump, and an immediate that looks like a call are none."""
    callee = 0x11000

    def at(address: int, opcode: str) -> bytes:
        return bytes.fromhex(opcode) + (callee - address - 5).to_bytes(4, "little", signed=True)

    caller = 0x11010
    code = at(caller, "e8") + bytes.fromhex("ff d0") + at(caller + 7, "e8")
    code += bytes.fromhex("48b8") + at(caller + 14, "e8") + bytes.fromhex("000000")
    code += at(caller + 22, "e9")
    addresses = build_elf(tmp_path / "f", {"callee": b"\xc3", "caller": code})
    assert (addresses["callee"], addresses["caller"]) == (callee, caller)
    elf = ElfFile(str(tmp_path / "f"))
    for goal in ("callee", callee):
        sites = call_sites(elf, caller, goal)
        assert [(s.address - caller, s.cost_class) for s in sites] == [(0, E), (7, E)]
    assert call_sites(elf, caller, "nobody") == [] and call_sites(elf, callee, "callee") == []


# the bytes of xllamacpp's AArch64 wheel
A64_FUNCTIONS = [
    (
        "ggml_barrier, its argument overwritten at once",
        "00c00191 000040b9 003c0012 1f040071 40000054 9e1cd717 c0035fd6",
        1,
        0,
        S,
    ),
    ("ggml_barrier, argument not read", "00c00191 000040b9 003c0012 1f040071 40000054 9e1cd717 c0035fd6", 0, 16, E),
    (
        "ggml_cpu_extra_compute_forward: the first call",
        "fd7bbda9 fd030091 f35301a9 f40301aa f55b02a9 f50300aa 8e3cd797 135840a9 c0035fd6",
        2,
        24,
        E,
    ),
    ("paciasp, then cbz", "3f2303d5 600000b4 c0035fd6", 1, 4, E),
    ("a loop back onto the cbz", "1f2003d5 600000b4 e0ffff54 c0035fd6", 1, 0, S),
    ("an exclusive load ends the line", "1f2003d5 207c5fc8 40000054 c0035fd6", 0, 0, S),
    ("a pair load overwrites the second argument", "e00740a9 40000054 c0035fd6", 2, 0, S),
    ("writing back the base is a write", "028440f8 40000054 c0035fd6", 1, 0, S),
    ("autiasp cannot be probed", "bf2303d5 e0031faa c0035fd6", 1, 4, S),
]


@pytest.mark.parametrize(("what", "code", "args", "offset", "cost"), A64_FUNCTIONS, ids=lambda x: str(x)[:60])
def test_aarch64_sites(
    tmp_path: Path, build_elf: BuildElf, what: str, code: str, args: int, offset: int, cost: CostClass
) -> None:
    address = build_elf(tmp_path / "f", {"f": bytes.fromhex(code)}, machine=AARCH64)["f"]
    site = choose_entry_site(ElfFile(str(tmp_path / "f")), address, args)
    assert (site.address - address, site.cost_class) == (offset, cost), site.reason


def test_other_machines_are_refused(tmp_path: Path, build_elf: BuildElf) -> None:
    address = build_elf(tmp_path / "f", {"f": b"\x13\0\0\0"}, machine=243)["f"]
    with pytest.raises(NoSite, match="riscv"):
        choose_entry_site(ElfFile(str(tmp_path / "f")), address, 1)


# (what, code, offset of the site, cost class) for probes that read what lies on the stack
FRAMES = [
    ("a push moves the stack pointer behind the site", "55 4889e5 4156 c3", 0, E),
    ("endbr64 leaves it as it is", "f30f1efa 55 c3", 4, E),
    ("a call behind a lowered stack is too late", "4883ec08 e800000000 4883c408 c3", 0, S),
    ("the second push is", "89c0 4155 4154 c3", 2, E),
]


@pytest.mark.parametrize(("what", "code", "offset", "cost"), FRAMES, ids=[case[0] for case in FRAMES])
def test_a_frame_wants_the_stack_pointer_of_the_entry(
    tmp_path: Path, build_elf: BuildElf, what: str, code: str, offset: int, cost: CostClass
) -> None:
    start = build_elf(tmp_path / "a.so", {"f": bytes.fromhex(code)})["f"]
    site = choose_entry_site(ElfFile(str(tmp_path / "a.so")), start, 0, (6, 18), frame=True)
    assert (site.address - start, site.cost_class) == (offset, cost)


def test_a_frame_on_another_machine(tmp_path: Path, build_elf: BuildElf) -> None:
    start = build_elf(tmp_path / "a.so", {"f": bytes.fromhex("1f2003d5")}, AARCH64)["f"]
    with pytest.raises(NoSite, match="x86-64 only"):
        choose_entry_site(ElfFile(str(tmp_path / "a.so")), start, 0, (6, 18), frame=True)
