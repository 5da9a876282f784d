"""Plan: which probe goes where in a target, and why another one cannot. Pure: reads binaries, touches no kernel.

For every engine found in the target and every ladder of its catalogue the first rung that stands is taken; the rungs
above it are kept with the reason why they do not stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flowprof.probes import ENGINES
from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung
from flowprof.profiler import callgraph
from flowprof.profiler.elf import ElfError, ElfFile, Symbol
from flowprof.profiler.errors import FlowprofError, NothingToProfileError
from flowprof.profiler.probe_cost import Kernel
from flowprof.profiler.sites import CostClass, NoSite, Site, call_sites, choose_entry_site, return_site
from flowprof.profiler.target import Module, Target, contains, describe_modules

LEVELS = ("token", "graph", "op", "thread")
_MAX_SITES_PER_PROBE = 400


@dataclass(frozen=True, slots=True)
class PlannedSite:
    """One probe site, or one refused (then `offset` is None and `reason` says why)."""

    site_id: int
    pid: int
    engine: str
    level: str
    probe: Probe
    module: Module
    build_id: str | None
    symbol: str
    address: int | None
    offset: int | None
    instruction: str
    cost_class: str
    reason: str

    @property
    def refused(self) -> bool:
        """Whether there is no place for this probe."""
        return self.offset is None


@dataclass(frozen=True, slots=True)
class LadderPlan:
    """Which rung of a ladder the target stands on (None: none), and what the rungs above lacked."""

    pid: int
    engine: str
    level: str
    rung: str | None
    meaning: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be attached, in the order of site numbers."""

    targets: tuple[Target, ...]
    sites: tuple[PlannedSite, ...]
    ladders: tuple[LadderPlan, ...]
    modules: tuple[tuple[Module, str, str | None], ...]  # (module, engine, build id)

    def rung(self, pid: int, level: str, engine: str = "ggml") -> str | None:
        """The rung that `pid` stands on for `level`."""
        for ladder in self.ladders:
            if (ladder.pid, ladder.level, ladder.engine) == (pid, level, engine):
                return ladder.rung
        return None

    def attachable(self, pid: int, level: str) -> list[PlannedSite]:
        """The sites of one level that can be attached."""
        return [site for site in self.sites if site.pid == pid and site.level == level and not site.refused]


def open_elf(module: Module, debug_dirs: tuple[str, ...] = ()) -> ElfFile:
    """The module's file as the target maps it."""
    return ElfFile(module.open_path, debug_dirs)


def make_plan(
    targets: Sequence[Target],
    kernel: Kernel,
    engines: Sequence[Engine] = ENGINES,
    debug_dirs: tuple[str, ...] = (),
    first_site: int = 1,
) -> Plan:
    """Plan all probes of all levels; `kernel`: whose cost rules hold. A target without an engine has no site."""
    sites: list[PlannedSite] = []
    ladders: list[LadderPlan] = []
    modules: list[tuple[Module, str, str | None]] = []
    for target in targets:
        for engine in engines:
            binaries = _binaries(target, engine, debug_dirs)
            if not binaries:
                continue
            modules += [(module, engine.name, elf.build_id) for module, elf in binaries]
            for ladder in engine.ladders:
                chosen, ladder_plan = _climb(target, engine, ladder, binaries, kernel)
                if ladder_plan.rung is None and engine.name != "ggml" and not chosen:
                    continue
                ladders.append(ladder_plan)
                sites += chosen
    numbered = tuple(replace(site, site_id=first_site + i) for i, site in enumerate(sites))
    return Plan(tuple(targets), numbered, tuple(ladders), tuple(modules))


def holds_engine(module: Module) -> bool:
    """A cheap first look at one file: may it hold an engine?"""
    return any(contains(module.open_path, engine.marker) for engine in ENGINES)


def require_engine(plan: Plan) -> None:
    """Raise NothingToProfileError unless graphs of some target can be seen."""
    if any(site.level == "graph" and not site.refused for site in plan.sites):
        return
    pids = ", ".join(str(target.pid) for target in plan.targets)
    if plan.modules:
        names = describe_modules(module for module, _, _ in plan.modules)
        why = "; ".join(f"{site.symbol}: {site.reason}" for site in plan.sites if site.refused)[:400]
        raise NothingToProfileError(
            f"Process {pids} holds ggml ({names}), but no place to probe was found: {why or 'its symbols are gone'}.",
            f"flowprof list-probes {pids} --debug-dir DIR (with the build's debug files)",
        )
    looked = describe_modules(module for target in plan.targets for module in target.modules)
    raise NothingToProfileError(
        f"Process {pids} holds no engine that flowprof knows. Looked for ggml (llama.cpp, whisper.cpp) in: "
        f"{looked or 'nothing'}.",
        "Is it the right pid? The library may not be loaded yet: flowprof run -- CMD waits for it.",
    )


def _binaries(target: Target, engine: Engine, debug_dirs: tuple[str, ...]) -> list[tuple[Module, ElfFile]]:
    found = []
    for module in target.with_marker(engine.marker):
        try:
            found.append((module, open_elf(module, debug_dirs)))
        except FlowprofError:
            continue  # not an ELF file after all (data mapped executable)
    return found


def _climb(
    target: Target, engine: Engine, ladder: Ladder, binaries: list[tuple[Module, ElfFile]], kernel: Kernel
) -> tuple[list[PlannedSite], LadderPlan]:
    missing: list[str] = []
    refused: list[PlannedSite] = []
    for rung in ladder.rungs:
        sites, lacks = _rung_sites(target, engine, ladder, rung, binaries, kernel)
        if not lacks:
            ladder_plan = LadderPlan(target.pid, engine.name, ladder.level, rung.name, rung.meaning, tuple(missing))
            return refused + sites, ladder_plan
        missing.append(f"{rung.name}: {lacks}")
        refused += [site for site in sites if site.refused]
    return refused, LadderPlan(target.pid, engine.name, ladder.level, None, ladder.question, tuple(missing))


def _rung_sites(
    target: Target, engine: Engine, ladder: Ladder, rung: Rung, binaries: list[tuple[Module, ElfFile]], kernel: Kernel
) -> tuple[list[PlannedSite], str]:
    sites: list[PlannedSite] = []
    for probe in rung.probes:
        found: list[PlannedSite] = []
        for module, elf in binaries:
            for symbol in _functions(elf, probe):
                found += _sites_in(target, engine, ladder, probe, module, elf, symbol, kernel)
        usable = [site for site in found if not site.refused]
        if probe.required and not usable:
            wanted = probe.finder or ", ".join(probe.symbols) or probe.pattern
            return sites + found, (found[0].reason if found else f"no {wanted} in {len(binaries)} file(s)")
        sites += found
    if not any(not site.refused for site in sites):
        return sites, "none of its functions is there"
    return sites, ""


def _functions(elf: ElfFile, probe: Probe) -> list[Symbol]:
    table = elf.symbols()
    found: dict[int, Symbol] = {}
    for name in probe.symbols:
        symbol = table.get(name)
        if symbol is not None:
            found.setdefault(symbol.address, symbol)
    if probe.pattern:
        for symbol in table.match(f"^(?:{probe.pattern})$"):
            if not (probe.excluded and re.fullmatch(probe.excluded, symbol.name)):
                found.setdefault(symbol.address, symbol)
    if probe.finder:
        for address in _found_in_code(elf, probe.finder):
            found.setdefault(address, Symbol(f"{probe.finder}@{address:#x}", address, 0, "symtab"))
    return list(found.values())[:_MAX_SITES_PER_PROBE]


def _found_in_code(elf: ElfFile, finder: str) -> list[int]:
    if finder == "compute_forward":
        return callgraph.compute_forward_candidates(elf)
    thread = callgraph.find_graph_thread(elf)
    return [] if thread is None else [thread]


def _sites_in(
    target: Target,
    engine: Engine,
    ladder: Ladder,
    probe: Probe,
    module: Module,
    elf: ElfFile,
    symbol: Symbol,
    kernel: Kernel,
) -> list[PlannedSite]:
    def planned(site: Site | None, reason: str) -> PlannedSite:
        return PlannedSite(
            site_id=0, pid=target.pid, engine=engine.name, level=ladder.level, probe=probe, module=module,
            build_id=elf.build_id, symbol=symbol.name, address=site.address if site else symbol.address,
            offset=site.file_offset if site else None, instruction=site.instruction if site else "",
            cost_class=str(site.cost_class) if site else "", reason=reason,
        )  # fmt: skip

    try:
        if probe.kind == "return":
            sites = [return_site(elf, symbol.address)]
        elif probe.kind == "call":
            sites = _calls(elf, symbol.address, probe.callee, kernel)
            if not sites:
                return [planned(None, f"{symbol.name} holds no direct call to {probe.callee}")]
        else:
            sites = [choose_entry_site(elf, symbol.address, probe.args, kernel)]
    except (NoSite, ElfError) as error:
        return [planned(None, error.message)]
    return [planned(site, site.reason) for site in sites]


def _calls(elf: ElfFile, function: int, callee: str, kernel: Kernel) -> list[Site]:
    """The calls that end a node; those inside an operator that the compiler inlined are left out where they show."""
    sites = [s for s in call_sites(elf, function, callee, kernel) if s.cost_class == CostClass.EMULATED]
    barriers = callgraph.node_barriers(elf, function)
    wanted = {*barriers.node, *barriers.last}
    return [site for site in sites if site.address in wanted] or sites
