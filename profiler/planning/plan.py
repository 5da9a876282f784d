"""Plan: which probe goes where in a target, and why another one cannot. Pure: reads binaries, touches no kernel.

For every engine found in the target and every ladder of its catalogue the first rung that stands is taken; the rungs
above it are kept with the reason why they do not stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flowprof.probes import ENGINES
from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung
from flowprof.profiler.binaries.elf import ElfError, ElfFile, Symbol
from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.errors import FlowprofError, NotFoundError, NothingToProfileError, UsageError
from flowprof.profiler.planning import callgraph
from flowprof.profiler.planning.exit_sites import choose_exit_sites
from flowprof.profiler.planning.planned_site import MAX_SITES, MAX_TAPS, PlannedSite
from flowprof.profiler.planning.probe_cost import Kernel
from flowprof.profiler.planning.sites import CostClass, NoSite, Site, call_sites, choose_entry_site, return_site
from flowprof.profiler.resources import watch
from flowprof.profiler.resources.manifest import Manifest
from flowprof.profiler.resources.sites import LEVEL as RESOURCE_LEVEL
from flowprof.profiler.resources.sites import (
    PlacedCapacity,
    PlacedVariable,
    place_capacities,
    place_variables,
    plan_resources,
)
from flowprof.profiler.target import Module, Target, describe_modules

CALL_ENGINES = ("torch", "inductor", "cuda", "nccl")  # whose sites see calls, not graphs
KERNEL_SITES = 64  # numbers kept for the scheduler's events
_MAX_SITES_PER_PROBE = 4000  # torch has 3 100 operators


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
    variables: tuple[PlacedVariable, ...] = ()  # read now and then, without a probe
    capacities: tuple[PlacedCapacity, ...] = ()  # read once

    def engines(self) -> set[str]:
        """The engines of which something can be probed; and the names of manifests."""
        return {site.engine for site in self.sites if not site.refused}

    def rung(self, pid: int, level: str, engine: str = "ggml") -> str | None:
        """The rung that `pid` stands on for `level`."""
        for ladder in self.ladders:
            if (ladder.pid, ladder.level, ladder.engine) == (pid, level, engine):
                return ladder.rung
        return None


def make_plan(
    targets: Sequence[Target],
    kernel: Kernel,
    engines: Sequence[Engine] = ENGINES,
    debug_dirs: tuple[str, ...] = (),
    first_site: int = 1,
    manifests: Sequence[Manifest] = (),
) -> Plan:
    """Plan all probes of all levels; `kernel`: whose cost rules hold; `manifests`: of resources to be recorded, too.

    A target without an engine has no site but those of its resources.
    """
    sites: list[PlannedSite] = []
    ladders: list[LadderPlan] = []
    modules: list[tuple[Module, str, str | None]] = []
    variables: list[PlacedVariable] = []
    capacities: list[PlacedCapacity] = []
    for target in targets:
        for engine in engines:
            binaries = _binaries(target, engine, debug_dirs)
            if not binaries:
                continue
            before = len(sites)
            for ladder in engine.ladders:
                chosen, ladder_plan = _climb(target, engine, ladder, binaries, kernel)
                if ladder_plan.rung is None and engine.name != "ggml" and not chosen:
                    continue
                ladders.append(ladder_plan)
                sites += chosen
            holders = {site.module.inode for site in sites[before:]}  # others only call its functions
            modules += [
                (module, engine.name, elf.build_id)
                for module, elf in binaries
                if module.inode in holders or engine.name not in CALL_ENGINES
            ]
        of_resources = plan_resources(target, manifests, kernel, debug_dirs)
        sites += of_resources
        variables += place_variables(target, manifests, debug_dirs)
        capacities += place_capacities(target, manifests, debug_dirs)
        modules += dict.fromkeys(
            (s.module, s.engine, s.build_id) for s in of_resources if not s.refused and s.module.path
        )
    numbered = tuple(replace(site, site_id=first_site + i) for i, site in enumerate(_whole(sites)))
    return Plan(tuple(targets), _paired(numbered), tuple(ladders), tuple(modules), tuple(variables), tuple(capacities))


def _whole(sites: list[PlannedSite]) -> Iterator[PlannedSite]:
    """Where one of a call's entry and exits cannot be seen none is probed: calls would not end, or not begin."""
    ends = [site for site in sites if site.engine in CALL_ENGINES and site.probe.kind in ("exit", "return")]
    paired = {_function(site) for site in ends}
    blind = {_function(site): site.reason for site in sites if site.refused and _function(site) in paired}
    for site in sites:
        why = blind.get(_function(site))
        yield replace(site, offset=None, reason=why) if why is not None and not site.refused else site


def _paired(sites: tuple[PlannedSite, ...]) -> tuple[PlannedSite, ...]:
    """Exits and returns know at which site their function is entered."""
    entries = {
        _function(site): site.site_id
        for site in sites
        if site.probe.kind in ("entry", "syscall") and (site.level != RESOURCE_LEVEL or site.saves)
    }
    return tuple(
        replace(site, entry_id=entries.get(_function(site), 0)) if site.probe.kind in ("exit", "return") else site
        for site in sites
    )


def _function(site: PlannedSite) -> tuple[object, ...]:
    return site.pid, site.engine, site.module.inode, site.symbol, site.function


def holds_engine(module: Module) -> bool:
    """A cheap first look at one file: may it hold an engine?"""
    return any(module.holds(engine.marker, engine.files) for engine in ENGINES)


def require_engine(plan: Plan) -> None:
    """Raise NothingToProfileError unless graphs, calls, resources or variables of some target can be seen."""
    seen = [site for site in plan.sites if site.level in ("graph", RESOURCE_LEVEL) or site.engine in CALL_ENGINES]
    if plan.variables or not all(site.refused for site in seen):
        return
    pids = ", ".join(str(target.pid) for target in plan.targets)
    if plan.modules:
        names = describe_modules(module for module, _, _ in plan.modules)
        why = "; ".join(f"{site.symbol}: {site.reason}" for site in plan.sites if site.refused)[:400]
        raise NothingToProfileError(
            f"Process {pids} holds an engine ({names}), but no place to probe was found: "
            f"{why or 'its symbols are gone'}.",
            f"flowprof list-probes {pids} --debug-dir DIR (with the build's debug files)",
        )
    asked = [site.reason for site in plan.sites if site.level == RESOURCE_LEVEL]
    if asked:
        raise NothingToProfileError(
            f"Process {pids} holds no engine that flowprof knows, and nothing that the manifests name: "
            f"{'; '.join(asked)[:400]}.",
            f"flowprof list-probes {pids} --resources NAME",
        )
    looked = describe_modules(module for target in plan.targets for module in target.modules)
    raise NothingToProfileError(
        f"Process {pids} holds no engine that flowprof knows. Looked for ggml (llama.cpp, whisper.cpp), "
        f"PyTorch, CUDA and NCCL in: {looked or 'nothing'}.",
        "Is it the right pid? The library may not be loaded yet: flowprof run -- CMD waits for it.",
    )


def require_room(plan: Plan) -> None:
    """Raise UsageError where there are more sites, or events of manifests, than can be recorded at once."""
    if why := no_room(plan.sites):
        raise UsageError(
            f"these would be {why}", "record fewer processes at once, with fewer --torch-ops or --resources"
        )


def no_room(sites: Sequence[PlannedSite]) -> str:
    """Why so many sites cannot be recorded at once; "": they can."""
    for count, most, what in (
        (len(sites), MAX_SITES - KERNEL_SITES, "probe sites"),
        (sum(len(site.taps) for site in sites if not site.refused), MAX_TAPS, "events of resources"),
    ):
        if count >= most:
            return f"{count:,} {what}; {most - 1:,} can be recorded at once"
    return ""


def require_watched(plan: Plan) -> None:
    """Raise NotFoundError where a variable of --watch is in none of the targets."""
    for name, reason in unwatched(plan).items():
        pids = ",".join(str(target.pid) for target in plan.targets)
        raise NotFoundError(f"--watch {name}: {reason}", f"flowprof list-probes {pids} --watch NAME")


def unseen(plan: Plan) -> list[str]:
    """What manifests name and no target has, in words: without it a resource is judged by what is left of it."""
    of_manifests = [site for site in plan.sites if site.level == RESOURCE_LEVEL]
    seen = {(tap.manifest, tap.id) for site in of_manifests if not site.refused for tap in site.taps}
    missing = {
        (site.engine, what): site.reason
        for site in of_manifests
        if site.refused
        for what in [tap.id for tap in site.taps] or [site.probe.id]
        if (site.engine, what) not in seen
    }
    return [f"{manifest}: {what} cannot be seen: {why}" for (manifest, what), why in missing.items()]


def unwatched(plan: Plan) -> dict[str, str]:
    """Variables of --watch that cannot be read in any of the targets, and why."""
    sites = [site for site in plan.sites if site.engine == watch.NAME]
    found = {one.variable.name for one in plan.variables}
    found |= {name for site in sites if not site.refused for name in site.variables}
    return {name: site.reason for site in sites if site.refused for name in site.variables if name not in found}


def _binaries(target: Target, engine: Engine, debug_dirs: tuple[str, ...]) -> list[tuple[Module, ElfFile]]:
    found = []
    for module in target.with_marker(engine.marker, engine.files):
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
        elif probe.kind == "exit":
            sites = choose_exit_sites(elf, symbol.address, kernel)
        elif probe.kind == "call":
            sites = _calls(elf, symbol.address, probe.callee, kernel)
            if not sites:
                return [planned(None, f"{symbol.name} holds no direct call to {probe.callee}")]
        else:
            by_frame = engine.name in CALL_ENGINES  # a call is known by its stack pointer, and arguments lie behind it
            sites = [choose_entry_site(elf, symbol.address, probe.args, kernel, by_frame)]
    except (NoSite, ElfError) as error:
        return [planned(None, error.message)]
    return [planned(site, site.reason) for site in sites]


def _calls(elf: ElfFile, function: int, callee: str, kernel: Kernel) -> list[Site]:
    """The calls that end a node; those inside an operator that the compiler inlined are left out where they show."""
    sites = [s for s in call_sites(elf, function, callee, kernel) if s.cost_class == CostClass.EMULATED]
    barriers = callgraph.node_barriers(elf, function)
    wanted = {*barriers.node, *barriers.last}
    return [site for site in sites if site.address in wanted] or sites
