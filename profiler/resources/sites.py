"""Where the events of manifests are seen in a target: functions by their names, one site for all that happens at each.

Pure: reads binaries, touches no kernel. What a manifest asks for and the target does not have becomes a refused site
with the manifest's line.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowprof.probes.catalogue import Probe
from flowprof.profiler.binaries.demangle import demangled
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.binaries.symbols import Symbol
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.planning.exit_sites import choose_exit_sites
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.planning.probe_cost import CostClass, Kernel
from flowprof.profiler.planning.sites import NoSite, Site, choose_entry_site, return_site
from flowprof.profiler.resources.callees import called, only_callee
from flowprof.profiler.resources.declared import find_object, nearest
from flowprof.profiler.resources.expression import NAMED, NUMBER, ExpressionError, Way, parse
from flowprof.profiler.resources.manifest import MAX_VARIABLES, Event, Manifest, Resource, Variable
from flowprof.profiler.resources.taps import SAMPLE, VARIABLE, Tap, make_sample, make_tap, place_way
from flowprof.profiler.resources.versions import misfit
from flowprof.profiler.target import Module, Target

LEVEL = "resource"
MAX_FUNCTIONS = 64  # that one event may be probed in
MAX_CANDIDATES = 10_000  # names that are demangled for one event
TAPS_PER_SITE = 8  # a program each, one behind the other
NO_FUNCTION = "no function has this name"
DEAR = "no_unwind = true is cheaper, if nothing is ever thrown through it; a way out of the function"
NOT_ONE = "the function calls not one other function, but several or none"
_NO_MODULE = Module(0, "", "", 0, "", False, ())
_WORD = re.compile(r"[A-Za-z_]\w{2,}")
_ARGUMENTS = r"(\[abi:\w+\])?(\(.*\))?( const)?"  # that a sample's function need not name
_COLD = re.compile(r".*\.cold(\.\d+)?|.*\[clone \.cold\].*")


@dataclass(slots=True)
class _Function:
    """A function and what happens at its entry and its return."""

    module: Module
    elf: ElfFile
    symbol: Symbol
    entry: list[Tap]
    leave: list[Tap]
    no_unwind: bool = True
    outer: list[Tap] = field(default_factory=list)  # that are left out where a function that it calls has them, too

    @property
    def taps(self) -> list[Tap]:
        return [*self.entry, *self.leave]


@dataclass(frozen=True, slots=True)
class PlacedVariable:
    """A variable that is read now and then, in one process. way: from its address on."""

    pid: int
    variable: Variable
    module: Module
    way: Way


@dataclass(frozen=True, slots=True)
class PlacedCapacity:
    """How many units a resource has, in one process: read once."""

    pid: int
    manifest: str
    resource: str
    way: Way


_Binaries = list[tuple[Module, ElfFile]]
_Functions = dict[tuple[int, int], _Function]  # by inode and address


def plan_resources(
    target: Target, manifests: Sequence[Manifest], kernel: Kernel, debug_dirs: tuple[str, ...] = ()
) -> list[PlannedSite]:
    """The sites of all manifests in a target, not numbered yet; a function's entry and exits have the same symbol."""
    return [site for manifest in manifests for site in _plan(target, manifest, kernel, debug_dirs)]


def _plan(target: Target, manifest: Manifest, kernel: Kernel, debug_dirs: tuple[str, ...]) -> Iterator[PlannedSite]:
    binaries, why, line = _binaries(target, manifest, debug_dirs)
    if line:
        yield _refused(target, manifest, manifest.name, manifest.modules, line, why)
        return
    functions: _Functions = {}
    calls: dict[str, list[Tap]] = {}
    for resource in manifest.resources:
        for event in resource.events:
            if event.syscall:
                error = _place_call(manifest, resource, event, target.pid, calls)
            else:
                error = _place_event(manifest, resource, event, binaries, functions) if binaries else why
            if error == NO_FUNCTION and why:
                error += f"; {why}"
            if error:
                yield _refused(target, manifest, f"{resource.name}.{event.event}", event.where, event.line, error)
    for resource in manifest.resources:
        try:
            if resource.capacity_read:
                _place_capacity(target, manifest, resource, debug_dirs)
        except ExpressionError as wrong:
            what = f"{resource.name}.capacity"
            yield _refused(target, manifest, what, resource.capacity_read, resource.line, str(wrong))
    for variable in manifest.variables:
        what = VARIABLE + variable.name
        if variable.function:
            error = _place_sample(manifest, variable, binaries, functions) if binaries else why
            if error:
                yield _refused(target, manifest, what, variable.function, variable.line, error)
            continue
        try:
            _place_variable(target, manifest, variable, debug_dirs)
        except ExpressionError as wrong:
            yield _refused(target, manifest, what, variable.expression, variable.line, str(wrong))
    for function in _without_wrappers(functions):
        yield from _sites_of(target, manifest, function, kernel)
    for name, taps in calls.items():
        yield from _syscall_sites(target, manifest, name, taps)


def _place_call(manifest: Manifest, resource: Resource, event: Event, pid: int, calls: dict[str, list[Tap]]) -> str:
    """Add a system call's tap; else why not."""
    try:
        calls.setdefault(event.syscall, []).append(make_tap(manifest, resource, event, pid))
    except ExpressionError as wrong:
        return str(wrong)
    return ""


def _place_event(
    manifest: Manifest, resource: Resource, event: Event, binaries: _Binaries, functions: _Functions
) -> str:
    """Add the event's taps to the functions that it names; else why not."""
    if event.unless and any(True for _ in _matching(binaries, event.unless)):
        return ""
    found = list(_matching(binaries, event.function or event.callee_of))
    if len(found) > MAX_FUNCTIONS:
        return f"{len(found)} functions have such a name, {MAX_FUNCTIONS} are probed: narrow it"
    error = "" if found else NO_FUNCTION
    if event.callee_of:
        callees = [(module, elf, only_callee(elf, symbol)) for module, elf, symbol, _ in found]
        error = error if any(symbol for _, _, symbol in callees) else error or NOT_ONE
        found = [(module, elf, symbol, symbol.name) for module, elf, symbol in callees if symbol]
    for module, elf, symbol, name in found:
        known = functions.setdefault((module.inode, symbol.address), _Function(module, elf, symbol, [], []))
        try:
            tap = make_tap(manifest, resource, event, 0, module, elf, name, symbol.name)
        except ExpressionError as wrong:
            error = str(wrong)
            continue
        (known.leave if event.at == "return" else known.entry).append(tap)
        known.no_unwind &= event.no_unwind or event.at == "entry"
        if event.unless_inner:
            known.outer.append(tap)
    return error


def _without_wrappers(functions: _Functions) -> Iterator[_Function]:
    """Without events that a function which they call tells of, too."""
    for function in functions.values():
        if function.outer:
            inner = {(function.module.inode, to) for to in called(function.elf, function.symbol.address)}
            told = {tap.id for place in functions.keys() & inner for tap in functions[place].taps}
            function.entry = [tap for tap in function.entry if tap not in function.outer or tap.id not in told]
            function.leave = [tap for tap in function.leave if tap not in function.outer or tap.id not in told]
        if function.taps:
            yield function


def _place_sample(manifest: Manifest, variable: Variable, binaries: _Binaries, functions: _Functions) -> str:
    """Have the variable read in its function, four in one tap; else why not."""
    found = list(_matching(binaries, f"(?:{variable.function}){_ARGUMENTS}"))
    if len(found) > MAX_FUNCTIONS:
        return f"{len(found)} functions have such a name, {MAX_FUNCTIONS} are probed: narrow it"
    error = "" if found else f"no function has this name{_alike(binaries, variable.function)}"
    for module, elf, symbol, name in found:
        known = functions.setdefault((module.inode, symbol.address), _Function(module, elf, symbol, [], []))
        try:
            tap = make_sample(manifest, variable, module, elf, name, symbol.name)
        except ExpressionError as wrong:
            error = str(wrong)
            continue
        taps = known.leave if variable.at == "return" else known.entry
        room = next((i for i, t in enumerate(taps) if t.event == SAMPLE and len(t.variables) < MAX_VARIABLES), None)
        if room is None:
            taps.append(tap)
        else:
            taps[room] = replace(taps[room], variables=taps[room].variables + tap.variables)
        known.no_unwind &= variable.at == "entry"
    return error


def _alike(binaries: _Binaries, pattern: str) -> str:
    """Functions with a name like the longest word of the pattern."""
    word = max(_WORD.findall(pattern), key=len, default="")
    names: list[str] = []
    for _, elf in binaries:
        with contextlib.suppress(ElfError):
            names += [symbol.name for symbol in elf.symbols().match(".") if symbol.kind == "function"]
    return nearest(word, names) if word else ""


def place_variables(
    target: Target, manifests: Sequence[Manifest], debug_dirs: tuple[str, ...] = ()
) -> Iterator[PlacedVariable]:
    """Those that are read now and then and can be found; of another the plan has a refused site."""
    for manifest in manifests:
        for variable in manifest.variables:
            if not variable.function:
                with contextlib.suppress(ExpressionError):
                    yield _place_variable(target, manifest, variable, debug_dirs)


def place_capacities(
    target: Target, manifests: Sequence[Manifest], debug_dirs: tuple[str, ...] = ()
) -> Iterator[PlacedCapacity]:
    """Those that are to be read and can be found; of another the plan has a refused site."""
    for manifest in manifests:
        for resource in manifest.resources:
            if resource.capacity_read:
                with contextlib.suppress(ExpressionError):
                    way = _place_capacity(target, manifest, resource, debug_dirs)
                    yield PlacedCapacity(target.pid, manifest.name, resource.name, way)


def _place_capacity(target: Target, manifest: Manifest, resource: Resource, debug_dirs: tuple[str, ...]) -> Way:
    """Raises ExpressionError."""
    variable = Variable("", resource.capacity_read, 0)
    return _place_variable(target, manifest, variable, debug_dirs).way


def _place_variable(
    target: Target, manifest: Manifest, variable: Variable, debug_dirs: tuple[str, ...] = ()
) -> PlacedVariable:
    """In the first file that knows its symbol. Raises ExpressionError."""
    way = parse(variable.expression)
    if way.base not in (NUMBER, NAMED):
        raise ExpressionError("only what does not depend on a call can be read now and then: global(SYMBOL), numbers")
    binaries, why, _ = _binaries(target, manifest, debug_dirs)
    problem: ExpressionError | None = None
    for module, elf in binaries:
        try:
            return PlacedVariable(target.pid, variable, module, place_way(way, "", module, elf))
        except ExpressionError as error:
            if way.symbol and find_object(elf, way.symbol) is not None:
                raise  # it is there, and cannot be read
            problem = problem or error
    raise problem or ExpressionError(why)


def _binaries(target: Target, manifest: Manifest, debug_dirs: tuple[str, ...]) -> tuple[_Binaries, str, int]:
    """The files that the manifest is about; why another one is not; and the line that excludes them all, 0: no such."""
    named = [m for m in target.modules if not manifest.modules or re.fullmatch(manifest.modules, Path(m.path).name)]
    if not named:
        return [], f"the process has no file named {manifest.modules}", 0
    found = []
    why, line = "", 0
    for module in named:
        try:
            elf = open_elf(module, debug_dirs)
        except FlowprofError:
            continue
        other = misfit(module, elf, manifest.versions, manifest.version_text)
        if manifest.build_ids and not (elf.build_id or "").startswith(manifest.build_ids):
            build = f"is build {elf.build_id}" if elf.build_id else "has no build-id"
            why, line = f"{Path(module.path).name} {build}, the manifest is for others", manifest.build_ids_line
        elif other:
            why, line = other, manifest.versions_line
        else:
            found.append((module, elf))
    return found, why or ("" if found else "its files cannot be read"), 0 if found else line


def needed_words(pattern: str) -> list[str]:
    """Of each alternative of a pattern the longest word that a symbol must hold, mangled or not; "" none is known.

    Types of arguments are mangled otherwise, and what is optional or in brackets may be another.
    """
    found = []
    for part in _alternatives(pattern):
        text = re.sub(r"\\(\W)", r"\1", re.sub(r"\\\w", " ", re.split(r"\\\(", part, maxsplit=1)[0]))
        text = re.sub(r"<[^<>]*>", " ", re.sub(r"\[[^\]]*\]", " ", text))
        before = ""
        while before != text:
            before, text = text, re.sub(r"\((?!\?[=!<])(?:\?:)?([^()|]*)\)(?![?*{])", r"\1", text)
            text = re.sub(r"\([^()]*\)[?*]?", " ", text) if before == text else text
        text = re.sub(r"\w(?=[?*{])", " ", text)
        found.append(max(re.findall(r"[A-Za-z_]\w*", text), key=len, default=""))
    return found


def _alternatives(pattern: str) -> list[str]:
    """Split at each | outside of groups; a group around everything is none."""
    depth, begin, parts, closed = 0, 0, [], 0
    for sign in re.finditer(r"\\.|\[(?:\\.|[^\]])*\]|[()|]", pattern):
        depth += {"(": 1, ")": -1}.get(sign[0], 0)
        if sign[0] == ")" and not depth and not closed:
            closed = sign.end()
        if sign[0] == "|" and not depth:
            parts.append(pattern[begin : sign.start()])
            begin = sign.end()
    if not parts and closed == len(pattern) and pattern.startswith("("):
        return _alternatives(pattern[1:-1].removeprefix("?:"))
    return [*parts, pattern[begin:]]


def _matching(binaries: _Binaries, pattern: str) -> Iterator[tuple[Module, ElfFile, Symbol, str]]:
    """Functions whose name, demangled or as it is, matches wholly; each address once."""
    whole = re.compile(pattern)
    words = needed_words(pattern)
    hint = f".*(?:{'|'.join(map(re.escape, words))})" if all(words) else ""
    for module, elf in binaries:
        try:
            symbols = [s for s in elf.symbols().match(hint) if s.kind == "function"]
        except ElfError:
            continue
        names = demangled([symbol.name for symbol in symbols[:MAX_CANDIDATES]])
        seen = set()
        for symbol in symbols[:MAX_CANDIDATES]:
            name = names[symbol.name]
            if symbol.address in seen or _COLD.fullmatch(symbol.name):
                continue
            if whole.fullmatch(name) or whole.fullmatch(symbol.name):
                seen.add(symbol.address)
                yield module, elf, symbol, name


def _sites_of(target: Target, manifest: Manifest, function: _Function, kernel: Kernel) -> Iterator[PlannedSite]:
    """One entry site where something happens there, or must be kept for the return; and the exits."""
    elf, address = function.elf, function.symbol.address
    function.leave = _giving_up(function.entry, function.leave)
    saves = any(tap.needs_entry for tap in function.leave)
    returned = any(tap.reads_return for tap in function.leave)
    exits: list[Site] = []
    trouble = "" if len(function.leave) <= TAPS_PER_SITE >= len(function.entry) else "too much happens in one function"
    if function.leave and not trouble:
        try:
            if function.no_unwind:
                exits = [return_site(elf, address, kernel)]
            else:
                waits = any(tap.event == "wait" for tap in function.entry)
                exits = choose_exit_sites(elf, address, kernel, returned, waits)
                saves |= any(site.shared for site in exits)
        except (NoSite, ElfError) as error:
            trouble = error.message
    entry: Site | None = None
    entry_trouble = trouble
    if function.entry or saves:
        try:
            entry = choose_entry_site(elf, address, 6 if saves else _most_arguments(function.entry), kernel, True)
            entry_trouble = ""
        except (NoSite, ElfError) as error:
            entry_trouble = error.message
            if saves:
                trouble, exits = error.message, []
    saves = saves and bool(exits)
    unended = set() if exits else {tap.resource for tap in function.leave}
    ending = [tap for tap in function.entry if not (tap.event == "wait" and tap.resource in unended)]
    if function.entry and not ending:
        entry, entry_trouble = None, f"its wait would seem never to end: {trouble}"
    else:
        function.entry = ending

    def planned(kind: str, site: Site | None, taps: Sequence[Tap], reason: str) -> PlannedSite:
        what = ", ".join(tap.id for tap in taps) or "arguments"
        program = "resource_enter" if kind == "entry" else "resource_leave"
        return PlannedSite(
            site_id=0, pid=target.pid, engine=manifest.name, level=LEVEL, probe=Probe(what, kind, program, 6),
            module=function.module, build_id=elf.build_id, symbol=function.symbol.name,
            address=site.address if site else address, offset=site.file_offset if site else None,
            instruction=site.instruction if site else "", cost_class=str(site.cost_class) if site else "",
            reason=reason or (site.reason if site else ""), taps=tuple(taps), saves=saves and kind == "entry",
            function=address, shared=site is not None and site.shared,
        )  # fmt: skip

    if function.entry or (entry is not None and saves):
        yield planned("entry", entry, function.entry, entry_trouble)
    if function.leave:
        kind = "return" if function.no_unwind else "exit"
        if not exits:
            yield planned(kind, None, function.leave, trouble)
        for site in exits:
            dear = kind == "exit" and site.cost_class is CostClass.SINGLE_STEPPED
            yield planned(kind, site, function.leave, DEAR if dear else "")


def _giving_up(entry: Sequence[Tap], leave: Sequence[Tap]) -> list[Tap]:
    """The taps at a return, told which of them end in vain what one at the entry begins."""
    waited = {tap.resource for tap in entry if tap.event == "wait"}
    return [replace(tap, gives_up=tap.may_give_up and tap.resource in waited) for tap in leave]


def _syscall_sites(target: Target, manifest: Manifest, name: str, taps: Sequence[Tap]) -> Iterator[PlannedSite]:
    """Tracepoints of the kernel: no file, no offset but 0."""
    entry, leave = [tap for tap in taps if not tap.at_return], [tap for tap in taps if tap.at_return]
    leave = _giving_up(entry, leave)
    for kind, those, program in (
        ("syscall", entry, "resource_syscall"),
        ("syscall-end", leave, "resource_syscall_end"),
    ):
        if those:
            fits = len(those) <= TAPS_PER_SITE
            yield PlannedSite(
                site_id=0, pid=target.pid, engine=manifest.name, level=LEVEL,
                probe=Probe(", ".join(tap.id for tap in those), kind, program, 0), module=_NO_MODULE, build_id=None,
                symbol=name, address=None, offset=0 if fits else None, instruction="", cost_class="tracepoint",
                reason="" if fits else "too much happens in one system call", taps=tuple(those),
                saves=kind == "syscall" and bool(leave),
            )  # fmt: skip


def _most_arguments(taps: Sequence[Tap]) -> int:
    return max((tap.arguments for tap in taps), default=0)


def _refused(target: Target, manifest: Manifest, what: str, name: str, line: int, why: str) -> PlannedSite:
    return PlannedSite(
        site_id=0, pid=target.pid, engine=manifest.name, level=LEVEL, probe=Probe(what, "entry", "", 0),
        module=_NO_MODULE, build_id=None, symbol=name, address=None, offset=None, instruction="", cost_class="",
        reason=f"{Path(manifest.path).name}:{line}: {why}" if line else why,
    )  # fmt: skip
