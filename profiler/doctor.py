"""Can flowprof record here? Every condition is one check with a verdict, what was found and what to do about it.

Nothing is printed and nothing is raised: a check that cannot run says so itself. `host()` looks at the machine,
`doctor_target.checks()` at one process. Only FAIL keeps flowprof from recording; WARN costs something; SKIP was not
looked at.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.kernel_side import hitcost, tracepoints
from flowprof.profiler.kernel_side.attach import Attachment, AttachPoint, attach
from flowprof.profiler.kernel_side.bpf import Module, Program
from flowprof.profiler.kernel_side.bpf_compiler import import_bcc
from flowprof.profiler.kernel_side.ring import Rings
from flowprof.profiler.machine import ceilings_file, kernel, rights

RING_SHIFT = 12
TRIAL_EVENTS = 23


class Verdict(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `flowprof doctor`."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def host() -> Iterator[Check]:
    """Whether this machine and this user can record."""
    yield _kernel()
    yield _bpf_call()
    yield _capabilities()
    yield _lockdown()
    yield _tracefs()
    module, compiled = _compile()
    yield compiled
    yield from _try_out(module)
    yield _pmu()
    yield _ceilings()


def failures(checks: Iterable[Check]) -> list[Check]:
    """What keeps flowprof from recording."""
    return [check for check in checks if check.verdict is Verdict.FAIL]


def _kernel() -> Check:
    release, machine = platform.release(), platform.machine()
    found = f"Linux {release}, {machine}"
    if machine not in ("x86_64", "aarch64"):
        return Check("kernel", Verdict.FAIL, found, "flowprof knows x86-64 and AArch64")
    version = kernel.version()
    if version < (5, 15):
        return Check("kernel", Verdict.FAIL, found, "a kernel of 5.15 or newer is needed (BPF cookies for uprobes)")
    if version < (6, 1):
        word = "a kernel of 6.1 or newer for llama.cpp: the verifier of 5.15 refuses what reads its batches"
        return Check("kernel", Verdict.WARN, found, word)
    return Check("kernel", Verdict.OK, found)


def _bpf_call() -> Check:
    error = kernel.try_bpf()
    if error is None:
        return Check("bpf", Verdict.OK, "the bpf system call makes a map")
    if error == "ENOSYS":
        return Check("bpf", Verdict.FAIL, "the kernel has no bpf system call", "a kernel with CONFIG_BPF_SYSCALL")
    disabled = kernel.setting("kernel/unprivileged_bpf_disabled")
    found = f"bpf(2) says {error} (kernel.unprivileged_bpf_disabled = {disabled or 'unknown'})"
    return Check("bpf", Verdict.FAIL, found, rights.remedy(rights.read()))


def _capabilities() -> Check:
    mine = rights.read()
    where = f" in a container ({mine.container})" if mine.container else ""
    where += " in a user namespace" if mine.user_namespace else ""
    where += " in a PID namespace of its own" if mine.pid_namespace else ""
    found = f"uid {mine.uid}{where}, effective {mine.effective:#x}"
    if not mine.missing and mine.pid_namespace:
        return Check("capabilities", Verdict.WARN, found, f"neither waits nor system calls: {rights.OTHER_NUMBERS}")
    if not mine.missing:
        return Check("capabilities", Verdict.OK, found)
    lacking = ", ".join(f"{name} (to {rights.NEEDED[name]})" for name in mine.missing)
    only_ptrace = mine.missing == ("CAP_SYS_PTRACE",)
    verdict = Verdict.WARN if only_ptrace else Verdict.FAIL  # one's own processes can be read without it
    return Check("capabilities", verdict, f"missing {lacking}; {found}", rights.remedy(mine))


def _lockdown() -> Check:
    text = kernel.text("/sys/kernel/security/lockdown")
    mode = re.search(r"\[(\w+)\]", text)
    if mode is None:
        return Check("lockdown", Verdict.SKIP, "this kernel does not say (no /sys/kernel/security/lockdown)")
    if mode[1] == "confidentiality":
        found = "confidentiality: BPF may not read memory"
        return Check("lockdown", Verdict.FAIL, found, "boot with lockdown=integrity or none")
    return Check("lockdown", Verdict.OK, mode[1])


def _tracefs() -> Check:
    try:
        with tracepoints.tracefs() as root:
            mounted = str(root) in tracepoints.MOUNTED
            there = (root / "events" / "sched").is_dir()
    except FlowprofError as error:
        return Check("tracefs", Verdict.WARN, f"{error.message}; only scheduler probes need it", error.hint)
    if not there:
        found = "not readable; only scheduler probes need it"
        return Check("tracefs", Verdict.WARN, found, "run as root: sudo flowprof doctor")
    return Check("tracefs", Verdict.OK, str(root) if mounted else "not mounted; flowprof makes one for itself")


def _compile() -> tuple[Module | None, Check]:
    try:
        version = str(getattr(import_bcc(), "__version__", "of unknown version"))
    except FlowprofError as error:
        return None, Check("bcc", Verdict.FAIL, error.message, error.hint)
    found = f"bcc {version}, without kernel headers"
    if os.geteuid() != 0 and rights.read().missing:
        return None, Check("bcc", Verdict.SKIP, f"bcc {version} is there; compiling needs the capabilities above")
    try:
        multi = kernel.version() >= kernel.UPROBE_MULTI
        module = Module("doctor.bpf.c", ring_shift=RING_SHIFT, multi=multi, anew=True)
        module.program("nothing")
    except FlowprofError as error:
        return None, Check("bcc", Verdict.FAIL, f"bcc {version}: {error.message}", _not_doctor(error.hint))
    return module, Check("bcc", Verdict.OK, f"{found}: a program compiles and loads")


def _try_out(module: Module | None) -> Iterator[Check]:
    """Attach to this process itself: the ring, both ways of attaching, and what a hit costs."""
    if module is None:
        for name in ("event ring", "uprobe_multi", "hit cost"):
            yield Check(name, Verdict.SKIP, "no BPF program could be loaded")
        return
    multi = kernel.version() >= kernel.UPROBE_MULTI
    yield _ring(module, multi)
    if multi:
        yield Check("uprobe_multi", Verdict.OK, "one link attaches any number of probes")
    else:
        found = "this kernel attaches probes one by one (uprobe_multi came with 6.6)"
        yield Check("uprobe_multi", Verdict.WARN, found, "nothing to do: only attaching and detaching take longer")
    yield _hit_cost(module, multi)


def _ring(module: Module, multi: bool) -> Check:
    try:
        with hitcost.probed_function(_attach_to_self(module.program("ring_event"), multi)) as call:
            call(TRIAL_EVENTS)
        rings = Rings(module.map_fd("ring_heads"), module.map_fd("ring_events"), module.cpus, module.ring_shift)
        seen = len(rings.read())
    except (FlowprofError, OSError) as error:
        return Check("event ring", Verdict.FAIL, f"a probe on flowprof itself failed: {error}", _hint(error))
    if seen != TRIAL_EVENTS:
        found = f"{seen} of {TRIAL_EVENTS} events arrived"
        return Check("event ring", Verdict.FAIL, found, "please report this with the output of flowprof doctor --json")
    return Check("event ring", Verdict.OK, f"{seen} of {TRIAL_EVENTS} events of a probe on flowprof itself arrived")


def _hit_cost(module: Module, multi: bool) -> Check:
    try:
        cost = hitcost.measure(_attach_to_self(module.program("nothing"), multi))
    except (FlowprofError, OSError) as error:
        return Check("hit cost", Verdict.FAIL, str(error), _hint(error))
    found = f"{cost.cheap_ns:.0f} ns on an emulated instruction, {cost.stepped_ns:.0f} ns on a single-stepped one"
    return Check("hit cost", Verdict.OK, found)


def _attach_to_self(program: Program, multi: bool) -> hitcost.Attach:
    def put(path: str, offsets: Sequence[int]) -> Attachment:
        return attach(program, [AttachPoint(path, offset, 0) for offset in offsets], os.getpid(), multi)

    return put


def _pmu() -> Check:
    error = kernel.try_cycles_counter()
    if error is None:
        return Check("pmu", Verdict.OK, "hardware counters count (cycles)")
    if error in ("EPERM", "EACCES"):
        paranoid = kernel.setting("kernel/perf_event_paranoid") or "unknown"
        found = f"hardware counters are forbidden (kernel.perf_event_paranoid = {paranoid})"
        return Check("pmu", Verdict.WARN, found, rights.remedy(rights.read()))
    found = f"no hardware counters ({error}): usual in a virtual machine; reports will call them absent"
    return Check("pmu", Verdict.WARN, found, "nothing to do, unless the hypervisor can pass its PMU through")


def _ceilings() -> Check:
    """Recording works without, but then nothing says what bounds an operator."""
    remedy = "flowprof calibrate, on an idle machine"
    known = ceilings_file.cached()
    if known is None:
        return Check("ceilings", Verdict.WARN, "not measured here: no verdict says what bounds an operator", remedy)
    found = f"{len(known.items)} figures"
    if day := dict(known.conditions).get("day"):
        found += f", measured {day}"
    if changed := ceilings_file.doubts(known):
        return Check("ceilings", Verdict.WARN, f"{found}; {changed}", remedy)
    if any(item.disturbed for item in known.items):
        return Check("ceilings", Verdict.WARN, f"{found}, while others used the processors", remedy)
    return Check("ceilings", Verdict.OK, found)


def _hint(error: Exception) -> str:
    return _not_doctor(error.hint) if isinstance(error, FlowprofError) else ""


def _not_doctor(hint: str) -> str:
    """Errors elsewhere point to this very command."""
    return "" if hint == "flowprof doctor" else hint
