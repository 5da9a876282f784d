"""Where a return is seen: functions assembled by hand, by gcc, and at random; the truth is walked by other means."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.planning.exit_sites import choose_exit_sites
from flowprof.profiler.planning.sites import CostClass, NoSite, Site

BuildElf = Callable[..., dict[str, int]]
E, S = CostClass.EMULATED, CostClass.SINGLE_STEPPED
KERNEL = (6, 12)


def compiled(folder: Path, source: str, name: str, suffix: str, *flags: str) -> tuple[ElfFile, int]:
    """The source as a shared library, and the address of one of its functions."""
    (folder / f"f{suffix}").write_text(source)
    library = folder / "f.so"
    base = ["gcc", "-shared", "-fPIC", "-fcf-protection=none", "-o", library, folder / f"f{suffix}"]
    subprocess.run([*base, *flags], check=True)
    elf = ElfFile(str(library))
    symbol = elf.symbols().get(name)
    assert symbol is not None
    return elf, symbol.address


def assembled(folder: Path, body: str) -> tuple[ElfFile, int]:
    """A function f of these lines; `work`, `clean` and `g` are functions elsewhere, `slow` one of the same file."""
    lines = "\n".join(line.strip() for line in body.split(";"))
    source = f"""
.intel_syntax noprefix
.text
.globl work, clean, g, f
.type work, @function
work: ret
.size work, .-work
.type clean, @function
clean: ret
.size clean, .-clean
.type g, @function
g: nop
.Lmiddle: ret
.size g, .-g
.type slow, @function
slow: call work
ret
.size slow, .-slow
.type f, @function
f:
{lines}
.size f, .-f
.section .note.GNU-stack,"",@progbits
"""
    return compiled(folder, source, "f", ".s", "-nostdlib")


# what, lines, (mnemonic and place among those of its kind, cost) of each site; text: why there is none
FUNCTIONS = [
    ("a plain return behind the work", "push rbp; call work; pop rbp; ret", [("ret", 0, S)]),
    ("a leaf: its entry is no exit", "push rbp; mov rbp, rsp; pop rbp; ret", [("ret", 0, S)]),
    ("clean-up at times", "push rbp; call work; test eax, eax; je 1f; call clean; 1:; pop rbp; ret", [("je", 0, E)]),
    (
        "the last of two clean-ups",
        "push rbp; call work; test eax, eax; je 1f; call clean; 1:; test ebx, ebx; je 2f; call clean; 2:; pop rbp; ret",
        [("je", 1, E)],
    ),
    (
        "a call behind the last jump that is always made",
        "push rbp; call work; test eax, eax; je 1f; call clean; 1:; call work; pop rbp; ret",
        [("ret", 0, S)],
    ),
    (
        "one of two calls behind is always made",
        "push rbp; call clean; test eax, eax; je 1f; call work; pop rbp; ret; 1:; call g; pop rbp; ret",
        [("ret", 0, S), ("ret", 1, S)],
    ),
    (
        "the work itself is done at times",
        "push rbp; test edi, edi; je 1f; call work; 1:; pop rbp; ret",
        [("ret", 0, S)],
    ),
    (
        "several returns",
        "push rbp; call work; test eax, eax; je 1f; pop rbp; ret; 1:; xor eax, eax; pop rbp; ret",
        [("je", 0, E)],
    ),
    (
        "several returns with nothing in common behind the work",
        "push rbp; test edi, edi; je 1f; call work; pop rbp; ret; 1:; call g; pop rbp; ret",
        [("ret", 0, S), ("ret", 1, S)],
    ),
    (
        "a jump in a loop is passed more than once",
        "push rbp; call work; 1:; dec eax; jne 1b; pop rbp; ret",
        [("ret", 0, S)],
    ),
    (
        "a jump behind a loop is not",
        "push rbp; 1:; call work; dec eax; jne 1b; test ebx, ebx; je 2f; call clean; 2:; pop rbp; ret",
        [("je", 0, E)],
    ),
    (
        "the later one stands first",
        "push rbp; jmp 3f; 1:; test eax, eax; je 2f; call clean; 2:; pop rbp; ret;"
        "3:; call work; test ebx, ebx; je 4f; call clean; 4:; jmp 1b",
        [("je", 0, E)],
    ),
    ("a tail call that cleans up", "push rbp; call work; pop rbp; jmp clean", [("jmp", 0, E)]),
    ("a tail call is one way out of two", "push rbp; call work; test eax, eax; pop rbp; jne 1f; jmp clean; 1:; ret",
     [("jne", 0, E)]),
    ("a tail call or a return, apart",
     "test edi, edi; je 1f; push rbp; call work; pop rbp; ret; 1:; call g; jmp clean", [("ret", 0, S), ("jmp", 0, E)]),
    ("a conditional tail call", "call work; test eax, eax; jne clean; ret", [("jne", 0, E)]),
    ("a conditional tail call before the work", "test edi, edi; jne clean; call work; ret",
     "is left by 'jne', which is passed when it stays"),
    ("a tail call that does the work", "mov rsi, rdi; jmp work", "leaves its work to another one"),
    ("recursion by a call", "push rbp; call f; test eax, eax; je 1f; call clean; 1:; pop rbp; ret", [("je", 0, E)]),
    ("recursion by a jump is a loop", "call work; test eax, eax; jne f; ret", [("ret", 0, S)]),
    ("a jump table", "lea rax, [rip + 1f]; jmp rax; 1:; ret", "jumps through a table"),
    ("a function that never returns", "push rbp; call work; ud2", "no return was found"),
    ("a loop without an end", "1:; call work; jmp 1b", "no return was found"),
    ("a way that does not come back", "call work; test eax, eax; jne 1f; ret; 1:; call clean; ud2", [("jne", 0, E)]),
    ("a jump into another function", "call work; jmp .Lmiddle", "to where no instruction or function begins"),
    ("it runs on into the next", "call work; pop rbp", "runs into what follows"),
    ("a prefix is no other jump", "call work; test eax, eax; bnd jne 1f; rep ret; 1:; rep ret", [("jne", 0, E)]),
]  # fmt: skip


def shown(elf: ElfFile, address: int, sites: list[Site]) -> list[tuple[str, int, CostClass]]:
    """The sites as the table has them."""
    from flowprof.profiler.binaries.disassembly import sweep
    from flowprof.profiler.planning.sites import function_code

    code, _ = function_code(elf, address)
    verbs: dict[int, tuple[str, int]] = {}
    for at, _, verb, _ in sweep("x86-64", code, address):
        word = verb.rsplit(" ", 1)[-1]
        verbs[at] = word, sum(other == word for other, _ in verbs.values())
    return [(*verbs[site.address], site.cost_class) for site in sites]


@pytest.mark.parametrize(("what", "lines", "expected"), FUNCTIONS, ids=[one[0] for one in FUNCTIONS])
def test_assembled_functions(tmp_path: Path, what: str, lines: str, expected: list | str) -> None:
    elf, address = assembled(tmp_path, lines)
    if isinstance(expected, str):
        with pytest.raises(NoSite, match=expected):
            choose_exit_sites(elf, address, KERNEL)
        return
    sites = choose_exit_sites(elf, address, KERNEL)
    assert shown(elf, address, sites) == expected, what
    assert [site.file_offset for site in sites] == [elf.file_offset(site.address) for site in sites]


# the same of functions that wait from their entry on; in `slow`, which others call, too: shared
JUMP = "push rbx; call work; test eax, eax; je 1f; pop rbx; ret; 1:; pop rbx; jmp slow"
WAITS = [
    ("as sem_wait: the last jump leads to the wait", JUMP, ["slow ret", "f ret"], None),
    ("a conditional tail call", "call work; test eax, eax; jne slow; ret", ["slow ret", "f ret"], None),
    ("nothing but a tail call", "mov rsi, rdi; jmp slow", ["slow ret"], None),
    ("the last call may be it", "call work; test eax, eax; je 1f; call clean; 1:; pop rbp; ret", ["f ret"], None),
    ("a call that does not come back", "call work; test eax, eax; jne 1f; ret; 1:; call clean; ud2",
     ["f jne"], ["f ret"]),
    ("no call behind", "call work; test eax, eax; je 1f; mov ebx, eax; 1:; ret", ["f je"], ["f ret"]),
    ("a call behind that gives back", "call work; test eax, eax; je 1f; call free@plt; 1:; ret", ["f je"], ["f ret"]),
    ("it leaves for another file", "call work; jmp read@plt", "leaves its work to read", None),
    ("what gives back is no wait", "call work; test eax, eax; je 1f; ret; 1:; jmp free@plt",
     ["f je"], "leaves its work to free"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "lines", "expected", "returning"), WAITS, ids=[one[0] for one in WAITS])
@pytest.mark.parametrize("returned", [False, True])
def test_functions_that_wait(
    tmp_path: Path, what: str, lines: str, expected: list | str, returning: list | str | None, returned: bool
) -> None:
    elf, address = assembled(tmp_path, lines)
    if returned and returning is not None:
        expected = returning
    if isinstance(expected, str):
        with pytest.raises(NoSite, match=expected):
            choose_exit_sites(elf, address, KERNEL, returned, waits=True)
        return
    sites = choose_exit_sites(elf, address, KERNEL, returned, waits=True)
    slow = elf.symbols().get("slow")
    assert slow is not None
    within = ["slow" if slow.address <= site.address < slow.address + slow.size else "f" for site in sites]
    found = [f"{name} {site.instruction.split()[0]}" for name, site in zip(within, sites, strict=True)]
    assert found == expected, what
    assert [site.shared for site in sites] == [name == "slow" for name in within]


def test_what_is_returned_is_known_where_a_tail_call_returns(tmp_path: Path) -> None:
    """Not before it, nor where it leaves for another file."""
    elf, address = assembled(tmp_path, JUMP)
    assert [site.instruction[:3] for site in choose_exit_sites(elf, address, KERNEL)] == ["je "]
    assert [site.shared for site in choose_exit_sites(elf, address, KERNEL, returned=True)] == [True, False]
    elf, address = assembled(tmp_path, "call work; jmp read@plt")
    assert [site.instruction.split()[0] for site in choose_exit_sites(elf, address, KERNEL)] == ["jmp"]
    with pytest.raises(NoSite, match="leaves its work to read"):
        choose_exit_sites(elf, address, KERNEL, returned=True)


C_SOURCE = """
extern int work(int), clean(int); extern void fail(int) __attribute__((noreturn));
extern int rare(int) __attribute__((cold));
struct held { int has, *what; };
int plain(int a) { return work(a) + 1; }
int cleans(int a, struct held *h) { int r = work(a); if (__builtin_expect(h->has, 0)) clean(r); return r; }
int back(int a, struct held *h) {
    int r = work(a);
    if (a > 100) { r += rare(1); clean(2); }
    if (h->has) clean(3);
    return r;
}
int throws(int a, struct held *h) {
    if (__builtin_expect(a < 0, 0)) fail(a);
    int r = work(a);
    if (h->has) clean(r);
    return r;
}
int either(int a, int b) { if (a) return work(b) + 1; return clean(b) + 2; }
int loops(int a) { int r = 0; for (int i = 0; i < a; i++) r += work(i); return r; }
"""


@pytest.mark.parametrize("level", ["-O1", "-O2", "-Os"])
@pytest.mark.parametrize("name", ["plain", "cleans", "back", "throws", "either", "loops"])
def test_compiled_functions(tmp_path: Path, name: str, level: str) -> None:
    """As a compiler lays them out, with cold parts elsewhere: each walk passes one site, and behind its last call."""
    elf, address = compiled(tmp_path, C_SOURCE, name, ".c", level, "-freorder-blocks-and-partition", "-fno-inline",
                            "-Wl,-z,lazy")  # fmt: skip
    sites = choose_exit_sites(elf, address, KERNEL)
    assert sites
    if name in ("plain", "loops") or (name == "either" and level == "-O2"):
        assert {site.instruction.split()[0] for site in sites} <= {"ret", "jmp"}
    if (name, level) == ("throws", "-O1"):
        assert sites[0].instruction.startswith("ret"), "what stands behind a call that does not come back is a way, too"
    elif name in ("cleans", "throws", "back"):
        assert [site.cost_class for site in sites] == [E], [site.instruction for site in sites]
        text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", f"--disassemble={name}", elf.path],
                              check=True, capture_output=True, text=True).stdout  # fmt: skip
        ahead = text.split(f"{sites[0].address:x}:")[0]
        assert "<work@plt>" in ahead, "the site lies behind the work"


def test_a_cold_part_is_followed_and_comes_back(tmp_path: Path, build_elf: BuildElf) -> None:
    """f: call w; jne f.cold; 1: je 2f; call w; 2: ret – f.cold: call w, and back to 1. The `je` is passed once."""
    hot = bytes.fromhex("e8 00000000 0f85 15000000 7405 e8 00000000 c3")
    cold = bytes.fromhex("e8 00000000 e9 e1ffffff")
    for name, expected in (("f.cold", "je"), ("f.cold.3", "je"), ("other", None)):
        addresses = build_elf(tmp_path / "f", {"f": hot, "g": b"\xc3", name: cold})
        assert addresses[name] - addresses["f"] == 0x30
        elf = ElfFile(str(tmp_path / "f"))
        fixed = hot[:7] + (0x30 - 11).to_bytes(4, "little") + hot[11:]
        back = cold[:6] + (11 - 0x30 - 10).to_bytes(4, "little", signed=True)
        addresses = build_elf(tmp_path / "f", {"f": fixed, "g": b"\xc3", name: back})
        elf = ElfFile(str(tmp_path / "f"))
        if expected is None:  # a function of its own: `jne` is a tail call that may also stay
            assert [site.instruction.split()[0] for site in choose_exit_sites(elf, addresses["f"], KERNEL)] != ["ret"]
        else:
            [site] = choose_exit_sites(elf, addresses["f"], KERNEL)
            assert (site.address - addresses["f"], site.cost_class) == (11, E)


def test_a_stripped_file_names_no_cold_part(tmp_path: Path) -> None:
    """The unwind information bounds it: it is followed, and no probe is put on what others might call, too."""
    source = C_SOURCE.replace("int back(", '__attribute__((visibility("default"))) int back(')
    elf, address = compiled(tmp_path, source, "back", ".c", "-O2", "-freorder-blocks-and-partition")
    cold = elf.symbols().get("back.cold")
    assert cold is not None, "gcc has made no cold part: the test needs one"
    before = choose_exit_sites(elf, address, KERNEL)
    subprocess.run(["strip", elf.path], check=True)
    stripped = ElfFile(elf.path)
    assert stripped.symbols().get("back.cold") is None
    assert choose_exit_sites(stripped, address, KERNEL) == before
    assert not any(cold.address <= site.address < cold.address + cold.size for site in before)


def test_a_return_in_shared_code_is_refused(tmp_path: Path) -> None:
    """Where a stripped file's function goes on in what has no name, and returns from there."""
    source = """
.text
.globl f, work
.type f, @function
.type work, @function
work: .cfi_startproc
ret
.cfi_endproc
.size work, .-work
f: .cfi_startproc
call work
jmp shared
.cfi_endproc
.size f, .-f
.type shared, @function
shared: .cfi_startproc
nop
ret
.cfi_endproc
.size shared, .-shared
.section .note.GNU-stack,"",@progbits
"""
    elf, address = compiled(tmp_path, source, "f", ".s", "-nostdlib")
    [site] = choose_exit_sites(elf, address, KERNEL)
    assert site.instruction.startswith("jmp"), "with its symbol it is a tail call"
    subprocess.run(["strip", elf.path], check=True)
    stripped = ElfFile(elf.path)
    [site] = choose_exit_sites(stripped, address, KERNEL)
    assert site.instruction.startswith("jmp"), "every way passes the jump, whosever code it leads to"
    source = source.replace("call work\njmp", "test %eax, %eax\njne 1f\njmp").replace("nop\nret", "1: call work\nret")
    elf, address = compiled(tmp_path, source, "f", ".s", "-nostdlib")
    subprocess.run(["strip", elf.path], check=True)
    with pytest.raises(NoSite, match="may be shared"):
        choose_exit_sites(ElfFile(elf.path), address, KERNEL)


def test_sizes_and_machines(tmp_path: Path, build_elf: BuildElf) -> None:
    addresses = build_elf(tmp_path / "f", {"f": b"\x90\xc3", "big": b"\x90" * 70_000 + b"\xc3"}, sizes={"f": 0})
    elf = ElfFile(str(tmp_path / "f"))
    for name in ("f", "big"):
        with pytest.raises(NoSite, match="ends is not known"):
            choose_exit_sites(elf, addresses[name], KERNEL)
    address = build_elf(tmp_path / "a64", {"f": bytes.fromhex("c0035fd6")}, machine=183)["f"]
    with pytest.raises(NoSite, match="x86-64 only"):
        choose_exit_sites(ElfFile(str(tmp_path / "a64")), address, KERNEL)


def test_bytes_that_are_no_instruction(tmp_path: Path, build_elf: BuildElf) -> None:
    address = build_elf(tmp_path / "f", {"f": bytes.fromhex("e800000000 06 c3")})["f"]
    with pytest.raises(NoSite, match="no instruction"):
        choose_exit_sites(ElfFile(str(tmp_path / "f")), address, KERNEL)


# -- at random --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Walk:
    """A function as lists of (size, kind, goal): kinds mov, call, ret, jmp, jcc. Built without a disassembler."""

    code: bytes = b""
    at: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)  # address → kind, where it goes on


def made_up(rng: random.Random, address: int) -> Walk:
    """Up to seven blocks with up to two instructions before the jump that ends each."""
    count = rng.randint(1, 7)
    blocks = []
    for number in range(count):
        body = [rng.choice(("mov", "call", "mov")) for _ in range(rng.randint(0, 2))]
        ends = ("ret", "jmp", "jcc", "jcc") if number < count - 1 else ("ret", "ret", "jmp")
        blocks.append(([*body, rng.choice(ends)], rng.randrange(count)))
    sizes = {"mov": 3, "call": 5, "ret": 1, "jmp": 5, "jcc": 6}
    starts, here = [], address
    for kinds, _ in blocks:
        starts.append(here)
        here += sum(sizes[kind] for kind in kinds)
    walk, here = Walk(), address
    for kinds, goal in blocks:
        for kind in kinds:
            after = here + sizes[kind]
            relative = (starts[goal] - after).to_bytes(4, "little", signed=True)
            code = {"mov": b"\x48\x89\xc3", "call": b"\xe8\0\0\0\0", "ret": b"\xc3", "jmp": b"\xe9" + relative,
                    "jcc": b"\x0f\x85" + relative}[kind]  # fmt: skip
            on = {"ret": (), "jmp": (starts[goal],), "jcc": (starts[goal], after)}.get(kind, (after,))
            walk.at[here] = kind, on
            walk.code += code
            here = after
    return walk


def passes(walk: Walk, start: int, site: int) -> tuple[set[int], bool, bool]:
    """How often returns have passed the site (2: or more), whether some reach it with no call made, and whether some
    way on from it makes none. By walking all of (where, how often passed, calls before, calls since)."""
    counts: set[int] = set()
    idle = clean = False
    seen, todo = set(), [(start, 0, False, False)]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        at, times, before, since = state
        kind, on = walk.at[at]
        if at == site:
            idle |= not before
            times, since = min(times + 1, 2), False
        if kind == "call":
            before, since = True, True
        if kind == "ret":
            counts.add(times)
            clean |= times > 0 and not since
        todo += [(goal, times, before, since) for goal in on]
    return counts, idle, clean


def test_random_functions(tmp_path: Path, build_elf: BuildElf) -> None:
    rng = random.Random(11)
    kinds = {"emulated": 0, "returns": 0, "none": 0}
    for _ in range(400):
        start = 0x11000
        walk = made_up(rng, start)
        assert build_elf(tmp_path / "f", {"f": walk.code})["f"] == start
        reached, todo = set(), [start]
        while todo:
            at = todo.pop()
            if at not in reached:
                reached.add(at)
                todo += walk.at[at][1]
        returns = {at for at in reached if walk.at[at][0] == "ret"}
        try:
            sites = {site.address for site in choose_exit_sites(ElfFile(str(tmp_path / "f")), start, KERNEL)}
        except NoSite:
            assert not returns
            kinds["none"] += 1
            continue
        assert returns
        once = {at for at in reached if walk.at[at][0] in ("jmp", "jcc") and passes(walk, start, at)[0] == {1}}
        last = [at for at in once if not any(other != at and follows(walk, at, other) for other in once)]
        assert len(last) <= 1
        _, idle, clean = passes(walk, start, last[0]) if last else (set(), True, False)
        if last and not idle and clean:
            assert sites == set(last), walk
            kinds["emulated"] += 1
        else:
            assert sites == returns, walk
            kinds["returns"] += 1
    assert min(kinds.values()) >= 20, f"the functions are too much alike: {kinds}"


def follows(walk: Walk, at: int, other: int) -> bool:
    """Whether `other` may come behind `at`."""
    seen, todo = set(), list(walk.at[at][1])
    while todo:
        here = todo.pop()
        if here not in seen:
            seen.add(here)
            todo += walk.at[here][1]
    return other in seen
