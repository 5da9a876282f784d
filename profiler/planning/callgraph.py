"""Static functions of ggml found through the calls between functions: for libraries whose symbols were stripped.

Every search starts at an exported function (`ggml_graph_compute`) and follows direct calls, tail calls and function
pointers that the code takes (`lea` of a function start: what is handed to GOMP_parallel or pthread_create), never
more than `MAX_NODES` functions. What is found is a *candidate*: the recorder accepts it only when live tensors pass
their self-check.

* The graph-thread loop is the nearest function so reached that calls `ggml_barrier` directly or through its PLT stub;
  in builds without one, that calls `GOMP_barrier` in a loop.
* The static `ggml_compute_forward` is a function that is called inside a loop of a reached function and itself leads
  to very many others: the switch over all operators.
* Of the loop's barrier calls, those after each node are told from a matrix product's own by following the code from
  the operator call on without entering the switch (`node_barriers`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from flowprof.profiler.binaries.disassembly import direct_target, is_call, is_jump, lea_target, leaves_path, sweep
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.planning.sites import call_targets

BARRIERS = ("ggml_barrier", "GOMP_barrier")
"""Where threads wait after a node; OpenMP builds of 2024 have ggml's own inlined and call OpenMP's."""
MAX_NODES = 96
MAX_DEPTH = 4
MAX_FUNCTION = 1 << 19
MAX_CODE = 1 << 22
"""Bytes disassembled by one search: about a million instructions."""
NO_RETURN = frozenset(
    {
        *("abort", "exit", "_exit", "ggml_abort", "longjmp", "__stack_chk_fail", "__assert_fail", "__fortify_fail"),
        *("__cxa_throw", "__cxa_rethrow", "_Unwind_Resume", "_ZSt9terminatev"),
    }
)
"""After a call of these comes another block, not the next step."""
MIN_OPERATORS = 24
"""A function that leads to fewer others is no switch over ggml's operators: the oldest ggml has 40."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An instruction that names another place in the code: `kind` is call, jump (out of the function) or pointer."""

    address: int
    target: int
    kind: str


@dataclass(frozen=True, slots=True)
class NodeBarriers:
    """The barrier calls of the graph-thread loop: after each node but the last, after the last, inside operators."""

    node: tuple[int, ...]
    last: tuple[int, ...]
    inner: tuple[int, ...]


def _code(elf: ElfFile, function: int) -> bytes:
    """The function's bytes; none where its end is not known or it is no sane function."""
    bounds = elf.function_bounds(function)
    if bounds is None or not bounds[0] <= function < bounds[1] or bounds[1] - function > MAX_FUNCTION:
        return b""
    try:
        return elf.read(function, bounds[1] - function)
    except ElfError:
        return b""


def references(elf: ElfFile, function: int) -> list[Reference]:
    """What one function calls, jumps to outside itself, and takes the address of."""
    code = _code(elf, function)
    end = function + len(code)
    found: list[Reference] = []
    pages: dict[str, int] = {}
    for address, size, verb, text in sweep(elf.machine, code, function):
        call, jump = is_call(elf.machine, verb), is_jump(elf.machine, verb)
        if call or jump:
            target = direct_target(text)
            if target is not None and (call or not function <= target < end):
                found.append(Reference(address, target, "call" if call else "jump"))
        else:
            target = _pointer(address + size, verb, text, pages)
            if target is not None and elf.executable(target) and not function <= target < end:
                found.append(Reference(address, target, "pointer"))
    return found


def _pointer(end: int, verb: str, text: str, pages: dict[str, int]) -> int | None:
    """The address that `lea reg, [rip + n]`, or `adrp` with the `add` after it, computes."""
    if verb == "lea":
        return lea_target(end, verb, text)
    if verb in ("adrp", "adr"):
        register, value = text.split(", #")
        pages[register] = int(value, 0)
        return int(value, 0) if verb == "adr" else None
    if verb == "add" and text.count(",") == 2 and "#" in text:
        _, base, value = (part.strip() for part in text.split(","))
        if base in pages:
            return pages[base] + int(value.lstrip("#"), 0)
    return None


def reachable(elf: ElfFile, start: int) -> dict[int, list[Reference]]:
    """Function start → its references, nearest first: over calls, tail calls and function pointers, not the PLT."""
    found: dict[int, list[Reference]] = {}
    waiting = deque([(start, 0)])
    size = 0
    while waiting and len(found) < MAX_NODES:
        function, depth = waiting.popleft()
        size += len(_code(elf, function)) if function not in found else 0
        if function in found or size > MAX_CODE:
            continue
        found[function] = references(elf, function)
        for reference in found[function]:
            bounds = elf.function_bounds(reference.target)
            if depth < MAX_DEPTH and bounds is not None and bounds[0] == reference.target and bounds[0] not in found:
                waiting.append((bounds[0], depth + 1))
    return found


def _from_graph_compute(elf: ElfFile) -> dict[int, list[Reference]]:
    start = elf.symbols().get("ggml_graph_compute")
    return reachable(elf, start.address) if start is not None else {}


def find_graph_thread(elf: ElfFile) -> int | None:
    """The function in which each thread loops over the graph's nodes; None where it calls none of `BARRIERS`."""
    graph = _from_graph_compute(elf)
    for name in BARRIERS:
        barrier = call_targets(elf, name)
        for function, found in graph.items():
            calls = [r.address for r in found if r.kind == "call" and r.target in barrier]
            if function not in barrier and calls and (name == BARRIERS[0] or _in_loop(_loops(elf, function), calls)):
                return function
    return None


def _in_loop(loops: list[tuple[int, int]], addresses: list[int]) -> bool:
    return any(low <= address < high for low, high in loops for address in addresses)


def compute_forward_candidates(elf: ElfFile) -> list[int]:
    """What may be the static `ggml_compute_forward(params, node)` or a specialised copy, the most plausible first."""
    graph = _from_graph_compute(elf)
    thread = find_graph_thread(elf)
    started = {r.target for found in graph.values() for r in found if r.kind == "pointer"}
    leads_to = {f: len({r.target for r in found if r.kind != "pointer"}) for f, found in graph.items()}
    callers: dict[int, set[int]] = {}
    for function, found in graph.items():
        if thread is None or function == thread:
            calls = [r for r in found if r.kind == "call" and r.target not in {function, thread, *started}]
            calls = [r for r in calls if leads_to.get(r.target, 0) >= MIN_OPERATORS]
            calls = [r for r in calls if _may_be(elf, r.target, "compute_forward")]
            loops = _loops(elf, function) if calls else []
            for r in calls:
                if _in_loop(loops, [r.address]):
                    callers.setdefault(r.target, set()).add(function)
    threads = {function for functions in callers.values() for function in functions}
    return sorted(callers.keys() - threads, key=lambda function: -leads_to[function])


def _may_be(elf: ElfFile, function: int, name: str) -> bool:
    symbol = elf.symbols().at(function)
    return symbol is None or symbol.address != function or name in symbol.name


def _loops(elf: ElfFile, function: int) -> list[tuple[int, int]]:
    """(first, last) addresses of everything that a backward jump inside the function spans."""
    code = _flow(elf, function)
    jumps = ((f.target, address) for address, f in code.items() if f.jump and f.target in code)
    return [(target, address) for target, address in jumps if target is not None and target <= address]


@dataclass(frozen=True, slots=True)
class _Flow:
    following: int | None
    target: int | None
    jump: bool
    call: bool


def _flow(elf: ElfFile, function: int) -> dict[int, _Flow]:
    """Address → where each instruction of the function leads."""
    flow: dict[int, _Flow] = {}
    always = ("jmp", "b", "br")
    for address, size, verb, text in sweep(elf.machine, _code(elf, function), function):
        jump, call = is_jump(elf.machine, verb), is_call(elf.machine, verb)
        target = direct_target(text) if jump or call else None
        if call:
            ends = target is not None and elf.plt_target(target) in NO_RETURN
        elif jump:
            ends = verb.rsplit(" ", 1)[-1] in always
        else:
            ends = leaves_path(elf.machine, verb) and not verb.startswith(("sys", "svc"))
        flow[address] = _Flow(None if ends else address + size, target, jump, call)
    return flow


def node_barriers(elf: ElfFile, thread: int) -> NodeBarriers:
    """Which of the graph-thread loop's barrier calls end a node, which end the graph, which belong to an operator.

    From the call of the operator (`ggml_cpu_extra_compute_forward` or the static `ggml_compute_forward`) the code is
    followed through direct jumps up to the first barrier call on each path. The switch over the operators is an
    indirect jump and is not followed, so an operator's own barriers are not met. A barrier from which the operator
    call is reached again ends a node.
    """
    flow = _flow(elf, thread)
    goals = (call_targets(elf, name) for name in BARRIERS)
    calls = ({a for a, f in flow.items() if f.call and f.target in targets} for targets in goals)
    barriers = next(filter(None, calls), set[int]())
    operators = call_targets(elf, "ggml_cpu_extra_compute_forward") or set(compute_forward_candidates(elf))
    starts = {a for a, f in flow.items() if f.call and f.target in operators}
    met = _first_met(flow, starts, barriers)
    node = {a for a in met if _first_met(flow, {a}, starts | barriers) & starts}
    return NodeBarriers(tuple(sorted(node)), tuple(sorted(met - node)), tuple(sorted(barriers - met)))


def _first_met(flow: dict[int, _Flow], starts: set[int], stops: set[int]) -> set[int]:
    waiting = [f for s in starts if (f := flow[s].following) is not None]
    seen: set[int] = set()
    met: set[int] = set()
    while waiting:
        address = waiting.pop()
        if address in seen or address not in flow:
            continue
        seen.add(address)
        if address in stops:
            met.add(address)
            continue
        step = flow[address]
        waiting += [a for a in (step.following, step.target if step.jump else None) if a is not None]
    return met
