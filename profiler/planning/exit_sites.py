"""Where a probe sits that is to see a function return, when a return probe must not be used.

The kernel's return probe replaces the return address on the target's stack. An exception that is thrown through such a
frame finds no way out of it and ends the program, so functions that may throw are probed on instructions of their own:
on the last one that the kernel emulates (`probe_cost.py`) and that every way from the entry to a return passes exactly
once, if the work is done there: every way to it has made a call, and some way on makes none. What follows it is the
epilogue, and clean-up that is needed at times. Where there is none the return instructions themselves are taken,
single-stepped. A frame that an exception leaves passes neither: whoever pairs entries with exits tells by the stack
pointer.

Only x86-64. A tail call is a way out, too, if calls were made before: what it calls is not in the function's time. A
jump through a table, or into another function's middle, is not followed, and then there is no such place.

Where a function waits from its entry on every call that it makes may be the wait, the last one and a tail call, too
(`sem_wait`). There a site has no call behind it, and tail calls are followed, but for those that only give back
(`GIVES_BACK`); so are all where it matters what is returned. Returns of what was followed are others' returns, too:
such a site is `shared`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace

from flowprof.profiler.binaries.disassembly import direct_target, is_call, is_jump, sweep
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.planning.probe_cost import OLDEST_KERNEL, CostClass, Kernel, probe_cost
from flowprof.profiler.planning.sites import NoSite, Site, function_code

MAX_FRAGMENT = 1 << 16  # bytes of a function or of its cold part
MAX_FRAGMENTS = 8
GIVES_BACK = ("pthread_mutex_unlock", "free", "_ZdlPv", "_ZdlPvm")  # clean-up, and never a wait

_Code = dict[int, tuple[bytes, str, str]]  # address → bytes, mnemonic, operands
_Flow = dict[int, tuple[int, ...]]  # address → where it goes on; () leaves the function for good


def choose_exit_sites(
    elf: ElfFile, address: int, kernel: Kernel = OLDEST_KERNEL, returned: bool = False, waits: bool = False
) -> list[Site]:
    """One site that every return of the function passes once, or all its return instructions.

    returned: these in any case, for only there what is returned is in its register. waits: it waits from its entry on.

    Raises NoSite where no instruction is valid, ElfError where the file is broken.
    """
    if elf.machine != "x86-64":
        raise NoSite(f"exits are probed on x86-64 only, and {elf.path!r} is for {elf.machine}")
    code, whole = function_code(elf, address)
    if not whole or len(code) > MAX_FRAGMENT:
        raise NoSite(f"where the function at {address:#x} ends is not known")
    listing = dict(_listing(elf, code, address))
    own = set(listing)
    followed = returned or waits
    flow, outs = _flow(elf, address, listing, own, followed, () if returned else GIVES_BACK)
    if not outs:
        raise NoSite(f"no return was found in the function at {address:#x}")
    calls = {at for at in flow if listing[at][1] == "call"}
    idle = _reach(flow, address, without=calls)  # reached with no call made: the work is not done there
    passed = () if returned else _passed_once(flow, outs, address, listing, kernel)
    at = next((at for at in passed if at in own), None)
    if at is not None and at not in idle:
        on = _reach(flow, *flow[at], without=calls)
        if waits:
            behind = [call for call in _reach(flow, *flow[at]) & calls if not _gives_back(elf, listing[call])]
            last = not any(_reach(flow, *flow[call]) & outs for call in behind)
        else:
            last = any(listing[out][1].startswith("ret") for out in on & outs)
        if last:
            why = f"+{at - address}: the last that the kernel emulates and every return passes once"
            return [_site(elf, listing, at, CostClass.EMULATED, why)]
    ways = [_way_out(elf, address, listing, at, at in own or followed, at in idle, kernel) for at in sorted(outs)]
    return [replace(site, shared=site.address not in own) for site in ways]


def _way_out(elf: ElfFile, address: int, listing: _Code, at: int, own: bool, idle: bool, kernel: Kernel) -> Site:
    data, verb, _ = listing[at]
    if not own:
        raise NoSite(f"the function at {address:#x} returns from code that may be shared with others")
    if not verb.startswith(("ret", "jmp")):
        raise NoSite(f"the function at {address:#x} is left by {verb!r}, which is passed when it stays, too")
    if verb == "jmp" and idle:
        raise NoSite(f"the function at {address:#x} leaves its work to another one, which returns in its place")
    cost = probe_cost(elf.machine, data, kernel)
    if cost is None:
        raise NoSite(f"the kernel cannot probe a return of the function at {address:#x}")
    return _site(elf, listing, at, cost, "a way out of the function")


def _listing(elf: ElfFile, code: bytes, address: int) -> Iterator[tuple[int, tuple[bytes, str, str]]]:
    for at, size, verb, operands in sweep(elf.machine, code, address):
        yield at, (code[at - address : at - address + size], verb.rsplit(" ", 1)[-1], operands)


def _flow(
    elf: ElfFile, address: int, listing: _Code, own: set[int], followed: bool, but: Container[str]
) -> tuple[_Flow, set[int]]:
    """Where each instruction goes on, and the instructions that leave the function: returns and tail calls.

    Parts elsewhere that it jumps to are added to the listing, and to `own` where a symbol says that they are its cold
    part. A call is taken to come back: those that do not only add ways. followed: tail calls are, `but` those.
    """
    flow: _Flow = {}
    outs: set[int] = set()
    todo, fragments = [address], 0
    while todo:
        at = todo.pop()
        if at in flow:
            continue
        data, verb, operands = listing[at]
        following = at + len(data)
        further = [following] if following in listing else []
        if verb.startswith("ret"):
            outs.add(at)
            further = []
        elif verb.startswith(("ud", "hlt")):
            further = []
        elif is_jump(elf.machine, verb) and not is_call(elf.machine, verb):
            goal = direct_target(operands)
            if goal is None:
                raise NoSite(f"the function at {address:#x} jumps through a table")
            if verb == "jmp":
                further = []
            if goal not in listing:
                whose = _whose(elf, address, goal)
                if whose == "another" and not (followed and _is_followed(elf, address, goal, but)):
                    outs.add(at)  # a tail call
                    flow[at] = tuple(further)
                    todo += further
                    continue
                fragments += 1
                piece = _piece(elf, address, goal, fragments)
                own |= piece.keys() if whose == "own" else set()
                listing.update(piece)
            further.append(goal)
        elif not further and verb not in ("call", "nop", "int3"):  # a call at the very end does not come back
            raise NoSite(f"the function at {address:#x} runs into what follows it")
        if verb.startswith("."):
            raise NoSite(f"the function at {address:#x} holds what is no instruction")
        flow[at] = tuple(further)
        todo += further
    return flow, outs


def _whose(elf: ElfFile, address: int, goal: int) -> str:
    """Whose code a jump elsewhere leads to: "own", the function's cold part, by name; "another" function; "" unknown.

    A stripped file names no cold parts: what has no name is followed, but may be a function that others call, too.
    """
    here, there = elf.symbols().at(address), elf.symbols().at(goal)
    if there is None:
        return "another" if elf.plt_target(goal) is not None else ""
    if here is not None and there.name.startswith(f"{here.name}.cold"):
        return "own"
    if there.address != goal or there.address == address:
        raise NoSite(f"the function at {address:#x} jumps to where no instruction or function begins")
    return "another"


def _is_followed(elf: ElfFile, address: int, goal: int, but: Container[str]) -> bool:
    """Whether a tail call is followed. Raises NoSite where it leads to another file."""
    name, stub = _name(elf, goal), elf.plt_target(goal)
    if stub is not None and name not in but:
        raise NoSite(f"the function at {address:#x} leaves its work to {stub} in another file, which returns for it")
    return name not in but


def _gives_back(elf: ElfFile, call: tuple[bytes, str, str]) -> bool:
    goal = direct_target(call[2])
    return goal is not None and _name(elf, goal) in GIVES_BACK


def _name(elf: ElfFile, address: int) -> str | None:
    symbol = elf.symbols().at(address)
    return symbol.name if symbol is not None and symbol.address == address else elf.plt_target(address)


def _piece(elf: ElfFile, address: int, goal: int, number: int) -> _Code:
    if number > MAX_FRAGMENTS:
        raise NoSite(f"the function at {address:#x} lies in more than {MAX_FRAGMENTS} parts")
    code, whole = function_code(elf, goal)
    if not whole or len(code) > MAX_FRAGMENT:
        raise NoSite(f"where the part at {goal:#x} of the function at {address:#x} ends is not known")
    return dict(_listing(elf, code, goal))


def _reach(flow: _Flow, *starts: int, without: Container[int] = ()) -> set[int]:
    found: set[int] = set()
    todo = [at for at in starts if at not in without]
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo += [goal for goal in flow[at] if goal not in without]
    return found


def _passed_once(flow: _Flow, outs: set[int], address: int, listing: _Code, kernel: Kernel) -> Iterator[int]:
    """Emulated instructions that every way out of the function passes exactly once, the last on the way first.

    Not calls: a probe there sees their beginning.
    """
    for at in _backwards(flow, address):
        data, verb, _ = listing[at]
        if verb != "call" and probe_cost("x86-64", data, kernel) is CostClass.EMULATED:
            passed = not _reach(flow, address, without=(at,)) & outs
            if passed and at not in _reach(flow, *flow[at]):
                yield at


def _backwards(flow: _Flow, start: int) -> list[int]:
    """In the order in which a depth-first walk is done with them: what every way to one passes comes behind it."""
    order: list[int] = []
    entered = {start}
    path = [(start, iter(flow[start]))]
    while path:
        at, further = path[-1]
        goal = next(further, None)
        if goal is None:
            order.append(at)
            path.pop()
        elif goal not in entered:
            entered.add(goal)
            path.append((goal, iter(flow[goal])))
    return order


def _site(elf: ElfFile, listing: _Code, at: int, cost: CostClass, why: str) -> Site:
    _, verb, operands = listing[at]
    try:
        offset = elf.file_offset(at)
    except ElfError as error:
        raise NoSite(error.message) from error
    return Site(at, offset, f"{verb} {operands}".strip(), cost, why)
